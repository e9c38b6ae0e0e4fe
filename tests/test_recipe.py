"""The recipe of `small` and `context`: rates per step, decay of weights alone, smoothing, seeds, held-out images."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from ctxnet.data import load_prepared, loaders, prepare_dataset
from ctxnet.data.held_out import hold_out
from ctxnet.records.maps import read_profile
from ctxnet.training import load_params, load_protocol, read_record, run
from ctxnet.training.learner import build_learner, fit_epoch
from ctxnet.training.protocol import identity
from ctxnet.training.run import network, require_device
from ctxnet.training.schedule import learning_rate
from ctxnet.training.seeds import Seeds, distinct, parse_seeds
from tests.toys import PLAIN, WITH_BF16

ROOT = Path(__file__).parents[1]
RECIPE = {
    "schedule": "linear", "warmup_epochs": 0.3, "epochs": 2, "nesterov": True, "decay_weights_only": True,
    "label_smoothing": 0.1, "learning_rate": 0.05, "weight_decay": 0.01,
}  # fmt: skip


@pytest.fixture
def project(tmp_path):
    params = load_params(ROOT / "params.yaml")
    params["probe"] |= {"train_images": 96, "valid_images": 50, "distance": 12}
    params["protocols"]["quick"] = PLAIN | {"image_size": 32, "width": 4, "profile_images": 2, "decay_epochs": []}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    return tmp_path


def toy(project, **changes):
    return dataclasses.replace(load_protocol("quick", project / "params.yaml"), **{**RECIPE, **changes})


def learner_of(project, protocol, variant="resnet18", cbs=()):
    prepared = prepare_dataset(protocol, load_params(project / "params.yaml"), project)
    dls = loaders(prepared, image_size=32, batch_size=32, min_crop=1.0, max_rotate=0.0, flip=False, workers=0, seed=0)
    return build_learner(network(protocol, variant, parse_seeds(0), num_classes=10), dls, protocol, cbs=cbs)


def test_linear_schedule_rises_and_falls_to_zero():
    protocol = dataclasses.replace(
        load_protocol("small", ROOT / "params.yaml"), schedule="linear", warmup_epochs=2.4, epochs=16, learning_rate=0.2
    )
    rates = [learning_rate(protocol, epoch) for epoch in np.linspace(0, 16, 161)]
    assert rates[0] == 0 and max(rates) == pytest.approx(0.2) and np.argmax(rates) == 24 and rates[-1] == 0
    assert np.allclose(np.diff(rates[:25]), 0.2 / 24) and np.allclose(np.diff(rates[24:]), -0.2 / 136)


def test_rate_changes_with_every_step(project):
    from fastai.callback.core import Callback

    class Rates(Callback):
        def before_fit(self):
            self.seen = []

        def after_step(self):
            self.seen.append(self.learn.opt.opt.param_groups[0]["lr"])

    protocol = toy(project)
    learner = learner_of(project, protocol, cbs=[Rates()])
    for epoch in range(2):
        fit_epoch(learner, epoch, learning_rate(protocol, epoch))
        assert np.allclose(learner.rates.seen, [learning_rate(protocol, epoch + (step + 0.5) / 3) for step in range(3)])


def test_decay_leaves_biases_and_normalisation_alone(project):
    learner = learner_of(project, toy(project))
    weights, others = learner.opt.opt.param_groups
    assert {p.ndim for p in weights["params"]} == {2, 4} and {p.ndim for p in others["params"]} == {1}
    assert (weights["weight_decay"], others["weight_decay"]) == (0.01, 0.0) and weights["nesterov"]
    count = sum(p.numel() for group in (weights, others) for p in group["params"])
    assert count == sum(p.numel() for p in learner.model.parameters())
    fit_epoch(learner, 0, 0.01)
    assert [g["weight_decay"] for g in learner.opt.opt.param_groups] == [0.01, 0.0]


def test_smoothing_is_for_training_alone(project):
    learner = learner_of(project, toy(project, learning_rate=1e-30))
    keeper = fit_epoch(learner, 0, 1e-30)
    with torch.no_grad():
        learner.model.eval()
        losses = [torch.nn.functional.cross_entropy(learner.model(x), y, reduction="sum") for x, y in learner.dls.valid]
    assert keeper.valid_loss == pytest.approx(float(sum(losses)) / 50, rel=1e-5)
    assert learner.loss_func.label_smoothing == 0.1


@pytest.mark.parametrize(
    ("given", "seeds"),
    [
        (7, Seeds(7, 7, 7, 7)),
        ("7", Seeds(7, 7, 7, 7)),
        ("7-init3", Seeds(7, 3, 7, 7)),
        ("7-init3-draw4-data5", Seeds(7, 3, 4, 5)),
    ],
)
def test_seeds_can_be_crossed(given, seeds):
    assert parse_seeds(given) == seeds and parse_seeds(seeds.label) == seeds


@pytest.mark.parametrize("given", [-1, True, 1.5, "", "x", "7-draw", "7-draw3-init2", "../7", "7-init7", "07", 2**63])
def test_other_seeds_are_refused_in_one_line(given):
    with pytest.raises(ValueError, match="seed") as error:
        parse_seeds(given)
    assert "\n" not in str(error.value)


def test_seeds_that_collide_are_refused():
    assert [s.draw for s in distinct([1, "2-draw1"], "here")] == [1, 1]
    with pytest.raises(ValueError, match="here: seed 3 is there twice"):
        distinct([3, "3"], "here")


def test_a_record_states_the_seeds_that_differ(project):
    config = identity(toy(project), "resnet18", 3, "")
    assert config["seed"] == 3 and "draw_seed" not in config
    config = identity(toy(project), "resnet18", "3-draw4", "")
    assert (config["seed"], config["draw_seed"]) == (3, 4) and "init_seed" not in config


def test_held_out_images_stand_in_for_the_validation_set(project):
    whole = prepare_dataset(toy(project), load_params(project / "params.yaml"), project)
    held = hold_out(whole, 0.2)
    assert sorted([*held.train_ids, *held.valid_ids]) == sorted(whole.train_ids)
    assert np.bincount(held.valid_labels).tolist() == [2] * 10 and held.manifest_hash != whole.manifest_hash
    place = {name: i for i, name in enumerate(whole.train_ids)}
    for split in ("train", "valid"):
        rows = [place[name] for name in getattr(held, f"{split}_ids")]
        assert (getattr(held, f"{split}_images") == whole.train_images[rows]).all()
        assert (getattr(held, f"{split}_labels") == whole.train_labels[rows]).all()
    assert hold_out(whole, 0.2).valid_ids == held.valid_ids


def test_an_empty_held_out_split_is_refused(project):
    whole = prepare_dataset(toy(project), load_params(project / "params.yaml"), project)
    with pytest.raises(ValueError, match="held_out=0.01: class '0 degrees' has .* 0 would be held out; nearest valid value"):
        hold_out(whole, 0.01)


def test_a_run_on_held_out_images_never_opens_the_validation_set(project):
    result = run(toy(project, held_out=0.2, epochs=1), "resnet18", root=project, progress=False)
    assert result.record["n"] == 20 and "held out" in result.record["config"]["data"]
    assert load_prepared(project / "data" / "probe-32").manifest_hash != result.record["config"]["data"]


def test_a_processor_without_bfloat16_refuses_before_training(project, monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    with pytest.raises(RuntimeError, match="no bfloat16 arithmetic; nearest valid value: precision: float32"):
        run(toy(project, precision="bf16"), "resnet18", root=project)
    require_device(toy(project))


@WITH_BF16
def test_a_paused_run_in_bfloat16_ends_like_one_that_was_not(project):
    protocol = toy(project, precision="bf16", by_layer=True, zero_init=True, epochs=3)
    straight = run(dataclasses.replace(protocol, name="straight"), "resnet18", "2-draw1", root=project, progress=False)
    paused = dataclasses.replace(protocol, name="paused")
    statuses = []
    while not statuses or statuses[-1] == "paused":
        statuses.append(run(paused, "resnet18", "2-draw1", root=project, progress=False, max_minutes=1e-6).status)
    assert statuses == ["paused", "paused", "finished"]
    again = read_record(project / "results" / "paused" / "runs" / "resnet18" / "seed2-draw1")
    assert {k: v for k, v in again.items() if k not in ("protocol", "provenance")} == {
        k: v for k, v in straight.record.items() if k not in ("protocol", "provenance")
    }


def test_a_record_says_how_far_the_fresh_network_looked(project):
    protocol = toy(project, epochs=1, initial_profile=True, by_layer=True, zero_init=True, image_size=32)
    record = run(protocol, "resnet18", "2-draw1", root=project, progress=False).record
    distances, shares = record["initial"]["distance"], record["initial"]["rf_share"]
    assert len(distances) == len(shares) == 8 and all(0 < d < 32 for d in distances) and shares[0] < 1 == shares[-1]


def test_a_run_may_keep_the_maps_of_stage_ends_alone(project):
    """The maps kept are those of the full profile, and no number is lost; to keep fewer makes no other run of it."""
    paths = {}
    for maps in ("blocks", "stages"):
        settings = {"epochs": 1, "by_layer": True, "image_size": 32, "maps": maps}
        finished = run(toy(project, name=maps, **settings), "resnet50", 0, root=project, progress=False)
        paths[maps] = finished.folder / "context.npz"
    (whole, all_numbers), (kept, numbers) = (read_profile(path) for path in paths.values())
    ends = [2, 6, 12, 15]  # of 3, 4, 6 and 3 blocks
    assert kept.layers == [whole.layers[i] for i in ends] and whole.summed is not None and kept.summed is None
    for name in ("rf", "erf", "center", "distance"):
        assert torch.equal(getattr(kept, name), getattr(whole, name)[ends])
    assert numbers.pop("mean_distance") == whole.distance.tolist() and numbers == all_numbers
    assert paths["stages"].stat().st_size < 0.5 * paths["blocks"].stat().st_size
    again = run(toy(project, name="blocks", **settings), "resnet50", 0, root=project, progress=False)
    assert again.status == "finished" and read_profile(paths["blocks"])[0].layers == whole.layers  # reused, not made anew


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"warmup_epochs": 0.5}, "warmup_epochs=0.5: whole epochs under schedule 'step'"),
        ({"warmup_epochs": 9, "schedule": "linear"}, "warmup_epochs=9 leaves nothing of 2 epochs"),
        ({"nesterov": True, "momentum": 0.0}, "nesterov=true: only with optimizer 'sgd' and a momentum"),
        ({"held_out": 1.0}, "held_out=1.0 must lie in"),
        ({"label_smoothing": -0.1}, "label_smoothing=-0.1 must lie in"),
        ({"schedule": "lienar"}, "did you mean 'linear'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(project, changes, message):
    params = load_params(project / "params.yaml")
    params["protocols"]["quick"] |= {"epochs": 2, **changes}
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    with pytest.raises(ValueError, match=message):
        load_protocol("quick", project / "params.yaml")
