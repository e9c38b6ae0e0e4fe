"""Everything that the paper knows: the records of runs and measurements, and the numbers that follow from them.

The first half is the one place where the paper reads results. Two things can be wrong with a result, and each has an
exception with a one-line message: it is not there (:class:`MissingRecord`, which knows the command that makes it), or it
says something impossible (:class:`BadRecord`, which names the path). The second half turns them into frames of numbers:
tables, comparisons, how far each row looks. Nothing here writes, draws or puts anything into words.
"""

import contextlib
import functools
import math
import re
from pathlib import Path

import pandas as pd

from ctxnet.files import stable_hash
from ctxnet.models.variants import VARIANTS
from ctxnet.naming import require_known
from ctxnet.paper import statistics
from ctxnet.records import (
    DamagedRecord,
    read_context,
    read_history,
    read_predictions,
    read_provenance,
    read_record,
    records_of,
    run_folder,
    wiring_folder,
)  # fmt: skip

RECORD_COLUMNS = ["variant", "seed", "top1", "top1_best", "n", "epochs", "parameters", "config_hash"]
HISTORY_COLUMNS = ["epoch", "learning_rate", "train_loss", "valid_loss", "top1"]
TRAIN_TOP1 = "train_top1"  # a further column of runs whose protocol asks for it
REPLICATE_COLUMNS = ["variant", "seed", "crossed", "init", "draw", "top1", "parameters", "distance", "reach", "train_loss"]
PREDICTION_COLUMNS = ["image", "label", "predicted"]

BASELINE = "resnet50"
SIZES = ("small", "small128", "fast", "thesis")  # the thesis' rows at growing size
OWN = "own"  # the table of rows that no other table shows
# Titles of the tables, and what a reader of the thesis has to know to compare their columns. Which rows a table shows is
# said by the rows (``VARIANTS``), and a table without a title here is as good.
TABLES = {
    "4.1": ("Random sparse context", ""),
    "4.2": (
        "Random sparse context on higher layers",
        "The thesis labels its last row “3 permutations” and 28.3 M; its text says one, which comes to 28.2 M.",
    ),
    "4.3": ("Random sparse context with relative positional encoding", ""),
    "4.4": ("Random sparse context with attention", ""),
    "4.5": (
        "Dilated convolutions",
        "63.7 M is what the eight shifted copies and the centre come to, side by side before the last 1×1 convolution. The "
        "last row is ours and not in the thesis: the formula of its §3.5, a convolution over the centre and eight random "
        "positions that keeps the channels.",
    ),
    "4.6": (
        "Other architectures",
        "The thesis' 21.3 M (HRNet) and 28.6 M (ConvNeXt) include a classifier of 1000 classes; its 85.6 M (ViT) leaves out "
        "the position and class tokens. Our counts are without classifier throughout.",
    ),
    OWN: ("Rows that are not in the thesis", ""),
}
OWN_RECIPE = "‡"
IMAGENETTE = 3925  # validation images, on which the thesis' accuracies were taken
COLUMNS = [
    "architecture", "variant", "thesis_top1", "top1", "sd_points", "low", "high", "interval_over", "n", "seeds",
    "difference_points", "p", "p_holm", "thesis_difference_points", "parameters_million", "thesis_parameters_million",
    "trained_parameters_million", "blind", "blind_low", "blind_high", "tests",
]  # fmt: skip
BLIND = 0.05  # a table says in words which rows have a larger share of blind weights


class MissingRecord(FileNotFoundError):
    """A result that has not been made yet; ``command`` is what makes it."""

    def __init__(self, path, command):
        super().__init__(f"{Path(path).as_posix()} is not there yet; make it with: {command}")
        self.command = command


class BadRecord(ValueError):
    """A result that is there and cannot be right; the message starts with its path."""


@contextlib.contextmanager
def readable():
    """Within it a damaged record raises :class:`BadRecord`."""
    try:
        yield
    except DamagedRecord as error:
        raise BadRecord(str(error)) from None


def read_measured(folder, command):
    """The record of a measurement.

    Raises:
        MissingRecord: there is none; ``command`` makes it.
        BadRecord: it is damaged.
    """
    with readable():
        record = read_record(folder)
    if record is None:
        raise MissingRecord(Path(folder) / "record.json", command)
    return record


def make_command(protocol, variant=None):
    """The command that makes a protocol's records, or one variant's."""
    if variant is None:
        return "make repro" if protocol == "quick" else f"python -m ctxnet campaign --protocol {protocol}"
    return f"python -m ctxnet train --protocol {protocol} --variant {variant}"


