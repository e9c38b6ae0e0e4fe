"""Chapter 6 on made-up records: with none, with one replicate, with all of them, with seeds that are crossed."""

import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from ctxnet.paper import coherence, figures, results, words
from ctxnet.paper.contrasts import variance_parts
from ctxnet.paper.figures import coherence as drawings
from ctxnet.records import encode_csv, encode_predictions, run_folder, write_images, write_record

REPO = Path(__file__).parents[1]
N = 1000
TOP1 = {"starved_resnet50": 0.60, "starved_identity": 0.60, "starved_mean": 0.68, "full_resnet50": 0.80}
TOP1 |= {"full_permutemap": 0.75}
TOP1 |= {f"starved_shift{reach}": 0.80 for reach in coherence.REACHES}
TOP1 |= {f"starved_permute{reach}": 0.70 + 0.01 * i for i, reach in enumerate(coherence.REACHES)}


def run(root, row, seed, top1):
    """One run with so many right answers, and no more in its record than chapter 6 reads."""
    labels = np.arange(N) % 10
    right = round(N * top1)
    predicted = np.where(np.arange(N) < right, labels, (labels + 1) % 10)
    place = list(TOP1).index(row) + len(str(seed)) / 10
    record = {"protocol": "context", "variant": row, "seed": seed, "top1": right / N, "top1_best": right / N, "n": N}
    record |= {"epochs": 2, "parameters": 800_000, "config": {}, "config_hash": "made up"}
    record |= {"initial": {"distance": [None, 2.0 + place, 4.0 + place], "rf_share": [0.25, 0.5, 0.75]}}
    record["images"] = write_images("context", [f"{i:04d}" for i in range(N)], labels.tolist(), root)
    history = encode_csv(results.HISTORY_COLUMNS, [[0, 0.1, 2.0, "", ""], [1, 0.1, 1.5, 1.6, right / N]])
    files = {"history.csv": history, "predictions.bin": encode_predictions(predicted)}
    write_record(run_folder("context", row, seed, root), record, files, {"commit": "0" * 40})


def made(root, seeds, rows=TOP1):
    for name in ("params.yaml", "hypotheses.yaml"):
        shutil.copy(REPO / name, root / name)
    for row in rows:
        for seed in seeds:
            run(root, row, seed, TOP1[row] + 0.001 * (7 * seed % 5 - 2))
    return root


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    return made(tmp_path_factory.mktemp("full"), range(12))


def bands(fig):
    return sum(len(ax.collections) for ax in fig.axes)


def said(fig):
    return " ".join(text.get_text() for text in [*fig.texts, *(t for ax in fig.axes for t in ax.texts)])


def test_without_any_record_everything_is_open_and_the_figure_names_the_command(tmp_path):
    made(tmp_path, ())
    found = coherence.contrasts(tmp_path)
    assert len(found) == 8 and found["verdict"].str.startswith("open").all() and (found["n"] == 0).all()
    assert found[["estimate", "low", "p", "p_holm", "train_loss_a"]].isna().all(axis=None)
    assert "0 of 252 replicates" in coherence.status(tmp_path) and coherence.COMMAND in coherence.status(tmp_path)
    assert len(re.findall(r"\*\*open\*\*: `\w+` has 0 of 12\.", coherence.summary(tmp_path))) == 8
    assert coherence.story(tmp_path).startswith("None of them")
    assert {row[1] for row in coherence.cell_table(tmp_path).rows} == {"0 of 12"}
    assert coherence.draw_table(tmp_path).markdown().count("open: 0 of 25 runs") == 6
    assert "campaign --protocol context" in said(figures.show("6.2", "small", tmp_path))


@pytest.mark.parametrize("seeds", [(0,), range(5), [0, 1, 2, 3, 4, 6, 7]])
def test_without_those_of_the_first_look_nothing_has_a_verdict_or_an_estimate(tmp_path, seeds):
    made(tmp_path, seeds)
    found = coherence.contrasts(tmp_path)
    assert (found["n"] == len(seeds)).all() and found["verdict"].str.startswith("open").all()
    assert found[["estimate", "low", "high", "p", "p_holm"]].isna().all(axis=None)
    table = coherence.contrast_table(tmp_path)
    assert {row[5] for row in table.rows} == {f"{len(seeds)} of 12"} and {row[1] for row in table.rows} == {"–"}
    fig = figures.show("6.2", "small", tmp_path)
    assert ("no band" in said(fig)) == (len(seeds) == 1) == (bands(fig) == 0)
    assert f"one offset {', '.join(4 * [str(len(seeds))])};" in said(fig)
    cells = coherence.cells(tmp_path).set_index("row")
    assert cells.loc["starved_shift1", "interval_over"] == ("images" if len(seeds) == 1 else "seeds and images")
    assert math.isnan(cells.loc["starved_shift1", "train_loss_half"]) == (len(seeds) == 1)
    assert (words.ONE_SEED in coherence.cell_table(tmp_path).caption) == (len(seeds) == 1)


