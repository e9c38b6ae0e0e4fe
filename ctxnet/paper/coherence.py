"""Chapter 6: which kind of context helps a network that has none. Numbers and tables from the records of ``context``.

The contrasts were written down before their runs (``hypotheses.yaml``) and are tested when all of their replicates are
there (:mod:`ctxnet.paper.contrasts`). All else is exploratory and says so. The records are those of protocol ``context``,
whichever protocol the other chapters show.
"""

import math
from pathlib import Path

import pandas as pd

from ctxnet.models.variants import VARIANTS
from ctxnet.paper import decays, results, statistics, studies, words
from ctxnet.paper.contrasts import family, variance_parts

PROTOCOL = "context"
REACHES = ("1", "2", "4", "map")  # positions; what the names of the rows end with
KINDS = {"one offset": "starved_shift", "permuted": "starved_permute"}  # coherent, incoherent
NOWHERE, MEAN = "starved_resnet50", "starved_mean"
CROSSED = ("starved_shiftmap", "starved_permutemap")
GRID = 5  # draws, and sets of weights, of a crossed grid
FEWEST = statistics.MIN_SEEDS  # replicates of a cell from which its interval is shown
COMMAND = f"python -m ctxnet campaign --protocol {PROTOCOL}"
FILES = {name: f"tables/{name}.csv" for name in ("contrasts", "cells", "draws")} | {"decays": decays.FILE}


def planned(root="."):
    """Replicates that every cell is to get: seeds 0 … of the protocol."""
    return len(results.settings_of(PROTOCOL, root).seeds)


def first_look(root="."):
    """Replicates of every cell before which no hypothesis is tested."""
    return min(min(one.looks) for one in studies.hypotheses(PROTOCOL, root))


def replicates(root="."):
    """The planned runs that are there, as :func:`results.replicates` gives them: neither crossed nor further seeds."""
    seeds = set(results.settings_of(PROTOCOL, root).seeds)
    frame = results.replicates(PROTOCOL, root)
    return frame[frame["seed"].isin(seeds) & ~frame["crossed"].astype(bool)]


def tested(root="."):
    """list of (:class:`ctxnet.paper.contrasts.Contrast`, p after Holm's correction), one for every hypothesis; points."""
    every = studies.hypotheses(PROTOCOL, root)
    seeds = range(max((one.replicates for one in every), default=0))
    values = {row: list(each.set_index("seed")["top1"].reindex(seeds)) for row, each in replicates(root).groupby("variant")}
    return family(every, {PROTOCOL: values})


def contrasts(root="."):
    """The hypotheses as a DataFrame in the order of their file.

    Columns: those of :func:`ctxnet.paper.studies.contrast_line`, in points, and for the cells with positive and with
    negative weights, as weighted means: ``parameters``, ``multiply_adds`` and ``train_loss``, each with ``_a`` and ``_b``.
    """
    runs, wiring, found = replicates(root), results.load_wiring(PROTOCOL, root), tested(root)
    sizes = {key: {name: line[key] for name, line in wiring.items()} for key in ("parameters", "multiply_adds")}
    sizes["train_loss"] = runs.groupby("variant")["train_loss"].mean().to_dict()
    rows = []
    for one, p_holm in found:
        row = studies.contrast_line(one, p_holm, len(found), formula)
        for side, sign in (("a", 1), ("b", -1)):
            row |= {f"{key}_{side}": _weighted(one.hypothesis.cells, values, sign) for key, values in sizes.items()}
        rows.append(row)
    return pd.DataFrame(rows)


def _weighted(cells, values, sign):
    """Weighted mean over the cells on one side; NaN where one is unknown."""
    weights = {row: abs(weight) for row, weight in cells.items() if weight * sign > 0}
    return sum(weight * values.get(row, math.nan) for row, weight in weights.items())