def measure_command(variant):
    """The command that measures a full-size network at initialisation."""
    return f"python -m ctxnet measure --variant {variant}"


def lattice_command(variant):
    """The command that measures a full-size network everywhere over the photograph."""
    return f"python -m ctxnet measure --everywhere --variant {variant}"


def wiring_command(protocol):
    """The command that measures the cost and the share of blind weights of a protocol's rows."""
    return f"python -m ctxnet measure --protocol {protocol}"


def load_records(protocol, root="."):
    """All finished runs of one protocol as a DataFrame with :data:`RECORD_COLUMNS`, sorted by variant and seed.

    ``top1`` and ``top1_best`` are shares in 0…1, ``n`` counts validation images, ``parameters`` those of the
    trained network without its classifier. No run yet gives an empty frame; a run that is paused has no
    record and is left out.

    Raises:
        BadRecord: a record that is damaged (its digests say so), lacks a key, is of another protocol, variant
            or seed than its folder says, or holds an impossible number.
    """
    found = [_checked(folder, record, protocol) for folder, record in _records_of(protocol, root)]
    return pd.DataFrame(found, columns=RECORD_COLUMNS)


def independent_runs(protocol, root="."):
    """:func:`load_records` without the runs of crossed seeds, which share weights or draws: a mean over them would look
    surer than it is."""
    records = load_records(protocol, root)
    return records[records["seed"].map(lambda seed: isinstance(seed, int)).astype(bool)].reset_index(drop=True)


def replicates(protocol, root="."):
    """Every finished run of a protocol, crossed ones too, as a DataFrame with a row each.

    Columns: ``variant``, ``seed`` (its label), ``crossed`` (whether the seeds of weights, draw and data differ), ``init``
    and ``draw`` (seeds), ``top1`` (percent), ``distance`` (mean distance in px before training, mean over blocks), ``reach``
    (share of the image in the receptive field then, percent, mean over blocks), both NaN where they were not measured,
    ``train_loss`` (of the last epoch) and ``parameters`` (without classifier).
    """
    return _replicates(protocol, str(root), stamp_of([protocol], root)).copy()


@functools.lru_cache(maxsize=8)
def _replicates(protocol, root, stamp):  # stamp: all records, so that new ones are read
    from ctxnet.training.seeds import parse_seeds

    load_records(protocol, root)  # refuses what is impossible
    rows = []
    for _, record in _records_of(protocol, root):
        name, seeds, initial = record["variant"], parse_seeds(record["seed"]), record.get("initial", {})
        row = {"variant": name, "seed": record["seed"], "crossed": seeds.label != seeds.seed}
        row |= {"init": seeds.init, "draw": seeds.draw, "top1": 100 * record["top1"], "parameters": record["parameters"]}
        row |= {"distance": _mean(initial.get("distance", ())), "reach": 100 * _mean(initial.get("rf_share", ()))}
        row["train_loss"] = load_history(protocol, name, record["seed"], root)["train_loss"].iloc[-1]
        rows.append(row)
    return pd.DataFrame(rows, columns=REPLICATE_COLUMNS)


def stamp_of(protocols, root="."):
    """Which runs of these protocols are there, and since when: a key under which what was read of them may be kept."""
    folders = [Path(root) / "results" / protocol / "runs" for protocol in protocols]
    paths = sorted(path for folder in folders for path in folder.glob("*/seed*/record.json"))
    return tuple((str(path), path.stat().st_mtime_ns) for path in paths)


def _mean(values):
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else math.nan


def load_history(protocol, variant, seed=0, root="."):
    """One run's epochs: :data:`HISTORY_COLUMNS`, one row per epoch, and :data:`TRAIN_TOP1` where the run kept it.

    ``valid_loss`` and ``top1`` are NaN for epochs without validation.
    """
    frame = pd.DataFrame(_run(read_history, protocol, variant, seed, root)).astype({"epoch": int})
    if list(frame.columns) not in (HISTORY_COLUMNS, [*HISTORY_COLUMNS, TRAIN_TOP1]):
        folder = run_folder(protocol, variant, seed, root)
        raise BadRecord(f"{folder.as_posix()}/history.csv: columns {','.join(frame)} instead of {','.join(HISTORY_COLUMNS)}")
    return frame


