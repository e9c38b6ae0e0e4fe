"""Prepared data sets: decoded once into arrays, opened by memory map, described by a manifest.

A prepared folder holds ``train_images.npy`` and ``valid_images.npy`` (uint8, n×S×S×3) and ``manifest.json``
(ids, labels, classes, hashes). The folder appears under its name only when it is complete, and nothing of
it is used before its hashes were compared.
"""

import errno
import hashlib
import io
import json
import os
import shutil
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock

from ctxnet.files import read_sealed, remove_partials, sha256, stable_hash, write_sealed, write_text

FORMAT = 1
SPLITS = ("train", "valid")
SOURCE = "source.json"  # names, sizes and times of the source's files when they were read; no part of the set
_FILES = {"manifest.json", SOURCE, *(f"{split}_images.npy" for split in SPLITS)}
_verified = set()  # arrays whose hash this process has compared


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


def _text(manifest):
    return json.dumps(manifest, sort_keys=True) + "\n"


def _open_manifest(folder):
    """The manifest of a folder, checked to the last byte.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged or of another format.
    """
    path = Path(folder) / "manifest.json"
    try:
        text = path.read_text("utf-8")
        manifest = json.loads(text)
        digest = manifest.pop("digest")  # covers what manifest_hash leaves out
        described = {k: v for k, v in manifest.items() if k not in ("manifest_hash", "origin")}
        whole = (
            _text(manifest | {"digest": digest}) == text
            and digest == stable_hash(manifest)
            and manifest["format"] == FORMAT
            and manifest["manifest_hash"] == stable_hash(described)
            and _labelled(manifest)
        )
    except (NotADirectoryError, FileNotFoundError):
        raise FileNotFoundError(f"{folder}: no prepared data here; run the `data` stage first") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        whole = False
    if not whole:
        raise ValueError(f"{path}: damaged or of another version; delete {folder} and prepare it again")
    return manifest


def _labelled(manifest):
    """Whether every image has a name and the label of a class."""
    classes = range(len(manifest["classes"]))
    return all(
        len(part["labels"]) == len(part["ids"]) == part["count"]
        and all(type(label) is int and label in classes for label in part["labels"])
        and all(isinstance(name, str) for name in part["ids"])
        for part in (manifest[split] for split in SPLITS)
    )


def source_state(folder):
    """What :func:`save_source_state` said last; None when nothing whole is there."""
    try:
        return read_sealed(Path(folder) / SOURCE)["state"]
    except (OSError, ValueError, KeyError):
        return None


def save_source_state(folder, state):
    """Remember the state of the source's files that a prepared folder was compared with."""
    write_sealed(Path(folder) / SOURCE, {"state": state})


def load_prepared(folder):
    """Open a prepared folder as a :class:`Prepared`. The hashes of the arrays are compared, once per process.

    Raises:
        FileNotFoundError: nothing complete is prepared there.
        ValueError: manifest or arrays are damaged; names the file and what to do.
    """
    folder = Path(folder)
    manifest = _open_manifest(folder)
    fields = {key: manifest[key] for key in ("dataset", "image_size", "classes", "manifest_hash", "origin")}
    size = manifest["image_size"]
    for split in SPLITS:
        path, ids = folder / f"{split}_images.npy", manifest[split]["ids"]
        try:
            images = _open_images(path, manifest[split]["sha256"])
        except (OSError, ValueError) as error:
            raise ValueError(f"{path}: damaged or missing ({error}); delete {folder} and prepare it again") from None
        if images.shape != (len(ids), size, size, 3) or images.dtype != np.uint8:
            raise ValueError(
                f"{path}: holds {images.dtype} {images.shape}, not what manifest.json says; delete {folder}"
            )
        labels = np.array(manifest[split]["labels"], dtype=np.int64)
        fields |= {f"{split}_images": images, f"{split}_labels": labels, f"{split}_ids": ids}
    return Prepared(**fields)


def _open_images(path, digest):
    status = path.stat()
    state = (str(path.resolve()), status.st_ino, status.st_size, status.st_mtime_ns, digest)
    if state not in _verified:
        if sha256(path) != digest:
            raise ValueError("its SHA-256 is not the one in manifest.json")
        _verified.add(state)
    return np.load(path, mmap_mode="r", allow_pickle=False)


