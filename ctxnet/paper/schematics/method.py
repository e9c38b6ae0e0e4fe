"""Figures 3.1–3.4: the thesis' operators, drawn from the indices and offsets of real blocks."""

import numpy as np
import torch
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from ctxnet.blocks import InsertedDilatedConv, RandomDilatedConcat, SpatialPermutation
from ctxnet.blocks.positions import permutations
from ctxnet.paper.figures import figure
from ctxnet.paper.figures.style import BLUE, GREEN, INK, ORANGE, VERMILION, new_figure
from ctxnet.paper.schematics.shapes import Drawing, grid, shade


def sources(block, height, width, position):
    """Which input positions reach one output position of a block, found by sending marked inputs through it.

    Args:
        block: a block without normalisation, on one input channel.
        position: (row, column) of the output.
    Returns:
        a set of (row, column).
    """
    x = torch.zeros(height * width, 1, height, width)
    x.view(height * width, -1).fill_diagonal_(1)  # one image per input position, marked there
    with torch.no_grad():
        seen = block(x)[:, :, position[0], position[1]].abs().sum(1) > 0
    return {divmod(int(p), width) for p in seen.nonzero()}


def sparse_connections(k=3, height=4, width=6):
    """Two layers of random sparse context over a small map, from the last one back, for the position in the middle.

    Returns:
        two lists of (position in the layer above, random position below), positions counted row by row.
    """
    steps, wanted = [], [height * width // 2 + width // 2]
    for layer in ("layer1.1", "layer1.0"):
        order = permutations(k, height, width, layer=layer)
        steps.append([(p, int(order[i, p])) for p in wanted for i in range(k)])
        wanted = list(dict.fromkeys(wanted + [q for _, q in steps[-1]]))
    return steps


@figure(
    "3.1", networks="permutations of layer1.0 and layer1.1, k = 3",
    caption="Random sparse connections of one position over two layers, from the indices of real blocks with three "
    "permutations on a 4×6 map: 15 connections besides the straight ones. (With 1×1 convolutions only.)",
    alt="Three rows of circles; one filled circle on top is joined to four in the middle row, and those to fourteen "
    "in the lowest.",
)  # fmt: skip
def figure_3_1(k=3, height=4, width=6):
    n, start = height * width, height * width // 2 + width // 2
    upper, lower = sparse_connections(k, height, width)
    first = {start} | {q for _, q in upper}
    reached = first | {q for _, q in lower}
    rows = 40, 135, 230  # px from the top: layers n, n − 1, n − 2

    def x(p):
        return f"{100 + 560 * p / (n - 1):.1f}"

    def dots(places, y):
        return "".join(f"M{x(p)} {y}h0" for p in sorted(places))

    def lines(pairs, y):
        return "".join(f"M{x(p)} {y}L{x(q)} {y + 95}" for p, q in pairs)

    return Drawing(
        "figure_3_1", every="".join(dots(range(n), y) for y in rows), start=dots([start], rows[0]),
        first=dots(first, rows[1]), same=dots(first, rows[2]), other=dots(reached - first, rows[2]),
        straight=lines([(start, start)], rows[0]) + lines([(p, p) for p in sorted(first)], rows[1]),
        upper=lines(upper, rows[0]), lower=lines(lower, rows[1]),
        random=f"{len(upper)} + {len(lower)} = {len(upper) + len(lower)}", reached=f"{len(reached)} of {n}",
        map=f"{height}×{width}", k=k,
    )  # fmt: skip


@figure(
    "3.2", networks="permutations of layer1.0, k = 2",
    caption="The slot of a bottleneck filled by two permuted copies, from a real block's indices on a 2×2 map. The "
    "last 1×1 convolution takes three times the channels and gives as many as before.",
    alt="A cube with four lettered cells is copied three times, twice with its cells in another order; the copies are "
    "stacked and enter a 1×1 convolution.",
)  # fmt: skip
def figure_3_2(channels=64):
    block = SpatialPermutation(1, k=2, layer="layer1.0")
    with torch.no_grad():
        shown = block(torch.arange(4.0).view(1, 1, 2, 2))[0].long()  # which input position each copy shows where
    cells = {f"cell{copy}{r}{c}": "abcd"[shown[copy, r, c]] for copy, r, c in np.ndindex(*shown.shape)}
    return Drawing("figure_3_2", channels=channels, copies=len(shown), **cells)


_BEFORE = {"fill": False, "edgecolor": GREEN, "lw": 2}  # the window one step before
_REACH = {"fill": False, "edgecolor": INK, "linestyle": "--"}


def _kernel_panel(ax, block, side, centre, d, title, *, previous=None):
    """A side × side map with the ordinary 3×3 window, the centre and what a convolution-like block reads for it."""
    taps = sources(block, side, side, centre)
    window = {(centre[0] + r, centre[1] + c): shade(ORANGE, 0.35) for r in (-1, 0, 1) for c in (-1, 0, 1)}
    grid(ax, side, side, fill=window)
    corner, width = (centre[1] - d - 0.5, centre[0] - d - 0.5), 2 * d + 1
    ax.add_patch(Rectangle(corner, width, width, lw=1, zorder=3, clip_on=False, **_REACH))
    if previous is not None:
        ax.add_patch(Rectangle((previous[1] - 1.5, previous[0] - 1.5), 3, 3, zorder=4, **_BEFORE))
    rows, columns = zip(*sorted(taps - {centre}), strict=True)
    ax.plot(columns, rows, "o", color=VERMILION, ms=6, mec="white", mew=0.6, zorder=5)
    ax.plot(centre[1], centre[0], "s", color=BLUE, ms=6, mec="white", mew=0.6, zorder=6)
    ax.set_title(title)


def _kernel_legend(fig, *, previous=False):
    dot = {"linestyle": "none", "mec": "white", "ms": 7}
    handles = [
        Line2D([], [], marker="s", color=BLUE, label="centre", **dot),
        Line2D([], [], marker="o", color=VERMILION, label="other positions read", **dot),
        Rectangle((0, 0), 1, 1, facecolor=shade(ORANGE, 0.35), edgecolor="#C9CED6", label="ordinary 3×3 window"),
        Rectangle((0, 0), 1, 1, label="reach $[-d, d]^2$", **_REACH),
    ] + [Rectangle((0, 0), 1, 1, label="window one step before", **_BEFORE)] * previous
    about = {"columnspacing": 1.2, "handletextpad": 0.4, "fontsize": 7.5}
    fig.legend(handles=handles, loc="outside lower center", ncols=len(handles), **about)


@figure(
    "3.3", networks="3×3 convolutions with d = 2 and 3",
    caption="Positions that a 3×3 convolution with dilation 2 and 3 reads.",
    alt="Two grids: nine positions on a regular lattice around the ordinary 3×3 window, wider apart on the right.",
)  # fmt: skip
def figure_3_3(dilations=(2, 3), side=11):
    fig = new_figure(height=3.4)
    centre = (side // 2, side // 2)
    for ax, d in zip(fig.subplots(1, len(dilations)), dilations, strict=True):
        conv = InsertedDilatedConv(1, d=d).conv
        torch.nn.init.ones_(conv.weight)
        _kernel_panel(ax, conv, side, centre, d, f"$d = {d}$")
    _kernel_legend(fig)
    return fig


@figure(
    "3.4", networks="offsets of layer1.0, k = 8, d = 4",
    caption="Positions that a random dilated convolution with k = 8, d = 4 reads at two consecutive positions, from a "
    "real block's offsets: irregular, but the same shape everywhere.",
    alt="Two grids with the same eight scattered dots around the centre, on the right moved by one column.",
)  # fmt: skip
def figure_3_4(k=8, d=4, side=13):
    block = RandomDilatedConcat(1, k=k, d=d, layer="layer1.0")
    fig = new_figure(height=3.4)
    row, column = side // 2, side // 2 - 1
    for step, ax in enumerate(fig.subplots(1, 2)):
        centre, previous = (row, column + step), (row, column) if step else None
        _kernel_panel(ax, block, side, centre, d, f"position {centre}", previous=previous)
    _kernel_legend(fig, previous=True)
    return fig
