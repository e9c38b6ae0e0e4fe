"""Inserted dilated convolution (thesis §3.4.1).

A dilated 3×3 convolution with batch normalisation and ReLU between the 3×3 and the last 1×1 convolution. (The row
that dilates the 3×3 convolution itself needs no block: it is the ``dilation`` of the network.)

Warning: with d > 1 the nine positions form a grid with holes; stacked, they leave isolated areas in the receptive field.
"""

import torch
from torch import nn

from .base import ContextBlock, require_at_least


class InsertedDilatedConv(ContextBlock):
    """(N, C, H, W) → (N, C, H, W).

    Args:
        channels: C.
        d: distance of neighbouring kernel positions, ≥ 1.

    Raises:
        ValueError: naming the argument and the nearest valid value.
    """

    def __init__(self, channels, *, d=4):
        super().__init__(channels)
        self.d = require_at_least("d", d, 1)
        self.conv = nn.Conv2d(channels, channels, 3, padding=d, dilation=d, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.relu(self.bn(self.conv(x)))

    @torch.no_grad()
    def start_as_identity(self):
        nn.init.dirac_(self.conv.weight)
        nn.init.constant_(self.bn.weight, (1 + self.bn.eps) ** 0.5)
