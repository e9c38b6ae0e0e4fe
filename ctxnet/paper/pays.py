"""Chapter 8: context that pays, on the full network at two sizes. Numbers and tables from ``pays`` and ``pays128``.

The contrasts were written down before their runs (``hypotheses.yaml``) and are tested when all of their replicates are
there (:mod:`ctxnet.paper.contrasts`), those of each size as a family of their own. All else is exploratory. The records are
those of :data:`PROTOCOLS`, whichever protocol the other chapters show.
"""

import csv
import functools
import math
from contextlib import suppress
from pathlib import Path

import pandas as pd

from ctxnet.models.variants import VARIANTS
from ctxnet.paper import results, statistics, studies, words
from ctxnet.paper.coherence import formula
from ctxnet.paper.contrasts import family
from ctxnet.paper.results import BASELINE
from ctxnet.paper.studies import hypotheses, planned

PROTOCOLS = ("pays", "pays128")
CHEAPEST = "starved_shift1"
GOAL = 1.0  # points over plain ResNet-50
MOST = {"parameters": 1.10, "time": 1.15}  # a block may cost so much, as ratios to plain ResNet-50
BENCHMARK = "results/benchmarks/rows-cpu.csv"  # of benchmarks.rows
TIME_COMMAND = "python -m benchmarks.rows"
FILES = {name: f"tables/pays_{name}.csv" for name in ("contrasts", "rows")}
SHARES = ("parameters", "multiply_adds", "time")
CONTRAST_COLUMNS = [
    "protocol", "contrast", "text", "row", "kind", "cells", "estimate", "low", "high", "p", "low_all", "high_all", "p_holm",
    "margin", "n", "planned", "looked", "waits_for", "verdict", "goal", "power", "needed",
]  # fmt: skip
ROW_COLUMNS = ["protocol", "row", "architecture", "n", "top1", "low", "high", "interval_over", "sd", "train_loss", *SHARES]


def size(protocol, root="."):
    """What tells the two protocols apart in texts: "64 px"."""
    return f"{results.settings_of(protocol, root).image_size} px"


def runs(protocol, root="."):
    """The planned runs of a protocol that are there, as :func:`ctxnet.paper.results.replicates` gives them."""
    frame, (rows, seeds) = _replicates(protocol, str(root), results.stamp_of([protocol], root)), planned(protocol, root)
    return frame[frame["variant"].isin(rows) & frame["seed"].isin(seeds)].reset_index(drop=True)


@functools.lru_cache(maxsize=8)
def _replicates(protocol, root, stamp):  # stamp: all records, so that new ones are read
    return results.replicates(protocol, root)


def costs(protocol, root="."):
    """{row: ratios to plain ResNet-50} at the sizes of a protocol: ``parameters`` (without classifier) and ``multiply_adds``
    of one image, both counted on the network, and ``time`` of a step of training, NaN where ``benchmarks.rows`` has not
    measured it."""
    settings, (rows, _) = results.settings_of(protocol, root), planned(protocol, root)
    scale = settings.image_size / 224 if settings.scale_offsets else 1.0
    counts = {row: _counts(row, settings.width, settings.image_size, scale) for row in {*rows, BASELINE}}
    time = _times(protocol, root)
    found = {}
    for row in rows:
        parameters, adds = (mine / plain for mine, plain in zip(counts[row], counts[BASELINE], strict=True))
        found[row] = {"parameters": parameters, "multiply_adds": adds, "time": time.get(row, math.nan)}
    return found


@functools.lru_cache(maxsize=256)
def _counts(row, width, image_size, offset_scale):
    """(parameters without classifier, multiply-adds) of a network, built of shapes alone."""
    import torch

    from ctxnet.atlas.measures import multiply_adds
    from ctxnet.models import count_parameters, create_model

    chosen = {"offset_scale": offset_scale} if isinstance(VARIANTS[row].arch, int) else {}
    with torch.device("meta"):
        model = create_model(row, width=width, input_size=image_size, **chosen)
        return count_parameters(model), multiply_adds(model, torch.zeros(1, 3, image_size, image_size))