def formula(cells):
    """Weights of a contrast as text: ``mean(a … d) − e``, the names in the order of the file."""
    sides = []
    for sign in (1, -1):
        names = [row for row, weight in cells.items() if weight * sign > 0]
        sides.append(names[0] if len(names) == 1 else f"mean({' … '.join((names[0], names[-1]))})")
    return " − ".join(sides)


def cells(root="."):
    """Every row of the protocol as a DataFrame: what its replicates are, in means.

    Columns: ``row``, ``architecture``, ``n``, ``top1``, ``low``, ``high``, ``interval_over`` (see
    :func:`ctxnet.paper.statistics.row_interval`; percent), ``sd``, ``blind``, ``parameters``, ``multiply_adds``, and with
    the half of its 95 % interval over replicates, ``…_half``: ``distance`` (px, at initialisation, mean over blocks),
    ``reach`` (percent of the image in the receptive field then) and ``train_loss``. What is unknown is NaN.
    """
    runs, wiring = replicates(root), results.load_wiring(PROTOCOL, root)
    answers = results.replicate_answers(PROTOCOL, runs["variant"].unique(), runs, root)
    rows = []
    for name in results.rows_shown(PROTOCOL, root):
        mine, about = runs[runs["variant"] == name], wiring.get(name, {})
        row = dict.fromkeys(CELL_COLUMNS, math.nan) | {"row": name, "architecture": VARIANTS[name].label, "n": len(mine)}
        row |= {"interval_over": "", "blind": 100 * results.blind_share(about)[0]}
        row |= {key: about.get(key, math.nan) for key in ("parameters", "multiply_adds")}
        if len(mine):
            row |= results.accuracy(answers[name][1]) | {"sd": mine["top1"].std()}
            row |= {key: mine[key].mean() for key in MEASURED}
            row |= {f"{key}_half": statistics.mean_half(mine[key]) for key in MEASURED}
        rows.append(row)
    return pd.DataFrame(rows, columns=CELL_COLUMNS)


MEASURED = ("distance", "reach", "train_loss")
CELL_COLUMNS = ["row", "architecture", "n", "top1", "low", "high", "interval_over", "sd", "blind", "parameters"]
CELL_COLUMNS += ["multiply_adds", *(f"{key}{end}" for key in MEASURED for end in ("", "_half"))]


def draws(root="."):
    """What the draw of positions, the initial weights and all else add to the scatter of a row: a DataFrame.

    From a grid of :data:`GRID` draws by as many sets of weights, once it is complete. Columns: ``row``, ``runs`` (of the
    grid) and for ``draw``, ``weights`` and ``rest`` the standard deviation in points with a 95 % interval (``…_low``,
    ``…_high``), and ``p_draw``; NaN until then.
    """
    runs = results.replicates(PROTOCOL, root)
    rows = []
    for name in CROSSED:
        wanted = (runs["variant"] == name) & runs["crossed"] & (runs["draw"] < GRID) & (runs["init"] < GRID)
        grid = runs[wanted].drop_duplicates(["draw", "init"]).pivot(index="draw", columns="init", values="top1")
        row = dict.fromkeys(DRAW_COLUMNS, math.nan) | {"row": name, "runs": int(grid.notna().sum().sum())}
        if row["runs"] == GRID**2:
            found = variance_parts(grid)
            row["p_draw"] = found["p_draw"]
            for part in ("draw", "weights", "rest"):
                low, high = found[f"{part}_interval"]
                row |= {part: found[part] ** 0.5, f"{part}_low": low**0.5, f"{part}_high": high**0.5}
        rows.append(row)
    return pd.DataFrame(rows, columns=DRAW_COLUMNS)


DRAW_COLUMNS = ["row", "runs", *(f"{part}{end}" for part in ("draw", "weights", "rest") for end in ("", "_low", "_high"))]
DRAW_COLUMNS += ["p_draw"]


# ---- in words ---------------------------------------------------------------------------------------------------------


