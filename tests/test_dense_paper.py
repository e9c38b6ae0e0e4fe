"""Chapter 9's numbers: blocks of time, contrasts, tables and figures, from records made by hand."""

import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from ctxnet.data.camvid import CLASSES
from ctxnet.paper import dense, figures
from ctxnet.paper.contrasts import contrast
from ctxnet.paper.figures import dense as drawings
from ctxnet.records import encode_counts, run_folder, scores, write_frames, write_record

ROOT = Path(__file__).parents[1]
NAMES = [f"test/{drive}_{number:04d}" for drive, count in (("0001TP", 31), ("Seq05VD", 62)) for number in range(count)]
GAIN = {"fcn32_resnet50": 0.30, "fcn32_resnet50_perm1": 0.45, "fcn32_resnet50_identity": 0.30, "deeplabv3_resnet50": 0.50}


def counts(share, rng):
    """Frames whose classes are right in ``share`` of the pixels, which varies slowly along each drive."""
    are = np.full((len(NAMES), len(CLASSES)), 1000)
    local = share + 0.05 * np.sin(np.arange(len(NAMES)) / 9)[:, None] + 0.005 * rng.standard_normal(are.shape)
    right = (1000 * local).round().astype(int)
    return np.stack([right, are, are])


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    root = tmp_path_factory.mktemp("dense")
    for name in ("params.yaml", "hypotheses.yaml"):
        shutil.copy(ROOT / name, root / name)
    rng = np.random.default_rng(0)
    for row, share in GAIN.items():
        for seed in range(1 if row == "fcn32_resnet50_identity" else 3):
            found = counts(share + 0.004 * rng.standard_normal(), rng)
            digest = write_frames("dense", NAMES, found, root)
            sides = [15, 95, 0]
            dose = {"side": sides, "pixels": [8] * 11, **{name: [0.1, share, share] for name in CLASSES}}
            record = {"protocol": "dense", "variant": row, "seed": seed, "n": len(NAMES), "parameters": 1_000_000}
            record |= scores(found) | {"images": digest, "config": {"task": "segmentation"}}
            record |= {"dose": dose, "class_distance": [20.0] * 11}
            folder, files = run_folder("dense", row, seed, root), {"counts.bin": encode_counts(found)}
            write_record(folder, record, files, {"training_seconds": 60.0})
    return root


def test_blocks_stay_within_a_drive_and_in_order():
    found = dense.blocks(NAMES)
    assert [len(drive) for drive in found] == [2, 4] and sum(len(block) for drive in found for block in drive) == len(NAMES)
    for drive, name in zip(found, ("0001TP", "Seq05VD"), strict=True):
        for block in drive:
            assert {NAMES[i].split("/")[1].split("_")[0] for i in block} == {name} and (np.diff(block) == 1).all()
    weights = dense.drawn_blocks(NAMES, 50)
    assert (weights[:, :31].sum(1) > 0).all() and (weights[:, 31:].sum(1) > 0).all()  # every draw has both drives
    assert (weights[:, found[1][0]] == weights[:, found[1][0][:1]]).all()  # a block is drawn as a whole


def test_blocks_are_less_sure_than_frames(project):
    """Frames that resemble their neighbours say less than as many independent ones."""
    frame = dense.runs(project)
    frame = frame[frame["row"] == "fcn32_resnet50"]
    over_blocks = dense.resampled(frame)["fcn32_resnet50"][:, 0].var()
    rng, single = np.random.default_rng(0), []
    for _ in range(300):
        weights = np.bincount(rng.integers(0, len(NAMES), len(NAMES)), minlength=len(NAMES))
        single.append(np.mean([100 * dense._scores(np.einsum("f,pfc->pc", weights, c))[0] for c in frame["counts"]]))
    assert over_blocks > 2 * np.var(single)


def test_what_frames_add_widens_an_interval():
    (one,) = [h for h in dense.hypotheses(ROOT) if h.name == "permutation_helps_every_pixel"]
    values = {"fcn32_resnet50_perm1": [33.0, 34, 35], "fcn32_resnet50": [30.0, 31, 32]}
    alone, together = contrast(one, values), contrast(one, values, (4.0, 16))
    assert together.error**2 == pytest.approx(alone.error**2 + 4) and together.high - together.low > alone.high - alone.low


def test_contrasts_are_open_until_every_seed_is_there(project):
    found = dense.contrasts(project).set_index("contrast")
    assert len(found) == 8 and found.loc["permutation_helps_every_pixel", "verdict"] == "shown"
    assert found.loc["permutation_helps_every_pixel", "estimate"] > 5
    assert found.loc["by_context_and_not_by_width", "verdict"] == "open: fcn32_resnet50_identity has 1 of 3 replicates"
    assert math.isnan(found.loc["by_context_and_not_by_width", "estimate"])
    assert found.loc["half_the_gap_to_deeplab", "verdict"] == "shown"


