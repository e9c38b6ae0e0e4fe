"""Which dimensions of a layer's output are its map: followed from the image, never told from sizes.

Every dimension of a value carries *factors*, pairs of a name and a size whose product is the dimension's size: "n" (batch),
"c" (channels), 0, 1, … (the dimensions of the image) or None (it came from nowhere known). Flattening joins factors,
unflattening takes them apart again, a permutation moves them. Where that thread is lost, as behind a shuffle of tokens, the
places of the elements (see ``ctxnet.measure.rules``) tell: a dimension is the map's rows if rows change along it alone.
"""

import itertools
import math
from typing import NamedTuple

import torch

from ctxnet.measure.rules import (
    Expand,
    Folded,
    Forget,
    Kernel,
    Linear,
    Mix,
    Move,
    Permute,
    Pick,
    Reshape,
    Whole,
    Window,
    mix,
)

_LETTERS = {"D": -3, "H": -2, "W": -1}


def start_labels(shape):
    """Factors of the image (N, C, …)."""
    return [(("n", shape[0]),), (("c", shape[1]),), *(((i, size),) for i, size in enumerate(shape[2:]))]


def follow_labels(labels, source, steps, shape):
    """Factors of a call's output of ``shape``, as far as they come from one of its inputs by these steps."""
    labels = list(labels)
    for step in steps:
        labels = _through(labels, step)
        if labels is None:
            return [((None, size),) for size in shape]
    return _fitted(labels, shape, mixed=any(isinstance(step, Mix) for step in steps))


def joined_labels(several, shape):
    """Factors from several inputs: of each dimension the first that are known.

    Of a concatenation all parts must come from the same dimension of the image.
    """
    return [_joined([labels[d] for labels in several], size) for d, size in enumerate(shape)]


def declared_labels(labels, steps, n):
    """Factors behind a call that works along the last n dimensions of (N, C, …): a convolution, pooling, interpolation.

    Such a call says which dimensions are the map, also of one that had lost its thread.
    """
    windows = any(isinstance(step, (Window, Kernel, Folded)) for step in steps)
    if len(labels) != n + 2 or not windows or any(isinstance(step, Permute) for step in steps):
        return labels
    named = {name for factors in labels for name, _ in factors}
    lacking = [axis for axis in range(n) if axis not in named]
    labels = list(labels)
    for d in range(2, n + 2):
        if all(name is None for name, _ in labels[d]) and lacking:
            labels[d] = ((lacking.pop(0), _size(labels[d])),)
    if all(name is None for name, _ in labels[1]):
        labels[1] = (("c", _size(labels[1])),)
    return labels


def _joined(several, size):
    parts = [factors[0][0] for factors in several if isinstance(factors[0][0], _Part)]
    if parts:
        names = {part.name for part in parts}
        whole = len(names) == 1 and sum(part.count for part in parts) == size and len(parts) == len(several)
        return ((names.pop() if whole else None, size),)
    return next((f for f in several if any(name is not None for name, _ in f)), ((None, size),))


class _Part(NamedTuple):
    """In the place of a name: so many positions of a dimension, the others come from other inputs."""

    name: object
    count: int


def _through(labels, step):
    if isinstance(step, Reshape):
        return _regrouped(_fitted(labels, step.before), step.after)
    if isinstance(step, Permute):
        return [labels[d - 1] for d in step.order[1:]]
    if isinstance(step, Whole):
        return None
    if isinstance(step, Mix):
        return [f for d, f in enumerate(labels, 1) if not (step.squeeze and d in step.dims)]
    if isinstance(step, Forget):
        return [((None, _size(f)),) if d == step.dim % len(labels) else f for d, f in enumerate(labels)]
    if isinstance(step, Pick):
        return _picked(labels, step)
    if isinstance(step, Move):
        more = len(step.out_shape) - len(labels)
        kept = step.keeps and more >= 0
        return _fitted([*labels, *[((None, 1),)] * more], step.out_shape) if kept else _moved(labels, step)
    if isinstance(step, Linear):
        return _fitted(labels, step.out_shape) if len(step.out_shape) == len(step.shape) else None
    if isinstance(step, Expand):
        return [*labels, *[((None, 1),)] * (len(step.out_shape) - len(labels))]
    return labels  # windows, channels, contractions and constants leave every dimension where it is


