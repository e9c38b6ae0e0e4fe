"""One run: train, keep checkpoints, measure the trained network, write the record."""

import dataclasses
import math
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from .. import provenance
from ..data import prepare_dataset
from ..data.held_out import hold_out
from ..files import remove_partials, renew, stable_hash
from ..locking import one_writer
from ..measure import calibrate, context_profile
from ..models import count_parameters
from ..models.variants import VARIANTS
from ..naming import require_known
from ..records import (
    changes,
    encode_csv,
    read_record,
    run_folder,
    set_aside,
    write_record,
)
from ..tensors import load_tensors, save_tensors
from .checkpoint import Checkpoints, load_checkpoint
from .clock import Clock, deadline
from .context import encode_run, profile_images, trained_profile
from .group import ALONE
from .protocol import identity, load_params
from .schedule import learning_rate, reseed
from .seeds import parse_seeds
from .task import TASKS

HISTORY = ("epoch", "learning_rate", "train_loss", "valid_loss")  # and the score of the task


@dataclass(frozen=True)
class RunResult:
    """Outcome of :func:`run`: ``status`` is "finished" or "paused"; ``record`` is None while paused."""

    status: str
    folder: Path
    record: dict | None


def require_device(protocol):
    """Raise ``RuntimeError`` if the protocol's device is missing here, or cannot compute in the protocol's precision."""
    if protocol.device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(
            f"protocol {protocol.name} is sized for a GPU and none is here; nearest valid value: --device cpu, if you can"
            " wait"
        )
    if protocol.device == "cpu" and protocol.precision == "bf16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        raise RuntimeError(
            f"protocol {protocol.name}: this processor has no bfloat16 arithmetic; nearest valid value: precision: float32,"
            " under another protocol's name, since precision is part of what a run is"
        )


def run(
    protocol, variant, seed=0, *, root=".", results=None, prepared=None, max_minutes=None, progress=True, cbs=(), watch=None,
    group=ALONE,
):  # fmt: skip
    """Train one variant under a protocol, or go on where an earlier call stopped.

    A finished run is returned as it is recorded. A run that was made under other settings, or by code that computed
    something else (:func:`ctxnet.training.trace.run_trace`), is set aside in ``results/<protocol>/superseded/`` and never
    reused.

    Args:
        protocol: from ``load_protocol``.
        variant: one of ``ctxnet.list_models()``, or of ``ctxnet.list_segmenters()`` where that is the protocol's task.
        seed: of initial weights, random positions, order and augmentation; a number, or a label that crosses them
            (:func:`ctxnet.training.seeds.parse_seeds`).
        root: folder that holds params.yaml, data and results.
        results: folder that holds the results, if another.
        prepared: the protocol's data from ``prepare_dataset``; None: they are looked for under ``root``.
        max_minutes: stop cleanly before the epoch that would not end in time, after one at least.
        progress: show a bar with the time left for the whole run.
        cbs: further fastai callbacks.
        watch: whose ``epoch(done)`` is called after every epoch and ``checkpoint(path)`` after every writing of one.
        group: the processes that train together (:mod:`ctxnet.training.group`); the first alone writes.

    Returns:
        :class:`RunResult`.

    Raises:
        ValueError: on wrong names or values, before any long work.
        Busy: if another process works on this run.
        RuntimeError: if the device is missing.
        FloatingPointError: if the loss is no longer finite.
    """
    from .trace import run_trace

    require_known("variant", variant, TASKS[protocol.task].rows())
    deadline(max_minutes)  # refuses what is none
    root = Path(root)
    require_device(protocol)
    seed = parse_seeds(seed).label
    results = root if results is None else Path(results)
    folder = run_folder(protocol.name, variant, seed, results)
    if prepared is None:
        prepared = group.first(prepare_dataset, protocol, load_params(root / "params.yaml"), root)
    if protocol.held_out:
        prepared = hold_out(prepared, protocol.held_out)
    key = {"settings": identity(protocol, variant, seed, prepared.manifest_hash), "trace": run_trace(protocol, variant)}
    with one_writer(folder) if group.rank == 0 else nullcontext():
        record = group.first(_open, folder, key)
        if record is None:
            clock = Clock()
            state = _train(protocol, variant, seed, prepared, key, folder, max_minutes, progress, cbs, clock, watch, group)
            if state is None:
                return RunResult("paused", folder, None)
            if group.rank == 0:
                record = _finish(protocol, variant, seed, prepared, key, folder, state, root, results, clock, group.size)
    return RunResult("finished", folder, record)


