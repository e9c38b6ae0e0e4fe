"""Chapter 7: how far can a network look? Numbers and tables from the records of the probe set and of Pathfinder, by dose.

The dose is the distance that a network has to look: pixels between two marks, or dashes of a path. Nothing here was written
down before the runs, so all of it is exploratory. The records are those of :data:`TASKS`, whichever protocol the other
chapters show; receptive fields and effective receptive fields are read from them, never measured here.
"""

import functools
import math
from pathlib import Path

import numpy as np
import pandas as pd

from ctxnet.data import pathfinder, probe
from ctxnet.measure.summary import rf_side
from ctxnet.models.variants import VARIANTS
from ctxnet.paper import results, statistics, studies, words
from ctxnet.paper.law import family_draws, partial_spearman
from ctxnet.training import load_params

DOSES = (4, 6, 8, 10, 12, 16, 20, 24, 30)  # px
TASKS = {
    "probe": {dose: f"probe_d{dose}" for dose in DOSES},
    "pathfinder": {dashes: f"pathfinder_{dashes}" for dashes in pathfinder.LENGTHS},
}
UNITS = {"probe": "px", "pathfinder": "dashes"}
CHANCE = {"probe": 1 / len(probe.CLASSES), "pathfinder": 1 / len(pathfinder.CLASSES)}
COMMANDS = {
    "probe": f"for d in {' '.join(map(str, DOSES))}; do python -m ctxnet campaign --protocol probe_d$d; done",
    "pathfinder": "for n in 6 9 14; do python -m ctxnet campaign --protocol pathfinder_$n; done",
}
SHORTCUT = "results/benchmarks/shortcut-cpu.csv"  # of benchmarks.shortcut
READS = ("distance", "distance and directions")  # of the two marks, and of the dashes beside them: what its readers know
FILES = {name: f"tables/{name}.csv" for name in ("reach", "looks", "pathfinder")}
GROUPS = {  # panels of figures, and the order of tables
    "as the thesis has them": ("resnet50", "resnet50_dilated4", "resnet50_perm1", "resnet50_random_dilated8"),
    "starved, and controls": ("starved_resnet50", "starved_identity", "starved_mean"),
    "starved, one offset": tuple(f"starved_shift{reach}" for reach in ("1", "2", "4", "map")),
    "starved, permuted": tuple(f"starved_permute{reach}" for reach in ("1", "2", "4", "map")),
}
STORY = {  # what README tells, and of which rows
    "One offset per block, the same at every place, in place of all 3×3 convolutions": GROUPS["starved, one offset"],
    "Another offset at every place (a permutation per block) in their place": GROUPS["starved, permuted"],
    "Nothing in their place": ("starved_resnet50", "starved_identity"),
    "ResNet-50 with its 3×3 convolutions": ("resnet50",),
}
HALF = 0.5  # "in most images"
TWICE = 2  # times chance: a run has begun to answer; far above the scatter of 1,000 images
COLUMNS = ["row", "dose", "seed", "top1", "images", "distance", "side", "promised", "pairs", "mass"]
CELL_COLUMNS = ["row", "architecture", "dose", "n", "top1", "low", "high", "interval_over", "sd", "pairs"]


# ---- records ----------------------------------------------------------------------------------------------------------


def planned(task, root="."):
    """(rows, seeds) that each protocol of a task is to train: rows of :data:`GROUPS` first, in their order."""
    rows, seeds = studies.planned(next(iter(TASKS[task].values())), root)
    order = [row for some in GROUPS.values() for row in some]
    return sorted(rows, key=lambda row: order.index(row) if row in order else len(order)), seeds


def runs(task, root="."):
    """The planned runs that are there, as a DataFrame with :data:`COLUMNS`.

    ``top1`` in percent; ``images``: training images seen when top-1 first passed :data:`TWICE` times chance, NaN if it never
    did; ``distance``: mean distance before training in px, mean over the blocks. Of the last block of the trained network:
    ``side`` of the box around its receptive field (px) and, NaN for Pathfinder, ``pairs`` (:func:`pairs_seen`), ``promised``
    (largest of :data:`DOSES` where that is above zero, 0 for none) and ``mass`` (:func:`mass_beyond` half the dose; also NaN
    without a gradient).
    """
    return _runs(task, str(root), *_key(task, root)).copy()


def _key(task, root):
    """(what is planned, which runs are there), under which what was read of a task may be kept."""
    return tuple(map(tuple, planned(task, root))), results.stamp_of(TASKS[task].values(), root)


