"""Records on disk: a folder holds ``record.json``, which vouches by SHA-256 for every other file in it that is read.

A record is written last and read first. ``results/<protocol>/runs/<variant>/seed<k>/`` holds one run: ``record.json``,
``provenance.json``, ``history.csv``, ``predictions.bin`` (a class per image, one byte each) and ``context.npz`` (a
profile, see :mod:`ctxnet.records.maps`). The images' names and labels are the same for every run on a data set and lie
once in ``results/<protocol>/images/``, or in ``results/images/`` for several protocols. Records of the measured networks
have no predictions and no history.
"""

import csv
import functools
import hashlib
import io
import zlib
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..files import read_sealed, renew, sha256, stable_hash, write_bytes, write_sealed
from .key import changes
from .maps import read_profile
from .shapes import misshapen

PREDICTIONS, HISTORY, CONTEXT = "predictions.bin", "history.csv", "context.npz"


class DamagedRecord(ValueError):
    """A record, or a file that it vouches for, is not as it was written, or says what cannot be."""

    def __init__(self, path, folder, reason="digest differs"):
        super().__init__(f"{path}: damaged or missing ({reason}); {renew(folder)}")


def protocol_folder(protocol, root="."):
    """Where all results of one protocol lie."""
    return Path(root) / "results" / protocol


def run_folder(protocol, variant, seed=0, root="."):
    """Where the record of one run lies, with the files it vouches for."""
    return protocol_folder(protocol, root) / "runs" / variant / f"seed{seed}"


def wiring_folder(protocol, root="."):
    """Where the record of what a protocol's networks are before training lies."""
    return protocol_folder(protocol, root) / "wiring"


def write_record(folder, record, files, provenance):
    """Write a record and its files, the record last; equal arguments give equal bytes.

    Args:
        folder: of the record.
        record: JSON-able dict; ``files`` is added to it, name → SHA-256 of each of ``files``.
        files: dict of file name → bytes.
        provenance: JSON-able dict: where, when and with what it was made. It is sealed by itself and names the record
            that it belongs to, so that a record made again has the bytes it had.

    Returns:
        The record as :func:`read_record` gives it.
    """
    folder = Path(folder)
    record = record | {"files": {name: hashlib.sha256(files[name]).hexdigest() for name in sorted(files)}}
    (folder / "record.json").unlink(missing_ok=True)  # it would not vouch for what comes now
    for name, data in files.items():
        write_bytes(folder / name, data)
    write_sealed(folder / "provenance.json", provenance | {"record": stable_hash(record)})
    write_sealed(folder / "record.json", record)
    return record


def read_record(folder):
    """The record in ``folder`` as a dict, or None if there is none.

    Raises:
        DamagedRecord: in one line with the path, if it or a file it vouches for is not as it was written.
    """
    path = Path(folder) / "record.json"
    if not path.exists():
        return None
    try:
        record = read_sealed(path)
        files = dict(record["files"])
    except (ValueError, KeyError, TypeError):
        raise DamagedRecord(path, folder) from None
    for name, expected in files.items():
        beside = path.parent / name
        if Path(name).name != name or not beside.is_file() or sha256(beside) != expected:
            raise DamagedRecord(beside, folder)
    if reason := misshapen(record):
        raise DamagedRecord(path, folder, reason)
    _provenance(folder, record)
    return record


def _provenance(folder, record):
    path = Path(folder) / "provenance.json"
    try:
        provenance = read_sealed(path)
        whole = provenance["record"] == stable_hash(record)
    except (ValueError, KeyError, TypeError, FileNotFoundError):
        whole = False
    if not whole:
        raise DamagedRecord(path, folder)
    if reason := misshapen(provenance):
        raise DamagedRecord(path, folder, reason)
    return provenance


def records_of(protocol, root="."):
    """All finished runs of a protocol as (folder, record), by variant and then by number of the seed.

    Raises:
        DamagedRecord: for the first that is.
    """
    paths = (protocol_folder(protocol, root) / "runs").glob("*/seed*/record.json")
    folders = sorted((path.parent for path in paths), key=_place)
    return [(folder, read_record(folder)) for folder in folders]


def _place(folder):
    number = folder.name.removeprefix("seed")
    first = number.split("-")[0]
    return folder.parent.name, int(first) if first.isdigit() else -1, number


def set_aside(folder, label, reason):
    """Move all that lies in a record's folder to ``results/<protocol>/superseded/``, saying why; returns where to.

    Args:
        folder: of a run, or of a network that was measured.
        label: JSON-able; a hash of it tells runs apart that were set aside from the same folder.
        reason: one line.
    """
    folder = Path(folder)
    is_run = folder.parent.parent.name == "runs"
    home, name = (folder.parents[2], f"{folder.parent.name}-{folder.name}") if is_run else (folder.parent, folder.name)
    aside = home / "superseded" / f"{name}-{stable_hash(label)[:8]}"
    aside.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.name != ".lock":
            path.replace(aside / path.name)
    print(f"{folder}: {reason}; the earlier record is kept in {aside}")
    return aside


