"""``results/<protocol>/cards/<variant>.md``: a model card for every network that a protocol has trained.

A card is Markdown behind YAML front matter, the form that model hubs read; its words stand in ``card.md.j2``. Its numbers
come from the records through the functions that make the tables, so that a card and a table never disagree. Equal records
give equal bytes; no card carries a date.
"""

import dataclasses
import functools
import math
from pathlib import Path

import pandas as pd
import yaml

from ctxnet.files import stable_hash, write_text
from ctxnet.measure.summary import rf_side
from ctxnet.models.variants import VARIANTS
from ctxnet.paper import results, statistics, words
from ctxnet.paper.results import BASELINE, MissingRecord, load_initial, load_profile, make_command, measure_command
from ctxnet.paper.words import DATASETS, plain
from ctxnet.records import run_folder


def write_cards(protocol, root="."):
    """Write the card of every network with a finished run and remove those of the others; returns the folder.

    Raises:
        ValueError, BadRecord: as :func:`cards`.
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
    """``{network: text of its card}`` of all networks with a finished run, by name.

    Raises:
        ValueError: for an unknown protocol, or runs on other images than those of ResNet-50.
        BadRecord: see :func:`ctxnet.paper.results.load_records`.
    """
    settings, records = results.settings_of(protocol, root), results.load_records(protocol, root)
    if records.empty:
        return {}
    answers = results.read_answers(protocol, list(VARIANTS), records, root)
    labels = results.load_predictions(protocol, *records.loc[0, ["variant", "seed"]], root)["label"]
    return {variant: _text(variant, settings, records, answers, labels.nunique(), root) for variant in sorted(answers)}


def _text(variant, settings, records, answers, classes, root):
    from ctxnet.data.imagenette import CLASSES

    runs = records[records["variant"] == variant]
    origins = {seed: results.load_provenance(settings.name, variant, seed, root) for seed in runs["seed"]}
    thesis = results.has_thesis_numbers(settings)
    row = results.row(variant, records, answers, thesis=thesis)
    dataset, seed = words.dataset(settings), runs["seed"].iloc[0]
    context, missing = _context(variant, settings.name, seed, root)
    return _template().render(
        variant=variant, baseline=BASELINE, settings=settings, row=row, thesis=thesis, classes=classes,
        dataset=dataset, dataset_name=DATASETS.get(settings.dataset, dataset), imagenette=CLASSES.values(),
        called=DATASETS.get(settings.dataset) or plain(dataset), one_seed=words.ONE_SEED,
        network=_network(variant, row), in_timm=_is_in_timm(variant), training=_training(settings),
        outdated=_made_otherwise(variant, settings, runs, origins), each=_each(runs), mean=_mean(row, settings.name),
        context=context, missing=missing, folder=run_folder(settings.name, variant, seed).as_posix(),
        command=f"{make_command(settings.name, variant)} --seed {seed}",
        origin=_origin(variant, settings.name, origins.values()), **_compared(variant, row, answers),
    )  # fmt: skip


@functools.cache
def _template():
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    environment.globals |= {"table": _table, "facts": lambda rows: _table(["", ""], rows)}
    environment.filters["scalar"] = lambda value: yaml.safe_dump([value], allow_unicode=True, width=1000)[2:].rstrip()
    return environment.get_template("card.md.j2")


def _table(header, rows, numbers=()):
    return words.Table(header, rows, numbers).markdown().rstrip()


def _network(variant, row):
    """What it is: (fact, value) in words."""
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
    return [
        ["called", plain(about.label)],
        ["in the thesis", thesis],
        ["network", kind],
        ["arguments", arguments or "none"],
        ["parameters, full size", f"{row['parameters_million']:.3f} M without the classifier"],
        ["parameters, as trained", f"{row['trained_parameters_million']:.3f} M without the classifier"],
    ]


def _is_in_timm(variant):
    """Whether the name is timm's own; :func:`ctxnet.register_timm` leaves those alone."""
    import timm

    from ctxnet.models import register_timm

    register_timm()
    return timm.model_entrypoint(variant).__module__.startswith("timm.")


def _training(settings):
    """The settings that are on, but for the seeds: those that were trained are in the results."""
    shown = dataclasses.asdict(settings) | {"dataset": words.dataset(settings)}
    hidden = {"name", "note", "seeds", *words.PLACES} | (set() if settings.decay_epochs else {"decay_factor"})
    return [[key.replace("_", " "), words.setting_text(v)] for key, v in shown.items() if v and key not in hidden]


