"""One pure-functional graph of an unmodified model, with the outputs of the layers asked for.

The model runs once as it is (which fills its caches) and once under ``make_fx``, which records every ATen call;
in-place calls come out functional. Whatever does not depend on the input (weights, index tensors, masks) is a
constant of the graph and is evaluated only when a rule asks for it.
"""

from contextlib import contextmanager

import torch
from torch import nn
from torch._subclasses.functional_tensor import dispatch_functionalize
from torch.fx.experimental.proxy_tensor import get_proxy_mode, make_fx

from ctxnet.naming import require_known

# These take an input's shape and dtype but none of its values.
_SHAPE_ONLY = (
    "zeros_like ones_like full_like empty_like rand_like randn_like new_zeros new_ones new_full new_empty new_empty_strided"
)


class Trace:
    """A traced model: ``nodes`` in order, ``source`` (the input), ``outputs`` (layer -> node), ``live`` nodes."""

    def __init__(self, module, layers, events):
        self.module = module
        self.nodes = list(module.graph.nodes)
        self.source = next(n for n in self.nodes if n.op == "placeholder")
        self.outputs = dict(zip(layers, self.nodes[-1].args[0], strict=True))
        self.live = set()
        for node in self.nodes:
            if node.op == "get_attr" and "val" not in node.meta:  # torch 2.6 says this of what was computed only
                node.meta["val"] = getattr(module, node.target).detach()
            if node is self.source or (_reads_values(node) and self.live.intersection(node.all_input_nodes)):
                self.live.add(node)
        self._paths, self._values = {}, {}
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
        return self._evaluate(node).cpu()

    def _evaluate(self, node):
        if node in self.live:  # only its shape is read
            return _placeholder(node.meta["val"])
        if node not in self._values:
            if node.op == "get_attr":
                self._values[node] = getattr(self.module, node.target).detach()
            else:
                args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), self._evaluate)
                with torch.no_grad(), torch.random.fork_rng(devices=[]):
                    self._values[node] = node.target(*args, **kwargs)
        return self._values[node]


def trace(model, layers, input_size):
    """Trace ``model`` in eval mode at batch 1; its modes, caches and gradients are left as they were.

    Args:
        layers: names as in ``model.named_modules()``; ``""`` is the model itself.
        input_size: (H, W), (C, H, W) or one number for a square.

    Raises:
        ValueError: for an unknown layer, a layer that does not run, or an input the model does not take.
        NotImplementedError: when the model decides by the values it sees, so that no single graph describes it.
    """
    modules = dict(model.named_modules())
    for layer in layers:
        require_known("layer", layer, modules)
    image = blank_input(model, input_size)
    found, events, stack = {}, [], [""]

    def keep(layer):
        def hook(module, args, output):
            # A copy, because a later in-place call would otherwise change what we keep.
            found[layer] = first_tensor(output, layer).clone()

        return hook

    def mark(name=None):
        def hook(*_):
            stack.pop() if name is None else stack.append(name)
            if (mode := get_proxy_mode()) is not None:
                events.append((len(mode.tracer.graph.nodes), stack[-1]))

        return hook

    def forward(x):
        found.clear()
        model(x)
        return [found[layer] for layer in layers]

    handles = []
    with evaluating(model), torch.no_grad():
        try:
            for layer in layers:
                handles.append(modules[layer].register_forward_hook(keep(layer)))
            try:
                forward(image)
            except KeyError as error:
                raise ValueError(f"layer {error.args[0]!r} does not run in the model's forward") from None
            except (RuntimeError, AssertionError, IndexError) as error:
                shape = "×".join(map(str, image.shape))
                raise ValueError(f"the model does not take an input of {shape}: {first_line(error)}") from error
            for name, module in modules.items():
                handles.append(module.register_forward_pre_hook(mark(name)))
                handles.append(module.register_forward_hook(mark(), prepend=True))
            try:
                graph = make_fx(dispatch_functionalize(forward))(image)
            except Exception as error:
                where = stack[-1] or type(model).__name__
                raise NotImplementedError(f"layer {where!r} cannot be traced: {first_line(error)}") from error
        finally:
            for handle in handles:
                handle.remove()
    return Trace(graph, layers, events)


def blank_input(model, input_size):
    """Zeros (1, C, H, W) on the model's device and in its dtype; C is that of its first convolution, or 3."""
    size = (input_size, input_size) if isinstance(input_size, int) else tuple(input_size)
    if len(size) not in (2, 3) or any(not isinstance(s, int) or s < 1 for s in size):
        raise ValueError(f"input_size is {input_size!r}; expected (H, W) or (C, H, W) in positive pixels")
    if len(size) == 2:
        convolutions = (m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d))
        size = (next(convolutions, 3), *size)
    parameter = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    return torch.zeros(1, *size, device=parameter.device, dtype=parameter.dtype)


@contextmanager
def evaluating(model):
    """Eval mode without compiled calls and attention's fused inference path, which have no parts to look into.

    Everything is as it was afterwards.
    """
    modes = [(module, module.training, module._compiled_call_impl) for module in model.modules()]
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        model.eval()
        for module, _, _ in modes:
            module._compiled_call_impl = None
        torch.backends.mha.set_fastpath_enabled(False)
        yield model
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for module, mode, compiled in modes:
            module.training, module._compiled_call_impl = mode, compiled


def first_tensor(output, layer):
    """The tensor a layer gives, the first one of a tuple, list or dict."""
    while isinstance(output, (tuple, list, dict)) and len(output):
        output = next(iter(output.values())) if isinstance(output, dict) else output[0]
    if not isinstance(output, torch.Tensor):
        raise ValueError(f"layer {layer!r} gives a {type(output).__name__}, not a tensor")
    return output


def first_line(error):
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _reads_values(node):
    name = getattr(getattr(node.target, "_schema", None), "name", "")
    return name.removeprefix("aten::") not in _SHAPE_ONLY.split()


def _placeholder(meta):
    if isinstance(meta, (tuple, list)):
        return [_placeholder(m) for m in meta]
    return torch.zeros(tuple(meta.shape), dtype=meta.dtype)
