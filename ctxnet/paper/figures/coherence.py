"""Figures 6.1 and 6.2: how the two kinds of context look, and what they are worth to a network that has none."""

import math
from pathlib import Path

import numpy as np

from ctxnet.blocks.half import HalfPermutation, HalfShift
from ctxnet.paper import coherence
from ctxnet.paper.coherence import FEWEST, KINDS, MEAN, NOWHERE, REACHES
from ctxnet.paper.figures import figure
from ctxnet.paper.figures.style import BLUE, GREEN, GREY, LIGHT, VERMILION, new_figure
from ctxnet.paper.results import MissingRecord
from ctxnet.paper.statistics import LEVEL, mean_half

COLOURS = {"one offset": (BLUE, "o"), "permuted": (VERMILION, "s")}
LINES = {NOWHERE: ("nowhere", GREY, "--"), MEAN: ("mean of the map", GREEN, ":")}
AXES = {"distance": "mean distance at initialisation, px", "reach": "receptive field, % of the image"}
NETWORKS = "starved ResNet-50 and its relatives, trained on Imagenette at 64 px, a quarter as wide"


def targets(block, side):
    """(rows, columns) from each place of a side × side map to the one that a block of :mod:`ctxnet.blocks.half` shows there.

    Returns:
        Two int arrays (side, side); of an offset as it was drawn, not taken around the border.
    """
    if isinstance(block, HalfShift):
        return tuple(np.full((side, side), step) for step in block.offset(side, side))
    order = block.make_tables(side, side)[0].reshape(side, side)
    rows, columns = np.mgrid[:side, :side]
    return order // side - rows, order % side - columns


@figure(
    "6.1",
    caption="Two kinds of context of the same reach, as the blocks draw them on a map of 8 × 8 places with tiles of 4 × 4. "
    "Coherent: one offset for all places, around the border. Incoherent: another place of its tile for every place.",
    alt="Two grids of arrows. Left: all arrows are parallel and of one length. Right: within each of four tiles the arrows "
    "point in all directions.",
)  # fmt: skip
def looks():
    side, tile = 8, 4
    fig = new_figure(width=5.6, height=2.8)
    blocks = HalfShift(2, tile=tile, layer="figure0"), HalfPermutation(2, tile=tile, layer="figure0")
    rows, columns = np.mgrid[:side, :side]
    for ax, block, kind in zip(fig.subplots(1, 2), blocks, KINDS, strict=True):
        colour, _ = COLOURS[kind]
        down, right = targets(block, side)
        for edge in range(0, side + 1, tile):
            ax.plot([edge - 0.5] * 2, [-0.5, side - 0.5], color=LIGHT, linewidth=2)
            ax.plot([-0.5, side - 0.5], [edge - 0.5] * 2, color=LIGHT, linewidth=2)
        ax.plot(columns.ravel(), rows.ravel(), "o", color=GREY, markersize=2)
        ax.quiver(columns, rows, right, down, angles="xy", scale_units="xy", scale=1, color=colour, width=0.006, headwidth=5)
        ax.set(xticks=[], yticks=[], xlim=(-0.8, side + 1.3), ylim=(side + 0.3, -0.8), aspect="equal")
        ax.grid(False)
        ax.spines[:].set_visible(False)
        ax.set_title({"one offset": "coherent: one offset", "permuted": "incoherent: permuted"}[kind], fontsize=9)
    return fig


def band(values, cells):
    """Simultaneous 95 % interval of the mean of one cell among ``cells`` (Bonferroni), over replicates: (low, high);
    NaN with fewer than :data:`ctxnet.paper.coherence.FEWEST`."""
    half = mean_half(values, LEVEL / cells)
    return (math.nan, math.nan) if math.isnan(half) else (float(np.mean(values) - half), float(np.mean(values) + half))


