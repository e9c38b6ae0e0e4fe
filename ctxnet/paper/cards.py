"""``results/<protocol>/cards/<variant>.md``: a model card for every network that a protocol has trained.

A card is Markdown behind YAML front matter, the form that model hubs read. Numbers come from the records through the
functions that make the tables, so that a card and a table never disagree. Equal records give equal bytes; no card carries
a date.
"""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import yaml

from ctxnet.files import stable_hash, write_text
from ctxnet.measure.summary import rf_side
from ctxnet.models.variants import VARIANTS
from ctxnet.naming import require_known
from ctxnet.paper import results, statistics, words
from ctxnet.paper.results import (
    BASELINE,
    MissingRecord,
    load_initial,
    load_predictions,
    load_profile,
    load_provenance,
    load_records,
    make_command,
    measure_command,
)
from ctxnet.paper.words import DATASETS, plain
from ctxnet.records import run_folder


@dataclass(frozen=True)
class Shared:
    """What the cards of one protocol have in common, read once.

    Attributes:
        settings: :class:`ctxnet.training.Protocol`.
        records: as :func:`ctxnet.paper.results.load_records` gives them.
        answers: as :func:`ctxnet.paper.results.read_answers` gives them.
        classes: number of classes; 0 where nothing has been trained.
        root: the repository.
    """

    settings: object
    records: pd.DataFrame
    answers: dict
    classes: int
    root: Path


def card(protocol, variant, root="."):
    """The card of one network as text.

    Raises:
        ValueError: for an unknown protocol or network, or runs on other images than those of ResNet-50.
        MissingRecord: the network has no finished run.
        BadRecord: see :func:`ctxnet.paper.results.load_records`.
    """
    require_known("row", variant, VARIANTS)
    return _text(variant, _read(protocol, [variant, BASELINE], root, needed=variant))


def write_cards(protocol, root="."):
    """Write the card of every network with a finished run, remove those of the others; returns the folder.

    Raises:
        ValueError, BadRecord: as :func:`card`.
    """
    every = cards(protocol, root)
    folder = Path(root) / "results" / protocol / "cards"
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.md"):
        if path.stem not in every:
            path.unlink()
    for variant, text in every.items():
        write_text(folder / f"{variant}.md", text)
    return folder


def cards(protocol, root="."):
    """``{network: text of its card}`` of all networks with a finished run, by name; errors as :func:`card`."""
    shared = _read(protocol, list(VARIANTS), root)
    return {variant: _text(variant, shared) for variant in sorted(shared.answers)}


def _read(protocol, variants, root, needed=None):
    root = Path(root)
    settings = results.settings_of(protocol, root)
    records = load_records(protocol, root)
    if needed and needed not in set(records["variant"]):
        raise MissingRecord(root / "results" / protocol / "runs" / needed, make_command(protocol, needed))
    answers = results.read_answers(protocol, variants, records, root)
    if records.empty:
        return Shared(settings, records, answers, 0, root)
    labels = load_predictions(protocol, *records.loc[0, ["variant", "seed"]], root)["label"]
    return Shared(settings, records, answers, labels.nunique(), root)


def _text(variant, shared):
    runs = shared.records[shared.records["variant"] == variant]
    thesis = results.has_thesis_numbers(shared.settings)
    row = results.row(variant, shared.records, shared.answers, thesis=thesis)
    front = yaml.safe_dump(_front(variant, shared, row), sort_keys=False, allow_unicode=True, width=1000)
    parts = [
        f"---\n{front}---",
        f"# `{variant}`, trained under protocol `{shared.settings.name}`",
        _network(variant, row),
        _building(variant, shared),
        _training(variant, runs, shared),
        _results(variant, runs, row, shared),
        _difference(variant, row, shared),
        _context(variant, runs, shared),
        _limits(variant, runs, shared),
        _origin(variant, runs, shared),
    ]
    return "\n\n".join(parts) + "\n"


