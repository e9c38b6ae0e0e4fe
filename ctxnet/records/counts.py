"""Answers for every pixel, as a record keeps them: counts by frame and class, from which every score follows.

IoU of a class c is the pixels that are c and called c, over those that are or are called c. Both are sums over frames, so
that scores of any choice of frames (a block of time, a resampling) follow from counts of each.
"""

import zlib
from pathlib import Path

import numpy as np

from .store import DamagedRecord, read_list, read_record, write_list

COUNTS = "counts.bin"
PARTS = ("right", "called", "are")  # pixels of class c that are called c; all that are called c; all that are c


def frame_counts(predicted, labels, classes):
    """Counts of each frame: int64 (3, n, classes), in the order of :data:`PARTS`.

    Args:
        predicted, labels: whole numbers (n, H, W); pixels whose label is no class are left out altogether.
    """
    found = np.zeros((len(PARTS), len(labels), classes), dtype=np.int64)
    for frame, (called, are) in enumerate(zip(predicted, labels, strict=True)):
        judged = are < classes
        called, are = called[judged], are[judged]
        for part, values in enumerate((are[called == are], called, are)):
            found[part, frame] = np.bincount(values, minlength=classes)
    return found


def class_iou(counts):
    """IoU of each class over all frames: float64 (…, classes) of counts (3, …, n, classes); NaN for one that is nowhere."""
    right, called, are = (part.sum(-2) for part in counts)
    with np.errstate(invalid="ignore"):
        return right / (called + are - right)


def scores(counts):
    """``mean_iou`` (over the classes that occur), ``iou`` (of each, None if it is nowhere) and ``pixel_accuracy``, 0…1."""
    iou = class_iou(counts)
    return {
        "mean_iou": float(np.nanmean(iou)) if not np.isnan(iou).all() else 0.0,
        "iou": [None if np.isnan(value) else float(value) for value in iou],
        "pixel_accuracy": float(counts[0].sum() / max(counts[2].sum(), 1)),
    }


def encode_counts(counts):
    """Counts as the bytes of ``counts.bin``: number of frames, then the first two parts as 32-bit numbers, their bytes
    sorted by weight; zlib. The third part is the same for all runs (:func:`write_frames`)."""
    numbers = np.ascontiguousarray(counts[:2], dtype="<u4").reshape(-1, 1).view("u1")
    return zlib.compress(np.array([counts.shape[1]], "<u4").tobytes() + numbers.T.tobytes(), 9)


def read_counts(folder):
    """(names of the frames, counts (3, n, classes)) of one run.

    Raises:
        DamagedRecord: if anything in the folder or the list of frames is.
        FileNotFoundError: no record.
    """
    folder, record = Path(folder), read_record(folder)
    if record is None:
        raise FileNotFoundError(f"{folder.as_posix()}: no record here")
    names, are = _frames(folder, str(record.get("images")))
    classes = are.shape[1]
    try:
        data = zlib.decompressobj().decompress((folder / COUNTS).read_bytes(), 4 + 8 * len(names) * classes + 1)
        frames = int(np.frombuffer(data[:4], "<u4")[0])
        numbers = np.frombuffer(data[4:], "u1").reshape(4, -1).T.copy().view("<u4")
        counts = numbers.reshape(2, frames, classes).astype(np.int64)
    except (ValueError, IndexError, zlib.error) as error:
        raise DamagedRecord(folder / COUNTS, folder, " ".join(str(error).split())) from None
    if frames != len(names):
        raise DamagedRecord(folder / COUNTS, folder, f"{frames} frames for {len(names)} names")
    return names, np.concatenate([counts, are[None]])


def write_frames(protocol, ids, counts, root="."):
    """Keep names of the judged frames, and how many pixels of each class they have, once for all runs of a protocol.

    Returns:
        As ``write_images``.
    """
    header = ("image", *range(counts.shape[-1]))
    rows = ([name, *map(int, row)] for name, row in zip(ids, counts[2], strict=True))
    return write_list(protocol, header, rows, root)


def _frames(folder, digest):
    def parse(rows):
        return [row[0] for row in rows], np.array([[int(cell) for cell in row[1:]] for row in rows], dtype=np.int64)

    return read_list(folder, digest, parse)