@functools.lru_cache(maxsize=8)
def _runs(task, root, plan, stamp):
    (rows, seeds), lines = plan, []
    for dose, protocol in TASKS[task].items():
        known = results.replicates(protocol, root)
        shown = load_params(Path(root) / "params.yaml")[task]["train_images"]
        for about in known[known["variant"].isin(rows) & known["seed"].isin(seeds)].to_dict("records"):
            history = results.load_history(protocol, about["variant"], about["seed"], root)
            profile = results.load_profile(protocol, about["variant"], about["seed"], root)
            line = {"row": about["variant"], "dose": dose, "images": _images(history, shown, task)}
            line |= {key: about[key] for key in ("seed", "top1", "distance")} | {"side": rf_side(profile.rf[-1])}
            if task == "probe":
                pairs = {each: pairs_seen(profile.rf[-1].numpy(), each) for each in DOSES}
                line |= {"pairs": pairs[dose], "promised": max((each for each in DOSES if pairs[each] > 0), default=0)}
                line["mass"] = mass_beyond(profile.erf[-1].numpy(), profile.center[-1].numpy(), dose / 2)
            lines.append(line)
    return studies.in_order(lines, COLUMNS, rows)


def _images(history, shown, task):
    """Training images until top-1 first passed :data:`TWICE` times chance (of two classes: half way from chance to all)."""
    passed = history.loc[history["top1"] > begun(task), "epoch"]
    return float(shown * (passed.iloc[0] + 1)) if len(passed) else math.nan


def begun(task):
    """The accuracy (share) from which a run counts as having begun to answer."""
    return min(TWICE * CHANCE[task], (1 + CHANCE[task]) / 2)


def pairs_seen(mask, dose):
    """Share of all places of the first mark for which a feature has both marks in its receptive field, 0 … 1.

    Of the ten bearings the one with the smallest share, around the border as the marks are placed. Above zero: no bearing is
    out of reach.

    Args:
        mask: bool (S, S), the receptive field. dose: px.
    """
    return float(min((mask & np.roll(mask, tuple(-offset), (0, 1))).mean() for offset in probe.offsets(dose)))


def mass_beyond(erf, center, radius):
    """Share of an effective receptive field (S, S) that lies ``radius`` px or more from its feature; NaN if it is empty."""
    rows, columns = np.indices(erf.shape)
    total = float(erf.sum())
    far = np.hypot(rows - center[0], columns - center[1]) >= radius
    return float(erf[far].sum()) / total if total > 0 else math.nan


def perfect(task, dose, root=".", images=200):
    """Accuracy (share) of a reader that has the whole image before it, on images drawn as those for validation: the upper
    line of figures, measured and not assumed."""
    settings = results.settings_of(TASKS[task][dose], root)
    seed = load_params(Path(root) / "params.yaml")[task]["valid_seed"]
    if task == "pathfinder":
        shown, labels = pathfinder.make_pathfinder(images, image_size=settings.image_size, dashes=dose, seed=seed)
        return float((pathfinder.read_pathfinder(shown) == labels).mean())
    size = {"image_size": settings.image_size, "distance": dose, "mark": settings.mark}
    shown, labels = probe.make_probe(images, **size, seed=seed)
    return float((probe.read_probe(shown, dose) == labels).mean())


def shortcut(root="."):
    """Top-1 in percent of readers that follow no path, as ``benchmarks.shortcut`` measured it.

    {one of :data:`READS`: {dashes: percent}}; {} where nothing was measured.
    """
    path = Path(root) / SHORTCUT
    groups = pd.read_csv(path).groupby("reads") if path.exists() else ()
    return {reads: dict(zip(seen["dashes"], seen["top-1 %"], strict=True)) for reads, seen in groups}


def _shortcut_text(root):
    """:func:`shortcut` as sentences with a space before them, "" without."""
    known = shortcut(root)
    if not known:
        return ""
    seen = [known[reads].items() for reads in READS]
    alone, ways = (", ".join(f"{value:.1f} % at {dashes} dashes" for dashes, value in one) for one in seen)
    return (
        f" Readers that follow nothing: the distance of the two marks alone is right on {alone}; with the direction in "
        f"which the next dash lies at each of them, {ways}."
    )


# ---- numbers ----------------------------------------------------------------------------------------------------------