def _open(folder, key):
    """Put a run's folder right; returns the record that is there already."""
    remove_partials(folder)
    set_aside_other(folder, lambda: key)
    return read_record(folder)


def set_aside_other(folder, key):
    """Move a run out of the way that was made under other settings or by code that computed something else.

    Args:
        folder: of the run, held by :func:`ctxnet.locking.one_writer`.
        key: gives ``settings`` and ``trace`` of now (:func:`ctxnet.records.changes`); asked only if something is there.
    """
    old = _stored_key(folder)
    if old is not None and (reason := changes(old, key())):
        set_aside(folder, old, reason)


def _stored_key(folder):
    for name in ("record.json", "weights.safetensors", "checkpoint.safetensors"):
        if (folder / name).exists():
            state = read_record(folder) if name == "record.json" else load_tensors(folder / name)[1]
            if not isinstance(state, dict) or "config" not in state:
                raise ValueError(f"{folder / name}: no record of a run, it says no settings; {renew(folder / name)}")
            return {"settings": state["config"], "trace": state.get("trace")}
    return None


def train_command(protocol, variant, seed):
    """What makes this run on the command line, or goes on with it."""
    return f"python -m ctxnet train --protocol {protocol.name} --variant {variant} --seed {seed}"


def network(protocol, variant, seeds, *, num_classes):
    """The network that a run starts from.

    Args:
        seeds: :class:`ctxnet.training.seeds.Seeds`.

    Raises:
        ValueError: for a setting that this variant does not have, such as ``zero_init`` of a network of timm.
    """
    chosen = network_arguments(protocol, variant, seeds, num_classes=num_classes)
    return TASKS[protocol.task].create(variant, protocol, **chosen)


def network_arguments(protocol, variant, seeds, *, num_classes):
    """What :func:`network` asks of ``create_model``, beside the name: a dict that JSON can hold."""
    chosen = {"num_classes": num_classes, "width": protocol.width, "input_size": protocol.image_size}
    chosen |= {"seed": seeds.seed, "drop_rate": protocol.drop_rate, "scale_head": protocol.scale_offsets}
    if protocol.drop_path:
        chosen["drop_path"] = protocol.drop_path
    if isinstance(VARIANTS[TASKS[protocol.task].backbone(variant)].arch, int):
        if protocol.zero_init:
            chosen["zero_init"] = True
        if protocol.scale_offsets:
            chosen["offset_scale"] = protocol.image_size / 224
    if protocol.by_layer or seeds.init != seeds.seed or seeds.draw != seeds.seed:
        chosen |= {"init_seed": seeds.init, "draw_seed": seeds.draw}
    return chosen


def initial_context(protocol, variant, seeds, images, *, num_classes):
    """How far the network of a run looks before its first step.

    Batch normalisation takes its statistics from ``images``, and the last one of each block stands at one also under
    ``zero_init``: a block that starts as its shortcut would show nothing of what it will look at.

    Returns:
        dict of lists, one value per block: ``distance`` (mean distance in px, None without a gradient) and ``rf_share``
        (share of the image in the receptive field, 0…1).
    """
    model = network(dataclasses.replace(protocol, zero_init=False), variant, seeds, num_classes=num_classes).eval()
    calibrate(model, images)
    profile = context_profile(model, images)
    return {
        "distance": [None if math.isnan(d) else d for d in profile.distance.tolist()],
        "rf_share": profile.rf.double().mean((1, 2)).tolist(),
    }