def _moved(labels, step):
    """Factors behind a call that copies elements: known where a dimension is one of the input's, in whatever order."""
    shape, result = tuple(step.out_shape), []
    source = step.source.reshape(shape) - 1
    if bool((source < 0).any()) or len(labels) != len(step.shape):
        return None
    at = torch.unravel_index(source, tuple(step.shape))
    along = [{d for d, size in enumerate(shape) if size > 1 and bool((x.diff(dim=d) != 0).any())} for x in at]
    for d, size in enumerate(shape):
        own = [e for e, dims in enumerate(along) if d in dims]
        whole = len(own) == 1 and along[own[0]] == {d} and step.shape[own[0]] == size
        result.append(labels[own[0]] if whole else ((None, size),))
    if labels[0][0][0] == "n" and shape[0] == step.shape[0] == 1:
        result[0] = labels[0]
    return result


def _picked(labels, step):
    dim = step.dim - 1
    if step.squeeze:
        return labels[:dim] + labels[dim + 1 :]
    count = len(step.source)
    if count == step.size and bool(step.known.all()):  # as it was, or in another order
        return labels
    if not step.joins and not bool(step.known.all()):
        factors = tuple(f for f in labels[dim] if f[1] > 1) or labels[dim][:1]
        name = factors[0][0] if len(factors) == 1 or factors[0][0] == "c" else None  # channels that were repeated, say
        part = _Part(name, int(step.known.sum()))
        return labels[:dim] + [((part, count),)] + labels[dim + 1 :]
    return labels[:dim] + [_resized(labels[dim], count, chosen=True)] + labels[dim + 1 :]


def _size(factors):
    return math.prod(size for _, size in factors)


def _resized(factors, size, mixed=False, chosen=False):
    factors = tuple(f for f in factors if f[1] > 1) or factors[:1]
    if mixed and len(factors) > 1 and any(name == "c" for name, _ in factors):
        return (("c", size),)  # a dense layer over features and rows together makes features
    reduced = size == 1 < _size(factors) and not chosen  # a mean is no longer a row of the image; one of its rows is
    return ((None if reduced else factors[0][0], size),) if len(factors) == 1 else ((None, size),)


def _fitted(labels, shape, mixed=False):
    """Factors whose products are ``shape``: dimensions that broadcasting added are unknown."""
    labels = [((None, 1),)] * (len(shape) - len(labels)) + labels[max(0, len(labels) - len(shape)) :]
    return [f if _size(f) == size else _resized(f, size, mixed) for f, size in zip(labels, shape, strict=True)]


