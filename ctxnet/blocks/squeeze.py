"""Channels weighed by what the whole map holds: squeeze-and-excitation (Hu et al. 2018, arXiv:1709.01507).

The mean of the map goes through two small layers and a sigmoid; every channel is multiplied by its result. Theirs stands
after the last convolution of a residual block, and takes a tenth of the network's parameters; here it stands in the slot, on
a quarter of the channels.

Warning: there is no start as the identity; a fresh block about halves its input.
"""

from torch import nn

from .base import ContextBlock, require_at_least


class SqueezeExcitation(ContextBlock):
    """x · sigmoid(layers(mean of x over the map)): (N, C, H, W) → (N, C, H, W).

    Args:
        channels: C.
        ratio: C / ``ratio`` features, at least one, lie between the two layers.

    Raises:
        ValueError: naming the argument and the nearest valid value.
    """

    context = "squeeze_excitation"

    def __init__(self, channels, *, ratio=4):
        super().__init__(channels)
        hidden = max(1, channels // require_at_least("ratio", ratio, 1))
        self.reduce, self.expand = nn.Linear(channels, hidden), nn.Linear(hidden, channels)

    def forward(self, x):
        gate = self.expand(self.reduce(x.mean((2, 3))).relu()).sigmoid()
        return x * gate[:, :, None, None]
