"""What a full-size network at initialisation sees of one photograph, from everywhere: the data of the explorer."""

import dataclasses
import io
import math
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional
from tqdm.auto import tqdm

from .. import provenance
from ..data import normalise
from ..data.photograph import photograph
from ..files import remove_partials
from ..locking import one_writer
from ..measure import profile_lattice
from ..measure.summary import erf_share, rf_side
from ..models import list_models, list_segmenters
from ..naming import require_known
from ..records import encode_csv, reusable, write_record
from .context import initial_network, shown_layers
from .protocol import load_lattice, load_measure

LEVELS = 15  # steps of either map above nothing: together they fill a byte
DECADES = 3  # of the effective receptive field, below its strongest cell, that its steps span
COLUMNS = (
    "block", "place", "center_row", "center_column", "distance", "rf_share", "erf90_share",
    "box_top", "box_left", "box_side",
)  # fmt: skip


def measure_lattice(variant, path="params.yaml", *, root=".", progress=True):
    """Measure one network at a lattice of positions into ``results/lattice/<variant>/``, once per setting.

    The network is that of ``results/measure``: full size, 224 px, before training. ``maps.png`` holds one tile per block
    (downwards) and place (row by row, to the right); a pixel is 16·e + r with e the step of the effective receptive
    field (0: less than a thousandth of the strongest cell, then equal steps of its logarithm) and r the share of the
    cell's pixels that lie in the receptive field, rounded up, both 0 … 15. A tile covers the square ``box`` (top, left,
    side in px) around the receptive field, moved into the image. ``places.csv`` has :data:`COLUMNS` per block and place,
    both counted from 0: the feature's centre and mean distance in px (empty without a gradient), the shares of the
    image's pixels that lie in the receptive field and that hold 90 % of the effective one, and the box.

    Returns:
        Path of the folder.

    Raises:
        ValueError: on wrong names or settings, before any work.
    """
    from .trace import measure_trace

    root = Path(root)
    settings, lattice = load_measure(root / path), load_lattice(root / path)
    require_known("variant", variant, [*list_models(), *list_segmenters()])
    folder = root / "results" / "lattice" / variant
    asked = dataclasses.asdict(settings) | dataclasses.asdict(lattice)
    key = {"settings": asked, "trace": measure_trace(variant, places=2)}
    with one_writer(folder):
        remove_partials(folder)
        if reusable(folder, key):
            return folder
        started = time.perf_counter()
        model, _ = initial_network(variant, settings)
        images = normalise(photograph(settings.image_size)[None])
        layers = shown_layers(model, variant)
        profiles = tqdm(
            profile_lattice(model, images, lattice.places, layers), total=lattice.places**2, unit="place", desc=variant,
            disable=not progress, mininterval=2.0,
        )  # fmt: skip
        columns, lines = [], []
        for place, (_, profile) in enumerate(profiles):
            column, numbers = _column(profile, lattice.cells)
            columns.append(column)
            lines += [[block, place, *line] for block, line in enumerate(numbers)]
        sprite = np.concatenate(columns, axis=1)
        image = io.BytesIO()
        Image.fromarray(sprite).save(image, format="png", optimize=True)
        files = {"maps.png": image.getvalue(), "places.csv": encode_csv(COLUMNS, sorted(lines))}
        source = provenance.collect(root=root) | {"wall_seconds": round(time.perf_counter() - started, 1)}
        write_record(folder, {"variant": variant, "layers": layers, **key}, files, source)
    return folder


def _column(profile, cells):
    """The tiles of all blocks at one place, uint8 (L·cells, cells), and a line of numbers for each."""
    tiles, lines = [], []
    for rf, erf, center, distance in zip(profile.rf, profile.erf, profile.center, profile.distance, strict=True):
        top, left, side = box = _box(rf)
        cut = (slice(top, top + side), slice(left, left + side))
        tiles.append(_tile(rf[cut], erf[cut], cells))
        distance = "" if math.isnan(distance) else round(float(distance), 2)
        shares = [round(float(rf.double().mean()), 5), round(erf_share(erf, 0.9), 5) if erf.any() else ""]
        lines.append([*(round(float(c), 2) for c in center), distance, *shares, *box])
    return np.concatenate(tiles), lines


def _box(mask):
    """(top, left, side) of the smallest square around a mask that lies in the image; of all of it for an empty mask."""
    height, width = mask.shape
    side = rf_side(mask)
    if not side:
        return [0, 0, min(height, width)]
    top, left = (int(mask.any(axis).nonzero()[0]) for axis in (1, 0))
    return [min(top, height - side), min(left, width - side), side]


def _tile(rf, erf, cells):
    """One byte per cell: 16·(step of the effective receptive field) + (share of the receptive field)."""
    share, weight = (functional.interpolate(m[None, None].double(), (cells, cells), mode="area")[0, 0] for m in (rf, erf))
    relative = weight / weight.max().clamp(min=torch.finfo(torch.float64).tiny)
    steps = (LEVELS * (1 + relative.clamp(min=1e-30).log10() / DECADES)).ceil().clamp(0, LEVELS)
    return (16 * steps + (LEVELS * share).ceil()).to(torch.uint8).numpy()
