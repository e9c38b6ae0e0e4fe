"""Loss surfaces, and the two regularisations that appendix C trains: what is recorded, and what is said of it."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from rewriting import rewrite
from test_report import fabricate
from torch.nn import functional

import ctxnet
from ctxnet.paper import few
from ctxnet.paper.figures import surface as shown
from ctxnet.paper.results import BadRecord, MissingRecord
from ctxnet.training import load_params, load_protocol, measure_surface
from ctxnet.training import surface as surfaces

ROOT = Path(__file__).parents[1]


def test_directions_have_the_filters_norms_and_the_weights_come_back():
    model = ctxnet.create_model("resnet20", width=4).eval()
    images, labels = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.arange(8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = surfaces.surface(model, images, labels, side=3, reach=0.5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [(a, b) for a, b, _ in found] == [(a, b) for a in (-0.5, 0.0, 0.5) for b in (-0.5, 0.0, 0.5)]
    with torch.no_grad():
        assert found[4][2] == pytest.approx(functional.cross_entropy(model(images), labels).item())
    weight = torch.randn(6, 3, 3, 3, generator=torch.Generator().manual_seed(1))
    noise = surfaces._like(weight, torch.Generator().manual_seed(2))
    assert torch.allclose(noise.flatten(1).norm(dim=1), weight.flatten(1).norm(dim=1)) and not torch.allclose(noise, weight)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    root, patch = tmp_path_factory.mktemp("surface"), pytest.MonkeyPatch()
    params = load_params(ROOT / "params.yaml")
    params["probe"] |= {"train_images": 96, "valid_images": 20}
    params["protocols"]["surface"] |= {"width": 4, "epochs": 1, "validate_every": 1, "profile_images": 1}
    params["protocols"]["surface"] |= {"warmup_epochs": 0.2}
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    with patch.context() as small:
        small.setattr(surfaces, "SIDE", 3)
        small.setattr(surfaces, "IMAGES", 16)
        measure_surface("plain20", root=root, progress=False)
        seals = {path.name: path.read_bytes() for path in (root / "results/surface/maps/plain20").iterdir()}
        measure_surface("plain20", root=root, progress=False)
    assert {path.name: path.read_bytes() for path in (root / "results/surface/maps/plain20").iterdir()} == seals
    return root


def test_a_surface_is_recorded_once_and_read_again(recorded):
    record, steps, losses = shown.load_surface("plain20", recorded)
    assert steps.tolist() == [-1, 0, 1] and losses[1, 1] == record["loss"] and 0 <= record["train_accuracy"] <= 1
    assert not (recorded / "results/surface/runs").exists()  # the run itself is no result
    with pytest.raises(MissingRecord, match="measure --surface --variant resnet56"):
        shown.load_surface("resnet56", recorded)
    text = shown.table(recorded).markdown()
    assert "| plain-20 |" in text and "`python -m ctxnet measure --surface --variant resnet56`" in text
    assert "measure --surface" in str(shown.surfaces(recorded).axes[0].texts[-1].get_text())


def test_a_surface_with_a_hole_is_refused(recorded, tmp_path):
    shutil.copytree(recorded / "results", tmp_path / "results")
    folder = tmp_path / "results/surface/maps/plain20"
    lines = (folder / "surface.csv").read_text().splitlines()
    rewrite(folder, files={"surface.csv": ("\n".join(lines[:-1]) + "\n").encode()})
    with pytest.raises(BadRecord, match="needs 3 × 3 finite losses"):
        shown.load_surface("plain20", tmp_path)


def test_pits_are_counted():
    bowl = np.hypot(*np.mgrid[-3:4, -3:4])
    assert shown.pits(bowl) == 1 and shown.better(np.full((3, 3), 2.0)) == 1 and shown.better(np.full((3, 3), 2.4)) == 0
    bowl[1, 1] = -1
    assert shown.pits(bowl) == 2


# ---- stochastic depth


def test_a_branch_is_dropped_by_its_depth_and_only_in_training():
    model = ctxnet.create_model("resnet20", width=16, drop_path=0.5)
    plain = ctxnet.create_model("resnet20", width=16)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))
    blocks = [*model.layer1, *model.layer2, *model.layer3]
    assert [block.drop_path for block in blocks] == pytest.approx([0.5 * number / 9 for number in range(1, 10)])
    block, x = blocks[-1], torch.randn(400, 16, 8, 8, generator=torch.Generator().manual_seed(0)).relu()
    block.bn2.bias.data.fill_(1.0)
    torch.manual_seed(0)
    with torch.no_grad():
        dropped = (block.train()(x) == x).flatten(1).all(1).double().mean()
        assert abs(dropped - 0.5) < 4 * (0.25 / 400) ** 0.5  # four standard errors
        assert torch.equal(block.eval()(x), block(x)) and not (block(x) == x).flatten(1).all(1).any()


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("plain20", 0.5, "needs residual branches; nearest valid value: 0"),
        ("resnet20", 1.0, "must lie in 0 … 1 without 1; nearest valid value: 0.99"),
        ("resnet50", 0.5, "takes no drop_path; use a ResNet for 32×32 pixels"),
        ("convnext_tiny", 0.5, "takes no drop_path"),
    ],
)
def test_stochastic_depth_is_refused_where_there_is_none(name, value, says):
    with pytest.raises(ValueError, match=says):
        ctxnet.create_model(name, drop_path=value)


def test_a_protocol_sets_it():
    assert load_protocol("few_depth", ROOT / "params.yaml").drop_path == 0.5
    assert load_protocol("few", ROOT / "params.yaml").drop_path == 0


# ---- the comparison


def test_nothing_is_tested_before_all_seeds_are_there(tmp_path):
    planned = load_protocol("few", ROOT / "params.yaml").seeds
    for protocol, chance in (("few", 0.5), ("few_smoothed", 0.9)):
        fabricate(tmp_path, [few.ROW], protocol, seeds=planned, measured=False, accuracy={few.ROW: chance})
    fabricate(tmp_path, [few.ROW], "few_depth", seeds=planned[:-1], measured=False, accuracy={few.ROW: 0.9})
    neither, smoothed, depth = few.table(tmp_path).rows
    assert neither[4:] == ["", ""] and smoothed[1] == str(len(planned))
    assert smoothed[4].startswith("+") and smoothed[5] == "< 0.001"
    assert depth[1] == str(len(planned) - 1) and depth[4:] == ["", ""]
