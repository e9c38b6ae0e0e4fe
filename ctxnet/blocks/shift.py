"""Channels moved to the neighbours: shift (Wu et al. 2018, arXiv:1711.08141). No parameters, no arithmetic.

The channels form nine groups of equal size, each of which is moved by one of the offsets of a 3×3 kernel; channels that are
left over stay with the group that is not moved, as in the paper. Outside the map the input counts as zero.

Warning: on a map of one position eight of nine channels see nothing but that zero.
"""

import torch
import torch.nn.functional as F

from .base import ContextBlock

NINE = tuple((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1))


def moved(x, dy, dx):
    """y[p] = x[p + (dy, dx)] for x (N, C, H, W), zero where that lies outside."""
    if abs(dy) >= x.shape[2] or abs(dx) >= x.shape[3]:
        return torch.zeros_like(x)
    return F.pad(x, (-dx, dx, -dy, dy))


class Shift(ContextBlock):
    """A ninth of the channels from each of the 3×3 neighbours: (N, C, H, W) → (N, C, H, W).

    Args:
        channels: C; of fewer than nine each is moved by another one of the offsets, from the upper left on.

    Raises:
        ValueError: naming the argument and the nearest valid value.
    """

    context = "shift"

    def __init__(self, channels):
        super().__init__(channels)
        few = channels // len(NINE)
        self.sizes = [few + (offset == (0, 0)) * (channels - len(NINE) * few) for offset in NINE]
        if not few:
            self.sizes = [int(number < channels) for number in range(len(NINE))]

    def forward(self, x):
        groups = zip(x.split(self.sizes, 1), NINE, strict=True)
        return torch.cat([group if offset == (0, 0) else moved(group, *offset) for group, offset in groups], 1)

    def extra_repr(self):
        return f"{self.channels}"
