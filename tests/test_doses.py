"""Chapter 7: protocols with the distance as dose, and Pathfinder: what a perfect reader sees and a local one cannot."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml

from ctxnet.data import loaders, normalise, prepare_dataset, probe
from ctxnet.data.pathfinder import APART, LENGTHS, MARK, _Dice, _footprint, _scene, make_pathfinder, read_pathfinder
from ctxnet.training import load_params, load_protocol, run
from ctxnet.training.protocol import identity
from tests.toys import PLAIN

ROOT = Path(__file__).parents[1]
PARAMS = load_params(ROOT / "params.yaml")
DOSED = [name for name, group in PARAMS["protocols"].items() if group.get("dose")]


def edited(tmp_path, name, **change):
    params = load_params(ROOT / "params.yaml")
    params["probe"] |= {"train_images": 64, "valid_images": 40}
    params["pathfinder"] |= {"train_images": 64, "valid_images": 40}
    params["protocols"][name] |= change
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    return tmp_path / "params.yaml"


# ---- the dose --------------------------------------------------------------------------------------------------------


def test_doses_go_from_4_to_30_px_and_three_lengths():
    doses = {load_protocol(name, ROOT / "params.yaml").dose: name for name in DOSED if name.startswith("probe_")}
    assert min(doses) == 4 and max(doses) == 30 and all(name == f"probe_d{dose}" for dose, name in doses.items())
    first, *others = (load_protocol(name, ROOT / "params.yaml") for name in doses.values())
    for other in others:  # nothing but the dose differs, and it is part of what a run is
        assert dataclasses.replace(other, name=first.name, dose=first.dose) == first
        assert identity(other, "resnet50", 0, "") != identity(first, "resnet50", 0, "")
        assert PARAMS["own_rows"][other.name] == PARAMS["own_rows"][first.name]
    assert [load_protocol(f"pathfinder_{n}", ROOT / "params.yaml").dose for n in LENGTHS] == list(LENGTHS)


@pytest.mark.parametrize("name", ["probe_d4", "probe_d30", "pathfinder_6"])
def test_a_dose_draws_its_own_images(name, tmp_path):
    path = edited(tmp_path, name)
    settings, params = load_protocol(name, path), load_params(path)
    prepared = prepare_dataset(settings, params, tmp_path)
    images, labels = np.array(prepared.valid_images), prepared.valid_labels
    read = read_pathfinder(images) if name.startswith("pathfinder") else probe.read_probe(images, settings.dose)
    assert len(labels) == 40 and (read == labels).all()
    other = prepare_dataset(dataclasses.replace(settings, dose=LENGTHS[1] if "path" in name else 12), params, tmp_path)
    assert other.manifest_hash != prepared.manifest_hash and len({*(tmp_path / "data").glob("p*")}) == 2
    assert prepare_dataset(settings, params, tmp_path).manifest_hash == prepared.manifest_hash


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("probe_d12", {"dose": 32}, "protocols.probe_d12: dose=32: marks of 3 px .*image_size=64; nearest valid value: 31"),
        ("probe_d12", {"dose": 3}, "dose=3: .*nearest valid value: 4"),
        ("probe_d12", {"dose": 20, "image_size": 32}, "dose=20: .*image_size=32; nearest valid value: 15"),
        ("probe_d12", {"mark": 4}, "mark=4: a disc's diameter is odd"),
        ("probe_d12", {"mark": 33}, "image_size=64: too small for two marks of 33 px"),
        ("pathfinder_6", {"dose": 30}, "pathfinder_6: dose=30: paths have 6, 9 or 14 dashes; nearest valid value: 14"),
        ("pathfinder_6", {"image_size": 32}, "pathfinder needs image_size=64 or more, not 32"),
        ("pathfinder_6", {"mark": 3}, "mark=3: only the probe set has marks; nearest valid value: 0"),
        ("small", {"dose": 12}, "protocols.small.dose=12: only of the probe set and of pathfinder; nearest valid value: 0"),
    ],
)
def test_a_dose_that_cannot_be_held_is_refused_in_one_line_before_anything_is_drawn(tmp_path, name, change, message):
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["protocols"][name] |= change
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    with pytest.raises(ValueError, match=message) as error:
        load_protocol(name, tmp_path / "params.yaml")
    assert "\n" not in str(error.value) and "params.yaml" in str(error.value) and not (tmp_path / "data").exists()


def test_a_run_at_a_dose_records_it(tmp_path):
    small = PLAIN | {"dataset": "pathfinder", "dose": 6, "mark": 0, "width": 4, "epochs": 1, "decay_epochs": []}
    path = edited(tmp_path, "pathfinder_6", **small)
    record = run(load_protocol("pathfinder_6", path), "resnet18", root=tmp_path, progress=False).record
    assert record["config"]["dose"] == 6 and record["config"]["dataset"] == "pathfinder" and record["n"] == 40


# ---- Pathfinder ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn():
    return {dashes: make_pathfinder(count, dashes=dashes, seed=3) for dashes, count in ((6, 1200), (9, 300), (14, 40))}


@pytest.mark.parametrize("dashes", LENGTHS)
def test_a_flood_fill_reads_every_image(drawn, dashes):
    images, labels = drawn[dashes]
    assert (read_pathfinder(images) == labels).all() and labels.sum() * 2 == len(labels)


def test_the_same_bytes_everywhere():
    images, labels = make_pathfinder(20, dashes=9, seed=1)
    digest = hashlib.sha256(images.tobytes() + labels.astype("<i8").tobytes()).hexdigest()
    assert digest == "7f58f15f1fb8368835299c59e2fc8eec9184049ce8dd805472999b00892b2618"
    again, other = make_pathfinder(20, dashes=9, seed=1)[0], make_pathfinder(20, dashes=9, seed=2)[0]
    assert (images == again).all() and (images != other).any((1, 2, 3)).all()


@pytest.mark.parametrize("dashes", LENGTHS)
def test_paths_have_their_dashes_and_keep_apart(dashes):
    long, short = _scene(dashes, 64, _Dice(4))
    assert [len(path) for path in long] == [dashes] * 2 and {len(path) for path in short} == {max(2, dashes // 3)}
    masks = [_footprint(path, 64, ends=number < 2) for number, path in enumerate([*long, *short])]
    places = [np.argwhere(mask) for mask in masks]
    for i, one in enumerate(places):
        for other in places[:i]:
            assert np.abs(one[:, None] - other).max(2).min() >= APART


def test_every_end_is_marked_as_often_in_both_classes(drawn):
    """As many lit pixels: the scene does not depend on the class, and two ends are marked in each."""
    images, labels = drawn[6]
    lit = (images[..., 0] > 200).sum((1, 2))
    means = [lit[labels == label].mean() for label in (0, 1)]
    error = np.hypot(*(lit[labels == label].std() / np.sqrt((labels == label).sum()) for label in (0, 1)))
    assert abs(means[0] - means[1]) < 3 * error


def test_local_patches_have_the_same_statistics_in_both_classes(drawn):
    """Means of rectified random filters of 7 px over every position, class against class: t values of a standard normal."""
    images, labels = drawn[6]
    generator = torch.Generator().manual_seed(0)
    filters, bias = torch.randn(64, 3, 7, 7, generator=generator) / 7, torch.randn(64, generator=generator)
    maps = [F.conv2d(normalise(some), filters, bias).relu().mean((2, 3)) for some in np.array_split(images, 8)]
    bags = torch.cat(maps).double().numpy()
    apart, connected = bags[labels == 0], bags[labels == 1]
    error = np.sqrt(apart.var(0, ddof=1) / len(apart) + connected.var(0, ddof=1) / len(connected))
    t = (apart.mean(0) - connected.mean(0)) / error
    assert np.abs(t).max() < 4 and np.square(t).mean() < 3  # filters overlap, so the 64 values are few independent ones
    # ... and so a linear reader of such bags guesses; that of the flood fill's answer does not
    half = len(labels) // 2
    design = np.c_[bags, np.ones(len(bags))]
    penalty = 1e-3 * len(bags) * np.diag(design[:half].var(0))
    weights = np.linalg.solve(design[:half].T @ design[:half] + penalty, design[:half].T @ (2 * labels[:half] - 1))
    accuracy = ((design[half:] @ weights > 0) == labels[half:]).mean()
    assert abs(accuracy - 0.5) < 4 * 0.5 / half**0.5
    assert (read_pathfinder(images[half:]) == labels[half:]).all()


def test_ends_are_too_far_apart_for_a_small_window(drawn):
    """A window of a mark's size never shows the middles of two ends, so the argument of the docstring holds for it."""
    for seed in range(5):
        long, _ = _scene(6, 64, _Dice(seed))
        ends = [np.array(end) for path in long for end in (path[0][0], path[-1][-1])]
        apart = min(np.abs(a - b).max() for i, a in enumerate(ends) for b in ends[:i])
        assert apart > MARK


def test_pathfinder_is_neither_cropped_nor_rotated(tmp_path):
    path = edited(tmp_path, "pathfinder_6")
    prepared = prepare_dataset(load_protocol("pathfinder_6", path), load_params(path), tmp_path)
    common = {"image_size": 64, "batch_size": 8, "workers": 0, "seed": 0}
    loaders(prepared, min_crop=1.0, max_rotate=0.0, flip=True, **common)
    with pytest.raises(ValueError, match="a cut path is another label"):
        loaders(prepared, min_crop=0.5, max_rotate=0.0, flip=False, **common)


@pytest.mark.parametrize("wrong", [{"dashes": 7}, {"image_size": 32}, {"n": 0}, {"seed": -1}])
def test_wrong_arguments_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        make_pathfinder(**({"n": 10, "seed": 0} | wrong))
