"""Randomised dilated convolution (thesis §3.5), in the two readings the thesis allows.

:class:`RandomDilatedConcat` concatenates the input with k copies shifted by random offsets from [−d, d]²; the last
1×1 convolution of the bottleneck mixes them. Only this reading has the 63.7 million parameters of Table 4.5.
:class:`RandomDilatedConv` is the section's formula taken literally: a convolution C → C over the centre and k
random offsets, inserted like the dilated one, with as many weights as a 3×3 convolution for k = 8.

Outside the map the input counts as zero. Warning: where d exceeds the map, most offsets see nothing but that zero.
"""

import torch
import torch.nn.functional as F
from torch import nn

from .base import ContextBlock, convolve, require_at_least
from .positions import offsets


def _overlaps(shifts, height, width):
    """For y[p] = x[p − shift]: (copy, rows to, rows from, columns to, columns from) of each shift that meets the map."""
    for copy, (dy, dx) in enumerate(shifts):
        if abs(dy) < height and abs(dx) < width:
            yield copy, *_slices(height, dy), *_slices(width, dx)


def _slices(size, shift):
    return slice(max(shift, 0), size + min(shift, 0)), slice(max(-shift, 0), size + min(-shift, 0))


def _shifted(x, dy, dx):
    if abs(dy) >= x.shape[1] or abs(dx) >= x.shape[2]:
        return torch.zeros_like(x)
    return F.pad(x, (0, 0, dx, -dx, dy, -dy))


class _Shift(torch.autograd.Function):
    """x and its shifted copies, zero outside: (N, H, W, C) → (N, H, W, copies, C)."""

    @staticmethod
    def forward(ctx, x, shifts):
        ctx.shifts = shifts
        # Padding on one side and cropping on the other, not writing into slices of one buffer: that is as fast, and
        # receptive fields are found ten times faster, since a padding is a rule and a slice a list of elements.
        return torch.stack([_shifted(x, dy, dx) for dy, dx in shifts], dim=3)

    @staticmethod
    def backward(ctx, grad):
        height, width = grad.shape[1:3]
        total = grad.new_zeros(*grad.shape[:3], grad.shape[4])
        for i, to_y, from_y, to_x, from_x in _overlaps(ctx.shifts, height, width):
            total[:, from_y, from_x] += grad[:, to_y, to_x, i]
        return total, None


class RandomDilatedConcat(ContextBlock):
    """[x, k shifted copies] along the channels: (N, C, H, W) → (N, (k + 1)·C, H, W).

    Args:
        channels: C.
        k: number of offsets besides the centre, 0 … (2d + 1)² − 1.
        d: largest vertical or horizontal offset in positions, ≥ 1.
        seed, layer: what the offsets are derived from.

    Raises:
        ValueError: naming the argument and the nearest valid value.
    """

    copies = True

    def __init__(self, channels, *, k=8, d=8, seed=0, layer=""):
        require_at_least("k", k, 0)
        require_at_least("d", d, 1)
        most = (2 * d + 1) ** 2 - 1
        if k > most:
            raise ValueError(f"k={k} is more than the {most} offsets within d={d}; nearest valid value: k={most}")
        super().__init__(channels, out_channels=(k + 1) * channels)
        self.k, self.d = k, d
        chosen = offsets(k, d, seed=seed, layer=layer).tolist()
        self.shifts = ((0, 0), *map(tuple, chosen))

    def forward(self, x):
        return _Shift.apply(x.permute(0, 2, 3, 1), self.shifts).flatten(3).permute(0, 3, 1, 2)

    def extra_repr(self):
        return f"{self.channels}, k={self.k}, d={self.d}"


class RandomDilatedConv(ContextBlock):
    """Convolution over the centre and k random offsets, batch normalisation, ReLU: (N, C, H, W) → (N, C, H, W).

    Arguments and errors as for :class:`RandomDilatedConcat`.
    """

    def __init__(self, channels, *, k=8, d=8, seed=0, layer=""):
        super().__init__(channels)
        self.shift = RandomDilatedConcat(channels, k=k, d=d, seed=seed, layer=layer)
        self.conv = nn.Conv2d(self.shift.out_channels, channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.relu(self.bn(convolve(self.conv, self.shift, x)))

    @torch.no_grad()
    def start_as_identity(self):
        nn.init.zeros_(self.conv.weight)
        nn.init.dirac_(self.conv.weight[:, : self.channels])
        nn.init.constant_(self.bn.weight, (1 + self.bn.eps) ** 0.5)