def _times(protocol, root):
    """{row: time of a step ÷ that of plain ResNet-50}, as the benchmark has it; empty without one."""
    with suppress(FileNotFoundError), (Path(root) / BENCHMARK).open(newline="") as handle:
        lines = [line for line in csv.DictReader(handle) if line["protocol"] == protocol]
        return {line["row"]: float(line[f"time ÷ {BASELINE}"]) for line in lines}
    return {}


def too_dear(cost):
    """Which limits of :data:`MOST` the costs of a row exceed, as far as they are known: list of keys."""
    return [key for key, most in MOST.items() if cost[key] > most]


# ---- numbers ----------------------------------------------------------------------------------------------------------


def tested(protocol, root="."):
    """list of (:class:`ctxnet.paper.contrasts.Contrast`, p after Holm's correction), one for every hypothesis; points."""
    return family(hypotheses(protocol, root), _values(runs(protocol, root)))


def _values(frame):
    """{row: top-1 of its runs in the order of the seeds}."""
    return {row: list(each.sort_values("seed")["top1"]) for row, each in frame.groupby("variant")}


def contrasts(root="."):
    """The hypotheses of both protocols as a DataFrame, in the order of their file.

    Columns: :data:`CONTRAST_COLUMNS`, those of :func:`ctxnet.paper.studies.contrast_line` and ``protocol``, ``row`` (whose
    gain over plain ResNet-50 it is), ``low_all``, ``high_all`` (95 % for all of the protocol together, Bonferroni), ``goal``
    ("reached", "missed", "open" or, for equivalence, "") and ``power`` (chance in 0…1 to show a true gain of :data:`GOAL`
    with this scatter). Points; NaN if not tested.
    """
    lines = []
    for protocol in PROTOCOLS:
        values, found = _values(runs(protocol, root)), tested(protocol, root)
        lines += [{"protocol": protocol} | _line(one, p_holm, values, len(found)) for one, p_holm in found]
    return pd.DataFrame(lines, columns=CONTRAST_COLUMNS)


def _line(one, p_holm, values, tests):
    about, line = one.hypothesis, studies.contrast_line(one, p_holm, tests, formula)
    half = float(statistics.half_width(one.error, one.degrees, statistics.LEVEL / tests)) if one.complete else math.nan
    line |= {"low_all": one.estimate - half, "high_all": one.estimate + half, "power": math.nan}
    line |= {"row": next(row for row, weight in about.cells.items() if weight > 0), "goal": "open"}
    if about.kind == "equivalent":
        line["goal"] = ""
    elif one.complete:
        line["power"] = _power(about, values, tests)
        line["goal"] = "reached" if one.estimate >= GOAL and line["low_all"] > 0 else "missed"
    return line


def _power(hypothesis, values, tests):
    """Chance that the planned replicates show a true difference of :data:`GOAL`, one-sided, for all tests (Bonferroni)."""
    n = hypothesis.replicates
    a, b = (statistics.mean_sd(values[row][:n])[1] ** 2 for row in hypothesis.cells)
    return statistics.power(GOAL, a, b, n, n, level=2 * statistics.LEVEL / tests)


def rows(root="."):
    """Every planned row at both sizes, as a DataFrame with :data:`ROW_COLUMNS`; percent, ratios, NaN without a run."""
    lines = []
    for protocol in PROTOCOLS:
        seen, cost = runs(protocol, root), costs(protocol, root)
        answers = results.read_answers(protocol, seen["variant"].unique(), seen.assign(top1=seen["top1"] / 100), root)
        for row in planned(protocol, root)[0]:
            mine = seen[seen["variant"] == row]
            line = dict.fromkeys(ROW_COLUMNS, math.nan) | {"protocol": protocol, "row": row, "n": len(mine)}
            line |= {"architecture": VARIANTS[row].label, "interval_over": ""} | cost[row]
            if len(mine):
                line |= results.accuracy(answers[row][1])
                line |= {"sd": mine["top1"].std(), "train_loss": mine["train_loss"].mean()}
            lines.append(line)
    return pd.DataFrame(lines, columns=ROW_COLUMNS)


