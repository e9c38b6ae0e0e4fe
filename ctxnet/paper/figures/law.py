"""Figures of chapter 10: all networks of timm, a dot each, and what the hypotheses came to."""

import math
from collections import Counter

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from ctxnet.paper import law
from ctxnet.paper.figures import figure, style

COMMAND = 'python -m ctxnet atlas "timm:*" --max-params 100M'
ACCURACIES = "python -m ctxnet atlas --accuracies"
COLOURS = style.PALETTE[:6] + ["#7B5CC4"]  # of the largest families; the others are grey
_AXES = {
    "rf_share": "receptive field, % of the image",
    "third": "effective receptive field\nwithin a third of the side, %",
    "distance_share": "mean distance, % of the side",
}


def family_colours(families):
    """{family: colour}: the largest ones by number of networks, then by name, have one of their own."""
    order = sorted(Counter(families).items(), key=lambda item: (-item[1], item[0]))
    return {family: COLOURS[i] if i < len(COLOURS) else style.GREY for i, (family, _) in enumerate(order)}


def _legend(fig, colours, more=()):
    named = {family: colour for family, colour in colours.items() if colour != style.GREY} | {"other families": style.GREY}
    handles = [Line2D([], [], marker="o", linestyle="none", color=colour, label=name) for name, colour in named.items()]
    fig.legend(handles=[*handles, *more], loc="outside lower center", ncols=5, fontsize=7)


@figure(
    "10.1", rests_on=("timm",), networks="timm, own input size, at initialisation",
    caption="Every measured architecture of timm: multiply-adds against the mean distance of the last block, and against "
    "the part of its effective receptive field that lies within a third of the side around its centre.",
    alt="Two scatter plots over a logarithmic axis of multiply-adds, one dot a network, the largest families coloured.",
)  # fmt: skip
def draw_cost(root="."):
    fig = style.new_figure(height=3.6)
    rows = [row for row in law.measured(root)[0].values() if not row.get("early") and row["distance"][-1] is not None]
    if not rows:
        style.missing_panel(fig.subplots(), COMMAND)
        return fig
    colours = family_colours([row["family"] for row in rows])
    across = [row["multiply_adds"] / 1e9 for row in rows]
    values = {
        "distance_share": [100 * row["distance"][-1] / row["size"] for row in rows],
        "third": [100 * row["third"][-1] for row in rows],
    }
    for ax, (key, up) in zip(fig.subplots(1, 2), values.items(), strict=True):
        ax.scatter(across, up, s=9, c=[colours[row["family"]] for row in rows], linewidths=0.2, edgecolors="white", zorder=3)
        ax.set(xscale="log", xlabel="multiply-adds, G", ylabel=_AXES[key])
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    _legend(fig, colours)
    return fig


@figure(
    "10.2", rests_on=("timm",), networks="timm, own input size, at initialisation; accuracies published by timm",
    caption="Context at initialisation against ImageNet top-1, one dot a network. Hollow: families kept back, which "
    "are shown and tested once, when all is measured.",
    alt="Three scatter plots of top-1 accuracy over the share of the image in the receptive field, the part of the "
    "effective receptive field within a third of the side, and the mean distance, with the largest families coloured.",
)  # fmt: skip
def draw_accuracy(root="."):
    fig, (plan, sample) = style.new_figure(height=3.4), law.plan_and_sample(root)
    if not sample.names:
        style.missing_panel(fig.subplots(), ACCURACIES, "No accuracies at hand.")
        return fig
    colours = family_colours(sample.families)
    if not law.is_finished(plan, root):
        sample = law.parts(root)[0][1]
    back = np.array([law.is_kept_back(family, plan.kept_back) for family in sample.families])
    shade = np.array([colours[family] for family in sample.families])
    axes = fig.subplots(1, 3, sharey=True)
    for ax, key in zip(axes, _AXES, strict=True):
        across = sample.context[key]
        ax.scatter(100 * across[~back], 100 * sample.top1[~back], s=9, c=shade[~back], linewidths=0, alpha=0.8, zorder=3)
        ax.scatter(100 * across[back], 100 * sample.top1[back], s=11, facecolors="none", edgecolors=shade[back],
                   linewidths=0.8, zorder=3)  # fmt: skip
        ax.set_xlabel(_AXES[key])
    axes[0].set_ylabel("top-1, %")
    _legend(fig, colours, [Line2D([], [], marker="o", linestyle="none", markerfacecolor="none", color=style.INK,
                                  label="kept back")])  # fmt: skip
    return fig


@figure(
    "10.3", rests_on=("timm",), networks="timm, own input size, at initialisation; accuracies published by timm",
    caption="What each hypothesis came to, in points of top-1 at 80 %, with parameters, multiply-adds, test size, training "
    "and family in the model. Thick: 95 % of a bootstrap over families; thin: corrected for the number of hypotheses. Grey: "
    "effects that would not matter in practice.",
    alt="A row per hypothesis with two intervals, of the families explored and of those kept back, over a grey band.",
)  # fmt: skip
def draw_effects(root="."):
    fig, (plan, sample) = style.new_figure(height=2.4), law.plan_and_sample(root)
    ax = fig.subplots()
    if not sample.names:
        style.missing_panel(ax, ACCURACIES, "No accuracies at hand.")
        return fig
    looks = ((style.SKY, -0.16, "families explored"), (style.VERMILION, 0.16, "families kept back"))
    parts = [(part, *look) for (_, part), look in zip(law.parts(root), looks, strict=False)]
    for place, hypothesis in enumerate(plan.hypotheses.values()):
        ax.add_patch(Rectangle((-hypothesis.margin, place - 0.4), 2 * hypothesis.margin, 0.8, color=style.LIGHT, zorder=0))
        for part, colour, shift, _ in parts:
            found = law.effect(part, hypothesis, plan)
            if math.isnan(found.points):
                continue
            ax.plot([found.low_all, found.high_all], [place + shift] * 2, color=colour, linewidth=1)
            ax.plot([found.low, found.high], [place + shift] * 2, color=colour, linewidth=3)
            ax.plot(found.points, place + shift, marker="o", color=colour, markersize=5, markeredgecolor="white")
    ax.axvline(0, color=style.INK, linewidth=0.8)
    ax.set_yticks(range(len(plan.hypotheses)), [label(h) for h in plan.hypotheses.values()])
    ax.set(ylim=(len(plan.hypotheses) - 0.5, -0.5), xlabel="points of top-1 at 80 %")
    ax.grid(axis="y", visible=False)
    handles = [Line2D([], [], color=colour, linewidth=3, label=text) for _, colour, _, text in parts]
    fig.legend(handles=handles, loc="outside lower center", ncols=2)
    return fig


def label(hypothesis):
    """A hypothesis in a few words, with its unit."""
    texts = {
        "covers": "receptive field covers the image",
        "third": "10 % more of the ERF\nwithin a third of the side",
        "distance_share": "mean distance longer\nby 10 % of the side",
    }
    return texts.get(hypothesis.value, hypothesis.name)
