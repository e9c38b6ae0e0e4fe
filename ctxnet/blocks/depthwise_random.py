"""Random offsets with one weight per channel, starting at zero: the depthwise kin of thesis §3.5.

Every channel adds to itself k of its own features at random offsets from [−d, d]², the same offsets at every place and for
every channel, each times a weight of its own. The thesis' reading with a concatenation has k·C·4C more weights per block,
this one k·C. Offsets go around the border, so that none sees only padding, however small the map.

Warning: on a map smaller than d an offset may come around to the place itself.
"""

import torch
from torch import nn

from .base import ContextBlock, require_at_least
from .positions import offsets


class DepthwiseRandom(ContextBlock):
    """x + Σ weight · x at an offset, a weight per channel and offset, from zero: (N, C, H, W) → (N, C, H, W).

    Args:
        channels: C.
        k: number of offsets, 1 … (2d + 1)² − 1.
        d: largest vertical or horizontal offset in positions, ≥ 1.
        seed, layer: what the offsets are derived from.

    Raises:
        ValueError: naming the argument and the nearest valid value.
    """

    context = "depthwise_random"

    def __init__(self, channels, *, k=8, d=4, seed=0, layer=""):
        super().__init__(channels)
        require_at_least("k", k, 1)
        require_at_least("d", d, 1)
        most = (2 * d + 1) ** 2 - 1
        if k > most:
            raise ValueError(f"k={k} is more than the {most} offsets within d={d}; nearest valid value: k={most}")
        self.offsets = tuple(map(tuple, offsets(k, d, seed=seed, layer=layer).tolist()))
        self.d, self.weight = d, nn.Parameter(torch.zeros(k, channels, 1, 1))

    def forward(self, x):
        y = x
        for weight, (rows, columns) in zip(self.weight, self.offsets, strict=True):
            y = y + weight * x.roll((-rows, -columns), (2, 3))
        return y

    @torch.no_grad()
    def start_as_identity(self):
        self.weight.zero_()

    def extra_repr(self):
        return f"{self.channels}, k={len(self.offsets)}, d={self.d}"
