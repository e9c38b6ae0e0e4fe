"""Read what training and measuring have left on disk; nothing here computes or draws.

Layout (design: "Records"): ``results/<protocol>/runs/<variant>/seed<k>/`` holds the trained networks'
records, ``results/measure/<variant>/`` the full-size networks at initialisation. Two things can be wrong with
a file and each has one exception with a one-line message: it is not there (:class:`MissingRecord`, which
knows the command that makes it) or it says something impossible (:class:`BadRecord`, which names the path).
"""

import json
import math
import re
from pathlib import Path

import pandas as pd

from ctxnet.records import run_folder

RECORD_COLUMNS = ["variant", "seed", "top1", "top1_best", "n", "epochs", "parameters", "config_hash"]
HISTORY_COLUMNS = ["epoch", "learning_rate", "train_loss", "valid_loss", "top1"]
TRAIN_TOP1 = "train_top1"  # a further column of runs whose protocol asks for it
PREDICTION_COLUMNS = ["image", "label", "predicted"]


class MissingRecord(FileNotFoundError):
    """A result that has not been made yet; ``command`` is what makes it."""

    def __init__(self, path, command):
        super().__init__(f"{Path(path).as_posix()} is not there yet; make it with: {command}")
        self.command = command


class BadRecord(ValueError):
    """A result that is there and cannot be right; the message starts with its path."""


def make_command(protocol, variant=None):
    """The command that makes a protocol's records, or one variant's."""
    if variant is None:
        return "make repro" if protocol == "quick" else f"dvc repro report@{protocol}"
    return f"python -m ctxnet train --protocol {protocol} --variant {variant}"


def measure_command(variant):
    """The command that measures a full-size network at initialisation."""
    return f"python -m ctxnet measure --variant {variant}"


def lattice_command(variant):
    """The command that measures a full-size network everywhere over the photograph."""
    return f"python -m ctxnet measure --everywhere --variant {variant}"


def measure_folder(variant, root="."):
    return Path(root) / "results" / "measure" / variant


def load_records(protocol, root="."):
    """All finished runs of one protocol as a DataFrame with :data:`RECORD_COLUMNS`, sorted by variant and
    seed.

    ``top1`` and ``top1_best`` are shares in 0…1, ``n`` counts validation images, ``parameters`` those of the
    trained network without its classifier. No run yet gives an empty frame; a run that is paused has no
    record and is left out.

    Raises:
        BadRecord: a record that is damaged (its digests say so), lacks a key, is of another protocol, variant
            or seed than its folder says, or holds an impossible number.
    """
    paths = sorted((Path(root) / "results" / protocol / "runs").glob("*/seed*/record.json"))
    rows = [_checked(path, protocol) for path in paths]
    frame = pd.DataFrame(rows, columns=RECORD_COLUMNS)
    return frame.sort_values(["variant", "seed"], ignore_index=True)


def load_history(protocol, variant, seed=0, root="."):
    """One run's epochs: :data:`HISTORY_COLUMNS`, one row per epoch, and :data:`TRAIN_TOP1` where the run kept it.

    ``valid_loss`` and ``top1`` are NaN for epochs without validation.
    """
    path = run_folder(protocol, variant, seed, root) / "history.csv"
    return _csv(path, HISTORY_COLUMNS, protocol, variant, may_have=[TRAIN_TOP1])


def load_predictions(protocol, variant, seed=0, root="."):
    """One run's answers: ``image`` (its id), ``label`` and ``predicted`` (class indices)."""
    path = run_folder(protocol, variant, seed, root) / "predictions.csv"
    frame = _csv(path, PREDICTION_COLUMNS, protocol, variant)
    if frame["image"].duplicated().any():
        raise BadRecord(f"{path.as_posix()}: an image occurs twice")
    return frame


def load_profile(protocol, variant, seed=0, root="."):
    """The :class:`ctxnet.measure.ContextProfile` of a trained network."""
    path = run_folder(protocol, variant, seed, root) / "context.npz"
    return _profile(path, make_command(protocol, variant))