def load_predictions(protocol, variant, seed=0, root="."):
    """One run's answers: ``image`` (its id), ``label`` and ``predicted`` (class indices)."""
    answers = _run(read_predictions, protocol, variant, seed, root)
    return pd.DataFrame(dict(zip(PREDICTION_COLUMNS, answers, strict=True)))


def minutes(protocol, root="."):
    """What one seed of a protocol took: {seed: minutes, all pieces of all rows} for the seeds that every trained row has.

    Minutes of processes, as their provenance states them; runs side by side each count in full. Nothing is averaged,
    since the load on the machine differed from seed to seed.
    """
    spent = {}
    for folder, record in records_of(protocol, root):
        spent.setdefault(record["seed"], {})[record["variant"]] = read_provenance(folder)["wall_seconds"] / 60
    rows = {row for seed in spent.values() for row in seed}
    return {seed: sum(each.values()) for seed, each in spent.items() if each.keys() == rows}


def load_profile(protocol, variant, seed=0, root="."):
    """The :class:`ctxnet.measure.ContextProfile` of a trained network."""
    return _run(read_context, protocol, variant, seed, root)[0]


def load_initial(variant, root="."):
    """The :class:`ctxnet.measure.ContextProfile` of the full-size network at initialisation."""
    return _read(read_context, Path(root) / "results" / "measure" / variant, measure_command(variant))[0]


def load_provenance(protocol, variant, seed=0, root="."):
    """Where, when and with what a run was made: a dict."""
    return _run(read_provenance, protocol, variant, seed, root)


def load_wiring(protocol, root="."):
    """What a protocol's networks are before training: {row: dict}, empty where that was not measured at these settings.

    Per row ``parameters`` (without the classifier), ``multiply_adds`` of one image and ``blind``: list of the shares of
    weights of convolutions that see nothing but padding, one for each draw of random positions.

    Raises:
        BadRecord: a record that is damaged or says something impossible.
    """
    folder = wiring_folder(protocol, root)
    with readable():
        record = read_record(folder)
    if record is None:
        return {}
    said, settings = record.get("settings", {}), settings_of(protocol, root)
    said = {key: value for key, value in said.items() if key not in ("draws", "rows")}  # no settings of a protocol
    rows = record.get("rows")
    if record.get("protocol") != protocol or not isinstance(rows, dict) or not all(map(_is_wiring, rows.values())):
        raise BadRecord(f"{folder.as_posix()}/record.json: no measurement of protocol {protocol!r}")
    return rows if said and all(getattr(settings, key, None) == value for key, value in said.items()) else {}


def blind_share(row):
    """(mean, lowest, highest) of a row's shares of blind weights over draws; NaN of an empty one.

    Args:
        row: dict, as :func:`load_wiring` gives it.
    """
    shares = row.get("blind", [math.nan])
    return sum(shares) / len(shares), min(shares), max(shares)


def blind(root="."):
    """Shares of weights that see nothing but padding (:func:`load_wiring`), means over draws, as a DataFrame: ``row``,
    ``architecture`` and the protocols of :data:`SIZES`, NaN where it was not measured."""
    found = {name: load_wiring(name, root) for name in SIZES}
    lines = []
    for row in [row for row in VARIANTS if any(row in rows for rows in found.values())]:
        line = {"row": row, "architecture": VARIANTS[row].label}
        for name, rows in found.items():
            line[name] = blind_share(rows.get(row, {}))[0]
        lines.append(line)
    return pd.DataFrame(lines, columns=["row", "architecture", *SIZES])


def _is_wiring(row):
    if not isinstance(row, dict) or not isinstance(row.get("blind"), list) or not row["blind"]:
        return False
    counts = [row.get("parameters"), row.get("multiply_adds")]
    shares = [value for value in row["blind"] if type(value) in (int, float) and 0 <= value <= 1]
    return len(shares) == len(row["blind"]) and all(type(count) is int and count > 0 for count in counts)


def _run(read, protocol, variant, seed, root):
    return _read(read, run_folder(protocol, variant, seed, root), make_command(protocol, variant))


def _read(read, folder, command):
    """``read(folder)`` in the words of the paper's two exceptions."""
    if not (folder / "record.json").exists():  # none yet, or a run that was stopped while it wrote
        raise MissingRecord(folder / "record.json", command)
    try:
        return read(folder)
    except ValueError as error:
        raise BadRecord(str(error)) from None


def missing_variants(protocol, variants, root="."):
    """Those of ``variants`` that have no finished run in ``protocol``, in the order given."""
    have = set(load_records(protocol, root)["variant"])
    return [variant for variant in variants if variant not in have]


