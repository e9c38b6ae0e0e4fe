"""Random networks of one to eight operators, and what their features can see by brute force.

A network is a list of texts, each a Python expression for one module (see :func:`build`), so that whatever goes wrong is
printed as something to run. ``python -m tests.fuzzing --networks 1000 --seed 0`` tries many and prints counts.

The oracle moves one pixel at a time, all channels together and each alone, in double precision, with new weights in
every draw. So that nothing hides a path by chance, it runs a *twin* of the network: ReLU leaks, a maximum is a sum over
the same places, a choice is a mixture. Where the twin and the measure differ, many more draws decide.
"""

import argparse
import collections
import contextlib
import copy
import itertools
import math
import random
import re
import sys
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from ctxnet.measure.receptive_field import Reach

SMOOTH = False  # whether the functions below are their twins

NAMED = r"layer '[^']*' (calls|gives|cannot)|layout="  # what a refusal must say

LARGEST = {1: 24, 2: 90, 3: 80}  # positions of a map, by its number of dimensions


# --------------------------------------------------------------------------------------------- vocabulary of the texts


class Fn(nn.Module):
    """A function of x and constants: tensors in ``fixed`` are buffers, those in ``learned`` parameters."""

    def __init__(self, function, fixed=None, **learned):
        super().__init__()
        self.function, self.names = function, [*(fixed or {}), *learned]
        for name, value in (fixed or {}).items():
            self.register_buffer(name, value)
        for name, value in learned.items():
            setattr(self, name, nn.Parameter(value))

    def forward(self, x):
        return self.function(x, **{name: getattr(self, name) for name in self.names})


class Residual(nn.Module):
    def __init__(self, *branch, how="add"):
        super().__init__()
        self.branch, self.how = nn.Sequential(*branch), how

    def forward(self, x):
        y = self.branch(x)
        if self.how == "add":
            return x + 0.7 * y
        return (x + 0.7) * (0.1 * y).sigmoid() if self.how == "gate" else torch.cat([x, y], 1)


class Masked(nn.Module):
    """Convolution whose kernel is multiplied by a buffer of zeros and ones."""

    def __init__(self, conv, mask):
        super().__init__()
        self.conv = conv
        self.register_buffer("mask", mask)

    def forward(self, x):
        c = self.conv
        function = (F.conv1d, F.conv2d, F.conv3d)[x.ndim - 3]
        return function(x, c.weight * self.mask, c.bias, c.stride, c.padding, c.dilation, c.groups)


class Tokens(nn.Module):
    """Map to tokens (N, L, C), ``parts`` on them, and back to a map."""

    def __init__(self, *parts, order="rows"):
        super().__init__()
        self.parts, self.order = nn.Sequential(*parts), order

    def forward(self, x):
        if self.order == "columns":
            x = x.transpose(-1, -2)
        y = self.parts(x.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, x.shape[2:])
        return y.transpose(-1, -2) if self.order == "columns" else y


