"""Chapter 7's numbers: what a field promises, what is learned, how many images it took; with records made by hand."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from ctxnet.__main__ import main
from ctxnet.data import probe
from ctxnet.measure import ContextProfile
from ctxnet.paper import figures, reach, words
from ctxnet.paper.book import made
from ctxnet.paper.statistics import wilson_interval
from ctxnet.records import encode_csv, encode_predictions, encode_profile, run_folder, write_images, write_record
from ctxnet.training import load_params

ROOT = Path(__file__).parents[1]
N, SIZE = 200, 64
SIDES = {"resnet50": 64, "starved_resnet50": 37, "starved_identity": 37, "starved_shift1": 64, "starved_permute1": 64,
         "starved_mean": 64}  # fmt: skip  # of the receptive field
FAR = {"resnet50": 8, "starved_resnet50": 8, "starved_identity": 8, "starved_shift1": 30, "starved_permute1": 12,
       "starved_mean": 8}  # fmt: skip  # doses up to which a row is right


def profile(side):
    """A network of two blocks whose fields are squares around the middle, with an even effective field in each."""
    rf = torch.zeros(2, SIZE, SIZE, dtype=torch.bool)
    for block, width in enumerate((side // 2, side)):
        start = (SIZE - width) // 2
        rf[block, start : start + width, start : start + width] = True
    erf = rf.float() / rf.sum((1, 2), keepdim=True)
    center = torch.full((2, 2), 31.5, dtype=torch.float64)
    return ContextProfile(["layer1.0", "layer2.0"], center, rf, erf, torch.tensor([side / 5, side / 3]).double(), [True] * 2)


def run(root, protocol, row, seed, top1, side, path):
    """One run with so many right answers; ``path``: top-1 after each epoch."""
    labels, right = np.arange(N) % 10, round(N * top1)
    predicted = np.where(np.arange(N) < right, labels, (labels + 1) % 10)
    record = {"protocol": protocol, "variant": row, "seed": seed, "top1": right / N, "top1_best": right / N, "n": N}
    record |= {"epochs": len(path), "parameters": 1000, "config": {}, "config_hash": "made up"}
    record |= {"initial": {"distance": [side / 6, side / 4], "rf_share": [0.1, 0.5]}}
    record["images"] = write_images(protocol, [f"{i:04d}" for i in range(N)], labels.tolist(), root)
    history = [[epoch, 0.1, 2.0, 2.0, value] for epoch, value in enumerate([*path[:-1], right / N])]
    files = {"history.csv": encode_csv(["epoch", "learning_rate", "train_loss", "valid_loss", "top1"], history)}
    files |= {"predictions.bin": encode_predictions(predicted), "context.npz": encode_profile(profile(side))}
    write_record(run_folder(protocol, row, seed, root), record, files, {"commit": "a" * 40})


def settings(root):
    shutil.copy(ROOT / "params.yaml", root / "params.yaml")
    return root


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Six rows at three doses with two seeds, one row with one; Pathfinder at one length."""
    root = settings(tmp_path_factory.mktemp("reach"))
    for row, side in SIDES.items():
        for dose in (8, 12, 30):
            for seed in range(1 if row == "starved_mean" else 2):
                good = dose <= FAR[row]
                path = [0.1, 0.15, 0.5, 0.9] if good else [0.1, 0.1, 0.1, 0.1]
                run(root, f"probe_d{dose}", row, seed, 0.9 + 0.01 * seed if good else 0.1, side, path)
        run(root, "pathfinder_6", row, 0, 0.8 if FAR[row] == 30 else 0.5, side, [0.5, 0.6])
    return root


# ---- what a field promises ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [9, 20, 31])
def test_a_square_field_promises_what_fits_into_it(side):
    mask = np.zeros((SIZE, SIZE), dtype=bool)
    mask[10 : 10 + side, 5 : 5 + side] = True
    for dose in reach.DOSES:
        rows, columns = np.abs(probe.offsets(dose)).T
        fit = np.maximum(side - rows, 0) * np.maximum(side - columns, 0) / SIZE**2  # by hand; too small to go around
        assert reach.pairs_seen(mask, dose) == pytest.approx(fit.min())


