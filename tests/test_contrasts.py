"""Contrasts: against Welch's t, by simulation, and their file."""

import dataclasses
import datetime
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import stats

from ctxnet.paper.contrasts import Hypothesis, contrast, family, load_hypotheses, replicates_needed, variance_parts

DAY = datetime.date(2026, 11, 26)


def hypothesis(cells, kind="greater", margin=0.0, replicates=12):
    return Hypothesis("h", "text", "context", kind, cells, replicates, DAY, margin)


def test_two_cells_are_welchs_test():
    random = np.random.default_rng(0)
    a, b = random.normal(1, 1, 12), random.normal(0, 2, 12)
    found = contrast(hypothesis({"a": 1, "b": -1}), {"a": a, "b": b})
    expected = stats.ttest_ind(a, b, equal_var=False, alternative="greater")
    assert found.p == pytest.approx(expected.pvalue) and found.degrees == pytest.approx(expected.df)
    interval = stats.ttest_ind(a, b, equal_var=False).confidence_interval()
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_errors_and_coverage_by_simulation():
    """Unequal scatter, a main effect over four cells: 5 % false alarms at most, 95 % of intervals right."""
    random = np.random.default_rng(1)
    weights = {"a": 0.5, "b": 0.5, "c": -0.5, "d": -0.5}
    scatter = {"a": 0.4, "b": 1.0, "c": 0.7, "d": 2.0}
    found = [
        contrast(hypothesis(weights), {row: random.normal(70, scatter[row], 12) for row in weights}) for _ in range(2000)
    ]
    assert 0.035 < np.mean([one.p <= 0.05 for one in found]) < 0.065
    assert 0.935 < np.mean([one.low <= 0 <= one.high for one in found]) < 0.965


def test_equivalence_is_shown_within_the_margin_and_refuted_outside():
    values = np.linspace(-1, 1, 12)
    near = contrast(hypothesis({"a": 1, "b": -1}, "equivalent", 1.0), {"a": values + 0.1, "b": values})
    far = contrast(hypothesis({"a": 1, "b": -1}, "equivalent", 1.0), {"a": values + 3, "b": values})
    unclear = contrast(hypothesis({"a": 1, "b": -1}, "equivalent", 1.0), {"a": values + 0.9, "b": values})
    assert [one.verdict(one.p) for one in (near, far, unclear)] == ["shown", "refuted", "not shown"]
    lower = stats.ttest_ind(values + 0.1 + 1, values, equal_var=False, alternative="greater").pvalue
    upper = stats.ttest_ind(values + 0.1 - 1, values, equal_var=False, alternative="less").pvalue
    assert near.p == pytest.approx(max(lower, upper))


def test_nothing_is_tested_before_all_replicates_are_there_and_nothing_after_counts():
    values = np.linspace(-1, 1, 12)
    early = contrast(hypothesis({"a": 1, "b": -1}), {"a": values + 5, "b": values[:11]})
    assert np.isnan([early.p, early.estimate]).all() and early.verdict(0.0) == "open: b has 11 of 12 replicates"
    assert contrast(hypothesis({"a": 1, "b": -1}), {"a": values}).verdict(0.0) == "open: b has 0 of 12 replicates"
    more = contrast(hypothesis({"a": 1, "b": -1}), {"a": [*values, 99.0], "b": [*values, -99.0]})
    assert more.estimate == 0


def test_two_looks_err_no_more_often_than_one_and_find_what_is_there_early():
    def looked(values, count):
        two = dataclasses.replace(hypothesis({"a": 1, "b": -1}), first_look=6)
        return contrast(two, {row: some[:count] for row, some in values.items()})

    random = np.random.default_rng(3)
    null = [{row: random.normal(70, 1, 12) for row in "ab"} for _ in range(3000)]
    early, late = ([looked(values, count).p <= 0.05 for values in null] for count in (6, 12))
    assert np.all(np.array(late) >= np.array(early))  # what was shown stays shown
    assert 0.015 < np.mean(early) < 0.035 and 0.03 < np.mean(late) <= 0.055
    clear = looked({"a": np.linspace(2, 4, 12), "b": np.linspace(-1, 1, 12)}, 6)
    assert clear.looked == 6 and not clear.complete and clear.verdict(clear.p) == "shown"
    unclear = looked({"a": np.linspace(-1, 1, 12), "b": np.linspace(-1, 1, 12)}, 7)
    assert unclear.verdict(unclear.p) == "open: a has 7 of 12 replicates; the look at 6 settled nothing"
    values = {"a": np.linspace(0.2, 1.2, 12), "b": np.linspace(-1, 1, 12)}
    one = contrast(hypothesis({"a": 1, "b": -1}), values)
    first = stats.ttest_ind(values["a"][:6], values["b"][:6], equal_var=False, alternative="greater").pvalue
    assert looked(values, 12).p == pytest.approx(2 * min(one.p, first)) and looked(values, 12).estimate == one.estimate


