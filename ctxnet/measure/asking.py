"""What a model is called with and which of its results is meant, where one image in and one tensor out do not say it."""

import copy
import dataclasses
from typing import NamedTuple

import torch
from torch import nn
from torch.utils import _pytree as pytree

from ctxnet.naming import unknown_name


class Feed:
    """Everything that a model takes, of which one tensor is asked about and is put in anew at every call.

    Args:
        inputs: positional arguments, a tuple or list, or keywords, a dict; either may hold lists and dicts of tensors.
        of: position, keyword or path (a tuple of both) of the tensor asked about; None: the first one of floating point
            with at least three dimensions.
        image: stands there in place of what ``inputs`` holds; (N, C, …).

    Raises:
        ValueError: where there is no such tensor, with what there is.
    """

    def __init__(self, inputs, of=None, image=None):
        if not isinstance(inputs, (tuple, list, dict)):
            raise ValueError(f"inputs is a {type(inputs).__name__}, neither a tuple of arguments nor a dict of keywords")
        inputs = tuple(inputs) if isinstance(inputs, list) else inputs
        self.keywords = isinstance(inputs, dict)
        found, self.spec = pytree.tree_flatten_with_path(inputs)
        self.leaves = [leaf for _, leaf in found]
        paths = [tuple(getattr(key, "key", getattr(key, "idx", None)) for key in path) for path, _ in found]
        self.place = _find(paths, self.leaves, of)
        given = self.leaves[self.place]
        self.bare = given.ndim == 3 and image is None  # (C, H, W) without a batch, as torchvision's detectors take them
        self.image = given[None] if self.bare else given if image is None else image

    def __call__(self, model, image, rows=slice(0, 1)):
        """Run ``model`` with ``image`` (n, C, …) in its place and those ``rows`` of whatever else holds one per image."""
        leaves = [self._part(leaf, rows) for leaf in self.leaves]
        leaves[self.place] = image[0] if self.bare else image
        inputs = pytree.tree_unflatten(leaves, self.spec)
        return model(**inputs) if self.keywords else model(*inputs)

    def to(self, device, dtype):
        """A copy whose other tensors are on a device, in a precision if they are floating."""
        made = copy.copy(self)
        made.leaves = [_moved(leaf, device, dtype) for leaf in self.leaves]
        made.image = self.image.to(device, dtype)
        return made

    def _part(self, leaf, rows):
        count = len(self.image)
        return leaf[rows] if isinstance(leaf, torch.Tensor) and leaf.ndim and len(leaf) == count else leaf


def plain(model, image, rows=None):
    """The call of a model that takes one tensor."""
    return model(image)


def _find(paths, leaves, of):
    fits = [
        i for i, leaf in enumerate(leaves)
        if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() and leaf.ndim >= 3
    ]  # fmt: skip
    names = ", ".join(_written(paths[i]) for i in fits) or "none"
    if of is None:
        if not fits:
            raise ValueError("inputs hold no tensor of floating point with three or more dimensions to ask about")
        return fits[0]
    path = of if isinstance(of, tuple) else (of,)
    if path in paths:
        place = paths.index(path)
        if place not in fits:
            raise ValueError(f"of={of!r} is no tensor of floating point with three or more dimensions; such are: {names}")
        return place
    raise ValueError(f"of={of!r} is not among the inputs; those that can be asked about: {names}")


def _written(path):
    return repr(path[0] if len(path) == 1 else path)


def _moved(leaf, device, dtype):
    """Other inputs may hold any value, as an image may: like weights they are parameters, of which no zero is wiring."""
    if not isinstance(leaf, torch.Tensor):
        return leaf
    leaf = leaf.detach().to(device)
    return nn.Parameter(leaf.to(dtype), requires_grad=False) if leaf.is_floating_point() else leaf


class Ask(NamedTuple):
    """Which call of a model, which run of a layer in it, which tensor of its output.

    Attributes:
        feed: calls the model: a :class:`Feed` or :func:`plain`.
        output: index, key or path (a tuple) of the tensor in a layer's output; None: the first one.
        call: which run of a layer, 0, 1, … or from the end −1, −2, …
    """

    feed: object = plain
    output: object = None
    call: int = -1

    def like(self, model):
        """The same in the precision and on the device of a model."""
        if self.feed is plain:
            return self
        parameter = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
        return self._replace(feed=self.feed.to(parameter.device, parameter.dtype))

    def tensor(self, output, layer):
        """The tensor asked for of what a layer gave."""
        if self.output is None:
            return first_tensor(output, layer)
        path = self.output if isinstance(self.output, tuple) else (self.output,)
        for key in path:
            output = _item(output, key, layer, self.output)
        return first_tensor(output, layer)

    def run(self, layer, count):
        """Number of the run asked for of a layer that ran ``count`` times.

        Raises:
            ValueError: where it did not run that often.
        """
        if not -count <= self.call < count:
            raise ValueError(f"call={self.call}: layer {layer!r} runs {count} times in one forward pass, 0 … {count - 1}")
        return self.call % count


PLAIN = Ask()


def ask(inputs=None, of=None, output=None, call=None, image=None):
    """The :class:`Ask` of the arguments that the measures have in common."""
    if inputs is None and of is not None:
        raise ValueError(f"of={of!r} says which of inputs= is asked about, and there are none")
    if call is not None and (isinstance(call, bool) or not isinstance(call, int)):
        raise ValueError(f"call={call!r} is no whole number")
    return Ask(plain if inputs is None else Feed(inputs, of, image), output, -1 if call is None else call)


def first_tensor(output, layer):
    """The tensor a layer gives, the first one of a tuple, list, dict or dataclass."""
    while not isinstance(output, torch.Tensor) and (parts := _parts(output)):
        output = next((part for part in parts.values() if part is not None), None)
    if not isinstance(output, torch.Tensor):
        raise ValueError(f"layer {layer!r} gives a {type(output).__name__}, not a tensor")
    return output


def _parts(output):
    if isinstance(output, dict):
        return dict(output)
    if isinstance(output, (tuple, list)):
        return dict(enumerate(output))
    if dataclasses.is_dataclass(output):
        return {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}
    return {}


def _item(output, key, layer, asked):
    parts = _parts(output)
    named = getattr(output, "_fields", ())  # of a named tuple
    if isinstance(key, str) and key in named:
        key = named.index(key)
    if isinstance(output, (tuple, list)) and isinstance(key, int) and -len(output) <= key < len(output):
        key %= len(output)
    if isinstance(output, dict) and key not in parts and isinstance(key, int) and 0 <= key < len(parts):
        key = list(parts)[key]
    if key not in parts:
        known = [*named] or list(parts)
        if not known:
            raise ValueError(f"output={asked!r}: layer {layer!r} gives a {type(output).__name__}, which has no parts")
        raise unknown_name(f"part of the output of layer {layer!r}", key, known)
    return parts[key]
