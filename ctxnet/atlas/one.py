"""One architecture of timm on the footing of the atlas, as one small row: cost, context block by block, the check of it."""

import math
import os
import re
import time

import torch

from ..extras import require
from ..measure import calibrate, residual_blocks, share_within
from ..measure.distance import mean_distance
from ..measure.effective import erf_maps, measurable, require_inside, require_more_than_rounding
from ..measure.receptive_field import Reach
from ..measure.summary import erf_share, rf_side
from .gains import close_gains, open_gains
from .measures import evenly, multiply_adds, probe_images
from .probing import probe_field
from .small import seeded

RECIPE = 1  # to be raised whenever what a row says is computed in another way
SEED, PROBES = 0, 200
IMAGES, LARGE = 2, 384  # images of the probe set; from so many pixels a side on only one of them is differentiated
SHOWN = 10  # blocks that a row lists
PART, THIRD = 0.9, 1 / 3  # of the effective receptive field; radius as a share of the image's side
_ROUNDS = 4  # times that layers which cannot be measured are left out


def build(name):
    """A fresh network of timm in eval mode, the same on every call."""
    require("timm", user=name)
    import timm

    return seeded(timm.create_model, name, seed=SEED).eval()


def describe(name):
    """What timm says of an architecture without building it: dict of ``name``, ``family`` (its module) and ``shape``."""
    import timm

    config = timm.get_pretrained_cfg(name)
    shape = tuple(config.input_size) if config is not None else (3, 224, 224)
    return {"name": name, "family": timm.models.model_entrypoint(name).__module__.rpartition(".")[2], "shape": shape}


def count_parameters(name):
    """Parameters of an architecture, built without memory for its weights where it can be."""
    require("timm", user=name)
    import timm

    try:
        with torch.device("meta"):
            model = timm.create_model(name)
    except Exception:  # it reads a value while it is made
        model = timm.create_model(name)
    return sum(p.numel() for p in model.parameters())


def measure_architecture(name):
    """Measure one architecture of timm at initialisation and at its own input size.

    The middle feature of every block is asked; the images are :data:`IMAGES` of the probe set, batch normalisation has
    their statistics, and gains that start near zero are one (:func:`ctxnet.atlas.gains.open_gains`).

    Returns:
        dict: ``name``, ``family``, ``size`` (longer side of the input, px), ``parameters``, ``multiply_adds``, ``images``
        (differentiated), ``blocks`` (measured), ``left_out`` (how many could not be, with ``why`` for the first and
        ``early``: the last one is among them), ``exact`` (all receptive fields are), ``whole_from`` (number of the first
        block whose receptive field is the whole image, from 1; None: none).

        For at most :data:`SHOWN` blocks, evenly spread, first and last among them: ``layers``, ``at`` (their numbers, from
        1), ``map`` (longer side of the feature map), ``rf_side`` px, ``rf_share``, ``distance`` px, ``erf_share`` (of the
        pixels, that hold 90 %), ``third`` (part of the effective receptive field within a third of the side).

        ``gains`` (opened) and, where there are any, ``as_built``: ``distance`` and ``third`` of the last block without that;
        ``check``, see :func:`ctxnet.atlas.probing.probe_field`, over the last block and the last whose receptive field is
        not the whole image; ``made``: seconds, ``images_per_second`` (one image, one thread, eval mode) and the machine's
        ``load`` then.

    Raises:
        ValueError, NotImplementedError, RuntimeError: why it cannot be measured.
    """
    started, about = time.perf_counter(), describe(name)
    model, (_, *sides) = build(name), about.pop("shape")
    batch = probe_images(model, max(sides), IMAGES, SEED)[..., : sides[0], : sides[1]].contiguous()
    calibrate(model, batch)
    row = about | {
        "size": max(sides),
        "parameters": sum(p.numel() for p in model.parameters()),
        "multiply_adds": multiply_adds(model, batch[:1]),
        "images": IMAGES if max(sides) < LARGE else 1,
    }
    made = {"images_per_second": _speed(model, batch[:1]), "load": round(os.getloadavg()[0], 1)}
    gains = open_gains(model)
    calibrate(model, batch)
    reach, masks, values = _measured(model, batch, row["images"])
    row |= values | {"gains": len(gains), "check": _check(model, reach, masks)}
    if gains:
        close_gains(model, gains)
        calibrate(model, batch)
        row["as_built"] = _as_built(model, batch, reach, row)
    return row | {"made": made | {"seconds": round(time.perf_counter() - started, 1)}}


