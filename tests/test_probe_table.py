"""The table of the probe set: rows by accuracy, each with its interval, and one sentence read from the records."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import yaml

from ctxnet.paper import probe
from ctxnet.paper.statistics import wilson_interval
from ctxnet.pipeline import stages
from ctxnet.training import load_params, load_protocol, plan, read_record, run
from tests.toys import PLAIN

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Two toy rows trained by the stage, side by side."""
    root = tmp_path_factory.mktemp("probe")
    params = load_params(ROOT / "params.yaml")
    params["probe"] |= {"train_images": 64, "valid_images": 40, "distance": 12}
    small = {"image_size": 32, "width": 4, "epochs": 1, "decay_epochs": [], "profile_images": 2}
    params["protocols"]["quick"], params["own_rows"]["quick"] = PLAIN | small, ["resnet18", "plain20", "resnet50"]
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    stages.train("quick", root)
    return root


def test_the_stage_trains_every_row_and_then_nothing_again(project):
    folder = project / "results/quick/runs"
    assert {path.name for path in folder.iterdir()} == {"resnet18", "plain20", "resnet50"}
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("record.json")}
    jobs = plan(load_protocol("quick", project / "params.yaml"), root=project)
    assert len(before) == 3 and all(job.minutes == 0 for job in jobs)
    stages.train("quick", project)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("record.json")} == before


def test_a_row_trained_beside_another_is_the_row_trained_alone(project, tmp_path):
    shutil.copy(project / "params.yaml", tmp_path)
    alone = run(load_protocol("quick", tmp_path / "params.yaml"), "plain20", root=tmp_path, progress=False).record
    assert alone["top1"] == read_record(project / "results/quick/runs/plain20/seed0")["top1"]


def test_runs_that_fail_are_named_after_the_others_are_made(project, tmp_path):
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["own_rows"]["quick"] = ["resnet50_random_dilated16", "plain20"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    with pytest.raises(RuntimeError, match="1 runs failed: resnet50_random_dilated16 seed 0"):
        stages.train("quick", tmp_path)
    assert (tmp_path / "results/quick/runs/plain20/seed0/record.json").exists()


def test_the_table_has_every_row_with_wilsons_interval(project):
    lines = probe.accuracies("quick", project)
    assert [line["top1"] for line in lines] == sorted((line["top1"] for line in lines), reverse=True) and len(lines) == 3
    for line in lines:
        assert (line["low"], line["high"]) == pytest.approx(wilson_interval(round(line["top1"] * 40), 40))
    probe.write_probe("quick", project)
    text = (project / "results/quick/tables/probe.md").read_text()
    assert text.count("| `") == 3 and "12 px far" in text and "guessing is right in 10 %" in text
    assert "One seed: the interval covers" in text and probe.reading(lines, 12) in text
    assert len((project / "results/quick/tables/probe.csv").read_text().splitlines()) == 4


def line(name, top1, n=1000):
    low, high = wilson_interval(round(top1 * n), n)
    return {"variant": name, "architecture": name, "top1": top1, "low": low, "high": high, "seeds": 1, "n": n}


def test_the_sentence_is_read_from_the_intervals():
    text = probe.reading([line("A", 0.99), line("B", 0.54), line("C", 0.52), line("D", 0.2), line("E", 0.11)], 12)
    assert text == (
        "By their intervals, 2 rows look 12 px far in most images (interval above 50 %): A (99 %), B (54 %); "
        "2 rows do so in some, above guessing (10 %) but not above 50 %: C (52 %), D (20 %); "
        "1 row is not told from guessing: E (11 %)."
    )
    assert "1 row looks 12 px far in most images (interval above 50 %): A (99 %)." in probe.reading([line("A", 0.99)], 12)
    assert "nothing to read" in probe.reading([], 12)


def test_other_protocols_have_no_such_table(project):
    assert not probe.is_probe("small", ROOT)
    probe.write_probe("small", project)
    assert not (project / "results/small").exists()


def test_the_dose_of_a_protocol_is_its_distance(project):
    assert probe.distance("quick", project) == 12 and probe.distance("probe_d20", ROOT) == 20
    assert dataclasses.asdict(load_protocol("quick", ROOT / "params.yaml"))["dose"] == 0
