"""Every state of the sliders of chapters 1 and 3, measured once: a tile for each, and a line of numbers.

A hand that moves a slider does not wait for a measurement, and a page from a disk cannot make one. So the few positions of
each slider are gone through beforehand, on the small networks of :mod:`ctxnet.atlas.small`.
"""

import copy
import io
import itertools
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional
from tqdm.auto import tqdm

from .. import provenance
from ..files import remove_partials
from ..locking import one_writer
from ..measure import context_profile, profile_lattice
from ..naming import require_known
from ..records import encode_csv, reusable, write_record
from ..records.traces import measured, refill, undisturbed
from .small import CONTEXTS, SIZE, _network, noise_images, seeded, stack_of_convolutions

PLACES = 3  # positions per side of every map: near one border, in the middle, near the other
CELLS = {"stack": SIZE, "context": SIZE // 2}  # side of a tile: a field of a few px is seen pixel by pixel, others by 2 × 2
LEVELS = 14  # steps of the effective receptive field above nothing; with "outside" and "nothing" they fill four bits
DECADES = 4  # below the strongest cell, that the steps span
DEPTH = 8  # convolutions of the longest stack
# What can be chosen: of a stack, and of a small ResNet-50 with a context block in every bottleneck.
CONTROLS = {
    "stack": {"kernel": (3, 5, 7), "dilation": (1, 2, 4), "stride": (1, 2, 4)},
    "context": {"context": tuple(CONTEXTS), "k": (1, 3, 5, 8), "d": (2, 4, 8)},
}
LAYERS = {
    "stack": tuple(f"relu{number}" for number in range(1, DEPTH + 1)),
    "context": (
        "layer1.0", "layer1.1", "layer1.2", "layer2.0", "layer2.1", "layer2.2", "layer2.3", "layer3.0", "layer3.5",
        "layer4.2",
    ),
}  # fmt: skip
COLUMNS = ("network", "layer", "place", "center_row", "center_column", "distance", "rf_share", "exact")
NAMES = {"dilation": "d"}  # an argument of a network that goes by the name of another slider


def networks(name):
    """What is chosen for each network of a set, "stack" or "context", in the order of its tiles.

    Returns:
        List of dicts, a value or None for each of :data:`CONTROLS`; None where a slider has no meaning.
    """
    controls = CONTROLS[require_known("set", name, CONTROLS)]
    if name == "stack":
        return [dict(zip(controls, values, strict=True)) for values in itertools.product(*controls.values())]
    found = []
    for context in controls["context"]:
        uses = {NAMES.get(use, use) for use in CONTEXTS[context].get("uses", ())}
        free = [values if key in uses else (None,) for key, values in controls.items() if key != "context"]
        found += [{"context": context, "k": k, "d": d} for k, d in itertools.product(*free)]
    return found


def measure_states(name, *, root=".", progress=True):
    """Measure every state of a set of sliders into ``results/sliders/<name>/``, once per setting.

    ``tiles.png`` has a line of tiles per network, in it :data:`PLACES`² of them per layer, row by row. A pixel, divided by
    17, is 0 where no pixel of its cell can reach the feature, 1 where one can and the effective receptive field is less than
    10⁻⁴ of its strongest cell, and else 2 … 15, in equal steps of its logarithm. ``states.csv`` has :data:`COLUMNS` per
    state, in the same order: the feature's centre and mean distance in px, the share of the image's pixels that can reach
    it, and whether that is exact (1) or an upper bound (0).

    Returns:
        Path of the folder.

    Raises:
        ValueError: for an unknown set, with the near ones.
    """
    chosen, folder = networks(name), Path(root) / "results" / "sliders" / name
    settings = {"networks": chosen, "layers": list(LAYERS[name]), "places": PLACES, "cells": CELLS[name], "image_size": SIZE}
    key = {"settings": settings, "trace": _trace(name)}
    with one_writer(folder):
        remove_partials(folder)
        if reusable(folder, key):
            return folder
        started, tiles, lines = time.perf_counter(), [], []
        for number, values in enumerate(tqdm(chosen, unit="network", desc=name, disable=not progress, mininterval=2.0)):
            line, numbers = _line(name, values)
            tiles.append(line)
            lines += [[number, *rest] for rest in numbers]
        files = {"tiles.png": _png(np.concatenate(tiles)), "states.csv": encode_csv(COLUMNS, lines)}
        source = provenance.collect(root=root) | {"wall_seconds": round(time.perf_counter() - started, 1)}
        write_record(folder, {"set": name, **key}, files, source)
    return folder


def _build(name, values):
    """The network that is chosen, in eval mode."""
    if name == "stack":
        return seeded(stack_of_convolutions, DEPTH, **values)
    return _network(values["context"], values["k"], values["d"], LAYERS[name][-1])


def _line(name, values):
    """The tiles of a network side by side, uint8 (cells, L·places²·cells), and a line of numbers for each."""
    profiles = [profile for _, profile in profile_lattice(_build(name, values), noise_images(), PLACES, LAYERS[name])]
    tiles, lines = [], []
    for layer, (place, profile) in itertools.product(range(len(LAYERS[name])), enumerate(profiles)):
        rf, center = profile.rf[layer], (round(float(c), 2) for c in profile.center[layer])
        tiles.append(_tile(rf, profile.erf[layer], CELLS[name]))
        share, distance = round(float(rf.double().mean()), 5), round(float(profile.distance[layer]), 2)
        lines.append([layer, place, *center, distance, share, int(profile.exact[layer])])
    return np.concatenate(tiles, axis=1), lines


def _tile(rf, erf, cells):
    """One number per cell: 0 outside, 1 reached without effect, 2 … 15 by the logarithm of the effect."""
    reached = functional.adaptive_max_pool2d(rf[None].double(), cells)[0] > 0
    effect = functional.adaptive_avg_pool2d(erf[None].double(), cells)[0]
    relative = effect / effect.max().clamp(min=torch.finfo(torch.float64).tiny)
    steps = (LEVELS * (1 + relative.clamp(min=1e-30).log10() / DECADES)).ceil().clamp(0, LEVELS)
    return torch.where(reached, 1 + steps, 0).to(torch.uint8).numpy()


def _png(levels):
    """Levels 0 … 15 as the grey values 17·level of a picture of four bits a pixel."""
    image, buffer = Image.fromarray(levels, "P"), io.BytesIO()
    image.putpalette([17 * level for level in range(16) for _ in range(3)])
    image.save(buffer, format="png", optimize=True, bits=4)
    return buffer.getvalue()


def _trace(name):
    """What the code computes now of one network of every kind (:mod:`ctxnet.records.key`)."""
    kinds, found = {}, {}
    for values in networks(name):
        kinds.setdefault(values.get("context", "stack"), values)
    with undisturbed():
        for kind, values in kinds.items():
            model = copy.deepcopy(_build(name, values)).double()
            refill(model)
            about = measured(context_profile(model, noise_images().double(), layers=list(LAYERS[name][:3])))
            found[kind] = about["distances"] + about["reach"]
    return found
