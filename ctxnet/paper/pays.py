"""Chapter 8: context that pays, on the full network at two sizes. Numbers and tables from the protocols of :data:`SIZES`.

The contrasts were written down before their runs (``hypotheses.yaml``) and are tested when all of their replicates are
there (:mod:`ctxnet.paper.contrasts`), those of each size as a family of their own. At 64 px some rows are trained in
bfloat16 and some in float32, each against plain ResNet-50 of the same precision. All else is exploratory. The records are
those of :data:`PROTOCOLS`, whichever protocol the other chapters show.
"""

import functools
import math
from pathlib import Path

import pandas as pd

from ctxnet.models.variants import VARIANTS
from ctxnet.paper import results, statistics, studies, words
from ctxnet.paper.coherence import formula
from ctxnet.paper.contrasts import family
from ctxnet.paper.results import BASELINE
from ctxnet.paper.studies import hypotheses, planned

SIZES = (("pays", "pays_float32"), ("pays128",))  # protocols of one image size: their contrasts are corrected together
PROTOCOLS = tuple(name for names in SIZES for name in names)
FLOAT32 = "pays_float32"
PRICE_SEEDS = 5  # the first of the seeds: with so many it was written down that both precisions are to agree
MARGIN = 1.0  # points within which both precisions are to agree; written down on 2026-11-28, before any run in float32
CHEAPEST = "starved_shift1"
GOAL = 1.0  # points over plain ResNet-50
MOST = {"parameters": 1.10, "time": 1.15}  # a block may cost so much, as ratios to plain ResNet-50
BENCHMARK = "results/benchmarks/rows-cpu.csv"  # of benchmarks.rows
TIME_COMMAND = "python -m benchmarks.rows"
FILES = {name: f"tables/pays_{name}.csv" for name in ("contrasts", "rows")}
SHARES = ("parameters", "multiply_adds", "time")
CONTRAST_COLUMNS = [
    "protocol", "contrast", "text", "row", "kind", "cells", "estimate", "low", "high", "p", "low_all", "high_all", "p_holm",
    "p_against", "margin", "n", "planned", "looked", "waits_for", "verdict", "goal", "power", "needed",
]  # fmt: skip
ROW_COLUMNS = ["protocol", "row", "architecture", "n", "top1", "low", "high", "interval_over", "sd", "train_loss", *SHARES]


def size(protocol, root="."):
    """The size of a protocol's images in texts: "64 px"."""
    return f"{results.settings_of(protocol, root).image_size} px"


def title(protocol, root="."):
    """What tells protocols apart in texts: "64 px", and "64 px, float32" beside bfloat16."""
    in_float32 = results.settings_of(protocol, root).precision == "float32"
    return size(protocol, root) + ", float32" * in_float32


def together(protocol):
    """The protocols of the same size of image, itself among them."""
    return next(names for names in SIZES if protocol in names)


def rows_of_size(protocol, root="."):
    """Every row that is planned at the size of a protocol."""
    return list(dict.fromkeys(row for name in together(protocol) for row in planned(name, root)[0]))


def runs(protocol, root="."):
    """The planned runs of a protocol that are there, as :func:`ctxnet.paper.results.replicates` gives them."""
    frame, (rows, seeds) = results.replicates(protocol, root), planned(protocol, root)
    return frame[frame["variant"].isin(rows) & frame["seed"].isin(seeds)].reset_index(drop=True)


def costs(protocol, root="."):
    """{row: ratios to plain ResNet-50} at the size of a protocol: ``parameters`` (without classifier) and ``multiply_adds``
    of one image, both counted on the network, and ``time`` of a step of training in bfloat16, NaN where ``benchmarks.rows``
    has not measured it."""
    settings, rows = results.settings_of(protocol, root), rows_of_size(protocol, root)
    scale = settings.image_size / 224 if settings.scale_offsets else 1.0
    counts = {row: _counts(row, settings.width, settings.image_size, scale) for row in {*rows, BASELINE}}
    time, (plain, plain_adds) = _times(protocol, root), counts[BASELINE]
    return {
        row: {"parameters": counts[row][0] / plain, "multiply_adds": counts[row][1] / plain_adds,
              "time": time.get(row, math.nan)} for row in rows
    }  # fmt: skip


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
    path = Path(root) / BENCHMARK
    if not path.exists():
        return {}
    lines = pd.read_csv(path)
    lines = lines[lines["protocol"] == together(protocol)[0]]
    return dict(zip(lines["row"], lines[f"time ÷ {BASELINE}"], strict=True))


def too_dear(cost):
    """Which limits of :data:`MOST` the costs of a row exceed, as far as they are known: list of keys."""
    return [key for key, most in MOST.items() if cost[key] > most]


# ---- numbers ----------------------------------------------------------------------------------------------------------


