"""Relative positional encoding (thesis §3.2).

E_i = [sin(R f), cos(R f), sin(C f), cos(C f)], a quarter of the channels each, where R and C are the row and column
distances from a position to the one that the i-th permutation shows there, and f_j = 10000^(−4j/C), j = 0 … C/4 − 1.
"""

import numpy as np

from .base import require_quarters


def relative_encoding(distances, channels):
    """Encode row and column distances.

    Args:
        distances: array (2, …) of row and column distances in positions, of any sign.
        channels: C, divisible by four.

    Returns:
        float64 array (…, C) in [−1, 1].

    Raises:
        ValueError: if C is not divisible by four.
    """
    require_quarters(channels)
    frequencies = 10000.0 ** (-4.0 * np.arange(channels // 4) / channels)
    rows, columns = np.asarray(distances, dtype=np.float64)[..., None] * frequencies
    return np.concatenate([np.sin(rows), np.cos(rows), np.sin(columns), np.cos(columns)], axis=-1)
