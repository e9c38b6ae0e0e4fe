"""Atomic writing: a reader sees the old file or the new one, never half of either.

Everything in the project that writes a result goes through :func:`atomic_path` or one of its short forms.
"""

import csv
import hashlib
import io
import json
import os
from contextlib import contextmanager, suppress
from pathlib import Path

_PARTIAL = ".partial"


@contextmanager
def atomic_path(path):
    """Yield a temporary path beside ``path``; on success flush it to disk and rename it over ``path``.

    On any error, Ctrl-C included, the temporary file is removed and ``path`` stays as it was. A process that
    is killed leaves a ``*.partial`` file behind, which the next write of the same path replaces and
    :func:`remove_partials` clears away.

    Raises:
        OSError: with errno and path, when the folder is read-only or the disk is full.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}{_PARTIAL}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        with open(partial, "rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(partial, path)
        _flush_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        # A write() that fails knows its errno but no name.
        if isinstance(error, OSError) and error.errno and error.filename in (None, str(partial)):
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from None
        raise


def _flush_folder(folder):
    """Make a rename in ``folder`` outlive a power cut, where the system can."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_partials(folder):
    """Clear away what killed writers left in ``folder``. Only for one who holds the right to write there."""
    for path in Path(folder).glob(f".*{_PARTIAL}"):
        path.unlink(missing_ok=True)


def write_bytes(path, data):
    with atomic_path(path) as partial:
        partial.write_bytes(data)


def write_text(path, text):
    write_bytes(path, text.encode("utf-8"))


def write_json(path, value):
    """Write ``value`` as JSON with sorted keys and a final newline, so that equal values give equal bytes."""
    write_text(path, _json_text(value))


def _json_text(value):
    return json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"


def write_sealed(path, value):
    """Write the dict ``value`` as JSON together with a digest of itself; :func:`read_sealed` is the inverse."""
    write_json(path, value | {"sha256": stable_hash(value)})


def read_sealed(path):
    """Read what :func:`write_sealed` wrote.

    Raises:
        ValueError: in one line with the path, if a single bit of the file differs from what was written.
    """
    path = Path(path)
    try:
        text = path.read_bytes().decode()
        value = json.loads(text)
        # Some flips change the text but not its meaning (1e-05, 1E-05); nothing but the written text passes.
        intact = text == _json_text(value) and value.pop("sha256") == stable_hash(value)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        intact = False
    if not intact:
        raise ValueError(f"{path}: damaged record (digest differs); delete it and run the same command again")
    return value


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