def load_initial(variant, root="."):
    """The :class:`ctxnet.measure.ContextProfile` of the full-size network at initialisation."""
    return _profile(measure_folder(variant, root) / "context.npz", measure_command(variant))


def load_places(variant, root="."):
    """What a full-size network sees of the photograph from everywhere, as :func:`ctxnet.training.measure_lattice` wrote it.

    Returns:
        (record dict, DataFrame of ``places.csv`` with a row per block and place, sprite of maps as uint8 array).
    """
    import numpy as np
    from PIL import Image

    from ctxnet.training import read_record

    folder = Path(root) / "results" / "lattice" / variant
    try:
        record = read_record(folder)
    except ValueError as error:
        raise BadRecord(str(error)) from None
    if record is None:
        raise MissingRecord(folder / "record.json", lattice_command(variant))
    with Image.open(folder / "maps.png") as image:
        return record, pd.read_csv(folder / "places.csv"), np.asarray(image)


def load_provenance(protocol, variant, seed=0, root="."):
    """Where, when and with what a run was made: a dict, empty when the run left none."""
    path = run_folder(protocol, variant, seed, root) / "provenance.json"
    return _json(path) if path.exists() else {}


def missing_variants(protocol, variants, root="."):
    """Those of ``variants`` that have no finished run in ``protocol``, in the order given."""
    have = set(load_records(protocol, root)["variant"])
    return [variant for variant in variants if variant not in have]


def _checked(path, protocol):
    from ctxnet.training import read_record

    name = path.as_posix()
    try:
        record = read_record(path.parent)
    except ValueError as error:  # names the path
        raise BadRecord(str(error)) from None
    for key in ["protocol", *RECORD_COLUMNS]:
        if key not in record:
            raise BadRecord(f"{name}: no {key!r} in it")
    seed = re.fullmatch(r"seed(\d+)", path.parent.name)
    place = {"protocol": protocol, "variant": path.parent.parent.name, "seed": int(seed[1]) if seed else None}
    for key, expected in place.items():
        if record[key] != expected:
            raise BadRecord(f"{name}: {key} is {record[key]!r}, its folder says {expected!r}")
    for key in ["top1", "top1_best"]:
        value = record[key]
        if not isinstance(value, int | float) or not math.isfinite(value) or not 0 <= value <= 1:
            raise BadRecord(f"{name}: {key} must be a share in 0…1, not {value!r}")
    for key in ["n", "epochs", "parameters"]:
        if not isinstance(record[key], int) or record[key] < 1:
            raise BadRecord(f"{name}: {key} must be a positive integer, not {record[key]!r}")
    return {key: record[key] for key in RECORD_COLUMNS}


def _json(path):
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadRecord(f"{Path(path).as_posix()}: not JSON ({error})") from None
    if not isinstance(value, dict):
        raise BadRecord(f"{Path(path).as_posix()}: a JSON object was expected")
    return value


def _csv(path, columns, protocol, variant, may_have=()):
    from ctxnet.training import read_record

    if not path.exists():
        raise MissingRecord(path, make_command(protocol, variant))
    try:
        read_record(path.parent)  # vouches for the table
        frame = pd.read_csv(path)
    except ValueError as error:  # pandas' parser and empty-file errors are ValueErrors
        reason = str(error).strip()
        raise BadRecord(reason if path.parent.name in reason else f"{path.as_posix()}: not a table ({reason})") from None
    if list(frame.columns) not in (columns, [*columns, *may_have]):
        raise BadRecord(
            f"{path.as_posix()}: columns {','.join(map(str, frame.columns))} instead of {','.join(columns)}"
        )
    return frame


def _profile(path, command):
    from ctxnet.measure import ContextProfile
    from ctxnet.training import read_record

    if not path.exists():
        raise MissingRecord(path, command)
    try:
        if read_record(path.parent) is None:  # a run that was stopped while it wrote
            raise MissingRecord(path.with_name("record.json"), command)
        return ContextProfile.load(path)
    except ValueError as error:
        raise BadRecord(str(error)) from None
