"""Contrasts over cells of a factorial, written down before their runs: estimate, interval, test, verdict.

A contrast is Σ w·mean(cell) with weights that add up to zero, so that one cell against another, a main effect over
several reaches and an interaction are the same thing. Cells may scatter differently: the standard error adds their own
variances, with Satterthwaite's degrees of freedom (Welch 1947; for two cells this is Welch's t).

Hypotheses stand in ``hypotheses.yaml`` with the date on which they were written, the rows, the number of replicates and
the margin. They are tested once every cell has all of its replicates and not before: looking after every replicate would
make one verdict in five a false one. A hypothesis may name one earlier look; p is then doubled at both, so that together
they err no more often than one (Bonferroni). Replicates beyond the planned ones do not count.
"""

import bisect
import datetime
import math
from dataclasses import dataclass, field, replace

import numpy as np
from scipy import stats

from ctxnet import settings
from ctxnet.paper.statistics import LEVEL, MOST_SEEDS, POWER, holm, p_above, standard_error

KINDS = ("greater", "equivalent")
_RANGES = {"replicates": "[3, 100000]", "margin": "[0, 100]"}  # two leave nothing to judge scatter by


@dataclass(frozen=True)
class Hypothesis:
    """One contrast that was written down before its runs.

    Attributes:
        name: short, unique in its file.
        text: what is claimed, in one sentence.
        protocol: whose records it is about.
        kind: "greater" (the contrast is above zero) or "equivalent" (it lies within ± ``margin``).
        cells: {row: weight}; weights add up to 0, the positive ones to 1.
        replicates: seeds 0 … ``replicates`` − 1 of every cell.
        margin: points of top-1, for "equivalent" alone.
        first_look: replicates of every cell, seeds 0 …, at which it is tested a first time; 0: not before all are there.
        written: date.
    """

    name: str
    text: str
    protocol: str
    kind: str
    cells: dict
    replicates: int
    written: datetime.date
    margin: float = 0.0
    first_look: int = 0

    @property
    def looks(self):
        """Numbers of replicates at which it is tested."""
        return (self.first_look, self.replicates) if self.first_look else (self.replicates,)


@dataclass(frozen=True)
class Contrast:
    """What became of a hypothesis. Estimate, interval and margin in the unit of the values; NaN where not tested.

    Attributes:
        estimate, low, high: of the contrast; the interval holds 95 %.
        error, degrees: standard error and its degrees of freedom.
        p: of the test that the hypothesis names, one-sided ("greater") or the larger of two one-sided ("equivalent"); with
            two looks the smaller one so far, doubled.
        p_against: of the contrary, two-sided like the interval: below zero ("greater") or beyond the margin ("equivalent");
            tested with all replicates only. :func:`family` corrects it by Holm's method.
        counts: {row: replicates at hand, of the planned ones}.
        looked: replicates of each cell that were tested; 0: none yet.
    """

    hypothesis: Hypothesis
    estimate: float = math.nan
    low: float = math.nan
    high: float = math.nan
    error: float = math.nan
    degrees: float = math.nan
    p: float = math.nan
    p_against: float = math.nan
    counts: dict = field(default_factory=dict)
    looked: int = 0

    @property
    def complete(self):
        return all(count >= self.hypothesis.replicates for count in self.counts.values())

    @property
    def waits_for(self):
        """The row with the fewest replicates; "" when all are there."""
        return "" if self.complete else min(self.counts, key=self.counts.get)

    def verdict(self, p):
        """"shown", "refuted", "not shown", or "open: …" with what is missing; ``p`` is the corrected one."""
        if self.looked and p <= LEVEL:
            return "shown"
        if not self.complete:
            row = self.waits_for
            looked = f"; the look at {self.looked} settled nothing" if self.looked else ""
            return f"open: {row} has {self.counts[row]} of {self.hypothesis.replicates} replicates{looked}"
        return "refuted" if self.p_against <= LEVEL else "not shown"


def load_hypotheses(path):
    """The hypotheses of a file as a list of :class:`Hypothesis`.

    Raises:
        ValueError: in one line that names file, hypothesis and key.
    """
    return [_hypothesis(f"{path}: {name}", name, entry) for name, entry in settings.read_yaml(path).items()]


