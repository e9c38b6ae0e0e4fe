"""Does context at initialisation predict accuracy? The sample, the model and the verdicts of chapter 10.

What is tested, on which families and by which model stands in ``hypotheses_law.yaml``, with the date of writing. All is
computed from the rows of ``results/timm``; nothing is measured here.

**The model** has a random intercept per family: networks of one family resemble each other in what no covariate says. Given
the ratio λ of the variance between families to that within, it is a least-squares problem in sums over families,
Σ w_f (X_f'X_f − λ/(1 + λ n_f) s_f s_f'), with s_f the column sums of family f, so that the profile likelihood over a grid of
λ and thousands of bootstrap samples (weights w_f: how often a family was drawn) are a few products of small matrices.
"""

import fnmatch
import functools
import hashlib
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ctxnet.atlas.accuracies import TRAININGS, read_accuracies
from ctxnet.atlas.every import FOLDER, TABLE, read_networks
from ctxnet.settings import read_yaml, typed

FILE = "hypotheses_law.yaml"
RATIOS = np.concatenate([[0.0], np.logspace(-2, 2, 41)])  # λ, variance between families over that within
VERDICTS = ("upheld", "contradicted", "no practical effect", "undecided")


@dataclass(frozen=True)
class Hypothesis:
    """One claim: ``value`` (a key of :meth:`Sample.context`) moves accuracy in the direction of ``sign``; the effect is told
    in points of top-1 per ``unit`` of it, and one within ± ``margin`` points does not matter."""

    name: str
    text: str
    value: str
    unit: float
    sign: int
    margin: float


@dataclass(frozen=True)
class Plan:
    """What ``hypotheses_law.yaml`` says."""

    written: object
    leave_out: tuple
    kept_back: int
    draws: int
    seed: int
    level: float
    at: float
    waiting: float
    hypotheses: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """Architectures side by side: arrays with one entry per network, ``names`` and ``families`` lists of texts.

    Attributes:
        context: dict of float arrays: ``rf_share``, ``covers``, ``third``, ``distance_share``; NaN where it is not known.
        parameters, multiply_adds, test_size: what enters as logarithms. training: indices into ``TRAININGS``.
        top1: 0 … 1.
    """

    names: list
    families: list
    context: dict
    parameters: np.ndarray
    multiply_adds: np.ndarray
    test_size: np.ndarray
    training: np.ndarray
    top1: np.ndarray

    def part(self, keep):
        """The networks where the bool array ``keep`` is true."""
        arrays = {n: getattr(self, n)[keep] for n in ("parameters", "multiply_adds", "test_size", "training", "top1")}
        names, families = ([v for v, k in zip(values, keep, strict=True) if k] for values in (self.names, self.families))
        return Sample(names, families, {key: values[keep] for key, values in self.context.items()}, **arrays)


def load_plan(root="."):
    """Read ``hypotheses_law.yaml``.

    Raises:
        FileNotFoundError, ValueError: none there, or in one line the file and the key that cannot be right.
    """
    path = Path(root) / FILE
    said = read_yaml(path)
    try:
        model, split, sample, claims = said["model"], said["split"], said["sample"], said["hypotheses"]
        return Plan(
            said["written"], tuple(sample["leave_out"]), int(split["kept_back"]), int(model["draws"]), int(model["seed"]),
            float(model["level"]), float(model["at"]), float(said["finished"]["waiting"]),
            {n: typed(Hypothesis, {"name": n} | claim, where=f"{path}: hypotheses.{n}", choices={"sign": (-1, 1)})
             for n, claim in claims.items()},
        )  # fmt: skip
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path}: missing or misshapen key {error}") from None


def measured(root="."):
    """Rows of the networks that were measured, {name: row}, and of those that were not."""
    path = Path(root) / FOLDER / TABLE
    rows = _networks(str(root), path.stat().st_mtime_ns if path.exists() else None)
    return {n: r for n, r in rows.items() if "refused" not in r}, {n: r for n, r in rows.items() if "refused" in r}


@functools.lru_cache(maxsize=4)
def _networks(root, stamp):  # stamp: so that new ones are read; the rows are not to be changed
    return read_networks(root)


def plan_and_sample(root="."):
    """What ``hypotheses_law.yaml`` says, and the :class:`Sample` of all networks that it does not leave out."""
    plan = load_plan(root)
    return plan, load_sample(root, plan.leave_out)


