"""How the maps of a model's layers lie on the image, and how large the tiles of tiled inference have to overlap."""

import copy
import itertools
import math
from fractions import Fraction
from typing import NamedTuple

import torch

from ctxnet.measure.asking import first_tensor
from ctxnet.measure.between import fields, places, sizes
from ctxnet.measure.effective import residual_blocks
from ctxnet.measure.graph import blank_input, evaluating
from ctxnet.measure.receptive_field import Reach

_PERIODS = 16  # longest repetition of fields that is tried, in steps of the coarsest map
_BLOCK = 256  # features of one period that are all looked at; of larger ones, one line along each dimension


class GridRow(NamedTuple):
    """One layer's grid; a tuple has one entry per dimension of the image, in pixels unless said otherwise.

    Attributes:
        layer: its name.
        size: features of the map.
        stride: from one feature to the next; None where that is not the same everywhere.
        offset: where the first feature sits: feature i at ``offset + i * stride``.
        field: size of the box around the receptive field of the middle feature, cut off at the image's border.
        padding: how far the field of the first feature begins before the image; None where ``field`` may be cut off
            (a larger ``input_size`` can help) or the grid is irregular.
        exact: whether ``field`` is exact or an upper bound.
    """

    layer: str
    size: tuple
    stride: tuple
    offset: tuple
    field: tuple
    padding: tuple
    exact: bool


def grid_table(model, input_size=(224, 224), layers=None):
    """Size, stride, offset, field and padding of the grids of layers: what anchors, keypoints and crops need.

    Args:
        model, input_size: as for :func:`ctxnet.receptive_field`.
        layers: names as in ``model.named_modules()``; None: the blocks of the model, as in a profile.

    Returns:
        list of :class:`GridRow`, in the order of ``layers``.

    Raises:
        ValueError, NotImplementedError: as :func:`ctxnet.receptive_field`.
    """
    layers = residual_blocks(model) if layers is None else list(layers)
    reach = Reach(model, layers, input_size)
    positions = {layer: reach.grids[layer].position(None) for layer in layers}
    masks = reach.masks(positions)
    return [_row(layer, reach.grids[layer], positions[layer], *masks[layer]) for layer in layers]


def _row(layer, grid, position, mask, exact):
    strides, offsets = _steps(grid.centers)
    boxes = _box(mask)
    padding = []
    for stride, place, box, size in zip(strides, position, boxes, mask.shape, strict=True):
        cut = box is None or box[0] == 0 or box[1] == size
        padding.append(None if cut or stride is None else place * stride - box[0])
    field = tuple(0 if b is None else b[1] - b[0] for b in boxes)
    return GridRow(layer, sizes(grid), strides, offsets, field, tuple(padding), exact)


def _steps(centers):
    """Per dimension the distance between neighbours (None where it varies) and the first feature's place."""
    strides, offsets = [], []
    for dim in range(centers.ndim - 1):
        at = centers[..., dim].movedim(dim, 0).flatten(1)
        steps = at.diff(dim=0)
        even = len(steps) and bool((steps - steps[0, 0]).abs().max() < 1e-6)
        strides.append(_tidy(steps[0, 0]) if even else None)
        offsets.append(_tidy(at[0, 0]))
    return tuple(strides), tuple(offsets)


def _tidy(number):
    number = round(float(number), 6)
    return int(number) if number.is_integer() else number


def _box(mask):
    """Per dimension (first, last + 1) of the true entries; None without any."""
    found = []
    for dim in range(mask.ndim):
        line = mask.movedim(dim, 0).flatten(1).any(1).nonzero()
        found.append((int(line[0]), int(line[-1]) + 1) if len(line) else None)
    return found


