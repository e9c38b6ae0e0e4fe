"""A share of the channels permuted over the map, or permuted and added through a gate: cheap kin of thesis §3.1.

:class:`PartialPermutation` replaces the first channels by their permuted copies: no parameters, no other number of channels.
:class:`GatedPermutation` adds to every channel its permuted copy times a gate of its own; the gates start at zero
(Bachlechner et al. 2021, "ReZero", arXiv:2003.04887), so that the network decides how much of the copy it takes.

Warning: as with all permutations, another size of the map draws others.
"""

import numpy as np
import torch
from torch import nn

from .base import ContextBlock
from .permutation import gather_index, positions_last
from .positions import permutations


def share_of(channels, share):
    """Number of channels in a share of them, rounded, at least one.

    Raises:
        ValueError: the share is not in (0, 1]; with the nearest valid value.
    """
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
        raise ValueError(f"share={share!r} must lie in (0, 1]; nearest valid value: share={1.0 if share != 0 else 0.1}")
    return max(1, round(channels * share))


class _Permuted(ContextBlock):
    """One permutation of the map, fixed for a seed, a layer and a size."""

    def __init__(self, channels, *, seed=0, layer=""):
        super().__init__(channels)
        self.seed, self.layer = seed, layer

    def make_tables(self, height, width):
        order = permutations(1, height, width, seed=self.seed, layer=self.layer)[0]
        return order, np.argsort(order)

    def permuted(self, some, x):
        """The channels ``some`` of the map x, permuted over its positions."""
        copy = gather_index(positions_last(some), *self.tables(x))
        return copy.transpose(1, 2).unflatten(2, x.shape[2:])


class PartialPermutation(_Permuted):
    """The first channels permuted, the others as they are: (N, C, H, W) → (N, C, H, W).

    Args:
        channels: C.
        share: of the channels that are permuted, in (0, 1].
        seed, layer: what the permutation is derived from, with H and W.

    Raises:
        ValueError: naming the argument and the nearest valid value.
    """

    context = "partial_permutation"

    def __init__(self, channels, *, share=0.25, seed=0, layer=""):
        super().__init__(channels, seed=seed, layer=layer)
        self.count = share_of(channels, share)

    def forward(self, x):
        return torch.cat([self.permuted(x[:, : self.count], x), x[:, self.count :]], 1)

    def extra_repr(self):
        return f"{self.channels}, permuted={self.count}"


class GatedPermutation(_Permuted):
    """x + gate · permuted x, one gate per channel, from zero: (N, C, H, W) → (N, C, H, W).

    Args:
        channels: C.
        seed, layer: what the permutation is derived from, with H and W.

    Raises:
        ValueError: naming the argument and the nearest valid value.
    """

    context = "gated_permutation"

    def __init__(self, channels, *, seed=0, layer=""):
        super().__init__(channels, seed=seed, layer=layer)
        self.gate = nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        return x + self.gate[:, None, None] * self.permuted(x, x)

    @torch.no_grad()
    def start_as_identity(self):
        self.gate.zero_()