def reuse(folder, matches):
    """What is prepared in ``folder`` if it is whole and ``matches(manifest)``, else None, so that it is made
    again; damage is told in a warning."""
    try:
        manifest = _open_manifest(folder)
        loaded = load_prepared(folder)
    except FileNotFoundError:
        return None
    except ValueError as error:
        warnings.warn(f"{error} (this happens now)", stacklevel=2)
        return None
    return loaded if matches(manifest) else None


def _beside(folder):
    return (folder.with_name(f".{folder.name}{suffix}") for suffix in (".partial", ".old"))


def _remove(path):
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _tidy(folder):
    """Put right what a killed process left: the last whole folder under its name, nothing else."""
    partial, old = _beside(folder)
    if old.exists() and not folder.exists():
        os.replace(old, folder)
    _remove(old)
    _remove(partial)
    remove_partials(folder)


@contextmanager
def one_preparer(folder):
    """Hold the right to make ``folder``; a second process waits here, and then finds the work done. What a
    killed one has left behind is put right first."""
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        _tidy(folder)
        yield


@contextmanager
def naming_errors(path):
    """Give an OSError that knows of no path, such as a full disk, this one."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from None


def _write_images(path, images, shape):
    """Write uint8 images (S, S, 3) one at a time as one .npy array (n, S, S, 3); return the file's SHA-256.

    Written, not mapped: on a full disk a write is an error, but a page of a map kills the process.
    """
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    digest, count = hashlib.sha256(header.getvalue()), 0
    with naming_errors(path), open(path, "wb") as handle:
        handle.write(header.getvalue())
        for image in images:
            if image.dtype != np.uint8 or image.shape != shape[1:]:
                raise ValueError(f"{path}: image {count} is {image.dtype} {image.shape}, not uint8 {shape[1:]}")
            pixels = image.tobytes()
            handle.write(pixels)
            digest.update(pixels)
            count += 1
    if count != shape[0]:
        raise ValueError(f"{path}: {count} images for {shape[0]} ids")
    return digest.hexdigest()


def _check_replaceable(folder):
    """Refuse to replace anything but a prepared folder: someone's images may lie under that name."""
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "a file lies where prepared data should go; move it", str(folder))
    names = {p.name for p in folder.iterdir() if p.name[0] != "."} if folder.is_dir() else set()
    for foreign in sorted(names - _FILES):
        raise FileExistsError(errno.EEXIST, f"holds {foreign}, but prepared data should go here; move it", str(folder))


def save_prepared(folder, *, dataset, image_size, classes, splits, origin, state=None):
    """Write a prepared folder atomically and return it opened.

    Args:
        folder: the folder to make or replace.
        dataset, image_size, classes: as in :class:`Prepared`.
        splits: ``{"train": (ids, labels, images), "valid": …}``; images is any iterable of uint8 (S, S, 3),
            taken one at a time, all of ``train`` first.
        origin: JSON-able description of what the set was made from, without paths of this machine, or a
            function that gives it once all images were taken, and may raise to refuse them. It decides
            about reuse.
        state: of the source's files, as for :func:`save_source_state`.

    Raises:
        OSError: with errno and path, when the disk is full or read-only; the old folder stays.
    """
    folder = Path(folder)
    _check_replaceable(folder)
    partial, old = _beside(folder)
    _remove(partial)
    partial.mkdir(parents=True)
    try:
        manifest = {"format": FORMAT, "dataset": dataset, "image_size": image_size, "classes": list(classes)}
        for split in SPLITS:
            ids, labels, images = splits[split]
            digest = _write_images(partial / f"{split}_images.npy", images, (len(ids), image_size, image_size, 3))
            manifest[split] = {
                "ids": list(ids),
                "labels": [int(i) for i in labels],
                "count": len(ids),
                "sha256": digest,
            }
        manifest |= {"manifest_hash": stable_hash(manifest), "origin": origin() if callable(origin) else origin}
        write_text(partial / "manifest.json", _text(manifest | {"digest": stable_hash(manifest)}))
        if state is not None:
            save_source_state(partial, state)
        if folder.exists():
            _remove(old)
            os.replace(folder, old)
        os.replace(partial, folder)
        _remove(old)
    except BaseException:
        _tidy(folder)
        raise
    return load_prepared(folder)
