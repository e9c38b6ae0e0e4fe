"""Global context (Cao et al. 2019, "GCNet", arXiv:1904.11492), which starts as no change at all.

One weight per position, softmax over the map, gives a weighted mean of the features; two small layers make of it one vector
that is added at every place. Theirs stands after the last convolution of a residual block; here it stands in the slot, on a
quarter of the channels. The last layer starts at zero.

Warning: every place gets the same vector, so it tells what is there but not where.
"""

import torch
import torch.nn.functional as F
from torch import nn

from .base import ContextBlock, require_at_least


class GlobalContext(ContextBlock):
    """x + one vector for all places, made of a weighted mean of the map: (N, C, H, W) → (N, C, H, W).

    Args:
        channels: C.
        ratio: C / ``ratio`` features, at least one, lie between the two layers.

    Raises:
        ValueError: naming the argument and the nearest valid value.
    """

    context = "global_context"

    def __init__(self, channels, *, ratio=4):
        super().__init__(channels)
        hidden = max(1, channels // require_at_least("ratio", ratio, 1))
        self.weigh = nn.Conv2d(channels, 1, 1)
        self.reduce = nn.Linear(channels, hidden)
        self.norm = nn.LayerNorm(hidden)
        # no layers, whose weights a network draws when it is built
        self.weight, self.bias = nn.Parameter(torch.zeros(channels, hidden)), nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        share = self.weigh(x).flatten(2).softmax(2)  # (N, 1, H·W)
        mean = (x.flatten(2) * share).sum(2)
        added = F.linear(self.norm(self.reduce(mean)).relu(), self.weight, self.bias)
        return x + added[:, :, None, None]

    @torch.no_grad()
    def start_as_identity(self):
        self.weight.zero_()
        self.bias.zero_()
