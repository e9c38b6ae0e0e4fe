"""How far an effective receptive field spreads: the share of it within a radius, and the radius that holds a share."""

import math

import torch


def share_within(erf, center, radius):
    """Share of an effective receptive field within ``radius`` of ``center``.

    Args:
        erf: (L,), (H, W) or (D, H, W), not negative; need not sum to 1.
        center: a coordinate for each dimension, in pixels, as in a profile's ``center``; may lie between pixels or outside.
        radius: in pixels, Euclidean, the border included; a number or a list of numbers.

    Returns:
        A number in 0…1, or a list of them.

    Raises:
        ValueError: for another number of coordinates, a negative radius, or a map without a positive, finite sum.
    """
    distance, weight = _distances(erf, center)
    radii = [radius] if isinstance(radius, (int, float)) else list(radius)
    if any(not r >= 0 for r in radii):
        raise ValueError(f"radius is {radius!r}; expected numbers of pixels, at least 0")
    shares = [float(weight[distance <= r].sum()) for r in radii]
    return shares[0] if isinstance(radius, (int, float)) else shares


def radius_of_share(erf, center, share=0.95):
    """The smallest radius in pixels within which at least ``share`` (0 < share ≤ 1) of ``erf`` lies."""
    if not 0 < share <= 1:
        raise ValueError(f"share is {share!r}; expected a number above 0 and at most 1")
    distance, weight = _distances(erf, center)
    used = weight > 0
    order = distance[used].argsort(stable=True)
    distance, total = distance[used][order], weight[used][order].cumsum(0)
    # What rounding leaves out of a sum of 1 must not send the radius to the farthest pixel.
    return float(distance[(total < share * total[-1] - 1e-12).sum()])


def _distances(erf, center):
    erf = torch.as_tensor(erf).detach().cpu().double()
    center = [float(c) for c in center]
    if len(center) != erf.ndim or not erf.ndim:
        raise ValueError(
            f"center has {len(center)} coordinates and erf the shape {tuple(erf.shape)}; expected one per dimension"
        )
    total = float(erf.sum())
    if not (math.isfinite(total) and total > 0 and bool((erf >= 0).all())):
        raise ValueError(f"erf sums to {total}; expected no negative value and a positive, finite sum")
    axes = [torch.arange(n, dtype=torch.float64) - c for n, c in zip(erf.shape, center, strict=True)]
    squares = [a.square() for a in torch.meshgrid(*axes, indexing="ij")]
    return sum(squares).sqrt().flatten(), (erf / total).flatten()