def test_the_first_look_settles_what_is_clear_and_leaves_the_rest_open(tmp_path):
    made(tmp_path, range(6))
    found = coherence.contrasts(tmp_path).set_index("contrast")
    assert found.loc["coherence", "verdict"] == "shown" and (found["p_holm"] >= found["p"]).all()
    assert found.loc["full_network_gains_nothing", "verdict"].endswith("6 of 12 replicates; the look at 6 settled nothing")
    table = coherence.contrast_table(tmp_path)
    told = coherence.story(tmp_path).splitlines()
    assert [line.partition(" **")[0] for line in told] == [f"- {text}" for text in found["text"]]
    assert "over reaches 1, 2, 4 and the map. **shown** (+8.5" in told[0]
    assert told[-1].count("has 6 of 12; the look at 6 settled nothing") == 1
    assert any(row[6].endswith("has 6 of 12; the look at 6 settled nothing") for row in table.rows)
    assert {row[5] for row in table.rows} == {"6 of 12"} and "with the first 6 and with all 12 replicates" in table.caption


def test_what_came_after_the_first_look_is_not_said_to_be_tested(tmp_path):
    first, more = tmp_path / "first", tmp_path / "more"
    for root, count in ((first, 6), (more, 7)):
        root.mkdir()
        made(root, range(count))
    told = coherence.story(more)
    assert told.replace("has 7 of 12", "has 6 of 12") == coherence.story(first) and told.count("n = 6).") == 8
    assert {row[5] for row in coherence.contrast_table(more).rows} == {"7 of 12; 6 tested"}


def test_with_all_replicates_there_are_verdicts(full):
    found = coherence.contrasts(full).set_index("contrast")
    assert dict(found["verdict"]) == {
        "coherence": "shown", "coherent_context_helps": "shown", "incoherent_context_helps": "shown", "width_alone": "shown",
        "shift_replaces_the_kernel": "shown", "coherent_reach": "shown", "incoherent_reach": "shown",
        "full_network_gains_nothing": "refuted",
    }  # fmt: skip
    assert found.loc["coherence", "estimate"] == pytest.approx(8.5)
    assert found.loc["full_network_gains_nothing", "estimate"] == pytest.approx(-5)
    assert (found["low"] <= found["estimate"]).all() and (found["p_holm"] >= found["p"]).all()
    assert found.loc["coherence", "cells"] == (
        "mean(starved_shift1 … starved_shiftmap) − mean(starved_permute1 … starved_permutemap)"
    )
    said_of = {row[6]: row[3] for row in coherence.contrast_table(full).rows}
    assert said_of["**refuted**"] == f"{words.p_text(found.loc['full_network_gains_nothing', 'p_against'])}, contrary"
    text = coherence.summary(full)
    assert "width alone: **shown** (+0.00 points, 95 %: −0." in text and "Holm; n = 12)." in text
    fig = figures.show("6.2", "small", full)
    assert bands(fig) > 0 and "no band" not in said(fig)
    assert [line.get_label() for line in fig.axes[0].lines if not line.get_label().startswith("_")] == [
        "one offset", "permuted", "nowhere", "mean of the map"
    ]  # fmt: skip


