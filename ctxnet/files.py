"""Atomic writing: a reader sees the old file or the new one, never half of either.

Everything in the project that writes a result goes through :func:`atomic_path` or one of its short forms.
"""

import copy
import csv
import functools
import hashlib
import io
import json
import os
import shlex
import tempfile
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
        return copy.deepcopy(_unsealed(path.read_bytes().decode()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError(f"{path}: damaged record (digest differs); {renew(path)}") from None


@functools.lru_cache(maxsize=1024)
def _unsealed(text):
    """Of the text and not of the file: a chapter reads the same records many times, and a changed bit is seen at once."""
    value = json.loads(text)
    # Some flips change the text but not its meaning (1e-05, 1E-05); nothing but the written text passes.
    if text != _json_text(value) or value.pop("sha256") != stable_hash(value):
        raise ValueError("digest differs")
    return value


def one_line(error):
    """An error as one line for the command line. An OSError without a path says what it can: some libraries drop theirs."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError) and error.errno and error.filename is None and "/" not in text:
        places = sorted({os.getcwd(), tempfile.gettempdir()})
        return f"{text}: in a file that was not named, under {' or '.join(places)}"
    return text


def renew(path):
    """What a message advises about a damaged file. Never to delete it: it may be a committed result."""
    return f"bring it back with `git checkout -- {shlex.quote(str(path))}`, or move it away and run the same command again"


@contextmanager
def built_folder(folder, mark):
    """Yield an empty folder beside ``folder``; on success it takes the place of ``folder`` as a whole.

    The file ``mark`` in it lists all its files and is written last. Only a folder with such a mark is replaced, and of
    it only those files go which its mark lists: what somebody else has put there is a reason to refuse.

    Args:
        folder: may be missing, empty, or made by this function with the same ``mark``.
        mark: name of the sealed list, such as ``site.json``.

    Raises:
        ValueError: ``folder`` holds something else; before any work, and again before the swap.
        OSError: with errno and path; the earlier folder stays.
    """
    folder = Path(folder)
    partial, old = (folder.with_name(f".{folder.name}{suffix}") for suffix in (_PARTIAL, ".old"))
    if old.exists() and not folder.exists():  # killed between the two renames
        os.replace(old, folder)
    for path in (folder, partial, old):
        _require_marked(path, mark)
    _remove_marked(partial, mark)
    try:
        partial.mkdir(parents=True)
        write_sealed(partial / mark, {"files": None})  # a folder in the making: all in it is ours
        yield partial
        write_sealed(partial / mark, {"files": sorted(_listing(partial) - {mark})})
        _require_marked(folder, mark)
        _remove_marked(old, mark)
        if folder.exists():
            os.replace(folder, old)
        try:
            os.replace(partial, folder)
        except BaseException:
            if old.exists():
                os.replace(old, folder)
            raise
        _remove_marked(old, mark)
        _flush_folder(folder.parent)
    finally:
        _remove_marked(partial, mark)


def _listing(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_symlink() or not p.is_dir()}


def _marked(folder, mark):
    """The files that the mark of a folder lists; None without a mark."""
    if not (folder / mark).is_file():
        return None
    files, found = read_sealed(folder / mark)["files"], _listing(folder)
    if files is None:
        return found if folder.name.endswith(_PARTIAL) else None
    return {*files, mark} & found


def _require_marked(folder, mark):
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise ValueError(f"{folder}: is no folder; name an empty or new one")
    held = _listing(folder) if folder.exists() else set()
    try:
        foreign = sorted(held - (_marked(folder, mark) or set())) if held else []
    except (ValueError, KeyError, TypeError):
        foreign = [mark]
    if foreign:
        raise ValueError(f"{folder}: holds {foreign[0]!r}, which was not made here; name an empty or new folder")


def _remove_marked(folder, mark):
    """Delete what the mark lists, then what is empty."""
    if not folder.exists():
        return
    for name in sorted(_marked(folder, mark) or (), key=lambda name: name == mark):  # the mark last
        (folder / name).unlink(missing_ok=True)
    for path in sorted((p for p in folder.rglob("*") if p.is_dir()), reverse=True):
        with suppress(OSError):
            path.rmdir()
    with suppress(OSError):
        folder.rmdir()


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
