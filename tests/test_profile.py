"""Context profiles: the three measures together, and their file."""

import pytest
import torch
from torch import nn

import ctxnet
from ctxnet.measure import (
    ContextProfile,
    calibrate,
    context_profile,
    effective_receptive_field,
    mean_distance,
    profile_lattice,
    receptive_field,
    summed_erf,
)

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model():
    return ctxnet.create_model("resnet18", width=8, input_size=64)


@pytest.fixture(scope="module")
def profile(model):
    return context_profile(model, IMAGES, summed=True)


def test_agrees_with_the_single_measures(model, profile):
    assert profile.layers == [f"layer{stage}.{block}" for stage in range(1, 5) for block in range(2)]
    assert profile.rf.shape == profile.erf.shape == (8, 64, 64)
    assert profile.center.tolist() == [[32, 32]] * 8 and profile.exact == [True] * 8
    for index in (0, 5):
        layer = profile.layers[index]
        assert torch.equal(profile.rf[index], receptive_field(model, layer, 64))
        erf = effective_receptive_field(model, IMAGES, layer)
        torch.testing.assert_close(profile.erf[index], erf)
        assert profile.distance[index] == pytest.approx(mean_distance(erf, (32, 32)), rel=1e-5)
    torch.testing.assert_close(profile.summed, summed_erf(model, IMAGES))
    assert profile.summed.sum() == pytest.approx(1)


def test_batches_and_positions(model, profile):
    split = context_profile(model, IMAGES, ["layer1.1", "layer2.0"], batch_size=1)
    torch.testing.assert_close(split.erf, profile.erf[1:3])
    corner = context_profile(model, IMAGES, ["layer4.1"], position=(0, 1))
    assert corner.center.tolist() == [[0, 32]] and corner.summed is None
    with pytest.raises(ValueError, match="outside the 2×2 map"):
        context_profile(model, IMAGES, ["layer1.0", "layer4.1"], position=(3, 3))


def test_a_lattice_is_one_profile_per_place(model, profile):
    found = dict(profile_lattice(model, IMAGES, 3, ["layer1.1", "layer4.1"]))
    assert list(found) == [(i, j) for i in range(3) for j in range(3)]
    near, far = (profile.layers.index(layer) for layer in ("layer1.1", "layer4.1"))
    torch.testing.assert_close(found[1, 1].erf[0], profile.erf[near])  # the middle of 16 positions in thirds: 8
    for (i, j), one in found.items():
        row, col = ((2 * k + 1) * 16 // 6 for k in (i, j))
        alone = context_profile(model, IMAGES, ["layer1.1"], position=(row, col))
        assert torch.equal(one.rf[0], alone.rf[0]) and one.center[0].tolist() == [4 * row, 4 * col]
        torch.testing.assert_close(one.erf[0], alone.erf[0])
    assert found[1, 1].center[1].tolist() == profile.center[far].tolist() == [32, 32]  # a 2×2 map: its position (1, 1)
    with pytest.raises(ValueError, match="n=0 must be at least 1"):
        next(profile_lattice(model, IMAGES, 0))


def test_file_is_the_same_every_time_and_keeps_the_measures(profile, tmp_path):
    for name in ("a.npz", "b.npz"):
        profile.save(tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npz", "b.npz"]
    loaded = ContextProfile.load(tmp_path / "a.npz")
    assert loaded.layers == profile.layers and loaded.exact == profile.exact
    assert torch.equal(loaded.rf, profile.rf) and torch.equal(loaded.distance, profile.distance)
    assert torch.equal(loaded.center, profile.center)
    assert loaded.erf.dtype == torch.float32
    for stored, measured in ((loaded.erf, profile.erf), (loaded.summed, profile.summed)):
        peak = float(measured.max())
        torch.testing.assert_close(stored, measured, rtol=0.1, atol=1e-4 * peak)
        strong = measured > 0.5 * peak
        torch.testing.assert_close(stored[strong], measured[strong], rtol=0.012, atol=0)
    torch.testing.assert_close(loaded.erf.sum((1, 2)), torch.ones(8))
    for index in range(8):
        again = mean_distance(loaded.erf[index], loaded.center[index].tolist())
        assert again == pytest.approx(float(profile.distance[index]), rel=1e-3)


def test_a_layer_without_gradient_warns_and_stays_empty(tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1))
    nn.init.zeros_(net[1].weight)
    with pytest.warns(UserWarning, match="layer '1'.*left empty"):
        profile = context_profile(net, IMAGES)
    assert profile.distance.isnan().tolist() == [False, True] and not profile.erf[1].any()
    assert profile.rf[1].sum() == 25
    profile.save(tmp_path / "c.npz")
    assert not ContextProfile.load(tmp_path / "c.npz").erf[1].any()


def test_nothing_to_measure_is_said():
    with pytest.raises(ValueError, match="Identity has no layer to measure"):
        context_profile(nn.Identity(), IMAGES)


def test_calibration_takes_the_statistics_of_the_images_and_draws_nothing():
    torch.manual_seed(0)
    net = [nn.Conv2d(3, 4, 3), nn.Dropout(0.5), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)]
    net = nn.Sequential(*net)
    for seed in (1, 2):
        torch.manual_seed(seed)
        calibrate(net, IMAGES)
        first = net[0](IMAGES)
        torch.testing.assert_close(net[2].running_mean, first.mean((0, 2, 3)))
        torch.testing.assert_close(net[2].running_var, first.var((0, 2, 3), unbiased=True))
        out = net(IMAGES)
        assert not net.training and out.mean().abs() < 1e-3 and abs(out.var() - 1) < 1e-2 and net[2].momentum == 0.1
        value = torch.randn(1)
        torch.manual_seed(seed)
        assert torch.equal(value, torch.randn(1))  # no random number was used