def cells(task, root="."):
    """Every row at every dose as a DataFrame with :data:`CELL_COLUMNS`; percent, NaN without a run.

    ``low``/``high``: 95 % over seeds and images, or over images alone of a single seed (Wilson), as ``interval_over`` says.
    ``pairs``: mean over the runs.
    """
    return _cells_of(task, str(root), *_key(task, root)).copy()


@functools.lru_cache(maxsize=8)
def _cells_of(task, root, plan, stamp):
    seen, lines = runs(task, root).rename(columns={"row": "variant"}), []
    for dose, protocol in TASKS[task].items():
        here = seen[seen["dose"] == dose]
        for line in results.means(protocol, plan[0], here, root):
            pairs = here.loc[here["variant"] == line["row"], "pairs"].mean()
            lines.append(line | {"dose": dose, "pairs": pairs})
    return pd.DataFrame(lines, columns=CELL_COLUMNS)


def looks(root="."):
    """How far each row looks on the probe set, as a DataFrame: what its receptive field promises beside what is learned.

    Columns: ``row``, ``architecture``, ``n`` (runs), ``side`` (px, of the last block's receptive field), ``distance`` (px,
    before training, mean over blocks) and three doses, the largest at which: ``promised``, that field holds both marks in
    every bearing; ``most`` and ``some``, the interval of top-1 lies above one half, and above chance. 0: at none; NaN
    without a run.
    """
    seen, table, lines = runs("probe", root), cells("probe", root), []
    for row in planned("probe", root)[0]:
        mine, known = seen[seen["row"] == row], table[(table["row"] == row) & (table["n"] > 0)]
        line = {"row": row, "architecture": VARIANTS[row].label, "n": len(mine)}
        line |= {"side": mine["side"].max(), "promised": mine["promised"].max(), "distance": mine["distance"].mean()}
        for key, bound in (("most", HALF), ("some", CHANCE["probe"])):
            above = known.loc[known["low"] > 100 * bound, "dose"]
            line[key] = float(max(above, default=0)) if len(known) else math.nan
        lines.append(line)
    return pd.DataFrame(lines)


PREDICTORS = {
    "mean distance before training ÷ dose": lambda seen: seen["distance"] / seen["dose"],
    "ERF mass at half the dose or more, trained": lambda seen: seen["mass"],
}


def predictions(root=".", draws=1000):
    """What tells how many images it takes, over all runs on the probe set: a DataFrame.

    Columns: ``predictor``, ``runs``, ``rows``, ``rho`` (Spearman's, with the images that it took; runs that never began
    share the last rank) with a 95 % interval ``low``/``high`` from a bootstrap over rows, and ``at_dose``, ``at_low``,
    ``at_high``: the same with the dose taken out. NaN where nothing can be said.
    """
    seen, lines = runs("probe", root), []
    for name, read in PREDICTORS.items():
        known = seen.assign(x=read(seen).astype(float))
        known = known[np.isfinite(known["x"])]
        line = {"predictor": name, "runs": len(known), "rows": known["row"].nunique()}
        line |= dict(zip(("rho", "low", "high"), _correlation(known, [], draws), strict=True))
        line |= dict(zip(("at_dose", "at_low", "at_high"), _correlation(known, ["dose"], draws), strict=True))
        lines.append(line)
    return pd.DataFrame(lines)


FEWEST = 5  # rows: a bootstrap over fewer says nothing


def _correlation(known, others, draws):
    """(ρ, low, high) of x and images, the columns ``others`` taken out, by a bootstrap over rows; NaN of too few rows."""
    row, rows = pd.factorize(known["row"])
    if len(rows) < FEWEST:
        return (math.nan,) * 3
    x, took, rest = known["x"].to_numpy(), known["images"].fillna(np.inf).to_numpy(), known[others].to_numpy()
    drawn = partial_spearman(x, took, rest, family_draws(rows, draws, seed=0)[:, row])
    return partial_spearman(x, took, rest), *np.nanquantile(drawn, [statistics.LEVEL / 2, 1 - statistics.LEVEL / 2]).tolist()


# ---- in words ---------------------------------------------------------------------------------------------------------


def status(task, root="."):
    """How many of the planned runs of a task are there, and how to make the others: one paragraph of Markdown."""
    first, last = (TASKS[task][dose] for dose in (min(TASKS[task]), max(TASKS[task])))
    done = len(runs(task, root))
    return studies.progress(
        f"Protocols `{first}` … `{last}`", done, *planned(task, root), COMMANDS[task], times=len(TASKS[task]),
        where=_where(task, root) if done else "", after="; what needs them is open",
    )  # fmt: skip


