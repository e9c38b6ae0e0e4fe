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
    "rot90", "unfold", "diagonal", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle",
    "reflection_pad1d", "reflection_pad2d", "reflection_pad3d", "replication_pad1d", "replication_pad2d",
    "replication_pad3d",
))  # fmt: skip
_EVALUATED = frozenset((  # of what is unknown they make something unknown
    "exp", "expm1", "log1p", "relu", "neg", "abs", "sqrt", "sin", "cos", "tan", "asinh", "atan", "tanh", "sigmoid", "erf",
    "silu", "gelu", "mish", "elu", "celu", "selu", "softplus", "leaky_relu", "hardswish",
    "cumsum", "cumprod", "logcumsumexp",
))  # fmt: skip
_KEEPING_ZERO = frozenset(("div", "rms_norm", "_fused_rms_norm"))  # what they divide by is anything but zero
_LINEAR = frozenset((  # zero, whatever the values, exactly where all that they read is zero
    "sum", "mean", "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "_adaptive_avg_pool2d",
    "_adaptive_avg_pool3d", "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_linear1d",
    "upsample_bilinear2d", "upsample_trilinear3d", "_upsample_nearest_exact1d", "_upsample_nearest_exact2d",
    "_upsample_nearest_exact3d", "upsample_bicubic2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa",
))  # fmt: skip
_MAXIMA = frozenset((  # likewise, with the places beside it
    "max_pool2d_with_indices", "max_pool3d_with_indices", "adaptive_max_pool1d", "adaptive_max_pool2d",
    "adaptive_max_pool3d",
))  # fmt: skip
_OF_FIRST = _EVALUATED | _KEEPING_ZERO | _LINEAR | _MAXIMA  # what is known of their first argument decides
_SAMPLING = frozenset(("grid_sampler_2d", "grid_sampler_3d", "grid_sampler", "im2col", "col2im"))  # zero behind the border


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
    if name in _OF_FIRST:
        return _of_first(trace, node, name)
    if name in ("convolution", "conv1d", "conv2d", "conv3d"):
        return _convolved(trace, node)
    if name in _SAMPLING and all(argument not in trace.live for argument in node.args[1:]):
        value, shape = trace.known(node.args[0]), tuple(node.args[0].meta["val"].shape)
        ones = torch.ones(shape) if value is None else (value != 0).float()
        rest = [trace.value(a) if isinstance(a, torch.fx.Node) else a for a in node.args[1:]]
        return _zeros(node.target(ones, *rest) == 0)
    if name in ("mm", "bmm", "matmul"):
        return _matrix_product(trace, node)
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
        return value.contiguous() if isinstance(value, torch.Tensor) else value  # as a view may ask for

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


def _of_first(trace, node, name):
    value = trace.known(node.args[0]) if node.args[0] in trace.live else None
    if not isinstance(value, torch.Tensor):
        return None
    if name in _KEEPING_ZERO:
        return _zeros(value == 0)
    if name in _EVALUATED:
        value = value if name == "relu" else value.masked_fill(value == FAINT, math.nan)  # the faint depends on the image
        made = node.target(value, *node.args[1:])
        return None if bool(made.isnan().all()) else made
    values = 1 + torch.rand(value.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    made = node.target(values * (value != 0), *node.args[1:])  # at random, so that weights of both signs cannot cancel
    return (_zeros(made[0] == 0), None) if name in _MAXIMA else _zeros(made == 0)


def _zeros(where):
    """Zero where a bool tensor is true, unknown elsewhere; None when it is true nowhere."""
    return torch.full(where.shape, math.nan, dtype=torch.float64).masked_fill(where, 0.0) if bool(where.any()) else None


def _convolved(trace, node):
    """Zero where the windows of a convolution without bias hold nothing but padding and zeros that are known."""
    names = [a.name for a in node.target._schema.arguments]
    args = dict(zip(names, node.args, strict=False)) | node.kwargs
    name = "input" if "input" in args else "self"
    source, weight = args[name], args["weight"]
    if args.get("bias") is not None or source not in trace.live or weight in trace.live:
        return None
    value, pattern = trace.known(source), trace.wired(weight)
    if value is None and bool(pattern.all()):  # one channel tells
        x, pattern = torch.ones(1, 1, *source.meta["val"].shape[2:]), pattern[:1, :1]
        args["groups"] = 1
    else:
        x = torch.ones(tuple(source.meta["val"].shape)) if value is None else value != 0
    shut = node.target(**args | {name: x.float(), "weight": pattern.float()}) == 0
    return _zeros(shut.expand(tuple(node.meta["val"].shape)))


def _matrix_product(trace, node):
    """Zero where one factor's row, or the other's column, holds nothing but zeros that are known."""
    patterns = []
    for argument in node.args[:2]:
        value = trace.known(argument) if argument in trace.live else None
        constant = argument not in trace.live
        patterns.append(trace.wired(argument) if constant else None if value is None else value != 0)
    if all(pattern is None or bool(pattern.all()) for pattern in patterns):
        return None
    factors = [
        torch.ones(tuple(argument.meta["val"].shape)) if pattern is None else pattern.float()
        for argument, pattern in zip(node.args[:2], patterns, strict=True)
    ]
    return _zeros(node.target(*factors) == 0)


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
    return _zeros(zero.expand(shape))


def _sum(trace, node, sign):
    """−∞, or a number so low that the scores do not matter, plus anything finite: the additive form of a mask; 0 + 0."""
    shape, shut, zero = tuple(node.meta["val"].shape), None, []
    for position, argument in enumerate(node.args[:2]):
        if not isinstance(argument, torch.fx.Node):
            continue
        value = trace.known(argument) if argument in trace.live else trace.value(argument).double()
        if not isinstance(value, torch.Tensor):
            continue
        zero.append(value == 0 if argument in trace.live else ~trace.wired(argument))
        value = value * sign if position else value
        here = torch.where(value <= NEARLY, value, math.nan)
        shut = here if shut is None else torch.fmin(shut, here)
    if shut is None:
        return None
    shut = shut.expand(shape).clone()
    if len(zero) == 2:
        shut[(zero[0] & zero[1]).expand(shape)] = 0.0
    return None if bool(shut.isnan().all()) else shut