def _hypothesis(where, name, entry):
    entry = {"name": name, **settings.group(entry, where)}
    made = settings.typed(Hypothesis, entry, where=where, ranges=_RANGES, choices={"kind": KINDS})
    for text in (made.protocol, *settings.group(made.cells, f"{where}.cells")):  # they become folders
        if not settings.PROTOCOL.fullmatch(text):
            raise ValueError(f"{where}: {text!r} is no name of a protocol or row: letters, digits, '_' and '-' only")
    weights = list(made.cells.values())
    for row, weight in made.cells.items():
        if type(weight) not in (int, float):
            raise ValueError(f"{where}.cells.{row}={weight!r} must be of type float")
    if not weights or not (abs(sum(weights)) <= 1e-9 and abs(sum(w for w in weights if w > 0) - 1) <= 1e-9):
        raise ValueError(f"{where}: weights of cells must add up to 0 and the positive ones to 1, not {made.cells}")
    if (made.kind == "equivalent") != (made.margin > 0):
        raise ValueError(f"{where}: a margin above 0 belongs to kind 'equivalent' and to no other, not {made.margin:g}")
    if made.first_look and not 3 <= made.first_look < made.replicates:
        raise ValueError(f"{where}.first_look={made.first_look} must lie in [3, {made.replicates - 1}], before the last")
    return made


def contrast(hypothesis, values, shared=(0.0, 2)):
    """Test one hypothesis.

    Args:
        values: {row: sequence of numbers}, one per replicate in the order of their seeds, NaN for one that is missing; those
            beyond the planned number are left out. A row may be missing.
        shared: (variance, count): what the choice of test images, the same for all rows, adds to the variance of the
            contrast, and of how many independent parts of them that was estimated.

    Returns:
        :class:`Contrast`; its numbers are those of the last look that every cell has the replicates for, else NaN.
    """
    planned = hypothesis.replicates
    cells = {row: np.full(planned, math.nan) for row in hypothesis.cells}
    for row, cell in cells.items():
        some = values.get(row, ())[:planned]
        cell[: len(some)] = some
    counts = {row: int(np.isfinite(cell).sum()) for row, cell in cells.items()}
    looks = [n for n in hypothesis.looks if all(np.isfinite(cell[:n]).all() for cell in cells.values())]
    if not looks:
        return Contrast(hypothesis, counts=counts)
    found = [_look(hypothesis, {row: cell[:n] for row, cell in cells.items()}, n, shared) for n in looks]
    estimate, low, high, error, degrees, _ = found[-1]
    p = min(1.0, len(hypothesis.looks) * min(each[-1] for each in found))
    sides = [-estimate] if hypothesis.kind == "greater" else [estimate, -estimate]
    against = math.nan
    if looks[-1] == planned:
        against = min(1.0, 2 * min(float(p_above(side, error, degrees, hypothesis.margin)) for side in sides))
    return Contrast(hypothesis, estimate, low, high, error, degrees, p, against, counts, looks[-1])


def _look(hypothesis, cells, count, shared):
    """(estimate, low, high, error, degrees, p) from ``count`` replicates of every cell."""
    weights = hypothesis.cells
    estimate = float(sum(weights[row] * cell.mean() for row, cell in cells.items()))
    parts = [weights[row] ** 2 * cell.var(ddof=1) / count for row, cell in cells.items()]
    error, degrees = map(float, standard_error([*parts, shared[0]], [*[count] * len(parts), shared[1]]))
    half = stats.t.ppf(1 - LEVEL / 2, degrees) * error
    p = p_above(estimate, error, degrees)
    if hypothesis.kind == "equivalent":
        p = max(p_above(side, error, degrees, -hypothesis.margin) for side in (estimate, -estimate))
    return estimate, float(estimate - half), float(estimate + half), error, degrees, float(p)


