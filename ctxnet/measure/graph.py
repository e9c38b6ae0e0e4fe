"""One pure-functional graph of an unmodified model, with the outputs of the layers asked for.

A copy of the model runs once as it is (which fills its caches and counts how often each layer runs) and once under
``make_fx``, which records every ATen call; in-place calls come out functional. Neither goes on behind the last layer asked
for. Whatever does not depend on the input (weights, index tensors, masks) is a constant of the graph and is evaluated only
when a rule asks for it.
"""

from contextlib import contextmanager

import torch
from torch import nn
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch._subclasses.functional_tensor import dispatch_functionalize
from torch.fx.experimental.proxy_tensor import get_proxy_mode, make_fx

from ctxnet.measure.asking import PLAIN, Feed
from ctxnet.measure.isolation import isolated, unwrapped
from ctxnet.measure.recurrent import WholeRecurrences
from ctxnet.naming import require_known

# These take an input's shape and dtype but none of its values.
_SHAPE_ONLY = (
    "zeros_like ones_like full_like empty_like rand_like randn_like new_zeros new_ones new_full new_empty new_empty_strided"
)
_VIEWS = frozenset((
    "view", "_unsafe_view", "reshape", "t", "transpose", "permute", "alias", "detach", "_to_copy", "clone", "expand",
    "unsqueeze", "squeeze", "slice", "select",
))  # fmt: skip
_DRAWS = 2  # of learned weights, to tell a zero that is wired from one that was learned


class Trace:
    """A traced model: ``nodes`` in order, ``source`` (the input), ``outputs`` (layer -> node), ``live`` nodes.

    ``counts`` says how often each layer runs.
    """

    def __init__(self, module, layers, events, counts):
        self.module, self.counts = module, counts
        self.nodes = list(module.graph.nodes)
        self.source = next(n for n in self.nodes if n.op == "placeholder")
        self.outputs = dict(zip(layers, self.nodes[-1].args[0], strict=True))
        self.live = set()
        for node in self.nodes:
            if node.op == "get_attr" and "val" not in node.meta:  # torch 2.6 says this of what was computed only
                node.meta["val"] = getattr(module, node.target).detach()
            if node is self.source or (_reads_values(node) and self.live.intersection(node.all_input_nodes)):
                self.live.add(node)
        self._paths, self._values, self._wired, self._known = {}, {}, {}, {}
        path, events = "", iter([*events, (len(self.nodes) + 1, "")])
        start, following = next(events)
        for index, node in enumerate(self.nodes):
            while start <= index:
                path, (start, following) = following, next(events)
            self._paths[node] = path

    def path(self, node):
        """Name of the innermost module that made ``node``; empty for the model itself."""
        return self._paths[node]

    def value(self, node):
        """The tensor a constant node holds, on the CPU."""
        return self._evaluate(node, self._values, _as_it_is).cpu()

    def wired(self, node):
        """Bool tensor of a constant node's shape: false where it is zero whatever was learned.

        Parameters are replaced by random numbers, buffers and other constants are as they are: a mask over a kernel is
        wiring, a weight that became zero is not.
        """
        if node not in self._wired:
            if self._learned_as_it_is(node):
                self._wired[node] = torch.ones(tuple(node.meta["val"].shape), dtype=torch.bool)
            else:
                found = torch.zeros(tuple(node.meta["val"].shape), dtype=torch.bool)
                for draw in range(_DRAWS):
                    value = self._evaluate(node, {}, _random(draw)).cpu()
                    found |= value != 0  # so NaN counts as well
                self._wired[node] = found
        return self._wired[node]

    def known(self, node):
        """What is known of a live node's values: a float64 tensor, NaN where they depend on the image; None: nothing."""
        if node not in self._known:
            from ctxnet.measure.known import known_values

            self._known[node] = known_values(self, node)
        return self._known[node]

    def learned(self, node):
        """Whether the values of a constant node depend on parameters."""
        return not torch.equal(self._evaluate(node, {}, _random(0)).cpu(), self.value(node))

    def _learned_as_it_is(self, node):
        """Whether a constant is a parameter, perhaps looked at in another way: such a zero was learned."""
        while node.op == "call_function" and _view(node) and len(node.all_input_nodes) == 1:
            node = node.all_input_nodes[0]
        return node.op == "get_attr" and isinstance(getattr(self.module, node.target), nn.Parameter)

    def _evaluate(self, node, values, read):
        if node in self.live:  # only its shape is read
            return _placeholder(node.meta["val"])
        if node not in values:
            if node.op == "get_attr":
                values[node] = read(getattr(self.module, node.target))
            else:
                args, kwargs = torch.fx.node.map_arg(
                    (node.args, node.kwargs), lambda argument: self._evaluate(argument, values, read)
                )
                with torch.no_grad(), torch.random.fork_rng(devices=[]):
                    values[node] = node.target(*args, **kwargs)
        return values[node]


