"""Typed settings: ``params.yaml`` in, checked dataclasses out. Nothing else in the package holds a setting."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import yaml

from ..naming import require_known, unknown_name
from .seeds import parse_seeds


@dataclass(frozen=True)
class Protocol:
    """How every row is trained; one named group of ``params.yaml``.

    Attributes:
        name: name of the group.
        dataset: "probe", "imagenette", or a folder or tar in ``train/<class>``, ``val/<class>`` layout.
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
        precision: "float32", or "bf16" for bfloat16 autocast over float32 weights.
        compile: backend of ``torch.compile`` ("inductor"); empty: none.
        cuda_graph: on a GPU, replay a recording of the network's training step instead of launching its kernels one by
            one; no part of a run's identity, and without effect on a CPU.
        by_layer: initial weights are drawn for each layer by its name, so that rows share them where shapes agree.
        zero_init: the last normalisation of every residual block starts at zero (Goyal et al., 2017); ResNets only.
        scale_offsets: offsets and dilations shrink with the map, by ``image_size`` / 224; ResNets only.
        held_out: share of every class's training images that takes the place of the validation set, which then stays
            shut: for finding settings.
        initial_profile: also measure the network before its first step (receptive field and mean distance).
        train_top1: also keep the share of right answers on the training batches, as they are seen in training.
        note: what a reader must know before comparing numbers of this protocol with others; no part of a run's identity.
        validate_every: epochs from one validation to the next; there is always one after the last epoch.
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
    "compile": ("", "inductor", "aot_eager", "eager"),
}
_POSITIVE = (
    "image_size", "width", "epochs", "batch_size", "learning_rate", "profile_images", "validate_every", "images", "places",
    "cells",
)  # fmt: skip


def load_params(path="params.yaml"):
    """All settings as a dict. Raises ``FileNotFoundError`` or ``ValueError`` naming the file."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no settings here; run from the root of the repository")
    try:
        return yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not valid YAML: {str(error).splitlines()[0]}") from None


def load_protocol(name, path="params.yaml"):
    """The :class:`Protocol` called ``name`` in ``path``.

    Raises:
        ValueError: on an unknown name or key, a missing key or a value of the wrong type or range.
    """
    groups = load_params(path).get("protocols", {})
    require_known("protocol", name, groups)
    protocol = typed(Protocol, {"name": name, **groups[name]}, where=f"{path}: protocols.{name}")
    _require_schedule(protocol, f"{path}: protocols.{name}")
    if protocol.cuda_graph:
        _require_recordable(protocol, f"{path}: protocols.{name}")
    return protocol


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
    return typed(Measure, load_params(path).get("measure", {}), where=f"{path}: measure")


def load_lattice(path="params.yaml"):
    """The :class:`Lattice` settings in ``path``; errors as for :func:`load_protocol`."""
    return typed(Lattice, load_params(path).get("lattice", {}), where=f"{path}: lattice")


def typed(kind, values, *, where):
    """Build the dataclass ``kind`` from ``values``, refusing unknown, missing or wrongly typed keys."""
    fields = {field.name: field.type for field in dataclasses.fields(kind)}
    for key in values:
        try:
            require_known("key", key, fields)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
    for field in dataclasses.fields(kind):
        if field.name not in values and field.default is dataclasses.MISSING:
            raise ValueError(f"{where}: missing key {field.name!r}")
    return kind(**{key: _typed_value(values[key], fields[key], f"{where}.{key}", key) for key in values})


def _typed_value(value, kind, where, key):
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind == list[int]:
        right = isinstance(value, list) and all(isinstance(v, int) and not isinstance(v, bool) for v in value)
    else:
        right = isinstance(value, kind) and not (kind is int and isinstance(value, bool))
    if not right:
        name = getattr(kind, "__name__", str(kind)) if kind != list[int] else "list of int"
        raise ValueError(f"{where}={value!r} must be of type {name}")
    if key in _POSITIVE and value <= 0:
        raise ValueError(f"{where}={value!r} must be positive")
    if key in _CHOICES and value not in _CHOICES[key]:
        raise ValueError(f"{where}={value!r}: {unknown_name(key, value, _CHOICES[key])}")
    if key == "min_crop" and not 0 < value <= 1:
        raise ValueError(f"{where}={value!r} must lie in (0, 1]; nearest valid value: {min(max(value, 0.01), 1.0)}")
    if key in ("drop_rate", "label_smoothing", "held_out") and not 0 <= value < 1:
        raise ValueError(f"{where}={value!r} must lie in [0, 1); nearest valid value: {min(max(value, 0.0), 0.99)}")
    if key == "warmup_epochs" and value < 0:
        raise ValueError(f"{where}={value!r} must not be negative; nearest valid value: 0")
    return value


def identity(protocol, variant, seed, data_hash):
    """What a run's result depends on, as a JSON-able dict; its hash names the run.

    The device, CUDA graphs, the list of seeds, the name and the note of the protocol are left out: they choose where, how
    fast and which runs are made, not what a run is. So are settings at their default: those came later than the first
    records, which were made with just these values.
    """
    seeds = parse_seeds(seed)
    settings = dataclasses.asdict(protocol)
    for field in dataclasses.fields(protocol):
        if field.name in ("name", "seeds", "device", "cuda_graph", "note") or settings[field.name] == field.default:
            del settings[field.name]
    return {**settings, "variant": variant, **seeds.stated(), "data": data_hash}