def _checked(folder, record, protocol):
    name = f"{folder.as_posix()}/record.json"
    for key in ["protocol", *RECORD_COLUMNS]:
        if key not in record:
            raise BadRecord(f"{name}: no {key!r} in it")
    said = record["protocol"], record["variant"], f"seed{record['seed']}"
    place = protocol, folder.parent.name, folder.name
    for key, value, expected in zip(("protocol", "variant", "seed"), said, place, strict=True):
        if value != expected:
            raise BadRecord(f"{name}: {key} is {value!r}, its folder says {expected!r}")
    for key in ["n", "epochs", "parameters"]:  # whole numbers from 0 and shares in 0…1, says the store
        if record[key] < 1:
            raise BadRecord(f"{name}: {key} must be a positive integer, not {record[key]!r}")
    return {key: record[key] for key in RECORD_COLUMNS}


# ---- which rows and tables --------------------------------------------------------------------------------------------


def settings_of(protocol, root="."):
    """The :class:`ctxnet.training.Protocol` of this name."""
    from ctxnet.training import load_protocol

    return load_protocol(protocol, Path(root) / "params.yaml")


def rows_shown(protocol, root="."):
    """Rows of a protocol in the order of ``VARIANTS``: those it is to train and those that have a record."""
    from ctxnet.training import load_params, rows_of

    planned = rows_of(settings_of(protocol, root), load_params(Path(root) / "params.yaml"))
    known = {*planned, *load_records(protocol, root)["variant"]}
    return [name for name in VARIANTS if name in known]


def tables_shown(protocol, root="."):
    """``{number: rows}`` of the tables that have a row in this protocol beside :data:`BASELINE`, which leads each."""
    found = {number: [] for number in TABLES if number != OWN}
    for name in rows_shown(protocol, root):
        for number in VARIANTS[name].tables or ((OWN,) if name != BASELINE else ()):
            found.setdefault(number, []).append(name)
    numbers = sorted(found, key=lambda number: (number == OWN, natural(number)))
    return {number: [BASELINE, *found[number]] for number in numbers if found[number]}


def natural(number):
    """Sort key for numbers of tables and figures: 4.2 before 4.10, 1.2 before 1.2b."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.findall(r"\d+|\D+", number)]


def has_thesis_numbers(settings):
    """Whether the thesis' accuracies belong beside those of a protocol, which they do not if it has data of its own."""
    return settings.dataset in ("imagenette", "probe")


# ---- frames of numbers ------------------------------------------------------------------------------------------------


def table(number, protocol, root="."):
    """One table as a DataFrame with :data:`COLUMNS`, a row per architecture in the thesis' order.

    Accuracies in percent, means over seeds, ``sd_points`` their s.d.; differences to our (the thesis') ResNet-50 in
    percentage points; parameters in millions without classifier: of the full-width network, and (``trained_…``) of the
    one this protocol trained. ``low``/``high`` is a 95 % interval over what ``interval_over`` says: the validation images
    for one seed, seeds and images for several. ``p`` belongs to the difference and is there with three seeds of both
    rows; ``p_holm`` is corrected for all differences that the tables of this protocol test, of which there are ``tests``.
    ``blind``: share of the weights that see nothing but padding (:func:`load_wiring`), mean over draws, and its lowest and
    highest. What is unknown is NaN. A table without a row in this protocol is empty.

    Raises:
        ValueError: for an unknown table number, or runs on different images.
        BadRecord: see :func:`load_records`.
    """
    shown = tables_shown(protocol, root)
    require_known("table", number, {*TABLES, *shown})
    records, names = independent_runs(protocol, root), shown.get(number, [])
    answers, thesis = read_answers(protocol, names, records, root), has_thesis_numbers(settings_of(protocol, root))
    return _completed([row(name, records, answers, thesis=thesis) for name in names], protocol, root)


def _completed(lines, protocol, root):
    """Lines as :func:`row` gives them as a frame, with what takes more than them: the corrected p, and the blind weights."""
    frame = pd.DataFrame(lines, columns=COLUMNS)
    corrected, wiring = corrected_ps(protocol, root), load_wiring(protocol, root)
    shares = [blind_share(wiring.get(name.rpartition(":")[2], {})) for name in frame["variant"]]
    return frame.assign(
        p_holm=[corrected.get(name, math.nan) for name in frame["variant"]],
        tests=len(corrected),
        blind=[mean for mean, _, _ in shares],
        blind_low=[low for _, low, _ in shares],
        blind_high=[high for _, _, high in shares],
    )


