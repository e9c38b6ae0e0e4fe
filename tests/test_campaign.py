"""Campaigns: order, time box, failures, and what they may not need."""

import dataclasses
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from ctxnet.locking import one_writer
from ctxnet.training import campaign, load_params, load_protocol, plan, run, seeds_of
from tests.toys import PLAIN

ROOT = Path(__file__).parents[1]
DONE = SimpleNamespace(status="finished", record=None)
FEW = ["resnet50", "resnet50_perm1", "resnet50_dilated4"]


@pytest.fixture
def project(tmp_path):
    """Three rows at toy size."""
    params = load_params(ROOT / "params.yaml")
    params["probe"] |= {"train_images": 64, "valid_images": 20, "distance": 12}
    params["own_rows"]["quick"], params["more_seeds"] = list(FEW), {"quick": {"resnet50_perm1": [1]}}
    params["campaign"] = {"order": ["resnet50_dilated4", "resnet50"], "assumed_minutes": {"quick": 2.0}}
    params["protocols"]["quick"] = PLAIN | {
        "image_size": 32, "width": 4, "epochs": 2, "decay_epochs": [1], "profile_images": 2, "seeds": [0, 2],
    }  # fmt: skip
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    return tmp_path


def quick(project, **changes):
    return dataclasses.replace(load_protocol("quick", project / "params.yaml"), **changes)


def test_seed_0_of_every_row_comes_first_in_the_given_order(project):
    jobs = plan(quick(project), root=project)
    assert [(job.variant, job.seed) for job in jobs] == [
        ("resnet50_dilated4", 0), ("resnet50", 0), ("resnet50_perm1", 0),
        ("resnet50_perm1", 1),
        ("resnet50_dilated4", 2), ("resnet50", 2), ("resnet50_perm1", 2),
    ]  # fmt: skip
    assert all((job.epochs, job.of, job.minutes, job.basis) == (0, 2, 2.0, "assumed") for job in jobs)
    only = plan(quick(project), root=project, rows=["resnet50"], seeds=[3])
    assert [(job.variant, job.seed) for job in only] == [("resnet50", 3)]
    assert seeds_of(quick(project), "resnet50_perm1", load_params(project / "params.yaml")) == [0, 2, 1]
    with pytest.raises(ValueError, match="unknown row 'resnet50_prem1'; did you mean 'resnet50_perm1'"):
        plan(quick(project), root=project, rows=["resnet50_prem1"])


@pytest.mark.parametrize("threads", [3, 0])
def test_runs_get_the_threads_that_their_protocol_asks_for(project, monkeypatch, threads):
    before, found = torch.get_num_threads(), []
    module = sys.modules["ctxnet.training.campaign"]  # its name in the package is the function's
    monkeypatch.setattr(module, "run", lambda *args, **words: found.append(torch.get_num_threads()) or DONE)
    monkeypatch.setattr(module, "outcome", str)
    assert campaign(quick(project, threads=threads, seeds=[0]), root=project, progress=False) == (4, {})
    assert found == [threads or before] * 4 and torch.get_num_threads() == before


def test_a_campaign_stops_in_time_and_goes_on(project, capsys):
    protocol = quick(project, seeds=[0])
    # Two assumed minutes for two epochs: half a minute is no time for one.
    assert campaign(protocol, root=project, max_minutes=0.5, progress=False) == (0, {})
    assert "not enough for an epoch of resnet50_dilated4" in capsys.readouterr().out
    run(protocol, "resnet50_dilated4", root=project, progress=False, max_minutes=1e-9)
    first = plan(protocol, root=project)[0]
    assert (first.variant, first.epochs, first.minutes) == ("resnet50_dilated4", 1, 1.0)
    assert campaign(protocol, root=project, rows=FEW[::2], progress=False) == (2, {})
    jobs = {(job.variant, job.seed): job for job in plan(protocol, root=project)}
    assert jobs["resnet50", 0].minutes == 0 and jobs["resnet50_dilated4", 0].epochs == 2
    assert jobs["resnet50_perm1", 0].basis == "assumed"
    assert campaign(protocol, root=project, progress=False) == (2, {})  # perm1, seeds 0 and 1
    assert all(job.minutes == 0 for job in plan(protocol, root=project))
    assert plan(protocol, root=project, seeds=[5])[0].basis == "measured"
    assert campaign(protocol, root=project, progress=False) == (0, {})


def test_a_failing_row_does_not_stop_the_others(project):
    protocol = quick(project, seeds=[0], learning_rate=1e30)
    finished, failed = campaign(protocol, root=project, rows=FEW[:2], seeds=[0], progress=False)
    assert finished == 0 and set(failed) == {("resnet50", 0), ("resnet50_perm1", 0)}
    assert all("lower learning_rate" in message for message in failed.values())


def test_a_run_that_another_process_works_on_is_left_to_it(project, capsys):
    protocol = quick(project, seeds=[0])
    with one_writer(project / "results" / "quick" / "runs" / "resnet50" / "seed0"):
        assert campaign(protocol, root=project, rows=FEW[::2], progress=False) == (1, {})
    assert "resnet50_dilated4 seed 0: top-1" in capsys.readouterr().out
    assert [job.variant for job in plan(protocol, root=project, rows=FEW[::2]) if job.minutes != 0] == ["resnet50"]


def test_a_record_of_other_settings_is_no_finished_run(project):
    protocol = quick(project, seeds=[0], epochs=1, decay_epochs=[])
    assert campaign(protocol, root=project, rows=["resnet50"], progress=False) == (1, {})
    assert plan(protocol, root=project, rows=["resnet50"])[0].minutes == 0
    changed = dataclasses.replace(protocol, momentum=0.8)
    assert plan(changed, root=project, rows=["resnet50"])[0].minutes > 0
    assert campaign(changed, root=project, rows=["resnet50"], progress=False) == (1, {})


def test_the_command_line_prints_the_plan(project):
    command = [sys.executable, "-m", "ctxnet", "campaign", "--protocol", "quick", "--dry-run"]
    done = subprocess.run([*command, "--root", project, "--params", project / "params.yaml"],
                          cwd=ROOT, capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].split() == ["resnet50_dilated4", "0", "0/2", "2.0", "assumed"]
    assert done.stdout.splitlines()[-1] == "7 of 7 runs to do, 14 minutes" and not (project / "results").exists()


def test_a_campaign_needs_no_papermill_and_no_dvc():
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['papermill', 'dvc', 'nbformat', 'nbconvert', 'ipywidgets']));"
        "import ctxnet.training, ctxnet.training.learner, ctxnet.__main__; print('well')"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout == "well\n"