def test_a_field_with_holes_promises_no_direction_that_misses_them():
    mask = np.zeros((SIZE, SIZE), dtype=bool)
    mask[::2] = True  # every second line: an odd step up or down always misses it
    assert reach.pairs_seen(np.ones((SIZE, SIZE), dtype=bool), 30) == 1
    odd = [dose for dose in reach.DOSES if (probe.offsets(dose)[:, 0] % 2).any()]
    assert len(odd) > 5 and all(reach.pairs_seen(mask, dose) == 0 for dose in odd)


def test_mass_beyond_a_radius_is_what_lies_there():
    erf = np.zeros((9, 9))
    erf[4, 4], erf[4, 8], erf[0, 4] = 0.5, 0.3, 0.2
    assert [round(reach.mass_beyond(erf, (4, 4), r), 9) for r in (0, 1, 4, 4.1)] == [1, 0.5, 0.5, 0]
    assert reach.mass_beyond(2 * erf, (4, 8), 4) == pytest.approx(0.7)  # of an unscaled map too, around another place
    assert math.isnan(reach.mass_beyond(0 * erf, (4, 4), 1))


def test_the_perfect_reader_is_measured():
    for task, dose in (("probe", 4), ("probe", 30), ("pathfinder", 6)):
        assert reach.perfect(task, dose, ROOT, images=20) == 1
    images, labels = probe.make_probe(50, image_size=SIZE, distance=12, mark=3, seed=1)
    assert (probe.read_probe(images, 30) == labels).mean() < 0.9  # it can be wrong


# ---- protocols ---------------------------------------------------------------------------------------------------------


def test_tasks_are_the_protocols_of_the_settings():
    groups = load_params(ROOT / "params.yaml")["protocols"]
    for task, protocols in reach.TASKS.items():
        assert {name: dose for dose, name in protocols.items()} == {
            name: group["dose"] for name, group in groups.items() if group.get("dose") and group["dataset"] == task
        }
    rows = [row for some in reach.GROUPS.values() for row in some]
    assert sorted(rows) == sorted(load_params(ROOT / "params.yaml")["own_rows"]["probe_d4"])
    assert reach.planned("probe", ROOT) == (rows, [0, 1, 2])


# ---- numbers -----------------------------------------------------------------------------------------------------------


def test_runs_say_when_they_began_and_what_their_fields_promise(project):
    seen = reach.runs("probe", project).set_index(["row", "dose", "seed"])
    assert len(seen) == 5 * 3 * 2 + 3
    one, never = seen.loc[("starved_shift1", 30, 1)], seen.loc[("resnet50", 30, 0)]
    assert one["images"] == 3 * 3000 and math.isnan(never["images"])  # passed 20 % in the third epoch of 3,000 images
    assert one["side"] == 64 and one["promised"] == 30 and one["pairs"] == 1
    assert seen.loc[("starved_resnet50", 30, 0), "promised"] == 30  # 37 px hold 30
    assert seen.loc[("starved_resnet50", 8, 0), "mass"] == pytest.approx(1 - 52 / 37**2, abs=0.01)  # all but a disc of 4 px
    assert one["distance"] == pytest.approx((64 / 6 + 64 / 4) / 2)
    assert reach.runs("pathfinder", project)["pairs"].isna().all()


def test_new_records_are_seen_at_once(project, tmp_path):
    shutil.copytree(project, tmp_path, dirs_exist_ok=True)
    before = len(reach.runs("probe", tmp_path))
    run(tmp_path, "probe_d4", "resnet50", 0, 0.9, 64, [0.9])
    assert len(reach.runs("probe", tmp_path)) == before + 1
    run(tmp_path, "probe_d4", "resnet50", 7, 0.9, 64, [0.9])  # no planned seed
    run(tmp_path, "probe_d4", "resnet18", 0, 0.9, 64, [0.9])  # no planned row
    assert len(reach.runs("probe", tmp_path)) == before + 1