def test_a_difference_is_judged_on_the_same_blocks(project):
    frame, tested = dense.runs(project), dense.contrasts(project).set_index("contrast")
    draws = dense.resampled(frame)
    every = dense.differences("fcn32_resnet50_perm1", "fcn32_resnet50", frame, draws)
    found = tuple(every[0])
    assert every.shape == (12, 3) and every[1:, 0].mean() == pytest.approx(found[0])
    assert found == pytest.approx(tuple(tested.loc["permutation_helps_every_pixel", ["estimate", "low", "high"]]))
    rows = dense.rows(project).set_index("row")
    assert tuple(rows.loc["fcn32_resnet50_perm1", ["difference", "difference_low", "difference_high"]]) == found
    assert rows.loc["fcn32_resnet50", ["difference", "difference_low"]].isna().all()
    halves = (rows["high"] - rows["low"]).loc[["fcn32_resnet50_perm1", "fcn32_resnet50"]] / 2
    assert found[2] - found[1] < halves.sum()  # what the blocks do to both alike is not counted
    single = dense.differences("fcn32_resnet50_identity", "fcn32_resnet50", frame, draws)[0]
    assert abs(single[0]) < 3 and math.isnan(single[1]) and math.isnan(single[2])


def test_a_head_that_does_not_lie_above_is_named(project, monkeypatch):
    assert dense.gaps(project).count("DeepLabv3 +") == 1 and "no gap" not in dense.gaps(project)
    assert dense.story(project).endswith(f"{dense.gaps(project)} {dense.answer(project)}")
    level, plain = dense.runs(project), dense.runs(project).query("row == 'fcn32_resnet50'")
    for column in ("mean_iou", "counts"):
        level.loc[level["row"] == "deeplabv3_resnet50", column] = plain[column].to_numpy()
    monkeypatch.setattr(dense, "runs", lambda root: level)
    assert dense.gaps(project).endswith("there may be no gap to close: DeepLabv3.")


def test_rows_and_classes(project):
    rows = dense.rows(project).set_index("row")
    assert len(rows) == 23 and rows.loc["unet_resnet50", "n"] == 0 and math.isnan(rows.loc["unet_resnet50", "mean_iou"])
    plain, single = rows.loc["fcn32_resnet50"], rows.loc["fcn32_resnet50_identity"]
    assert plain["low"] < plain["mean_iou"] < plain["high"] and plain["interval_over"] == "seeds and frames"
    assert single["interval_over"] == "frames" and plain["minutes"] == 1
    assert dense.label("fcn32_resnet50_perm1") == "FCN-32s, 1 permutation" and dense.label("hrnetv2_hrnet_w18") == "HRNetV2"
    assert list(dense.classes(project)["row"]) == [row for row in rows.index if row in GAIN]


def test_what_a_permutation_changes_by_head_and_class(project):
    found = dense.effects(project)
    assert list(found["class"]) == ["all", *CLASSES] and set(found["row"]) == {"fcn32_resnet50_perm1"}  # of the pairs
    assert (found["low"] > 5).all() and (found["high"] < 25).all() and set(found["n"]) == {3}
    said = r".*: one permutation changes the mean IoU of 1 networks by \+1\d\.\d to .* points; its whole interval lies "
    assert re.fullmatch(said + r"above zero for FCN-32s, below zero for none\.", dense.answer(project))
    (line,) = dense.effect_table(project).rows
    assert line[0] == "FCN-32s" and all(cell.startswith("+") and cell.endswith("∗") for cell in line[3:])


def test_tables_say_what_is_not_there(project, tmp_path):
    status = dense.status(project)
    assert status.startswith("Protocol `dense`: 10 of 69 runs are there") and dense.COMMAND in status
    assert "**open**: `fcn32_resnet50_identity` has 1 of 3" in dense.contrast_table(project).markdown()
    assert "†" in dense.row_table(project).markdown()
    assert dense.search_table(project).markdown().count("not run") == 6
    assert len(dense.class_table(project).rows) == 4
    assert sorted(path.name for path in dense.write_dense(project, tmp_path).iterdir()) == [
        "dense_classes.csv", "dense_contrasts.csv", "dense_dose.csv", "dense_effects.csv", "dense_rows.csv",
    ]  # fmt: skip


def test_without_any_run_all_is_open(tmp_path):
    for name in ("params.yaml", "hypotheses.yaml"):
        shutil.copy(ROOT / name, tmp_path / name)
    assert dense.contrasts(tmp_path)["verdict"].str.startswith("open").all()
    assert dense.rows(tmp_path)["mean_iou"].isna().all() and dense.dose(tmp_path).empty and dense.classes(tmp_path).empty
    for number in ("9.1", "9.2"):
        figures.show(number, root=tmp_path)
    assert dense.gaps(tmp_path) == dense.answer(tmp_path) == "" and dense.story(tmp_path).startswith("None of them")


def test_figures(project):
    for number in ("9.1", "9.2"):
        assert len(figures.show(number, root=project).svg()) > 10_000
    masks = np.array([[[0, 3], [255, 10]]])
    fig = drawings.predictions(np.zeros((1, 2, 2, 3), np.uint8), masks, {"FCN-32s": masks})
    assert len(fig.axes) == 3 and drawings.coloured(masks[0])[1, 0].tolist() == [0, 0, 0]