def load_sample(root=".", leave_out=()):
    """The :class:`Sample` of all measured networks whose accuracy is known; empty where there are none."""
    rows, accuracies = measured(root)[0], read_accuracies(root)
    names = [n for n in rows if n in accuracies and not rows[n].get("early")]
    names = [n for n in names if not any(fnmatch.fnmatch(n, pattern) for pattern in leave_out)]

    def column(of, key):
        return np.array([of[n][key] for n in names], dtype=float)

    def last(key):
        return np.array([rows[n][key][-1] for n in names], dtype=float)  # NaN for None

    context = {"rf_share": last("rf_share"), "covers": (last("rf_share") == 1).astype(float), "third": last("third")}
    context["distance_share"] = last("distance") / column(rows, "size")
    return Sample(
        names, [rows[n]["family"] for n in names], context, column(rows, "parameters"), column(rows, "multiply_adds"),
        column(accuracies, "test_size"), np.array([TRAININGS.index(accuracies[n]["training"]) for n in names], dtype=int),
        column(accuracies, "top1"),
    )  # fmt: skip


def is_finished(plan, root="."):
    """Whether so few networks still wait to be measured that the families kept back may be looked at."""
    done, others = measured(root)
    asked = len(done) + sum(row["refused"] != "large" for row in others.values())
    return sum(row["refused"] == "waiting" for row in others.values()) <= plan.waiting * asked


def parts(root="."):
    """The sample as it may be looked at: [("explored", sample)] and, once all is measured, ("kept back", sample)."""
    plan, sample = plan_and_sample(root)
    explored, back = split(sample, plan)
    return [("explored", explored)] + ([("kept back", back)] if is_finished(plan, root) else [])


def is_kept_back(family, one_in):
    """Whether a family is among those that the model is confirmed on."""
    return int(hashlib.sha256(family.encode()).hexdigest(), 16) % one_in == 0


def split(sample, plan):
    """(sample to explore, sample kept back)."""
    back = np.array([is_kept_back(family, plan.kept_back) for family in sample.families], dtype=bool)
    return sample.part(~back), sample.part(back)


# ---- statistics -------------------------------------------------------------------------------------------------------


def covariates(sample):
    """(n, 6): 1, log₁₀ parameters, log₁₀ multiply-adds, log₂ test size, distilled, more data; the middle three centred."""
    logs = [np.log10(sample.parameters), np.log10(sample.multiply_adds), np.log2(sample.test_size)]
    kinds = [(sample.training == kind).astype(float) for kind in (1, 2)]
    return np.stack([np.ones(len(sample.names)), *(v - v.mean() for v in logs), *kinds], axis=1)


def random_intercept_slope(y, design, groups, weights=None):
    """The slope of the last column of a design under a linear mixed model with a random intercept per group.

    By maximum likelihood over :data:`RATIOS`. A design of less than full rank gets the slope of least norm; one whose last
    column adds nothing gets NaN.

    Args:
        y: (n,). design: (n, p). groups: (n,) labels.
        weights: (draws, groups in sorted order) how often each group counts, as groups of their own; None: once.

    Returns:
        (slope, ratio): arrays (draws,); without weights of length 1.
    """
    labels, group = np.unique(np.asarray(groups), return_inverse=True)
    weights = np.ones((1, len(labels))) if weights is None else np.asarray(weights, dtype=float)
    table = np.column_stack([design, y])
    sums = np.zeros((len(labels), table.shape[1]))
    np.add.at(sums, group, table)
    squares = np.zeros((len(labels), table.shape[1], table.shape[1]))
    np.add.at(squares, group, table[:, :, None] * table[:, None, :])
    counts = np.bincount(group).astype(float)
    total, best = weights @ counts, np.full(len(weights), -np.inf)
    slope, ratio, p = np.full(len(weights), np.nan), np.zeros(len(weights)), design.shape[1]
    for value in RATIOS:
        shrunk = squares - (value / (1 + value * counts))[:, None, None] * sums[:, :, None] * sums[:, None, :]
        moments = np.tensordot(weights, shrunk, axes=1)
        inner, cross = moments[:, :p, :p], moments[:, :p, p]
        beta = _least_norm(inner, cross)
        rest = np.maximum(moments[:, p, p] - (beta * cross).sum(1), 1e-300)
        likelihood = -0.5 * (total * np.log(rest / total) + weights @ np.log1p(value * counts))
        better = likelihood > best
        best[better], slope[better], ratio[better] = likelihood[better], beta[better, -1], value
    return np.where(_adds(weights, squares, p), slope, np.nan), ratio


