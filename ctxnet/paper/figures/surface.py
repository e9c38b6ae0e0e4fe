"""Appendix C's loss surfaces: the training loss around the weights of networks with and without shortcuts."""

import math
from pathlib import Path

import numpy as np
from scipy import ndimage

from ctxnet.models.variants import VARIANTS
from ctxnet.paper import words
from ctxnet.paper.figures import figure
from ctxnet.paper.figures.style import INK, new_figure
from ctxnet.paper.results import BadRecord, MissingRecord, read_measured

ROWS = ("plain20", "plain56", "resnet20", "resnet56")
CHANCE = math.log(10)  # the loss of one who knows nothing of ten classes


def command(row):
    """The command that makes a record."""
    return f"python -m ctxnet measure --surface --variant {row}"


def load_surface(row, root="."):
    """What :func:`ctxnet.training.measure_surface` recorded.

    Returns:
        (record, steps, losses): steps float64 (side,), along either direction; losses float64 (side, side), a downwards.

    Raises:
        MissingRecord: not made yet.
        BadRecord: damaged, or no square of finite losses.
    """
    folder = Path(root) / "results" / "surface" / "maps" / row
    record = read_measured(folder, command(row))
    points = np.loadtxt(folder / "surface.csv", delimiter=",", skiprows=1, ndmin=2)
    side = record["settings"]["side"]
    if points.shape != (side**2, 3) or not np.isfinite(points).all():
        raise BadRecord(f"{folder / 'surface.csv'}: needs {side} × {side} finite losses")
    return record, points[:side, 1], points[:, 2].reshape(side, side)


@figure(
    "C.3", rests_on=("surface",), networks="half as wide as published, trained on the probe set at 32 px",
    caption="Training loss around the trained weights (cross) over two random directions, each scaled filter by filter to "
    "the norm of the weights: plain networks above, the same with shortcuts below. Colour: loss in nats, logarithmic, from "
    "0.001; white lines: 0.1, 1 and 10; black line: the loss of one who guesses.",
    alt="Four square maps of the training loss. Plain-20, ResNet-20 and ResNet-56 lie at the bottom of one round, deep pit. "
    "Plain-56 lies in a shallow, crooked valley; around it the loss climbs steeply, past ten thousand in the corners.",
)  # fmt: skip
def surfaces(root="."):
    found = {row: load_surface(row, root) for row in ROWS}
    fig = new_figure(height=5.6, width=6.0)
    for ax, row in zip(fig.subplots(2, 2, sharex=True, sharey=True).flat, ROWS, strict=True):
        record, steps, losses = found[row]
        shown = np.log10(np.clip(losses, 1e-3, 1e5))
        image = ax.contourf(steps, steps, shown, levels=np.linspace(-3, 5, 33), cmap="viridis")
        ax.contour(steps, steps, shown, levels=[-1, 0, 1], colors="white", linewidths=0.7, linestyles="solid")
        ax.contour(steps, steps, shown, levels=[math.log10(CHANCE)], colors=INK, linewidths=1.3)
        ax.plot(0, 0, "x", color="white", markersize=5)
        title = f"{VARIANTS[row].label}: loss {record['loss']:.3f} at ×"
        ax.set(title=title, aspect="equal", xticks=(-1, 0, 1), yticks=(-1, 0, 1))
        ax.grid(False)
    for ax in fig.axes[2:]:
        ax.set_xlabel("step along one direction")
    for ax in fig.axes[::2]:
        ax.set_ylabel("along the other")
    bar = fig.colorbar(image, ax=fig.axes, ticks=range(-3, 6), shrink=0.8)
    bar.ax.set_yticklabels([f"$10^{{{power}}}$" for power in range(-3, 6)])
    bar.set_label("training loss")
    return fig


def table(root="."):
    """One line per network: loss and accuracy at the weights, how wide the pit is, and how high it is around it."""
    header = ["network", "loss", "right, training %", "right, validation %", "better than guessing, % of the plane", "pits",
              "loss at the corners"]
    lines = []
    for row in ROWS:
        try:
            record, _, losses = load_surface(row, root)
        except MissingRecord as missing:
            lines.append([VARIANTS[row].label, f"`{missing.command}`", *[""] * (len(header) - 2)])
            continue
        corners = np.median(losses[np.ix_((0, -1), (0, -1))])
        numbers = [f"{record['loss']:.4f}", f"{100 * record['train_accuracy']:.1f}", f"{100 * record['top1']:.1f}"]
        lines.append([VARIANTS[row].label, *numbers, f"{100 * better(losses):.0f}", str(pits(losses)), f"{corners:,.0f}"])
    return words.Table(header, lines, range(1, len(header)), rests_on=("surface",))


def better(losses):
    """Share of the plane on which the network does better than one who guesses."""
    return float((losses < CHANCE).mean())


def pits(losses):
    """Number of points that lie lower than all eight around them: more than one, and the surface is no bowl."""
    around = ndimage.minimum_filter(losses, footprint=[[1, 1, 1], [1, 0, 1], [1, 1, 1]])
    return int((losses < around)[1:-1, 1:-1].sum())
