"""Channels weighed by their neighbours among the channels: efficient channel attention (Wang et al. 2020, arXiv:1910.03151).

As squeeze-and-excitation, with a one-dimensional convolution along the channels in place of the two layers: a handful of
weights per block. Its kernel is the odd number next to log2(C) / 2 + 1 / 2, as in the paper (γ = 2, b = 1).

Warning: which channels are neighbours is nobody's choice. There is no start as the identity.
"""

import math

from torch import nn

from .base import ContextBlock


class ChannelAttention(ContextBlock):
    """x · sigmoid(convolution along the channels of the mean of x over the map): (N, C, H, W) → (N, C, H, W).

    Args:
        channels: C.

    Raises:
        ValueError: naming the argument and the nearest valid value.
    """

    context = "channel_attention"

    def __init__(self, channels):
        super().__init__(channels)
        size = int(abs(math.log2(channels) / 2 + 0.5))
        size += size % 2 == 0
        self.conv = nn.Conv1d(1, 1, size, padding=size // 2, bias=False)

    def forward(self, x):
        gate = self.conv(x.mean((2, 3))[:, None])[:, 0].sigmoid()
        return x * gate[:, :, None, None]