def _front(variant, shared, row):
    """The front matter as a dict; accuracies in it are shares in 0 … 1."""
    dataset = words.dataset(shared.settings)
    seeds = f"mean over {row['seeds']} seeds" if row["seeds"] > 1 else "one seed"
    result = {
        "task": {"type": "image-classification", "name": "Image classification"},
        "dataset": {"type": dataset, "name": DATASETS.get(shared.settings.dataset, dataset), "split": "validation"},
        "metrics": [{"type": "accuracy", "name": f"top-1, {seeds}", "value": round(row["top1"] / 100, 4)}],
    }
    return {
        "license": "mit",
        "library_name": "ctxnet",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "receptive-field", "pytorch"],
        "datasets": [dataset],
        "metrics": ["accuracy"],
        "model-index": [{"name": variant, "results": [result]}],
    }


def _network(variant, row):
    about = VARIANTS[variant]
    shown = sorted({number for row in VARIANTS.values() for number in row.tables} if variant == BASELINE else about.tables)
    where = f"Table{'s' if len(shown) > 1 else ''} {', '.join(shown)}"
    if words.unknown(row["thesis_top1"]):
        thesis = f"no; ours, shown in {where}" if shown else "no"
    else:
        thesis = f"{where}: {about.thesis_top1:.2f} % top-1, {about.thesis_params:.1f} M parameters"
    kind = f"ResNet of depth {about.arch}" if isinstance(about.arch, int) else f"`{about.arch}` of timm"
    if str(about.arch).startswith("cifar_"):
        kind = f"{about.label} for images of 32×32 pixels (He et al. 2016)"
    arguments = ", ".join(f"`{key}={value!r}`" for key, value in about.args.items())
    what = [
        ["called", plain(about.label)],
        ["in the thesis", thesis],
        ["network", kind],
        ["arguments", arguments or "none"],
        ["parameters, full size", f"{row['parameters_million']:.3f} M without the classifier"],
        ["parameters, as trained", f"{row['trained_parameters_million']:.3f} M without the classifier"],
    ]
    return "## What it is\n\n" + _facts(what)


def _building(variant, shared):
    settings = shared.settings
    trained = f'"{variant}", num_classes={shared.classes}, width={settings.width}, input_size={settings.image_size}'
    trained += f", drop_rate={settings.drop_rate}" if settings.drop_rate else ""
    lines = [
        "import ctxnet",
        "",
        f'full = ctxnet.create_model("{variant}", num_classes={shared.classes})',
        f"as_trained = ctxnet.create_model({trained}, seed=0)",
    ]
    after = ""
    if _is_in_timm(variant):
        after = f'\n\n`timm.create_model("{variant}")` builds the network that timm itself has under this name.'
    else:
        lines += ["", "import timm", "", "ctxnet.register_timm()"]
        lines += [f'full = timm.create_model("{variant}", num_classes={shared.classes})']
    return "## How to build it\n\n" + _code(lines, "python") + after


def _is_in_timm(variant):
    """Whether the name is timm's own; :func:`ctxnet.register_timm` leaves those alone."""
    import timm

    from ctxnet.models import register_timm

    register_timm()
    return timm.model_entrypoint(variant).__module__.startswith("timm.")


def _training(variant, runs, shared):
    settings = dataclasses.asdict(shared.settings)
    del settings["name"], settings["note"], settings["seeds"]  # the seeds that were trained are in the results
    if not settings["decay_epochs"]:
        del settings["decay_factor"]
    settings["dataset"] = words.dataset(shared.settings)
    rows = [[key.replace("_", " "), str(words.setting_text(value))] for key, value in settings.items() if value]
    text = f"From scratch, under protocol `{shared.settings.name}` of `params.yaml`. What is not listed is off. "
    text += "Epochs count from 0; a width of 64 is full size."
    old = [str(seed) for seed in _made_otherwise(variant, runs, shared)]
    if old:
        text += f" **These settings have changed since seed{'s' if len(old) > 1 else ''} {', '.join(old)} "
        text += f"{'were' if len(old) > 1 else 'was'} trained:** the results below belong to earlier ones."
    return f"## How it was trained\n\n{text}\n\n" + _table(["setting", "value"], rows)