@figure(
    "6.2", rests_on=("context",), networks=NETWORKS,
    caption="Every replicate: top-1 over the mean distance at initialisation and over the share of the image in the "
    "receptive field (both means over the blocks), and coherent against incoherent context over its reach. Half of the "
    "channels look elsewhere. Bands and bars: simultaneous 95 % intervals of the means of all cells drawn with them "
    "(Bonferroni), over replicates, where every cell of a kind has three. Lines: the network that looks nowhere, and the "
    "one that sees the mean of the map; shaded: the same intervals. n, below: replicates of those planned, by reach.",
    alt="Three panels of dots, top-1 in percent on the vertical axis: over mean distance in pixels, over the share of the "
    "image in the receptive field, and over reach 1, 2, 4 and the whole map, one offset in blue and permutations in red. "
    "Horizontal lines mark the network that looks nowhere and the one that sees the mean of the map.",
)  # fmt: skip
def answers(root="."):
    runs = coherence.replicates(root)
    if runs.empty:
        raise MissingRecord(Path(root) / "results" / coherence.PROTOCOL, coherence.COMMAND)
    found = dict(list(runs.groupby("variant")))
    fig = new_figure(height=3.35)
    axes = fig.subplots(1, 3, sharey=True)
    for ax, key in zip(axes[:2], AXES, strict=True):
        for kind in KINDS:
            _scatter(ax, kind, found, key)
        ax.set(xlabel=AXES[key])
    _over_reach(axes[2], found)
    for ax in axes:
        for row in LINES:
            _line(ax, row, found)
    axes[0].set(ylabel="top-1, %")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    fig.supxlabel(_counts(found, coherence.planned(root)), fontsize=7, color=GREY)
    return fig


def _rows(kind):
    return [f"{KINDS[kind]}{reach}" for reach in REACHES]


def _shown():
    """How many intervals a figure shows at once."""
    return len(KINDS) * len(REACHES) + len(LINES)


def _bands(kind, found):
    """Intervals of all cells of a kind, or None while one has too few replicates."""
    ends = [band(found[row]["top1"] if row in found else (), _shown()) for row in _rows(kind)]
    return None if np.isnan(ends).any() else np.array(ends)


def _scatter(ax, kind, found, key):
    colour, marker = COLOURS[kind]
    there = [found[row] for row in _rows(kind) if row in found]
    for number, each in enumerate(there):
        ax.plot(each[key], each["top1"], marker, color=colour, alpha=0.55, markersize=4, markeredgewidth=0,
                label=kind if not number else None)  # fmt: skip
    ends = _bands(kind, found)
    if ends is not None:
        centres = np.array([each[key].mean() for each in there])
        order = np.argsort(centres)
        ax.fill_between(centres[order], *ends[order].T, color=colour, alpha=0.15, linewidth=0)
        ax.plot(centres[order], np.array([each["top1"].mean() for each in there])[order], color=colour, linewidth=1)


def _over_reach(ax, found):
    for shift, kind in zip((-0.12, 0.12), KINDS, strict=True):
        colour, marker = COLOURS[kind]
        ends = _bands(kind, found)
        for place, row in enumerate(_rows(kind)):
            if row not in found:
                continue
            values = found[row]["top1"]
            ax.plot([place + shift] * len(values), values, marker, color=colour, alpha=0.3, markersize=3, markeredgewidth=0)
            ax.plot(place + shift, values.mean(), marker, color=colour, markersize=5.5)
            if ends is not None:
                ax.plot([place + shift] * 2, ends[place], color=colour, linewidth=1.6)
    ax.set(xlabel="reach, places", xticks=range(len(REACHES)), xlim=(-0.5, len(REACHES) - 0.5))
    ax.set_xticklabels(REACHES)


def _line(ax, row, found):
    if row not in found:
        return
    name, colour, style = LINES[row]
    values = found[row]["top1"]
    ax.axhline(values.mean(), color=colour, linestyle=style, linewidth=1.2, label=name)
    low, high = band(values, _shown())
    if not math.isnan(low):
        ax.axhspan(low, high, color=colour, alpha=0.12, linewidth=0)


def _counts(found, planned):
    texts = [f"{kind} {', '.join(str(len(found.get(row, ()))) for row in _rows(kind))}" for kind in KINDS]
    texts += [f"{name} {len(found.get(row, ()))}" for row, (name, *_) in LINES.items()]
    few = [kind for kind in KINDS if _bands(kind, found) is None]
    note = f"; no band with fewer than {FEWEST} in a cell" if few else ""
    return f"n of {planned}: {'; '.join(texts)}{note}"
