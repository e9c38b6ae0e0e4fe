"""Chapter 8's numbers on records made by hand: goal, power, costs; with none, with some and with all replicates."""

import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from ctxnet.__main__ import main
from ctxnet.models import count_parameters, create_model
from ctxnet.paper import figures, pays, results, statistics, words
from ctxnet.paper.book import made
from ctxnet.paper.contrasts import contrast
from ctxnet.records import encode_csv, encode_predictions, run_folder, write_images, write_record

ROOT = Path(__file__).parents[1]
N = 2000
GAIN = {  # points over plain ResNet-50
    "resnet50": 0, "resnet50_gc": 2, "resnet50_dw7": 0.8, "resnet50_se": 0, "resnet50_eca": 0, "resnet50_shift": -2,
    "resnet50_ssconv": 0, "resnet50_gated_perm": 0, "resnet50_partial_perm": 0, "resnet50_dw_random": 1.5,
    "full_resnet50": 0, "starved_shift1": 0.1,
}  # fmt: skip
SCATTER = (-0.4, 0.3, 0.1, -0.1, 0.4, -0.3, 0.2, -0.2)  # points, of eight seeds
WIDE = 8  # times as much for random offsets: they gain enough, and may not show it


def run(root, protocol, row, seed, points):
    labels, right = np.arange(N) % 10, round(N * points / 100)
    predicted = np.where(np.arange(N) < right, labels, (labels + 1) % 10)
    record = {"protocol": protocol, "variant": row, "seed": seed, "top1": right / N, "top1_best": right / N, "n": N}
    record |= {"epochs": 1, "parameters": 1000, "config": {}, "config_hash": "made up"}
    record["images"] = write_images(protocol, [f"{i:04d}" for i in range(N)], labels.tolist(), root)
    history = encode_csv(results.HISTORY_COLUMNS, [[0, 0.1, 1.5, 1.6, right / N]])
    files = {"history.csv": history, "predictions.bin": encode_predictions(predicted)}
    write_record(run_folder(protocol, row, seed, root), record, files, {"commit": "b" * 40})


def settings(root):
    for name in ("params.yaml", "hypotheses.yaml"):
        shutil.copy(ROOT / name, root / name)
    return root


def benchmark(root, slow="resnet50_gc"):
    lines = ["protocol,row,ms,time ÷ resnet50,machine,commit"]
    lines += [f"pays,{row},10,{1.5 if row == slow else 1.0},here,{'c' * 40}" for row in GAIN]
    path = root / pays.BENCHMARK
    path.parent.mkdir(parents=True)
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """All replicates at 64 px, some rows in each precision, seven of eight at 128 px."""
    root = settings(tmp_path_factory.mktemp("pays"))
    for protocol, count in (("pays", 8), ("pays_float32", 8), ("pays128", 7)):
        for place, (row, gain) in enumerate(GAIN.items()):
            for number in range(count if row in pays.planned(protocol, root)[0] else 0):
                off = SCATTER[(number + place) % 8] * (WIDE if row == "resnet50_dw_random" else 1)
                run(root, protocol, row, 200 + number, 80 + gain + off)
    benchmark(root)
    return root


def test_what_a_precision_costs_is_told_once_all_its_seeds_are_there(project, tmp_path):
    root = shutil.copytree(project, tmp_path / "copy")
    shutil.rmtree(root / "results/pays_float32/runs/resnet50")
    assert pays.price(root) is None and "Plain ResNet-50 in protocol `pays_float32`: 0 of 5 runs" in pays.price_text(root)
    for number in (0, 1, 2, 3, 5, 6, 7):  # the last three are for the rows in float32 and tell nothing here
        run(root, pays.FLOAT32, "resnet50", 200 + number, 80 + SCATTER[number])
    assert pays.price(root).seeds_a == pays.price(root).seeds_b == 4 and "Equal" not in pays.price_text(root)
    run(root, pays.FLOAT32, "resnet50", 204, 80 + SCATTER[4])
    same = pays.price(root)
    assert same.difference == pytest.approx(0, abs=1e-9) and same.seeds_a == 5
    assert "**shown**" in pays.price_text(root)
    for number in range(5):
        run(root, pays.FLOAT32, "resnet50", 200 + number, 79 + SCATTER[number])
    assert pays.price(root).difference == pytest.approx(0.01, abs=1e-9)  # a point: on the margin
    assert "+1.00 points" in pays.price_text(root) and "**not shown**" in pays.price_text(root)


def at_64(project):
    return pays.contrasts(project).query("protocol != 'pays128'").set_index("row")


