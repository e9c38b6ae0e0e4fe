"""Training under a protocol: typed settings, schedule, checkpoints, records."""

from .context import calibrate, measure_variant
from .protocol import Measure, Protocol, load_measure, load_params, load_protocol
from .run import RunResult, read_record, run

__all__ = ["Measure", "Protocol", "RunResult", "calibrate", "load_measure", "load_params", "load_protocol",
           "measure_variant", "read_record", "run"]
