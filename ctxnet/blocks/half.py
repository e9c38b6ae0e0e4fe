"""Half of the channels look elsewhere: the cells of chapter 6. No weights, no other number of channels, no dead tap.

The first half of the channels shows what lies elsewhere on the map, the other half stays. *Coherent*: every place looks
the same way (:class:`HalfShift`), as the taps of a convolution do. *Incoherent*: every place looks another way
(:class:`HalfPermutation`), as with the thesis' permutations. Both draw from one law, that of two different positions of a
square tile, so that they look equally far: with tiles of 2, 4 and 8 positions 1.1, 2.1 and 4.2 positions in the mean, the
distance taken around the border, where offsets wrap. :class:`HalfMean` shows the mean of the map instead.

Warning: where maps are smaller than the tile, the tile is the map.
"""

import numpy as np
import torch

from .base import ContextBlock, memory_format, require_at_least
from .permutation import gather_index, positions_last
from .positions import cycle, tile_offset


def require_even(channels):
    """Refuse a number of channels that has no halves."""
    require_at_least("channels", channels, 2)
    if channels % 2:
        raise ValueError(f"channels={channels} has no halves; nearest valid value: channels={channels + 1}")
    return channels


class HalfShift(ContextBlock):
    """Half of the channels moved by one offset, the same at every place, around the border: (N, C, H, W) → (N, C, H, W).

    Args:
        channels: C, even.
        tile: the offset is that between two different positions of a tile × tile square; 0: of the whole map.
        seed, layer: what the offset is derived from, with the tile's size.

    Raises:
        ValueError: naming the argument and the nearest valid value.
    """

    def __init__(self, channels, *, tile=0, seed=0, layer=""):
        super().__init__(require_even(channels))
        self.tile, self.seed, self.layer = require_at_least("tile", tile, 0), seed, layer
        self._offsets = {}

    def offset(self, height, width):
        """(rows, columns) from a place to the one that it shows, on a map of that size."""
        if (height, width) not in self._offsets:
            self._offsets[height, width] = tile_offset(self.tile, height, width, seed=self.seed, layer=self.layer)
        return self._offsets[height, width]

    def forward(self, x):
        rows, columns = self.offset(*x.shape[2:])
        half = self.channels // 2
        return torch.cat([x[:, :half].roll((-rows, -columns), (2, 3)), x[:, half:]], 1)

    def extra_repr(self):
        return f"{self.channels}, tile={self.tile}"


class HalfPermutation(ContextBlock):
    """Half of the channels permuted, so that every place looks another way: (N, C, H, W) → (N, C, H, W).

    Within each tile the positions form a random ring, and each shows the next of its ring: none shows itself.

    Args:
        channels: C, even.
        tile: side of the tiles within which positions are permuted; 0: the whole map. Tiles at the border are cut.
        redraw: draw the rings anew in every training step, from torch's generator; in eval mode they are fixed.
        seed, layer: what fixed rings are derived from, with the size of the map.

    Raises:
        ValueError: naming the argument and the nearest valid value.
    """

    def __init__(self, channels, *, tile=0, redraw=False, seed=0, layer=""):
        super().__init__(require_even(channels))
        self.tile, self.redraw = require_at_least("tile", tile, 0), redraw
        self.seed, self.layer = seed, layer
        if redraw and tile:
            raise ValueError(f"tile={tile}: only whole maps are drawn anew; nearest valid value: tile=0")

    def make_tables(self, height, width):
        order = cycle(self.tile, height, width, seed=self.seed, layer=self.layer)
        return order, np.argsort(order)

    def forward(self, x):
        half = self.channels // 2
        if self.redraw and self.training:
            ring = torch.randperm(x.shape[2] * x.shape[3])
            order = torch.empty_like(ring)
            order[ring] = ring.roll(-1)
            index, inverse = order.to(x.device), order.argsort().to(x.device)
        else:
            index, inverse = self.tables(x)
        moved = gather_index(positions_last(x[:, :half]), index, inverse)
        return torch.cat([moved.transpose(1, 2).unflatten(2, x.shape[2:]), x[:, half:]], 1)

    def extra_repr(self):
        return f"{self.channels}, tile={self.tile}, redraw={self.redraw}"


class HalfMean(ContextBlock):
    """Half of the channels replaced by their mean over the map: (N, C, H, W) → (N, C, H, W)."""

    def __init__(self, channels):
        super().__init__(require_even(channels))

    def forward(self, x):
        half = self.channels // 2
        mean = x[:, :half].mean((2, 3), keepdim=True).expand(-1, -1, *x.shape[2:])
        return torch.cat([mean.contiguous(memory_format=memory_format(x)), x[:, half:]], 1)

    def extra_repr(self):
        return f"{self.channels}"


class IdentityCopy(ContextBlock):
    """[x, x] along the channels: the control of one permutation, as wide and with nothing new: (N, 2·C, H, W)."""

    def __init__(self, channels):
        super().__init__(channels, out_channels=2 * channels)

    def forward(self, x):
        return torch.cat([x, x], 1)
