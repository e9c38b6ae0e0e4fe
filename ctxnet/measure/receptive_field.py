"""Receptive fields by walking a model's graph: which input pixels *can* reach a feature, whatever the weights."""

import math
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch

from ctxnet.measure.asking import PLAIN, ask
from ctxnet.measure.graph import Watch, named_layers, trace
from ctxnet.measure.isolation import isolated
from ctxnet.measure.layout import declared_labels, find_dims, follow_labels, joined_labels, start_labels
from ctxnet.measure.rules import Kernel, Pick, Window, compact, fit, mix, relations, union


@dataclass(frozen=True)
class Grid:
    """How the output of a layer lies on a map of features, and where in the image each feature sits.

    Attributes:
        layer: its name.
        shape: of its output.
        dims: dimensions of the output that make up the map, in their order, None for one of size 1 that the output lacks;
            for tokens the one that counts them.
        size: of the map, one number per dimension of the image that the map still has.
        centers: float64 (*size, n), in pixels of an image of n dimensions.
        index: for tokens, the number of each feature's token, int64 ``size``; class and register tokens are left out.
    """

    layer: str
    shape: tuple
    dims: tuple
    size: tuple
    centers: torch.Tensor
    index: torch.Tensor | None = None

    @property
    def height(self):
        return self.size[0]

    @property
    def width(self):
        return self.size[-1]

    def position(self, position):
        """Check a position, or give the middle one (H//2, W//2).

        Raises:
            ValueError: when it lies outside the map.
        """
        if position is None:
            return tuple(size // 2 for size in self.size)
        position = (position,) if isinstance(position, int) else tuple(int(p) for p in position)
        if len(position) != len(self.size) or any(not 0 <= p < size for p, size in zip(position, self.size, strict=False)):
            ranges = ", ".join(f"{name} 0…{size - 1}" for name, size in zip(_names(len(self.size)), self.size, strict=True))
            sizes = "×".join(map(str, self.size))
            raise ValueError(f"position {position} lies outside the {sizes} map of layer {self.layer!r}: {ranges}")
        return position

    def center(self, position):
        return tuple(self.centers[position].tolist())

    def pick(self, output, position):
        """The features (N, …) at a position of a layer's output."""
        return output[self._where(position)]

    def mark(self, shape, position):
        """Bool mask of ``shape``, compact along all dimensions but those of the map, true at a position."""
        mask = torch.zeros([shape[d] if d in self.dims else 1 for d in range(len(shape))], dtype=torch.bool)
        mask[self._where(position)] = True
        return mask

    def _where(self, position):
        where = [slice(None)] * len(self.shape)
        places = position if self.index is None else [int(self.index[position])]
        for dim, place in zip(self.dims, places, strict=True):
            if dim is not None:
                where[dim] = place
        return tuple(where)


def _names(n):
    return {1: ("positions",), 2: ("rows", "columns"), 3: ("planes", "rows", "columns")}[n]


class _Map(NamedTuple):
    order: int
    cost: float
    size: tuple
    centers: torch.Tensor


class Reach:
    """The reach of several layers of a model, from one trace.

    Args:
        model: any module that takes one image tensor (N, C, H, W), signal (N, C, L) or volume (N, C, D, H, W).
        layers: names as in ``model.named_modules()``.
        input_size: sizes with or without channels, or one number.
        layout: see :func:`receptive_field`.
        asked: an :class:`ctxnet.measure.asking.Ask`.
    """

    def __init__(self, model, layers, input_size, layout=None, asked=PLAIN):
        self.asked = asked
        with isolated(model) as made:
            self.trace = trace(made, layers, input_size, asked)
        self.layers = list(layers)
        self._relations = {}
        self.size = tuple(self.trace.source.meta["val"].shape[2:])
        self.culprits = {}
        places, labels, maps = self._places()
        self.grids = {}
        for layer, node in self.trace.outputs.items():
            if node not in self.trace.live:
                raise ValueError(f"the output of layer {layer!r} does not depend on the image")
            before = [m for m in maps if m.order <= self.trace.nodes.index(node)]
            shape = tuple(node.meta["val"].shape)
            self.grids[layer] = find_grid(layer, shape, places[node], labels[node], before, self.size, layout)

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
                    touched = mask.reshape(len(mask), -1).any(1)
                    for number in (touched & exact).nonzero()[:, 0].tolist():
                        self.culprits[self.layers[number]] = (self.trace.path(node), node.target._schema.name)
                    exact &= ~touched
                for source, steps in inputs:
                    reached = mask
                    for step in reversed(steps):
                        reached = step.back(reached)
                    reached = fit(reached, tuple(source.meta["val"].shape))
                    masks[source] = masks[source] | reached if source in masks else reached
        if self.trace.source not in masks:  # whatever was asked for is shut off from the image by masks
            masks[self.trace.source] = torch.zeros(len(self.layers), 1, 1, *[1] * len(self.size), dtype=torch.bool)
        mask = masks[self.trace.source].any(2)[:, 0].expand(len(self.layers), *self.size)
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
        axes = torch.meshgrid(*(torch.arange(size, dtype=torch.float64) for size in self.size), indexing="ij")
        places = {self.trace.source: torch.stack([*axes, torch.zeros(self.size)])[:, None, None]}
        labels = {self.trace.source: start_labels(tuple(self.trace.source.meta["val"].shape))}
        remaining = {n: sum(user in needed for user in n.users) for n in needed}
        keep = set(self.trace.outputs.values())
        items, named, maps = {}, {}, [_Map(0, 0.0, self.size, torch.stack(axes, -1))]
        for order, node in enumerate(self.trace.nodes):
            if node not in needed or node is self.trace.source:
                continue
            if _is_item(node):
                places[node], labels[node] = items[node.args], named[node.args]
                if (found := self._new_map(order, node.args, places[node])) is not None:
                    maps.append(found)
            elif isinstance(node.meta["val"], (tuple, list)):
                for user in node.users:
                    if user in needed:
                        items[user.args] = self._place(node, user.args[1], places)
                        named[user.args] = self._label(node, user.args[1], labels)
            else:
                places[node] = self._place(node, None, places)
                labels[node] = self._label(node, None, labels)
                if (found := self._new_map(order, (node, None), places[node])) is not None:
                    maps.append(found)
            for source in node.all_input_nodes:  # only what is still wanted stays in memory
                if source in remaining:
                    remaining[source] -= 1
                    if not remaining[source] and source not in keep:
                        places.pop(source, None)
        return places, labels, maps

    def _new_map(self, order, related, place):
        inputs, _ = self._related(*related)
        before, after = inputs[0][0].meta["val"].shape if inputs else (), self.trace.nodes[order].meta["val"].shape
        n = len(self.size)
        changes = len(after) == n + 2 and before[-n:] != after[-n:] and after[0] == 1
        if changes and any(isinstance(step, (Window, Kernel)) for step in inputs[0][1]):
            centers = mix(place, [1, 2])[:, 0, 0].expand(n + 1, *after[2:])
            return _Map(order, float(centers[-1].max()), tuple(after[2:]), centers[:-1].movedim(0, -1))
        return None

    def _label(self, node, index, labels):
        inputs, _ = self._related(node, index)
        shape = tuple((node.meta["val"] if index is None else node.meta["val"][index]).shape)
        labels = joined_labels([follow_labels(labels[source], source, steps, shape) for source, steps in inputs], shape)
        return declared_labels(labels, [step for _, steps in inputs for step in steps], len(self.size))

    def _place(self, node, index, places):
        inputs, _ = self._related(node, index)
        if (alike := _parts_alike(inputs, places)) is not None:
            return alike
        found = []
        for source, steps in inputs:
            place = places[source]
            for step in steps:
                place = step.forward(place)
            found.append(place)
        value = node.meta["val"] if index is None else node.meta["val"][index]
        place = union(found)
        return place.reshape(len(place), *[1] * (value.ndim + 1 - place.ndim), *place.shape[1:])


def _parts_alike(inputs, places):
    """Where a concatenation sits whose parts sit at the same places all along it: there, once; None if it is none such.

    Without this every channel behind every skip of a U-Net would have places of its own.
    """
    picks = [steps[0] for _, steps in inputs if len(steps) == 1 and type(steps[0]) is Pick and not steps[0].squeeze]
    parts = [places[source] for source, _ in inputs]
    if len(picks) < 2 or len(picks) < len(inputs) or len({(pick.dim, len(pick.source)) for pick in picks}) > 1:
        return None
    full = torch.stack([pick.known for pick in picks]).sum(0)
    if bool((full != 1).any()) or any(p.shape[picks[0].dim] > 1 or not bool(torch.isfinite(p).all()) for p in parts):
        return None
    if any(not torch.equal(*torch.broadcast_tensors(p[:-1], parts[0][:-1])) for p in parts[1:]):
        return None
    cost = torch.stack(torch.broadcast_tensors(*[p[-1:] for p in parts])).amin(0)
    return torch.cat([parts[0][:-1].expand(-1, *cost.shape[1:]), cost])


def receptive_field(
    model, layer, input_size=(224, 224), position=None, *,
    layout=None, inputs=None, of=None, output=None, call=None, return_exact=False,
):  # fmt: skip
    """The input pixels that can reach the feature of ``layer`` at ``position``.

    Structural: it does not depend on learned weights (zero ones included), on the precision or on the image. It is exact,
    also where it is no rectangle (permutations, random offsets, masks, attention), unless the model selects by value (sort,
    top-k, indices computed from the image); then it is an upper bound and says so. What only algebra cancels still counts
    as seen: in ``x - x.roll(4, -1).roll(-4, -1)`` every pixel reaches the feature, although it moves nothing.

    Args:
        model: any ``nn.Module`` that takes images (N, C, H, W), signals (N, C, L) or volumes (N, C, D, H, W). A copy of it
            is measured; it is left as it was.
        layer: a name as in ``model.named_modules()``. Its output may have its dimensions in any order, with or without
            channels, or be tokens with or without class tokens. Nothing behind it runs.
        input_size: (H, W) in pixels, (L,) or (D, H, W); with C in front where the first convolution does not tell it; one
            number for all sizes alike.
        position: one number per dimension of the map; None: the middle, (H//2, W//2).
        layout: letters for the dimensions of the layer's output where they cannot be followed from the image: N batch, C
            features, D, H, W as in the image, L tokens; such as "NLC".
        inputs: all that the model takes where that is not one image: a tuple of arguments or a dict of keywords, which may
            hold lists and dicts of tensors. ``input_size`` does not count then. Boolean and whole numbers among them are
            wiring, as constants of the model are; floating ones may hold any value, as weights may.
        of: position, keyword or path (a tuple) of the one among the inputs that is asked about; None: the first of floating
            point with at least three dimensions.
        output: index, key or path of the tensor that is meant in the output of the layer; None: the first one.
        call: which run of a layer that runs several times, 0, 1, … or −1, −2, … from the end; None: the last one.
        return_exact: also return whether the mask is exact.

    Returns:
        Bool tensor of the image's size on the CPU, or (mask, bool).

    Warns:
        UserWarning: that the mask is an upper bound, with the layer and the operation at fault; not with ``return_exact``.

    Raises:
        ValueError: unknown layer, position or input size; a layout that nothing decides.
        NotImplementedError: an operation without a rule, with the layer that calls it.
    """
    reach = Reach(model, [layer], input_size, layout, ask(inputs, of, output, call))
    mask, exact = reach.masks({layer: reach.grids[layer].position(position)})[layer]
    if return_exact:
        return mask, exact
    if not exact:
        where, call = reach.culprits[layer]
        warnings.warn(
            f"the receptive field of layer {layer!r} is an upper bound: layer {where!r} calls {call.replace('::', '.')}, "
            "which chooses by values; return_exact=True returns this as a flag", stacklevel=2,
        )  # fmt: skip
    return mask


class Disagreement(NamedTuple):
    """A pixel where the network does not do what the mask says; ``reached`` is what the network did."""

    row: int
    col: int
    reached: bool


def check_receptive_field(
    model, layer, input_size=(224, 224), position=None, pixels=64, seed=0, batch_size=16, *,
    layout=None, inputs=None, of=None, output=None, call=None, draws=2,
):  # fmt: skip
    """Compare a receptive field with the network itself, of which one input pixel is changed at a time.

    Independent of the rules: a copy of the network in double precision computes on random images, and a pixel reaches the
    feature if a step of it changes any of its values. A third of the pixels each is drawn from inside the mask, outside of
    it and along its border.

    Args:
        pixels: how many pixels to try; None: all of them.
        batch_size: images per forward pass.
        draws: random images for every pixel. A pixel inside the mask that none of them moves is no disagreement unless a
            NaN in its place reaches the feature neither: dead ReLUs and lost maxima hide it.
        layout, inputs, of, output, call: as for :func:`receptive_field`.

    Returns:
        list of :class:`Disagreement`; empty when mask and network agree. For a mask that is only an upper bound,
        pixels inside it that do not reach the feature are no disagreement.
    """
    reach = Reach(model, [layer], input_size, layout, ask(inputs, of, output, call))
    grid = reach.grids[layer]
    position = grid.position(position)
    mask, exact = reach.masks({layer: position})[layer]
    chosen = _sample(mask, pixels, torch.Generator().manual_seed(seed))
    reached = torch.zeros(len(chosen), dtype=torch.bool)
    shape = tuple(reach.trace.source.meta["val"].shape[1:])
    with isolated(model, torch.float64) as made, _double(), torch.no_grad(), torch.backends.cudnn.flags(enabled=False):
        look = _Look(made, layer, reach, position)
        for draw in range(draws):
            generator = torch.Generator().manual_seed(seed + draw)
            image = torch.randn(1, *shape, generator=generator, dtype=torch.float64).to(look.device)
            before = look(image)
            for start in range(0, len(chosen), batch_size):
                batch = chosen[start : start + batch_size]
                after = torch.cat([look(_changed(image, pixel, 3.0)) for pixel in batch])
                reached[start : start + batch_size] |= ((after - before).abs() > 1e-12).any(1).cpu()
        for number in (~reached & exact & mask[tuple(chosen.T)]).nonzero()[:, 0].tolist():
            reached[number] = bool(look(_changed(torch.zeros_like(image), chosen[number], math.nan)).isnan().any())
    found = []
    for pixel, moved in zip(chosen.tolist(), reached.tolist(), strict=True):
        inside = bool(mask[tuple(pixel)])
        if moved != inside and (exact or moved):
            found.append(Disagreement(*(pixel if len(pixel) == 2 else (0, *pixel)[-2:]), moved))
    return found


@contextmanager
def _double():
    """Constants that a forward makes, such as ``torch.tensor([0.5])``, are of double precision as well."""
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        yield
    finally:
        torch.set_default_dtype(before)


class _Look:
    """Calls a model and gives the features (1, values) of one position of a layer."""

    def __init__(self, model, layer, reach, position):
        self.model, self.layer, self.grid, self.position = model, layer, reach.grids[layer], position
        self.modules, self.counts = named_layers(model, [layer]), reach.trace.counts
        self.device = next((p.device for p in model.parameters()), torch.device("cpu"))
        self.asked = reach.asked.like(model)

    def __call__(self, image):
        seen = {}
        with Watch(self.modules, [self.layer], seen.__setitem__, self.counts, self.asked) as watch:
            watch.run(self.model, image)
        return self.grid.pick(seen[self.layer], self.position).flatten()[None]


def _changed(image, pixel, by):
    image = image.clone()
    image[(0, slice(None), *pixel.tolist())] += by
    return image


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


def find_grid(layer, shape, place, labels, maps, image_size, layout):
    """The :class:`Grid` of a layer's output, see :func:`ctxnet.measure.layout.find_dims`."""
    n = len(image_size)
    dims, axes, index = find_dims(layer, shape, compact(place), labels, n, layout)
    keep = [d for d in dims if d is not None]
    rest = mix(place, [d + 1 for d in range(len(shape)) if d not in keep])
    rest = rest.expand(n + 1, *[shape[d] if d in keep else 1 for d in range(len(shape))])[:-1]
    if index is not None:
        size = tuple(index.shape)
        centers = rest.reshape(n, -1)[:, index].movedim(0, -1)
    else:
        size = tuple(1 if d is None else shape[d] for d in dims)
        centers = rest.reshape(n, *size).movedim(0, -1)
    return Grid(layer, tuple(shape), tuple(dims), size, _nearest_map(maps, size, axes, centers), index)


def _nearest_map(maps, size, axes, centers):
    """Where an earlier map of that size sits: shifted and shuffled copies in between do not move a feature."""
    order = sorted(range(len(axes)), key=axes.__getitem__)
    fitting = [m for m in maps if m.size == tuple(size[i] for i in order)]
    return min(fitting, key=lambda m: m.cost).centers.permute(*axes, len(axes)) if fitting else centers
