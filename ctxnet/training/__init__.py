"""Training under a protocol: typed settings, schedule, checkpoints, records."""

from ..extras import require

require("train", user=__name__)

from ..records import read_record
from .campaign import campaign, plan
from .context import calibrate, measure_variant
from .devices import run_on_devices
from .lattice import measure_lattice
from .progress import status
from .protocol import Measure, Protocol, load_measure, load_params, load_protocol, rows_of, seeds_of
from .run import RunResult, run
from .simulation import simulate
from .surface import measure_surface
from .wiring import measure_wiring

__all__ = [
    "Measure", "Protocol", "RunResult", "calibrate", "campaign", "load_measure", "load_params", "load_protocol",
    "measure_lattice", "measure_surface", "measure_variant", "measure_wiring", "plan", "read_record", "rows_of", "run",
    "run_on_devices", "seeds_of", "simulate", "status",
]  # fmt: skip