def test_cells_have_wilsons_interval_with_one_seed(project):
    table = reach.cells("probe", project).set_index(["row", "dose"])
    assert len(table) == 15 * 9 and (table["n"] == 0).sum() == 15 * 9 - 18
    one, two = table.loc[("starved_mean", 8)], table.loc[("starved_shift1", 30)]
    assert (one["low"], one["high"]) == pytest.approx([100 * end for end in wilson_interval(180, N)])
    assert one["interval_over"] == "images" and two["interval_over"] == "seeds and images"
    assert two["top1"] == pytest.approx(90.5) and two["sd"] == pytest.approx(0.5 * 2**0.5) and math.isnan(one["sd"])
    assert table.loc[("resnet50", 4), ["top1", "low", "pairs"]].isna().all()


def test_how_far_a_row_looks_is_the_largest_distance_by_its_interval(project):
    table = reach.looks(project).set_index("row")
    assert table["promised"].dropna().eq(30).all() and table["promised"].notna().sum() == 6
    assert dict(table["most"].dropna()) == {row: FAR[row] for row in FAR}
    assert table.loc["starved_shift2", ["side", "promised", "most", "distance"]].isna().all()
    text = reach.summary(project)
    assert text.startswith("- 1 of 6 rows read most images") and "starved, one offset, reach 1 (3 of 3)" in text
    assert "5 fall short of the promise" in text and "ResNet-50 (1 of 3)" in text


def test_the_story_is_the_span_of_each_kind_over_common_distances(project, tmp_path):
    assert reach.story(project) == "Not every row has been run at one distance yet."
    few = settings(tmp_path)
    rows = [row for some in reach.STORY.values() for row in some]
    for number, row in enumerate(rows):
        run(few, "probe_d8", row, 0, 0.5 + number / 100, 64, [0.9])
        run(few, "probe_d4", row, 0, 0.4, 64, [0.9])
    run(few, "probe_d30", rows[0], 0, 0.1, 64, [0.9])  # at this distance one row alone
    told = reach.story(few).splitlines()
    assert told[0].endswith("of all 3×3 convolutions: 40.0–53.0 %.")
    assert told[3] == "- ResNet-50 with its 3×3 convolutions: 40.0–60.0 %."
    assert told[-1] == (
        "Lowest and highest top-1 over distances of 4, 8 px; 10 % is chance. Seeds of each row: 1; exploratory."
    )
    planned = reach.planned("pathfinder", few)[0]
    for row in planned:
        run(few, "pathfinder_6", row, 0, 0.5, 64, [0.5])
        run(few, "pathfinder_9", row, 0, 0.9 if "shift" in row else 0.6, 64, [0.5])
    run(few, "pathfinder_14", planned[0], 0, 0.5, 64, [0.5])
    assert reach.story(few).endswith(
        " with 9 dashes: 90.0 %; 60.0 %; 60.0 %; 60.0 %; 50 % is chance, seeds of each row: 1."
    )
    assert "distance of the two marks" not in reach.accuracy_table("pathfinder", few).markdown()
    (few / reach.SHORTCUT).parent.mkdir()
    (few / reach.SHORTCUT).write_text(
        "reads,dashes,top-1 %\ndistance,6,80.5\ndistance,9,70.25\n"
        "distance and directions,6,95\ndistance and directions,9,90\n"
    )
    assert reach.story(few).endswith(
        " the distance of the two marks gives 70.2 % there, and with the directions of the dashes beside them 90.0 %."
    )
    told = reach.accuracy_table("pathfinder", few).markdown()
    assert "distance of the two marks alone is right on 80.5 % at 6 dashes, 70.2 % at 9 dashes; with" in told
    assert "next dash lies at each of them, 95.0 % at 6 dashes, 90.0 % at 9 dashes." in told
    assert "distance of the two marks" not in reach.accuracy_table("probe", few).markdown()


def test_predictors_are_correlated_over_rows(project, tmp_path):
    told = reach.predictions(project, draws=100).set_index("predictor")
    assert (told["rows"] == 6).all() and (told["runs"] == 33).all()
    before = told.loc["mean distance before training ÷ dose"]
    assert before["rho"] < -0.5 and before["low"] <= before["rho"] <= before["high"]
    assert -1 <= before["at_dose"] <= 0
    few = settings(tmp_path)
    run(few, "probe_d4", "resnet50", 0, 0.9, 64, [0.9])
    assert reach.predictions(few)[["rho", "at_dose"]].isna().all(axis=None)  # a bootstrap over one row says nothing
    assert "open" in reach.prediction_table(few).markdown()


