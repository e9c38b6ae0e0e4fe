"""One run by several processes: the losses, the files and the end of one that is trained by a single process."""

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from ctxnet.records import read_history, read_provenance, read_record
from ctxnet.training import load_params, load_protocol, run, run_on_devices
from ctxnet.training.group import SharedBatchNorm2d
from tests.toys import PLAIN

ROOT = Path(__file__).parents[1]
VARIANT = "resnet18"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Three epochs of six batches, at a rate so low that rounding, which differs by processor, is not amplified: at 0.02 the
    losses part by up to 2e-3, at 0.005 by 3e-7, and halved batches by 1e-2 and more."""
    root = tmp_path_factory.mktemp("project")
    params = load_params(ROOT / "params.yaml")
    params["probe"] |= {"train_images": 96, "valid_images": 21, "distance": 12}
    params["protocols"]["quick"] = PLAIN | {
        "image_size": 32, "width": 4, "epochs": 3, "batch_size": 16, "decay_epochs": [2], "profile_images": 1,
        "train_top1": True, "learning_rate": 0.005,
    }  # fmt: skip
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    return root


def quick(project, **changes):
    return dataclasses.replace(load_protocol("quick", project / "params.yaml"), **changes)


@pytest.fixture(scope="module")
def alone(project):
    """The history of one process."""
    return read_history(run(quick(project, name="alone"), VARIANT, root=project, progress=False).folder)


def close(one, other):
    columns = ("train_loss", "valid_loss", "learning_rate")
    return all(one[key] == pytest.approx(other[key], rel=1e-3, abs=1e-4) for key in columns)


def test_two_processes_have_the_losses_of_one(project, alone):
    result = run_on_devices(2, quick(project), VARIANT, root=project, progress=False)
    history = read_history(result.folder)
    assert close(history, alone), (history, alone)
    assert max(abs(a - b) for a, b in zip(history["top1"], alone["top1"], strict=True)) <= 1 / 21 + 1e-9
    assert result.record == read_record(result.folder) and result.record["n"] == 21
    assert read_provenance(result.folder)["devices"] == 2
    before = (result.folder / "record.json").stat().st_mtime_ns
    assert run_on_devices(2, quick(project), VARIANT, root=project, progress=False) == result  # as it lies there
    assert run(quick(project), VARIANT, root=project, progress=False) == result  # one process takes it as its own
    assert (result.folder / "record.json").stat().st_mtime_ns == before


def test_the_tolerance_can_tell_half_batches_from_whole_ones(project, alone):
    halves = run(quick(project, name="halves", batch_size=8), VARIANT, root=project, progress=False)
    assert not close(read_history(halves.folder), alone)


@pytest.mark.torture
def test_two_processes_stop_in_time_and_go_on(project, alone):
    protocol = quick(project, name="paused")
    result = run_on_devices(2, protocol, VARIANT, root=project, progress=False, max_minutes=1e-9)
    assert result.status == "paused" and (result.folder / "checkpoint.safetensors").exists()
    result = run_on_devices(2, protocol, VARIANT, root=project, progress=False)
    assert result.status == "finished" and close(read_history(result.folder), alone)
    assert not (result.folder / "checkpoint.safetensors").exists()


def test_what_goes_wrong_in_a_process_is_one_line_here(project):
    with pytest.raises(RuntimeError, match="lower learning_rate=1e") as error:
        run_on_devices(2, quick(project, name="failing", learning_rate=1e30), VARIANT, root=project, progress=False)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="devices=3: batch_size=16 cannot be split evenly; nearest valid value: devices=2"):
        run_on_devices(3, quick(project), VARIANT, root=project)


@pytest.mark.torture
def test_torchrun_starts_it_as_well(project, alone):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "ctxnet",
               "train", "--protocol", "quick", "--variant", VARIANT, "--seed", "0", "--quiet", "--root", project, "--params",
               project / "params.yaml"]  # fmt: skip
    folder = project / "results/quick/runs" / VARIANT / "seed0"
    shutil.rmtree(folder, ignore_errors=True)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("resnet18 seed 0: top-1") == 1 and close(read_history(folder), alone)


def test_shared_normalisation_is_that_of_the_whole_batch():
    """Forward, backward and running statistics, with one process as the whole group."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        plain, shared = nn.BatchNorm2d(5), SharedBatchNorm2d(5)
        with torch.no_grad():
            for norm in (plain, shared):
                norm.weight.copy_(torch.arange(1.0, 6.0))
                norm.bias.copy_(torch.arange(5.0))
        x = 3 + 2 * torch.randn(8, 5, 4, 4)
        wave = torch.arange(x.numel()).sin().view(x.shape)
        found = []
        for norm in (plain, shared):
            mine = x.clone().requires_grad_()
            y = norm(mine)
            (y * wave).sum().backward()
            found.append([y, mine.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var])
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
        assert torch.equal(plain.eval()(x), plain.eval()(x)) and int(shared.num_batches_tracked) == 1
    finally:
        torch.distributed.destroy_process_group()