class Windows(nn.Module):
    """Attention within windows of a 2-D map, as Swin partitions it."""

    def __init__(self, size, attention):
        super().__init__()
        self.size, self.attention = size, attention

    def forward(self, x):
        n, c, h, w = x.shape
        a, b = self.size
        y = x.reshape(n, c, h // a, a, w // b, b).permute(0, 2, 4, 3, 5, 1).reshape(-1, a * b, c)
        y = self.attention(y).reshape(n, h // a, w // b, a, b, -1)
        return y.permute(0, 5, 1, 3, 2, 4).reshape(n, -1, h, w)


class Attend(nn.Module):
    """Self-attention over tokens (N, L, C): ``how`` is fused, hand or module; ``mask`` bool (L, L), true where seen."""

    def __init__(self, c, how="fused", mask=None, causal=False, heads=1):
        super().__init__()
        self.how, self.causal, self.heads = how, causal, heads
        self.qkv = nn.MultiheadAttention(c, heads, batch_first=True) if how == "module" else nn.Linear(c, 3 * c)
        self.register_buffer("mask", mask)

    def forward(self, x):
        if self.how == "module":
            return self.qkv(x, x, x, attn_mask=None if self.mask is None else ~self.mask, need_weights=False)[0]
        n, length, c = x.shape
        q, k, v = self.qkv(x).reshape(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if self.how == "fused":
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask, is_causal=self.causal)
        elif self.how == "bias":
            bias = torch.zeros(length, length, dtype=x.dtype)
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.masked_fill(~self.mask, -math.inf))
        else:
            score = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
            if self.how == "fill":
                score = score.masked_fill(~self.mask, -math.inf).softmax(-1)
            elif self.how == "where":
                score = torch.where(self.mask, score, -math.inf).softmax(-1)
            elif self.how == "times":
                score = score.softmax(-1) * self.mask
            else:
                score = score.softmax(-1)
            y = score @ v
        return y.transpose(1, 2).reshape(n, length, c)


class Recurrent(nn.Module):
    """A recurrent layer over tokens (N, L, C)."""

    def __init__(self, kind, c, size, **options):
        super().__init__()
        self.rnn = getattr(nn, kind)(c, size, batch_first=True, **options)

    def forward(self, x):
        return self.rnn(x)[0]


def rand(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def bits(seed, *shape, share=0.6):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < share


def perm(seed, n):
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def ints(seed, high, *shape):
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def seen(seed, length, kind):
    """Bool (length, length) with a true diagonal: which token sees which."""
    eye = torch.eye(length, dtype=torch.bool)
    if kind == "causal":
        return torch.ones(length, length).tril().bool()
    if kind == "band":
        return (torch.arange(length)[:, None] - torch.arange(length)).abs() <= 2
    return bits(seed, length, length, share=0.3) | eye


def maximum(a, b):
    return torch.logaddexp(a, b) if SMOOTH else torch.maximum(a, b)


def amax(x, dim, keepdim=False):
    return x.logsumexp(dim, keepdim) if SMOOTH else x.amax(dim, keepdim)


def cummax(x, dim):
    return x.logcumsumexp(dim) if SMOOTH else x.cummax(dim)[0]


def where(a, b):
    return a.sigmoid() * b + (1 - a.sigmoid()) * a if SMOOTH else torch.where(a > 0, b, a)


def clamp(x):
    return x.tanh() if SMOOTH else x.clamp(-0.5, 0.5)


class _SumPool(nn.Module):
    """Twin of a max pool: a sum over the same windows, as a convolution with ones."""

    def __init__(self, pool, n):
        super().__init__()
        self.pool, self.n = pool, n

    def forward(self, x):
        each = [_each(getattr(self.pool, k), self.n) for k in ("kernel_size", "stride", "padding", "dilation")]
        kernel, stride, padding, dilation = each
        size = self.pool(x).shape[2:]
        x = F.pad(x, [e for k, p in reversed(list(zip(kernel, padding, strict=True))) for e in (p, p + 9)])
        ones = torch.ones(x.shape[1], 1, *kernel, dtype=x.dtype)
        function = (F.conv1d, F.conv2d, F.conv3d)[self.n - 1]
        y = function(x, ones, None, stride, 0, dilation, x.shape[1])
        return y[(..., *(slice(s) for s in size))]


def _each(value, n):
    return (value,) * n if isinstance(value, int) else tuple(value)


def twin(net):
    """A smooth copy of a network in double precision: same wiring, no dead units, no ties."""
    net = copy.deepcopy(net).double().eval()
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            kind = type(child).__name__
            if kind in ("ReLU", "ReLU6", "Hardtanh", "Hardswish", "Hardsigmoid", "Softshrink", "RReLU", "Threshold"):
                setattr(parent, name, nn.LeakyReLU(0.3))
            elif kind.startswith("MaxPool"):
                setattr(parent, name, _SumPool(child, int(kind[-2])))
            elif kind.startswith("AdaptiveMaxPool"):
                setattr(parent, name, getattr(nn, kind.replace("Max", "Avg"))(child.output_size))
    return net


def build(texts):
    """The network that texts describe: ``nn.Sequential`` of the modules they evaluate to."""
    return nn.Sequential(*(eval(text, globals()) for text in texts))  # noqa: S307  (texts are our own)


# -------------------------------------------------------------------------------------------------- operators by chance
# Each takes a random.Random, the channels and the sizes of a map, and gives a text, or None where it does not apply.
# A text that does not run on such a map is thrown away by `random_network`, so that these need not be careful.

OPERATORS = []


def operator(weight=1, dims=(1, 2, 3)):
    def register(function):
        OPERATORS.append((weight, dims, function))
        return function

    return register


def divisor(r, n):
    return r.choice([d for d in range(1, n + 1) if n % d == 0])


def some(r, sizes, low, high):
    """One number for all dimensions or a tuple with one for each."""
    if r.random() < 0.5:
        return r.randint(low, high)
    return tuple(r.randint(low, high) for _ in sizes)


def axis(r, s):
    return 2 + r.randrange(len(s))


def keep(r, s):
    return r.choice([True, False])


def _conv(r, c, s, **more):
    groups = divisor(r, c) if r.random() < 0.5 else 1
    out = groups * r.randint(1, 2)
    options = {"groups": groups, "dilation": some(r, s, 1, 2), **more}
    mode = r.choice(["zeros", "zeros", "zeros", "reflect", "circular", "replicate"])
    options["padding"], options["padding_mode"] = some(r, s, 0, 2), mode
    if r.random() < 0.2:
        options["padding"] = r.choice(["same", "valid"])
    else:
        options["stride"] = some(r, s, 1, 3 if r.random() < 0.3 else 1)
    if r.random() < 0.3:
        options["bias"] = False
    return f"nn.Conv{len(s)}d({c}, {out}, {some(r, s, 1, 3)}, {_text(options)})"


def _text(options):
    return ", ".join(f"{k}={v!r}" for k, v in options.items())


@operator(5)
def conv(r, c, s):
    return _conv(r, c, s)


@operator(2)
def mixing_conv(r, c, s):
    return f"nn.Conv{len(s)}d({c}, {r.randint(1, 4)}, {r.choice([1, 3])}, padding={r.choice([0, 1])})"


@operator(2)
def transposed(r, c, s):
    groups = divisor(r, c) if r.random() < 0.5 else 1
    stride = some(r, s, 1, 3)
    options = {
        "stride": stride,
        "padding": some(r, s, 0, 2),
        "output_padding": some(r, s, 0, 1),
        "groups": groups,
        "dilation": some(r, s, 1, 2),
    }
    return f"nn.ConvTranspose{len(s)}d({c}, {groups * r.randint(1, 2)}, {some(r, s, 1, 4)}, {_text(options)})"


@operator(2)
def masked_kernel(r, c, s):
    k = tuple(r.choice([1, 3]) for _ in s)
    groups = divisor(r, c) if r.random() < 0.3 else 1
    out = groups * r.randint(1, 2)
    shape = r.choice([k, k, (out, c // groups, *k), (out, c // groups, *(1 for _ in k))])
    options = {"padding": tuple(e // 2 for e in k), "groups": groups, "stride": some(r, s, 1, 2)}
    conv = f"nn.Conv{len(s)}d({c}, {out}, {k}, {_text(options)})"
    return f"Masked({conv}, bits({r.randrange(999)}, {', '.join(map(str, shape))}).float())"


@operator(1)
def constant_kernel(r, c, s):
    k = ", ".join(str(r.randint(1, 3)) for _ in s)
    seed = r.randrange(999)
    kernel = f"rand({seed}, {c}, 1, {k}) * bits({seed}, {c}, 1, {k})"
    return f"Fn(lambda x, w: F.conv{len(s)}d(x, w, padding=1, groups={c}), dict(w={kernel}))"


@operator(2)
def max_pool(r, c, s):
    options = {"stride": some(r, s, 1, 2), "padding": some(r, s, 0, 1), "dilation": some(r, s, 1, 2)}
    return f"nn.MaxPool{len(s)}d({some(r, s, 2, 3)}, {_text(options)}, ceil_mode={keep(r, s)})"


@operator(2)
def avg_pool(r, c, s):
    options = {"padding": some(r, s, 0, 1), "ceil_mode": keep(r, s), "count_include_pad": keep(r, s)}
    if r.random() < 0.7:
        options["stride"] = some(r, s, 1, 3)
    return f"nn.AvgPool{len(s)}d({some(r, s, 1, 3)}, {_text(options)})"


@operator(1)
def short_pool(r, c, s):
    return f"Fn(lambda x: F.avg_pool{len(s)}d(x, [{r.randint(2, 3)}], {r.choice(['1', '[2]', '2'])}, [1]))"


@operator(1, (1, 2))
def lp_pool(r, c, s):
    return f"nn.LPPool{len(s)}d(2, {r.randint(2, 3)}, stride={r.randint(1, 2)}, ceil_mode={keep(r, s)})"


@operator(1)
def adaptive_pool(r, c, s):
    size = tuple(r.randint(1, n + 2) for n in s)
    return f"nn.Adaptive{r.choice(['Avg', 'Max'])}Pool{len(s)}d({size[0] if len(s) == 1 else size})"


@operator(3)
def resize(r, c, s):
    modes = {1: ["linear"], 2: ["bilinear", "bilinear", "bicubic"], 3: ["trilinear"]}[len(s)] + ["nearest", "nearest-exact"]
    if len(s) == 1 and r.random() < 0.2:
        modes = ["area"]
    mode = r.choice(modes)
    if r.random() < 0.5:
        how = f"size={tuple(max(1, round(n * r.choice([0.4, 0.5, 0.7, 1, 1.3, 1.5, 2]))) for n in s)}"
    else:
        how = f"scale_factor={r.choice([0.5, 0.75, 1.5, 2, 2.5, 1.3])}"
        if r.random() < 0.3:
            how += ", recompute_scale_factor=True"
    if "linear" in mode or "cubic" in mode:
        how += f", align_corners={keep(r, s)}"
    if mode in ("bilinear", "bicubic") and r.random() < 0.4:
        how += ", antialias=True"
    return f"Fn(lambda x: F.interpolate(x, mode={mode!r}, {how}))"


@operator(3)
def activation(r, c, s):
    names = "ReLU GELU SiLU Sigmoid Tanh Hardswish LeakyReLU ELU Softplus Mish CELU Hardtanh ReLU6 Softsign PReLU SELU"
    names += " Hardsigmoid LogSigmoid Dropout Dropout2d Identity AlphaDropout"
    return f"nn.{r.choice(names.split())}()"


@operator(1)
def batch_norm(r, c, s):
    return f"nn.BatchNorm{len(s)}d({c})"


# A normalisation is followed by something curved, for its plain sum is constant.
@operator(2)
def norm(r, c, s):
    n = len(s)
    last = "(" + "".join(f"{d}, " for d in s[-1:]) + ")"
    channels_last = ", ".join(map(str, [0, *range(2, n + 2), 1]))
    channels_first = ", ".join(map(str, [0, n + 1, *range(1, n + 1)]))
    kinds = []
    groups = divisor(r, c)
    if c // groups * math.prod(s) > 2:
        kinds += [f"nn.GroupNorm({groups}, {c})"] * 2
    if math.prod(s) > 2:
        kinds += [f"nn.InstanceNorm{n}d({c}, affine={keep(r, s)})"]
    if s[-1] > 2:
        kinds += [f"nn.LayerNorm({last})", f"nn.RMSNorm({last}, 0.1)"]
    if c > 2:
        ln = f"F.layer_norm(x.permute({channels_last}), ({c},), w, b).permute({channels_first})"
        kinds += [f"Fn(lambda x, w, b: {ln}, w=torch.ones({c}), b=torch.zeros({c}))"] * 2
        kinds += [f"Fn(lambda x, w: {ln.replace('layer_norm', 'rms_norm').replace(', b)', ', 0.1)')}, w=torch.ones({c}))"]
        kinds += ["Fn(lambda x: F.normalize(x + 0.2, dim=1))", "nn.LocalResponseNorm(2)"]
    return f"nn.Sequential({r.choice(kinds)}, nn.Softplus())" if kinds else None


@operator(1)
def softmax(r, c, s):
    d = r.randrange(1, len(s) + 2)
    size = (c, *s)[d - 1]
    if size < 3:
        return None
    shape = ", ".join(str(size) if i == d else "1" for i in range(len(s) + 2))
    return f"Fn(lambda x, w: x.{r.choice(['softmax', 'log_softmax'])}({d}) * w, w=rand(0, {shape}))"


@operator(2)
def reduction(r, c, s):
    n = len(s)
    dims = tuple(sorted(r.sample(range(1, n + 2), r.randint(1, n))))
    sizes = (c, *s)
    name = r.choice(["mean", "sum", "amax", "std", "var", "logsumexp", "norm", "prod", "min", "vector_norm", "max"])
    if name in ("std", "var") and math.prod(sizes[d - 1] for d in dims) < 2:
        return None
    d = dims[0]
    reduced = {
        "amax": f"amax(x, {dims}, True)",
        "prod": f"(1 + 0.3 * x.tanh()).prod({d}, keepdim=True)",
        "norm": f"x.norm(dim={dims}, keepdim=True)",
        "vector_norm": f"torch.linalg.vector_norm(x, 3, {dims}, True)",
        "min": f"-amax(-x, {d}, True)",
        "max": f"amax(x, {d}).unsqueeze({d})",
    }.get(name, f"x.{name}({dims}, keepdim=True)")
    how = r.choice(["(x + 0.7) * (0.1 * {}).sigmoid()", "x + {}", "{}.expand(-1, *x.shape[1:])", "{}", "x / (2 + {}.abs())"])
    return f"Fn(lambda x: {how.format(reduced)})"


@operator(1)
def dropped_dim(r, c, s):
    """A reduction that loses a dimension, which comes back by an outer sum."""
    d = axis(r, s)
    return f"Fn(lambda x: x + 0.5 * F.softsign(x.sum({d})).unsqueeze({d}))"


@operator(2, (2, 3))
def transposed_map(r, c, s):
    a, b = r.sample(range(2, len(s) + 2), 2)
    return r.choice(
        [
            f"Fn(lambda x: x.transpose({a}, {b}))",
            f"Fn(lambda x: x.movedim({a}, {b}))",
            f"Fn(lambda x: x.rot90({r.randint(1, 3)}, ({a}, {b})))",
            f"Fn(lambda x: x.swapaxes({a}, {b}).contiguous())",
        ]
    )


@operator(3)
def moved(r, c, s):
    n = len(s)
    dims = tuple(r.sample(range(2, n + 2), r.randint(1, n)))
    d = r.randrange(1, n + 2)
    size = (c, *s)[d - 1]
    choices = [
        f"Fn(lambda x: x.roll({tuple(r.randint(-3, 3) for _ in dims)}, {dims}))",
        f"Fn(lambda x: x.flip({dims}))",
        f"Fn(lambda x: x[:, {', '.join(['slice(None)'] * (axis(r, s) - 1))}, {r.randint(0, 2)}::{r.randint(1, 2)}])",
        f"Fn(lambda x: x.narrow({d}, {r.randint(0, 1)}, {max(1, size - r.randint(1, 2))}))",
        f"Fn(lambda x, i: x.index_select({d}, i), dict(i=ints({r.randrange(999)}, {size}, {r.randint(1, size + 1)})))",
        f"Fn(lambda x, i: x.index_select({d}, i), dict(i=perm({r.randrange(999)}, {size})))",
        f"Fn(lambda x: torch.cat(x.chunk(2, {d})[::-1], {d}))",
        f"Fn(lambda x: torch.cat([x, x.flip({dims})], {d}))",
        f"Fn(lambda x: torch.stack(x.unbind({d})[::-1], {d}))",
        f"Fn(lambda x: x.repeat_interleave({r.randint(1, 2)}, {d}))",
        f"Fn(lambda x: x.repeat({', '.join(str(r.choice([1, 1, 2])) if i else '1' for i in range(n + 2))}))",
        f"Fn(lambda x: x.narrow({d}, 0, {size - 1}) + 0.3 * x.narrow({d}, 1, {size - 1}))",
        f"Fn(lambda x: x.unfold({d}, {min(size, 2)}, {r.randint(1, 2)}).mean(-1))",
        f"Fn(lambda x: x.tensor_split(2, {d})[{r.randint(0, 1)}])",
        f"Fn(lambda x: x.split([1, {size - 1}], {d})[{r.randint(0, 1)}])",
        f"Fn(lambda x: x.flip({d}) + 0.5 * x.select({d}, {r.randrange(size)}).unsqueeze({d}))",
    ]
    return r.choice(choices)


@operator(3)
def uneven_channels(r, c, s):
    """Channels that see different places, without which nothing about channels would show."""
    if c < 2:
        return None
    k, d = r.randrange(1, c), axis(r, s)
    move = r.choice([f"roll({r.randint(1, 2)}, {d})", f"flip({d})"])
    return f"Fn(lambda x: torch.cat([x[:, :{k}], x[:, {k}:].{move}], 1))"


@operator(2)
def padded(r, c, s):
    mode = r.choice(["constant", "reflect", "replicate", "circular"])
    low = -1 if mode == "constant" else 0
    pads = [r.randint(low, 2) for _ in range(2 * len(s))]
    return f"Fn(lambda x: F.pad(x, {pads}, mode={mode!r}))"


@operator(1)
def padded_channels(r, c, s):
    return f"Fn(lambda x: F.pad(x, {[0] * 2 * len(s) + [r.randint(0, 1), r.randint(0, 1)]}))"


@operator(2)
def constant_mask(r, c, s):
    seed = r.randrange(999)
    shape = r.choice([(c, *s), s, (c, *(1 for _ in s)), (s[-1],)])
    shape = ", ".join(map(str, shape))
    other = r.choice(["x.flip(2)", "x.roll(1, -1)", "x.mean(1, keepdim=True)", "x.new_zeros(())"])
    return r.choice(
        [
            f"Fn(lambda x, m: x * m, dict(m=bits({seed}, {shape}).float()))",
            f"Fn(lambda x, m: x.masked_fill(m, 0.5), dict(m=bits({seed}, {shape}, share=0.3)))",
            f"Fn(lambda x, m: torch.where(m, x, {other}), dict(m=bits({seed}, {shape})))",
            f"Fn(lambda x, m: m * x + (1 - m) * {other}, dict(m=bits({seed}, {shape}).float()))",
            f"Fn(lambda x: x.{r.choice(['tril', 'triu'])}({r.randint(-1, 1)}))" if len(s) > 1 else None,
            f"Fn(lambda x, m: x / m, dict(m=1 + bits({seed}, {shape}).float()))",
        ]
    )


@operator(2)
def constant_index(r, c, s):
    seed, d = r.randrange(999), r.randrange(1, len(s) + 2)
    sizes = (c, *s)
    size = sizes[d - 1]
    shape = ", ".join(map(str, sizes))
    last = s[-1]
    count = r.randint(1, size)
    expanded = f"i.expand(len(x), {', '.join(['-1'] * len(sizes))})"
    one = ", ".join(str(count) if j == d else str(sizes[j - 1]) for j in range(1, len(sizes) + 1))
    return r.choice(
        [
            f"Fn(lambda x, i: x.gather({d}, {expanded}), dict(i=ints({seed}, {size}, 1, {shape})))",
            f"Fn(lambda x, i: x.take_along_dim({expanded}, {d}), dict(i=ints({seed}, {size}, 1, {shape})))",
            f"Fn(lambda x, i: x[..., i], dict(i=ints({seed}, {last}, {r.randint(1, last)})))",
            f"Fn(lambda x, i, j: x[..., i, j].unflatten(-1, (2, {last})), dict(i=ints({seed}, {s[-2]}, {2 * last}), "
            f"j=ints({seed + 1}, {last}, {2 * last})))"
            if len(s) > 1
            else None,
            f"Fn(lambda x, i: x.index_copy({d}, i, x.flip(1).narrow({d}, 0, {count})), "
            f"dict(i=perm({seed}, {size})[:{count}]))",
            f"Fn(lambda x, i: x.index_fill({d}, i, 0.5), dict(i=perm({seed}, {size})[:{count}]))",
            f"Fn(lambda x, i: x.index_add({d}, i, x.flip(2).narrow({d}, 0, {count})), "
            f"dict(i=ints({seed}, {size}, {count})))",
            f"Fn(lambda x, i: x.scatter({d}, {expanded}, x.flip(2)), dict(i=perm({seed}, {size})[:{count}]"
            f".reshape({', '.join(str(count) if j == d else '1' for j in range(len(sizes) + 1))})"
            f".expand(1, {one}).contiguous()))",
            f"Fn(lambda x, i: x.scatter_add({d}, {expanded}, x.flip(2)), dict(i=ints({seed}, {size}, 1, {one})))",
        ]
    )


@operator(2)
def cumulative(r, c, s):
    d = r.randrange(1, len(s) + 2)
    return r.choice(
        [
            f"Fn(lambda x: x.cumsum({d}))",
            f"Fn(lambda x: (1 + 0.3 * x.tanh()).cumprod({d}))",
            f"Fn(lambda x: cummax(x, {d}))",
            f"Fn(lambda x: x.logcumsumexp({d}))",
            f"Fn(lambda x: x.flip({d}).cumsum({d}).flip({d}))",
        ]
    )


def _tokens(r, c, length):
    """A layer over tokens (N, L, C)."""
    seed = r.randrange(999)
    heads = divisor(r, c)
    kind = r.choice(["causal", "band", "random"])
    mask = f"mask=seen({seed}, {length}, {kind!r})"
    plain, cell = r.choice(["fused", "hand"]), r.choice(["RNN", "LSTM", "GRU"])
    hard = r.choice(["fused", "bias", "fill", "where", "times", "module"])
    return r.choice(
        [
            f"Attend({c}, {plain!r}, heads={heads})",
            f"Attend({c}, 'fused', causal=True, heads={heads})",
            f"Attend({c}, {hard!r}, {mask}, heads={heads})",
            f"Attend({c}, 'module', heads={heads})",
            f"Recurrent({cell!r}, {c}, 2, bidirectional={keep(r, 0)})",
            f"Recurrent({cell!r}, {c}, 2, num_layers={r.randint(1, 2)})",
            f"nn.Sequential(nn.Linear({c}, 5), nn.GELU(), nn.Linear(5, {c}))",
            f"Fn(lambda x, p: x + p, p=rand(0, 1, {length}, {c}))",
            f"Fn(lambda x, p: torch.cat([p.expand(len(x), -1, -1), x], 1)[:, 1:], p=rand(0, 1, 1, {c}))",
            f"nn.Sequential(Fn(lambda x, p: torch.cat([p.expand(len(x), -1, -1), x], 1), p=rand(0, 1, 1, {c})), "
            f"Attend({c}, 'hand'), Fn(lambda x: x[:, 1:]))",
            f"Fn(lambda x, i: x[:, i], dict(i=perm({seed}, {length})))",
            f"Fn(lambda x, w: (x.transpose(1, 2) @ w).transpose(1, 2), w=rand({seed}, {length}, {length}))",
            f"Fn(lambda x, w: x + 0.5 * w @ x, dict(w=rand({seed}, {length}, {length}).tril()))",
            f"nn.TransformerEncoderLayer({c}, {heads}, 5, batch_first=True, activation='gelu')" if c > 2 else None,
        ]
    )


@operator(3)
def tokens(r, c, s):
    parts = [p for p in (_tokens(r, c, math.prod(s)) for _ in range(r.randint(1, 2))) if p]
    order = r.choice(["rows", "columns"])
    return f"Tokens({', '.join(parts)}, order={order!r})" if parts and len(s) > 1 else None


@operator(2, (1,))
def signal_tokens(r, c, s):
    part = _tokens(r, c, s[0])
    return part and f"Tokens({part})"


@operator(2, (2,))
def windows(r, c, s):
    size = tuple(divisor(r, n) for n in s)
    if math.prod(size) < 2:
        return None
    text = f"Windows({size}, {_tokens(r, c, math.prod(size))})"
    shift = (r.randint(0, 2), r.randint(0, 2))
    back = (-shift[0], -shift[1])
    return f"nn.Sequential(Fn(lambda x: x.roll({shift}, (2, 3))), {text}, Fn(lambda x: x.roll({back}, (2, 3))))"


@operator(1, (2, 3))
def axial(r, c, s):
    """Something along the last dimension alone, the others folded into the batch."""
    layer = _tokens(r, c, s[-1])
    order = [0, *range(2, len(s) + 2), 1]
    back = [0, len(s) + 1, *range(1, len(s) + 1)]
    return layer and (
        f"nn.Sequential(Fn(lambda x: x.permute({order}).flatten(0, {len(s) - 1})), {layer}, "
        f"Fn(lambda x: x.unflatten(0, (-1, {', '.join(map(str, s[:-1]))})).permute({back})))"
    )


@operator(2)
def product(r, c, s):
    seed, last, out = r.randrange(999), s[-1], r.randint(1, 5)
    letters = "ij"[: len(s) - 1]
    sparse = f"dict(w=rand({seed}, {last}, {last}).tril())"
    return r.choice(
        [
            f"nn.Linear({last}, {out})",
            f"Fn(lambda x, w: torch.einsum('nc{letters}w,wv->nc{letters}v', x, w), w=rand({seed}, {last}, {out}))",
            f"Fn(lambda x, w: torch.einsum('nc{letters}w,cd->nd{letters}w', x, w), w=rand({seed}, {c}, {out}))",
            f"Fn(lambda x, w: x @ w, {sparse})",
            f"Fn(lambda x, w: w @ x, dict(w=rand({seed}, {s[-2]}, {s[-2]}).triu()))" if len(s) > 1 else None,
            f"Fn(lambda x, w: x.tensordot(w, ([-1], [0])), w=rand({seed}, {last}, {out}))",
            "Fn(lambda x: (x + 0.7).tanh() @ (x + 0.7).transpose(-1, -2))" if len(s) > 1 else None,
            f"Fn(lambda x, w: torch.einsum('nc{letters}w,c->n{letters}w', x, w).unsqueeze(1), w=rand({seed}, {c}))",
            f"Fn(lambda x, w: x.flatten(2).matmul(w).unsqueeze(-1).expand(*x.shape[:2], {math.prod(s)})"
            f".unflatten(2, {tuple(s)}), w=rand({seed}, {math.prod(s)}))",
        ]
    )


@operator(2, (2,))
def shuffle(r, c, s):
    k = r.choice([2, 3])
    return r.choice(
        [
            f"nn.PixelUnshuffle({k})",
            f"nn.PixelShuffle({k})",
            f"nn.ChannelShuffle({divisor(r, c)})",
            f"Fn(lambda x: x.reshape(len(x), {c}, {s[0] // 2}, 2, {s[1]}).flatten(1, 2).reshape("
            f"len(x), {c * 2}, {s[0] // 2}, {s[1]}))" if c > 1 else "nn.PixelUnshuffle(2)",  # rows would be the channels
            f"Fn(lambda x: x.reshape(len(x), -1, {s[0]}, {s[1]}).transpose(1, 2).reshape(len(x), -1, {s[0]}, {s[1]}))",
            f"Fn(lambda x: F.fold(F.unfold(x, 3, padding=1) * 0.5, {tuple(s)}, 3, padding=1))",
            f"Fn(lambda x: F.unfold(x, {r.randint(1, 3)}, {r.randint(1, 2)}, 0).mean(1, keepdim=True)"
            ".unsqueeze(2).expand(-1, -1, 2, -1))",
            f"Fn(lambda x, w: F.fold(F.unfold(x, 2, stride=2) * w, {tuple(s)}, 2, stride=2), w=rand(0, {4 * c}, 1))",
        ]
    )


@operator(2)
def two_of_it(r, c, s):
    d = axis(r, s)
    a = r.choice([f"x.flip({d})", f"x.roll(1, {d})", "x", f"x.roll(-2, {d})"])
    b = r.choice([f"x.roll({r.randint(1, 2)}, {d})", f"x.flip({d})", "x.mean(1, keepdim=True)"])
    return "Fn(lambda x: {})".format(
        r.choice(
            [
                f"{a} + 0.5 * {b}",
                f"({a} + 0.7) * (1.5 + {b}.tanh())",
                f"maximum({a}, 0.3 * {b})",
                f"where({a}, {b})",
                f"torch.stack([{a}, 0.3 * {b}.expand_as(x)]).mean(0)",
                f"torch.addcmul({a}, {b} + 0.7, {b} + 0.7, value=0.3)",
                f"torch.lerp({a}, {b}, 0.3)",
                f"torch.stack([{a}, {b}.expand_as(x)], 2).flatten(1, 2)",
                f"clamp({a}) - 0.3 * {b}",
                f"torch.hypot({a} + 0.7, {b} + 0.7)",
                f"F.glu(torch.cat([{a}, {b}], 1) + 0.7, 1)",
                f"{a}.addcdiv({b} + 0.7, 2 + {a}.abs())",
            ]
        )
    )


@operator(1)
def by_value(r, c, s):
    d = axis(r, s)
    return r.choice(
        [
            f"Fn(lambda x: x.sort({d})[0])",
            f"Fn(lambda x: x.topk(1, {d})[0])",
            f"Fn(lambda x: x.contiguous().median({d}, keepdim=True)[0])",
            f"Fn(lambda x: x.gather({d}, x.argsort({d})))",
            f"Fn(lambda x: x.kthvalue(1, {d}, keepdim=True)[0])",
        ]
    )


@operator(1)
def fourier(r, c, s):
    last = s[-1]
    if last < 3:
        return None
    return r.choice(
        [
            f"Fn(lambda x, w: torch.fft.irfft(torch.fft.rfft(x) * (1 + 0.5 * w), n={last}), w=rand(0, {last // 2 + 1}))",
            "Fn(lambda x: torch.view_as_real(torch.fft.rfft(x)).mean(-1))",
            "Fn(lambda x: torch.fft.fft2(x).real + 0.3 * torch.fft.fft2(x).imag)" if len(s) > 1 else None,
            "Fn(lambda x: torch.fft.fftshift(x, (-1,)))",
            "Fn(lambda x: torch.fft.rfft(x).abs())",
            "Fn(lambda x: torch.view_as_real(torch.complex(x, x.flip(-1))).sum(-1))",
        ]
    )


@operator(1)
def rarer(r, c, s):
    """What a rule may not exist for: right, a bound, or refused by name."""
    seed, last, n = r.randrange(999), s[-1], len(s)
    total = c * math.prod(s)
    shape = ", ".join(map(str, (c, *s)))
    return r.choice(
        [
            f"Fn(lambda x, i: x.flatten(1).gather(1, i.expand(len(x), -1)).reshape(len(x), {shape}), "
            f"dict(i=perm({seed}, {total})[None]))",
            "Fn(lambda x: F.cosine_similarity(x + 0.7, x.roll(1, 2) - 0.3, dim=1).unsqueeze(1))" if c > 1 else None,
            f"Fn(lambda x, w: torch.cdist(x.flatten(2), w.expand(len(x), -1, -1)).unsqueeze(1)"
            f".expand(-1, 2, -1, -1), w=rand({seed}, 1, 3, {math.prod(s)}))"
            if n == 2
            else None,
            "Fn(lambda x: x.diagonal(dim1=2, dim2=3).unsqueeze(2).expand(-1, -1, 2, -1))" if n == 2 else None,
            f"Fn(lambda x, i: x.scatter_reduce(2, i.expand(len(x), {', '.join(['-1'] * (n + 1))}), x.flip(-1), 'sum'), "
            f"dict(i=ints({seed}, {s[0]}, 1, {shape})))",
            "nn.Softshrink(0.1)",
            f"Fn(lambda x, w: F.bilinear(x.movedim(1, -1), x.movedim(1, -1), w).movedim(-1, 1), "
            f"w=rand({seed}, 2, {c}, {c}))",
            "Fn(lambda x: torch.linalg.matrix_norm(x, dim=(-2, -1), keepdim=True).mul(0.1).sigmoid() * (x + 0.7))"
            if n > 1 else None,  # fmt: skip
            f"Fn(lambda x: x.std({n + 1}, keepdim=True) + x)" if last > 2 else None,
            "Fn(lambda x: torch.atan2(x + 0.7, x.roll(1, -1)))",
            "Fn(lambda x: torch.nan_to_num(x))",
            "Fn(lambda x: torch.hstack([x, x.flip(-1)]))",
            "Fn(lambda x: x.contiguous(memory_format=torch.channels_last))" if n == 2 else None,
            "Fn(lambda x: x.quantile(0.3, 2, keepdim=True))",
            f"Fn(lambda x, w: torch.baddbmm(x[:, 0], x[:, 0], w.expand(len(x), -1, -1)).unsqueeze(1), "
            f"w=rand({seed}, 1, {last}, {last}))"
            if n == 2
            else None,
            f"Fn(lambda x: x.as_strided((len(x), {c}, {s[0] - 1}), (x.stride(0), x.stride(1), 1), 1))" if n == 1 else None,
            "Fn(lambda x: x.unfold(2, 2, 1).sum(-1))",
            "Fn(lambda x: torch.fft.irfft(torch.fft.rfft(x + 0.7) * torch.fft.rfft(x.flip(2) + 0.3).conj(), n=x.shape[-1]))",
            "Fn(lambda x: torch.stft(x.flatten(0, 1), 4, 2, return_complex=True, center=False, "
            "window=torch.ones(4, dtype=x.dtype)).abs().unflatten(0, (len(x), -1)).flatten(1, 2))"
            if n == 1
            else None,
        ]
    )


@operator(1, (2, 3))
def sampled(r, c, s):
    seed = r.randrange(999)
    n = len(s)
    grid = f"rand({seed}, 1, {', '.join(map(str, s))}, {n}).clamp(-1.2, 1.2)"
    options = f"align_corners={keep(r, s)}, padding_mode={r.choice(['zeros', 'border', 'reflection'])!r}"
    mode = r.choice(["bilinear", "nearest"])
    affine = f"F.affine_grid(t.expand(len(x), -1, -1), x.shape, align_corners={keep(r, s)})"
    return r.choice(
        [
            f"Fn(lambda x, g: F.grid_sample(x, g.expand(len(x), {', '.join(['-1'] * (n + 1))}), {mode!r}, {options}), "
            f"dict(g={grid}))",
            f"Fn(lambda x, t: F.grid_sample(x, {affine}, {mode!r}, {options}), dict(t=rand({seed}, 1, {n}, {n + 1}) * 0.6))",
        ]
    )


@operator(1, (1, 2))
def unpooled(r, c, s):
    n = len(s)
    if SMOOTH or any(e % 2 for e in s):
        return None
    return f"Fn(lambda x: F.max_unpool{n}d(*F.max_pool{n}d(x, 2, return_indices=True), 2))"


def _branch(r, c, s, depth):
    texts, (c2, s2) = _chain(r, c, s, r.randint(1, 2), depth + 1)
    return texts, c2, s2


@operator(4)
def residual(r, c, s):
    depth = getattr(r, "depth", 0)
    if depth > 1:
        return None
    r.depth = depth + 1
    try:
        texts, (c2, s2) = _chain(r, c, s, r.randint(1, 2))
    finally:
        r.depth = depth
    if tuple(s2) != tuple(s):
        return None
    how = "add" if c2 in (1, c) and r.random() < 0.6 else "cat"
    if how == "add" and r.random() < 0.3:
        how = "gate"
    return f"Residual({', '.join(texts)}, how={how!r})" if texts else None


# Last layers that change the layout, with the layout's name: how a feature is picked at a position (r, c).
ENDS = [
    ("map", (1, 2, 3), lambda n: "Fn(lambda x: x[:, :1])"),
    ("map", (1, 2, 3), lambda n: "Fn(lambda x: x[:, -1:])"),
    ("channels last", (1, 2, 3), lambda n: "Fn(lambda x: x.movedim(1, -1))"),
    ("tokens", (2,), lambda n: "Fn(lambda x: x.flatten(2).transpose(1, 2))"),
    (
        "class token",
        (2,),
        lambda n: "Fn(lambda x: torch.cat([x.flatten(2).transpose(1, 2).mean(1, True), x.flatten(2).transpose(1, 2)], 1))",
    ),
    ("rows", (2,), lambda n: "Fn(lambda x: x.flatten(2))"),
    ("no channels", (2, 3), lambda n: "Fn(lambda x: x.logsumexp(1))"),
    ("pooled", (1, 2, 3), lambda n: f"Fn(lambda x: x.mean({tuple(range(2, n + 2))}))"),
    ("tuple", (1, 2, 3), lambda n: "Fn(lambda x: (x, x.flip(2)))"),
    ("dict", (1, 2, 3), lambda n: "Fn(lambda x: dict(out=x))"),
]


# ------------------------------------------------------------------------------------------------------------ networks


@dataclass
class Network:
    texts: list
    size: tuple  # (C, *sizes) of the input
    end: str  # layout of the last map
    map: tuple  # its sizes
    zero: bool = False  # all learned weights are zero


def _chain(r, c, s, length):
    texts = []
    weights = [w if len(s) in dims else 0 for w, dims, _ in OPERATORS]
    tries = 0
    while len(texts) < length and tries < 12:
        tries += 1
        function = r.choices(OPERATORS, weights)[0][2]
        text = function(r, c, tuple(s))
        if not text or "None)" in text and "Fn(" not in text and "slice" not in text:
            continue
        try:
            with torch.no_grad():
                y = _run(text, c, s)
        except Exception:  # noqa: BLE001  such an operator does not fit this map
            continue
        fits = y.ndim == len(s) + 2 and y.shape[0] == 2 and y.is_floating_point()
        if not fits or min(y.shape) < 1 or y.shape[1] > 8 or math.prod(y.shape[2:]) > LARGEST[len(s)]:
            continue
        texts.append(text)
        c, s = y.shape[1], tuple(y.shape[2:])
    return texts, (c, s)


def _run(text, c, s):
    return eval(text, globals()).eval()(torch.randn(2, c, *s))  # noqa: S307


def random_network(seed):
    """A :class:`Network` that depends on nothing but the seed."""
    r = random.Random(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        n = r.choice([1, 2, 2, 2, 2, 3])
        low, high = {1: (5, 20), 2: (3, 9), 3: (2, 4)}[n]
        c, s = r.randint(1, 4), tuple(r.randint(low, high) for _ in range(n))
        texts, (_, sizes) = _chain(r, c, s, r.randint(1, 8))
        end = "map"
        if r.random() < 0.3:
            end, dims, text = r.choice(ENDS)
            if n in dims:
                texts.append(text(n))
            else:
                end = "map"
    return Network(texts, (c, *s), end, sizes, r.random() < 0.15)


def make(network):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = build(network.texts)
    if network.zero:
        for parameter in net.parameters():
            nn.init.zeros_(parameter)
    return net


def read(network, y, dims=None):
    """The output as (N, places, features)."""
    if isinstance(y, (tuple, dict)):
        y = y[0] if isinstance(y, tuple) else y["out"]
    if dims is not None:
        y = y.movedim(dims, tuple(range(1, len(dims) + 1)))[..., None].flatten(len(dims) + 1)
        return y.flatten(1, -2) if dims else y[:, None]
    if network.end in ("map", "tuple", "dict", "rows"):
        return y.flatten(2).transpose(1, 2)
    if network.end == "class token":
        return y[:, 1:]
    if network.end == "no channels":
        return y.flatten(1)[..., None]
    if network.end == "pooled":
        return y[:, None]
    return y.flatten(1, -2)  # channels last, tokens


# -------------------------------------------------------------------------------------------------------------- oracle


@contextlib.contextmanager
def smooth():
    global SMOOTH
    SMOOTH = True
    try:
        yield
    finally:
        SMOOTH = False


def reached(network, draws, seed=0, strict=1e-10, steps=(1.5, -2.0), dims=None, change=lambda net: net):
    """Bool (places, *sizes): the pixels that move the features at each place of the map, by brute force.

    ``dims``: the dimensions of the output that are the map, None: as the network's end says. ``change``: of the network.

    ``strict``: the change, relative to the largest feature, that counts. Draws that overflow are left out; None when
    none is left.
    """
    net = change(twin(make(network)))
    c, *s = network.size
    pixels = math.prod(s)
    which = [slice(None)] + ([slice(i, i + 1) for i in range(c)] if c > 1 else [])
    found = None
    generator = torch.Generator().manual_seed(seed)
    with smooth(), torch.no_grad():
        for draw in range(draws):
            for parameter in net.parameters():
                fan = max(1, parameter[0].numel()) if parameter.ndim > 1 else 1
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / fan**0.5)
            x = torch.randn(1, c, pixels, dtype=torch.double, generator=generator) * (1, 0.5, 2)[draw % 3]
            batch = x.repeat(len(which) * pixels + 1, 1, 1)
            for k, channels in enumerate(which):
                for i in range(pixels):
                    batch[1 + k * pixels + i, channels, i] += steps[(draw + k) % len(steps)]
            y = torch.cat([read(network, net(part.unflatten(2, s)), dims) for part in batch.split(256)])
            if not torch.isfinite(y).all():
                continue
            limit = strict * (1 + y.abs().max())
            moved = (y[1:] - y[:1]).abs().amax(2) > limit
            moved = moved.unflatten(0, (len(which), pixels)).any(0).T
            found = moved if found is None else found | moved
    return None if found is None else found.unflatten(1, s)


# ---------------------------------------------------------------------------------------------------------- comparison


@dataclass
class Verdict:
    kind: str  # right, bound, refused, wrong, unjudged
    why: str = ""


def measured(network, net, choose):
    """[(mask, exact), …] as the measure has it at the positions that ``choose(grid)`` gives, and its grid."""
    layer = str(len(network.texts) - 1)
    reach = Reach(net, [layer], network.size)
    grid = reach.grids[layer]
    return [reach.masks({layer: grid.position(p)})[layer] for p in choose(grid)], grid


def places(network, r, grid):
    sizes = () if network.end == "pooled" else grid.size if turned(network, grid) else network.map
    n = len(network.map)
    if grid.index is not None and network.end == "class token" and tuple(grid.size) != tuple(network.map):
        # Rows that nothing reaches belong to no map: asked are those that the measure states.
        stated = dict(zip((grid.index.flatten() - 1).tolist(), itertools.product(*map(range, grid.size)), strict=True))
        chosen = sorted(r.sample(sorted(stated), min(4, len(stated))))
        return chosen, [stated[i] for i in chosen]
    every = list(itertools.product(*(range(e) for e in sizes)))
    chosen = sorted({0, len(every) - 1, r.randrange(len(every)), r.randrange(len(every))})
    return chosen, [_as_stated(every[i], sizes, grid.size) if sizes else (0,) * n for i in chosen]


def _as_stated(position, sizes, stated):
    """The position in a map whose dimensions of size 1 may stand elsewhere: which is which makes no difference."""
    if [e for e in sizes if e > 1] != [e for e in stated if e > 1]:
        return position
    large = iter([i for i, e in zip(position, sizes, strict=True) if e > 1])
    return tuple(next(large) if e > 1 else 0 for e in stated)


def turned(network, grid):
    """Whether channels and rows were exchanged: the map is then what the measure states, not the last dimensions."""
    exchanged = any("transpose(1, 2).reshape(len(x)" in text for text in network.texts)
    return exchanged and network.end != "pooled" and grid.index is None


class Bend(nn.Module):
    """Another bend at every element, which leaves zeros and constants what they are.

    What only cancels by algebra (a number added to all scores of a softmax, the variance of equal values) no longer does.
    """

    def forward(self, x):
        if not isinstance(x, torch.Tensor) or not x.is_floating_point():
            return x
        generator = torch.Generator().manual_seed(x[0].numel())
        slope, phase = torch.rand(2, *x.shape[1:], generator=generator, dtype=torch.double)
        return x * (1 + 0.2 * torch.sin((1 + slope) * x + 6.3 * phase))


def bent(net):
    """A network with a :class:`Bend` between any two layers that follow on each other."""
    for module in list(net.modules()):
        if isinstance(module, nn.Sequential) and not any(isinstance(child, Bend) for child in module):
            children = list(module)
            module._modules.clear()
            for child in itertools.chain.from_iterable((child, Bend()) for child in children[:-1]):
                module.append(child)
            module.extend(children[-1:])
    return net


WINDOWS = r"nn\.(Conv\d|AvgPool|MaxPool|ReLU|GELU|SiLU|Tanh|BatchNorm|Identity|Dropout)|.*F\.pad\(.*mode='constant'"


def off_centre(network, answers, positions, grid):
    """Windows alone: a field that ends within the image lies around its feature's place. Says where it does not."""
    texts = network.texts[: len(network.texts) - (network.end != "map")]
    wrapped = any(f"padding_mode='{mode}'" in text for text in texts for mode in ("circular", "reflect", "replicate"))
    wrapped |= any("F.pad" in text and "-" in text for text in texts)  # a shift, which does not move a feature
    wrapped |= any("same" in text for text in texts)  # where the kernel is even, the padding is not
    dilated = any(re.search(r"dilation=(\(.*2.*?\)|2)", text) for text in texts)
    step = math.prod(max(map(int, re.findall(r"\d", s))) for s in re.findall(r"stride=(\(.*?\)|\d)", " ".join(texts)))
    step *= math.prod(3 for text in texts if "AvgPool" in text and "stride" not in text)
    if dilated or wrapped or network.end == "pooled" or not all(re.match(WINDOWS, text) for text in texts):
        return None
    for (mask, _), position in zip(answers, positions, strict=True):
        for dim, size in enumerate(mask.shape):
            line = mask.movedim(dim, 0).reshape(mask.shape[dim], -1).any(1).nonzero().flatten().tolist()
            if line and line[0] >= step and line[-1] < size - step:  # with gaps, the border may cut more off
                middle, center = (line[0] + line[-1]) / 2, float(grid.centers[tuple(position)][dim])
                if abs(middle - center) > 1e-6:
                    return f"position {position}: field around {middle} in dimension {dim}, center {center}"
    return None


def judge(network, seed=0):
    """Measure a network and ask the oracle."""
    if len(network.size) == 2 and not any("nn.Conv" in text for text in network.texts):
        return Verdict("unjudged", "two numbers could be channels and length, or rows and columns")
    if any("F.unfold(" in text and "unsqueeze(2)" in text for text in network.texts):
        return Verdict("unjudged", "columns of windows are the positions of a map, or one row that was repeated")
    if any("Recurrent(" in text for text in network.texts) and max(math.prod(network.map), math.prod(network.size[1:])) > 40:
        return Verdict("unjudged", "what came forty steps ago is below rounding")
    if 1 in network.map and network.end in ("tokens", "rows", "class token"):
        return Verdict("unjudged", "which of the flattened dimensions had the size 1 makes no difference to the tokens")
    net = make(network)
    try:
        copy.deepcopy(net).eval()(torch.zeros(1, *network.size))
    except RuntimeError:
        return Verdict("unjudged", "the network itself does not run")
    before = {k: v.clone() for k, v in net.state_dict().items()}
    noise = torch.get_rng_state()
    try:
        answers, grid = measured(network, net, lambda grid: places(network, random.Random(seed), grid)[1])
    except (NotImplementedError, ValueError) as error:
        lines = str(error).splitlines()
        if len(lines) == 1 and len(lines[0]) < 500 and re.search(NAMED, lines[0]):
            return Verdict("refused", lines[0])
        return Verdict("wrong", f"{type(error).__name__} of {len(lines)} lines: {lines[0] if lines else ''}")
    except Exception as error:  # noqa: BLE001
        return Verdict("wrong", f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}")
    numbers, positions = places(network, random.Random(seed), grid)
    after = net.state_dict()
    if list(after) != list(before) or not all(torch.equal(after[k], v) for k, v in before.items()):
        return Verdict("wrong", "the state of the model changed")
    if not torch.equal(noise, torch.get_rng_state()) or not net.training:
        return Verdict("wrong", "random numbers or the mode changed")
    if (why := off_centre(network, answers, positions, grid)) is not None:
        return Verdict("wrong", why)
    dims = tuple(d for d in grid.dims if d is not None) if turned(network, grid) else None
    kinds, right = set(), None
    for draws, strict, steps in ((2, 1e-10, (1.5, -2.0)), (12, 1e-12, (1.5, -2.0, 30.0, -0.1, 0.01, -30.0))):
        found = reached(network, draws, seed, strict, steps, dims)
        if found is None:
            return Verdict("unjudged", "no draw stays finite")
        right = found if right is None else right | found
        kinds, why = set(), ""
        for number, position, (mask, exact) in zip(numbers, positions, answers, strict=True):
            want = right[number]
            if tuple(mask.shape) != tuple(want.shape):
                return Verdict("wrong", f"mask of {tuple(mask.shape)}, right {tuple(want.shape)}")
            missing, more = int((want & ~mask).sum()), int((mask & ~want).sum())
            if missing or (exact and more):
                kinds.add("wrong")
                why = why or f"position {position}, exact={exact}: {missing} pixels missing, {more} too many"
            else:
                kinds.add("right" if exact else "bound")
        if "wrong" not in kinds:
            return Verdict("bound" if "bound" in kinds else "right", "equal" if not more else "")
    # A pixel that moves something must do so beyond rounding before a mask without it is called wrong.
    if "missing" in why and not why.split(": ")[1].startswith("0 "):
        loose = reached(network, 12, seed + 1, 1e-7, (1.5, -2.0, 30.0, -30.0), dims)
        if loose is not None and not any((loose[n] & ~m).any() for n, (m, _) in zip(numbers, answers, strict=True)):
            return Verdict("unjudged", "differs by rounding alone")
    elif "missing" in why:
        free = reached(network, 12, seed + 1, 1e-12, (1.5, -2.0, 30.0, -0.1, 0.01, -30.0), dims, bent)
        if free is not None:
            free |= right
            if all(torch.equal(free[n], m) or not exact for n, (m, exact) in zip(numbers, answers, strict=True)):
                return Verdict("unjudged", "cancels by algebra alone")
    return Verdict("wrong", why)


def shrink(network, seed=0):
    """The same failure with as few operators as can be."""
    again = True
    while again:
        again = False
        for i in range(len(network.texts) - (network.end != "map")):
            texts = network.texts[:i] + network.texts[i + 1 :]
            if not texts:
                continue
            try:
                with torch.no_grad():
                    inner = build(texts[:-1] if network.end != "map" else texts)
                    y = inner.eval()(torch.randn(2, *network.size))
                smaller = Network(texts, network.size, network.end, tuple(y.shape[2:]), network.zero)
                if judge(smaller, seed).kind == "wrong":
                    network, again = smaller, True
                    break
            except Exception:  # noqa: BLE001  does not fit without it
                continue
    return network


def describe(network):
    inner = ",\n    ".join(network.texts)
    return f"size={network.size} map={network.map} end={network.end!r} zero={network.zero}\n    {inner}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", type=int, default=20, help="failures to print")
    options = parser.parse_args()
    torch.set_num_threads(1)
    counts, refusals, start = collections.Counter(), collections.Counter(), time.process_time()
    shown = 0
    for seed in range(options.seed, options.seed + options.networks):
        network = random_network(seed)
        if not network.texts:
            continue
        verdict = judge(network, seed)
        counts[verdict.kind] += 1
        if verdict.kind == "refused":
            refusals[verdict.why[-110:]] += 1
        if verdict.kind == "wrong" and shown < options.show:
            shown += 1
            small = shrink(network, seed)
            print(f"--- seed {seed}: {judge(small, seed).why}\n{describe(small)}", flush=True)
    for why, number in refusals.most_common(25):
        print(f"{number:5} refused: {why}")
    print(dict(counts), f"{time.process_time() - start:.0f} CPU-s")
    return counts["wrong"] > 0


if __name__ == "__main__":
    sys.exit(main())
