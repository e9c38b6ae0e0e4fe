"""Fields between two layers, and the projective field: which features a pixel reaches."""

from typing import NamedTuple

import torch

from ctxnet.measure.receptive_field import Reach
from ctxnet.measure.rules import fit, union

_ROWS = 64  # features followed at once; more take more memory


class Field(NamedTuple):
    """A bool mask, and whether it is exact or an upper bound."""

    mask: torch.Tensor
    exact: bool


def field_in_layer(model, layer, other, input_size=(224, 224), position=None):
    """The features of ``other``, a layer before ``layer``, that can reach the feature of ``layer`` at ``position``.

    Structural, as :func:`ctxnet.receptive_field`. What goes around ``other``, such as a skip connection, does not count.

    Args:
        model, layer, input_size, position: as for :func:`ctxnet.receptive_field`.
        other: a name as in ``model.named_modules()``.

    Returns:
        :class:`Field` whose mask has the sizes of the map of ``other``, such as (H, W); true where any of its channels
        reaches any channel of the feature.

    Raises:
        ValueError: unknown layers or position, or nothing of ``other`` lies on the way to ``layer``.
        NotImplementedError: an operation without a rule.
    """
    reach = Reach(model, list(dict.fromkeys([layer, other])), input_size)
    grid = reach.grids[layer]
    mark = grid.mark(_shape(reach, layer), grid.position(position))[None]
    target = _made(reach, other)
    if _made(reach, layer) is target:
        return Field(on_map(reach, layer, mark)[0], True)
    found, exact = walk(reach, {_made(reach, layer): mark}, target)
    if found is None:
        raise ValueError(f"layer {other!r} does not lie on a way from the image to layer {layer!r}")
    return Field(on_map(reach, other, found)[0], bool(exact[0]))


def projective_field(model, layer, pixel, input_size=(224, 224)):
    """The features of ``layer`` that a pixel of the image can reach: the receptive fields' relation read the other way.

    Args:
        model, layer, input_size: as for :func:`ctxnet.receptive_field`.
        pixel: (row, column) in the image, or as many coordinates as it has dimensions.

    Returns:
        :class:`Field` whose mask has the sizes of the layer's map. It is exact when the fields of all features are.
        Takes one walk through the graph for every 64 features.

    Raises:
        ValueError: unknown layer, or a pixel outside of the image.
        NotImplementedError: an operation without a rule.
    """
    reach = Reach(model, [layer], input_size)
    pixel = tuple(int(p) for p in pixel)
    if len(pixel) != len(reach.size) or any(not 0 <= p < n for p, n in zip(pixel, reach.size, strict=True)):
        raise ValueError(f"pixel {pixel} lies outside the image of {'×'.join(map(str, reach.size))} pixels")
    seen, exact = [], True
    for masks, all_exact in fields(reach, layer):
        seen.append(masks[(slice(None), *pixel)])
        exact &= all_exact
    return Field(torch.cat(seen).reshape(sizes(reach.grids[layer])), exact)


def fields(reach, layer, positions=None, skip=None):
    """Receptive fields of many features of one layer: yields (bool (rows, *image sizes), whether all are exact).

    Args:
        positions: list of them; None: all, row by row.
        skip: as for :func:`walk`.
    """
    grid = reach.grids[layer]
    if positions is None:
        positions = [tuple(p) for p in torch.ones(sizes(grid)).nonzero().tolist()]
    for start in range(0, len(positions), _ROWS):
        part = positions[start : start + _ROWS]
        marks = torch.stack([grid.mark(_shape(reach, layer), p) for p in part])
        found, exact = walk(reach, {reach.trace.outputs[layer]: marks}, reach.trace.source, skip)
        if found is None:
            yield torch.zeros(len(part), *reach.size, dtype=torch.bool), bool(exact.all())
        else:
            yield found.any(2)[:, 0].expand(len(part), *reach.size), bool(exact.all())