def test_a_look_takes_the_first_seeds_and_no_others():
    two = dataclasses.replace(hypothesis({"a": 1, "b": -1}), first_look=6)
    values = np.linspace(-1, 1, 12)
    gap = np.where(np.arange(12) == 5, np.nan, values)
    assert contrast(two, {"a": gap, "b": values}).looked == 0
    assert contrast(two, {"a": gap, "b": values}).verdict(1.0) == "open: a has 11 of 12 replicates"
    late = np.where(np.arange(12) == 6, np.nan, values)
    assert contrast(two, {"a": late, "b": values}).looked == 6


def test_a_difference_the_other_way_is_refuted():
    values = np.linspace(-1, 1, 12)
    assert contrast(hypothesis({"a": 1, "b": -1}), {"a": values - 5, "b": values}).verdict(1.0) == "refuted"


def test_a_refutation_is_corrected_for_all_hypotheses_and_needs_all_replicates():
    values = np.linspace(-1, 1, 12)
    below = {"a": values - 0.7, "b": values}
    alone = contrast(hypothesis({"a": 1, "b": -1}), below)
    expected = stats.ttest_ind(below["a"], below["b"], equal_var=False).pvalue
    assert alone.p_against == pytest.approx(expected) and 0.01 < expected < 0.05
    assert alone.high < 0 and alone.verdict(alone.p) == "refuted"
    names = [dataclasses.replace(hypothesis({"a": 1, "b": -1}), name=str(i)) for i in range(8)]
    some = [(one.p_against, one.verdict(p)) for one, p in family(names, {names[0].protocol: below})]
    assert some == [(pytest.approx(8 * expected), "not shown")] * 8
    two = dataclasses.replace(hypothesis({"a": 1, "b": -1}), first_look=6)
    early = contrast(two, {row: cell[:6] - 9 * (row == "a") for row, cell in below.items()})
    assert early.looked == 6 and np.isnan(early.p_against) and early.verdict(early.p).startswith("open")


def test_variance_parts_are_unbiased():
    random = np.random.default_rng(2)
    found = []
    for _ in range(3000):
        draw, weights = random.normal(0, 0.6, (5, 1)), random.normal(0, 0.3, (1, 5))
        found.append(variance_parts(draw + weights + random.normal(0, 0.5, (5, 5))))
    means = {key: np.mean([one[key] for one in found]) for key in ("draw", "rest")}
    assert means["draw"] == pytest.approx(0.36, rel=0.06) and means["rest"] == pytest.approx(0.25, rel=0.04)
    null = [variance_parts(random.normal(0, 1, (5, 5)))["p_draw"] for _ in range(2000)]
    assert 0.035 < np.mean(np.array(null) <= 0.05) < 0.065


def test_holm_corrects_for_all_that_were_written_down_also_those_without_runs():
    values = np.linspace(-1, 1, 12)
    cells = {"a": values + 1, "b": values}
    asked = [hypothesis({"a": 1, "b": -1}), hypothesis({"c": 1, "b": -1}), hypothesis({"d": 1, "b": -1})]
    (first, p), *others = family(asked, {asked[0].protocol: cells})
    assert p == pytest.approx(3 * first.p) and all(np.isnan(q) and one.verdict(q).startswith("open") for one, q in others)


