"""Receptive fields by walking a model's graph: which input pixels *can* reach a feature, whatever the weights."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch

from ctxnet.measure.graph import blank_input, evaluating, first_tensor, trace
from ctxnet.measure.rules import Window, compact, fit, mix, relations, union


@dataclass(frozen=True)
class Grid:
    """How the output of a layer lies on a map of features, and where in the image each feature sits.

    ``layout`` is "NCHW", "NHWC", "tokens" (N, L, C), "channels" (N, C) or "rows" (N, C, L); ``index`` holds the token
    numbers of the map (height, width) for the token layouts, so that class and register tokens are left out.
    """

    layer: str
    layout: str
    height: int
    width: int
    centers: torch.Tensor  # (height, width, 2), in pixels
    index: torch.Tensor | None = None

    def position(self, position):
        """Check a position, or give the middle one (H//2, W//2).

        Raises:
            ValueError: when it lies outside the map.
        """
        row, col = (self.height // 2, self.width // 2) if position is None else (int(p) for p in position)
        if not (0 <= row < self.height and 0 <= col < self.width):
            raise ValueError(
                f"position {(row, col)} lies outside the {self.height}×{self.width} map of layer "
                f"{self.layer!r}: rows 0…{self.height - 1}, columns 0…{self.width - 1}"
            )
        return row, col

    def center(self, position):
        return tuple(self.centers[position].tolist())

    def pick(self, output, position):
        """The features (N, C) at a position of a layer's output."""
        row, col = position
        if self.layout == "NCHW":
            return output[:, :, row, col]
        if self.layout == "NHWC":
            return output[:, row, col]
        if self.layout == "channels":
            return output
        token = int(self.index[row, col])
        return output[:, token] if self.layout == "tokens" else output[:, :, token]

    def mark(self, shape, position):
        """Bool mask of ``shape``, compact along the channels, true at a position."""
        row, col = position
        size = {"NCHW": (1, 1, *shape[2:]), "NHWC": (*shape[:3], 1), "channels": (1, 1)}.get(self.layout)
        size = size or ((1, shape[1], 1) if self.layout == "tokens" else (1, 1, shape[2]))
        mask = torch.zeros(size, dtype=torch.bool)
        self.pick(mask, position)[:] = True
        return mask


class _Map(NamedTuple):
    order: int
    cost: float
    size: tuple
    centers: torch.Tensor


class Reach:
    """The reach of several layers of a model, from one trace.

    Args:
        model: any module that takes one image tensor (N, C, H, W).
        layers: names as in ``model.named_modules()``.
        input_size: (H, W), (C, H, W) or one number.
    """

    def __init__(self, model, layers, input_size):
        self.trace = trace(model, layers, input_size)
        self.layers = list(layers)
        self._relations = {}
        image = self.trace.source.meta["val"].shape
        self.size = tuple(image[-2:])
        places, maps = self._places()
        self.grids = {}
        for layer, node in self.trace.outputs.items():
            if node not in self.trace.live:
                raise ValueError(f"the output of layer {layer!r} does not depend on the image")
            before = [m for m in maps if m.order <= self.trace.nodes.index(node)]
            self.grids[layer] = _grid(layer, tuple(node.meta["val"].shape), places[node], before)

    def masks(self, positions):
        """Masks and whether each is exact, by layer.

        Args:
            positions: (row, column) per layer; a mapping.

        Returns:
            dict layer -> (bool tensor (H, W), bool)
        """
        masks, parts = {}, {}
        for number, layer in enumerate(self.layers):
            node = self.trace.outputs[layer]
            mark = self.grids[layer].mark(node.meta["val"].shape, positions[layer])
            mark = torch.stack([mark & (number == i) for i in range(len(self.layers))])
            masks[node] = masks[node] | mark if node in masks else mark
        exact = torch.ones(len(self.layers), dtype=torch.bool)
        for node in reversed(self.trace.nodes):
            if node is self.trace.source:
                continue
            found = [(None, masks.pop(node))] if node in masks else list(parts.pop(node, {}).items())
            for index, mask in found:
                if _is_item(node):
                    parent, item = node.args
                    of_parent = parts.setdefault(parent, {})
                    of_parent[item] = of_parent[item] | mask if item in of_parent else mask
                    continue
                inputs, node_exact = self._related(node, index)
                if not node_exact:
                    exact &= ~mask.reshape(len(mask), -1).any(1)
                for source, steps in inputs:
                    reached = mask
                    for step in reversed(steps):
                        reached = step.back(reached)
                    reached = fit(reached, tuple(source.meta["val"].shape))
                    masks[source] = masks[source] | reached if source in masks else reached
        height, width = self.size
        mask = masks[self.trace.source].any(2)[:, 0].expand(len(self.layers), height, width)
        return {layer: (mask[i].clone(), bool(exact[i])) for i, layer in enumerate(self.layers)}

    def _related(self, node, index):
        if (node, index) not in self._relations:
            self._relations[node, index] = relations(self.trace, node, index)
        return self._relations[node, index]

    def _places(self):
        """Row, column and cost (see rules.py) of the layers' nodes, and every map that a change of resolution made.

        Where a layer's own map has the size of such an earlier map, it sits where that one sits: shifted and shuffled
        copies in between do not move the feature, although its content comes from elsewhere.
        """
        needed, todo = set(), [n for n in self.trace.outputs.values() if n in self.trace.live]
        while todo:
            node = todo.pop()
            if node not in needed:
                needed.add(node)
                todo += [n for n in node.all_input_nodes if n in self.trace.live]
        height, width = self.size
        rows = torch.arange(height, dtype=torch.float64)[:, None].expand(height, width)
        cols = torch.arange(width, dtype=torch.float64).expand(height, width)
        places = {self.trace.source: torch.stack([rows, cols, torch.zeros(height, width)])[:, None, None]}
        remaining = {n: sum(user in needed for user in n.users) for n in needed}
        keep = set(self.trace.outputs.values())
        items, maps = {}, [_Map(0, 0.0, (height, width), torch.stack([rows, cols], -1))]
        for order, node in enumerate(self.trace.nodes):
            if node not in needed or node is self.trace.source:
                continue
            if _is_item(node):
                places[node] = items[node.args]
                if (found := self._new_map(order, node.args, places[node])) is not None:
                    maps.append(found)
            elif isinstance(node.meta["val"], (tuple, list)):
                for user in node.users:
                    if user in needed:
                        items[user.args] = self._place(node, user.args[1], places)
            else:
                places[node] = self._place(node, None, places)
                if (found := self._new_map(order, (node, None), places[node])) is not None:
                    maps.append(found)
            for source in node.all_input_nodes:  # only what is still wanted stays in memory
                if source in remaining:
                    remaining[source] -= 1
                    if not remaining[source] and source not in keep:
                        places.pop(source, None)
        return places, maps

    def _new_map(self, order, related, place):
        inputs, _ = self._related(*related)
        before, after = inputs[0][0].meta["val"].shape if inputs else (), self.trace.nodes[order].meta["val"].shape
        changes = len(after) == 4 and before[-2:] != after[-2:] and after[0] == 1
        if changes and any(isinstance(step, Window) for step in inputs[0][1]):
            centers = mix(place, [1, 2])[:, 0, 0].expand(3, *after[2:])
            return _Map(order, float(centers[2].max()), tuple(after[2:]), centers[:2].permute(1, 2, 0))
        return None

    def _place(self, node, index, places):
        inputs, _ = self._related(node, index)
        found = []
        for source, steps in inputs:
            place = places[source]
            for step in steps:
                place = step.forward(place)
            found.append(place)
        value = node.meta["val"] if index is None else node.meta["val"][index]
        place = union(found)
        return place.reshape(3, *[1] * (value.ndim + 1 - place.ndim), *place.shape[1:])


def receptive_field(model, layer, input_size=(224, 224), position=None):
    """The input pixels that can reach the feature of ``layer`` at ``position``.

    Structural: it does not depend on weights (zero ones included), on the precision or on the image. It is exact,
    also where it is no rectangle (permutations, random offsets, attention), unless the model selects by value (sort,
    top-k, indices computed from the image) or masks attention; :class:`Reach` tells which.

    Args:
        model: any ``nn.Module`` that takes images (N, C, H, W). It is left as it was.
        layer: a name as in ``model.named_modules()``. Its output may be (N, C, H, W), (N, H, W, C), tokens (N, L, C)
            with or without class tokens, (N, C), or a tuple, of which the first tensor counts. A layer that runs
            several times counts with its last run.
        input_size: (H, W) in pixels; (C, H, W) where the first convolution does not tell C; one number for a square.
        position: (row, column) on the feature map; None: (H//2, W//2).

    Returns:
        Bool tensor (H, W) on the CPU.

    Raises:
        ValueError: unknown layer, position or input size.
        NotImplementedError: an operation without a rule, with the layer that calls it.
    """
    reach = Reach(model, [layer], input_size)
    mask, _ = reach.masks({layer: reach.grids[layer].position(position)})[layer]
    return mask


class Disagreement(NamedTuple):
    """A pixel where the network does not do what the mask says; ``reached`` is what the network did."""

    row: int
    col: int
    reached: bool


def check_receptive_field(model, layer, input_size=(224, 224), position=None, pixels=64, seed=0, batch_size=16):
    """Compare a receptive field with the network itself, which is given NaN in one input pixel at a time.

    A third of the pixels each is drawn from inside the mask, outside of it and along its border.

    Args:
        pixels: how many pixels to try; None: all of them.
        batch_size: images per forward pass.

    Returns:
        list of :class:`Disagreement`; empty when mask and network agree. For a mask that is only an upper bound,
        pixels inside it that do not reach the feature are no disagreement.
    """
    reach = Reach(model, [layer], input_size)
    grid = reach.grids[layer]
    position = grid.position(position)
    mask, exact = reach.masks({layer: position})[layer]
    chosen = _sample(mask, pixels, torch.Generator().manual_seed(seed))
    image, found = blank_input(model, input_size), []
    module = dict(model.named_modules())[layer]
    seen = []

    def look(module, args, output):
        features = grid.pick(first_tensor(output, layer), position)
        seen[:] = features.isnan().flatten(1).any(1).tolist()

    handle = module.register_forward_hook(look)
    try:
        # cuDNN may choose Winograd or FFT, which carry NaN across a whole tile.
        with evaluating(model), torch.no_grad(), torch.backends.cudnn.flags(enabled=False):
            for batch in chosen.split(batch_size):
                images = image.repeat(len(batch), 1, 1, 1)
                images[torch.arange(len(batch)), :, batch[:, 0], batch[:, 1]] = math.nan
                model(images)
                for (row, col), reached in zip(batch.tolist(), seen, strict=True):
                    inside = bool(mask[row, col])
                    if reached != inside and (exact or reached):
                        found.append(Disagreement(row, col, reached))
    finally:
        handle.remove()
    return found


def _sample(mask, pixels, generator):
    if pixels is None or pixels >= mask.numel():
        return torch.ones_like(mask).nonzero()
    padded = torch.nn.functional.pad(mask[None, None].float(), (1, 1, 1, 1), mode="replicate")
    spread = torch.nn.functional.max_pool2d(padded, 3, 1)[0, 0] > 0
    shrunk = torch.nn.functional.max_pool2d(-padded, 3, 1)[0, 0] < 0
    groups = [(spread & ~shrunk).nonzero(), mask.nonzero(), (~mask).nonzero()]
    chosen = []
    for number, group in enumerate(groups):
        share = pixels // 3 + (number < pixels % 3)
        chosen.append(group[torch.randperm(len(group), generator=generator)[:share]])
    return torch.cat(chosen).unique(dim=0)


def _is_item(node):
    return node.op == "call_function" and getattr(node.target, "__name__", "") == "getitem"


def _grid(layer, shape, place, maps):
    """Recognise the layout of a layer's output by the dimensions along which its place in the image changes."""
    place = compact(place)
    varies = [i for i in range(len(shape)) if place.shape[i + 1] > 1]
    if len(shape) == 4:
        by_row = [d for d in varies if _changes(place[0], d)]
        by_col = [d for d in varies if _changes(place[1], d)]
        last = (1 in by_row and 2 not in by_row) or (2 in by_col and 3 not in by_col)
        if not by_row and not by_col:  # everything sits in the middle: only the shape can tell
            last = shape[1] == shape[2] != shape[3]
        layout, (height, width), channel = ("NHWC", shape[1:3], 3) if last else ("NCHW", shape[2:], 1)
        place = mix(place, [1, channel + 1])
        centers = place[:2].expand(2, 1, *[1 if d == channel else shape[d] for d in (1, 2, 3)])
        centers = centers.reshape(2, height, width).permute(1, 2, 0)
        return Grid(layer, layout, height, width, _nearest_map(maps, (height, width), centers))
    if len(shape) == 3 and shape[0] == 1:
        dim = 2 if 2 in varies and 1 not in varies else 1
        place = mix(place, [4 - dim]).expand(3, 1, *[shape[d] if d == dim else 1 for d in (1, 2)]).reshape(3, -1)
        index = _lattice(place)
        if index is None:  # tokens that all sit in the middle: the image's tokens come last, in order
            sizes = [m.size for m in maps if 0 <= shape[dim] - math.prod(m.size) <= 16]
            if sizes:
                size = max(sizes, key=math.prod)
                index = torch.arange(shape[dim] - math.prod(size), shape[dim]).reshape(size)
        if index is not None:
            centers = _nearest_map(maps, tuple(index.shape), place[:2, index].permute(1, 2, 0))
            return Grid(layer, "tokens" if dim == 1 else "rows", *index.shape, centers, index)
    if len(shape) == 2:
        return Grid(layer, "channels", 1, 1, mix(place, [1, 2])[:2].reshape(1, 1, 2))
    raise ValueError(f"layer {layer!r} gives a tensor of {'×'.join(map(str, shape))}, which is no map of features")


def _nearest_map(maps, size, centers):
    fitting = [m for m in maps if m.size == tuple(size)]
    return min(fitting, key=lambda m: m.cost).centers if fitting else centers


def _changes(values, dim):
    return bool((values != values.narrow(dim, 0, 1)).any())


def _lattice(place):
    """Token numbers (rows, columns) of the tokens that lie on a lattice; None if there is no such lattice."""
    least = place[2].min()
    if not torch.isfinite(least):
        return None
    for tokens in ((place[2] <= least + 1e-6).nonzero()[:, 0], torch.isfinite(place[2]).nonzero()[:, 0]):
        rows, row = torch.unique((place[0, tokens] * 1e3).round(), return_inverse=True)
        cols, col = torch.unique((place[1, tokens] * 1e3).round(), return_inverse=True)
        if len(rows) * len(cols) == len(tokens):
            index = torch.full((len(rows), len(cols)), -1)
            index[row, col] = tokens
            if (index >= 0).all():
                return index
    return None