def _adds(weights, squares, p):
    """Whether the last column of the design is more than a combination of the others, per draw."""
    moments = np.tensordot(weights, squares, axes=1)[:, :p, :p]
    inner, cross, own = moments[:, :-1, :-1], moments[:, :-1, -1], moments[:, -1, -1]
    return own - (_least_norm(inner, cross) * cross).sum(1) > 1e-9 * np.maximum(own, 1e-300)


def _least_norm(inner, cross):
    """Coefficients (draws, p) of normal equations, X'X (draws, p, p) and X'y (draws, p)."""
    return (np.linalg.pinv(inner, rcond=1e-10, hermitian=True) @ cross[..., None])[..., 0]


def within_family_slope(y, design, groups):
    """The slope of the last column among networks of one family alone: least squares with an intercept per group."""
    labels, group = np.unique(np.asarray(groups), return_inverse=True)
    table = np.column_stack([design, y])
    means = np.stack([np.bincount(group, column) / np.bincount(group) for column in table.T], axis=1)
    centred = table - means[group]
    x = centred[:, :-1]
    if np.linalg.matrix_rank(x[:, -1:] - x[:, :-1] @ np.linalg.lstsq(x[:, :-1], x[:, -1:], rcond=None)[0], tol=1e-9) == 0:
        return math.nan
    return float(np.linalg.lstsq(x, centred[:, -1], rcond=None)[0][-1])


def partial_spearman(x, y, others, weights=None):
    """Spearman's correlation of x and y, the ranks of ``others`` (n, k) taken out of the ranks of both; NaN if undefined.

    Args:
        weights: (draws, n) how often each entry counts, as in samples of a bootstrap; None: once.

    Returns:
        A number; with weights an array (draws,).
    """
    often = np.ones((1, len(x))) if weights is None else np.asarray(weights, dtype=float)
    middle, k = (often.sum(1) + 1) / 2, others.shape[1]
    ranks = np.stack([_ranks(values, often) for values in (*others.T, x, y)], axis=-1) - middle[:, None, None]
    moments = np.swapaxes(often[..., None] * ranks, 1, 2) @ ranks
    taken, own = moments[:, :k, k:], moments[:, k:, k:]
    rest = own - np.swapaxes(taken, 1, 2) @ np.linalg.pinv(moments[:, :k, :k], rcond=1e-10, hermitian=True) @ taken
    spread, before = (np.diagonal(m, axis1=1, axis2=2) for m in (rest, own))
    known = (spread > 1e-9 * np.maximum(before, 1e-300)).all(1)
    found = np.full(len(often), math.nan)
    found[known] = rest[known, 0, 1] / np.sqrt(spread[known].prod(1))
    return float(found[0]) if weights is None else found


def _ranks(values, often):
    """Ranks (draws, n) of n values that count ``often`` (draws, n); equal ones share the mean of theirs."""
    known, place = np.unique(values, return_inverse=True)
    order = np.argsort(place, kind="stable")
    alike = np.add.reduceat(often[:, order], np.searchsorted(place[order], np.arange(len(known))), axis=1)
    return (alike.cumsum(1) - (alike - 1) / 2)[:, place]


def family_draws(families, draws, seed):
    """Weights (draws, families in sorted order) of a bootstrap over families: how often each was drawn."""
    count = len(set(families))
    return np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), draws).astype(float)


@dataclass(frozen=True)
class Effect:
    """What a sample says of one hypothesis. Effects in points of top-1 per unit; NaN where nothing can be said.

    Attributes:
        networks, families: how many. low, high: 95 % of the bootstrap; low_all, high_all: corrected for all hypotheses.
        within: among networks of one family alone. rho, rho_low, rho_high: Spearman's, plain, with its 95 % interval.
        partial, partial_low, partial_high: with the covariates taken out.
        verdict: one of :data:`VERDICTS`, by the corrected interval.
    """

    name: str
    networks: int
    families: int
    points: float
    low: float
    high: float
    low_all: float
    high_all: float
    within: float
    rho: float
    rho_low: float
    rho_high: float
    partial: float
    partial_low: float
    partial_high: float
    verdict: str


