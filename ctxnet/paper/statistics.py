"""How sure a top-1 number is, and whether two rows differ.

A row is known through a few runs (seeds) on the same images. Two things make its number uncertain: the seeds (training
again moves top-1, here by about two points) and the choice of validation images. A row's answers are a boolean
array ``right`` of shape (…, seeds, images); leading dimensions are independent experiments, which is how the tests
simulate thousands of them at once.

**Which test, and why.** :func:`compare` is Welch's t over the rows' per-seed accuracies, with the variance over images
added. Simulated with two rows of one recipe (1,000 images, seed s.d. 2 points, nominal 5 %, 3 / 5 seeds):

=============================  =============  ================================================================
test                           false, 3 / 5   why it is used or not
=============================  =============  ================================================================
McNemar on one run each        28 %           sees the images only; 52 % with 3,925 images
t paired by seed               4.8 / 5.6 %    seeds are not paired in fact (another network draws other weights);
                                              half the degrees of freedom: power 57 % where Welch's is 75 % (n = 3)
pooled-variance t              4.9 / 5.2 %    power 85 % there, but 6–7 % false where one row scatters more; they do
Welch's t, seeds alone         3.5 / 4.7 %    9 % false for rows that differ on these images and not on others
**Welch's t, seeds + images**  3.6 / 4.1 %    4.5–5.1 % there; costs no power where seeds dominate
=============================  =============  ================================================================

A bootstrap over seeds has no place in the test: with three seeds it knows ten different means. It gives the interval of
a single row (:func:`row_interval`), with the correction for few seeds that it needs.
"""

import bisect
import math
from dataclasses import dataclass, replace

import numpy as np
from scipy import optimize, special

Z95 = 1.959963984540054
LEVEL = 0.05  # two-sided
POWER = 0.8
MIN_SEEDS = 3  # of both rows; with two, Student's t has about one degree of freedom and says nothing
MOST_SEEDS = 1000  # where the search for "seeds needed" ends


def wilson_interval(correct, n, z=Z95):
    """95 % interval (low, high) of a share in 0…1: ``correct`` hits among ``n`` (Wilson 1927)."""
    if n < 1 or not 0 <= correct <= n:
        raise ValueError(f"correct must lie in 0…n and n be at least 1, not correct={correct}, n={n}")
    share = correct / n
    centre = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def mean_sd(values):
    """(mean, standard deviation over runs with n − 1); the second is NaN for a single run."""
    values = np.asarray(values, dtype=float)
    if not len(values) or not np.isfinite(values).all():
        raise ValueError(f"mean and s.d. need at least one finite value, not {values.tolist()}")
    return float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else math.nan


def right_answers(runs):
    """The answers of one row.

    Args:
        runs: one frame per seed, as :func:`ctxnet.paper.results.load_predictions` gives it.

    Returns:
        (images, right): image ids in sorted order, and bool (seeds, images).

    Raises:
        ValueError: no run, or runs on other images or labels.
    """
    if not runs:
        raise ValueError("no run to read answers from")
    runs = [run.sort_values("image", ignore_index=True) for run in runs]
    for run in runs[1:]:
        if not run[["image", "label"]].equals(runs[0][["image", "label"]]):
            raise ValueError("the runs were not tested on the same images, so they cannot be compared in pairs")
    return runs[0]["image"].to_numpy(), np.stack([(run["predicted"] == run["label"]).to_numpy() for run in runs])