# ---- in words ---------------------------------------------------------------------------------------------------------


def status(root="."):
    """How many of the planned runs are there, and how to make the others: one paragraph of Markdown."""
    return "\n\n".join(
        studies.progress(f"Protocol `{name}`", len(runs(name, root)), *planned(name, root), results.make_command(name))
        for name in PROTOCOLS
    )


def contrast_table(root="."):
    """:func:`contrasts` as a :class:`ctxnet.paper.words.Table`."""
    header = ["contrast", "estimate", "95 % for all", "p", "n", "verdict", f"goal, +{GOAL:g}"]
    frame, lines = contrasts(root), []
    for line in frame.to_dict("records"):
        lines.append([
            studies.named(line), words.or_dash(line["estimate"], "+.2f"), words.between(line["low_all"], line["high_all"]),
            words.p_text(line["p_holm"]), f"{line['n']} of {line['planned']}", studies.verdict(line, "row"),
            line["goal"] or f"margin {studies.margin(line)}",
        ])  # fmt: skip
    caption = (
        f"The {len(frame)} contrasts written down before their runs, in points of top-1 against plain ResNet-50: estimate, "
        "interval that holds for all of one size together in 95 % of cases (Bonferroni, over replicates), p after Holm's "
        f"correction. The goal is an estimate of {GOAL:.1f} point or more with that interval above zero. A contrast is open "
        "until both of its rows have all of their replicates, whatever its numbers look like."
    )
    return words.Table(header, lines, range(1, 5), "8.2", caption, rests_on=PROTOCOLS, file=FILES["contrasts"])


def cost_table(root="."):
    """:func:`costs` at both sizes as a :class:`ctxnet.paper.words.Table`."""
    found = {protocol: costs(protocol, root) for protocol in PROTOCOLS}
    columns = [("parameters", PROTOCOLS[0]), *((key, name) for key in SHARES[1:] for name in PROTOCOLS)]
    lines = []
    for row in planned(PROTOCOLS[0], root)[0]:
        cells = [percent(found[name].get(row, {}).get(key, math.nan)) for key, name in columns]
        lines.append([VARIANTS[row].label, *cells])
    header = ["row", "parameters", *(f"{key.replace('_', '-')}, {size(name, root)}" for key, name in columns[1:])]
    caption = (
        "What each block adds to plain ResNet-50 as it is trained here, in percent: parameters without classifier and "
        "multiply-adds, counted on the networks, and time of a step of training, all rows in turn on one core. "
        "Multiply-adds are those of convolutions and matrix products; additions and moves of data do not count, and take "
        "time as well."
    )
    after = "" if any(_times(protocol, root) for protocol in PROTOCOLS) else f"Times are not measured yet; `{TIME_COMMAND}`."
    return words.Table(header, lines, range(1, len(header)), "8.1", caption, after)


def limit_text(root="."):
    """Which rows take more time than :data:`MOST` allows, where it was measured: one sentence."""
    parts = []
    for protocol in PROTOCOLS:
        cost = costs(protocol, root)
        if any(not math.isnan(each["time"]) for each in cost.values()):
            slow = [VARIANTS[row].label for row, each in cost.items() if "time" in too_dear(each)]
            parts.append(f"at {size(protocol, root)} {len(slow)} of {len(cost)} rows: {', '.join(slow) or 'none'}")
    limit = f"{100 * (MOST['time'] - 1):.0f} %"
    return f"Over the limit of {limit} more time, on the machine that was measured: {'; '.join(parts) or 'open'}."


def percent(ratio):
    """A ratio to plain ResNet-50 as what it adds: "+6.1 %"."""
    return "–" if words.unknown(ratio) else words.minus(f"{100 * (ratio - 1):+.1f} %")


