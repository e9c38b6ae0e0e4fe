"""Prepared data sets: decoded once into arrays, opened by memory map, described by a manifest.

A prepared folder holds ``train_images.npy`` and ``valid_images.npy`` (uint8, n×S×S×3) and ``manifest.json``
(ids, labels, classes, hashes). The folder appears under its name only when it is complete.
"""

import json
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock

from ctxnet.files import sha256, stable_hash, write_text

FORMAT = 1
SPLITS = ("train", "valid")


@dataclass(frozen=True, eq=False)
class Prepared:
    """Images and labels of both splits. Images are read-only uint8 memory maps (n, S, S, 3), labels int64
    (n,) class indices.

    ``*_ids`` name the images (paths relative to the source folder). ``manifest_hash`` depends on the
    pixels, ids, labels and class names and on nothing else, so equal data has an equal hash on every
    machine.
    """

    dataset: str
    image_size: int
    classes: list
    manifest_hash: str
    origin: dict
    train_images: np.ndarray
    train_labels: np.ndarray
    train_ids: list
    valid_images: np.ndarray
    valid_labels: np.ndarray
    valid_ids: list


def read_manifest(folder):
    """The manifest of a prepared folder, or None when there is none of this format."""
    try:
        manifest = json.loads((Path(folder) / "manifest.json").read_text("utf-8"))
        return manifest if manifest["format"] == FORMAT else None
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None


def load_prepared(folder):
    """Open a prepared folder as a :class:`Prepared`.

    Raises:
        FileNotFoundError: nothing complete is prepared there.
        ValueError: the arrays are not those the manifest describes.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if manifest is None:
        raise FileNotFoundError(
            f"{folder}: no prepared data here (no readable manifest.json); run the `data` stage first"
        )
    fields = {key: manifest[key] for key in ("dataset", "image_size", "classes", "manifest_hash", "origin")}
    size = manifest["image_size"]
    for split in SPLITS:
        path = folder / f"{split}_images.npy"
        try:
            images = np.load(path, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise ValueError(f"{path}: damaged or missing ({error}); delete {folder} and prepare it again") from None
        ids = manifest[split]["ids"]
        if images.shape != (len(ids), size, size, 3) or images.dtype != np.uint8:
            raise ValueError(
                f"{path}: holds {images.dtype} {images.shape}, not what manifest.json says; delete {folder}"
            )
        labels = np.array(manifest[split]["labels"], dtype=np.int64)
        fields |= {f"{split}_images": images, f"{split}_labels": labels, f"{split}_ids": ids}
    return Prepared(**fields)


@contextmanager
def one_preparer(folder):
    """Hold the right to prepare ``folder``; a second process waits here, and then finds the work done."""
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        yield


def save_prepared(folder, *, dataset, image_size, classes, splits, origin):
    """Write a prepared folder atomically and return it opened.

    Args:
        folder: the folder to make or replace.
        dataset, image_size, classes: as in :class:`Prepared`.
        splits: ``{"train": (ids, labels, images), "valid": …}``; images is any iterable of uint8 (S, S, 3),
            taken one at a time.
        origin: JSON-able description of what the set was made from, without paths of this machine. It
            decides about reuse.
    """
    folder = Path(folder)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        manifest = {"format": FORMAT, "dataset": dataset, "image_size": image_size, "classes": list(classes)}
        for split in SPLITS:
            ids, labels, images = splits[split]
            path = partial / f"{split}_images.npy"
            array = np.lib.format.open_memmap(path, "w+", np.uint8, (len(ids), image_size, image_size, 3))
            for i, image in enumerate(images):
                array[i] = image
            array.flush()
            del array
            manifest[split] = {
                "ids": list(ids),
                "labels": [int(i) for i in labels],
                "count": len(ids),
                "sha256": sha256(path),
            }
        manifest |= {"manifest_hash": stable_hash(manifest), "origin": origin}
        write_text(partial / "manifest.json", json.dumps(manifest, sort_keys=True) + "\n")
        old = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            os.replace(folder, old)
        os.replace(partial, folder)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return load_prepared(folder)
