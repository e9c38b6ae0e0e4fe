"""A run that is stopped, killed, interrupted or started twice ends as if nothing had happened, bit by bit."""

import dataclasses
import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from ctxnet.records import read_provenance
from ctxnet.tensors import load_tensors
from ctxnet.training import load_params, load_protocol, read_record, run
from ctxnet.training.checkpoint import Checkpoints
from ctxnet.training.learner import fit_epoch
from tests.toys import PLAIN

ROOT = Path(__file__).parents[1]
VARIANT = "resnet18"
FILES = {"context.npz", "history.csv", "predictions.bin", "provenance.json", "record.json", "weights.safetensors", ".lock"}
# New processes that need not import the libraries again.
FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(["ctxnet.training.learner", "ctxnet.data", "torch._dynamo", "PIL.Image"])


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Settings for 3 epochs of 6 batches of augmented 32 px images in two classes."""
    root = tmp_path_factory.mktemp("project")
    noise = np.random.default_rng(0)
    for split, count in (("train", 25), ("val", 9)):
        for label in ("bright", "dark"):
            (root / "pictures" / split / label).mkdir(parents=True)
            for i in range(count):
                pixels = noise.integers(0, 128, (32, 32, 3)) + 100 * (label == "bright")
                Image.fromarray(pixels.astype(np.uint8)).save(root / "pictures" / split / label / f"{i:02d}.png")
    params = load_params(ROOT / "params.yaml")
    params["protocols"]["quick"] = PLAIN | {
        "dataset": "pictures", "image_size": 32, "width": 4, "batch_size": 8, "epochs": 3, "decay_epochs": [2],
        "max_rotate": 10.0, "min_crop": 0.5, "flip": True, "profile_images": 2, "drop_rate": 0.2,
    }  # fmt: skip
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    return root


def settings(project, name, **changes):
    return dataclasses.replace(load_protocol("quick", project / "params.yaml"), name=name, **changes)


def _work(protocol, project, options, callbacks):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background of a shell inherits "ignore"
    torch.set_num_threads(1)
    run(protocol, VARIANT, root=project, progress=False, cbs=callbacks, **options)


def start(protocol, project, callbacks=(), **options):
    process = FORK.Process(target=_work, args=(protocol, project, options, callbacks))
    process.start()
    return process


def folder(project, name):
    return project / "results" / name / "runs" / VARIANT / "seed0"


def contents(project, name):
    """Everything a run leaves that must not depend on when and how it was made."""
    place = folder(project, name)
    assert {path.name for path in place.iterdir()} == FILES
    weights, state = load_tensors(place / "weights.safetensors")
    record = read_record(place)
    del record["protocol"]
    files = {file: (place / file).read_bytes() for file in ("history.csv", "predictions.bin", "context.npz")}
    return {key: tensor.numpy().tobytes() for key, tensor in weights.items()}, state["history"], record, files


@pytest.mark.parametrize(
    ("optimizer", "workers"), [("adamw", 0), ("ranger", 0), pytest.param("sgd", 2, marks=pytest.mark.torture)]
)
def test_stopped_and_resumed_equals_straight(project, optimizer, workers):
    changes = {"optimizer": optimizer, "workers": workers, "learning_rate": 0.01, "epochs": 2, "decay_epochs": [1]}
    straight, resumed = f"straight-{optimizer}-{workers}", f"resumed-{optimizer}-{workers}"
    start(settings(project, straight, **changes), project).join()
    # No time for an epoch: a process must still make progress, one epoch at least.
    start(settings(project, resumed, **changes), project, max_minutes=1e-9).join()
    assert (folder(project, resumed) / "checkpoint.safetensors").exists()
    start(settings(project, resumed, **changes), project).join()
    assert contents(project, resumed) == contents(project, straight)


def test_the_time_of_a_resumed_run_is_that_of_its_pieces(project):
    """Waiting between the pieces is no time of the run, and nothing counts twice."""
    protocol, begun, waited = settings(project, "timed", epochs=2, decay_epochs=[1]), time.perf_counter(), 0.0
    start(protocol, project, max_minutes=1e-9).join()
    _, state = load_tensors(folder(project, "timed") / "checkpoint.safetensors")
    time.sleep(waited := time.perf_counter() - begun)
    again = time.perf_counter()
    start(protocol, project).join()
    about = read_provenance(folder(project, "timed"))
    assert state["seconds"] < about["training_seconds"] + 0.1 <= about["wall_seconds"] + 0.2
    assert 0 < state["wall_seconds"] < about["wall_seconds"] < state["wall_seconds"] + time.perf_counter() - again
    assert about["wall_seconds"] < time.perf_counter() - begun - waited
    assert len(about["load"]) == 4  # at start and end of both pieces


@pytest.fixture(scope="module")
def undisturbed(project):
    start(settings(project, "undisturbed"), project).join()
    return contents(project, "undisturbed")


@pytest.mark.parametrize("kills", [4, pytest.param(100, marks=pytest.mark.torture)])
def test_killed_at_random_and_started_again_equals_undisturbed(project, undisturbed, kills):
    chance, protocol = random.Random(kills), settings(project, f"killed-{kills}")
    while kills:
        process = start(protocol, project)
        process.join(chance.random() * 2)
        if process.is_alive():
            process.kill()
            process.join()
            kills -= 1
        if process.exitcode == 0:  # it came to its end before the kill: begin anew
            assert contents(project, protocol.name) == undisturbed
            for path in folder(project, protocol.name).iterdir():
                path.unlink()
    start(protocol, project).join()
    assert contents(project, protocol.name) == undisturbed


def test_ctrl_c_in_an_epoch_loses_that_epoch_only(project, undisturbed):
    protocol = settings(project, "interrupted")
    process = start(protocol, project)
    checkpoint = folder(project, "interrupted") / "checkpoint.safetensors"
    while not checkpoint.exists():
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGINT)
    process.join()
    assert process.exitcode != 0
    assert {path.name for path in checkpoint.parent.iterdir()} <= {"checkpoint.safetensors", ".lock"}
    assert len(load_tensors(checkpoint)[1]["history"]) in (1, 2)
    start(protocol, project).join()
    assert contents(project, "interrupted") == undisturbed


def test_checkpoints_take_a_small_share_of_the_time(monkeypatch):
    clock, written = [0.0], []

    def save(path, learner, state):
        clock[0] += 3
        written.append(state)

    monkeypatch.setattr("ctxnet.training.checkpoint.save_checkpoint", save)
    monkeypatch.setattr("ctxnet.training.checkpoint.time.perf_counter", lambda: clock[0])
    checkpoints = Checkpoints("anywhere", learner=None)
    for epoch in range(100):
        clock[0] += 2
        checkpoints.after_epoch(epoch)
    assert written == [0, 30, 60, 90]  # 3 s each, every 60 s
    checkpoints.write()
    checkpoints.write()
    assert written == [0, 30, 60, 90, 99]


def test_a_run_paused_between_checkpoints_loses_no_epoch(project, undisturbed, monkeypatch):
    """After the first, no checkpoint is written but that of the pause."""
    monkeypatch.setattr("ctxnet.training.checkpoint.SHARE", 1e-9)
    protocol, epochs, clock, late = settings(project, "paused"), [], time.perf_counter, [0]

    def the_second_epoch_takes_an_hour(learner, epoch, rate, *, validate=True):
        epochs.append(epoch)
        late[0] += 3600 * (epoch == 1)
        return fit_epoch(learner, epoch, rate, validate=validate)

    monkeypatch.setattr("ctxnet.training.learner.fit_epoch", the_second_epoch_takes_an_hour)
    monkeypatch.setattr(time, "perf_counter", lambda: clock() + late[0])
    assert run(protocol, VARIANT, root=project, progress=False, max_minutes=30).status == "paused"
    assert epochs == [0, 1]
    assert run(protocol, VARIANT, root=project, progress=False).status == "finished"
    assert epochs == [0, 1, 2] and contents(project, "paused") == undisturbed


def test_a_run_killed_before_its_record_is_not_trained_again(project, undisturbed, monkeypatch):
    protocol = settings(project, "measured-late")

    def interrupted(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(sys.modules[run.__module__], "trained_profile", interrupted)
        run(protocol, VARIANT, root=project, progress=False)
    left = {path.name for path in folder(project, "measured-late").iterdir()}
    assert left == {"weights.safetensors", ".lock"}
    # as a kill between the writing of the weights and the removal of the checkpoint leaves it
    (folder(project, "measured-late") / "checkpoint.safetensors").write_bytes(b"any")
    monkeypatch.setattr("ctxnet.training.learner.fit_epoch", lambda *args, **kwargs: pytest.fail("trained again"))
    run(protocol, VARIANT, root=project, progress=False)
    assert contents(project, "measured-late") == undisturbed


def _hold_on():
    from fastai.callback.core import Callback

    class HoldOn(Callback):
        def before_epoch(self):
            while not Path("go on").exists():
                time.sleep(0.01)

    return HoldOn()


def _work_slowly(protocol, project):
    os.chdir(project)
    _work(protocol, project, {}, [_hold_on()])


def test_two_processes_on_one_run_have_one_writer(project, undisturbed):
    protocol = settings(project, "twice")
    first = FORK.Process(target=_work_slowly, args=(protocol, project))
    first.start()
    while not (folder(project, "twice") / ".lock").exists():
        time.sleep(0.01)
    time.sleep(0.1)
    with pytest.raises(RuntimeError, match="another process is writing this run"):
        run(protocol, VARIANT, root=project, progress=False)
    first.kill()
    first.join()
    start(protocol, project).join()  # at once: the lock died with its holder
    assert contents(project, "twice") == undisturbed


@pytest.mark.parametrize("finished", [False, True])
def test_a_changed_setting_sets_the_old_run_aside_untouched(project, finished, capsys):
    name = f"changed-{finished}"
    protocol = settings(project, name)
    run(protocol, VARIANT, root=project, progress=False, max_minutes=None if finished else 1e-9)
    kept = "record.json" if finished else "checkpoint.safetensors"
    before = (folder(project, name) / kept).read_bytes()
    run(dataclasses.replace(protocol, momentum=0.8, flip=False), VARIANT, root=project, progress=False)
    said = capsys.readouterr().out
    assert "flip True → False; momentum 0.9 → 0.8" in said
    (aside,) = (project / "results" / name / "superseded").iterdir()
    assert (aside / kept).read_bytes() == before and str(aside) in said
    assert read_record(folder(project, name))["config"]["momentum"] == 0.8


def test_settings_that_came_later_leave_older_records_valid(project):
    """A record made before a setting existed was made with that setting's default."""
    from ctxnet.training.protocol import identity

    protocol = settings(project, "any", drop_rate=0.0)
    later = {"optimizer", "schedule", "warmup_epochs", "drop_rate"}
    assert not later & set(identity(protocol, VARIANT, 0, "data"))
    assert later & set(identity(dataclasses.replace(protocol, optimizer="adamw"), VARIANT, 0, "data")) == {"optimizer"}