def _where(task, root):
    """Doses that have runs, with their number, and those that have none: a sentence."""
    counts, unit = runs(task, root)["dose"].value_counts(), UNITS[task]
    there = [f"{counts[dose]} at {dose} {unit}" for dose in TASKS[task] if dose in counts]
    missing = [str(dose) for dose in TASKS[task] if dose not in counts]
    none = f"; none at {', '.join(missing)} {unit}" if missing else ""
    return f"There are {', '.join(there)}{none}."


def accuracy_table(task, root="."):
    """:func:`cells` as a :class:`ctxnet.paper.words.Table`, a column for each dose that has a run."""
    frame, (rows, seeds), lines = cells(task, root), planned(task, root), []
    unit, doses = UNITS[task], frame.loc[frame["n"] > 0, "dose"].unique()
    for row in rows:
        mine = frame[frame["row"] == row]
        if mine["n"].any():
            shown = mine[mine["dose"].isin(doses)].to_dict("records")
            lines.append([VARIANTS[row].label, f"{mine['n'].sum()} of {len(seeds) * len(mine)}", *map(_accuracy, shown)])
    said = {"probe": "Top-1 in percent on the probe set by distance of the marks, ten classes",
            "pathfinder": "Top-1 in percent on Pathfinder by number of dashes, two classes"}[task]  # fmt: skip
    images = load_params(Path(root) / "params.yaml")[task]["train_images"]
    passes = results.settings_of(next(iter(TASKS[task].values())), root).epochs
    alone = _shortcut_text(root) if task == "pathfinder" else ""
    caption = (
        f"{said}, after {passes} passes over {images:,} images: mean over the seeds with its 95 % interval over seeds and "
        f"images. Chance is {100 * CHANCE[task]:.0f} %.{alone} "
        "All of it exploratory, and no interval is corrected for the others. n: runs of those planned, over all of them."
        f"{words.one_seed(frame)}"
    )
    header = ["row", "n", *(f"{dose} {unit}" for dose in doses)]
    after = words.without_runs(len(rows) - len(lines), len(rows), COMMANDS[task])
    number, name = ("7.2", "reach") if task == "probe" else ("7.4", "pathfinder")
    return words.Table(header, lines, range(1, len(header)), number, caption, after, rests_on=(name,), file=FILES[name])


def _accuracy(line):
    return f"{line['top1']:.1f}<br><small>{words.interval(line)}</small>" if line["n"] else "–"


def look_table(root="."):
    """:func:`looks` as a :class:`ctxnet.paper.words.Table`."""
    columns = {"row": "{architecture}", "runs": "{n}", "RF px": "{side:.0f}", "mean distance px": "{distance:.1f}"}
    for header, key in {"promised": "promised", "most images": "most", "above chance": "some"}.items():
        columns[f"{header} up to"] = lambda line, key=key: "none" if line[key] == 0 else words.or_dash(line[key], ".0f")
    count = load_params(Path(root) / "params.yaml")["probe"]["train_images"]
    caption = (
        f"What the receptive field (RF) of the last block promises, and what is learned from {count:,} images. RF: side of "
        "its box; mean distance before training, mean over the blocks. Then three of the distances, in px, the largest at "
        "which the RF holds both marks in every bearing, at which the 95 % interval of top-1 lies above one half, and above "
        "chance; intervals are not corrected for their number. A dash: not run."
    )
    cells = words.filled(columns, looks(root).to_dict("records"))
    return words.Table(*cells, range(1, 7), "7.1", caption, rests_on=("reach",), file=FILES["looks"])


def summary(root="."):
    """Which rows read most images as far as their receptive fields promise, and which stop short, as a Markdown list.

    Over the doses that a row was run at; exploratory.
    """
    known = [line for line in looks(root).to_dict("records") if line["n"]]
    if not known:
        return "- Open: no row has been run."
    table = cells("probe", root).query("n > 0")
    whole, short = [], []
    for line in known:
        asked = table[(table["row"] == line["row"]) & (table["dose"] <= line["promised"])]
        held = int((asked["low"] > 100 * HALF).sum())
        (whole if held == len(asked) else short).append(f"{line['architecture']} ({held} of {len(asked)})")
    lines = [f"- {len(whole)} of {len(known)} rows read most images at every distance that they were run at and promised: "
             f"{', '.join(whole) or 'none'}."]  # fmt: skip
    if short:
        lines.append(f"- {len(short)} fall short of the promise, at so many of these distances: {', '.join(short)}.")
    return "\n".join(lines)


