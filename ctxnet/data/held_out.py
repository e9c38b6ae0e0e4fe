"""A part of the training set in the place of the validation set, for finding settings."""

import dataclasses
import hashlib

import numpy as np


def hold_out(prepared, share):
    """The same data without its validation set: ``share`` of every class's training images stand in for it.

    Which ones follows from the images' names alone, so that every run holds out the same.

    Args:
        prepared: from ``prepare_dataset``.
        share: 0…1, both excluded.

    Returns:
        Prepared, whose images are copies in memory and whose ``manifest_hash`` tells it from the whole set.

    Raises:
        ValueError: if a class would have nothing left to learn from or to be judged by.
    """
    labels = np.asarray(prepared.train_labels)
    order = np.argsort([hashlib.sha256(name.encode()).hexdigest() for name in prepared.train_ids], kind="stable")
    held = np.zeros(len(labels), dtype=bool)
    for label, name in enumerate(prepared.classes):
        members = order[labels[order] == label]
        count = round(share * len(members))
        if not 0 < count < len(members):
            near = min(max(share, 1 / max(len(members), 1)), 0.5)
            raise ValueError(
                f"held_out={share:g}: class {name!r} has {len(members)} training images, of which {count} would be held "
                f"out; nearest valid value: {near:.3g}"
            )
        held[members[:count]] = True
    kept, out = np.flatnonzero(~held), np.flatnonzero(held)
    return dataclasses.replace(
        prepared,
        manifest_hash=f"{prepared.manifest_hash}, {share:g} held out",
        train_images=prepared.train_images[kept], train_labels=labels[kept], train_ids=[prepared.train_ids[i] for i in kept],
        valid_images=prepared.train_images[out], valid_labels=labels[out], valid_ids=[prepared.train_ids[i] for i in out],
    )  # fmt: skip