def _made_otherwise(variant, runs, shared):
    """Seeds whose record is of other settings than params.yaml has now, as far as their provenance says on which data."""
    from ctxnet.training.protocol import identity

    seeds = []
    for run in runs.to_dict("records"):
        manifest = load_provenance(shared.settings.name, variant, run["seed"], shared.root).get("data_manifest")
        if manifest and stable_hash(identity(shared.settings, variant, run["seed"], manifest)) != run["config_hash"]:
            seeds.append(run["seed"])
    return seeds


def _results(variant, runs, row, shared):
    name = shared.settings.name
    each = [
        [str(run["seed"]), f"{100 * run['top1']:.2f}", f"{100 * run['top1_best']:.2f}", str(run["epochs"]), f"{run['n']:,}"]
        for run in runs.to_dict("records")
    ]
    # p_holm is a matter of a whole table; without it, cells() sets no sign of significance.
    header, (cells,) = words.cells(pd.DataFrame([row]).assign(p_holm=math.nan), name)
    found = dict(zip(header, cells, strict=True))
    shown = [key for key in (f"{name} %", "s.d.", "95 % interval", "seeds", "thesis %") if key in found]
    mean = _table(shown, [[found[key] for key in shown]], range(len(shown)))
    seeds = f"Mean over {len(runs)} seeds; the interval covers seeds and images."
    if row["interval_over"] == "images":
        seeds = f"{words.IMAGES_ONLY} One seed: the interval covers the choice of images and nothing else. It does not say "
        seeds += "what another training would give."
    text = f"Top-1 in percent on the validation images of {_called(shared.settings)}, after the last epoch."
    single = _table(["seed", "top-1 %", "best epoch %", "epochs", "images"], each, range(5))
    return "\n\n".join(["## Results", text, single, mean, seeds])


def _difference(variant, row, shared):
    base = BASELINE
    if variant == base:
        return f"## Compared\n\nThis is the network that the others of protocol `{shared.settings.name}` are compared with."
    if base not in shared.answers:
        return f"## Compared\n\nNot compared with `{base}`, which has no finished run in this protocol."
    found = results.compare(variant, base, shared.answers)
    difference = f"{words.points(found.difference)} points"
    if not words.unknown(row["thesis_difference_points"]):
        difference += words.minus(f" ({row['thesis_difference_points']:+.2f} in the thesis)")
    text = f"`python -m ctxnet compare {variant} {base} --protocol {shared.settings.name}`"
    if not found.testable:
        return f"## Compared with `{base}`\n\n{text}: {difference}. No verdict: {found.verdict()}."
    said = words.compared(found)
    del said["difference A − B"]
    said["p"] += ", of this comparison alone"
    verdict = f"**{found.verdict()}**" + (f" than `{base}`" if found.p <= statistics.LEVEL else "")
    rows = [["difference", difference], *map(list, said.items()), ["verdict", verdict]]
    note = "The tables of the report correct p for the number of rows in a table, so that a close verdict can differ there."
    return f"## Compared with `{base}`\n\n{text}\n\n{_facts(rows)}\n\n{note}"


def _context(variant, runs, shared):
    name, seed = shared.settings.name, runs["seed"].iloc[0]
    sources = {
        "full size, at initialisation": lambda: load_initial(variant, shared.root),
        f"as trained, seed {seed}": lambda: load_profile(name, variant, seed, shared.root),
    }
    rows, missing = [], ""
    for what, load in sources.items():
        try:
            profile = load()
        except MissingRecord:
            missing = f"\n\nNot measured at full size yet: `{measure_command(variant)}`."
            continue
        side = profile.rf.shape[-1]
        for block in dict.fromkeys((0, len(profile.layers) - 1)):
            mask, distance = profile.rf[block], float(profile.distance[block])
            reach = f"{'' if profile.exact[block] else '≤ '}{rf_side(mask)}"
            far = ["–", "–"] if math.isnan(distance) else [f"{distance:.1f}", f"{100 * distance / side:.1f} %"]
            rows.append([f"{what}, {side} px", f"{block + 1} of {len(profile.layers)}", reach,
                         f"{100 * float(mask.double().mean()):.1f} %", *far])  # fmt: skip
    header = ["network", "block", "receptive field, px", "of the image", "mean distance, px", "of the side"]
    text = "Receptive field: the longer side of the box around the pixels that the middle feature of a block can see, and "
    text += "their share of the image. Mean distance: from that feature's place, weighted by how much each pixel counts."
    return f"## How far it looks\n\n{text}\n\n" + _table(header, rows, range(1, 6)) + missing


