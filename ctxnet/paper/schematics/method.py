"""Figures 3.1–3.4: the thesis' operators, drawn from the indices and offsets of real blocks."""

import numpy as np
import torch
from matplotlib.patches import Circle, Rectangle

from ctxnet.blocks import InsertedDilatedConv, RandomDilatedConcat, SpatialPermutation
from ctxnet.blocks.positions import permutations
from ctxnet.paper.figures import figure
from ctxnet.paper.figures.style import BLUE, GREEN, GREY, INK, ORANGE, PALETTE, VERMILION, new_figure
from ctxnet.paper.schematics.shapes import arrow, box, canvas, cuboid, grid, label, shade


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


# ---------------------------------------------------------------- 3.1


def sparse_connections(k=3, height=4, width=6, start=None, layers=("layer1.0", "layer1.1")):
    """Two layers of random sparse context over a small map, from the last one back.

    Returns:
        two lists of (position in the layer above, random position below), positions counted row by row.
    """
    start = height * width // 2 + width // 2 if start is None else start
    steps, wanted = [], [start]
    for layer in reversed(layers):
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
    """How the context of one position grows over two 1×1 convolutions with random sparse connections."""
    start = height * width // 2 + width // 2
    upper, lower = sparse_connections(k, height, width, start)
    n = height * width
    fig, ax = canvas(2.75)
    xs = np.linspace(1.0, 6.6, n)
    rows = {"n": 2.35, "n − 1": 1.4, "n − 2": 0.45}
    y2, y1, y0 = rows.values()
    first = dict.fromkeys([start] + [q for _, q in upper])
    reached = set(first) | {q for _, q in lower}
    radius = 0.085

    def circle(x, y, **kwargs):
        ax.add_patch(Circle((x, y), radius, **({"lw": 1.2, "zorder": 3, "facecolor": "white"} | kwargs)))

    for name, y in rows.items():
        label(ax, 0.42, y, f"layer ${name.replace('−', '-')}$", size=8.5)
        for x in xs:
            circle(x, y, edgecolor="#C9CED6")
    for p in first:
        ax.plot([xs[p], xs[p]], [y1, y0], color=INK, lw=1.0, zorder=1)
        circle(xs[p], y1, edgecolor=VERMILION)
    ax.plot([xs[start]] * 2, [y2, y1], color=INK, lw=1.0, zorder=1)
    for p, q in upper:
        ax.plot([xs[p], xs[q]], [y2, y1], color=VERMILION, lw=1.3, zorder=1)
    for p, q in lower:
        ax.plot([xs[p], xs[q]], [y1, y0], color=BLUE, lw=0.9, zorder=1)
    for q in reached:
        circle(xs[q], y0, edgecolor=BLUE if q not in first else VERMILION, facecolor=shade(BLUE, 0.55))
    circle(xs[start], y1, edgecolor=VERMILION, facecolor="white")
    circle(xs[start], y2, edgecolor=VERMILION, facecolor=VERMILION)
    total = len(upper) + len(lower)
    text = f"{len(upper)} + {len(lower)} = {total} random connections; "
    text += f"{len(reached)} of {n} positions of layer $n-2$ reached"
    label(ax, 3.8, 0.12, text, size=8)
    label(ax, 3.8, 2.64, f"{height}×{width} map, written row by row; $k = {k}$", size=8, color=GREY)
    return fig


# ---------------------------------------------------------------- 3.2


@figure(
    "3.2", networks="permutations of layer1.0, k = 2",
    caption="The slot of a bottleneck filled by two permuted copies, from a real block's indices on a 2×2 map. The "
    "last 1×1 convolution takes three times the channels and gives as many as before.",
    alt="A cube with four lettered cells is copied three times, twice with its cells in another order; the copies are "
    "stacked and enter a 1×1 convolution.",
)  # fmt: skip
def figure_3_2(k=2, side=2, channels=64):
    """A bottleneck's slot filled by k permuted copies, on a 2×2 map."""
    block = SpatialPermutation(1, k=k, layer="layer1.0")
    marks = torch.arange(1.0, side * side + 1).view(1, 1, side, side)
    with torch.no_grad():
        shown = block(marks)[0].long().numpy() - 1  # which input position each copy shows where
    fills = [shade(c, 0.15) for c in (BLUE, ORANGE, GREEN, PALETTE[3])]
    fig, ax = canvas(2.7)
    size, depth = 0.56, 0.32
    names = ["$x$"] + [f"$x'_{i}$" for i in range(1, k + 1)]
    ys = [1.85 - 0.84 * i for i in range(k + 1)]
    middle = ys[1] + size / 2 + 0.05

    def tensor(x, y, copy, zorder=2, marked=True):
        cells = [[fills[v] for v in row] for row in shown[copy]]
        right, _ = cuboid(ax, x, y, size, size, depth, colour="#AEB4BD", cells=cells, zorder=zorder)
        step = size / side
        for r in range(side if marked else 0):
            for c in range(side):
                spot = (x + (c + 0.5) * step, y + (side - r - 0.5) * step)
                label(ax, *spot, "abcd"[shown[copy][r, c]], size=8, color="white", weight="bold", zorder=9)
        return right

    left = tensor(0.55, ys[1], 0)
    label(ax, 0.85, ys[1] - 0.33, f"output of the\n3×3 convolution\n$H×W×C$, $C={channels}$", size=7.5)
    arrow(ax, (0.08, middle), (0.5, middle))
    column = 2.1
    for i, (name, y) in enumerate(zip(names, ys, strict=True)):
        centre = y + size / 2 + 0.05
        arrow(ax, (left + 0.1, middle), (column - 0.12, centre), colour=INK if i == 0 else VERMILION)
        right = tensor(column, y, i)
        label(ax, right + 0.16, centre, name, size=10)
        arrow(ax, (right + 0.33, centre), (3.72, middle + (k / 2 - i) * 0.12), colour=INK if i == 0 else VERMILION)
    label(ax, 1.45, ys[0] + 0.24, "unchanged", size=7.5)
    label(ax, 1.5, ys[2] + 0.02, "random, fixed\npermutations", size=7.5, color=shade(VERMILION, -0.2))
    x = 3.82
    for i in reversed(range(k + 1)):
        right = tensor(x + i * 0.72 * depth, middle - 0.38 + i * 0.5 * depth, i, zorder=3 + k - i, marked=i == 0)
    label(ax, x + 0.5, middle - 0.6, f"$[x, x'_1, x'_2]$\n$H×W×{k + 1}C$", size=7.5)
    centre = middle + 0.02
    arrow(ax, (right + 0.62, centre), (5.42, centre))
    box(ax, 5.72, centre, 0.56, 0.72, f"1×1\nconv\n{k + 1}C → 4C", colour=BLUE, size=7.5)
    arrow(ax, (6.0, centre), (6.18, centre))
    cuboid(ax, 6.2, centre - 0.36, 0.3, size, 0.42, colour=BLUE)
    label(ax, 6.4, centre - 0.6, "$H×W×4C$", size=7.5)
    return fig


