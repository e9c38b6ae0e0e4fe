"""Training under a protocol: typed settings, schedule, checkpoints, records."""

from .campaign import campaign, plan
from .context import calibrate, measure_variant
from .protocol import Measure, Protocol, load_measure, load_params, load_protocol, seeds_of
from .run import RunResult, read_record, run

__all__ = ["Measure", "Protocol", "RunResult", "calibrate", "campaign", "load_measure", "load_params", "load_protocol",
           "measure_variant", "plan", "read_record", "run", "seeds_of"]
