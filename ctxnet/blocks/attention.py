"""Attention over a random sparse context (thesis §3.3).

The relative encoding is added to x and to its k permuted copies (to x itself at distance zero). At each position
the k + 1 vectors are weighed by the softmax of their dot products with the vector of x, and summed. There are no
weights to learn, and the scores are not divided by √C, as in the thesis.

Warning: unscaled dot products grow with C, so the softmax is nearly one-hot in wide layers.
"""

import numpy as np

from .base import ContextBlock, require_at_least, require_quarters
from .encoding import relative_encoding
from .permutation import _Gather, gather_tables, positions_last
from .positions import permutations, relative_positions


class PermutationAttention(ContextBlock):
    """Softmax-weighted sum over a position and k random others: (N, C, H, W) → (N, C, H, W).

    Args:
        channels: C, divisible by four.
        k: number of permuted copies, ≥ 0.
        seed, layer: what the permutations are derived from, with H and W.

    Raises:
        ValueError: naming the argument and the nearest valid value.
    """

    def __init__(self, channels, *, k=1, seed=0, layer=""):
        super().__init__(require_quarters(channels))
        self.k, self.seed, self.layer = require_at_least("k", k, 0), seed, layer

    def make_tables(self, height, width):
        order = permutations(self.k, height, width, seed=self.seed, layer=self.layer)
        order = np.concatenate([np.arange(height * width)[None], order])
        encoding = relative_encoding(relative_positions(order, width), self.channels)
        return *gather_tables(order), encoding.transpose(1, 0, 2).copy()

    def forward(self, x):
        index, inverse, encoding = self.tables(x)
        copies = _Gather.apply(positions_last(x), index, inverse) + encoding
        weights = (copies @ copies[:, :, 0, :, None]).softmax(dim=2)
        summed = (weights.transpose(2, 3) @ copies).squeeze(2)
        return summed.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)

    def extra_repr(self):
        return f"{self.channels}, k={self.k}"