def corrected_ps(protocol, root="."):
    """{row: p of its difference to :data:`BASELINE`, by Holm's method} over every row that any table of a protocol tests.

    A row is one test, however many tables show it. Rows trained by their own recipes are among them, named as in
    :func:`with_own_recipes`.
    """
    other = f"{protocol}_adamw"
    runs = [(name, folder, record) for name in (protocol, other) for folder, record in _records_of(name, root)]
    stamp = tuple((name, str(record["variant"]), str(record["seed"]), stable_hash(record)) for name, _, record in runs)
    return _corrected_ps(protocol, str(root), stamp)


def _records_of(protocol, root):
    with readable():
        return records_of(protocol, root)


@functools.lru_cache(maxsize=8)
def _corrected_ps(protocol, root, stamp):  # stamp: all records, so that new ones are read
    records = independent_runs(protocol, root)
    answers = read_answers(protocol, records["variant"], records, root)
    if BASELINE not in answers:
        return {}
    shown = [name for names in tables_shown(protocol, root).values() for name in names]
    answers |= _own_recipes(protocol, shown, root)[1]
    ps = {name: compare(name, BASELINE, answers).p for name in answers if name != BASELINE}
    ps = {name: p for name, p in ps.items() if not math.isnan(p)}
    return dict(zip(ps, statistics.holm(list(ps.values())).tolist(), strict=True))


def _own_recipes(protocol, names, root):
    """Runs and answers of those of some rows that AdamW trained, but for ResNet-50; named as in :func:`with_own_recipes`."""
    other = f"{protocol}_adamw"
    runs = independent_runs(other, root)
    runs = runs[runs["variant"].isin({*names} - {BASELINE})]
    answers = {f"{other}:{name}": found for name, found in read_answers(other, names, runs, root).items()}
    return runs.assign(variant=other + ":" + runs["variant"]), answers


def with_own_recipes(number, protocol, root="."):
    """:func:`table`, and a second line for each of its rows that was also trained by AdamW.

    Those records are of protocol ``<protocol>_adamw``; ``variant`` is ``<protocol>_adamw:<row>`` there, and the
    difference is to the same ResNet-50 as in the other lines. Without such records it is :func:`table`.
    """
    frame = table(number, protocol, root)
    runs, own = _own_recipes(protocol, frame["variant"], root)
    if not own:
        return frame
    answers = own | read_answers(protocol, [BASELINE], independent_runs(protocol, root), root)
    lines = [row(name, runs, answers) for name in own]
    lines = [line | {"architecture": f"{line['architecture']}, AdamW {OWN_RECIPE}"} for line in lines]
    return pd.concat([frame, _completed(lines, protocol, root)], ignore_index=True)


def read_answers(protocol, variants, records, root="."):
    """variant -> (image ids, bool (seeds, images)): which images its finished runs, those in ``records``, got right.

    Variants without a run are left out.

    Raises:
        BadRecord: the answers disagree with a record's accuracy, or a row's runs were tested on different images.
    """
    rows = {}
    for variant, runs in records[records["variant"].isin(variants)].groupby("variant"):
        frames = [load_predictions(protocol, variant, seed, root) for seed in runs["seed"]]
        try:
            images, right = statistics.right_answers(frames)
        except ValueError as error:
            folder = run_folder(protocol, variant, runs["seed"].iloc[0], root).parent
            raise BadRecord(f"{folder.as_posix()}: {error}") from None
        for seed, top1, share in zip(runs["seed"], runs["top1"], right.mean(1), strict=True):
            if abs(top1 - share) > 1e-6:
                folder = run_folder(protocol, variant, seed, root).as_posix()
                raise BadRecord(f"{folder}: its predictions give {share:.4f}, record.json says {top1:.4f}")
        rows[variant] = images, right
    return rows


def compare(a, b, rows):
    """:class:`ctxnet.paper.statistics.Comparison` of two of ``rows`` (:func:`read_answers`), A − B as shares.

    Raises:
        ValueError: rows tested on different images.
    """
    (images_a, right_a), (images_b, right_b) = rows[a], rows[b]
    if len(images_a) != len(images_b) or (images_a != images_b).any():
        raise ValueError(f"{a} and {b} were not tested on the same images, so they cannot be compared in pairs")
    return statistics.compare(right_a, right_b)