@pytest.mark.parametrize(
    ("kind", "margin", "effect"), [("greater", 0.0, 0.7), ("equivalent", 1.0, 0.3), ("equivalent", 1.0, 0.0)]
)
def test_replicates_needed_give_eighty_percent_power(kind, margin, effect):
    random, tests = np.random.default_rng(3), 4
    values = stats.zscore(np.arange(12.0), ddof=1)
    asked = hypothesis({"a": 1, "b": -1}, kind, margin)
    needed = replicates_needed(contrast(asked, {"a": values + effect, "b": values}), tests)
    again = hypothesis({"a": 1, "b": -1}, kind, margin, replicates=needed)
    cells = [{"a": random.normal(effect, 1, needed), "b": random.normal(0, 1, needed)} for _ in range(1500)]
    assert 0.77 < np.mean([contrast(again, each).p <= 0.05 / tests for each in cells]) < 0.84


def test_replicates_needed_where_no_number_would_do():
    values = np.linspace(-1, 1, 12)
    assert replicates_needed(contrast(hypothesis({"a": 1, "b": -1}), {"a": values - 1, "b": values})) == np.inf
    outside = contrast(hypothesis({"a": 1, "b": -1}, "equivalent", 1.0), {"a": values + 1.2, "b": values})
    assert replicates_needed(outside) == np.inf
    assert np.isnan(replicates_needed(contrast(hypothesis({"a": 1, "b": -1}), {"a": values})))


def test_intervals_of_variance_parts_hold():
    random = np.random.default_rng(4)
    truth, held = {"draw": 0.36, "weights": 0.09, "rest": 0.25}, {"draw": [], "weights": [], "rest": []}
    for _ in range(1500):
        draw, weights = random.normal(0, 0.6, (5, 1)), random.normal(0, 0.3, (1, 5))
        found = variance_parts(draw + weights + random.normal(0, 0.5, (5, 5)))
        for part, value in truth.items():
            low, high = found[f"{part}_interval"]
            held[part].append(low <= value <= high)
            assert low <= found[part] <= high
    assert all(0.93 < np.mean(each) < 0.985 for each in held.values()), {part: np.mean(each) for part, each in held.items()}


GOOD = {"text": "t", "protocol": "context", "kind": "greater", "cells": {"a": 1, "b": -1}, "replicates": 12, "written": DAY}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cels": {}}, "unknown key 'cels'; did you mean 'cells'"),
        ({"kind": "greatr"}, "did you mean 'greater'"),
        ({"cells": {"a": 1}}, "must add up to 0"),
        ({"cells": {"a": 2, "b": -2}}, "must add up to 0"),
        ({"replicates": 2}, "nearest valid value: 3"),
        ({"kind": "equivalent"}, "a margin above 0"),
        ({"margin": 1.0}, "a margin above 0"),
        ({"written": "yesterday"}, "written='yesterday' must be of type date"),
        ({"margin": float("nan")}, r"h.margin=nan must lie in .*nearest valid value: 0.0"),
        ({"replicates": "12"}, "h.replicates='12' must be of type int"),
        ({"cells": {"a": float("nan"), "b": -1}}, "must add up to 0"),
        ({"cells": {"a": "1", "b": -1}}, "h.cells.a='1' must be of type float"),
        ({"cells": {"../../a": 1, "b": -1}}, "no name of a protocol or row"),
        ({"protocol": "../../x"}, "no name of a protocol or row"),
    ],
)
def test_a_file_that_says_something_else_is_refused(tmp_path, change, message):
    path = tmp_path / "hypotheses.yaml"
    path.write_text(yaml.safe_dump({"h": GOOD | change}))
    with pytest.raises(ValueError, match=message) as error:
        load_hypotheses(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("contents", [b"", b"- a\n", b"h: \n", b"h: [1\n", b"h: F\xfcr\n", b"a: 1\na: 2\n"])
def test_a_file_of_no_hypotheses_is_refused_by_name(tmp_path, contents):
    (tmp_path / "hypotheses.yaml").write_bytes(contents)
    with pytest.raises(ValueError, match="hypotheses.yaml: ") as error:
        load_hypotheses(tmp_path / "hypotheses.yaml")
    assert "\n" not in str(error.value)


def test_the_hypotheses_of_the_paper_can_be_read():
    assert load_hypotheses(Path(__file__).parents[1] / "hypotheses.yaml")