def status(root="."):
    """How many of the planned runs are there, and how to make the others: one paragraph of Markdown."""
    rows, counts, each = results.rows_shown(PROTOCOL, root), replicates(root)["variant"].value_counts(), planned(root)
    done, crossed = int(counts.sum()), int(draws(root)["runs"].sum())
    text = f"Protocol `{PROTOCOL}`: {done} of {len(rows) * each} replicates ({each} for each of {len(rows)} rows) and "
    text += f"{crossed} of {len(CROSSED) * GRID**2} runs with crossed seeds are there."
    if done < len(rows) * each or crossed < len(CROSSED) * GRID**2:
        text += f" Make the others with `{COMMAND}`, which takes up where it stopped."
    return text


def contrast_table(root="."):
    """:func:`contrasts` as a :class:`ctxnet.paper.words.Table`."""
    frame = contrasts(root)
    columns = studies.contrast_columns("cell") | {
        "n": _there,
        "params M": lambda line: _pair(line, "parameters", 1e6, ".3f"),
        "multiply-adds M": lambda line: _pair(line, "multiply_adds", 1e6, ".2f"),
        "training loss": lambda line: _pair(line, "train_loss", 1, ".3f"),
    }
    caption = (
        f"The {len(frame)} contrasts that were written down before their runs, in points of top-1: estimate with its 95 % "
        f"interval over replicates (Welch's, on the same validation images), p after Holm's correction for all "
        f"{len(frame)}, of the contrary where that is what was shown, margin of equivalence, replicates at hand. "
        f"{_when(root)} Parameters without classifier, multiply-adds per image and training loss of the last epoch: cells "
        "with positive / negative weight, loss as the mean over the replicates that are there."
    )
    header, lines = words.filled(columns, frame.to_dict("records"))
    numbers = [column for column in range(1, len(header)) if header[column] != "verdict"]
    return words.Table(header, lines, numbers, "6.1", caption, rests_on=(PROTOCOL,), file=FILES["contrasts"])


def _when(root):
    """When a contrast is tested, in a sentence or two."""
    looks = {one.looks for one in studies.hypotheses(PROTOCOL, root)}
    if {len(each) for each in looks} != {2} or len(looks) > 1:
        return "A contrast is tested when every cell has all of its replicates, and open until then, whatever it looks like."
    first, last = looks.pop()
    return (f"A contrast is tested twice, with the first {first} and with all {last} replicates of every cell, each time at "
            "half the level (p is doubled), and open until then, whatever it looks like.")  # fmt: skip


def _there(line):
    """Replicates of the cells, and how many of each the numbers rest on where some came after the test."""
    told = f"{words.span((line['n'], line['most']))} of {line['planned']}"
    return f"{told}; {line['looked']} tested" if 0 < line["looked"] < line["most"] else told


def _pair(line, key, unit, form):
    return " / ".join(words.or_dash(line[f"{key}_{side}"] / unit, form) for side in ("a", "b"))


def cell_table(root="."):
    """:func:`cells` as a :class:`ctxnet.paper.words.Table`."""
    frame, drawn = cells(root), draws(root).set_index("row")
    columns = {
        "row": "{architecture}", "n": f"{{n}} of {planned(root)}", "top-1 %": "{top1:.2f}", "95 % interval": words.interval,
        "s.d.": "{sd:.2f}",
        "s.d. of the draw": lambda line: _sd(drawn.loc[line["row"]], "draw") if line["row"] in drawn.index else "–",
        "distance px": lambda line: _plus_minus(line, "distance", ".1f"),
        "RF %": lambda line: _plus_minus(line, "reach", ".0f"),
        "blind %": "{blind:.0f}",
        "params M": lambda line: words.or_dash(line["parameters"] / 1e6, ".3f"),
        "multiply-adds M": lambda line: words.or_dash(line["multiply_adds"] / 1e6, ".2f"),
        "training loss": lambda line: _plus_minus(line, "train_loss", ".3f"),
    }  # fmt: skip
    caption = (
        "Every row, as means over its replicates; all of it exploratory. Intervals cover replicates and images. s.d.: of "
        "top-1 over replicates, and the part of the draw (Table 6.3). Distance: mean distance at initialisation, mean over "
        "the blocks; RF: share of the image in the receptive field, likewise. Blind: share of the weights that see nothing "
        f"but padding, over 3 draws. ±: 95 % over replicates, from {FEWEST} on. Sizes as trained, at width "
        f"{results.settings_of(PROTOCOL, root).width} of 64; parameters without classifier.{words.one_seed(frame)}"
    )
    return _table("6.2", "cells", columns, frame, caption)