def _train(protocol, variant, seed, prepared, key, folder, max_minutes, progress, cbs, clock, watch, group):
    """Train to the last epoch; returns the learner, its history and the seconds spent, or None when out of time."""
    from ..data import loaders
    from .learner import RunProgress, build_learner, fit_epoch

    checkpoint, weights = folder / "checkpoint.safetensors", folder / "weights.safetensors"
    seeds = parse_seeds(seed)
    dls = loaders(
        prepared, image_size=protocol.image_size, batch_size=protocol.batch_size, min_crop=protocol.min_crop,
        max_rotate=protocol.max_rotate, flip=protocol.flip, workers=protocol.workers, seed=seeds.data,
        resident="cuda" if protocol.device == "cuda" and not protocol.workers else None, part=(group.rank, group.size),
    )
    dls.to(torch.device(protocol.device))
    model = network(protocol, variant, seeds, num_classes=len(prepared.classes))
    group.prepare(model)
    learner = build_learner(model, dls, protocol, cbs=cbs)
    group.attach(learner)
    history, spent = [], 0.0
    if weights.exists():  # trained before; only its record is missing
        tensors, state = load_tensors(weights)
        history, spent = state["history"], state["seconds"]
        clock.go_on(state)
        learner.model.load_state_dict(tensors)
    elif checkpoint.exists():
        state = load_checkpoint(checkpoint, learner)
        history, spent = state["history"], state["seconds"]
        clock.go_on(state)
    batches = [len(dls.train) + len(dls.valid) * protocol.validates(epoch) for epoch in range(protocol.epochs)]
    if progress and len(history) < protocol.epochs:
        bar = RunProgress(f"{variant} seed {seed}", total=sum(batches), done=sum(batches[: len(history)]))
        learner.add_cb(bar)
    until, longest, checkpoints = deadline(max_minutes), 0.0, Checkpoints(checkpoint, learner, watch and watch.checkpoint)
    for epoch in range(len(history), protocol.epochs):
        needed = longest + checkpoints.cost
        if until and longest and group.first(lambda needed=needed: time.perf_counter() + needed > until):
            if group.rank == 0:
                checkpoints.write()
                print(f"{folder}: paused after {epoch} of {protocol.epochs} epochs; the same command goes on from here")
            return None
        started = time.perf_counter()
        reseed(seeds.data, epoch, (dls.train, dls.valid))
        rate = learning_rate(protocol, epoch)
        keeper = fit_epoch(learner, epoch, rate, validate=protocol.validates(epoch))
        answers = [keeper.train_score] if protocol.train_top1 else []
        history.append([epoch, rate, keeper.train_loss, keeper.valid_loss, keeper.score, *answers])
        longest = max(longest, time.perf_counter() - started)
        spent += time.perf_counter() - started
        if epoch + 1 < protocol.epochs and group.rank == 0:
            checkpoints.after_epoch(_state(key, history, spent, clock))
        if watch is not None:
            watch.epoch(len(history))
    if not hasattr(learner.bookkeeper, "predicted"):  # trained before
        learner.validate()
    group.release(learner)
    if group.rank == 0:
        if not weights.exists():
            save_tensors(weights, learner.model.state_dict(), _state(key, history, spent, clock))
        checkpoint.unlink(missing_ok=True)  # also one that a kill between the two left behind
    if progress and hasattr(learner, "run_progress"):
        learner.run_progress.close()
    return learner, history, spent


def _state(key, history, spent, clock):
    """What a checkpoint tells of a run beside its tensors."""
    made = {"config": key["settings"], "trace": key["trace"]}
    return made | {"history": history, "seconds": spent} | clock.stated()


def _finish(protocol, variant, seed, prepared, key, folder, state, root, results, clock, devices):
    """Measure the trained network and write the record."""
    learner, history, spent = state
    keeper, model, task = learner.bookkeeper, learner.model.eval(), TASKS[protocol.task]
    kept, named = task.kept(protocol, prepared, keeper, results)
    images = profile_images(prepared, protocol.profile_images).to(protocol.device)
    profile = trained_profile(model, variant, images)
    files = {
        "context.npz": encode_run(profile, protocol.maps),
        "history.csv": encode_csv([*HISTORY, task.score, *["train_top1"] * protocol.train_top1], history),
        **kept,
    }
    record = {
        "protocol": protocol.name,
        "variant": variant,
        "seed": seed,
        **task.scores(history, keeper, len(prepared.classes)),
        "n": len(prepared.valid_ids),
        "epochs": len(history),
        "parameters": count_parameters(model),
        "config": key["settings"],
        "config_hash": stable_hash(key["settings"]),
        "trace": key["trace"],
        **named,
        **(task.seen(model, prepared) if protocol.pixel_context else {}),
    }
    if protocol.initial_profile:
        seeds, classes = parse_seeds(seed), len(prepared.classes)
        record["initial"] = initial_context(protocol, variant, seeds, images.cpu(), num_classes=classes)
    seen = len(history) * len(prepared.train_ids)
    source = provenance.collect(prepared.manifest_hash, root=root, device=protocol.device) | {
        "command": train_command(protocol, variant, seed),
        "training_seconds": round(spent, 1),
        "images_per_second": round(seen / spent, 1) if spent else None,
        **({"devices": devices} if devices > 1 else {}),
        **clock.stated(),
    }
    return write_record(folder, record, files, source)
