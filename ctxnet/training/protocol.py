"""Typed settings: ``params.yaml`` in, checked dataclasses out. Nothing else in the package holds a setting."""

import copy
import dataclasses
import functools
from dataclasses import dataclass

from .. import settings
from ..naming import require_known
from .seeds import distinct, parse_seeds


@dataclass(frozen=True)
class Protocol:
    """How every row is trained; one named group of ``params.yaml``.

    Attributes:
        name: name of the group.
        dataset: "probe", "pathfinder", "imagenette", or a folder or tar in ``train/<class>``, ``val/<class>`` layout.
        image_size: side of the input in pixels.
        width: channels of the first stage; 64 is full size.
        epochs: number of passes over the training set.
        batch_size: images per step.
        learning_rate, weight_decay: of the optimiser; momentum: of SGD, the first moment's rate of the others.
        decay_epochs: epochs (counted from 0) at whose start the rate is multiplied by ``decay_factor``.
        decay_factor: 0.1 in the thesis.
        max_rotate: largest rotation in degrees; min_crop: smallest area share of the random crop; flip: mirror half
            of the images.
        seeds: one run per seed.
        workers: loader processes; part of a run's identity.
        device: "cpu" or "cuda".
        profile_images: validation images averaged in the context profile.
        optimizer: "sgd", "adamw" or "ranger".
        nesterov: SGD's momentum looks ahead (Sutskever et al., 2013).
        decay_weights_only: weight decay leaves biases and normalisation alone (He et al., 2019, arXiv:1812.01187).
        schedule: "step" (``decay_epochs``), "cosine" (to zero over the run) or "linear" (to zero, changing at every step).
        warmup_epochs: the rate rises to ``learning_rate`` over so many epochs first; whole ones unless it is "linear".
        label_smoothing: share of the target that is spread over all classes, in training only.
        drop_rate: share of the features before the classifier that dropout sets to zero.
        drop_path: stochastic depth: probability that the last residual branch is dropped in training, earlier ones by their
            depth; of the ResNets for 32 px images (resnet20 …) only.
        precision: "float32", or "bf16" for bfloat16 autocast over float32 weights.
        compile: backend of ``torch.compile`` ("inductor"); empty: none.
        cuda_graph: on a GPU, replay a recording of the network's training step instead of launching its kernels one by
            one; no part of a run's identity, and without effect on a CPU.
        by_layer: initial weights are drawn for each layer by its name, so that rows share them where shapes agree.
        zero_init: the last normalisation of every residual block starts at zero (Goyal et al., 2017); ResNets only.
        scale_offsets: offsets and dilations of ResNets shrink with the map, by ``image_size`` / 224, and HRNet's head with
            ``width``.
        held_out: share of every class's training images that takes the place of the validation set, which then stays
            shut: for finding settings.
        initial_profile: also measure the network before its first step (receptive field and mean distance).
        train_top1: also keep the share of right answers on the training batches, as they are seen in training.
        note: what a reader must know before comparing numbers of this protocol with others; no part of a run's identity.
        validate_every: epochs from one validation to the next; there is always one after the last epoch.
        threads: of torch in a run of a campaign; 0: all cores, shared out between runs side by side; on a cluster, one.
        gpu_share: of a GPU that a run of a campaign on Ray takes; 0.5 puts two runs on one.
        memory_gb: that such a run is given room for; 0: not considered. None of these three is part of a run's identity.
        dose: how much context the class takes: px between the marks of the probe set, dashes of Pathfinder's paths (6, 9
            or 14); 0: what the data set's own group says.
        task: "classification", or "segmentation": a class for every pixel of ``dataset`` "camvid", or of a folder or tar of
            images and masks, whose shorter side is ``image_size``.
        pixel_context: also measure what a pixel of each class needs of its image (:mod:`ctxnet.training.seen`).
        judged: split of such a set that takes the place of the validation set: "val", or "test".
        mark: diameter of the probe set's marks in px, odd; 0: 7.
        maps: what a run keeps maps of: "blocks", or "stages" for the last block of each stage; no part of its identity.
    """

    name: str
    dataset: str
    image_size: int
    width: int
    epochs: int
    batch_size: int
    learning_rate: float
    momentum: float
    weight_decay: float
    decay_epochs: list[int]
    decay_factor: float
    max_rotate: float
    min_crop: float
    flip: bool
    seeds: list[int]
    workers: int
    device: str
    profile_images: int
    optimizer: str = "sgd"
    nesterov: bool = False
    decay_weights_only: bool = False
    schedule: str = "step"
    warmup_epochs: float = 0.0
    label_smoothing: float = 0.0
    drop_rate: float = 0.0
    drop_path: float = 0.0
    precision: str = "float32"
    compile: str = ""
    cuda_graph: bool = False
    by_layer: bool = False
    zero_init: bool = False
    scale_offsets: bool = False
    held_out: float = 0.0
    initial_profile: bool = False
    train_top1: bool = False
    validate_every: int = 1
    note: str = ""
    threads: int = 0
    gpu_share: float = 1.0
    memory_gb: float = 0.0
    dose: int = 0
    mark: int = 0
    task: str = "classification"
    judged: str = "val"
    pixel_context: bool = False
    maps: str = "blocks"

    def validates(self, epoch):
        """Whether the epoch (counted from 0) ends with a validation."""
        return (epoch + 1) % self.validate_every == 0 or epoch + 1 == self.epochs