def _as_it_is(tensor):
    return tensor.detach()


def _random(draw):
    def read(tensor):
        if isinstance(tensor, nn.Parameter) and tensor.is_floating_point():
            generator = torch.Generator().manual_seed(draw)
            made = torch.rand(tensor.shape, generator=generator, dtype=torch.float64) + 0.5
            return made.to(tensor.dtype).to(tensor.device)
        return tensor.detach()

    return read


def _view(node):
    name = getattr(getattr(node.target, "_schema", None), "name", "").removeprefix("aten::")
    return name in _VIEWS


class _Enough(Exception):
    """Every layer asked for has run; nothing behind it is wanted."""


class Watch:
    """Hooks on layers of a model that stop its forward pass behind the last one that is wanted.

    Args:
        modules: {name: module}.
        layers: names.
        keep: a function of (layer, tensor) for the run of a layer that is asked for; without counts of (layer, output) for
            every run.
        counts: {layer: runs of one forward pass}, from an earlier ``run``; None: not known yet.
        ask: an :class:`ctxnet.measure.asking.Ask`.
    """

    def __init__(self, modules, layers, keep, counts=None, ask=PLAIN):
        self.modules, self.layers, self.keep, self.ask = modules, list(layers), keep, ask
        self.wanted = None if counts is None else {layer: ask.run(layer, counts[layer]) for layer in self.layers}
        self.seen = dict.fromkeys(self.layers, 0)

    def __enter__(self):
        self.handles = [self.modules[layer].register_forward_hook(self._hook(layer)) for layer in self.layers]
        return self

    def __exit__(self, *_):
        for handle in self.handles:
            handle.remove()

    def _hook(self, layer):
        def hook(module, args, output):
            if self.wanted is None:
                self.keep(layer, output)
            elif self.seen[layer] == self.wanted[layer]:
                self.keep(layer, self.ask.tensor(output, layer))
            self.seen[layer] += 1
            if self.wanted is not None and all(self.seen[name] > self.wanted[name] for name in self.layers):
                raise _Enough

        return hook

    def run(self, model, image, rows=slice(0, 1)):
        """One forward pass as far as it is wanted."""
        self.seen = dict.fromkeys(self.layers, 0)
        try:
            self.ask.feed(model, image, rows)
        except _Enough:
            pass
        except Exception:
            if self.wanted is not None or not all(self.seen.values()):
                raise
            # what failed lies behind all that was asked for


def trace(model, layers, input_size, ask=PLAIN):
    """Trace ``model`` in eval mode at batch 1.

    Args:
        model: a copy that belongs to the caller, from :func:`ctxnet.measure.isolation.isolated`.
        layers: names as in ``model.named_modules()``; ``""`` is the model itself.
        input_size: sizes of the image with or without channels, or one number for a square; of no account with inputs.
        ask: an :class:`ctxnet.measure.asking.Ask`.

    Raises:
        ValueError: for an unknown layer, a layer that does not run, or an input the model does not take.
        NotImplementedError: when the model decides by the values it sees, so that no single graph describes it.
    """
    modules, ask = named_layers(model, layers), ask.like(model)
    found, events, stack = {}, [], [""]

    with Watch(modules, layers, found.__setitem__, ask=ask) as watch, torch.no_grad():
        image = _fitting_input(model, input_size, watch)
        missing = [layer for layer in layers if not watch.seen[layer]]
        if missing:
            raise ValueError(f"layer {missing[0]!r} does not run in the model's forward")
        for layer in layers:
            ask.tensor(found[layer], layer)
        counts = dict(watch.seen)

    def mark(name=None):
        def hook(*_):
            stack.pop() if name is None else stack.append(name)
            if (mode := get_proxy_mode()) is not None:
                events.append((len(mode.tracer.graph.nodes), stack[-1]))

        return hook

    def copied(layer, output):  # a later in-place call would otherwise change what we keep
        found[layer] = output.clone()

    def forward(x):
        found.clear()
        stack[:] = [""]
        watch.run(model, x)
        return [found[layer] for layer in layers]

    handles = []
    with Watch(modules, layers, copied, counts, ask) as watch, torch.no_grad():
        try:
            for name, module in modules.items():
                handles.append(module.register_forward_pre_hook(mark(name)))
                handles.append(module.register_forward_hook(mark(), prepend=True))
            try:
                with WholeRecurrences(), _one_fake_mode():
                    graph = make_fx(dispatch_functionalize(forward))(image)
            except Exception as error:
                where = stack[-1] or type(model).__name__
                raise NotImplementedError(f"layer {where!r} cannot be followed: {_reason(error)}") from error
        finally:
            for handle in handles:
                handle.remove()
    return Trace(graph, layers, events, counts)


