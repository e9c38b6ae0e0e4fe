"""Attention over a random sparse context (thesis §3.3).

The relative encoding is added to x and to its k permuted copies (to x itself at distance zero). At each position
the k + 1 vectors are weighed by the softmax of their dot products with the vector of x, and summed. There are no
weights to learn, and the scores are not divided by √C, as in the thesis.

The k + 1 encoded vectors never exist all at once: each copy is gathered when it is needed and dropped, and gathered again in
the backward pass, which keeps only x and the weights. Reading x anew costs less than moving k + 1 times as much.

Warning: unscaled dot products grow with C, so the softmax is nearly one-hot in wide layers.
"""

import numpy as np
import torch

from .base import ContextBlock, require_at_least, require_quarters
from .encoding import relative_encoding
from .permutation import positions_last
from .positions import permutations, relative_positions


def _copy(x, order, encoding, i):
    return x.index_select(1, order[i]).add_(encoding[i])


def _dot(a, b):
    """(N, P, C), (N, P, C) → (N, P), in single precision at least: rounded scores would change which vector wins."""
    return (a * b).sum(-1, dtype=torch.promote_types(a.dtype, torch.float32))


def _plain(x, order, encoding):
    """What :class:`_Attention` computes, in operations that autograd knows."""
    copies = torch.cat([x[:, None], x[:, order]], 1) + encoding
    weights = torch.einsum("nkpc,npc->nkp", copies, copies[:, 0]).softmax(1)
    return torch.einsum("nkp,nkpc->npc", weights, copies)


class _Attention(torch.autograd.Function):
    """Σᵢ wᵢ cᵢ with w = softmax of cᵢ · c₀: x (N, P, C), order and inverse (k, P), encoding (k + 1, P, C) → (N, P, C).

    The copies are c₀ = x + encoding₀ and cᵢ = x[orderᵢ₋₁] + encodingᵢ.
    """

    @staticmethod
    def forward(ctx, x, order, inverse, encoding):
        own, others = x + encoding[0], encoding[1:]
        copies = range(len(order))
        scores = [_dot(own, own)] + [_dot(_copy(x, order, others, i), own) for i in copies]
        weights = torch.stack(scores, -1).softmax(-1).to(x.dtype)
        ctx.save_for_backward(x, order, inverse, encoding, weights)
        out = own * weights[..., :1]
        for i in copies:
            out.addcmul_(_copy(x, order, others, i), weights[..., i + 1, None])
        return out

    @staticmethod
    def backward(ctx, grad):
        x, order, inverse, encoding, weights = ctx.saved_tensors
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():  # somebody will differentiate twice
            return *torch.autograd.grad(_plain(x, order, encoding), x, grad, create_graph=True), None, None, None
        own, others = x + encoding[0], encoding[1:]
        copies = range(len(order))
        dots = torch.stack([_dot(own, grad)] + [_dot(_copy(x, order, others, i), grad) for i in copies], -1)
        wide = weights.to(dots.dtype)
        slopes = (wide * (dots - (wide * dots).sum(-1, keepdim=True))).to(x.dtype)  # gradient of the scores
        total = (grad * weights[..., :1]).addcmul_(own, 2 * slopes[..., :1])  # the own score is own · own
        for i in copies:
            weight, slope = weights[..., i + 1, None], slopes[..., i + 1, None]
            total.addcmul_(_copy(x, order, others, i), slope)
            total += (grad * weight).addcmul_(own, slope).index_select(1, inverse[i])
        return total, None, None, None


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
        every = np.concatenate([np.arange(height * width)[None], order])
        return order, np.argsort(order, axis=1), relative_encoding(relative_positions(every, width), self.channels)

    def forward(self, x):
        summed = _Attention.apply(positions_last(x), *self.tables(x))
        return summed.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)

    def extra_repr(self):
        return f"{self.channels}, k={self.k}"
