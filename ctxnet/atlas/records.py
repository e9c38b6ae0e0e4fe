"""Measure rows once and keep the results: ``results/atlas/<name>/`` per network and two tables over all of them."""

import copy
import hashlib
import math
import os
import socket
import sys
import time
from functools import lru_cache
from pathlib import Path

import torch
from tqdm.auto import tqdm

from .. import provenance, records
from ..data import probe
from ..files import remove_partials, write_csv
from ..locking import one_writer
from ..measure import calibrate, context_profile
from ..models import create_model
from ..records import encode_profile, read_context, reusable, run_folder, write_record
from ..records.traces import measured, moments, parameters, refill, standardised, undisturbed
from ..tensors import read_weights
from .children import first_line
from .measures import SHARES, measure, probe_images, shown_stages, stages, throughput
from .names import find_row, folder_name
from .rows import ROWS
from .small import seeded

FOLDER = Path("results") / "atlas"
IMAGES, SEED = 2, 0  # of the probe set; two, because normalisation of a 1×1 map needs more than one
FILE = "file:"  # before the path of weights
CELLS, LEVELS = 112, 100  # of the stored maps
COLUMNS = [
    "name", "label", "family", "source", "weights", "size_px", "parameters", "multiply_adds", "blocks",
    "stage_layers", "stage_map", "stage_rf_px", "stage_rf_share", "rf", "whole_image_from_block", "stage_distance_px",
    "distance_px", "distance_share", "erf50_share", "erf90_share", "erf99_share",
    "small_distance_share", "small_erf50_share", "small_erf90_share", "small_erf99_share",
]  # fmt: skip
BLOCK_COLUMNS = ["name", "block", "layer", "map", "rf_px", "rf_share", "rf_exact", "distance_px",
                 "erf50_share", "erf90_share", "erf99_share"]  # fmt: skip


def command(name=None):
    """What makes a record, or all of them."""
    return "python -m ctxnet atlas" + (f" {name}" if name else "")


def measure_rows(names=(), *, root=".", weights=None, pretrained=False, input_size=None, images=IMAGES, progress=True):
    """Measure networks into ``results/atlas``, but for those whose record is up to date, and renew the tables.

    Args:
        names: as :func:`ctxnet.atlas.find_row` takes them; none: every row of the table.
        weights: file of weights for the one network named.
        pretrained: take the library's weights if they can be had; otherwise a note says so and fresh weights are used.
        input_size: side of the input in pixels; None: each row's own.
        images: how many probe images.

    Returns:
        ``(measured, kept, failed)``: folders of the networks measured now, of those whose record was up to date, and a
        dict from name to one line for each row that could not be measured. The failure of one does not stop the others.

    Raises:
        ValueError, FileNotFoundError: for a wrong name or file, before any work.
    """
    names = list(dict.fromkeys(names)) or list(ROWS)
    if pretrained:
        _look_for_connection()
    rows = {name: find_row(name) for name in names}
    if weights is not None:
        if len(names) != 1:
            raise ValueError(f"--weights belongs to one network, and {len(names)} are asked for; name just one")
        weights = f"{FILE}{Path(weights).as_posix()}", read_weights(weights)
    done, kept, failed = [], [], {}
    with tqdm(rows.items(), unit="row", desc="atlas", disable=not progress, mininterval=0.5) as bar:
        for name, row in bar:
            bar.set_postfix_str(name)
            try:
                folder, fresh = measure_row(name, row, root=root, weights=weights, pretrained=pretrained,
                                            input_size=input_size, images=images)  # fmt: skip
                (done if fresh else kept).append(folder)
            except Exception as error:  # models of all kinds fail in ways of all kinds
                failed[name] = first_line(error)
                say(f"{name}: {failed[name]}")
    write_tables(root)
    return done, kept, failed