def accuracy(right):
    """:func:`ctxnet.paper.statistics.row_interval` in percent: ``top1``, ``low``, ``high`` and ``interval_over``."""
    mean, low, high, kind = statistics.row_interval(right)
    return {"top1": 100 * mean, "low": 100 * low, "high": 100 * high, "interval_over": kind}


def replicate_answers(protocol, rows, runs, root="."):
    """:func:`read_answers` for ``runs``, some of those of :func:`replicates`, whose top-1 is in percent."""
    return read_answers(protocol, rows, runs.assign(top1=runs["top1"] / 100), root)


def means(protocol, rows, runs, root="."):
    """What ``runs``, some of those of :func:`replicates`, come to row by row: list of dicts.

    Keys: ``row``, ``architecture``, ``n`` (runs), ``sd`` of top-1 over them, ``interval_over`` and, if there are runs, the
    others of :func:`accuracy`.
    """
    answers, lines = replicate_answers(protocol, rows, runs, root), []
    for name in rows:
        mine = runs.loc[runs["variant"] == name, "top1"]
        line = {"row": name, "architecture": VARIANTS[name].label, "n": len(mine), "sd": mine.std(), "interval_over": ""}
        lines.append(line | accuracy(answers[name][1]) if len(mine) else line)
    return lines


def row(variant, records, answers, *, thesis=True):
    """One line of :func:`table`, as a dict of :data:`COLUMNS`; ``answers`` as :func:`read_answers` gives them.

    ``thesis``: whether the thesis' accuracy may stand beside ours.
    """
    name = variant.rpartition(":")[2]  # "small_adamw:vit_base_patch16_224" is a row of another protocol
    about, runs = VARIANTS[name], records[records["variant"] == variant]
    line = dict.fromkeys(COLUMNS, math.nan) | {"architecture": about.label, "variant": variant, "seeds": len(runs)}
    line |= {"interval_over": "", "parameters_million": parameters_million(name)}
    if thesis and about.thesis_top1 is not None:
        line["thesis_top1"] = about.thesis_top1
        line["thesis_difference_points"] = round(about.thesis_top1 - VARIANTS[BASELINE].thesis_top1, 2)
    if thesis and about.thesis_params is not None:
        line["thesis_parameters_million"] = about.thesis_params
    if not len(runs):
        return line
    images, right = answers[variant]
    line |= accuracy(right) | {"n": len(images), "trained_parameters_million": runs["parameters"].iloc[0] / 1e6}
    if len(runs) > 1:
        line["sd_points"] = 100 * statistics.mean_sd(runs["top1"])[1]
    if variant == BASELINE:
        return line | {"difference_points": 0.0}
    if BASELINE in answers:
        found = compare(variant, BASELINE, answers)
        line |= {"difference_points": 100 * found.difference, "p": found.p}
    return line


@functools.cache
def parameters_million(variant):
    """Millions of parameters of the full-width network without classifier, counted on the built one, to the last."""
    import torch

    from ctxnet.models import count_parameters, create_model

    with torch.device("meta"):  # shapes only: nothing is allocated or initialised
        return count_parameters(create_model(variant)) / 1e6


def context(protocol, root="."):
    """How far every ResNet of a protocol looks, in numbers.

    Columns: architecture, variant, ``covered`` (first block, from 1, whose receptive field is the whole 224
    px image at full size; 0: none), ``initial_1``, ``initial_last`` and ``trained_1``, ``trained_last``: mean
    distance of the first and last block as a share of the input's side, full size at initialisation and
    trained. NaN where there is no record.
    """
    lines = []
    for name in rows_shown(protocol, root):
        if VARIANTS[name].arch != 50:
            continue
        line = {"architecture": VARIANTS[name].label, "variant": name}
        for kind, load in (("initial", load_initial), ("trained", functools.partial(load_profile, protocol))):
            with contextlib.suppress(MissingRecord):
                profile = load(name, root=root)
                side = profile.rf.shape[-1]
                line |= {f"{kind}_1": float(profile.distance[0]) / side, f"{kind}_last": float(profile.distance[-1]) / side}
                if kind == "initial":
                    line["covered"] = next((block for block, mask in enumerate(profile.rf, 1) if mask.all()), 0)
        lines.append(line)
    columns = ["architecture", "variant", "covered", "initial_1", "initial_last", "trained_1", "trained_last"]
    return pd.DataFrame(lines, columns=columns)