def row_interval(right, draws=4000, seed=0):
    """Mean accuracy of a row and its 95 % interval for new seeds and new images.

    Several seeds: a two-level bootstrap. Level one draws seeds, n − 1 of n, which makes the variance of their mean
    unbiased (Rao and Wu 1988; drawing n would give (n − 1)/n of it, two thirds for three seeds). Level two draws images. The
    interval is the mean ± Student's t times the bootstrap's standard error, with Satterthwaite's degrees of freedom, as
    percentiles of so few seeds cannot reach far enough. One seed: Wilson's interval over images alone.

    Args:
        right: bool (seeds, images).
        draws: bootstrap samples; the standard error is then good to 1 %.
        seed: of the random numbers; equal input gives equal output.

    Returns:
        (mean, low, high, kind) with shares in 0…1 and kind "images" or "seeds and images".
    """
    right = _checked(right)
    if right.ndim != 2:
        raise ValueError(f"right must be (seeds, images), not {right.shape}")
    seeds, n = right.shape
    if seeds == 1:
        return float(right.mean()), *wilson_interval(int(right.sum()), n), "images"
    rng = np.random.default_rng(seed)
    accuracy = right.mean(1)
    mean = float(accuracy.mean())
    over_seeds = accuracy[rng.integers(0, seeds, (draws, seeds - 1))].mean(1).var()
    # An image counts by how many seeds got it right, so a sample of images is a multinomial draw of those counts.
    counts = np.bincount(right.sum(0), minlength=seeds + 1)
    over_images = (rng.multinomial(n, counts / n, draws) @ np.arange(seeds + 1) / (seeds * n)).var()
    total = over_seeds + over_images
    if total == 0:
        return mean, mean, mean, "seeds and images"
    degrees = total**2 / (over_seeds**2 / (seeds - 1) + over_images**2 / (n - 1))
    half = float(half_width(math.sqrt(total), degrees))
    return mean, max(0.0, mean - half), min(1.0, mean + half), "seeds and images"


def image_variance(right_a, right_b):
    """Variance that the choice of images gives to the mean difference of two rows, (…,).

    That is how much the images differ in what they say about A − B, without what a single run's luck adds to each: the
    variance over images of the difference of the two rows' shares, less the variance of those shares within a row.
    Zero at the least; zero in expectation when both rows follow one recipe.
    """
    n = right_a.shape[-1]
    total = (right_a.mean(-2) - right_b.mean(-2)).var(-1, ddof=1)
    return np.maximum(0.0, total - _luck(right_a) - _luck(right_b)) / n


def welch(values_a, values_b, variance_images=0.0, images=2):
    """Welch's t for A − B over seeds and images, for many experiments at once.

    Args:
        values_a, values_b: one number per seed, (…, seeds), at least 2 seeds each.
        variance_images: what :func:`image_variance` gives, (…,); ``images``: how many there are.

    Returns:
        dict of arrays (…,): ``difference`` and ``error`` (its standard error), ``degrees`` of freedom, ``p`` (two-sided).
    """
    values_a, values_b = np.asarray(values_a, dtype=float), np.asarray(values_b, dtype=float)
    seeds = values_a.shape[-1], values_b.shape[-1]
    parts = [values.var(-1, ddof=1) / count for values, count in zip((values_a, values_b), seeds, strict=True)]
    delta = values_a.mean(-1) - values_b.mean(-1)
    error, degrees = standard_error([*parts, variance_images], [*seeds, images])
    return {"difference": delta, "error": error, "degrees": degrees, "p": 2 * p_above(abs(delta), error, degrees)}


def half_width(error, degrees, level=LEVEL):
    """Half of a (1 − ``level``) interval by Student's t, from a standard error and its degrees of freedom."""
    return special.stdtrit(degrees, 1 - level / 2) * error


def mean_half(values, level=LEVEL):
    """Half of the interval of a mean over independent values; NaN for fewer than :data:`MIN_SEEDS`."""
    if len(values) < MIN_SEEDS:
        return math.nan
    return float(half_width(np.std(values, ddof=1), len(values) - 1, level) / math.sqrt(len(values)))


def standard_error(parts, counts):
    """Standard error of a sum of independent means, and Satterthwaite's degrees of freedom.

    Args:
        parts: variances of the means; counts: how many values each was estimated from.
    """
    total = np.asarray(sum(parts), dtype=float)
    square = sum(part**2 / (count - 1) for part, count in zip(parts, counts, strict=True))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.sqrt(total), np.where(total > 0, np.divide(total**2, square), 1.0)