def story(root="."):
    """Lowest and highest accuracy on the probe set of the rows of :data:`STORY`, as a Markdown list; exploratory.

    Over the doses that all of them were run at; then, in the same order, on the longest paths of Pathfinder.
    """
    table, paths = _common("probe", root), _common("pathfinder", root)
    if table.empty:
        return "Not every row has been run at one distance yet."
    lines = [f"- {text}: {span}." for text, span in zip(STORY, _spans(table), strict=True)]
    said = f"Lowest and highest top-1 over distances of {', '.join(map(str, table['dose'].unique()))} px"
    said += f"; {100 * CHANCE['probe']:.0f} % is chance. Seeds of each row: {words.span(table['n'])}; exploratory."
    if not paths.empty:
        longest = paths[paths["dose"] == paths["dose"].max()]
        said += (
            f" In the same order, on Pathfinder (are two marks the ends of one dashed path? Linsley et al., 2018) with "
            f"{longest['dose'].iloc[0]} dashes: {'; '.join(_spans(longest))}; {100 * CHANCE['pathfinder']:.0f} % is chance, "
            f"seeds of each row: {words.span(longest['n'])}."
        )
        if known := shortcut(root):
            alone, ways = (known[reads][longest["dose"].iloc[0]] for reads in READS)
            said += (
                f" Without following a path, the distance of the two marks gives {alone:.1f} % there, and with the "
                f"directions of the dashes beside them {ways:.1f} %."
            )
    return "\n".join([*lines, "", said])


def _common(task, root):
    """:func:`cells` of the rows of :data:`STORY` that are planned for a task, at the doses that all of them were run at."""
    rows = [row for some in STORY.values() for row in some if row in planned(task, root)[0]]
    table = cells(task, root)
    table = table[(table["n"] > 0) & table["row"].isin(rows)]
    return table[table.groupby("dose")["row"].transform("size") == len(rows)]


def _spans(table):
    """Lowest to highest top-1 of each group of :data:`STORY`, in words."""
    return [f"{words.span(table.loc[table['row'].isin(some), 'top1'], '.1f')} %" for some in STORY.values()]


def prediction_table(root="."):
    """:func:`predictions` as a :class:`ctxnet.paper.words.Table`."""
    columns = {
        "predictor": "{predictor}", "runs": "{runs} of {rows} rows",
        "over all doses": lambda line: _rho(line["rho"], line["low"], line["high"]),
        "dose taken out": lambda line: _rho(line["at_dose"], line["at_low"], line["at_high"]),
    }  # fmt: skip
    caption = (
        f"Spearman's correlation with the number of images after which top-1 first passed {100 * begun('probe'):.0f} %, "
        "over all runs on the probe set; runs that never did share the last rank. In brackets: 95 %, bootstrap over rows. "
        "Minus one: the more, the sooner. Exploratory."
    )
    cells = words.filled(columns, predictions(root).to_dict("records"))
    return words.Table(*cells, range(1, 4), "7.3", caption, rests_on=("reach",))


def _rho(value, low, high):
    return "open" if words.unknown(value) else f"{words.or_dash(value, '+.2f')} ({words.between(low, high)})"


def power_text(task, root="."):
    """What so many seeds could have shown: the true difference of two rows at a dose that a test calls in 80 % of cases."""
    seeds, scatter = len(planned(task, root)[1]), cells(task, root)["sd"].dropna()
    if seeds < 2 or scatter.empty:
        return "What these seeds could show is open: it takes two of a row to tell how much they scatter."
    middle, wide = (float(scatter.quantile(part)) for part in (0.5, 0.9))
    found = [statistics.minimum_detectable(sd**2, sd**2, seeds, seeds) for sd in (middle, wide)]
    return (
        f"With {seeds} seeds of each, a difference of two rows at one dose is called in 80 % of cases if it is "
        f"{found[0]:.1f} points or more at the scatter of the middle cell (s.d. {middle:.1f}), and {found[1]:.1f} or more "
        f"at that which one cell in ten exceeds (s.d. {wide:.1f}); smaller ones may be there and not show."
    )


def write_reach(root=".", home=None):
    """Write what the tables show with :func:`words.write_frames`, into ``results/reach`` unless ``home`` is given."""
    frames = {"reach": cells("probe", root), "looks": looks(root), "pathfinder": cells("pathfinder", root)}
    return words.write_frames(home or Path(root) / "results/reach", {FILES[name]: frame for name, frame in frames.items()})
