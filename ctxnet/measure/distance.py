"""The thesis' measure of context (§4.1): how far from a feature's own place the pixels it listens to lie."""

import torch


def mean_distance(erf, center):
    """Σ F·d over the image, in pixels: F is the map scaled to sum 1, d the Euclidean distance from ``center``.

    Args:
        erf: (H, W), or (L,) or (D, H, W), not negative; need not sum to 1.
        center: (row, column) in pixels, one number per dimension of ``erf``; may lie between pixels or outside of the image.

    Raises:
        ValueError: when the map has another number of dimensions than ``center`` or has no positive sum.
    """
    erf = torch.as_tensor(erf).double()
    if erf.ndim != len(center):
        raise ValueError(f"erf has shape {tuple(erf.shape)}; expected (H, W), or as many sizes as center has numbers")
    total = erf.sum()
    if not (torch.isfinite(total) and total > 0):
        raise ValueError(f"erf sums to {total.item()}; expected a positive, finite sum")
    away = [torch.arange(n, dtype=torch.float64, device=erf.device) - c for n, c in zip(erf.shape, center, strict=True)]
    squares = sum(axis.square() for axis in torch.meshgrid(*away, indexing="ij"))
    return float((erf * squares.sqrt()).sum() / total)