def _made_otherwise(variant, settings, runs, origins):
    """Seeds whose record is of other settings than params.yaml has now, as far as their provenance says on which data."""
    from ctxnet.training.protocol import identity

    manifests = [origin.get("data_manifest") for origin in origins.values()]
    return [
        seed for seed, made, manifest in zip(runs["seed"], runs["config_hash"], manifests, strict=True)
        if manifest and stable_hash(identity(settings, variant, seed, manifest)) != made
    ]  # fmt: skip


def _each(runs):
    """A line for every run."""
    return [
        [str(run["seed"]), f"{100 * run['top1']:.2f}", f"{100 * run['top1_best']:.2f}", str(run["epochs"]), f"{run['n']:,}"]
        for run in runs.to_dict("records")
    ]


def _mean(row, protocol):
    """Those cells of the network's line in a table that are about its accuracy."""
    # p_holm is a matter of a whole table; without it, cells() sets no sign of significance.
    header, (cells,) = words.cells(pd.DataFrame([row]).assign(p_holm=math.nan), protocol)
    found = dict(zip(header, cells, strict=True))
    return {key: found[key] for key in (f"{protocol} %", "s.d.", "95 % interval", "seeds", "thesis %") if key in found}


def _compared(variant, row, answers):
    """The comparison with ResNet-50: ``found`` (None without one), ``difference`` in words, ``compared`` as facts."""
    if variant == BASELINE or BASELINE not in answers:
        return {"found": None}
    found = results.compare(variant, BASELINE, answers)
    difference = f"{words.points(found.difference)} points"
    if not words.unknown(row["thesis_difference_points"]):
        difference += words.minus(f" ({row['thesis_difference_points']:+.2f} in the thesis)")
    said = words.compared(found)
    del said["difference A − B"]
    said["p"] += ", of this comparison alone"
    said["verdict"] = f"**{found.verdict()}**" + (f" than `{BASELINE}`" if found.p <= statistics.LEVEL else "")
    return {"found": found, "difference": difference, "compared": {"difference": difference, **said}.items()}


def _context(variant, protocol, seed, root):
    """(lines about the first and the last block, the command that measures what is missing or "")."""
    sources = {
        "full size, at initialisation": lambda: load_initial(variant, root),
        f"as trained, seed {seed}": lambda: load_profile(protocol, variant, seed, root),
    }
    rows, missing = [], ""
    for what, load in sources.items():
        try:
            profile = load()
        except MissingRecord:
            missing = measure_command(variant)
            continue
        side = profile.rf.shape[-1]
        for block in dict.fromkeys((0, len(profile.layers) - 1)):
            mask, distance = profile.rf[block], float(profile.distance[block])
            reach = f"{'' if profile.exact[block] else '≤ '}{rf_side(mask)}"
            far = ["–", "–"] if math.isnan(distance) else [f"{distance:.1f}", f"{100 * distance / side:.1f} %"]
            rows.append([f"{what}, {side} px", f"{block + 1} of {len(profile.layers)}", reach,
                         f"{100 * float(mask.double().mean()):.1f} %", *far])  # fmt: skip
    return rows, missing


def _origin(variant, protocol, found):
    """Where the runs came from, by their provenance: (fact, value) in words."""
    minutes = [(source.get("wall_seconds") or 0) / 60 for source in found]
    each = ", ".join(f"{spent:.1f}" for spent in minutes)
    machines = (f"{s.get('device')}, {s.get('cores')} cores, threads: {s.get('threads', '?')}" for s in found)
    return [
        ["commit", _distinct(f"{s.get('commit')}" + (" + changes" if s.get("dirty") else "") for s in found)],
        ["machine", _distinct(machines)],
        ["versions", _distinct(words.versions(s) for s in found)],
        ["wall minutes", f"{sum(minutes):.1f}" + (f" in all: {each}" if len(minutes) > 1 else "")],
        ["data manifest", _distinct(str(s.get("data_manifest")) for s in found)],
        ["records", f"`results/{protocol}/runs/{variant}/seed<k>/record.json`"],
    ]


def _distinct(texts):
    return "; ".join(plain(text) for text in sorted(set(texts)))