def _limits(variant, runs, shared):
    settings = shared.settings
    seed = runs["seed"].iloc[0]
    folder = run_folder(settings.name, variant, seed).as_posix()
    lines = [
        "For research and teaching: to compare networks, and what their features see, under one fixed recipe.",
        _what_it_knows(settings),
        f"It was trained at {settings.image_size} px and width {settings.width} of 64 for {settings.epochs} epochs"
        + _scale(settings)
        + ".",
        "It was evaluated on these validation images and on nothing else: not on other data, shifted or hostile images, nor "
        "for fairness, calibration or any use that matters to people.",
        "Its weights are not in the repository. The command below makes them; a run that has a record counts as finished, "
        f"so move `{folder}` away first. They are read by `load_tensors` of `ctxnet.tensors`: "
        f'`as_trained.load_state_dict(load_tensors("{folder}/weights.safetensors")[0])`.\n\n  '
        + _code([f"{make_command(settings.name, variant)} --seed {seed}"], "sh").replace("\n", "\n  "),
    ]
    return "## Intended use and limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _what_it_knows(settings):
    from ctxnet.data.imagenette import CLASSES

    if settings.dataset == "imagenette":
        return (
            f"It tells the ten classes of Imagenette apart ({', '.join(CLASSES.values())}) and gives any other image one of "
            "these names. The images are ImageNet's, whose terms apply: research use, no redistribution."
        )
    if settings.dataset == "probe":
        return (
            "It tells the ten classes of the probe set apart: drawn by a program, the bearing of one mark from another. Its "
            "accuracy says nothing about photographs, nor about the thesis'."
        )
    return f"It tells the classes of {_called(settings)} apart and gives any other image one of their names."


def _scale(settings):
    full = settings.width, settings.image_size, settings.epochs
    if not results.has_thesis_numbers(settings):
        return ""
    if full == (64, 224, 100):
        return ", the size of the thesis"
    return (
        "; the thesis trained full-width networks at 224 px for 100. Compare its accuracy with others of this protocol, not "
        "with the thesis' nor with published ones"
    )


def _origin(variant, runs, shared):
    found = {seed: load_provenance(shared.settings.name, variant, seed, shared.root) for seed in runs["seed"]}
    minutes = {seed: (source.get("wall_seconds") or 0) / 60 for seed, source in found.items()}
    each = ", ".join(f"{spent:.1f}" for spent in minutes.values())
    machines = (f"{s.get('device')}, {s.get('cores')} cores, threads: {s.get('threads', '?')}" for s in found.values())
    rows = [
        ["commit", _distinct(f"{s.get('commit')}" + (" + changes" if s.get("dirty") else "") for s in found.values())],
        ["machine", _distinct(machines)],
        ["versions", _distinct(_versions(s) for s in found.values())],
        ["wall minutes", f"{sum(minutes.values()):.1f}" + (f" in all: {each}" if len(minutes) > 1 else "")],
        ["data manifest", _distinct(str(s.get("data_manifest")) for s in found.values())],
        ["records", f"`results/{shared.settings.name}/runs/{variant}/seed<k>/record.json`"],
    ]
    return "## Where it came from\n\n" + _facts(rows)


def _versions(source):
    return ", ".join(f"{name} {version}" for name, version in sorted((source.get("versions") or {}).items()) if version)


def _distinct(texts):
    return "; ".join(plain(text) for text in sorted(set(texts)))


def _called(settings):
    """The data set within a sentence."""
    return DATASETS.get(settings.dataset) or plain(words.dataset(settings))


def _table(header, rows, numbers=()):
    return words.Table(header, rows, numbers).markdown().rstrip()


def _facts(rows):
    return _table(["", ""], rows)


def _code(lines, language):
    return "\n".join([f"```{language}", *lines, "```"])