# ---------------------------------------------------------------- 3.3 and 3.4


def _taps(block, side, position):
    """Positions that a convolution-like block reads for one output position of a side × side map."""
    return sources(block, side, side, position)


def _kernel_panel(ax, side, centre, taps, d, title, *, previous=None):
    """A map with the ordinary 3×3 window, the read positions and the centre."""
    window = {(centre[0] + r, centre[1] + c): shade(ORANGE, 0.35) for r in (-1, 0, 1) for c in (-1, 0, 1)}
    grid(ax, side, side, fill=window)
    reach = Rectangle(
        (centre[1] - d - 0.5, centre[0] - d - 0.5),
        2 * d + 1,
        2 * d + 1,
        fill=False,
        edgecolor=INK,
        linestyle="--",
        lw=1,
        zorder=3,
        clip_on=False,
    )
    ax.add_patch(reach)
    if previous is not None:
        ax.add_patch(Rectangle((previous[1] - 1.5, previous[0] - 1.5), 3, 3, fill=False, edgecolor=GREEN, lw=2, zorder=4))
    rows, columns = zip(*sorted(taps - {centre}), strict=True)
    ax.plot(columns, rows, "o", color=VERMILION, ms=6, mec="white", mew=0.6, zorder=5)
    ax.plot(centre[1], centre[0], "s", color=BLUE, ms=6, mec="white", mew=0.6, zorder=6)
    ax.set_title(title)


def _kernel_legend(fig, *, previous=False):
    from matplotlib.lines import Line2D

    dot = {"linestyle": "none", "mec": "white", "ms": 7}
    handles = [
        Line2D([], [], marker="s", color=BLUE, label="centre", **dot),
        Line2D([], [], marker="o", color=VERMILION, label="other positions read", **dot),
        Rectangle((0, 0), 1, 1, facecolor=shade(ORANGE, 0.35), edgecolor="#C9CED6", label="ordinary 3×3 window"),
        Rectangle((0, 0), 1, 1, fill=False, edgecolor=INK, linestyle="--", label="reach $[-d, d]^2$"),
    ]
    if previous:
        handles.append(Rectangle((0, 0), 1, 1, fill=False, edgecolor=GREEN, lw=2, label="window one step before"))
    fig.legend(
        handles=handles, loc="outside lower center", ncols=len(handles), columnspacing=1.2, handletextpad=0.4, fontsize=7.5
    )


@figure(
    "3.3", networks="3×3 convolutions with d = 2 and 3",
    caption="Positions that a 3×3 convolution with dilation 2 and 3 reads.",
    alt="Two grids: nine positions on a regular lattice around the ordinary 3×3 window, wider apart on the right.",
)  # fmt: skip
def figure_3_3(dilations=(2, 3), side=11):
    """Which positions a dilated 3×3 convolution reads, for two dilations."""
    fig = new_figure(height=3.4)
    centre = (side // 2, side // 2)
    for ax, d in zip(fig.subplots(1, len(dilations)), dilations, strict=True):
        conv = InsertedDilatedConv(1, d=d).conv
        torch.nn.init.ones_(conv.weight)
        _kernel_panel(ax, side, centre, _taps(conv, side, centre), d, f"$d = {d}$")
    _kernel_legend(fig)
    return fig


@figure(
    "3.4", networks="offsets of layer1.0, k = 8, d = 4",
    caption="Positions that a random dilated convolution with k = 8, d = 4 reads at two consecutive positions, from a "
    "real block's offsets: irregular, but the same shape everywhere.",
    alt="Two grids with the same eight scattered dots around the centre, on the right moved by one column.",
)  # fmt: skip
def figure_3_4(k=8, d=4, side=13):
    """Which positions a random dilated convolution reads at two consecutive positions."""
    block = RandomDilatedConcat(1, k=k, d=d, layer="layer1.0")
    fig = new_figure(height=3.4)
    row, column = side // 2, side // 2 - 1
    for step, ax in enumerate(fig.subplots(1, 2)):
        centre = (row, column + step)
        previous = (row, column) if step else None
        _kernel_panel(
            ax, side, centre, _taps(block, side, centre), d, f"position ({centre[0]}, {centre[1]})", previous=previous
        )
    _kernel_legend(fig, previous=True)
    return fig