def walk(reach, marks, target, skip=None):
    """Go back from marked elements to the node ``target``.

    Args:
        reach: :class:`ctxnet.measure.receptive_field.Reach`.
        marks: node -> bool tensor with one row per question, compact along dimensions that are alike.
        target: a node of the trace.
        skip: a function of (node, index, source, steps) that says what to follow instead of ``steps``: a list of
            steps, or None for nothing.

    Returns:
        (mask over the target or None where nothing arrives, bool (rows,): whether each is exact)
    """
    masks, parts = dict(marks), {}
    rows = len(next(iter(masks.values())))
    exact = torch.ones(rows, dtype=torch.bool)
    for node in reversed(reach.trace.nodes):
        if node is target:
            return masks.get(node), exact
        found = [(None, masks.pop(node))] if node in masks else list(parts.pop(node, {}).items())
        for index, mask in found:
            if node.op == "call_function" and getattr(node.target, "__name__", "") == "getitem":
                parent, item = node.args
                of_parent = parts.setdefault(parent, {})
                of_parent[item] = of_parent[item] | mask if item in of_parent else mask
                continue
            inputs, node_exact = reach._related(node, index)
            if not node_exact:
                exact &= ~mask.reshape(rows, -1).any(1)
            for source, steps in inputs:
                steps = steps if skip is None else skip(node, index, source, steps)
                if steps is None:
                    continue
                reached = mask
                for step in reversed(steps):
                    reached = step.back(reached)
                reached = fit(reached, tuple(source.meta["val"].shape))
                masks[source] = masks[source] | reached if source in masks else reached
    return None, exact


def places(reach, instead=None):
    """Where the elements of every value on the way to the layers sit: node -> float64 (coordinates and cost, …).

    See ``ctxnet.measure.rules`` for what the cost is. Of a value with several parts, each part is a node.
    ``instead``: a function of (node, index, source, steps, place of the source) that gives the steps to take.
    """
    n = len(reach.size)
    axes = torch.meshgrid(*(torch.arange(s, dtype=torch.float64) for s in reach.size), indexing="ij")
    found = {reach.trace.source: torch.stack([*axes, torch.zeros(reach.size)])[:, None, None]}
    for node in _ancestors(reach):
        if node is reach.trace.source or isinstance(node.meta["val"], (tuple, list)):
            continue
        item = node.op == "call_function" and getattr(node.target, "__name__", "") == "getitem"
        made, index = node.args if item else (node, None)
        several = []
        for source, steps in reach._related(made, index)[0]:
            place = found[source]
            steps = steps if instead is None else instead(made, index, source, steps, place)
            for step in steps:
                place = step.forward(place)
            several.append(place)
        place = union(several)
        found[node] = place.reshape(n + 1, *[1] * (node.meta["val"].ndim + 1 - place.ndim), *place.shape[1:])
    return found


def _ancestors(reach):
    needed, todo = set(), list(reach.trace.outputs.values())
    while todo:
        node = todo.pop()
        if node not in needed:
            needed.add(node)
            todo += [n for n in node.all_input_nodes if n in reach.trace.live]
    return [node for node in reach.trace.nodes if node in needed]


def on_map(reach, layer, mask):
    """A mask (rows, *shape of a layer's output) as one over its map: (rows, *sizes)."""
    grid, shape = reach.grids[layer], _shape(reach, layer)
    every = [tuple(p) for p in torch.ones(sizes(grid)).nonzero().tolist()]
    mask = mask.expand(-1, *shape)
    columns = [(mask & grid.mark(shape, p)).flatten(1).any(1) for p in every]
    return torch.stack(columns, 1).reshape(len(mask), *sizes(grid))


def sizes(grid):
    """The sizes of a layer's map."""
    return tuple(grid.centers.shape[:-1])


def _shape(reach, layer):
    return tuple(reach.trace.outputs[layer].meta["val"].shape)


def _made(reach, layer):
    """The node that later layers read: a trace keeps a copy of each layer's output."""
    node = reach.trace.outputs[layer]
    return node.args[0] if node.op == "call_function" and "clone" in str(node.target) else node
