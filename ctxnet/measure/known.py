"""What is known of values that depend on the image: constants written into them, and what follows from those.

Attention's masks work that way: scores become −∞, their softmax zero, and a product with zero reaches nothing. NaN stands
for "depends on the image". Only what can carry a constant further is looked at; everything else is unknown.
"""

import math

import torch

FAINT = 1e-300  # a weight that is there, but far below rounding
SHUT, NEARLY = -800.0, -30.0  # scores whose exponential is zero in double precision; is below 1e-13

_COPYING = frozenset((
    "view", "_unsafe_view", "reshape", "_reshape_alias", "squeeze", "unsqueeze", "flatten", "unflatten", "expand", "permute",
    "transpose", "t", "slice", "select", "clone", "alias", "detach", "_to_copy", "contiguous", "cat", "stack",
    "index_select",
    "flip", "roll", "split", "chunk", "unbind", "repeat", "lift_fresh", "native_dropout", "dropout", "movedim",
    "split_with_sizes", "narrow", "view_copy", "masked_fill", "where", "tril", "triu", "broadcast_to", "constant_pad_nd",
))  # fmt: skip


def known_values(trace, node):
    """See :meth:`ctxnet.measure.graph.Trace.known`."""
    if node is trace.source or node.op != "call_function":
        return None
    if getattr(node.target, "__name__", "") == "getitem":
        whole = trace.known(node.args[0]) if node.args[0] in trace.live else None
        return whole[node.args[1]] if isinstance(whole, (tuple, list)) else None
    name = getattr(getattr(node.target, "_schema", None), "name", "").removeprefix("aten::")
    if name in ("_softmax", "softmax", "_safe_softmax"):
        return _softmax(trace.known(node.args[0]), node.args[1])
    if name == "mul":
        return _product(trace, node)
    if name in ("add", "sub") and node.kwargs.get("alpha", 1) == 1:
        return _sum(trace, node, -1 if name == "sub" else 1)
    if name in ("exp", "relu"):
        value = trace.known(node.args[0])
        return None if value is None else getattr(torch, name)(value)
    if name not in _COPYING:
        return None
    writes = name in ("masked_fill", "where", "tril", "triu", "constant_pad_nd")
    if not writes and all(trace.known(n) is None for n in node.all_input_nodes if n in trace.live):
        return None
    return _copied(trace, node)


def _copied(trace, node):
    def substitute(argument):
        if argument not in trace.live:
            value = trace.value(argument)
            return value.double() if value.is_floating_point() else value
        value = trace.known(argument)
        if value is None:
            return torch.full(tuple(argument.meta["val"].shape), math.nan, dtype=torch.float64)
        return value

    if any(n in trace.live and not n.meta["val"].is_floating_point() for n in node.all_input_nodes):
        return None  # a mask that depends on the image
    args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), substitute)
    kwargs = {key: value for key, value in kwargs.items() if key not in ("dtype", "device", "memory_format", "layout")}
    try:
        made = node.target(*args, **kwargs)
    except RuntimeError:
        return None
    if isinstance(made, torch.Tensor) and bool(made.isnan().all()):
        return None
    return made


def _softmax(value, dim):
    """Zero where the score is −∞ or so low that its exponential is, :data:`FAINT` where it is nearly so."""
    if value is None or isinstance(value, (tuple, list)):
        return None
    low = value <= NEARLY
    low &= ~low.all(dim, keepdim=True)
    weights = torch.full_like(value, math.nan)
    weights[low] = FAINT
    weights[low & (value <= SHUT)] = 0.0
    return weights if bool(low.any()) else None


def _known_or_constant(trace, argument):
    """A tensor with NaN for what is unknown, or a number; None when nothing is known."""
    if not isinstance(argument, torch.fx.Node):
        return float(argument)
    if argument in trace.live:
        return trace.known(argument)
    wired = trace.wired(argument)
    return torch.full(wired.shape, math.nan, dtype=torch.float64).masked_fill(~wired, 0.0)


def _product(trace, node):
    """Zero where one factor is known to be zero; of learned constants no more than their wired zeros counts."""
    factors = [_known_or_constant(trace, a) for a in node.args[:2]]
    zeros = [factor == 0 for factor in factors if isinstance(factor, torch.Tensor)]
    if not any(bool(z.any()) for z in zeros):
        return None
    shape = tuple(node.meta["val"].shape)
    zero = torch.zeros(shape, dtype=torch.bool)
    for z in zeros:
        zero = zero | z
    return torch.full(shape, math.nan, dtype=torch.float64).masked_fill(zero.expand(shape), 0.0)


def _sum(trace, node, sign):
    """−∞, or a number so low that the scores do not matter, plus anything finite: the additive form of a mask."""
    shape, shut = tuple(node.meta["val"].shape), None
    for position, argument in enumerate(node.args[:2]):
        if not isinstance(argument, torch.fx.Node):
            continue
        value = trace.known(argument) if argument in trace.live else trace.value(argument).double()
        if not isinstance(value, torch.Tensor):
            continue
        value = value * sign if position else value
        here = torch.where(value <= NEARLY, value, math.nan)
        shut = here if shut is None else torch.fmin(shut, here)
    if shut is None or bool(shut.isnan().all()):
        return None
    return shut.expand(shape)