MIN_FAMILIES = 5  # fewer say nothing about families


def alike(sample, hypothesis):
    """Whether all networks of a sample have the same of what a hypothesis is about, so that it cannot be told."""
    x = sample.context[hypothesis.value]
    return len(set(x[np.isfinite(x)])) < 2


def effect(sample, hypothesis, plan):
    """The :class:`Effect` of one hypothesis on a sample; numbers only of five families or more that differ in it."""
    keep = np.isfinite(sample.context[hypothesis.value])
    sample = sample.part(keep)
    x, families = sample.context[hypothesis.value], np.array(sample.families)
    known = len(set(sample.families))
    if known < MIN_FAMILIES or alike(sample, hypothesis):
        nothing = [math.nan] * 12
        return Effect(hypothesis.name, len(x), known, *nothing, verdict="undecided")
    y, others = np.log(sample.top1 / (1 - sample.top1)), covariates(sample)
    design = np.column_stack([others, x])
    scale = 100 * plan.at * (1 - plan.at) * hypothesis.unit
    weights = family_draws(sample.families, plan.draws, plan.seed)
    points = scale * random_intercept_slope(y, design, families)[0][0]
    drawn = scale * random_intercept_slope(y, design, families, weights)[0]
    rhos = _rank_draws(x, sample.top1, others[:, 1:], families, weights)
    low_all, high_all = _percentiles(drawn, plan.level / len(plan.hypotheses))
    return Effect(
        hypothesis.name, len(x), known, points, *_percentiles(drawn, plan.level), low_all, high_all,
        scale * within_family_slope(y, design, families), *rhos,
        verdict=verdict(low_all, high_all, hypothesis.sign, hypothesis.margin),
    )  # fmt: skip


def _rank_draws(x, top1, others, families, weights, draws=400):
    """(rho, low, high, partial rho, low, high), intervals of the first ``draws`` bootstrap samples."""
    weights = weights[:draws, np.unique(families, return_inverse=True)[1]]
    found = []
    for taken in (others[:, :0], others):
        found += [partial_spearman(x, top1, taken), *_percentiles(partial_spearman(x, top1, taken, weights), 0.05)]
    return found


def _percentiles(drawn, level):
    """The middle of a bootstrap; NaN where more than one in twenty of its samples say nothing."""
    known = drawn[np.isfinite(drawn)]
    if len(known) < 0.95 * len(drawn):
        return math.nan, math.nan
    return tuple(float(v) for v in np.quantile(known, [level / 2, 1 - level / 2]))


def verdict(low, high, sign, margin):
    """What an interval of an effect says about a claim of this sign; see ``hypotheses_law.yaml``."""
    low, high = (low, high) if sign > 0 else (-high, -low)
    if math.isnan(low) or math.isnan(high):
        return "undecided"
    if low > 0:
        return "upheld"
    if high < 0:
        return "contradicted"
    return "no practical effect" if high <= margin and low >= -margin else "undecided"


def outliers(sample, hypothesis, count=5):
    """Networks that reach most, and least, for what their context and cost let one expect: lists of (name, points).

    Expected is by the model without families; points are of top-1, observed minus expected.
    """
    sample = sample.part(np.isfinite(sample.context[hypothesis.value]))
    if len(sample.names) < 20:
        return [], []
    design = np.column_stack([covariates(sample), sample.context[hypothesis.value]])
    y = np.log(sample.top1 / (1 - sample.top1))
    expected = 1 / (1 + np.exp(-design @ np.linalg.lstsq(design, y, rcond=None)[0]))
    rest = 100 * (sample.top1 - expected)
    order = np.argsort(rest, kind="stable")
    return tuple([(sample.names[i], float(rest[i])) for i in ends] for ends in (order[::-1][:count], order[:count]))


def little_context(sample, count=6, share=0.1):
    """Who reaches much with little: among the ``share`` of networks with the least mean distance, those with the best
    accuracy, [(name, distance as a share of the side, top-1)]."""
    distance = sample.context["distance_share"]
    if not np.isfinite(distance).any():
        return []
    least = np.flatnonzero(distance <= np.nanquantile(distance, share))
    best = least[np.argsort(-sample.top1[least], kind="stable")][:count]
    return [(sample.names[i], float(distance[i]), float(sample.top1[i])) for i in best]
