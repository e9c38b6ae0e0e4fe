"""Random sparse context (thesis §3.1), with relative encoding on request (§3.2).

The input is concatenated with k spatially permuted copies of itself; the following convolution thereby sees k
random, fixed positions besides its own. In NHWC layout this is one gather, and the convolution behind it one matrix
product. The gradient of a permutation is a gather by its inverse, which spares the slow sorting backward of
indexing.

Warning: the permutations belong to one map size. At another size others are drawn, so weights trained at one
resolution do not carry their context to another.
"""

import numpy as np
import torch

from .base import ContextBlock, require_at_least, require_quarters
from .encoding import relative_encoding
from .positions import permutations, relative_positions


class _Gather(torch.autograd.Function):
    """Copies of the positions of x, (N, P, C) → (N, P, copies, C), by index (P·copies); backward by the inverse index."""

    @staticmethod
    def forward(ctx, x, index, inverse):
        ctx.save_for_backward(index, inverse)
        return x.index_select(1, index).unflatten(1, (x.shape[1], -1))

    @staticmethod
    def backward(ctx, grad):
        _, inverse = ctx.saved_tensors
        return grad.flatten(1, 2).index_select(1, inverse).unflatten(1, (grad.shape[1], -1)).sum(2), None, None


def gather_index(x, order, inverse):
    """The positions of x (N, P, C) in the given order (P,); ``inverse`` is its inverse, for the gradient."""
    return _Gather.apply(x, order, inverse).squeeze(2)


def gather_tables(order):
    """Flat gather index and its inverse for (copies, P) permutations, the copies of one position side by side."""
    copies, count = order.shape
    inverse = np.argsort(order, axis=1) * copies + np.arange(copies)[:, None]
    return np.ascontiguousarray(order.T).reshape(-1), np.ascontiguousarray(inverse.T).reshape(-1)


def positions_last(x):
    """(N, C, H, W) → (N, H·W, C)."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


class SpatialPermutation(ContextBlock):
    """[x, x′₁, …, x′ₖ] along the channels: (N, C, H, W) → (N, (k + 1)·C, H, W).

    Args:
        channels: C; divisible by four with ``encoding``.
        k: number of permuted copies, ≥ 0.
        encoding: add E_i to x′_i (§3.2).
        seed, layer: what the permutations are derived from, with H and W.

    Raises:
        ValueError: naming the argument and the nearest valid value.
    """

    copies = True

    def __init__(self, channels, *, k=1, encoding=False, seed=0, layer=""):
        require_at_least("k", k, 0)
        super().__init__(channels, out_channels=(k + 1) * channels)
        if encoding:
            require_quarters(channels)
        self.k, self.encoding, self.seed, self.layer = k, encoding, seed, layer

    def make_tables(self, height, width):
        order = permutations(self.k, height, width, seed=self.seed, layer=self.layer)
        index, inverse = gather_tables(np.concatenate([np.arange(height * width)[None], order]))
        if not self.encoding:
            return index, inverse
        encoded = relative_encoding(relative_positions(order, width), self.channels)
        untouched = np.zeros((1, height * width, self.channels))
        return index, inverse, np.concatenate([untouched, encoded]).transpose(1, 0, 2).copy()

    def forward(self, x):
        index, inverse, *encoding = self.tables(x)
        copies = _Gather.apply(positions_last(x), index, inverse)
        if encoding:
            copies = copies + encoding[0]
        return copies.flatten(2).unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)

    def extra_repr(self):
        return f"{self.channels}, k={self.k}, encoding={self.encoding}"
