"""An atlas of context: most of the architectures that the thesis and its background name, measured on one footing.

The networks are at full size and initialisation; what is measured is in :func:`measure`, the convention of every number
in its docstring. ``python -m ctxnet atlas`` measures the table, or any network that you name.
"""

from ..extras import require

require("train", user=__name__)

from ..measure.summary import erf_share
from .measures import measure, multiply_adds
from .names import find_row
from .records import measure_rows, read_record, read_records, write_tables
from .rows import FAMILIES, ROWS

__all__ = [
    "FAMILIES", "ROWS", "erf_share", "find_row", "measure", "measure_rows", "multiply_adds", "read_record", "read_records",
    "write_tables",
]  # fmt: skip
