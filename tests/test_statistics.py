"""What the intervals and tests promise, checked on rows whose truth is known.

A simulated row has images of differing difficulty and seeds that move every image's chance alike; the records' own
scatter, about two points between seeds, is what the simulations use. All random numbers have fixed seeds.
"""

import functools
import itertools
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ctxnet.__main__ import main
from ctxnet.paper import results, statistics
from ctxnet.paper.results import load_records

REPO = Path(__file__).parents[1]
SD = 0.02  # of top-1 between seeds
IMAGES = 1000
EXPERIMENTS = 6000


def difficulties(rng, shape):
    """Chances of being right, from 0.05 to 0.95, mostly near the ends as those of real images are."""
    return (0.05 + 0.9 * rng.beta(0.9, 1.1, shape)).astype(np.float32)


def rows(rng, experiments, seeds, chances, sd=SD, effect=0.0):
    """Right answers of ``experiments`` simulated rows: bool (experiments, seeds, images)."""
    shift = effect + rng.normal(0, sd, (experiments, seeds, 1)).astype(np.float32)
    return rng.random((experiments, seeds, chances.shape[-1]), dtype=np.float32) < chances + shift


def differ(a, b):
    """The test of two rows, many times over."""
    return statistics.welch(a.mean(-1), b.mean(-1), statistics.image_variance(a, b), a.shape[-1])