@dataclass(frozen=True)
class Measure:
    """How the networks are measured at initialisation; the group ``measure`` of ``params.yaml``."""

    image_size: int
    width: int
    images: int
    summed_images: int
    seed: int


@dataclass(frozen=True)
class Lattice:
    """Where the networks of :class:`Measure` are measured for the explorer; the group ``lattice`` of ``params.yaml``.

    Attributes:
        places: positions per side of every map.
        cells: side of a stored map, in cells that cover its receptive field's box.
    """

    places: int
    cells: int


_CHOICES = {
    "device": ("cpu", "cuda"),
    "optimizer": ("sgd", "adamw", "ranger"),
    "schedule": ("step", "cosine", "linear"),
    "precision": ("float32", "bf16"),
    "task": ("classification", "segmentation"),
    "judged": ("val", "test"),
    "maps": ("blocks", "stages"),
    "compile": ("", "inductor", "aot_eager", "eager"),
}
_RANGES = {
    "image_size": "[8, 4096]", "width": "[1, 4096]", "epochs": "[1, 100000]", "batch_size": "[2, 65536]",
    "learning_rate": "(0, 1000]", "momentum": "[0, 1)", "weight_decay": "[0, 100]", "decay_epochs": "[0, 100000]",
    "decay_factor": "(0, 1]", "max_rotate": "[0, 180]", "min_crop": "(0, 1]", "seeds": f"[0, {2**31 - 1}]",
    "workers": "[0, 256]", "profile_images": "[1, 100000]", "warmup_epochs": "[0, 100000]", "label_smoothing": "[0, 1)",
    "drop_rate": "[0, 1)", "drop_path": "[0, 1)", "held_out": "[0, 1)", "validate_every": "[1, 100000]",
    "images": "[1, 100000]",
    "summed_images": "[0, 100000]", "seed": f"[0, {2**31 - 1}]", "places": "[1, 64]", "cells": "[1, 4096]",
    "train_images": "[1, 10000000]", "valid_images": "[1, 10000000]", "distance": "[1, 4096]",
    "dose": "[0, 4096]", "mark": "[0, 4096]", "dashes": "[1, 4096]",
    "train_seed": f"[0, {2**31 - 1}]", "valid_seed": f"[0, {2**31 - 1}]", "threads": "[0, 1024]", "gpu_share": "(0, 1]",
    "memory_gb": "[0, 100000]",
}  # fmt: skip
_REQUIRED = ("rows", "protocol_names", "protocols", "probe", "imagenette", "measure", "lattice")
_TAKEN = ("atlas", "images", "measure", "lattice", "sliders")  # folders of results that no protocol made
_GROUPS = (*_REQUIRED, "own_rows", "more_seeds", "campaign", "pathfinder", "camvid")
# What chooses where, how fast and which runs are made, and is no part of what a run is.
NO_IDENTITY = ("name", "seeds", "device", "cuda_graph", "note", "threads", "gpu_share", "memory_gb", "maps")


@dataclass(frozen=True)
class _Probe:
    train_images: int
    valid_images: int
    distance: int
    train_seed: int
    valid_seed: int


@dataclass(frozen=True)
class _Pathfinder:
    train_images: int
    valid_images: int
    train_seed: int
    valid_seed: int
    dashes: int = 9


@dataclass(frozen=True)
class _Source:
    source: str = ""


def load_params(path="params.yaml"):
    """All settings as a dict, every group checked. A protocol holds what it takes over (``<<: *small``, ``extends: small``).

    Raises:
        FileNotFoundError, ValueError: one line that names the file and the key.
    """
    from ..models import list_models, list_segmenters

    return copy.deepcopy(_checked(settings.read_text(path), str(path), (*list_models(), *list_segmenters())))


