"""A table of many small records in one file: a line each, sealed by itself, appended as they are made.

A thousand folders with two files each would be a burden for git and for whoever reads them all; one file with a line per
record is neither. A line is JSON with its keys in order and ends with a digest of the rest of it. A writer that is killed
leaves at most a last line without its end, which counts for nothing and gives way to the next one.
"""

import json
import os
from pathlib import Path

from ..files import stable_hash, write_text
from .shapes import misshapen
from .store import DamagedRecord

SEAL = 16  # hex digits: enough against accidents, and a line stays short


def append_row(path, row):
    """Append one record, flushed to the disk; only for the one process that writes this table.

    Args:
        path: of the table; made where it is not there.
        row: JSON-able dict with a ``name``. A later row of the same name takes the place of an earlier one.

    Raises:
        ValueError: for a row that :func:`read_table` would refuse.
    """
    if reason := _wrong(row):
        raise ValueError(f"{path}: a row that cannot be right ({reason})")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as handle:
        whole = _whole(path)
        if handle.tell() > whole:
            handle.truncate(whole)
        handle.write(_line(row).encode())
        handle.flush()
        os.fsync(handle.fileno())


def read_table(path):
    """All records of a table, {name: row} in the order of their lines; {} where there is no table.

    Raises:
        DamagedRecord: in one line with path and line, for a line that is not as it was written.
    """
    path, found = Path(path), {}
    if not path.exists():
        return found
    lines = path.read_bytes()[: _whole(path)].split(b"\n")[:-1]
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line.decode())
            intact = line.decode() + "\n" == _line({key: value for key, value in row.items() if key != "seal"})
            reason = _wrong(row) if intact else "digest differs"
        except (ValueError, AttributeError, RecursionError):
            reason = "digest differs"
        if reason:
            raise DamagedRecord(f"{path}, line {number}", path, reason)
        found.pop(row["name"], None)
        found[row["name"]] = {key: value for key, value in row.items() if key != "seal"}
    return found


def tidy_table(path, order):
    """Write a table anew, one line per name, so that equal records give equal bytes.

    Args:
        order: a function of a row, the key to sort by.
    """
    write_text(path, "".join(map(_line, sorted(read_table(path).values(), key=order))))


def _whole(path):
    """Bytes of a table up to the end of its last whole line."""
    return path.read_bytes().rfind(b"\n") + 1


def _line(row):
    text = json.dumps(row, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return f'{text[:-1]},"seal":"{stable_hash(row)[:SEAL]}"}}\n'


def _wrong(row):
    if not isinstance(row, dict) or not isinstance(row.get("name"), str):
        return "no name"
    return misshapen(row)