def family(hypotheses, values, shared=lambda hypothesis: (0.0, 2)):
    """Hypotheses tested together, of one protocol or of several.

    Args:
        values: {protocol: what :func:`contrast` takes}.
        shared: as for :func:`contrast`, as a function of the hypothesis.

    Returns:
        list of (:class:`Contrast`, p after Holm's correction). It corrects for all hypotheses written down, also for those
        that cannot be tested yet, whose p is NaN.
    """
    found = [contrast(hypothesis, values[hypothesis.protocol], shared(hypothesis)) for hypothesis in hypotheses]
    corrected, against = _corrected([one.p for one in found]), _corrected([one.p_against for one in found])
    return [(replace(one, p_against=other), p) for one, p, other in zip(found, corrected, against, strict=True)]


def _corrected(values):
    """p-values after Holm's correction for all of them; NaN, not tested yet, counts and stays."""
    corrected = holm([1.0 if math.isnan(p) else p for p in values])
    return [math.nan if math.isnan(p) else float(adjusted) for p, adjusted in zip(values, corrected, strict=True)]


def replicates_needed(found, tests=1):
    """Replicates per cell with which the test of a complete contrast would show it in 80 % of cases.

    The estimate and the scatter found are taken for the truth: an order of magnitude, and for other runs than these.

    Args:
        tests: how many hypotheses are corrected together; the level is divided by it (Bonferroni).

    Returns:
        int; infinity where the estimate points the other way or over 1,000 were needed; NaN for an incomplete contrast.
    """
    if math.isnan(found.estimate):
        return math.nan
    hypothesis = found.hypothesis
    sides = [found.estimate]
    if hypothesis.kind == "equivalent":
        sides = [hypothesis.margin - found.estimate, hypothesis.margin + found.estimate]

    def enough(count):
        error = found.error * math.sqrt(found.looked / count)
        degrees = found.degrees * (count - 1) / (found.looked - 1)
        threshold = stats.t.isf(LEVEL / tests, degrees)
        missed = sum(1 - stats.nct.sf(threshold, degrees, side / error) for side in sides)
        return 1 - missed >= POWER

    if min(sides) <= 0:
        return math.inf
    if found.error == 0:
        return 2
    fewest = 2 + bisect.bisect_left(range(2, MOST_SEEDS + 1), True, key=enough)
    return fewest if fewest <= MOST_SEEDS else math.inf


def variance_parts(grid):
    """Variance of the draw, of the initial weights and of the rest, from a crossed grid.

    Two-way random effects without replication, by analysis of variance (Searle, Casella and McCulloch 1992, §4.7).

    Args:
        grid: array (draws, weights) of one number per run.

    Returns:
        dict with ``draw``, ``weights`` and ``rest`` (variances, 0 at the least), ``p_draw``: of the F test that the draw has
        no part, and 95 % intervals, ``draw_interval`` … (Williams 1962, exact for ``rest``).
    """
    grid = np.asarray(grid, dtype=float)
    draws, weights = grid.shape
    if min(draws, weights) < 2:
        raise ValueError(f"a grid of {draws} draws by {weights} weights has no two of each")
    rows, columns, mean = grid.mean(1), grid.mean(0), grid.mean()
    rest = ((grid - rows[:, None] - columns + mean) ** 2).sum() / ((draws - 1) * (weights - 1))
    of_draw, of_weights = weights * rows.var(ddof=1), draws * columns.var(ddof=1)
    degrees = (draws - 1) * (weights - 1)
    tails = stats.chi2.ppf([1 - LEVEL / 2, LEVEL / 2], degrees)
    return {
        "draw": max(0.0, (of_draw - rest) / weights),
        "weights": max(0.0, (of_weights - rest) / draws),
        "rest": float(rest),
        "draw_interval": _williams(of_draw, draws - 1, rest, degrees, weights),
        "weights_interval": _williams(of_weights, weights - 1, rest, degrees, draws),
        "rest_interval": tuple(float(rest * degrees / tail) for tail in tails),
        "p_draw": float(stats.f.sf(of_draw / rest, draws - 1, degrees)),
    }


def _williams(between, degrees_between, rest, degrees_rest, size):
    """95 % interval of a variance from mean squares between ``size``-fold groups and of the rest; 0 at the least."""
    ends = []
    for tail in (1 - LEVEL / 2, LEVEL / 2):
        above = between - stats.f.ppf(tail, degrees_between, degrees_rest) * rest
        ends.append(max(0.0, degrees_between * above / (size * stats.chi2.ppf(tail, degrees_between))))
    return tuple(map(float, ends))