@functools.lru_cache(maxsize=8)
def _checked(text, path, rows):
    """:func:`load_params`, not to be changed. A chapter asks for the same settings hundreds of times: they are checked once
    for a text and the rows that can be built. Of the text and not of the file, so that an edit is seen at once."""
    params = settings.parse_yaml(text, path)
    for name in _REQUIRED:
        if name not in params:
            raise ValueError(f"{path}: missing group {name!r}")
    groups = settings.group(params["protocols"], f"{path}: protocols")
    for name, values in groups.items():
        settings.group(values, f"{path}: protocols.{name}")
        if not settings.PROTOCOL.fullmatch(name):
            raise ValueError(f"{path}: protocols.{name!r}: a protocol's name has letters, digits, '_' and '-', up to 64")
        if name.lower() in _TAKEN or [other.lower() for other in groups].count(name.lower()) > 1:
            raise ValueError(f"{path}: protocols.{name}: results/{name} belongs to others; give it another name")
        if "name" in settings.group(groups[name], f"{path}: protocols.{name}"):
            raise ValueError(f"{path}: protocols.{name}.name: the group's own name is the protocol's; take the key out")
    params["protocols"] = {name: settings.extended(groups, name, f"{path}: protocols") for name in groups}
    protocols = [_protocol(name, params, path) for name in groups]
    for name in params:  # a folder of one's own as data set has a group of its own
        if name not in [protocol.dataset for protocol in protocols]:
            settings.with_where(path, require_known, "group", name, _GROUPS)
    _check_rows(params, groups, path)
    _typed(_Probe, params["probe"], where=f"{path}: probe")
    if "camvid" in params:
        _typed(_Source, params["camvid"], where=f"{path}: camvid")
    if "pathfinder" in params:
        _typed(_Pathfinder, params["pathfinder"], where=f"{path}: pathfinder")
    _typed(_Source, params["imagenette"], where=f"{path}: imagenette")
    _typed(Measure, params["measure"], where=f"{path}: measure")
    _typed(Lattice, params["lattice"], where=f"{path}: lattice")
    return params


def _check_rows(params, groups, path):
    from ..models import list_models, list_segmenters

    known, dense = list_models(), list_segmenters()

    def known_to(name):
        return dense if groups[name].get("task") == "segmentation" else known

    settings.names(params["rows"], f"{path}: rows", known, "variant")
    settings.names(params["protocol_names"], f"{path}: protocol_names", groups, "protocol")
    for name, rows in _optional(params, "own_rows", path).items():
        settings.with_where(f"{path}: own_rows", require_known, "protocol", name, groups)
        settings.names(rows, f"{path}: own_rows.{name}", known_to(name), "variant")
    for name, rows in _optional(params, "more_seeds", path).items():
        settings.with_where(f"{path}: more_seeds", require_known, "protocol", name, groups)
        for row, seeds in settings.group(rows, f"{path}: more_seeds.{name}").items():
            where = f"{path}: more_seeds.{name}.{row}"
            settings.with_where(f"{path}: more_seeds.{name}", require_known, "variant", row, known_to(name))
            if not isinstance(seeds, list):
                raise ValueError(f"{where}={seeds!r} must be a list of seeds")
            settings.with_where(where, distinct, seeds, "seeds")
    campaign = _optional(params, "campaign", path)
    for key in campaign:
        settings.with_where(f"{path}: campaign", require_known, "key", key, ("order", "assumed_minutes"))
    settings.names(campaign.get("order", []), f"{path}: campaign.order", known, "variant")
    for name, minutes in settings.group(campaign.get("assumed_minutes", {}), f"{path}: campaign.assumed_minutes").items():
        where = f"{path}: campaign.assumed_minutes.{name}"
        settings.with_where(where, require_known, "protocol", name, groups)
        if type(minutes) not in (int, float):
            raise ValueError(f"{where}={minutes!r} must be of type float")
        settings.in_range(minutes, "(0, 100000]", where)


def _optional(params, name, path):
    return settings.group(params.get(name, {}), f"{path}: {name}")


def load_protocol(name, path="params.yaml"):
    """The :class:`Protocol` called ``name`` in ``path``.

    Raises:
        ValueError: on an unknown name or key, a missing key or a value of the wrong type or range.
    """
    params = load_params(path)
    require_known("protocol", name, params["protocols"])
    return _protocol(name, params, path)


