"""How sure a top-1 number is: the few formulas the tables need, by hand.

One trained network per row answers "how well did *this* network do", up to the sampling of the validation
images (Wilson 1927, McNemar 1947). It does not answer "is this *architecture* better": training the same row
again with another seed moves top-1 by an amount that a single run cannot show. :func:`verdict` words a
comparison accordingly.
"""

import math

Z95 = 1.959963984540054
# Student's t, two-sided 95 %, 1…9 degrees of freedom; beyond, the series in _t95 is good to 0.0005.
_T95 = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262]


def wilson_interval(correct, n, z=Z95):
    """95 % interval (low, high) of a share in 0…1: ``correct`` hits among ``n`` (Wilson 1927)."""
    if n < 1 or not 0 <= correct <= n:
        raise ValueError(f"correct must lie in 0…n and n be at least 1, not correct={correct}, n={n}")
    share = correct / n
    centre = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def mean_interval(values):
    """95 % interval of the mean of at least two runs, by Student's t: (low, high)."""
    if len(values) < 2:
        raise ValueError("an interval over seeds needs at least 2 runs")
    mean = sum(values) / len(values)
    deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
    half = _t95(len(values) - 1) * deviation / math.sqrt(len(values))
    return mean - half, mean + half


def top1_interval(top1s, n):
    """Mean and 95 % interval of a row: over seeds when there are several, over the ``n`` images when there is
    one.

    Returns:
        (mean, low, high, kind) with shares in 0…1 and kind "seeds" or "images".
    """
    if len(top1s) > 1:
        return sum(top1s) / len(top1s), *mean_interval(top1s), "seeds"
    return top1s[0], *wilson_interval(round(top1s[0] * n), n), "images"


def mcnemar(only_a, only_b):
    """Exact two-sided McNemar test: p for ``only_a`` images right in A alone and ``only_b`` in B alone
    (McNemar 1947).

    Under the null hypothesis each image on which the two differ is a fair coin, so p is twice the binomial
    tail.
    """
    differing = only_a + only_b
    tail = sum(math.comb(differing, i) for i in range(min(only_a, only_b) + 1))
    return min(1.0, 2 * tail / 2**differing)


def compare(predictions_a, predictions_b):
    """Two networks on the same images, A minus B.

    Args:
        predictions_a, predictions_b: frames of :func:`ctxnet.report.records.load_predictions`.

    Returns:
        dict with ``difference``, ``low``, ``high`` (shares, 95 % over images), ``only_a``, ``only_b``
        (counts), ``n`` and ``p`` (exact McNemar).

    Raises:
        ValueError: when the two were not tested on the same images.
    """
    both = predictions_a.merge(predictions_b, on=["image", "label"], suffixes=("_a", "_b"))
    if not len(both) == len(predictions_a) == len(predictions_b):
        raise ValueError(
            "the two runs were not tested on the same images, so they cannot be compared in pairs"
        )
    right_a, right_b = both["predicted_a"] == both["label"], both["predicted_b"] == both["label"]
    only_a, only_b, n = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum()), len(both)
    difference = (only_a - only_b) / n
    half = Z95 * math.sqrt(max(0.0, (only_a + only_b) / n - difference**2) / n)
    return {
        "difference": difference,
        "low": difference - half,
        "high": difference + half,
        "only_a": only_a,
        "only_b": only_b,
        "n": n,
        "p": mcnemar(only_a, only_b),
    }


def verdict(low, high, where):
    """Words for a difference with the interval ``low``…``high``; ``where`` qualifies a clear one."""
    if low <= 0 <= high:
        return "within noise"
    return f"{'higher' if low > 0 else 'lower'} {where}"


def _t95(degrees):
    if degrees <= len(_T95):
        return _T95[degrees - 1]
    z, v = Z95, degrees
    series = [
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    ]
    return sum(term / v**i for i, term in enumerate(series))