def _regrouped(labels, shape):
    """Factors after a reshape: taken in order; one that is split becomes unknown unless its other part is 1, or channels."""
    waiting = [f for factors in labels for f in factors if f[1] > 1]
    ones = [f for factors in labels for f in factors if f[1] == 1]
    result = []
    for size in shape:
        taken, product = [], 1
        while product < size and waiting:
            name, whole = waiting.pop(0)
            if size % (product * whole) == 0:
                taken.append((name, whole))
                product *= whole
                continue
            part = size // product
            if whole % part:  # it does not come out even: nothing more is known
                return [((None, s),) for s in shape]
            name = "c" if name == "c" else None  # a part of the channels is channels
            taken.append((name, part))
            waiting.insert(0, (name, whole // part))
            product *= part
        result.append(_merged(taken))
    return [f if f else _one(ones, d) for d, f in enumerate(result)]


def _merged(factors):
    """Neighbouring parts of the channels as one factor."""
    result = []
    for name, size in factors:
        if name == "c" and result and result[-1][0] == "c":
            size *= result.pop()[1]
        result.append((name, size))
    return tuple(result)


def _one(ones, dim):
    """A dimension of size 1: which of the lost ones it is cannot matter, the batch apart."""
    name = "n" if dim == 0 and any(n == "n" for n, _ in ones) else None
    return ((name, 1),)


def find_dims(layer, shape, place, labels, n, layout=None):
    """The map of an output.

    Args:
        place: float64 (n + 1, …), where its elements sit.
        labels: its factors.
        layout: letters for its dimensions, such as "NHWC": N batch, C features, D, H, W the image's; L tokens.

    Returns:
        (dims, axes, index): for each dimension of the map that of the output, or None for one of size 1 that the output
        lacks; the image's dimension that it is; for tokens their numbers.

    Raises:
        ValueError: when nothing decides which it is; the line says how ``layout`` does.
    """
    if layout is not None:
        return _by_layout(layer, shape, place, labels, n, layout)
    if shape and shape[0] > 1 and _folded(labels[0], place):
        raise _open(layer, shape, "holds several parts of one image in its batch dimension")
    found = _by_labels(shape, labels, n, place) or _by_places(shape, labels, place, n)
    if found is None:
        raise _open(layer, shape, "is no map whose dimensions can be followed from the image")
    return found


def _folded(factors, place):
    names = {name for name, size in factors if size > 1}
    return "n" in names or place.shape[1] > 1 or names - {None, "c", 0, 1, 2}


def _open(layer, shape, why):
    sizes, letters = "×".join(map(str, shape)), "N" + "C" * max(0, len(shape) - 1)
    return ValueError(
        f"layer {layer!r} gives a tensor of {sizes}, which {why}; say what its dimensions are with layout=, one letter each "
        f"of N, C, D, H, W and L, such as {letters[: max(0, len(shape) - 2)] + 'HW' if len(shape) > 3 else 'NLC'!r}"
    )


def _by_labels(shape, labels, n, place):
    """What the factors say; None where they leave something open."""
    dims, mixed = {}, False
    for d, factors in enumerate(labels):
        large = [f for f in factors if f[1] > 1] or list(factors)
        names = [name for name, _ in large]
        if names == ["n"] or (d == 0 and shape[d] == 1):
            continue
        if len(names) > 1 and set(names) == set(range(n)) and len(names) == n:  # tokens
            return _tokens(d, large, shape)
        if len(names) == 1 and names[0] in range(n):
            if names[0] in dims:
                return None
            dims[names[0]] = d
        elif len(names) > 1 and shape[d] > 1 and names[0] != "c" and set(names) & set(range(n)):
            return None  # a row by a row, say, or rows that channels were shuffled into
        elif None in names and shape[d] > 1 and len(names) > 1:
            mixed = True
    if mixed and len(dims) < n:  # what is unknown among these factors may be what is lacking
        return None
    if len(dims) == n - 1 == len(shape) - 3:  # one is left over: what was spread along it from elsewhere
        left = [d for d in range(1, len(shape)) if d not in dims.values() and not any(name == "c" for name, _ in labels[d])]
        if len(left) == 1:
            dims[next(axis for axis in range(n) if axis not in dims)] = left[0]
    if len(dims) < n:
        unknown = [d for d, f in enumerate(labels) if shape[d] > 1 and any(name is None for name, size in f if size > 1)]
        others = [d for d in range(len(shape)) if shape[d] > 1 and d not in unknown and d not in dims.values()]
        if unknown and (len(shape) != 2 or len(unknown) + len(others) + len(dims) > 1 or place.shape[unknown[0] + 1] > 1):
            return None  # one of the unknown ones may be what is lacking
    behind = range(2, n + 2) if len(shape) == n + 2 else ()
    spare = [d for d in behind if shape[d] == 1 and labels[d][0][0] is None and d not in dims.values()]
    lacking = [axis for axis in range(n) if axis not in dims]
    dims |= dict(zip(lacking, spare[len(spare) - len(lacking) :], strict=False) if len(spare) >= len(lacking) else ())
    order = sorted(dims, key=dims.get)
    axes = [*order]
    for axis in range(n):  # those that the output lacks, at their place
        if axis not in dims:
            axes.insert(min(axis, len(axes)), axis)
    return [dims.get(axis) for axis in axes], axes, None


def _tokens(d, factors, shape):
    """Tokens in the order of the flattening: (dims, axes, index)."""
    axes = [name for name, _ in factors]
    index = torch.arange(shape[d]).reshape([size for _, size in factors])
    return [d], axes, index


def _changes(values, dim):
    """Whether values differ along a dimension; NaN, which sits nowhere, differs from nothing."""
    low = values.nan_to_num(math.inf).amin(dim)
    high = values.nan_to_num(-math.inf).amax(dim)
    return bool((high - low > 1e-9).any())


def _recurs(values, dim):
    """Whether places come again along a dimension after others, as with features that rows were shuffled into."""
    line = values.nan_to_num(math.inf).amin([d for d in range(values.ndim) if d != dim])
    line = (line[torch.isfinite(line)] * 1e3).round()
    return len(torch.unique_consecutive(line)) > len(torch.unique(line))


def _reduced(place, keep):
    """Where the cheapest elements sit along the dimensions ``keep`` of the output, NaN for what sits nowhere.

    The others have size 1.
    """
    place = mix(place, [d + 1 for d in range(place.ndim - 1) if d not in keep])
    return torch.cat([place[:-1].masked_fill(place[-1:] == math.inf, math.nan), place[-1:]])


def _by_places(shape, labels, place, n):
    """The dimensions along which the elements' places change; None where there is no such choice, or more than one.

    One that holds the image's channels first is none of them, wherever its elements come from; nor is the one before n
    others that hold the image's dimensions or have the size 1: features may be joined from several places.
    """
    channels = {d for d, factors in enumerate(labels) if next((name for name, size in factors if size > 1), None) == "c"}
    behind = range(2, n + 2) if len(shape) == n + 2 else ()
    held = [d for d in behind if any(name in range(n) for name, _ in labels[d])]
    if held and all(d in held or shape[d] == 1 for d in behind):
        channels.add(1)
    free = [d for d in range(len(shape)) if (d or shape[0] > 1) and d not in channels]
    found = []
    for dims in itertools.permutations(free, n):
        rest = _reduced(place, dims)
        others = [d + 1 for d in range(len(shape)) if d not in dims and place.shape[d + 1] > 1]
        least = place[-1:].amin(others, keepdim=True) if others else place[-1:]
        apart = (rest[-1:] - least).nan_to_num(0.0, posinf=0.0)
        if bool((apart.abs() > 1e-6).any()):
            continue  # what these dimensions leave out would be features of one place that sit at several
        own = all(
            rest.shape[dim + 1] > 1 and _changes(rest[axis], dim) and not _recurs(rest[axis], dim)
            for axis, dim in enumerate(dims)
        )
        if own and not any(
            rest.shape[other + 1] > 1 and _changes(rest[axis], other)
            for axis, dim in enumerate(dims) for other in dims if other != dim
        ):  # fmt: skip
            found.append(dims)
    if len(found) == 1:
        axes = sorted(range(n), key=found[0].__getitem__)
        return [found[0][a] for a in axes], axes, None
    if found or n == 1 or len(shape) != 3:  # tokens are (N, L, C); elsewhere the labels alone tell them from features
        return None
    for d in free:
        rest = _reduced(place, [d])
        if rest.shape[d + 1] == shape[d] > 1:
            found = _lattice(rest.flatten(1))
            if found is not None:
                return [d], *found
    return None


def _lattice(place):
    """(axes, numbers) of the tokens that lie on a lattice, in the order of their flattening; None without such a lattice."""
    least = place[-1].min()
    if not torch.isfinite(least) or place.shape[1] < 2:
        return None
    every, cheapest = torch.isfinite(place[-1]).nonzero()[:, 0], (place[-1] <= least + 1e-6).nonzero()[:, 0]
    for tokens in (cheapest, every):
        if 3 * len(tokens) < 2 * len(every):
            continue  # class tokens are few; what leaves more out is a part of the map
        lines = [torch.unique((at[tokens] * 1e3).round(), return_inverse=True) for at in place[:-1]]
        if math.prod(len(values) for values, _ in lines) == len(tokens) and all(len(values) > 1 for values, _ in lines):
            index = torch.full([len(values) for values, _ in lines], -1)
            index[tuple(line for _, line in lines)] = tokens
            rows = torch.arange(len(tokens)).reshape(index.shape) + tokens.min()
            columns = (torch.arange(len(tokens)).reshape(index.shape[::-1]) + tokens.min()).permute(*range(index.ndim)[::-1])
            axes = list(range(index.ndim))
            if torch.equal(index, rows):
                return axes, index
            if torch.equal(index, columns):  # a transposed map: its first dimension are the columns
                return axes[::-1], index.permute(*axes[::-1])
    return None


def _by_layout(layer, shape, place, labels, n, layout):
    letters = str(layout).upper()
    if len(letters) != len(shape) or set(letters) - set("NCDHWL") or letters.count("L") > 1:
        raise ValueError(
            f"layout={layout!r} does not fit the {len(shape)} dimensions of layer {layer!r}, {'×'.join(map(str, shape))}: "
            f"one letter each of N, C, D, H, W and L"
        )
    dims, axes = [], []
    for d, letter in enumerate(letters):
        if letter in _LETTERS and n + _LETTERS[letter] >= 0:
            dims.append(d)
            axes.append(n + _LETTERS[letter])
        elif letter == "L" and n == 1:
            return [d], [0], None
        elif letter == "L":
            large = [f for f in labels[d] if f[1] > 1]
            if sorted(name for name, _ in large if name is not None) == list(range(n)) and len(large) == n:
                return _tokens(d, large, shape)
            line = _reduced(place, [d]).expand(-1, *[shape[d] if e == d else 1 for e in range(len(shape))])
            found = _lattice(line.flatten(1)) or (list(range(n)), torch.arange(shape[d]).reshape(*[1] * (n - 1), -1))
            return [d], *found
    for axis in range(n):
        if axis not in axes:
            axes.insert(min(axis, len(axes)), axis)
            dims.insert(axes.index(axis), None)
    return dims, axes, None
