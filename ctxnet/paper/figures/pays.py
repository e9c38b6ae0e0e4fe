"""Figures 8.1 and 8.2: what each context is worth to the full network, and what it costs."""

from pathlib import Path

import numpy as np

from ctxnet.models.variants import VARIANTS
from ctxnet.paper import pays
from ctxnet.paper.figures import figure
from ctxnet.paper.figures.style import BLUE, GREEN, GREY, LIGHT, PALETTE, VERMILION, new_figure
from ctxnet.paper.results import BASELINE, MissingRecord, make_command

NETWORKS = "ResNet-50 with one block in every slot, a quarter as wide, trained on Imagenette at 64 and 128 px"
COLOURS = {"reached": GREEN, "missed": BLUE, "": VERMILION}  # of the goal; "": equivalence
MARKERS = "osD^v<>PX*ph"
AXES = {"multiply_adds": "multiply-adds", "parameters": "parameters", "time": "time of a step"}


def _require_runs(root):
    """Raise unless a protocol has a run: then there is something to draw."""
    if not any(len(pays.runs(protocol, root)) for protocol in pays.PROTOCOLS):
        protocol = pays.PROTOCOLS[0]
        raise MissingRecord(Path(root) / "results" / protocol, make_command(protocol))


@figure(
    "8.1", rests_on=pays.PROTOCOLS, networks=NETWORKS,
    caption="What each block adds to plain ResNet-50, in points of top-1: estimate with an interval that holds for all of "
    "one size together in 95 % of cases (thick: for itself alone). Green: the goal is reached, one point (dashed) with the "
    "interval above zero; blue: missed. Red: the cheapest network, which is to be worth ResNet-50 within one point "
    "(shaded). Open: the rows do not have all of their replicates, and nothing is drawn.",
    alt="Two panels, for images of 64 and 128 pixels: one line for each block with a dot and a horizontal bar, gain over "
    "plain ResNet-50 in points on the horizontal axis, lines at zero and at one point.",
)  # fmt: skip
def gains(root="."):
    _require_runs(root)
    table = pays.contrasts(root)
    names = list(dict.fromkeys(table["row"]))
    fig = new_figure(height=0.9 + 0.24 * len(names))
    for ax, protocols in zip(fig.subplots(1, 2, sharey=True), pays.SIZES, strict=True):
        ax.axvline(0, color=GREY, linewidth=0.8)
        ax.axvline(pays.GOAL, color=GREY, linewidth=1, linestyle="--")
        for line in table[table["protocol"].isin(protocols)].to_dict("records"):
            _gain(ax, line, names.index(line["row"]))
        ax.set_title(pays.size(protocols[0], root), fontsize=9)
        ax.set(ylim=(len(names) - 0.4, -0.6), xlabel="gain in top-1, points")
        low, high = ax.get_xlim()
        ax.set_xlim(min(low, -2 * pays.GOAL), max(high, 2 * pays.GOAL))
    fig.axes[0].set_yticks(range(len(names)), [VARIANTS[row].label for row in names])
    return fig


def _gain(ax, line, place):
    if line["kind"] == "equivalent":
        ax.fill_betweenx([place - 0.4, place + 0.4], -line["margin"], line["margin"], color=LIGHT, linewidth=0, zorder=0)
    if line["verdict"].startswith("open"):
        text = f"open: {line['n']} of {line['planned']}"
        ax.text(-0.06, place, text, color=GREY, fontsize=7, va="center", ha="right")
        return
    colour = COLOURS[line["goal"]]
    ax.plot([line["low_all"], line["high_all"]], [place] * 2, color=colour, linewidth=0.9)
    ax.plot([line["low"], line["high"]], [place] * 2, color=colour, linewidth=2.2)
    ax.plot(line["estimate"], place, "o", color=colour, markersize=5)


@figure(
    "8.2", rests_on=pays.PROTOCOLS, networks=NETWORKS,
    caption="Top-1 against cost, in percent of plain ResNet-50: multiply-adds, parameters and, where it was measured, time "
    "of a step of training; one line of panels for each size and precision that has been run. Means over the runs that are "
    "there, with 95 % intervals over seeds and images; exploratory. Dashed: plain ResNet-50; shaded: costs beyond the "
    "limits of this chapter.",
    alt="Panels of markers with vertical bars, one for each network: top-1 in percent on the vertical axis, cost in percent "
    "of plain ResNet-50 on the horizontal axis. One network lies far to the left, the others around 100 percent.",
)  # fmt: skip
def against_cost(root="."):
    _require_runs(root)
    table = pays.rows(root)
    names = list(dict.fromkeys(table["row"]))
    shown = [key for key in AXES if table[key].notna().any()]
    begun = [protocol for protocol in pays.PROTOCOLS if len(pays.runs(protocol, root))]
    fig = new_figure(height=0.9 + 2 * len(begun))
    axes = fig.subplots(len(begun), len(shown), sharey="row", sharex="col", squeeze=False)
    for line_of_axes, protocol in zip(axes, begun, strict=True):
        here = table[table["protocol"] == protocol]
        for ax, key in zip(line_of_axes, shown, strict=True):
            _costs(ax, here, key, names)
        line_of_axes[0].set(ylabel=f"top-1 at {pays.title(protocol, root)}, %")
    for column, key in zip(axes.T, shown, strict=True):
        column[-1].set(xlabel=f"{AXES[key]}, % of plain")
        _limits(column, 100 * table.loc[table["n"] > 0, key].dropna(), 100 * pays.MOST.get(key, np.nan))
    handles = {label: handle for ax in axes.flat for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    fig.legend(handles.values(), handles, loc="outside lower center", ncols=3, fontsize=7)
    return fig


def _costs(ax, here, key, names):
    plain = here.loc[here["row"] == BASELINE, "top1"]
    if plain.notna().any():
        ax.axhline(float(plain.iloc[0]), color=GREY, linewidth=1, linestyle="--")
    for line in here[here["n"] > 0].to_dict("records"):
        place = names.index(line["row"])
        colour, x = PALETTE[place % 7], 100 * line[key]
        ax.plot([x, x], [line["low"], line["high"]], color=colour, linewidth=1, alpha=0.7)
        ax.plot(x, line["top1"], MARKERS[place % len(MARKERS)], color=colour, markersize=5, linestyle="none",
                label=VARIANTS[line["row"]].label)  # fmt: skip


def _limits(axes, costs, most):
    """Every cost of one kind within the panels that share it, what is beyond ``most`` (NaN: no limit) shaded."""
    left, right = np.nanmin([100, *costs]) - 4, np.nanmax([100, most, *costs]) + 4
    for ax in axes:
        ax.set_xlim(left, right)
        if np.isfinite(most):
            ax.axvspan(most, right, color=LIGHT, alpha=0.6, linewidth=0, zorder=0)