def _speed(model, image):
    with torch.no_grad():  # it ran before, so that it is warm
        start = time.perf_counter()
        model(image)
        return float(f"{1 / (time.perf_counter() - start):.3g}")


def _measured(model, batch, count):
    """(reach, masks, values) of all blocks but those that an error names, which are left out and said."""
    every = residual_blocks(model)
    layers, left_out, why, kinds = every, [], "", set()
    modules = dict(model.named_modules())
    while True:
        try:
            with measurable(model, batch) as (copied, images):
                reach, masks, values = _context(copied, images, layers, count)
            early = bool(left_out) and every.index(layers[-1]) < max(map(every.index, left_out))
            return reach, masks, values | ({"left_out": len(left_out), "early": early, "why": why[:200]} if left_out else {})
        except ValueError as error:
            named = re.search(r"layer '([^']+)'", str(error))
            if not named or named[1] not in layers:
                raise
            why, kind = why or str(error), type(modules[named[1]])
            gone = [n for n in layers if n == named[1] or (kind in kinds and type(modules[n]) is kind)]
            left_out, layers = left_out + gone, [n for n in layers if n not in gone]
            kinds.add(kind)
            if not layers or len(kinds) > _ROUNDS:
                raise ValueError(why) from None


def _context(model, images, layers, count):
    reach = Reach(model, layers, tuple(images.shape[1:]))
    positions = {layer: grid.position(None) for layer, grid in reach.grids.items()}
    masks = reach.masks(positions)
    numbers = evenly(range(len(layers)), SHOWN)
    shown = [layers[number] for number in numbers]
    require_more_than_rounding(reach, model, images, {layer: positions[layer] for layer in layers})
    erfs = _erfs(reach, model, images[:count], shown)
    for layer in shown:
        require_inside(erfs[layer], masks[layer][0], layer)
    side, grids = max(images.shape[2:]), [reach.grids[layer] for layer in shown]
    whole = [number for number, layer in enumerate(layers, start=1) if bool(masks[layer][0].all())]
    found = [_spread_of(erfs[layer], reach.grids[layer], side) for layer in shown]
    return reach, masks, {
        "blocks": len(layers),
        "exact": all(exact for _, exact in masks.values()),
        "whole_from": whole[0] if whole else None,
        "layers": shown,
        "at": [number + 1 for number in numbers],
        "map": [max(grid.size) for grid in grids],
        "rf_side": [rf_side(masks[layer][0]) for layer in shown],
        "rf_share": [_digits(float(masks[layer][0].double().mean()), 3) for layer in shown],
        "distance": [each["distance"] for each in found],
        "third": [each["third"] for each in found],
        "erf_share": {f"{PART:g}": [each["erf_share"] for each in found]},
    }


def _erfs(reach, model, images, layers):
    wanted = {layer: [reach.grids[layer].position(None)] for layer in layers}
    return erf_maps(reach, model, images, wanted, "abs_sum", 1 if max(images.shape[2:]) >= LARGE else None)


def _spread_of(erf, grid, side):
    """How far one effective receptive field reaches; None for all where there is no finite, positive gradient."""
    erf, total = erf.double(), float(erf.double().sum())
    if not (math.isfinite(total) and total > 0):
        return dict.fromkeys(("distance", "third", "erf_share"))
    center = grid.center(grid.position(None))
    return {
        "distance": _digits(mean_distance(erf / total, center)),
        "third": _digits(share_within(erf, center, THIRD * side)),
        "erf_share": _digits(erf_share(erf, PART), 3),
    }


def _digits(value, digits=4):
    return float(f"{value:.{digits}g}")


def _as_built(model, batch, reach, row):
    """Distance and share of the last block with the library's own initial weights."""
    layer = row["layers"][-1]
    with measurable(model, batch) as (copied, images):
        erf = _erfs(reach, copied, images[: row["images"]], [layer])[layer]
    found = _spread_of(erf, reach.grids[layer], row["size"])
    return {key: found[key] for key in ("distance", "third")}


def _check(model, reach, masks):
    """The probes of the last block and, if there is one, of the last whose receptive field is not the whole image."""
    layers = reach.layers
    partial = [layer for layer in layers[:-1] if not bool(masks[layer][0].all())][-1:]
    asked = partial + [layers[-1]]
    found = [probe_field(model, reach, n, *masks[n], pixels=PROBES // len(asked), seed=SEED) for n in asked]
    total = {key: sum(each[key] for each in found) for key in ("probes", "wrong", "unsettled")}
    return total | {"layers": asked, "seen": [each["seen"] for each in found]}