def measure_row(name, row, *, root=".", weights=None, pretrained=False, input_size=None, images=IMAGES):
    """Measure one network, unless its record is there: ``(folder, measured now)``.

    A record belongs to everything that it follows from: the name, the weights where they were read from a file, the
    layers, size and images, and the trace of the architecture and of the code (:func:`_trace`).

    Args:
        weights: ``(label, state dict)`` to load, or None.
    """
    started, size = time.perf_counter(), input_size or row.size
    model, label = _build(name, row, weights, pretrained)
    layers = row.layer_names(model)
    settings = {
        "name": name, "size": size, "layers": layers, "images": images, "seed": SEED,
        "weights": weights_hash(model) if label else "initial",
    }  # fmt: skip
    folder = Path(root) / FOLDER / folder_name(name, label)
    with one_writer(folder):
        remove_partials(folder)
        key = {"settings": settings, "trace": _trace(model, size)}
        if reusable(folder, key):
            return folder, False
        result = measure(model, size, layers=layers, images=images, seed=SEED, fresh=not label)
        shown = shown_stages(result.values["map"])
        speed = throughput(model, probe_images(model, size, images, SEED))
        about = {} if name in ROWS else {"label": row.label, "family": row.family, "source": row.source}
        record = about | {
            "name": name, "weights": _shown(label), **key,
            "images": images, "small": row.small if not label else "", "shown": shown,
        } | result.values  # fmt: skip
        source = provenance.collect(root=root, device="cpu") | {
            "images_per_second": round(speed, 2), "batch": images,
            "wall_seconds": round(time.perf_counter() - started, 1),
        }  # fmt: skip
        # the numbers of the record are of all layers
        maps = encode_profile(result.profile.only(shown), cells=CELLS, levels=LEVELS)
        write_record(folder, record, {"context.npz": maps}, source)
    return folder, True


def _trace(model, size):
    """The trace of any network: its parameters, its output for one image, and what the measures give for a small
    network. A copy of it gets weights that are the same on every processor."""
    with undisturbed(), torch.no_grad():
        copied = copy.deepcopy(model).double().eval()
        refill(copied)
        try:
            output = copied(probe_images(model, size, 1, SEED).double())
        except RuntimeError:  # it insists on single precision
            output = torch.zeros(0)
        while not torch.is_tensor(output):
            output = next(iter(output.values() if isinstance(output, dict) else output))
        return {"parameters": parameters(model), "output": moments(output), **_reference()}


@lru_cache
def _reference():
    """What the measures give for a small network that has most of what they deal with, once per process."""
    model = create_model("resnet50_perm1_attn", width=8, input_size=64, seed=SEED).double()
    refill(model)
    pixels, _ = probe.make_probe(2, image_size=64, seed=SEED)
    images = standardised(pixels)
    calibrate(model, images)
    with torch.enable_grad():
        return measured(context_profile(model, images))


def _shown(label):
    """What a record calls its weights; a file called ``initial`` or ``pretrained`` is neither."""
    stem = Path(label).stem
    if not label.startswith(FILE):
        return label or "initial"
    return f"file {stem}" if stem in ("initial", "pretrained") else stem


def _build(name, row, weights, pretrained):
    """(model, label of its weights); the label is "" for fresh ones."""
    if pretrained and weights is None:
        reason = "nobody offers any"
        if row.downloads:
            try:
                return seeded(row.build, pretrained=True, seed=SEED).eval(), "pretrained"
            except Exception as error:  # no connection, no such weights: libraries raise what they like
                reason = first_line(error)[:120]
        say(f"{name}: random weights, for no pretrained ones can be had here ({reason})")
    model = seeded(row.build, seed=SEED).eval()
    if weights is None:
        return model, ""
    label, state = weights
    _load(model, state, name)
    return model, label


def _look_for_connection():
    """Without a connection, have Hugging Face's client look into its cache at once: it would retry for a minute per network.

    It reads the variable when it is imported, which is when the first network of timm is looked up.
    """
    try:
        socket.create_connection(("huggingface.co", 443), timeout=3).close()
    except OSError:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")


def _load(model, state, name):
    """Load a state dict; a classifier of another number of classes keeps its fresh weights.

    Raises:
        ValueError: in one line, naming the first tensor that is missing, unknown or misshapen.
    """
    own = model.state_dict()
    last = next((path for path, m in reversed(list(model.named_modules())) if isinstance(m, torch.nn.Linear)), None)
    loaded = {}
    for tensor in sorted(set(own) | set(state)):
        if tensor not in own or tensor not in state:
            if not tensor.endswith("num_batches_tracked"):
                where = "missing from" if tensor in own else "unknown to the model but in"
                raise ValueError(f"{name}: {tensor} is {where} the weights; they belong to another architecture")
        elif own[tensor].shape == state[tensor].shape:
            loaded[tensor] = state[tensor]
        elif tensor.rpartition(".")[0] != last:
            shapes = f"{tuple(state[tensor].shape)}, in the model {tuple(own[tensor].shape)}"
            raise ValueError(f"{name}: {tensor} has shape {shapes}; these weights are of another size")
    model.load_state_dict(loaded, strict=False)


