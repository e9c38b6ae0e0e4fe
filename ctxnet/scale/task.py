"""One run as a task of Ray: it trains in a folder of its own and gives back the files of its record.

Checkpoints go into the run's folder where the worker sees the one of the campaign, else to the campaign's keeper with their
SHA-256. Whoever takes the run up after a loss begins with the last one.
"""

import dataclasses
import hashlib
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import ray
import torch

from ..data import Prepared
from ..files import write_bytes
from ..records import read_predictions, read_provenance, read_record, run_folder
from ..training import Protocol, run

CHECKPOINTS = ("weights.safetensors", "checkpoint.safetensors")  # the first to be there is gone on from
_held = {}  # data that this process has compared with their digest


@dataclass(frozen=True)
class Order:
    """What a worker is asked to do.

    Attributes:
        protocol, variant, seed: which run.
        threads: of torch.
        until: time (seconds since 1970) at which it should stop; None: never.
        root: folder of the campaign, as its own machine calls it.
        token: name of a file that is there while the campaign lives, relative to ``root``; None: look for no shared folder.
        data: :class:`Parcel` for workers that do not see ``root``; None where all do.
    """

    protocol: Protocol
    variant: str
    seed: int | str
    threads: int
    until: float | None
    root: str
    token: str | None
    data: object


@dataclass(frozen=True)
class Parcel:
    """Prepared data as Ray carries them: once to every machine, where all runs read them from shared memory.

    Attributes:
        prepared: without its images.
        images: reference to (training images, validation images).
        digest: SHA-256 of both.
    """

    prepared: Prepared
    images: list
    digest: str

    @classmethod
    def of(cls, prepared):
        import numpy as np

        images = tuple(np.ascontiguousarray(each) for each in (prepared.train_images, prepared.valid_images))
        empty = dataclasses.replace(prepared, train_images=None, valid_images=None)
        return cls(empty, [ray.put(images)], _digest(images))

    def open(self):
        if self.digest not in _held:
            images = ray.get(self.images[0])
            if _digest(images) != self.digest:
                raise RuntimeError("the images that came are not those that were sent (SHA-256 differs)")
            _held[self.digest] = images
        train, valid = _held[self.digest]
        return dataclasses.replace(self.prepared, train_images=train, valid_images=valid)


def _digest(images):
    digest = hashlib.sha256()
    for each in images:
        digest.update(each.data)
    return digest.hexdigest()


def train(order, keeper):
    """Make or go on with one run.

    Returns:
        Dict with ``status``: "finished" (then ``record``, ``provenance``, ``files`` (name → bytes), ``images`` (names and
        labels of the validation set), ``weights`` (bytes)), "paused", or "failed" (then ``text``).
    """
    torch.set_num_threads(order.threads)
    key = order.variant, str(order.seed)
    folder = run_folder(order.protocol.name, order.variant, order.seed, order.root)
    shared = order.token is not None and (Path(order.root) / order.token).exists()
    watch = _Watch(key, keeper, folder if shared else None)
    with tempfile.TemporaryDirectory(prefix="ctxnet-") as scratch:
        own = run_folder(order.protocol.name, order.variant, order.seed, scratch)
        try:
            watch.bring(own)
            result = run(
                order.protocol, order.variant, order.seed, root=order.root if shared else scratch, results=scratch,
                prepared=order.data.open() if order.data and not shared else None, progress=False, watch=watch,
                max_minutes=None if order.until is None else (order.until - time.time()) / 60,
            )  # fmt: skip
        except (ValueError, OSError, RuntimeError, FloatingPointError) as error:
            return {"status": "failed", "text": " ".join(str(error).split())}
        if result.status == "paused":
            return {"status": "paused"}
        return _packed(own)


def _packed(folder):
    record = read_record(folder)
    ids, labels, _ = read_predictions(folder)
    return {
        "status": "finished",
        "record": record,
        "provenance": read_provenance(folder),
        "files": {name: (folder / name).read_bytes() for name in record["files"]},
        "images": (ids, labels.tolist()),
        "weights": (folder / "weights.safetensors").read_bytes(),
    }


class _Watch:
    """Tells the keeper of epochs, and puts checkpoints where the next one to take up the run will find them."""

    def __init__(self, key, keeper, folder):
        self.key, self.keeper, self.folder = key, keeper, folder

    def epoch(self, done):
        self.keeper.epoch.remote(self.key, done)

    def checkpoint(self, path):
        data = path.read_bytes()
        if self.folder is not None:
            write_bytes(self.folder / path.name, data)
        else:
            ray.get(self.keeper.keep.remote(self.key, hashlib.sha256(data).hexdigest(), data))

    def bring(self, own):
        """Put what an earlier one has left into the folder of this one."""
        if self.folder is not None:
            found = [self.folder / name for name in CHECKPOINTS if (self.folder / name).exists()]
            if found:
                write_bytes(own / found[0].name, found[0].read_bytes())
            return
        kept = ray.get(self.keeper.checkpoint.remote(self.key))
        if kept is not None:
            digest, data = kept
            if hashlib.sha256(data).hexdigest() != digest:
                raise RuntimeError("the checkpoint that came is not the one that was sent (SHA-256 differs)")
            write_bytes(own / "checkpoint.safetensors", data)
