"""Atomic writing: a reader sees the old file or the new one, never half of either.

Everything in the project that writes a result goes through :func:`atomic_path` or one of its short forms.
"""

import csv
import hashlib
import io
import json
import os
from contextlib import contextmanager
from pathlib import Path

_PARTIAL = ".partial"


@contextmanager
def atomic_path(path):
    """Yield a temporary path beside ``path``; on success flush it to disk and rename it over ``path``.

    On any error, Ctrl-C included, the temporary file is removed and ``path`` stays as it was. A process that
    is killed leaves a ``*.partial`` file behind, which the next write of the same path replaces.

    Raises:
        OSError: with errno and path, when the folder is read-only or the disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}{_PARTIAL}")
    try:
        yield partial
        with open(partial, "rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_bytes(path, data):
    with atomic_path(path) as partial:
        partial.write_bytes(data)


def write_text(path, text):
    write_bytes(path, text.encode("utf-8"))


def write_json(path, value):
    """Write ``value`` as JSON with sorted keys and a final newline, so that equal values give equal bytes."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def write_csv(path, header, rows):
    """Write rows (sequences) under ``header`` with Unix line ends; floats are written with ``repr``."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, buffer.getvalue())


def sha256(path):
    """Hex SHA-256 of a file, read in blocks."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def stable_hash(value):
    """Hex SHA-256 of a JSON-able value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
