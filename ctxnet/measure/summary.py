"""One number for a map: how many pixels hold most of an effective receptive field, how wide a receptive field is."""

import numpy as np
import torch


def erf_share(erf, part):
    """Share of the image's pixels, 0 … 1, that hold ``part`` of an effective receptive field: the fewest that do.

    Args:
        erf: (H, W), not negative; need not sum to 1.
        part: 0 … 1.

    Raises:
        ValueError: for a ``part`` outside of its range, or a map without any effect.
    """
    if not 0 < part <= 1:
        raise ValueError(f"part={part} is not in 0 … 1; nearest valid value: {1 if part > 1 else 'just above 0'}")
    strongest = np.sort(np.asarray(erf, dtype=np.float64), axis=None)[::-1]
    total = strongest.sum()
    if not (np.isfinite(total) and total > 0):
        raise ValueError(f"erf sums to {total}; expected a positive, finite sum")
    count = np.searchsorted(strongest.cumsum(), part * total * (1 - 1e-12)) + 1
    return round(float(min(count, strongest.size) / strongest.size), 6)


def rf_side(mask):
    """Longer side, in pixels, of the box around a receptive field (H, W); it ends at the border of the image."""
    mask = torch.as_tensor(mask)
    if not mask.any():
        return 0
    rows, cols = mask.any(1).nonzero(), mask.any(0).nonzero()
    return int(max(rows.max() - rows.min(), cols.max() - cols.min())) + 1
