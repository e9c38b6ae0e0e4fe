"""Figures 7.1–7.4: the tasks of chapter 7, and how far networks look in them."""

from pathlib import Path

import numpy as np

from ctxnet.data import pathfinder, probe
from ctxnet.models.variants import VARIANTS
from ctxnet.paper import reach
from ctxnet.paper.figures import figure
from ctxnet.paper.figures.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, new_figure
from ctxnet.paper.results import MissingRecord

NETWORKS = "ResNet-50 and starved relatives, an eighth as wide, trained at 64 px on images that ctxnet draws"
SIZE, SHOWN = 64, (4, 8, 16, 30)  # px, and the doses of Figure 7.1
LINES = ((BLUE, "o"), (VERMILION, "s"), (GREEN, "^"), (PURPLE, "D"))  # rows of a panel
COLOURS = dict(zip(reach.GROUPS, (BLACK, ORANGE, BLUE, VERMILION), strict=True))  # groups of rows


@figure(
    "7.1",
    caption="What the tasks look like. Above: the probe set at four distances; the class is the bearing, in ten steps, of "
    "the blue mark from the yellow one, and marks go around the border. Below: Pathfinder with paths of 6, 9 and 14 dashes; "
    "the class is whether the two discs lie on the ends of one path.",
    alt="Two rows of small square pictures. Above, four grey pictures with a yellow and a blue dot, from close together to "
    "half a picture apart. Below, six pictures of white dashed curves on grey, two discs in each, in pairs of connected and "
    "apart for three lengths of the path.",
)  # fmt: skip
def tasks():
    fig = new_figure(height=3.6)
    above, below = fig.subfigures(2, 1, height_ratios=(1.35, 1))
    for ax, dose in zip(above.subplots(1, len(SHOWN)), SHOWN, strict=True):
        images, labels = probe.make_probe(10, image_size=SIZE, distance=dose, mark=3, seed=0)
        one = int(np.flatnonzero(labels == 1)[0])
        _picture(ax, images[one], f"{dose} px, {probe.CLASSES[1].replace(' degrees', '°')}")
    axes = iter(below.subplots(1, 2 * len(pathfinder.LENGTHS)))
    for dashes in pathfinder.LENGTHS:
        images, labels = pathfinder.make_pathfinder(8, image_size=SIZE, dashes=dashes, seed=0)
        for label, name in reversed(list(enumerate(pathfinder.CLASSES))):
            _picture(next(axes), images[int(np.flatnonzero(labels == label)[0])], f"{dashes}, {name}")
    return fig


def _picture(ax, image, title):
    ax.imshow(image)
    ax.set_axis_off()
    ax.set_title(title, fontsize=8, pad=3)


def _cells(task, root):
    """Cells with a run, or what says that there is none."""
    table = reach.cells(task, root)
    table = table[table["n"] > 0]
    if table.empty:
        raise MissingRecord(Path(root) / "results" / next(iter(reach.TASKS[task].values())), reach.COMMANDS[task])
    return table


@figure(
    "7.2", rests_on=("reach",), networks=NETWORKS,
    caption="Top-1 on the probe set over the distance of the marks, with 95 % intervals over seeds and images. Filled: the "
    "receptive field of the last block holds both marks in every bearing; hollow: it does not. Dashed: a perfect reader, "
    "measured on images drawn alike; dotted: chance. A row or a dose without a run is left out; in brackets: runs of those "
    "planned.",
    alt="Four panels of lines, top-1 in percent over the distance between two marks from 4 to 30 pixels: rows of the "
    "thesis, starved networks and their controls, starved networks with one offset, and with permutations.",
)  # fmt: skip
def doses(root="."):
    table, (_, seeds) = _cells("probe", root), reach.planned("probe", root)
    fig, read = new_figure(height=6.2), [100 * reach.perfect("probe", dose, root) for dose in reach.DOSES]
    for ax, (title, rows) in zip(fig.subplots(2, 2, sharex=True, sharey=True).flat, reach.GROUPS.items(), strict=True):
        ax.axhline(100 * reach.CHANCE["probe"], color=GREY, linestyle=":", linewidth=1, label="chance")
        ax.plot(read, color=GREY, linestyle="--", linewidth=1, label="perfect reader")
        for row, (colour, marker) in zip(rows, LINES, strict=False):
            name = VARIANTS[row].label.removeprefix("starved, ").removeprefix(f"{title.rpartition(', ')[2]}, ")
            _over_dose(ax, table[table["row"] == row], colour, marker, name, len(seeds) * len(reach.DOSES))
        ax.set(ylim=(0, 104))
        ax.set_xticks(range(len(reach.DOSES)), reach.DOSES)
        ax.set_title(title, fontsize=8.5, pad=32)
        found = [some[2:] for some in ax.get_legend_handles_labels()]  # without chance and the reader
        ax.legend(*found, loc="lower left", bbox_to_anchor=(-0.02, 1), ncols=2, fontsize=6.5, handlelength=1.5)
    fig.supxlabel("distance of the marks, px", fontsize=9)
    fig.supylabel("top-1, %", fontsize=9)
    handles, labels = fig.axes[0].get_legend_handles_labels()
    fig.legend(handles[:2], labels[:2], loc="outside upper center", ncols=2)
    return fig