def row_table(root="."):
    """:func:`rows` as a :class:`ctxnet.paper.words.Table`."""
    header = ["row", "image", "n", "top-1 %", "95 % interval", "s.d.", "training loss"]
    header += [key.replace("_", "-") for key in SHARES]
    lines, frame = [], rows(root)
    about = {name: (size(name, root), len(planned(name, root)[1])) for name in PROTOCOLS}
    for line in frame[frame["n"] > 0].to_dict("records"):
        where, seeds = about[line["protocol"]]
        numbers = [words.or_dash(line[key], form) for key, form in (("sd", ".2f"), ("train_loss", ".3f"))]
        first = [line["architecture"], where, f"{line['n']} of {seeds}"]
        spent = [percent(line[key]) for key in SHARES]
        lines.append([*first, words.or_dash(line["top1"], ".2f"), words.interval(line), *numbers, *spent])
    caption = (
        "Every row at both sizes; exploratory, and sizes are not compared with each other. Intervals cover replicates and "
        "images; s.d. over replicates; training loss of the last epoch; costs against plain ResNet-50."
    )
    make = "`, `".join(map(results.make_command, frame.loc[frame["n"] == 0, "protocol"].unique()))
    numbers, caption = range(2, len(header)), caption + words.one_seed(frame)
    after = words.without_runs(len(frame) - len(lines), len(frame), make)
    return words.Table(header, lines, numbers, "8.3", caption, after, rests_on=PROTOCOLS, file=FILES["rows"])


def answer(root="."):
    """What became of the goal at each size, with the power that these replicates had, as a Markdown list."""
    frame = contrasts(root)
    parts = {size(name, root): _answer(frame[frame["protocol"] == name], root) for name in PROTOCOLS}
    return "\n".join(f"- {where}: {text}" for where, text in parts.items())


def _answer(frame, root):
    asked = frame[frame["kind"] == "greater"]
    count = {goal: int((asked["goal"] == goal).sum()) for goal in ("reached", "missed", "open")}
    if not len(asked):
        return "nothing was asked."
    if count["open"] == len(asked):
        return f"**open**, all {len(asked)} blocks; no row has all of its replicates yet."
    named, cost = [], costs(asked["protocol"].iloc[0], root)
    for line in asked[asked["goal"] == "reached"].to_dict("records"):
        dear = too_dear(cost[line["row"]]) if line["row"] in cost else []
        limit = f", but costs too much {' and '.join(dear)}" if dear else ""
        named.append(f"{VARIANTS[line['row']].label} ({line['estimate']:+.2f} points{limit})")
    text = f"{count['reached']} of {len(asked)} blocks reach the goal" + (f": {', '.join(named)}." if named else ".")
    text += f" {count['missed']} miss it" + (f", {count['open']} are open." if count["open"] else ".")
    chances = asked["power"].dropna()
    span = "–".join(dict.fromkeys(f"{100 * chance:.0f}" for chance in (chances.min(), chances.max())))
    text += f" A true gain of {GOAL:.1f} point would have been shown in {span} % of cases."
    return words.minus(text)


def cheapest(root="."):
    """Whether the network of 1×1 convolutions and shifts is worth ResNet-50, and what it costs, as a Markdown list."""
    lines = []
    for line in contrasts(root).query("kind == 'equivalent'").to_dict("records"):
        cost = costs(line["protocol"], root).get(line["row"])
        said = studies.verdict(line, "row")
        if not words.unknown(line["estimate"]):
            said += words.minus(f" ({line['estimate']:+.2f} points, {words.between(line['low'], line['high'])})")
        if cost is not None:
            said += f"; parameters {percent(cost['parameters'])}, multiply-adds {percent(cost['multiply_adds'])}"
        lines.append(f"- {size(line['protocol'], root)}, worth ResNet-50 within {line['margin']:g} point: {said}.")
    return "\n".join(lines)


def write_pays(root=".", home=None):
    """Write what the tables show with :func:`words.write_frames`, into ``results/pays`` unless ``home`` is given."""
    home = home or Path(root) / "results" / PROTOCOLS[0]
    return words.write_frames(home, {FILES["contrasts"]: contrasts(root), FILES["rows"]: rows(root)})
