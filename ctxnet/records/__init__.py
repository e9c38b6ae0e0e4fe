"""The only code that reads or writes results: one record format, one codec for maps, one key."""

from .counts import class_iou, encode_counts, frame_counts, read_counts, scores, write_frames
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
    "DamagedRecord", "append_row", "changes", "class_iou", "close", "decode_profile", "encode_counts", "encode_csv",
    "encode_predictions", "encode_profile", "frame_counts", "load_profile", "protocol_folder", "read_context", "read_counts",
    "read_history", "read_predictions", "read_profile", "read_provenance", "read_record", "read_table", "records_of",
    "reusable", "run_folder", "save_profile", "scores", "set_aside", "tidy_table", "wiring_folder", "write_frames",
    "write_images", "write_record",
]  # fmt: skip