def _values(frame):
    """{row: top-1 of its runs in the order of the seeds}."""
    return {row: list(each.sort_values("seed")["top1"]) for row, each in frame.groupby("variant")}


def contrasts(root="."):
    """The hypotheses of all protocols as a DataFrame, size by size in the order of their file.

    Columns: :data:`CONTRAST_COLUMNS`, those of :func:`ctxnet.paper.studies.contrast_line` and ``protocol``, ``row`` (whose
    gain over plain ResNet-50 it is), ``low_all``, ``high_all`` (95 % for all of one size together, Bonferroni), ``goal``
    ("reached", "missed", "open" or, for equivalence, "") and ``power`` (chance in 0…1 to show a true gain of :data:`GOAL`
    with this scatter). Points; NaN if not tested.
    """
    lines = []
    for names in SIZES:
        values = {name: _values(runs(name, root)) for name in names}
        found = family([one for name in names for one in hypotheses(name, root)], values)
        for one, p_holm in found:
            protocol = one.hypothesis.protocol
            lines.append({"protocol": protocol} | _line(one, p_holm, values[protocol], len(found)))
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
    """Every planned row of every protocol, as a DataFrame with :data:`ROW_COLUMNS`; percent, ratios, NaN without a run."""
    lines = []
    for protocol in PROTOCOLS:
        seen, cost = runs(protocol, root), costs(protocol, root)
        for line in results.means(protocol, planned(protocol, root)[0], seen, root):
            loss = seen.loc[seen["variant"] == line["row"], "train_loss"].mean()
            lines.append(line | {"protocol": protocol, "train_loss": loss} | cost[line["row"]])
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
    frame = contrasts(root)
    columns = {
        "contrast": studies.named, "precision": lambda line: results.settings_of(line["protocol"], root).precision,
        "estimate": "{estimate:+.2f}",
        "95 % for all": lambda line: words.between(line["low_all"], line["high_all"]),
        "p": studies.p_cell, "n": "{n} of {planned}", "verdict": lambda line: studies.verdict(line, "row"),
        f"goal, +{GOAL:g}": lambda line: line["goal"] or f"margin {studies.margin(line)}",
    }  # fmt: skip
    caption = (
        f"The {len(frame)} contrasts written down before their runs, in points of top-1 against plain ResNet-50: estimate, "
        "interval that holds for all of one size together in 95 % of cases (Bonferroni, over replicates), p after Holm's "
        "correction for all of one size, of the contrary where that is what was shown. Both rows of a contrast are of the "
        f"same precision. The goal is an estimate of {GOAL:.1f} point or more "
        "with that interval above zero. A contrast is open until both of its rows have all of their replicates, "
        "whatever its numbers look like."
    )
    cells = words.filled(columns, frame.to_dict("records"))
    return words.Table(*cells, range(2, 6), "8.2", caption, rests_on=PROTOCOLS, file=FILES["contrasts"])


def cost_table(root="."):
    """:func:`costs` at both sizes as a :class:`ctxnet.paper.words.Table`."""
    firsts = [names[0] for names in SIZES]
    found = {protocol: costs(protocol, root) for protocol in firsts}
    columns = [("parameters", firsts[0]), *((key, name) for key in SHARES[1:] for name in firsts)]
    header = ["row", "parameters", *(f"{key.replace('_', '-')}, {size(name, root)}" for key, name in columns[1:])]
    lines = [
        [VARIANTS[row].label, *(percent(found[name].get(row, {}).get(key, math.nan)) for key, name in columns)]
        for row in rows_of_size(firsts[0], root)
    ]
    caption = (
        "What each block adds to plain ResNet-50 as it is trained here, in percent: parameters without classifier and "
        "multiply-adds, counted on the networks, and time of a step of training in bfloat16, all rows in turn on one core. "
        "Multiply-adds are those of convolutions and matrix products; additions and moves of data do not count, and take "
        "time as well."
    )
    after = "" if any(_times(protocol, root) for protocol in firsts) else f"Times are not measured yet; `{TIME_COMMAND}`."
    return words.Table(header, lines, range(1, len(header)), "8.1", caption, after)


def limit_text(root="."):
    """Which rows take more time than :data:`MOST` allows, where it was measured: one sentence."""
    parts = []
    for protocol, *_ in SIZES:
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
    frame = rows(root)
    columns = {
        "row": "{architecture}", "image": lambda line: title(line["protocol"], root),
        "n": lambda line: f"{line['n']} of {len(planned(line['protocol'], root)[1])}", "top-1 %": "{top1:.2f}",
        "95 % interval": words.interval, "s.d.": "{sd:.2f}", "training loss": "{train_loss:.3f}",
        "parameters": lambda line: percent(line["parameters"]),
        "multiply-adds": lambda line: percent(line["multiply_adds"]), "time": lambda line: percent(line["time"]),
    }  # fmt: skip
    header, lines = words.filled(columns, frame[frame["n"] > 0].to_dict("records"))
    caption = (
        "Every row at both sizes; exploratory, and neither sizes nor precisions are compared with each other here. "
        "Intervals cover replicates and images; s.d. over replicates; training loss of the last epoch; costs against plain "
        "ResNet-50."
    )
    make = "`, `".join(map(results.make_command, frame.loc[frame["n"] == 0, "protocol"].unique()))
    after, caption = words.without_runs(len(frame) - len(lines), len(frame), make), caption + words.one_seed(frame)
    return words.Table(header, lines, range(2, 10), "8.3", caption, after, rests_on=PROTOCOLS, file=FILES["rows"])


