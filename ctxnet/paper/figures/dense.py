"""Figures of chapter 9: what heads and contexts are worth to every pixel, and how much a pixel must see."""

from pathlib import Path

import numpy as np

from ctxnet.paper import dense
from ctxnet.paper.figures import figure
from ctxnet.paper.figures.style import BLUE, GREEN, GREY, LIGHT, VERMILION, new_figure
from ctxnet.paper.results import MissingRecord

NETWORKS = "trained on CamVid at 240 × 180, a quarter as wide as ResNet-50"
COLOURS = {"fcn32": BLUE, "fpn": GREEN, "deeplabv3": VERMILION, "unet": "#7b4fa3", "hrnetv2": GREY}
DOSED = ("fcn32_resnet50", "fcn32_resnet50_perm1", "deeplabv3_resnet50")


@figure(
    "9.1", rests_on=("dense",), networks=NETWORKS,
    caption="Mean IoU on the test frames: every run (small dots, below), mean over the runs of a row (large), and its 95 % "
    "interval over seeds and blocks of time, or over blocks alone of a single run (thin). By head; those "
    "of the rows planned that have been run.",
    alt="Dots with horizontal bars, one line per network, mean intersection over union in percent on the horizontal axis.",
)  # fmt: skip
def answers(root="."):
    runs, table = dense.runs(root), dense.rows(root).query("n > 0")
    if runs.empty:
        raise MissingRecord(Path(root) / "results" / dense.PROTOCOL, dense.COMMAND)
    fig = new_figure(height=0.7 + 0.2 * len(table))
    ax = fig.subplots()
    for place, line in enumerate(table.to_dict("records")):
        colour = COLOURS[line["row"].partition("_")[0]]
        values = runs.loc[runs["row"] == line["row"], "mean_iou"]
        ax.plot(values, [place + 0.3] * len(values), "o", color=colour, alpha=0.6, markersize=2.6, markeredgewidth=0)
        width = 0.8 if line["interval_over"] == "frames" else 1.8
        ax.plot([line["low"], line["high"]], [place] * 2, color=colour, linewidth=width)
        ax.plot(line["mean_iou"], place, "o", color=colour, markersize=5.5)
    plain = table.loc[table["row"] == DOSED[0], "mean_iou"]
    if len(plain):
        ax.axvline(float(plain.iloc[0]), color=LIGHT, zorder=0)
    names = [f"{name} ({count})" for name, count in zip(table["network"], table["n"], strict=True)]
    ax.set_yticks(range(len(table)), names)
    ax.set(xlabel="mean IoU, %", ylim=(len(table) - 0.4, -0.6))
    return fig


@figure(
    "9.2", rests_on=("dense",), networks=NETWORKS,
    caption="Share of right answers at pixels of each class when only a square around the pixel is visible and all else is "
    "the mean colour, over the side of the square; last: the whole image. First panel: mean over the classes. Means over "
    "the runs that are there; up to eight pixels a class, so that single classes are coarse.",
    alt="Twelve small panels of rising lines, one per class and one for their mean: share of right answers over the side of "
    "the visible square, for FCN-32s, FCN-32s with a permutation and DeepLabv3.",
)  # fmt: skip
def doses(root="."):
    frame = dense.dose(root)
    frame = frame[frame["row"].isin(DOSED)]
    if frame.empty:
        raise MissingRecord(Path(root) / "results" / dense.PROTOCOL, dense.COMMAND)
    fig = new_figure(height=4.6)
    names = ["all", *dense.CLASSES]
    for ax, name in zip(fig.subplots(3, 4, sharex=True, sharey=True).flat, names, strict=True):
        for row, colour, marker in zip(DOSED, (BLUE, GREEN, VERMILION), "osD", strict=True):
            mine = frame[(frame["row"] == row) & (frame["class"] == name)]
            if len(mine):
                ax.plot(range(len(mine)), mine["right"], marker, linestyle="-", color=colour, markersize=3, linewidth=1,
                        label=dense.label(row))  # fmt: skip
        sides = frame.loc[frame["class"] == name, "side"].unique()
        ax.set_xticks(range(len(sides)), [f"{side}" if side else "all" for side in sides], fontsize=6)
        ax.set_title("mean over classes" if name == "all" else name, fontsize=8, pad=2)
    fig.supxlabel("side of the visible square, px", fontsize=8)
    fig.supylabel("right answers, %", fontsize=8)
    fig.legend(*fig.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return fig


PALETTE = np.array(
    [(128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0), (192, 128, 128),
     (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192)], np.uint8
)  # fmt: skip  # of CamVid's classes, as SegNet's authors colour them


def coloured(mask):
    """Class numbers (H, W) as a picture (H, W, 3); black where there is no class."""
    shown = np.zeros((*mask.shape, 3), np.uint8)
    known = mask < len(PALETTE)
    shown[known] = PALETTE[mask[known]]
    return shown


@figure(
    "",
    alt="Rows of pictures: a frame, its labels, and what networks answer, in the colours of the classes.",
)
def predictions(frames, masks, answers):
    """Frames (n, H, W, 3), masks (n, H, W) and ``{network: class numbers (n, H, W)}`` side by side."""
    fig = new_figure(height=1.25 * len(frames) + 0.2)
    axes = fig.subplots(len(frames), 2 + len(answers), squeeze=False)
    for line, (frame, mask) in enumerate(zip(frames, masks, strict=True)):
        pictures = {"frame": frame, "labels": coloured(mask)}
        pictures |= {name: coloured(found[line]) for name, found in answers.items()}
        for ax, (title, picture) in zip(axes[line], pictures.items(), strict=True):
            ax.imshow(picture)
            ax.set_axis_off()
            if not line:
                ax.set_title(title, fontsize=8)
    return fig
