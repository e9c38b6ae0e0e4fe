"""A 7×7 depthwise convolution that starts as no change at all.

The size is that of ConvNeXt (Liu et al. 2022, arXiv:2201.03545); the start at zero, beside the features themselves, lets a
trained network take it up (Bachlechner et al. 2021, "ReZero", arXiv:2003.04887).

Warning: few multiplications, but a processor does them slowly: a depthwise convolution waits for memory.
"""

import torch
import torch.nn.functional as F
from torch import nn

from .base import ContextBlock, require_at_least


class DepthwiseContext(ContextBlock):
    """x + a depthwise convolution of x: (N, C, H, W) → (N, C, H, W). Outside the map the input counts as zero.

    Args:
        channels: C.
        size: side of the kernel, odd.

    Raises:
        ValueError: naming the argument and the nearest valid value.
    """

    context = "depthwise"

    def __init__(self, channels, *, size=7):
        super().__init__(channels)
        self.size = require_at_least("size", size, 1)
        if size % 2 == 0:
            raise ValueError(f"size={size} has no middle; nearest valid value: size={size + 1}")
        self.weight = nn.Parameter(torch.zeros(channels, 1, size, size))

    def forward(self, x):
        return x + F.conv2d(x, self.weight, padding=self.size // 2, groups=self.channels)

    @torch.no_grad()
    def start_as_identity(self):
        self.weight.zero_()

    def extra_repr(self):
        return f"{self.channels}, size={self.size}"