def answer(root="."):
    """What became of the goal at each size, with the power that these replicates had, as a Markdown list."""
    return _answers(contrasts(root), root)


def _answers(frame, root):
    return "\n".join(f"- {size(names[0], root)}: {_answer(frame[frame['protocol'].isin(names)], root)}" for names in SIZES)


def _answer(frame, root):
    asked = frame[frame["kind"] == "greater"]
    count = {goal: int((asked["goal"] == goal).sum()) for goal in ("reached", "missed", "open")}
    if not len(asked):
        return "nothing was asked."
    if count["open"] == len(asked):
        return f"**open**, all {len(asked)} changes; no row has all of its replicates yet."
    named, cost = [], costs(asked["protocol"].iloc[0], root)
    for line in asked[asked["goal"] == "reached"].to_dict("records"):
        dear = too_dear(cost[line["row"]]) if line["row"] in cost else []
        limit = f", but costs too much {' and '.join(dear)}" if dear else ""
        named.append(f"{VARIANTS[line['row']].label} ({line['estimate']:+.2f} points{limit})")
    text = f"{count['reached']} of {len(asked)} changes reach the goal" + (f": {', '.join(named)}." if named else ".")
    text += f" {count['missed']} miss it" + (f", {count['open']} are open." if count["open"] else ".")
    text += f" A true gain of {GOAL:.1f} point would have been shown in {words.span(100 * asked['power'].dropna(), '.0f')} %"
    text += " of cases."
    return words.minus(text)


def story(root="."):
    """What became of the contrasts that were tested, see :func:`ctxnet.paper.studies.story`, and of the goal."""
    goal = f"The goal is {GOAL:.1f} point or more, and above zero an interval that holds for all of one size together:"
    frame = contrasts(root)
    return f"{studies.story(frame, 'row')}\n\n{goal}\n\n{_answers(frame, root)}"


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
        lines.append(f"- {title(line['protocol'], root)}, worth ResNet-50 within {line['margin']:g} point: {said}.")
    return "\n".join(lines)


def price(root="."):
    """Plain ResNet-50 at 64 px in bfloat16 (A) and in float32 (B): :class:`ctxnet.paper.statistics.Comparison` in shares.

    Of the first :data:`PRICE_SEEDS` seeds those that have both runs; None without any.
    """
    seen = {name: runs(name, root).query("variant == @BASELINE") for name in (PROTOCOLS[0], FLOAT32)}
    seeds = set.intersection(*(set(frame["seed"]) for frame in seen.values()), _price_seeds(root))
    if not seeds:
        return None
    answers = {
        name: results.replicate_answers(name, [BASELINE], frame[frame["seed"].isin(seeds)], root)[BASELINE]
        for name, frame in seen.items()
    }
    return results.compare(*answers, answers)


def _price_seeds(root):
    return planned(FLOAT32, root)[1][:PRICE_SEEDS]


def price_text(root="."):
    """:func:`price` in words, with the verdict on :data:`MARGIN` (two one-sided tests) once all planned seeds are there."""
    found, seeds = price(root), _price_seeds(root)
    done = found.seeds_b if found else 0
    who = f"Plain ResNet-50 in protocol `{FLOAT32}`"
    said = studies.progress(who, done, [BASELINE], seeds, results.make_command(FLOAT32), after="; open")
    if done < len(seeds):
        return said
    p = max(found.p_above(-MARGIN / 100), 1 - found.p_above(MARGIN / 100))
    verdict = "shown" if p <= statistics.LEVEL else "not shown"
    return (
        f"{said} Top-1 in bfloat16 {100 * found.mean_a:.2f} %, in float32 {100 * found.mean_b:.2f} %: "
        f"{words.points(found.difference)} points ({words.between(100 * found.low, 100 * found.high)}, over seeds and "
        f"images). Equal within {MARGIN:g} point: **{verdict}**, {words.p_said(p)}."
    )


def write_pays(root=".", home=None):
    """Write what the tables show with :func:`words.write_frames`, into ``results/pays`` unless ``home`` is given."""
    home = home or Path(root) / "results" / PROTOCOLS[0]
    return words.write_frames(home, {FILES["contrasts"]: contrasts(root), FILES["rows"]: rows(root)})