def _protocol(name, params, path):
    where = f"{path}: protocols.{name}"
    protocol = _typed(Protocol, {"name": name, **params["protocols"][name]}, where=where)
    settings.safe_dataset(protocol.dataset, f"{where}.dataset")
    if not protocol.seeds:
        raise ValueError(f"{where}.seeds=[] names no run; nearest valid value: [0]")
    _require_schedule(protocol, where)
    if protocol.dose or protocol.mark:
        _require_dose(protocol, params, where)
    if protocol.cuda_graph:
        _require_recordable(protocol, where)
    if protocol.task == "segmentation":
        _require_dense(protocol, where)
    elif protocol.judged != "val" or protocol.pixel_context:
        name, near = ("judged", "val") if protocol.judged != "val" else ("pixel_context", False)
        raise ValueError(f"{where}.{name}: only of task 'segmentation'; nearest valid value: {near!r}")
    return protocol


def _typed(kind, values, *, where):
    return settings.typed(kind, values, where=where, ranges=_RANGES, choices=_CHOICES)


def _require_schedule(protocol, where):
    warmup = protocol.warmup_epochs
    if protocol.schedule != "linear" and warmup != int(warmup):
        raise ValueError(
            f"{where}.warmup_epochs={warmup:g}: whole epochs under schedule {protocol.schedule!r}; nearest valid value: "
            f"{warmup:.0f}"
        )
    if warmup >= protocol.epochs > 1:
        raise ValueError(
            f"{where}.warmup_epochs={warmup:g} leaves nothing of {protocol.epochs} epochs; nearest valid value: "
            f"{protocol.epochs - 1}"
        )
    if protocol.nesterov and (protocol.optimizer != "sgd" or not protocol.momentum):
        raise ValueError(f"{where}.nesterov=true: only with optimizer 'sgd' and a momentum; nearest valid value: false")


def _require_dose(protocol, params, where):
    """A dose that the image cannot hold is refused here, before anything is drawn or trained."""
    from ..data import pathfinder, probe

    if protocol.mark and protocol.dataset != "probe":
        raise ValueError(f"{where}.mark={protocol.mark}: only the probe set has marks; nearest valid value: 0")
    if protocol.dataset == "probe":
        distance = protocol.dose or params["probe"]["distance"]
        mark = protocol.mark or probe.MARK
        settings.with_where(where, probe.require_distance, distance, protocol.image_size, mark, "dose")
    elif protocol.dataset == "pathfinder":
        settings.with_where(where, pathfinder.require_dashes, protocol.dose, protocol.image_size, "dose")
    else:
        raise ValueError(f"{where}.dose={protocol.dose}: only of the probe set and of pathfinder; nearest valid value: 0")


def _require_dense(protocol, where):
    """What no mask can be asked, or no head can hold, is refused before anything is read."""
    for name, near in (("held_out", 0), ("drop_rate", 0), ("max_rotate", 0), ("train_top1", False), ("cuda_graph", False)):
        value = getattr(protocol, name)
        if value:
            raise ValueError(f"{where}.{name}={value!r}: not of task 'segmentation'; nearest valid value: {near!r}")


def _require_recordable(protocol, where):
    if protocol.compile:
        raise ValueError(f"{where}.compile={protocol.compile!r}: not with cuda_graph; nearest valid value: ''")
    if protocol.optimizer == "ranger":  # fastai's clears gradients in place, which are memory of the recording
        raise ValueError(f"{where}.optimizer='ranger': not with cuda_graph; nearest valid value: 'adamw'")


def rows_of(protocol, params):
    """The rows of a protocol: those that ``own_rows`` of params.yaml gives it, else ``rows``."""
    return (params.get("own_rows") or {}).get(protocol.name, params["rows"])


def seeds_of(protocol, variant, params):
    """The seeds of one row: those of the protocol, and those that ``more_seeds`` of params.yaml adds for this row."""
    more = (params.get("more_seeds") or {}).get(protocol.name) or {}
    return list(dict.fromkeys([*protocol.seeds, *more.get(variant, ())]))


def load_measure(path="params.yaml"):
    """The :class:`Measure` settings in ``path``; errors as for :func:`load_protocol`."""
    return Measure(**load_params(path)["measure"])


def load_lattice(path="params.yaml"):
    """The :class:`Lattice` settings in ``path``; errors as for :func:`load_protocol`."""
    return Lattice(**load_params(path)["lattice"])


def identity(protocol, variant, seed, data_hash):
    """What a run's result depends on, as a JSON-able dict; its hash names the run.

    :data:`NO_IDENTITY` is left out. So are settings at their default: those came later than the first records, which were
    made with just these values.
    """
    seeds = parse_seeds(seed)
    settings = dataclasses.asdict(protocol)
    for field in dataclasses.fields(protocol):
        if field.name in NO_IDENTITY or settings[field.name] == field.default:
            del settings[field.name]
    return {**settings, "variant": variant, **seeds.stated(), "data": data_hash}
