"""Trained networks that come with the package: from a run to ``create_model(..., pretrained="small")``."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import ctxnet
from ctxnet.models import trained
from ctxnet.records import read_provenance, read_record, run_folder
from ctxnet.training import load_protocol, run
from ctxnet.training.keep import keep
from tests.test_campaign import project  # noqa: F401  a fixture

ROOT = Path(__file__).parents[1]


@pytest.fixture
def kept(project, monkeypatch):  # noqa: F811
    """A run at toy size, kept in a folder of its own."""
    monkeypatch.setattr(trained, "FOLDER", project / "trained")
    protocol = dataclasses.replace(load_protocol("quick", project / "params.yaml"), by_layer=True)
    run(protocol, "resnet50_perm1", "3-init4-draw5", root=project, progress=False)
    path, about = keep(protocol, "resnet50_perm1", "3-init4-draw5", root=project)
    return protocol, path, about


def test_a_kept_network_answers_like_the_run(project, kept):  # noqa: F811
    protocol, path, about = kept
    assert ctxnet.list_trained() == ["resnet50_perm1"]
    model = ctxnet.create_model("resnet50_perm1", pretrained="small")
    assert not model.training and model.trained == about
    folder = run_folder("quick", "resnet50_perm1", "3-init4-draw5", project)
    record, (weights, _) = read_record(folder), ctxnet.tensors.load_tensors(folder / "weights.safetensors")
    assert about["record"] == read_provenance(folder)["record"] and about["top1"] == record["top1"] and about["n"] == 20
    assert abs(about["top1_half"] - about["top1"]) <= 0.1 and len(about["classes"]) == 10
    whole = ctxnet.create_model("resnet50_perm1", **about["network"]).eval()
    whole.load_state_dict(weights)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model(images), whole(images), rtol=0.02, atol=0.02)
    assert path.stat().st_size < 0.6 * (folder / "weights.safetensors").stat().st_size


def test_another_classifier_starts_afresh_and_the_rest_is_trained(kept):
    own, other = (ctxnet.create_model("resnet50_perm1", pretrained="small", num_classes=n) for n in (10, 7))
    assert other.fc.out_features == 7
    same = {name for name, tensor in other.state_dict().items() if torch.equal(tensor, own.state_dict()[name])}
    assert set(own.state_dict()) - same == {"fc.weight", "fc.bias"}


def test_what_cannot_be_had_is_one_line(project, kept):  # noqa: F811
    protocol, path, _ = kept
    with pytest.raises(ValueError, match="unknown trained network 'resnet50_perm3'; did you mean 'resnet50_perm1'"):
        ctxnet.create_model("resnet50_perm3", pretrained="small")
    with pytest.raises(ValueError, match="trained as it stands at width=4; it takes no width=32"):
        ctxnet.create_model("resnet50_perm1", pretrained="small", width=32)
    with pytest.raises(ValueError, match="it takes no encoding"):
        ctxnet.create_model("resnet50_perm1", pretrained="small", encoding=True)
    with pytest.raises(FileNotFoundError, match="no finished run; python -m ctxnet train --protocol quick"):
        keep(protocol, "resnet50", 1, root=project)
    (run_folder("quick", "resnet50_perm1", "3-init4-draw5", project) / "weights.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="only the machine that trained keeps it"):
        keep(protocol, "resnet50_perm1", "3-init4-draw5", root=project)
    damaged = bytearray(path.read_bytes())
    damaged[-3] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match="resnet50_perm1.safetensors: damaged"):
        ctxnet.create_model("resnet50_perm1", pretrained="small")
    with pytest.raises(ValueError, match="protocol dense: task 'segmentation'; only those of 'classification'"):
        keep(load_protocol("dense", ROOT / "params.yaml"), "fcn32_resnet50", 0, root=project)
    with pytest.raises(ValueError, match="half precision cannot keep"):
        trained.halved({"weight": torch.tensor([1e5])})


def test_what_comes_with_the_package_is_small_and_named_after_rows():
    names, sizes = ctxnet.list_trained(), [path.stat().st_size for path in trained.FOLDER.glob("*.safetensors")]
    assert sum(sizes) <= 9 * 2**20 and set(names) <= set(ctxnet.list_models())
    for name in names:
        about = ctxnet.create_model(name, pretrained="small").trained
        assert abs(about["top1"] - about["top1_half"]) < 0.005
        folder = run_folder(about["protocol"], name, about["seed"], ROOT)
        assert read_provenance(folder)["record"] == about["record"] and read_record(folder)["top1"] == about["top1"]


def test_keep_on_the_command_line(project):  # noqa: F811
    words = [sys.executable, "-m", "ctxnet", "keep", "--protocol", "quick", "--variant", "resnet50", "--root", str(project),
             "--params", str(project / "params.yaml")]  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "no finished run" in done.stderr