class Tiling(NamedTuple):
    """What tiles need so that a layer computes in their core what it computes in the whole image.

    Attributes (one entry per dimension):
        step: tiles begin at multiples of it, and cores have its multiples as length, in pixels.
        features: features of the layer's map per step.
        before, after: pixels that a tile needs around its core, multiples of ``step``; none where the image ends.
    """

    step: tuple
    features: tuple
    before: tuple
    after: tuple

    @property
    def overlap(self):
        """Pixels that neighbouring tiles share."""
        return tuple(b + a for b, a in zip(self.before, self.after, strict=True))

    def spans(self, dim, length, core):
        """Tiles along a dimension: [(begin, end) in pixels, first feature of the core in the tile's map, in the image's].

        Args:
            length: of the image, in pixels.
            core: of a tile without its surroundings, in pixels, a multiple of ``step``.
        """
        step = self.step[dim]
        if core < step or core % step:
            raise ValueError(f"core is {core} pixels; expected a multiple of {step} in dimension {dim}")
        spans = []
        for start in range(0, length, core):
            begin = max(0, start - self.before[dim])
            end = min(length, start + core + self.after[dim])
            spans.append(((begin, end), (start - begin) // step * self.features[dim], start // step * self.features[dim]))
            if end == length and length - start <= core + self.after[dim]:
                break  # this one reaches the border anyway
        return spans

    def apply(self, function, images, core):
        """``function(images)`` tile by tile, put together.

        Args:
            function: from images (N, C, *sizes) to the layer's maps (N, C', *map sizes).
            core: one number of pixels, or one per dimension.
        """
        n = len(self.step)
        core = (core,) * n if isinstance(core, int) else tuple(core)
        return self._part(function, images, core, 0)

    def _part(self, function, images, core, dim):
        if dim == len(self.step):
            return function(images)
        rows, spans = [], self.spans(dim, images.shape[2 + dim], core[dim])
        for i, ((begin, end), inner, outer) in enumerate(spans):
            tile = self._part(function, images.narrow(2 + dim, begin, end - begin), core, dim + 1)
            stop = tile.shape[2 + dim] if i + 1 == len(spans) else inner + spans[i + 1][2] - outer
            rows.append(tile.narrow(2 + dim, inner, stop - inner))
        return torch.cat(rows, 2 + dim)


def tiling(model, layer, input_size):
    """How tiles have to lie and overlap so that ``layer`` computes the same in tiles as in the whole image.

    From the receptive fields of one period of features in the middle, and then tried: the model (a copy, in double
    precision) runs on a random image and on tiles of it.

    Args:
        model, layer: as for :func:`ctxnet.receptive_field`; the layer gives a map with the channels first.
        input_size: large enough for the fields of the middle to end within it.

    Returns:
        :class:`Tiling`.

    Raises:
        ValueError: when the layer sees the whole image (through attention, gates or statistics), when its grid is
            irregular, or when its features depend on where they sit (encoded positions).
        NotImplementedError: an operation without a rule.
    """
    reach = Reach(model, [layer], input_size)
    grid, coarse = reach.grids[layer], _strides(reach)
    strides, _ = _steps(grid.centers)
    if None in strides or len(sizes(grid)) != len(reach.size):
        raise ValueError(f"the features of layer {layer!r} do not lie on an even grid, so that tiles cannot be fitted")
    steps, counts = [], []
    for dim, stride in enumerate(strides):
        step = math.lcm(*(f.numerator for f in [Fraction(stride).limit_denominator(64), *coarse[dim]]))
        steps.append(step)
        counts.append(int(step / Fraction(stride).limit_denominator(64)))
    for times in range(1, _PERIODS + 1):
        step = [s * times for s in steps]
        margins = _margins(reach, layer, step, [c * times for c in counts])
        if margins is not None:
            break
    else:
        raise ValueError(f"the fields of layer {layer!r} do not repeat within {step} pixels")
    found = Tiling(tuple(step), tuple(c * times for c in counts), *margins)
    _try(model, layer, blank_input(model, input_size), found)
    return found


def _strides(reach):
    """Per dimension of the image the strides of all maps that are made on the way to the layers, as fractions."""
    found = [{Fraction(1)} for _ in reach.size]
    for place in places(reach).values():
        for dim, at in enumerate(place[:-1]):
            for along in range(at.ndim):
                steps = at.diff(dim=along)
                if steps.numel() and steps.flatten()[0] > 0 and bool((steps - steps.flatten()[0]).abs().max() < 1e-6):
                    found[dim].add(Fraction(float(steps.flatten()[0])).limit_denominator(64))
    return found


def _margins(reach, layer, step, count):
    """(before, after) for fields that repeat with ``step``; None where they do not.

    Raises:
        ValueError: when the image is too small for the fields of two periods in the middle.
    """
    grid, n = reach.grids[layer], len(step)
    whole = sizes(grid)
    start = [size // count[d] // 2 * count[d] for d, size in enumerate(whole)]
    block = [range(s, s + c) for s, c in zip(start, count, strict=True)]
    if math.prod(count) > _BLOCK:  # one line along each dimension
        block = [[r if d == e else [r[len(r) // 2]] for e, r in enumerate(block)] for d in range(n)]
    else:
        block = [block]
    before, after = [0] * n, [0] * n
    for ranges in block:
        positions = list(itertools.product(*ranges))
        if any(p >= s for position in positions for p, s in zip(position, whole, strict=True)):
            raise ValueError(_too_small(layer, reach))
        boxes = _boxes(reach, layer, positions)
        for dim in range(n):
            shifted = [tuple(p - count[d] * (d == dim) for d, p in enumerate(position)) for position in positions]
            if min(p[dim] for p in shifted) < 0:
                raise ValueError(_too_small(layer, reach))
            moved = [
                [(a + step[d] * (d == dim), b + step[d] * (d == dim)) for d, (a, b) in enumerate(box)]
                for box in _boxes(reach, layer, shifted)
            ]
            if moved != boxes:
                return None
        for position, box in zip(positions, boxes, strict=True):
            for dim, (first, end) in enumerate(box):
                own = position[dim] // count[dim] * step[dim]
                before[dim] = max(before[dim], own - first)
                after[dim] = max(after[dim], end - own - step[dim])
    return tuple(tuple(-(-m // s) * s for m, s in zip(side, step, strict=True)) for side in (before, after))


def _boxes(reach, layer, positions):
    """Per position the box around its field, as (first, end) per dimension."""
    found = []
    for masks, _ in fields(reach, layer, positions):
        for mask in masks:
            box = _box(mask)
            if None in box:
                raise ValueError(f"a feature of layer {layer!r} sees nothing of the image")
            if any(a == 0 or b == size for (a, b), size in zip(box, reach.size, strict=True)):
                raise ValueError(_too_small(layer, reach))
            found.append(box)
    return found


def _too_small(layer, reach):
    size = "×".join(map(str, reach.size))
    return (
        f"the fields of layer {layer!r} reach the border of an image of {size} pixels; give a larger input_size, "
        "or the layer sees the whole image and cannot be computed in tiles"
    )


def _try(model, layer, image, found):
    model = copy.deepcopy(model).double()
    module, seen = dict(model.named_modules())[layer], []
    module.register_forward_hook(lambda module, args, output: seen.append(first_tensor(output, layer)))

    def run(images):
        seen.clear()
        model(images)
        return seen[-1]

    with evaluating(model), torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        image = torch.randn(image.shape, dtype=torch.float64, device=image.device)
        whole = run(image).clone()
        core = [
            max(s, (n - b - a) // 2 // s * s) for s, b, a, n in zip(*found[:1], *found[2:], image.shape[2:], strict=True)
        ]
        tiled = found.apply(run, image, core)
    scale = whole.abs().max().clamp(min=1e-30)
    if tiled.shape != whole.shape or float((tiled - whole).abs().max()) > 1e-9 * float(scale):
        raise ValueError(
            f"layer {layer!r} does not compute the same in tiles: its features depend on where they sit in the image, "
            "such as through encoded positions"
        )