def test_one_missing_replicate_opens_what_needs_it_and_the_others_stay_corrected_for_all(full, tmp_path):
    shutil.copytree(full, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(run_folder("context", "starved_permute2", 5, tmp_path))
    found, before = (coherence.contrasts(root).set_index("contrast") for root in (tmp_path, full))
    assert found.loc["coherence", "verdict"] == "open: starved_permute2 has 11 of 12 replicates"
    assert (found["verdict"].str.startswith("open")).sum() == 1 and math.isnan(found.loc["coherence", "p"])
    assert found.loc["incoherent_reach", "p"] == before.loc["incoherent_reach", "p"]
    others = found.drop(index=["coherence", "full_network_gains_nothing"])  # the second has p = 1
    assert others["p_holm"].max() >= 2 * others["p"].max()  # one is still to come


def test_further_and_crossed_seeds_do_not_count(full, tmp_path):
    shutil.copytree(full, tmp_path, dirs_exist_ok=True)
    for seed in (12, 40, "100-init0-draw0", "101-init1-draw0"):
        run(tmp_path, "starved_shiftmap", seed, 0.1)
    assert coherence.contrasts(tmp_path).equals(coherence.contrasts(full))
    one, other = (coherence.cells(root).set_index("row").loc["starved_shiftmap"] for root in (tmp_path, full))
    assert one.equals(other)
    seeds = results.table(results.OWN, "context", tmp_path).set_index("variant").loc["starved_shiftmap", "seeds"]
    assert seeds == 14  # plain seeds alone: crossed ones share weights or draws


def test_the_variance_of_the_draw_needs_the_whole_grid(tmp_path):
    made(tmp_path, ())
    grid = 0.7 + np.random.default_rng(0).normal(0, 0.03, (5, 1)) + np.random.default_rng(1).normal(0, 0.005, (5, 5))
    labels = [(draw, init, f"{100 + 5 * draw + init}-init{init}-draw{draw}") for draw in range(5) for init in range(5)]
    for draw, init, label in labels[:-1]:
        run(tmp_path, "starved_shiftmap", label, grid[draw, init])
    row = coherence.draws(tmp_path).set_index("row").loc["starved_shiftmap"]
    assert row["runs"] == 24 and math.isnan(row["draw"]) and "24 of 25" in coherence.draw_table(tmp_path).markdown()
    assert not coherence.draw_table(tmp_path).after
    run(tmp_path, "starved_shiftmap", labels[-1][2], grid[4, 4])
    row = coherence.draws(tmp_path).set_index("row").loc["starved_shiftmap"]
    expected = variance_parts(100 * np.round(grid, 3))
    assert row["draw"] == pytest.approx(expected["draw"] ** 0.5) and row["draw_low"] < row["draw"] < row["draw_high"]
    table = coherence.draw_table(tmp_path)
    assert row["p_draw"] < 0.001 and "open" not in table.rows[0][2]
    assert table.after.endswith(f"one offset, whole map: a part is shown, {row['draw_high']:.2f} points at most.")
    cells = {line[0]: line for line in coherence.cell_table(tmp_path).rows}
    assert cells["starved, one offset, whole map"][5].startswith(f"{row['draw']:.2f} (")
    assert cells["starved, permuted, whole map"][5] == "open: 0 of 25 runs"


def test_what_is_shown_is_written_and_byte_stable(full, tmp_path):
    coherence.write_coherence(full, tmp_path)
    before = {path.name: path.read_bytes() for path in (tmp_path / "tables").iterdir()}
    coherence.write_coherence(full, tmp_path)
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "tables").iterdir()}
    assert set(before) == {"contrasts.csv", "cells.csv", "draws.csv", "decays.csv"}
    assert before["contrasts.csv"].count(b"\n") == 9


def test_distance_and_reach_are_means_over_blocks_before_training(full):
    runs = coherence.replicates(full)
    one = runs[(runs["variant"] == "starved_resnet50") & (runs["seed"] == 0)].iloc[0]
    assert one["distance"] == pytest.approx(3.1) and one["reach"] == 50 and one["train_loss"] == 1.5


def test_simultaneous_intervals_hold_together():
    random = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        ends = [drawings.band(random.normal(0, 1, 12), 10) for _ in range(10)]
        held += all(low <= 0 <= high for low, high in ends)
    assert held / 400 > 0.93
    assert all(map(math.isnan, drawings.band([1.0, 2.0], 10)))


def test_arrows_are_what_the_blocks_show():
    for kind in (drawings.HalfShift, drawings.HalfPermutation):
        block = kind(2, tile=4, layer="x")
        down, right = drawings.targets(block, 8)
        rows, columns = np.mgrid[:8, :8]
        x = np.arange(64.0).reshape(8, 8)
        shown = block(torch.from_numpy(np.stack([x, x])[None]))[0, 0].numpy()
        assert (shown == x[(rows + down) % 8, (columns + right) % 8]).all()