def reusable(folder, key):
    """The record in the folder of a measured network if it belongs to ``key``; otherwise what lies there is set aside.

    Such a record is made again in a minute, so that one that is damaged is set aside as well.

    Args:
        key: dict with ``settings`` and ``trace`` (:func:`ctxnet.records.changes`), under which names a record holds them.

    Returns:
        The record, or None: there is none for this key.
    """
    try:
        record = read_record(folder)
        reason = None if record is None else changes(record, key)
    except (DamagedRecord, KeyError, TypeError) as error:
        record, reason = None, str(error)
    if reason:
        set_aside(folder, [key, reason], reason)
    return None if reason else record


# ---- files of a record ------------------------------------------------------------------------------------------------


def encode_csv(header, rows):
    """Rows (sequences) under ``header`` as the bytes of a CSV file with Unix line ends; floats with ``repr``."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return buffer.getvalue().encode()


def encode_predictions(predicted):
    """Predicted classes (whole numbers below 65,536) as the bytes of ``predictions.bin``: zlib of one or two bytes each."""
    predicted = np.asarray(predicted)
    kind = "u1" if predicted.max(initial=0) < 256 else "<u2"
    return zlib.compress(predicted.astype(kind).tobytes(), 9)


def write_images(protocol, ids, labels, root="."):
    """Keep names and labels of a validation set once for all runs of a protocol.

    Returns:
        Hex SHA-256 of the file, to be put into records as ``images``; its first 12 digits are the file's name.
    """
    return write_list(protocol, ("image", "label"), zip(ids, labels, strict=True), root)


def write_list(protocol, header, rows, root="."):
    """Keep a table of the images that runs of a protocol are judged by, once for all of them; see :func:`write_images`.

    One that several protocols share is kept for all of them once it has been moved to ``results/images/``.
    """
    data = encode_csv(header, rows)
    digest = hashlib.sha256(data).hexdigest()
    own = protocol_folder(protocol, root) / "images" / f"{digest[:12]}.csv"
    shared = Path(root) / "results" / "images" / own.name
    path = shared if shared.exists() else own
    if not path.exists() or path.read_bytes() != data:
        write_bytes(path, data)
    return digest


def read_predictions(folder):
    """The answers of one run.

    Returns:
        (ids, labels, predicted): list of image names, int64 (n,) and int64 (n,) class indices.

    Raises:
        DamagedRecord: if anything in the folder or the list of images is.
        FileNotFoundError: no record.
    """
    record, folder = _present(folder), Path(folder)
    ids, labels = _images(folder, str(record.get("images")))
    with _named(folder / PREDICTIONS, folder):
        data = zlib.decompressobj().decompress((folder / PREDICTIONS).read_bytes(), 2 * len(ids) + 1)
    kind = {len(ids): "u1", 2 * len(ids): "<u2"}.get(len(data))
    if kind is None:
        raise DamagedRecord(folder / PREDICTIONS, folder)
    return ids, labels, np.frombuffer(data, kind).astype(np.int64)


def _present(folder):
    record = read_record(folder)
    if record is None:
        raise FileNotFoundError(f"{Path(folder).as_posix()}: no record here")
    return record


def _images(folder, digest):
    def parse(rows):
        return [row[0] for row in rows], np.array([int(row[1]) for row in rows], dtype=np.int64)

    return read_list(folder, digest, parse)


def read_list(folder, digest, parse):
    """``parse(rows)`` of what :func:`write_list` kept, each row a tuple of texts.

    It lies in the protocol's folder, which is above the run's also when that was set aside, or in the one above.
    """
    paths = [parent / "images" / f"{digest[:12]}.csv" for parent in folder.parents[:4]]
    path = next((path for path in paths if path.is_file()), paths[:3][-1])
    data = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(data).hexdigest() != digest:
        raise DamagedRecord(path, path)
    with _named(path, path):
        return parse(_rows(data))


@functools.lru_cache(maxsize=8)
def _rows(data):
    """Of the bytes: all runs of a protocol share one list."""
    _, *rows = csv.reader(io.StringIO(data.decode()))
    return tuple(map(tuple, rows))


@contextmanager
def _named(path, folder):
    """What a file with the right digest cannot be read as: somebody wrote it so."""
    try:
        yield
    except (ValueError, IndexError, OverflowError, csv.Error, zlib.error) as error:
        raise DamagedRecord(path, folder, " ".join(str(error).split())) from None


def read_history(folder):
    """One run's epochs: dict of column → list of floats, NaN where a cell is empty; errors as :func:`read_predictions`."""
    _present(folder)
    path = Path(folder) / HISTORY
    with _named(path, folder), open(path, newline="", encoding="utf-8") as handle:
        header, *rows = csv.reader(handle)
        return {name: [float(row[i] or "nan") for row in rows] for i, name in enumerate(header)}


def read_context(folder):
    """(profile, numbers) of the network that a record is of (:func:`ctxnet.records.read_profile`); errors as above."""
    _present(folder)
    return read_profile(Path(folder) / CONTEXT)


def read_provenance(folder):
    """Where, when and with what a record was made, as a dict; errors as above."""
    return _provenance(folder, _present(folder))