def test_rows_of_both_precisions_are_one_family_each_against_its_own_plain_network(project, tmp_path):
    root = shutil.copytree(project, tmp_path / "copy")
    before = at_64(root)
    assert len(before) == 11 and set(before["protocol"]) == {"pays", "pays_float32"}
    for number in range(8):  # another plain network in float32: those in bfloat16 stay where they are
        run(root, pays.FLOAT32, "resnet50", 200 + number, 79 + SCATTER[number])
    moved = at_64(root)["estimate"] - before["estimate"]
    assert moved[before["protocol"] == "pays"].eq(0).all()
    assert moved[before["protocol"] == "pays_float32"].to_numpy() == pytest.approx(np.ones(7), abs=0.03)
    shutil.rmtree(root / "results/pays_float32/runs")
    some = at_64(root)
    assert some["verdict"].str.startswith("open").eq(some["protocol"] == "pays_float32").all()
    shown = before.loc["resnet50_gc"]
    assert some.loc["resnet50_gc", "p_holm"] == pytest.approx(11 * shown["p"])  # those without runs are corrected for, too


def test_the_goal_takes_a_point_and_an_interval_above_zero(project):
    found = at_64(project)
    assert found.loc["resnet50_gc", "goal"] == "reached"
    assert found.loc["resnet50_gc", "estimate"] == pytest.approx(2, abs=0.03)
    small, wide = found.loc["resnet50_dw7"], found.loc["resnet50_dw_random"]
    assert small["verdict"] == "shown" and small["goal"] == "missed" and 0 < small["low_all"] < small["estimate"] < 1
    assert wide["goal"] == "missed" and wide["estimate"] > 1 > 0 > wide["low_all"]  # a point, and no interval above zero
    assert found.loc["resnet50_shift", "verdict"] == "refuted" and found.loc["resnet50_shift", "goal"] == "missed"
    assert any(row[4].endswith(", contrary") and row[6] == "**refuted**" for row in pays.contrast_table(project).rows)
    assert found.loc["starved_shift1", "goal"] == "" and found.loc["starved_shift1", "verdict"] == "shown"
    assert ((found["low_all"] < found["low"]) & (found["high"] < found["high_all"])).all()


def test_power_is_the_chance_to_show_a_true_point(project):
    found = at_64(project)
    sd = np.std(100 * np.round(np.array(SCATTER) * N / 100) / N, ddof=1)
    assert found.loc["resnet50_gc", "power"] == pytest.approx(
        statistics.power(1.0, sd**2, sd**2, 8, 8, level=2 * 0.05 / 11), abs=0.02
    )
    assert found.loc["resnet50_dw_random", "power"] < 0.3 < 0.9 < found.loc["resnet50_se", "power"]
    assert math.isnan(found.loc["starved_shift1", "power"])


def test_a_simulated_family_gets_the_power_that_is_told():
    """Of experiments with a true gain of a point, the told share shows it by the corrected one-sided test."""
    (one,) = [h for h in pays.hypotheses("pays", ROOT) if h.name == "global_context_pays"]
    rng, sd, shown = np.random.default_rng(0), 0.7, 0
    told = statistics.power(pays.GOAL, sd**2, sd**2, 8, 8, level=2 * statistics.LEVEL / 11)
    for _ in range(600):
        values = {"resnet50_gc": 81 + sd * rng.standard_normal(8), "resnet50": 80 + sd * rng.standard_normal(8)}
        shown += contrast(one, values).p <= statistics.LEVEL / 11
    assert abs(shown / 600 - told) < 0.06 and 0.2 < told < 0.9


def test_nothing_is_said_before_the_last_replicate(project):
    found = pays.contrasts(project).query("protocol == 'pays128'")
    assert found["verdict"].str.startswith("open").all() and (found["n"] == 7).all() and len(found) == 11
    assert found[["estimate", "low_all", "p", "p_holm", "power", "needed"]].isna().all(axis=None)
    assert set(found["goal"]) == {"open", ""}
    answer = pays.answer(project).splitlines()
    assert answer[0].startswith("- 64 px: 1 of 10 changes reach the goal: global context (+2.0")
    assert "9 miss it." in answer[0] and "but costs too much time" in answer[0] and "would have been shown in" in answer[0]
    assert answer[1].startswith("- 128 px: **open**, all 10 changes")


def test_the_story_tells_what_was_tested_and_what_became_of_the_goal(project, tmp_path):
    tested, goal, answer = pays.story(project).split("\n\n")
    assert tested.count("\n- ") == 10 and tested.startswith("- Global context, from zero, gains")
    assert "**open**" not in tested and "1.0 point" in goal and answer == pays.answer(project)
    assert pays.story(settings(tmp_path)).startswith("None of them")


def test_further_seeds_do_not_count(project, tmp_path):
    shutil.copytree(project, tmp_path, dirs_exist_ok=True)
    run(tmp_path, "pays", "resnet50_gc", 0, 10)
    run(tmp_path, "pays", "resnet50_gc", "208-init1", 10)
    assert pays.contrasts(tmp_path).equals(pays.contrasts(project)) and pays.rows(tmp_path).equals(pays.rows(project))