def p_above(estimate, error, degrees, bound=0.0):
    """One-sided p for "more than ``bound``"; without any scatter every difference is certain, and no difference is none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        delta = np.subtract(estimate, bound)
        return special.stdtr(degrees, -np.where(delta == 0, 0.0, np.divide(delta, error)))


def holm(ps):
    """p-values corrected for their number (Holm 1979), in the order given; NaN (not tested) stays NaN and is not counted."""
    ps = np.asarray(ps, dtype=float)
    if ((ps < 0) | (ps > 1)).any():
        raise ValueError(f"p-values lie in 0…1, not {ps.tolist()}")
    corrected = np.full(len(ps), math.nan)
    tested = np.flatnonzero(~np.isnan(ps))
    order = tested[np.argsort(ps[tested], kind="stable")]
    factors = len(order) - np.arange(len(order))
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(factors * ps[order]))
    return corrected


def power(effect, variance_a, variance_b, seeds_a, seeds_b, variance_images=0.0, level=LEVEL):
    """Chance that :func:`compare` calls a true difference ``effect`` (a share).

    ``variance_a`` and ``variance_b`` are those of one run over seeds, ``variance_images`` as in :func:`image_variance`;
    ``level`` is two-sided, a smaller one where a difference is one of many.
    """
    return _power(abs(effect), *_possible_scatter(variance_a, variance_b, seeds_a, seeds_b, variance_images, level=level))


def minimum_detectable(variance_a, variance_b, seeds_a, seeds_b, variance_images=0.0):
    """The true difference (a share) that :func:`compare` calls in 80 % of experiments with these seeds."""
    error, threshold = _possible_scatter(variance_a, variance_b, seeds_a, seeds_b, variance_images)
    if error == 0:
        return 0.0
    return float(optimize.brentq(lambda effect: _power(effect, error, threshold) - POWER, error, 100 * error, rtol=1e-6))


def seeds_needed(effect, variance_a, variance_b, variance_images=0.0, level=LEVEL):
    """Seeds of each row with which a true difference ``effect`` is called in 80 % of experiments, at least 3.

    Returns infinity where more than :data:`MOST_SEEDS` were needed or no number would do: then the images are too few. The
    effect put in is usually the one just found, which is itself uncertain: an order of magnitude, not a plan.
    """

    def enough(seeds):
        return power(effect, variance_a, variance_b, seeds, seeds, variance_images, level) >= POWER

    fewest = MIN_SEEDS + bisect.bisect_left(range(MIN_SEEDS, MOST_SEEDS + 1), True, key=enough)
    return fewest if fewest <= MOST_SEEDS else math.inf


@dataclass(frozen=True)
class Comparison:
    """Row A minus row B. Shares (or whatever was compared); NaN where there are too few seeds.

    Attributes:
        mean_a, mean_b, sd_a, sd_b, seeds_a, seeds_b: each row over its seeds.
        difference, low, high: A − B and its 95 % interval.
        error, degrees: standard error and degrees of freedom behind it.
        p: two-sided.
        variance_images: part of error², by the choice of images.
    """

    mean_a: float
    mean_b: float
    sd_a: float
    sd_b: float
    seeds_a: int
    seeds_b: int
    difference: float
    low: float = math.nan
    high: float = math.nan
    error: float = math.nan
    degrees: float = math.nan
    p: float = math.nan
    variance_images: float = 0.0

    @property
    def testable(self):
        """Whether both rows have the seeds that a verdict needs."""
        return min(self.seeds_a, self.seeds_b) >= MIN_SEEDS

    @property
    def detectable(self):
        """Minimum detectable difference, 80 % power with these seeds; NaN with a single seed of either row."""
        if min(self.seeds_a, self.seeds_b) < 2:
            return math.nan
        return minimum_detectable(self.sd_a**2, self.sd_b**2, self.seeds_a, self.seeds_b, self.variance_images)

    @property
    def needed(self):
        """Seeds of each row for 80 % power to see the difference found; may be infinite; NaN as above."""
        if min(self.seeds_a, self.seeds_b) < 2:
            return math.nan
        return seeds_needed(self.difference, self.sd_a**2, self.sd_b**2, self.variance_images)

    def p_above(self, bound=0.0):
        """One-sided p for "A − B is larger than ``bound``"; NaN if not testable."""
        if not self.testable:
            return math.nan
        return float(p_above(self.difference, self.error, self.degrees, bound))

    def verdict(self, p=None):
        """"better", "worse", "no difference shown" (of A) or "too few seeds: …"; ``p`` replaces the own one, e.g.
        Holm's."""
        if not self.testable:
            return f"too few seeds: {self.seeds_a} and {self.seeds_b}, {MIN_SEEDS} of each needed"
        if (self.p if p is None else p) > LEVEL:
            return "no difference shown"
        return "better" if self.difference > 0 else "worse"