def in_chunks(simulate, experiments=EXPERIMENTS, size=500):
    """``simulate(size)`` often enough, its arrays joined: memory stays small."""
    return np.concatenate([simulate(size) for _ in range(experiments // size)])


def p_values(seeds, seed, effect=0.0, sds=(SD, SD), experiments=EXPERIMENTS):
    rng = np.random.default_rng(seed)
    chances = difficulties(rng, IMAGES)

    def simulate(size):
        a, b = rows(rng, size, seeds, chances, sds[0], effect), rows(rng, size, seeds, chances, sds[1])
        return differ(a, b)["p"]

    return in_chunks(simulate, experiments)


def mcnemar(a, b):
    """Exact p of McNemar's test, single runs a and b, bool (…, images)."""
    only_a, only_b = (a & ~b).sum(-1), (b & ~a).sum(-1)
    return np.minimum(1, 2 * stats.binom.cdf(np.minimum(only_a, only_b), only_a + only_b, 0.5))


# ---- false verdicts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", [3, 5])
def test_two_rows_of_one_recipe_are_called_different_in_at_most_one_case_of_twenty(seeds):
    assert (p_values(seeds, seed=seeds) <= 0.05).mean() <= 0.05  # ± 0.3 % by the number of experiments


@pytest.mark.parametrize("seeds", [3, 5])
def test_one_row_that_scatters_four_times_as_much_hardly_matters(seeds):
    assert (p_values(seeds, seed=10 + seeds, sds=(0.02, 0.005)) <= 0.05).mean() <= 0.057


@pytest.mark.parametrize("seeds", [3, 5])
def test_rows_that_are_equally_good_on_other_images_are_not_called_different(seeds):
    """New images for every experiment, on which the rows differ image by image but not on average."""
    rng = np.random.default_rng(seeds)

    def simulate(size):
        common, own = difficulties(rng, (size, 1, IMAGES)), 0.2 * rng.standard_normal((2, size, 1, IMAGES))
        a, b = (rows(rng, size, seeds, np.clip(common + each, 0, 1), 0.005) for each in own.astype(np.float32))
        found, plain = differ(a, b), stats.ttest_ind(a.mean(-1), b.mean(-1), axis=1, equal_var=False)
        return np.stack([found["p"], plain.pvalue], axis=1)

    ours, seeds_alone = (in_chunks(simulate, 3000) <= 0.05).mean(0)
    assert ours <= 0.055
    assert seeds < 5 or seeds_alone > 0.065  # why the images' variance is in the test


def test_mcnemar_on_single_runs_calls_seeds_of_one_row_different():
    rng = np.random.default_rng(0)
    chances = difficulties(rng, IMAGES)
    p = in_chunks(lambda size: mcnemar(*(rows(rng, size, 1, chances)[:, 0] for _ in range(2))), 2000)
    assert (p <= 0.05).mean() > 0.15


@functools.cache
def real_rows(least):
    """Names and answers of the committed rows with at least ``least`` seeds."""
    records = load_records("small", REPO)
    counts = records["variant"].value_counts()
    return results.read_answers("small", list(counts.index[counts >= least]), records, REPO)


def test_mcnemar_calls_seeds_of_one_real_row_different():
    if not real_rows(3):
        pytest.skip("no row has three seeds yet")
    p = [mcnemar(*pair) for _, right in real_rows(3).values() for pair in itertools.combinations(right, 2)]
    assert np.mean(np.array(p) <= 0.05) > 0.15


def test_the_seeds_of_one_real_row_split_in_two_are_not_called_different():
    """All splits of a row's seeds, 2 against the others: few and dependent, hence the wide bound."""
    if not real_rows(5):
        pytest.skip("no row has five seeds yet")
    p = []
    for _, right in real_rows(5).values():
        for pair in itertools.combinations(range(len(right)), 2):
            others = [i for i in range(len(right)) if i not in pair]
            p.append(float(differ(right[list(pair)], right[others])["p"]))
    assert np.mean(np.array(p) <= 0.05) <= 0.15


@pytest.mark.parametrize("seeds", [3, 5])
def test_rows_like_real_ones_are_not_called_different(seeds):
    """The images' difficulties are a real row's, so are the seeds' scatter and the number of images."""
    if not real_rows(3):
        pytest.skip("no row has three seeds yet")
    rng = np.random.default_rng(seeds)
    _, right = real_rows(3)["resnet50"]
    chances, sd = np.clip(right.mean(0), 0.1, 0.9).astype(np.float32), right.mean(1).std(ddof=1)

    def simulate(size):
        return differ(*(rows(rng, size, seeds, chances, sd) for _ in range(2)))["p"]

    assert (in_chunks(simulate, 1500, size=250) <= 0.05).mean() <= 0.06  # ± 0.6 %


# ---- power ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seeds", [3, 5])
def test_the_minimum_detectable_difference_is_detected_in_four_cases_of_five(seeds):
    variance = SD**2 + 0.18 / IMAGES  # of one run: the seed's and the luck of its answers
    effect = statistics.minimum_detectable(variance, variance, seeds, seeds)
    found = (p_values(seeds, seed=20 + seeds, effect=effect, experiments=3000) <= 0.05).mean()
    assert 0.78 <= found <= 0.82
    assert math.isclose(statistics.power(effect, variance, variance, seeds, seeds), 0.8, abs_tol=1e-3)


def test_power_with_many_seeds_is_that_of_the_noncentral_t():
    critical = stats.t.ppf(0.975, 98)
    expected = stats.nct.sf(critical, 98, 2.5) + stats.nct.cdf(-critical, 98, 2.5)
    assert math.isclose(statistics.power(2.5 * math.sqrt(2 / 50), 1.0, 1.0, 50, 50), expected, abs_tol=2e-3)


def test_seeds_needed_are_the_fewest_with_enough_power():
    needed = statistics.seeds_needed(0.02, SD**2, SD**2)
    assert statistics.power(0.02, SD**2, SD**2, needed, needed) >= 0.8
    assert statistics.power(0.02, SD**2, SD**2, needed - 1, needed - 1) < 0.8
    assert needed == 17  # the textbook's number for a difference of one standard deviation
    assert statistics.seeds_needed(1.0, SD**2, SD**2) == 3
    assert statistics.seeds_needed(0.0, SD**2, SD**2) == math.inf
    assert statistics.seeds_needed(0.01, SD**2, SD**2, variance_images=0.01**2) == math.inf  # more images, not seeds


# ---- intervals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seeds", "sd"), [(3, SD), (5, SD), (5, 0.005)])
def test_the_interval_of_a_row_covers_its_accuracy_on_new_seeds_and_images(seeds, sd):
    rng = np.random.default_rng(seeds)
    truth, hits = 0.05 + 0.9 * 0.9 / 2.0, []
    for _ in range(600):
        _, low, high, _ = statistics.row_interval(rows(rng, 1, seeds, difficulties(rng, IMAGES), sd)[0], draws=500)
        hits.append(low <= truth <= high)
    assert 0.925 <= np.mean(hits) <= 0.985


def test_the_interval_of_a_difference_covers_it():
    rng = np.random.default_rng(5)
    chances = difficulties(rng, IMAGES)
    pairs = zip(rows(rng, 600, 4, chances, effect=0.03), rows(rng, 600, 4, chances), strict=True)
    found = [statistics.compare(a, b) for a, b in pairs]
    assert 0.935 <= np.mean([each.low <= 0.03 <= each.high for each in found]) <= 0.98
    assert all((each.p <= 0.05) == (not each.low <= 0 <= each.high) for each in found)


def test_row_interval_is_deterministic_and_says_what_it_covers():
    rng = np.random.default_rng(0)
    right = rows(rng, 1, 3, difficulties(rng, IMAGES))[0]
    assert statistics.row_interval(right) == statistics.row_interval(right)
    assert statistics.row_interval(right)[3] == "seeds and images"
    one = statistics.row_interval(right[:1])
    assert one[1:] == (*statistics.wilson_interval(int(right[0].sum()), IMAGES), "images")
    assert statistics.row_interval(np.ones((3, 5), dtype=bool))[:3] == (1.0, 1.0, 1.0)
    two = statistics.row_interval(right[:2])
    assert two[2] - two[1] > one[2] - one[1]  # two seeds say little, and the interval knows


def test_single_numbers_against_textbooks():
    low, high = statistics.wilson_interval(81, 263)  # Newcombe 1998, table I
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    assert statistics.mean_sd([1.0, 2.0, 6.0]) == (3.0, math.sqrt(7))
    assert statistics.mean_sd([0.5])[0] == 0.5 and math.isnan(statistics.mean_sd([0.5])[1])
    a, b = [0.4, 0.5, 0.45, 0.41], [0.5, 0.52, 0.55]
    found, expected = statistics.compare_values(a, b), stats.ttest_ind(a, b, equal_var=False)
    assert math.isclose(found.p, expected.pvalue) and math.isclose(found.p_above(), 1 - expected.pvalue / 2)
    assert np.allclose((found.low, found.high), expected.confidence_interval())


# ---- many comparisons, few seeds, bad input ---------------------------------------------------------------


def test_holm_against_an_example_by_hand():
    # sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1: 0.04, 0.06, 0.06, 0.04; never below the one before it
    assert np.allclose(statistics.holm([0.03, 0.01, 0.04, 0.02]), [0.06, 0.04, 0.06, 0.06])
    corrected = statistics.holm([0.02, math.nan, 0.9, 0.6])
    assert np.allclose(corrected, [0.06, math.nan, 1, 1], equal_nan=True)
    assert len(statistics.holm([])) == 0
    with pytest.raises(ValueError, match="p-values lie in 0…1"):
        statistics.holm([0.1, 1.2])


@pytest.mark.parametrize(("seeds_a", "seeds_b"), [(1, 1), (1, 5), (2, 2), (2, 5)])
def test_no_verdict_below_three_seeds(seeds_a, seeds_b):
    a, b = np.ones((seeds_a, 50), dtype=bool), np.zeros((seeds_b, 50), dtype=bool)
    a[0, 0] = b[0, 0] = seeds_a > 1  # some scatter
    found = statistics.compare(a, b)
    assert math.isnan(found.p) and math.isnan(found.low) and math.isnan(found.p_above())
    assert found.verdict() == f"too few seeds: {seeds_a} and {seeds_b}, 3 of each needed" == found.verdict(p=0.0)
    assert found.difference > 0.9


def test_verdicts_in_words():
    rng = np.random.default_rng(0)
    chances = difficulties(rng, IMAGES)
    a, b = rows(rng, 2, 5, chances, 0.005)
    assert statistics.compare(a, b).verdict() == "no difference shown"
    better = rows(rng, 1, 5, chances, 0.005, effect=0.1)[0]
    assert statistics.compare(better, b).verdict() == "better" and statistics.compare(b, better).verdict() == "worse"
    assert statistics.compare(better, b).verdict(p=0.2) == "no difference shown"  # corrected for many comparisons
    same = statistics.compare(a, a)
    assert same.difference == 0 and same.p == 1 and same.needed == math.inf


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: statistics.wilson_interval(11, 10), "correct=11, n=10"),
        (lambda: statistics.mean_sd([0.5, math.nan]), "finite"),
        (lambda: statistics.right_answers([]), "no run"),
        (lambda: statistics.row_interval(np.ones((3, 10))), "bool .*float64"),
        (lambda: statistics.row_interval(np.ones((2, 3, 10), dtype=bool)), "seeds, images"),
        (lambda: statistics.compare(np.ones((3, 10), dtype=bool), np.ones((3, 9), dtype=bool)), "10 and 9 images"),
    ],
)
def test_bad_input_is_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_answers_are_put_in_order_and_other_images_refused():
    first = pd.DataFrame({"image": ["b", "a"], "label": [1, 0], "predicted": [1, 1]})
    images, right = statistics.right_answers([first, first.iloc[::-1]])
    assert list(images) == ["a", "b"] and right.tolist() == [[False, True]] * 2
    with pytest.raises(ValueError, match="same images"):
        statistics.right_answers([first, first.assign(image=["b", "c"])])


# ---- the command ------------------------------------------------------------------------------------------


def test_compare_prints_a_small_table(capsys):
    main(["compare", "resnet50", "small:resnet50_perm3", "--root", str(REPO)])
    text = capsys.readouterr().out
    for word in ("resnet50_perm3", "difference A − B", "minimum detectable", "seeds needed", "verdict"):
        assert word in text
    if (load_records("small", REPO)["variant"] == "resnet50_perm3").sum() < 3:
        assert "too few seeds" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["resnet50", "resnet50_perm"], "did you mean 'resnet50_perm"),
        (["resnet50", "resnet50"], "two different rows"),
        (["small:resnet50", "thesis:resnet50_perm1"], "within one protocol only"),
        (["resnet50", "thesis:resnet50_perm1", "--protocol", "small"], "within one protocol only"),
        (["resnet50", "hrnet_w18", "--protocol", "smal"], "did you mean 'small'"),
        (["resnet50", "resnet18"], "python -m ctxnet train --protocol small --variant resnet18"),
    ],
)
def test_compare_refuses_in_one_line(words, message):
    with pytest.raises(SystemExit) as caught:
        main(["compare", *words, "--root", str(REPO)])
    assert message in str(caught.value) and "\n" not in str(caught.value)
