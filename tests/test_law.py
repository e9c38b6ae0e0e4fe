"""Chapter 10: the statistics against brute force, the sample, the verdicts, the figures, the page of all networks."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy import optimize, stats

from ctxnet.atlas.accuracies import TABLE as ACCURACIES
from ctxnet.atlas.every import FOLDER, TABLE
from ctxnet.paper import law, law_tables
from ctxnet.paper.book import networks
from ctxnet.paper.figures import law as drawn
from ctxnet.records import append_row

ROOT = Path(__file__).parents[1]


def row(name, family, *, distance=60.0, third=0.5, share=1.0, parameters=10**7, **more):
    values = {
        "name": name, "family": family, "size": 200, "parameters": parameters, "multiply_adds": 50 * parameters, "images": 2,
        "blocks": 2, "exact": True, "whole_from": 2, "layers": ["a", "b"], "at": [1, 2], "map": [10, 5], "rf_side": [90, 99],
        "rf_share": [0.2, share], "distance": [10.0, distance], "third": [1.0, third], "erf_share": {"0.9": [0.1, 0.4]},
        "gains": 0, "check": {"layers": ["b"], "probes": 200, "wrong": 0, "unsettled": 0, "seen": [1.0]},
        "made": {"seconds": 2.0, "images_per_second": 30.0, "load": 1.0}, "recipe": 1, "timm": "1.0",
    }  # fmt: skip
    return values | more


@pytest.fixture
def root(tmp_path):
    """60 networks of 12 families, larger distance, larger accuracy; some not measured, one without a last block."""
    shutil.copy(ROOT / law.FILE, tmp_path)
    rng = np.random.default_rng(0)
    folder = tmp_path / FOLDER
    for family in range(12):
        base = rng.normal(0, 0.2)
        for number in range(5):
            name, distance = f"net{family}_{number}", float(rng.uniform(20, 80))
            size = int(10 ** rng.uniform(6, 8))
            logit = 1.0 + base + 0.02 * distance + 0.1 * np.log10(size) + rng.normal(0, 0.05)
            append_row(
                folder / TABLE, row(name, f"family{family}", distance=distance, third=1 - distance / 100, parameters=size)
            )
            accuracy = {"name": name, "tag": "t_in1k", "training": "in1k", "test_size": 200, "sets": 1}
            append_row(folder / ACCURACIES, accuracy | {"top1": float(1 / (1 + np.exp(-logit)))})
    append_row(
        folder / TABLE, {"name": "huge", "family": "f", "size": 224, "parameters": 10**9, "refused": "large", "why": "big"}
    )
    refused = {"refused": "measures", "why": "layer <b> | no rule", "parameters": 5}
    append_row(folder / TABLE, {"name": "odd", "family": "f", "size": 224} | refused)
    append_row(folder / TABLE, row("cut", "f", early=True, left_out=1, why="layer 'c' …"))
    for name in ("cut", "test_toy"):
        append_row(folder / TABLE, row(name, "f", early=name == "cut"))
        append_row(
            folder / ACCURACIES, {"name": name, "tag": "t", "training": "in1k", "test_size": 200, "top1": 0.5, "sets": 1}
        )
    return tmp_path


# ---- statistics against brute force -------------------------------------------------------------------------------------


def crossed(seed=0, families=9, n=70):
    rng = np.random.default_rng(seed)
    group = rng.integers(0, families, n)
    design = np.column_stack([np.ones(n), rng.normal(size=(n, 2)), rng.normal(size=n)])
    y = design @ [1, 0.5, -0.3, 0.8] + rng.normal(size=families)[group] + rng.normal(size=n)
    return y, design, group


def dense_slope(y, design, group, ratio):
    """Generalised least squares with the covariance matrix written out; slope and log likelihood without constants."""
    v = np.eye(len(y)) + ratio * (group[:, None] == group[None, :])
    inverse = np.linalg.inv(v)
    beta = np.linalg.solve(design.T @ inverse @ design, design.T @ inverse @ y)
    rest = y - design @ beta
    variance = rest @ inverse @ rest / len(y)
    return beta[-1], -0.5 * (len(y) * np.log(variance) + np.linalg.slogdet(v)[1])


@pytest.mark.parametrize("seed", range(4))
def test_the_mixed_model_is_the_dense_one(seed):
    y, design, group = crossed(seed)
    (slope,), (ratio,) = law.random_intercept_slope(y, design, group)
    assert slope == pytest.approx(dense_slope(y, design, group, ratio)[0], rel=1e-9)
    likelihood = [dense_slope(y, design, group, value)[1] for value in law.RATIOS]
    assert law.RATIOS[int(np.argmax(likelihood))] == ratio
    best = optimize.minimize_scalar(
        lambda log: -dense_slope(y, design, group, np.exp(log))[1], bounds=(-6, 6), method="bounded"
    )
    assert slope == pytest.approx(dense_slope(y, design, group, np.exp(best.x))[0], abs=0.01)


def test_weights_count_families_as_if_they_were_there_so_often():
    y, design, group = crossed(1)
    weights = np.array([[2, 0, 1, 1, 3, 0, 1, 1, 0]], dtype=float)
    parts, label = [], 0
    for family, times in enumerate(weights[0].astype(int)):
        for _ in range(times):
            members = np.flatnonzero(group == family)
            parts.append((members, np.full(len(members), label)))
            label += 1
    index, labels = (np.concatenate(each) for each in zip(*parts, strict=True))
    drawn_slope = law.random_intercept_slope(y, design, group, weights)[0][0]
    assert drawn_slope == pytest.approx(law.random_intercept_slope(y[index], design[index], labels)[0][0], rel=1e-9)


def test_within_families_is_least_squares_with_an_intercept_each():
    y, design, group = crossed(2)
    full = np.column_stack([np.eye(9)[group], design[:, 1:]])
    assert law.within_family_slope(y, design, group) == pytest.approx(np.linalg.lstsq(full, y, rcond=None)[0][-1], rel=1e-9)
    constant = np.column_stack([design[:, :3], group.astype(float)])  # says nothing within a family
    assert np.isnan(law.within_family_slope(y, constant, group))


def test_a_slope_that_nothing_decides_is_not_a_number():
    y, design, group = crossed(3)
    assert np.isnan(law.random_intercept_slope(y, np.column_stack([design, design[:, 1]]), group)[0][0])


def test_rank_correlations():
    rng = np.random.default_rng(5)
    z = rng.normal(size=(80, 2))
    x, y = z @ [1, 1] + rng.normal(size=80), z @ [1, -1] + rng.normal(size=80)
    assert law.partial_spearman(x, y, z[:, :0]) == pytest.approx(stats.spearmanr(x, y).statistic)
    r = stats.spearmanr(np.column_stack([x, y, z])).statistic  # partial correlation by the inverse of the matrix
    inverse = np.linalg.inv(r)
    expected = -inverse[0, 1] / np.sqrt(inverse[0, 0] * inverse[1, 1])
    assert law.partial_spearman(x, y, z) == pytest.approx(expected)
    assert np.isnan(law.partial_spearman(np.ones(80), y, z)) and np.isnan(law.partial_spearman(z[:, 0], y, z))


def test_rank_correlations_of_weighted_entries_are_those_of_repeated_ones():
    rng = np.random.default_rng(6)
    x, y, z = (rng.integers(0, 12, (40, *k)).astype(float) for k in ((), (), (2,)))  # many are equal
    weights = rng.multinomial(40, np.full(40, 1 / 40), 25)
    z[:, 1] = y >= y.max()  # the same for all in some samples
    for others in (z[:, :0], z):
        repeated = (np.repeat(np.arange(40), row) for row in weights)
        expected = [law.partial_spearman(x[i], y[i], others[i]) for i in repeated]
        assert law.partial_spearman(x, y, others, weights) == pytest.approx(expected, nan_ok=True)
    plain = [stats.spearmanr(np.repeat(x, row), np.repeat(y, row)).statistic for row in weights]
    assert law.partial_spearman(x, y, z[:, :0], weights) == pytest.approx(plain)


def test_the_interval_covers_what_is_there():
    """At least 85 % of sixty nominal 95 % intervals, for families of unequal size."""
    inside = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        group = np.repeat(np.arange(25), rng.integers(1, 9, 25))
        design = np.column_stack([np.ones(len(group)), rng.normal(size=len(group)) + rng.normal(size=25)[group]])
        y = design @ [0, 0.7] + rng.normal(size=25)[group] + rng.normal(size=len(group))
        weights = law.family_draws(group.tolist(), 300, seed)
        low, high = np.quantile(law.random_intercept_slope(y, design, group, weights)[0], [0.025, 0.975])
        inside += low <= 0.7 <= high
    assert 51 <= inside <= 60


@pytest.mark.parametrize(
    ("low", "high", "sign", "verdict"),
    [
        (0.1, 2, 1, "upheld"), (-2, -0.1, 1, "contradicted"), (-2, -0.1, -1, "upheld"), (0.1, 2, -1, "contradicted"),
        (-0.3, 0.4, 1, "no practical effect"), (-0.3, 0.6, 1, "undecided"), (-0.6, 0.4, -1, "undecided"),
        (float("nan"), float("nan"), 1, "undecided"),
    ],
)  # fmt: skip
def test_verdicts(low, high, sign, verdict):
    assert law.verdict(low, high, sign, 0.5) == verdict and verdict in law.VERDICTS


# ---- the sample ----------------------------------------------------------------------------------------------------------


def test_the_sample_leaves_out_what_the_plan_says(root):
    plan = law.load_plan(root)
    sample = law.load_sample(root, plan.leave_out)
    assert len(sample.names) == 60 and not {"cut", "test_toy", "odd", "huge"} & set(sample.names)
    assert sample.context["distance_share"].max() <= 0.4 and set(sample.context["covers"]) == {1.0}
    explored, back = law.split(sample, plan)
    assert len(explored.names) + len(back.names) == 60 and not set(explored.families) & set(back.families)
    assert {family: law.is_kept_back(family, 3) for family in ("resnet", "vgg", "convnext", "swin_transformer")} == {
        "resnet": False, "vgg": False, "convnext": False, "swin_transformer": True,
    }  # fmt: skip


def test_a_planted_effect_is_found_and_a_constant_one_is_not(root):
    plan = law.load_plan(root)
    sample = law.load_sample(root, plan.leave_out)
    found = law.effect(sample, plan.hypotheses["distance"], plan)
    true = 16 * 0.02 * 0.1 * 200  # points per 10 % of a side of 200 px
    assert found.low < true < found.high and abs(found.points - true) < 1.5 and found.verdict == "upheld"
    assert found.partial > found.rho - 1 and found.rho_low <= found.rho <= found.rho_high
    assert law.effect(sample, plan.hypotheses["third"], plan).verdict == "upheld"
    nothing = law.effect(sample, plan.hypotheses["covers"], plan)  # all of them do
    assert np.isnan(nothing.points) and nothing.verdict == "undecided"
    assert law.effect(sample, plan.hypotheses["distance"], plan) == found


def test_outliers_are_the_ones_that_were_made(root):
    plan = law.load_plan(root)
    sample = law.load_sample(root, plan.leave_out)
    sample.top1[7], sample.top1[20] = 0.999, 0.5
    above, below = law.outliers(sample, plan.hypotheses["distance"])
    assert above[0][0] == sample.names[7] and above[0][1] > 0 and below[0][0] == sample.names[20] and below[0][1] < 0
    least = law.little_context(sample)
    assert (
        all(distance <= np.quantile(sample.context["distance_share"], 0.1) for _, distance, _ in least) and len(least) == 6
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("    sign: -1", "    sign: 2", "hypotheses.third.sign=2"),
        ("    unit: 1\n", "    unt: 1\n", "unknown key 'unt'; did you mean 'unit'"),
        ("split:", "splits:", "missing or misshapen key 'split'"),
        ("finished:", "done:", "missing or misshapen key 'finished'"),
        ("  draws: 2000\n", "", "missing or misshapen key 'draws'"),
    ],
)  # fmt: skip
def test_a_wrong_plan_is_named(root, old, new, message):
    path = root / law.FILE
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ValueError, match=re.escape(message)) as refused:
        law.load_plan(root)
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)


def test_the_plan_was_written_down():
    plan = law.load_plan(ROOT)
    assert list(plan.hypotheses) == ["covers", "third", "distance"] and plan.kept_back == 3
    assert {h.value for h in plan.hypotheses.values()} == {"covers", "third", "distance_share"}


# ---- what is shown -----------------------------------------------------------------------------------------------------


def test_the_words_count_what_is_there(root):
    text = law_tables.status(root)
    assert (
        "**62 of 63** architectures" in text
        and "1 are larger" in text
        and "12,400 probes" in text
        and "no receptive" in text
    )
    assert "layer &lt;b&gt; \\| no rule" in law_tables.refused(root).markdown()
    assert law_tables.sample_text(root).startswith("60 networks have both.")
    assert "**Upheld**" in law_tables.verdicts(root) and len(law_tables.effects(root).rows) == 6
    assert len(law_tables.outliers(root).rows) == 16


def test_families_kept_back_are_not_shown_before_all_is_measured(root):
    for number in range(5):  # more than one in twenty of those asked for
        waiting = {"name": f"w{number}", "family": "f", "size": 224, "refused": "waiting", "why": "…"}
        append_row(root / FOLDER / TABLE, waiting)
    assert [name for name, _ in law.parts(root)] == ["explored"] and "No verdict yet" in law_tables.verdicts(root)
    explored = law.split(law.load_sample(root), law.load_plan(root))[0]
    assert {row[1] for row in law_tables.effects(root).rows} == {"explored"} and len(explored.names) < 60
    shown = [sum(len(c.get_offsets()) for c in ax.collections) for ax in drawn.draw_accuracy(root=root).axes]
    assert shown == [len(law.parts(root)[0][1].names)] * 3
    assert {r[1].strip("`") for r in law_tables.outliers(root).rows} <= set(law.parts(root)[0][1].names)


def test_without_accuracies_all_but_that_axis_is_there(root):
    (root / FOLDER / ACCURACIES).unlink()
    assert "--accuracies" in law_tables.sample_text(root) and law_tables.verdicts(root) == ""
    assert law_tables.effects(root).rows == [] and law_tables.outliers(root).rows == []
    assert [len(draw(root=root).axes) for draw in (drawn.draw_cost, drawn.draw_accuracy, drawn.draw_effects)] == [2, 1, 1]


def test_without_any_row_the_chapter_says_what_makes_them(tmp_path):
    shutil.copy(ROOT / law.FILE, tmp_path)
    assert drawn.COMMAND in law_tables.status(tmp_path)
    assert [len(draw(root=tmp_path).axes) for draw in (drawn.draw_cost, drawn.draw_accuracy, drawn.draw_effects)] == [
        1,
        1,
        1,
    ]


def test_every_network_is_a_dot(root):
    axes = drawn.draw_accuracy(root=root).axes
    assert [sum(len(c.get_offsets()) for c in ax.collections) for ax in axes] == [60, 60, 60]
    assert [len(ax.collections[0].get_offsets()) for ax in drawn.draw_cost(root=root).axes] == [61, 61]
    assert len(drawn.draw_effects(root=root).axes) == 1


# ---- the page of all networks ------------------------------------------------------------------------------------------


def page(root, tmp_path):
    import jinja2

    folder = ROOT / "ctxnet/paper/book/pages"
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), autoescape=True, undefined=jinja2.StrictUndefined
    )
    common = {"site": "S", "title": "T", "address": networks.PAGE, "up": "", "protocol": "small", "commit": "c",
              "dirty": False, "menu": [], "reference": "reference/ctxnet.html"}  # fmt: skip
    names, values = networks.shown_networks(root)
    return names, environment.get_template(f"{networks.PAGE}.j2").render(**common, **values)


def test_the_page_holds_every_network_with_its_numbers(root, tmp_path):
    names, text = page(root, tmp_path)
    found = json.loads(re.search(r'<script type="application/json" id="networks-data">(.*?)</script>', text, re.S)[1])
    assert names == [each["name"] for each in found["networks"]] and len(names) == 64
    by_name = {each["name"]: each for each in found["networks"]}
    assert (
        by_name["odd"]["why"] == "layer <b> | no rule"
        and "<b>" not in text.partition("networks-data")[2].partition("</script")[0]
    )
    assert (
        by_name["cut"]["early"] == 1
        and by_name["cut"]["distance"] == 30.0
        and by_name["cut"]["curve"] == [[1, 5.0], [2, 30.0]]
    )
    assert by_name["net0_0"]["top1"] == pytest.approx(
        100 * law.load_sample(root).top1[law.load_sample(root).names.index("net0_0")], abs=0.01
    )
    assert [column[0] for column in found["columns"]] == [key for key, *_ in networks.COLUMNS]
    keys = set(re.findall(r'data-key="(\w+)"', text))
    assert keys == {"name", "family"} | {key for key, *_ in networks.COLUMNS}
    assert (
        len(re.findall(r'(?:src|href)="(?!static/|#|data:|index|explorer|reference|made|networks)', text)) == 0
    )  # nothing from elsewhere


def test_an_empty_page_says_how_to_fill_it(tmp_path):
    names, text = page(tmp_path, tmp_path)
    assert names == [] and "ctxnet atlas" in text and "networks.js" not in text