def _plus_minus(line, key, form):
    half = line[f"{key}_half"]
    return words.or_dash(line[key], form) + ("" if words.unknown(half) else f" ± {half:{form}}")


def _table(number, name, columns, frame, caption, after=""):
    header, rows = words.filled(columns, frame.to_dict("records"))
    return words.Table(header, rows, range(1, len(header)), number, caption, after, rests_on=(PROTOCOL,), file=FILES[name])


def draw_table(root="."):
    """:func:`draws` as a :class:`ctxnet.paper.words.Table`."""
    columns = {
        "row": lambda line: VARIANTS[line["row"]].label, "runs": f"{{runs}} of {GRID**2}",
        "draw of positions": lambda line: _sd(line, "draw"), "initial weights": lambda line: _sd(line, "weights"),
        "rest": lambda line: _sd(line, "rest"), "p, no part of the draw": lambda line: words.p_text(line["p_draw"]),
    }  # fmt: skip
    caption = (
        f"Where the scatter of a row comes from: {GRID} draws of positions by {GRID} sets of initial weights, standard "
        "deviations in points of top-1 with 95 % intervals (two-way random effects; Williams, 1962). An interval that ends "
        "near zero comes of means that agree better than the rest lets expect, which is chance: it is no sign of "
        "precision. Nothing is said of a grid with holes."
    )
    frame = draws(root)
    return _table("6.3", "draws", columns, frame, caption, after=_about_draws(frame))


def _about_draws(frame):
    """Whether the draw of positions adds to the scatter, for each whole grid of :func:`draws`; "" without one."""
    said = []
    for line in frame.dropna(subset="p_draw").to_dict("records"):
        shown = "a part is shown" if line["p_draw"] <= statistics.LEVEL else "no part is shown"
        said.append(f"{VARIANTS[line['row']].label}: {shown}, {line['draw_high']:.2f} points at most")
    return f"What the draw of positions adds, at 95 % and not corrected: {'; '.join(said)}." if said else ""


def _sd(line, part):
    if words.unknown(line[part]):
        return f"open: {line['runs']:.0f} of {GRID**2} runs"
    return f"{line[part]:.2f} ({line[f'{part}_low']:.2f}–{line[f'{part}_high']:.2f})"


def summary(root="."):
    """The verdicts by name, as a Markdown list."""
    lines = contrasts(root).to_dict("records")
    names = [words.plain(line["contrast"].replace("_", " ")) for line in lines]
    return "\n".join(f"- {name}: {studies.came_of(line, 'cell')}" for name, line in zip(names, lines, strict=True))


def story(root="."):
    """What became of the contrasts that were tested, see :func:`ctxnet.paper.studies.story`."""
    return studies.story(contrasts(root), "cell")


def write_coherence(root=".", home=None):
    """Write what the tables show with :func:`words.write_frames`, into ``results/context`` unless ``home`` is given."""
    made = {"contrasts": contrasts, "cells": cells, "draws": draws, "decays": decays.decays}
    home = home or Path(root) / "results" / PROTOCOL
    return words.write_frames(home, {FILES[name]: make(root) for name, make in made.items()})