def weights_hash(model):
    """Hex SHA-256 of all parameters and buffers of a model, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def say(text):
    tqdm.write(f"ctxnet: {text}", file=sys.stderr)


# ---- what is on disk --------------------------------------------------------------------------------------------------


def read_record(folder):
    """The record of one network and its digests checked.

    Raises:
        FileNotFoundError: there is none, with the command that makes it.
        ValueError: it or a file it vouches for is damaged.
    """
    record = records.read_record(folder)
    if record is None:
        raise FileNotFoundError(f"{Path(folder).as_posix()}: no record yet; make it with: {command(Path(folder).name)}")
    parts = [f"{part:g}" for part in SHARES]
    if list(record["erf_share"]) != parts:
        raise records.DamagedRecord(Path(folder) / "record.json", folder, f"erf_share: {', '.join(parts)} were expected")
    return record


def read_records(root="."):
    """All records by folder name: the rows of the table in its order, then others by name.

    Raises:
        ValueError: for a damaged one.
    """
    base = Path(root) / FOLDER
    found = {path.parent.name: read_record(path.parent) for path in sorted(base.glob("*/record.json"))}
    order = {name: number for number, name in enumerate(ROWS)}
    return dict(sorted(found.items(), key=lambda item: (order.get(item[0], len(order)), item[0])))


# ---- tables -----------------------------------------------------------------------------------------------------------


def write_tables(root="."):
    """Write ``atlas.csv`` (a line per network) and ``blocks.csv`` (a line per measured layer); returns the first's path.

    Equal records give equal bytes. Lists in a cell are separated by blanks.
    """
    found, folder = read_records(root), Path(root) / FOLDER
    write_csv(folder / "atlas.csv", COLUMNS, [list(summary(r, name, root).values()) for name, r in found.items()])
    lines = []
    for name, r in found.items():
        shares = zip(*r["erf_share"].values(), strict=True)
        columns = zip(r["layers"], r["map"], r["rf_side"], r["rf_share"], r["rf_exact"], r["distance"], shares, strict=True)
        lines += [[name, number, *values, *erf] for number, (*values, erf) in enumerate(columns, start=1)]
    write_csv(folder / "blocks.csv", BLOCK_COLUMNS, [["" if v is None else v for v in line] for line in lines])
    return folder / "atlas.csv"


def summary(record, name=None, root="."):
    """One network as a dict of :data:`COLUMNS`; "" is unknown.

    Distances as a share are of the side of the input. ``small_…`` is the last block of the same architecture as trained
    under protocol ``small`` (64 px, a quarter of the channels), where that record lies in ``results/small``.
    """
    ends, side = stages(record["map"]), record["size"]
    whole = [number for number, share in enumerate(record["rf_share"], start=1) if share == 1]
    last = record["distance"][-1]

    def at_ends(key):
        return " ".join("–" if record[key][i] is None else f"{record[key][i]:.5g}" for i in ends)

    about = ROWS.get(record["name"])  # what a row of the table is called is not in its record
    label, family, source = (getattr(about, key) if about else record[key] for key in ("label", "family", "source"))
    shares = {part: record["erf_share"][f"{part:g}"][-1] for part in SHARES}
    return {
        "name": name or record["name"],
        "label": label if record["weights"] == "initial" else f"{label}, {record['weights']}",
        "family": family, "source": source, "weights": record["weights"], "size_px": side,
        "parameters": record["parameters"], "multiply_adds": record["multiply_adds"], "blocks": len(record["layers"]),
        "stage_layers": " ".join(record["layers"][i] for i in ends),
        "stage_map": " ".join(str(record["map"][i]) for i in ends),
        "stage_rf_px": at_ends("rf_side"), "stage_rf_share": at_ends("rf_share"),
        "rf": "exact" if all(record["rf_exact"][i] for i in ends) else "upper bound",
        "whole_image_from_block": whole[0] if whole else "",
        "stage_distance_px": at_ends("distance"),
        "distance_px": "" if last is None else last,
        "distance_share": "" if last is None else round(last / side, 5),
        **{f"erf{100 * part:g}_share": "" if share is None else share for part, share in shares.items()},
        **_trained(record["small"], root),
    }  # fmt: skip


def _trained(variant, root):
    keys = ["small_distance_share", *(f"small_erf{100 * part:g}_share" for part in SHARES)]
    folder = run_folder("small", variant, root=root)
    if not variant or not (folder / "record.json").exists():
        return dict.fromkeys(keys, "")
    profile, numbers = read_context(folder)
    distance = float(profile.distance[-1]) / profile.rf.shape[-1]
    shares = [float(numbers[f"erf{100 * part:g}_share"][-1]) for part in SHARES]
    shown = ["" if math.isnan(share) else round(share, 4) for share in shares]
    return dict(zip(keys, ["" if math.isnan(distance) else round(distance, 5), *shown], strict=True))