def _over_dose(ax, mine, colour, marker, name, most):
    if mine.empty:
        return
    places = np.array([reach.DOSES.index(dose) for dose in mine["dose"]])
    ax.plot(places, mine["top1"], color=colour, linewidth=1.2)
    ax.vlines(places, mine["low"], mine["high"], color=colour, linewidth=1.2)
    promised = (mine["pairs"] > 0).to_numpy()
    for chosen, face in ((promised, colour), (~promised, "white")):
        ax.plot(places[chosen], mine["top1"][chosen], marker, color=colour, markerfacecolor=face, markersize=4)
    ax.plot([], [], marker, linestyle="-", color=colour, markersize=4, label=f"{name} ({mine['n'].sum()}/{most})")


@figure(
    "7.3", rests_on=("reach",), networks=NETWORKS,
    caption="How many images it took until top-1 first passed twice chance, for every run on the probe set. Left: over the "
    "mean distance before the first step as a share of the dose, which is known beforehand. Right: over the share of the "
    "trained network's effective receptive field (ERF; last block) that lies half the dose or more from its feature, where "
    "both marks lie for a feature midway. Hollow, above the line: not within the images of a run. Runs of equal numbers are "
    "spread a little.",
    alt="Two scatter plots of dots in four colours, one for each group of rows: number of training images on the vertical "
    "axis over mean distance divided by dose, and over the mass of the effective receptive field at half the dose or more.",
)  # fmt: skip
def predicts(root="."):
    seen = reach.runs("probe", root)
    if seen.empty:
        raise MissingRecord(Path(root) / "results" / reach.TASKS["probe"][reach.DOSES[0]], reach.COMMANDS["probe"])
    fig = new_figure(height=3.3)
    most, step = seen["images"].max(), seen["images"].min()
    top = 1.15 * most if np.isfinite(most) else 1.0
    spread = np.random.default_rng(0).uniform(-0.3, 0.3, len(seen)) * (0 if np.isnan(step) else min(step, most / 10))
    for ax, (name, read) in zip(fig.subplots(1, 2, sharey=True), reach.PREDICTORS.items(), strict=True):
        x, took, never = read(seen), seen["images"].fillna(top) + spread, seen["images"].isna()
        for group, rows in reach.GROUPS.items():
            mine, colour = seen["row"].isin(rows), COLOURS[group]
            ax.plot(x[mine & ~never], took[mine & ~never], "o", color=colour, markersize=3, alpha=0.7, label=group)
            ax.plot(x[mine & never], took[mine & never], "o", color=colour, markersize=3, markerfacecolor="none")
        ax.axhline((top + most) / 2 if np.isfinite(most) else 0, color=GREY, linewidth=0.8)
        ax.set(xlabel=name)
    fig.axes[0].set(ylabel="training images")
    fig.legend(*fig.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, fontsize=7)
    return fig


@figure(
    "7.4", rests_on=("pathfinder",), networks=NETWORKS,
    caption="Top-1 on Pathfinder by the number of dashes of the path: every row with its 95 % interval over seeds and "
    "images, colours as in Figure 7.3; in brackets: runs of those planned. Dotted: chance; dash-dotted: a reader of nothing "
    "but the distance of the two marks; with two dots: of that and of the direction of the next dash at each; dashed: a "
    "flood fill on images drawn alike.",
    alt="Three panels of dots with horizontal bars, one line for each network, top-1 in percent from 40 to 100 on the "
    "horizontal axis, for paths of 6, 9 and 14 dashes.",
)  # fmt: skip
def paths(root="."):
    table, (rows, seeds) = _cells("pathfinder", root), reach.planned("pathfinder", root)
    colours = {row: COLOURS[group] for group, some in reach.GROUPS.items() for row in some}
    fig = new_figure(height=0.9 + 0.19 * len(rows))
    axes, alone = fig.subplots(1, len(pathfinder.LENGTHS), sharey=True), reach.shortcut(root)
    for ax, dashes in zip(axes, pathfinder.LENGTHS, strict=True):
        ax.axvline(100 * reach.CHANCE["pathfinder"], color=GREY, linestyle=":", linewidth=1)
        for reads, style in zip(reach.READS, ("-.", (0, (6, 1.5, 1, 1.5, 1, 1.5))), strict=True):
            if reads in alone:
                ax.axvline(alone[reads][dashes], color=GREY, linestyle=style, linewidth=1)
        ax.axvline(100 * reach.perfect("pathfinder", dashes, root, images=30), color=GREY, linestyle="--", linewidth=1)
        for line in table[table["dose"] == dashes].to_dict("records"):
            place, colour = rows.index(line["row"]), colours.get(line["row"], SKY)
            ax.plot([line["low"], line["high"]], [place] * 2, color=colour, linewidth=1.6)
            ax.plot(line["top1"], place, "o", color=colour, markersize=4)
        ax.set(xlim=(min(40, table["low"].min() - 2), 103), ylim=(len(rows) - 0.4, -0.6))
        ax.set_title(f"{dashes} dashes", fontsize=8.5)
    counts = table.groupby("row")["n"].sum()
    every = len(seeds) * len(pathfinder.LENGTHS)
    axes[0].set_yticks(range(len(rows)), [f"{VARIANTS[row].label} ({counts.get(row, 0)} of {every})" for row in rows])
    fig.supxlabel("top-1, %", fontsize=9)
    return fig