def test_costs_are_those_of_the_networks(project):
    cost = pays.costs("pays", project)
    sizes = {row: count_parameters(create_model(row, width=16)) for row in ("resnet50", "resnet50_gc")}
    assert cost["resnet50_gc"]["parameters"] == pytest.approx(sizes["resnet50_gc"] / sizes["resnet50"])
    assert cost["resnet50"] == {"parameters": 1, "multiply_adds": 1, "time": 1}
    assert cost["resnet50_shift"]["multiply_adds"] == 1 < cost["resnet50_dw7"]["multiply_adds"] < 1.15
    assert cost["starved_shift1"]["multiply_adds"] < 0.6 and cost["resnet50_gc"]["time"] == 1.5
    assert pays.too_dear(cost["resnet50_gc"]) == ["time"] and pays.too_dear(cost["resnet50_se"]) == []
    assert pays.too_dear({"parameters": 1.2, "time": math.nan}) == ["parameters"]
    assert all(math.isnan(each["time"]) for each in pays.costs("pays128", project).values())
    assert pays.limit_text(project).endswith("at 64 px 1 of 12 rows: global context.")


def test_rows_and_tables(project):
    rows = pays.rows(project)
    assert len(rows) == 25 and set(rows["n"]) == {8, 7} and (rows["low"] < rows["top1"]).all()
    assert rows.loc[0, "sd"] == pytest.approx(np.std(SCATTER, ddof=1), abs=0.02) and rows["train_loss"].eq(1.5).all()
    text = pays.contrast_table(project).markdown()
    assert text.count("\n| **") == 22 and "| reached |" in text and re.search(r"\*\*open\*\*: `\w+` has 7 of 8\b", text)
    assert "margin ±1" in text and "it would take about" in text
    assert "+50.0 %" in pays.cost_table(project).markdown() and "not measured yet" not in pays.cost_table(project).markdown()
    assert {line[1] for line in pays.row_table(project).rows} == {"64 px", "64 px, float32", "128 px"}
    assert {line[2] for line in pays.row_table(project).rows} == {"8 of 8", "7 of 8"}
    assert "64 px, float32, worth ResNet-50 within 1 point: **shown** (+0.1" in pays.cheapest(project)
    assert "multiply-adds −42.2 %" in pays.cheapest(project)


def test_one_seed_is_said_to_be_one(tmp_path):
    run(settings(tmp_path), "pays", "resnet50", 200, 80)
    table = pays.row_table(tmp_path)
    assert words.ONE_SEED in table.caption and table.rows[0][4].endswith("†")


def test_what_is_shown_is_written_and_byte_stable(project, tmp_path):
    folder = pays.write_pays(project, tmp_path)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    pays.write_pays(project, tmp_path)
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(before) == {"pays_contrasts.csv", "pays_rows.csv"} and before["pays_contrasts.csv"].count(b"\n") == 23
    main(["report", "--protocol", "pays128", "--root", str(project)])
    assert (project / "results/pays/tables/pays_rows.csv").read_bytes() == before["pays_rows.csv"]


def test_figures_draw_what_was_tested_and_say_what_is_open(project):
    left, right = figures.show("8.1", root=project).axes
    said = [text.get_text() for text in right.texts]
    assert said == ["open: 7 of 8"] * 11 and not left.texts
    assert [sum(line.get_marker() == "o" for line in ax.lines) for ax in (left, right)] == [11, 0]
    panels = figures.show("8.2", root=project).axes
    assert len(panels) == 9
    for ax in panels:  # the cheapest network lies far to the left of what was drawn first
        (left, right), drawn = ax.get_xlim(), [line for line in ax.lines if line.get_marker() != "None"]
        assert len(drawn) >= 5 and not any(x <= left or x >= right for line in drawn for x in line.get_xdata())
    assert set(made.RECORDS) >= set(pays.PROTOCOLS)


def test_without_any_record_or_rows_of_its_own_all_is_open(tmp_path):
    settings(tmp_path)
    assert pays.contrasts(tmp_path)["verdict"].str.startswith("open").all() and "0 of 64 runs" in pays.status(tmp_path)
    assert "not measured yet" in pays.cost_table(tmp_path).markdown() and pays.limit_text(tmp_path).endswith("open.")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params |= {"own_rows": {}, "rows": ["resnet50_gc", "vit_base_patch16_224"]}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    assert pays.rows(tmp_path)["top1"].isna().all() and set(pays.costs("pays", tmp_path)) == set(params["rows"])
    assert "**open**" in pays.answer(tmp_path) and "**open**" in pays.cheapest(tmp_path)
    for number in ("8.1", "8.2"):
        (ax,) = figures.show(number, root=tmp_path).axes
        assert any("campaign --protocol pays" in text.get_text() for text in ax.texts)