def compare(right_a, right_b):
    """:class:`Comparison` of two rows' accuracies on the same images, (seeds, images) each; see the module for the test.

    With fewer than two seeds of either row nothing but the difference is known; with fewer than three no interval
    and no p is given.
    """
    right_a, right_b = _checked(right_a), _checked(right_b)
    if right_a.shape[-1] != right_b.shape[-1]:
        raise ValueError(f"the rows were tested on {right_a.shape[-1]} and {right_b.shape[-1]} images, not on the same")
    several = min(right_a.shape[0], right_b.shape[0]) > 1
    over_images = float(image_variance(right_a, right_b)) if several else 0.0
    return compare_values(right_a.mean(1), right_b.mean(1), over_images, right_a.shape[1])


def compare_values(values_a, values_b, variance_images=0.0, images=2):
    """:class:`Comparison` of two rows by one number per run, such as a mean distance: Welch's t over seeds.

    ``variance_images`` is added to the variance of the difference, with ``images`` − 1 degrees of freedom.
    """
    (mean_a, sd_a), (mean_b, sd_b) = mean_sd(values_a), mean_sd(values_b)
    delta, seeds = mean_a - mean_b, (len(values_a), len(values_b))
    rows = Comparison(mean_a, mean_b, sd_a, sd_b, *seeds, difference=delta, variance_images=variance_images)
    if not rows.testable:
        return rows
    found = {key: float(value) for key, value in welch(values_a, values_b, variance_images, images).items()}
    half = float(half_width(found["error"], found["degrees"]))
    return replace(rows, **found | {"difference": delta, "low": delta - half, "high": delta + half})


def _checked(right):
    right = np.asarray(right)
    if right.dtype != bool or right.ndim < 2 or not right.shape[-2] or right.shape[-1] < 2:
        raise ValueError(f"right answers must be bool (…, seeds, images), at least 1 by 2, not {right.dtype} {right.shape}")
    return right


def _luck(right):
    """Mean variance, over images, of a row's share of seeds that are right: from the seeds' scatter within an image."""
    seeds = right.shape[-2]
    share = right.mean(-2)
    within = (share * (1 - share)).mean(-1) * seeds / (seeds - 1)
    # The seeds' common ups and downs are the same in every image: they do not scatter the images among each other.
    return (within - right.mean(-1).var(-1, ddof=1)) / seeds


def _possible_scatter(variance_a, variance_b, seeds_a, seeds_b, variance_images, cells=60, level=LEVEL):
    """(true standard error of A − B, thresholds that |A − B| has to exceed, equally likely).

    The threshold of an experiment is Student's t times the standard error that it estimates, and so are the degrees
    of freedom. Both rows' variance estimates are chi-squares: here at ``cells`` equally likely values each. Taking the
    degrees of freedom as known instead would promise 80 % and give 67 % at three seeds.
    """
    parts = variance_a / seeds_a, variance_b / seeds_b
    middles = (np.arange(cells) + 0.5) / cells
    a, b = (
        part * special.chdtri(seeds - 1, middles) / (seeds - 1)
        for part, seeds in zip(parts, (seeds_a, seeds_b), strict=True)
    )
    error, degrees = standard_error([a[:, None], b[None], variance_images], [seeds_a, seeds_b, math.inf])
    return math.sqrt(sum(parts) + variance_images), special.stdtrit(degrees, 1 - level / 2) * error


def _power(effect, error, threshold):
    if error == 0:
        return 1.0 if effect else 0.0
    return float((special.ndtr((effect - threshold) / error) + special.ndtr((-effect - threshold) / error)).mean())