def test_power_is_told_from_two_seeds_on(project, tmp_path):
    assert "is called in 80 % of cases if it is" in reach.power_text("probe", project)
    for task, root in (("pathfinder", project), ("probe", settings(tmp_path))):
        assert "is open" in reach.power_text(task, root)


# ---- words and figures -------------------------------------------------------------------------------------------------


def test_tables_say_what_is_there(project):
    status = reach.status("probe", project)
    assert "33 of 405 runs" in status and reach.COMMANDS["probe"] in status
    text = reach.accuracy_table("probe", project).markdown()
    assert words.ONE_SEED in text and "| 90.0<br><small>85" in text and "| 6 of 27 |" in text
    said = reach.accuracy_table("pathfinder", project).markdown()
    assert "| 1 of 9 |" in said and "after 4 passes over 40,000 images" in said
    assert "none" not in reach.look_table(project).markdown() and "| 12 |" in reach.look_table(project).markdown()


def test_the_commands_name_every_protocol():
    for task, protocols in reach.TASKS.items():
        values = reach.COMMANDS[task].split("in ")[1].split(";")[0].split()
        assert values == [str(dose) for dose in protocols] and made.COMMANDS[{"probe": "reach"}.get(task, task)]


def test_what_is_shown_is_written_and_byte_stable(project, tmp_path):
    folder = reach.write_reach(project, tmp_path)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    reach.write_reach(project, tmp_path)
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(before) == {"reach.csv", "looks.csv", "pathfinder.csv"} and before["reach.csv"].count(b"\n") == 1 + 15 * 9
    main(["report", "--protocol", "pathfinder_9", "--root", str(project)])
    assert (project / "results/reach/tables/looks.csv").read_bytes() == before["looks.csv"]


def labels(fig):
    return [text for ax in fig.axes for text in ax.get_legend_handles_labels()[1]]


def test_figures_show_what_is_there(project):
    fig = figures.show("7.2", root=project)
    assert {"chance", "perfect reader", "ResNet-50 (6/27)", "reach 1 (6/27)"} <= set(labels(fig))
    assert not any("reach 2" in text for text in labels(fig))
    assert any("(1 of 9)" in text.get_text() for text in figures.show("7.4", root=project).axes[0].get_yticklabels())
    assert len(figures.show("7.3", root=project).axes) == 2 and len(figures.show("7.1").svg()) > 10_000


def test_a_dose_beyond_the_field_is_drawn_hollow(tmp_path):
    settings(tmp_path)
    for side, dose in ((37, 30), (37, 8)):
        run(tmp_path, f"probe_d{dose}", "starved_resnet50", 0, 0.5, side, [0.5])
    run(tmp_path, "probe_d30", "starved_identity", 0, 0.5, 20, [0.5])
    axes = figures.show("7.2", root=tmp_path).axes
    hollow = [line for ax in axes for line in ax.lines if line.get_markerfacecolor() == "white" and len(line.get_xdata())]
    assert len(hollow) == 1 and list(hollow[0].get_xdata()) == [reach.DOSES.index(30)]


def test_without_any_record_or_rows_of_its_own_all_is_open(tmp_path):
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params |= {"own_rows": {}, "rows": ["resnet50", "vit_base_patch16_224"]}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    for task in reach.TASKS:
        assert "0 of " in reach.status(task, tmp_path) and reach.cells(task, tmp_path)["top1"].isna().all()
        table = reach.accuracy_table(task, tmp_path)
        assert not table.rows and table.after == f"No row has a run yet; make them with `{reach.COMMANDS[task]}`."
    assert reach.looks(tmp_path)["most"].isna().all() and reach.summary(tmp_path) == "- Open: no row has been run."
    for number in ("7.2", "7.3", "7.4"):
        (ax,) = figures.show(number, root=tmp_path).axes
        assert any("campaign --protocol" in text.get_text() for text in ax.texts)