def _one_fake_mode():
    """Shapes of all values from one mode: one for every value, as is usual, takes half of the time of a trace."""
    return tracing(TracingContext(FakeTensorMode(allow_fallback_kernels=True)))


def named_layers(model, layers):
    """{name: module} of a model, with every name that a module has; refuses unknown ``layers``."""
    modules = dict(model.named_modules(remove_duplicate=False))
    for layer in layers:
        require_known("layer", layer, modules)
    return modules


def blank_input(model, input_size):
    """Zeros (1, C, …) on the model's device and in its dtype; where C is not given it is what the model takes.

    Raises:
        ValueError: for another size, or when the model takes none of the inputs that fit.
    """
    with isolated(model) as made, torch.no_grad():
        return _fitting_input(made, input_size, Watch({}, (), None))


def _fitting_input(model, input_size, watch):
    """The first input that ``model`` runs on. Which sizes and channels are tried follows its first convolution."""
    errors = []
    parameter = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    if isinstance(watch.ask.feed, Feed):
        image = torch.zeros_like(watch.ask.feed.image[:1])
        try:
            watch.run(model, image)
            return image
        except Exception as error:
            raise ValueError(f"the model does not take these inputs: {first_line(error)}") from error
    for size in _sizes(model, input_size):
        image = torch.zeros(1, *size, device=parameter.device, dtype=parameter.dtype)
        try:
            watch.run(model, image)
            return image
        except (RuntimeError, AssertionError, IndexError, ValueError, TypeError, NotImplementedError) as error:
            errors.append(("×".join(map(str, image.shape)), error))
    shape, error = errors[0]
    raise ValueError(f"the model does not take an input of {shape}: {first_line(error)}") from error


def _sizes(model, input_size):
    """Shapes (C, …) to try, the most likely first."""
    size = (input_size,) if isinstance(input_size, int) else tuple(input_size)
    if not 1 <= len(size) <= 4 or any(not isinstance(s, int) or isinstance(s, bool) or s < 1 for s in size):
        raise ValueError(
            f"input_size is {input_size!r}; expected (H, W) or (C, H, W) in positive pixels, (C, L) or (C, D, H, W)"
        )
    first, channels = image_dimensions(model), getattr(_first_convolution(model), "in_channels", None)
    if isinstance(input_size, int):
        size = size * (first or 2)
    dimensions = [n for n in dict.fromkeys([first, 2, 1, 3]) if n]
    with_channels = [size for n in dimensions[:1] if len(size) == n + 1]
    without = [(c, *size) for n in dimensions[:1] if len(size) == n for c in dict.fromkeys([channels or 3, 3, 1, 4, 2])]
    others = [size] if len(size) > 1 else []
    others += [(c, *size) for c in (3, 1) if len(size) < 4]
    return list(dict.fromkeys([*with_channels, *without, *(others if first is None else [])])) or others


def image_dimensions(model):
    """Sizes that an image of the model's first convolution has, 1, 2 or 3; None without one."""
    convolution = _first_convolution(unwrapped(model))
    return None if convolution is None else len(convolution.kernel_size)


def _first_convolution(model):
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    return next((module for module in model.modules() if isinstance(module, kinds)), None)


@contextmanager
def evaluating(model):
    """A copy of the model in eval mode, see :func:`ctxnet.measure.isolation.isolated`."""
    with isolated(model) as made:
        yield made


# What PyTorch's tracer says, and what a user can make of it.
_MEMORY = "it frees or resizes the memory of its tensors; switch that off in the model, if it can be"
_REASONS = {
    "get value out of a tracing tensor": "it decides by values that it computes from the image (an if, a loop, float() or"
    " .item()), so that no single graph describes it; measure a layer before that one",
    "numpy()": "it leaves PyTorch by .numpy(); measure a layer before that one",
    "resize_()": _MEMORY,
    "invalid python storage": _MEMORY,
    "equal to the slice of self": _MEMORY,
    "data-dependent": "the shape of what it computes depends on the image's values; measure a layer before that one",
}


def _reason(error):
    text = str(error)
    if type(error) is RuntimeError:  # PyTorch's own text, which stays in the traceback; other errors are the model's
        other = "PyTorch's tracer fails where the model itself runs; measure a layer before that one"
    else:
        other = first_line(error)
    return next((reason for part, reason in _REASONS.items() if part in text), other)


def first_line(error):
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _reads_values(node):
    name = getattr(getattr(node.target, "_schema", None), "name", "")
    return name.removeprefix("aten::") not in _SHAPE_ONLY.split()


def _placeholder(meta):
    if isinstance(meta, (tuple, list)):
        return [_placeholder(m) for m in meta]
    return torch.zeros(tuple(meta.shape), dtype=meta.dtype)
