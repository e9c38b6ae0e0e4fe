"""The only code that reads or writes results: one record format, one codec for maps, one key."""

from .key import changes, close
from .maps import decode_profile, encode_profile, load_profile, read_profile, save_profile
from .store import (
    DamagedRecord,
    encode_csv,
    encode_predictions,
    protocol_folder,
    read_context,
    read_history,
    read_predictions,
    read_provenance,
    read_record,
    records_of,
    reusable,
    run_folder,
    set_aside,
    wiring_folder,
    write_images,
    write_record,
)
from .table import append_row, read_table, tidy_table

__all__ = [
    "DamagedRecord", "append_row", "changes", "close", "decode_profile", "encode_csv", "encode_predictions",
    "encode_profile", "load_profile", "protocol_folder", "read_context", "read_history", "read_predictions", "read_profile",
    "read_provenance", "read_record", "read_table", "records_of", "reusable", "run_folder", "save_profile",
    "set_aside", "tidy_table", "wiring_folder", "write_images", "write_record",
]  # fmt: skip
