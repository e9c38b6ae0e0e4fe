"""The thesis' measure of context (§4.1): how far from a feature's own place the pixels it listens to lie."""

import torch


def mean_distance(erf, center):
    """Σ F·d over the image, in pixels: F is the map scaled to sum 1, d the Euclidean distance from ``center``.

    Args:
        erf: (H, W), not negative; need not sum to 1.
        center: (row, column) in pixels; may lie between pixels or outside of the image.

    Raises:
        ValueError: when the map is not two-dimensional or has no positive sum.
    """
    erf = torch.as_tensor(erf).double()
    if erf.ndim != 2:
        raise ValueError(f"erf has shape {tuple(erf.shape)}; expected (H, W)")
    total = erf.sum()
    if not (torch.isfinite(total) and total > 0):
        raise ValueError(f"erf sums to {total.item()}; expected a positive, finite sum")
    rows = torch.arange(erf.shape[0], dtype=torch.float64, device=erf.device) - center[0]
    cols = torch.arange(erf.shape[1], dtype=torch.float64, device=erf.device) - center[1]
    return float((erf * torch.hypot(rows[:, None], cols)).sum() / total)
