"""Training a network that gives every pixel a class: the same runs, records and keys as for classification."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from ctxnet.data import camvid
from ctxnet.records import (
    DamagedRecord,
    class_iou,
    encode_counts,
    frame_counts,
    read_counts,
    read_history,
    read_record,
    run_folder,
    scores,
    write_frames,
    write_record,
)
from ctxnet.training import load_params, load_protocol, plan, rows_of, run
from ctxnet.training.campaign import outcome
from ctxnet.training.task import TASKS
from ctxnet.training.trace import run_trace
from tests.test_dense_data import make

ROOT = Path(__file__).parents[1]
ROW = "fcn32_resnet18"


@pytest.fixture
def project(tmp_path):
    """A folder with toy settings: 3 epochs of 6 frames of 32 × 48 px, 3 classes."""
    params = load_params(ROOT / "params.yaml")
    params["protocols"]["dense"] |= {
        "dataset": "frames", "image_size": 32, "width": 4, "epochs": 3, "batch_size": 3, "warmup_epochs": 0.5,
        "profile_images": 2, "validate_every": 3, "precision": "float32",
    }  # fmt: skip
    params["own_rows"]["dense"] = [ROW]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    make(tmp_path / "frames", frames=6, size=(48, 32))
    return tmp_path


def toy(project, **changes):
    return dataclasses.replace(load_protocol("dense", project / "params.yaml"), **changes)


def test_scores_of_a_case_by_hand():
    labels = np.array([[[0, 0, 1, 1], [1, 1, 255, 255]]])
    called = np.array([[[0, 1, 1, 1], [1, 0, 0, 1]]])
    counts = frame_counts(called, labels, 3)
    assert counts.tolist() == [[[1, 3, 0]], [[2, 4, 0]], [[2, 4, 0]]]
    assert np.allclose(class_iou(counts)[:2], [1 / 3, 3 / 5]) and np.isnan(class_iou(counts)[2])
    found = scores(counts)
    assert found["mean_iou"] == pytest.approx((1 / 3 + 3 / 5) / 2) and found["pixel_accuracy"] == pytest.approx(4 / 6)
    assert found["iou"][2] is None


def test_void_is_neither_learned_nor_judged():
    task, logits = TASKS["segmentation"], torch.randn(2, 3, 4, 5, requires_grad=True)
    labels = torch.randint(0, 3, (2, 4, 5))
    labels[:, :2] = camvid.VOID
    task.loss(0.0)(logits, labels).backward()
    assert not logits.grad[:, :, :2].any() and logits.grad[:, :, 2:].any()
    only = torch.nn.functional.cross_entropy(logits[:, :, 2:], labels[:, 2:])
    assert task.judge(logits, labels).item() == pytest.approx(only.item(), rel=1e-5)
    counts = frame_counts(logits.argmax(1).numpy(), labels.numpy(), 3)
    assert counts[2].sum() == 2 * 2 * 5


def test_a_run_leaves_a_small_record(project):
    protocol = toy(project)
    result = run(protocol, ROW, root=project, progress=False)
    record, folder = result.record, result.folder
    assert record == read_record(folder) and record["config"]["task"] == "segmentation" and record["n"] == 6
    names, counts = read_counts(folder)
    assert names[0] == "test/drive_test0" and counts.shape == (3, 6, 3)  # judged by the test frames
    assert scores(counts) == {key: record[key] for key in ("mean_iou", "iou", "pixel_accuracy")}
    history = read_history(folder)
    assert history["mean_iou"][-1] == record["mean_iou"] and np.isnan(history["mean_iou"][:2]).all()
    assert sum(path.stat().st_size for path in folder.iterdir() if path.suffix not in (".safetensors", "")) < 20_000
    assert outcome(record).startswith(f"{ROW} seed 0: mean IoU ")
    assert run(protocol, ROW, root=project, progress=False).record == record  # made once
    assert plan(protocol, root=project)[0].minutes == 0


@pytest.mark.parametrize("path", ["runs/{row}/seed0/counts.bin", "images/*.csv"])
def test_damaged_counts_are_refused_by_name(project, path):
    folder = run(toy(project), ROW, root=project, progress=False).folder
    (file,) = (project / "results" / "dense").glob(path.format(row=ROW))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(DamagedRecord, match=file.name) as caught:
        read_counts(folder)
    assert "\n" not in str(caught.value)


def test_a_run_that_was_stopped_ends_with_the_same_bits(project):
    whole = run(toy(project), ROW, root=project, results=project / "whole", progress=False)
    stopped = run(toy(project), ROW, root=project, results=project / "parts", progress=False, max_minutes=1e-9)
    assert stopped.status == "paused"
    while stopped.status == "paused":
        stopped = run(toy(project), ROW, root=project, results=project / "parts", progress=False, max_minutes=1e-9)
    assert stopped.record == whole.record


def test_other_frames_are_another_run(project):
    first = run(toy(project), ROW, root=project, progress=False).record
    make(project / "frames", frames=7, size=(48, 32))
    again = run(toy(project), ROW, root=project, progress=False).record
    assert first["config"]["data"] != again["config"]["data"]
    assert list((project / "results" / "dense" / "superseded").iterdir())


GOLDEN = json.loads(Path(__file__).with_name("golden_traces_dense.json").read_text())


@pytest.mark.parametrize("row", GOLDEN)
def test_golden_trace(row):
    """One row of each head: a refactoring that keeps these losses keeps the records, whose key holds all of the trace."""
    assert run_trace(load_protocol("dense", ROOT / "params.yaml"), row)["losses"] == pytest.approx(GOLDEN[row], rel=1e-5)


@pytest.mark.parametrize("row", GOLDEN)
def test_a_trace_knows_the_code(row):
    protocol = load_protocol("dense", ROOT / "params.yaml")
    found = run_trace(protocol, row)
    assert set(found) == {"rates", "augmented", "parameters", "losses", "distances", "reach"}
    assert np.isfinite(found["losses"]).all()
    other = run_trace(dataclasses.replace(protocol, min_crop=0.5), row)
    assert other["augmented"] != found["augmented"] and other["losses"] == found["losses"]


def test_the_protocol_of_the_repository():
    params = load_params(ROOT / "params.yaml")
    protocol, full = (load_protocol(name, ROOT / "params.yaml") for name in ("dense", "dense_full"))
    rows = rows_of(protocol, params)
    assert protocol.judged == "test" and protocol.seeds == [0, 1, 2] and full.device == "cuda" and len(rows) == 23
    for each in (protocol, full):  # the test frames are looked at once, at the end
        assert [epoch for epoch in range(each.epochs) if each.validates(epoch)] == [each.epochs - 1]
    for name in params["protocols"]:
        if name.startswith("dense_search"):
            other = load_protocol(name, ROOT / "params.yaml")
            assert other.judged == "val" and not set(other.seeds) & set(protocol.seeds)


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"max_rotate": 5.0}, "dense.max_rotate=5.0: not of task 'segmentation'; nearest valid value: 0"),
        ({"held_out": 0.2}, "dense.held_out=0.2: not of task 'segmentation'"),
        ({"task": "segmentatoin"}, "did you mean 'segmentation'"),
        ({"judged": "testing"}, "did you mean 'test'"),
    ],
)
def test_wrong_settings_are_told(project, changed, message):
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["protocols"]["dense"] |= changed
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    with pytest.raises(ValueError, match=message):
        load_protocol("dense", project / "params.yaml")


def test_a_wrong_row_is_told(project):
    with pytest.raises(ValueError, match="unknown variant 'fcn_resnet18'; did you mean 'fcn32_resnet18'"):
        run(toy(project), "fcn_resnet18", root=project)


def test_counts_survive_writing(tmp_path):
    counts = np.random.default_rng(0).integers(0, 2**31, (3, 5, 4))
    names = [f"test/drive_{number}" for number in range(5)]
    record = {"images": write_frames("dense", names, counts, tmp_path), "iou": [0.5] * 4}
    folder = run_folder("dense", ROW, 0, tmp_path)
    write_record(folder, record, {"counts.bin": encode_counts(counts)}, {})
    found, again = read_counts(folder)
    assert found == names and np.array_equal(again, counts)


class Reader(torch.nn.Module):
    """Class 1 where the mean of red over ``reach`` px around is above zero, else class 0: what it needs to see is known."""

    def __init__(self, reach):
        super().__init__()
        self.mean = torch.nn.Conv2d(3, 2, 2 * reach + 1, padding=reach, bias=False)
        with torch.no_grad():
            self.mean.weight.zero_()
            self.mean.weight[1, 0], self.mean.weight[0, 1] = 1 / (2 * reach + 1) ** 2, -1 / (2 * reach + 1) ** 2

    def forward(self, x):
        return self.mean(x)


def test_what_a_pixel_needs_is_measured(tmp_path):
    from ctxnet.training.seen import class_distances, doses, only_around, some_pixels

    image = torch.arange(2 * 5 * 6.0).view(2, 5, 6) + 1
    shown = only_around(image, 0, 3, 3)
    assert torch.equal(shown[:, :2, 2:5], image[:, :2, 2:5]) and (shown != 0).sum() == 2 * 2 * 3
    masks = np.zeros((3, 40, 40), np.uint8)
    masks[:, 20:] = 1
    masks[2] = 0
    assert [frame for frame, *_ in some_pixels(masks, 1)] == [0, 1] and some_pixels(masks, 2) == []
    pixels = np.zeros((3, 40, 40, 3), np.uint8)
    pixels[masks == 1] = 255
    frames = camvid.prepare(make(tmp_path / "f"), 16, own=True)
    prepared = dataclasses.replace(frames, classes=["dark", "bright"], valid_images=pixels, valid_labels=masks)
    near, far = Reader(1).eval(), Reader(9).eval()
    sides, right, counts = doses(near, prepared, sides=(3, 9))
    assert sides == [3, 9, 0] and counts == [3, 2] and right[1] == [1.0, 1.0, 1.0]
    distances = [class_distances(model, prepared) for model in (near, far)]
    assert distances[0][1] == pytest.approx((4 + 4 * 2**0.5) / 9, rel=1e-3) and distances[1][1] > 5
    assert distances[0][1] == pytest.approx(distances[0][0], rel=1e-3)