def _poison(when):
    from fastai.callback.core import Callback

    class Poison(Callback):
        order = 55  # after the loss is known, before it is booked

        def after_loss(self):
            if self.learn.training == (when == "training"):
                self.learn.loss_grad = self.learn.loss_grad * float("nan")
                self.learn.loss = self.learn.loss_grad.clone()

    return Poison()


@pytest.mark.parametrize("when", ["training", "validation"])
def test_a_loss_that_is_no_number_stops_the_run_without_a_record(project, when):
    with pytest.raises(FloatingPointError, match=f"{when} loss is nan in epoch 0; nothing is recorded") as caught:
        run(settings(project, f"nan-{when}"), VARIANT, root=project, progress=False, cbs=[_poison(when)])
    assert "\n" not in str(caught.value)
    assert {path.name for path in folder(project, f"nan-{when}").iterdir()} == {".lock"}


def test_one_image_left_over_after_the_last_batch(project):
    protocol = settings(project, "left-over", batch_size=7, epochs=1, decay_epochs=[])  # 50 = 7·7 + 1; 18 = 2·7 + 4
    assert run(protocol, VARIANT, root=project, progress=False).record["n"] == 18
    protocol = settings(project, "left-over-valid", batch_size=17, epochs=1, decay_epochs=[])  # 18 = 17 + 1
    assert run(protocol, VARIANT, root=project, progress=False).record["n"] == 18
    with pytest.raises(ValueError, match=r"batch_size=1: must be 2…50 .*nearest valid value: 2"):
        run(settings(project, "alone", batch_size=1), VARIANT, root=project, progress=False)
