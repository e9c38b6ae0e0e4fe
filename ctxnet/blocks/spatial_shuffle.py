"""What a spatially shuffled convolution does to its input (Kishida and Nakayama 2020, openreview.net/forum?id=SkgODpVFDr).

The values of a few channels are permuted at random over positions *and* those channels at once; the convolution behind sees
them in place of these channels. Theirs shuffles the input of every convolution; here it is the input of the last one of a
residual block, in the slot. Their code takes 4 % of the channels, which would be none of 16; a sixteenth is one of 16.

Warning: a permutation over channels and positions is drawn for each size of the map, as large as the map.
"""

import numpy as np
import torch

from .base import ContextBlock, memory_format
from .partial_permutation import share_of
from .permutation import gather_index
from .positions import permutations


class SpatialShuffle(ContextBlock):
    """The first channels shuffled over channels and positions, the others as they are: (N, C, H, W) → (N, C, H, W).

    Args:
        channels: C.
        share: of the channels that are shuffled, in (0, 1]; at least one is.
        seed, layer: what the permutation is derived from, with H and W.

    Raises:
        ValueError: naming the argument and the nearest valid value.
    """

    context = "spatial_shuffle"

    def __init__(self, channels, *, share=0.0625, seed=0, layer=""):
        super().__init__(channels)
        self.count, self.seed, self.layer = share_of(channels, share), seed, layer

    def make_tables(self, height, width):
        order = permutations(1, self.count * height, width, seed=self.seed, layer=self.layer)[0]  # channel, row, column
        return order, np.argsort(order)

    def forward(self, x):
        some = x[:, : self.count]
        shuffled = gather_index(some.flatten(1)[:, :, None], *self.tables(x))
        shuffled = shuffled.reshape(some.shape).contiguous(memory_format=memory_format(x))
        return torch.cat([shuffled, x[:, self.count :]], 1)

    def extra_repr(self):
        return f"{self.channels}, shuffled={self.count}"
