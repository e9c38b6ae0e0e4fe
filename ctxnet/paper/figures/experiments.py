"""Figures 4.1–4.14 and B.1–B.4: what the thesis draws, from the records at hand.

Every figure is one function ``figure_4_1(protocol, root)`` that returns a matplotlib figure; :data:`FIGURES`
keeps what belongs to it (caption, alternative text, variants), :func:`present` draws one, saves it if asked
to and returns it for a notebook to show. The thesis shows one set of networks; here there are two of each:
the full-size network with 224 px input at initialisation (``results/measure``), which has the thesis'
geometry, and the one that the protocol trained, which has learned what to look at. A network without a record
leaves a panel with the command that makes it.
"""

import math
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ctxnet.models.variants import VARIANTS
from ctxnet.naming import require_known
from ctxnet.paper.figures import plots, style
from ctxnet.paper.results import MissingRecord, load_initial, load_profile
from ctxnet.paper.statistics import wilson_interval
from ctxnet.paper.tables import IMAGENETTE, TABLES, table
from ctxnet.training import load_measure, load_protocol

OTHERS = TABLES["4.6"][1]


@dataclass(frozen=True)
class Figure:
    """What a figure is, beside its picture; ``trained``: are the protocol's own networks in it?"""

    draw: Callable
    caption: str
    alt: str
    variants: tuple
    trained: bool = True


FIGURES = {}


def _figure(number, variants, caption, alt, *, trained=True):
    """Register a drawing function under the thesis' number."""

    def register(draw):
        draw = style.styled(draw)
        FIGURES[number] = Figure(draw, caption, alt, tuple(variants), trained)
        return draw

    return register


def _named(draw, number):
    draw.__name__ = draw.__qualname__ = f"figure_{number.replace('.', '_')}"
    return draw


def present(number, protocol, *, root=".", save=False, notebook=""):
    """Draw figure ``number`` ("4.1") and return it; with ``save`` also write it to ``results/<protocol>/figures``.

    Raises:
        ValueError: for an unknown number, with the near ones.
        BadRecord: for a record that cannot be right. A record that is missing is no error.
    """
    known = FIGURES[require_known("figure", number, FIGURES)]
    drawn = known.draw(protocol, root)
    if save:
        folder = Path(root) / "results" / protocol / "figures"
        titles = [title for title, _ in _sources(protocol, root)]
        networks = "; ".join(titles if known.trained else titles[:1])
        style.save_figure(
            drawn,
            number,
            caption=known.caption,
            alt=known.alt,
            notebook=notebook,
            folder=folder,
            networks=networks,
        )
    return drawn


# ---- mean distance over the blocks ------------------------------------------------------------------------


def _mean_distances(variants, protocol, root):
    """Two panels, one per kind of network, with one curve per variant, and one legend for both."""
    labels = [VARIANTS[variant].label for variant in variants]
    legend_rows = math.ceil(sum(len(label) + 7 for label in labels) / 90)  # 90 characters fill the figure's width
    fig = style.figure(height=2.72 + 0.18 * legend_rows)
    handles = {}
    for ax, (title, load) in zip(fig.subplots(1, 2), _sources(protocol, root), strict=True):
        ax.set_title(title, fontsize=8.5)
        missing = []
        for variant, label, marker, colour in zip(variants, labels, "os^Dv*X", style.PALETTE, strict=False):
            profile, command = _try(load, variant)
            if profile is None:
                missing.append(command)
                continue
            blocks = range(1, len(profile.layers) + 1)
            (line,) = ax.plot(blocks, profile.distance.numpy(), marker=marker, color=colour, markersize=3)
            handles.setdefault(label, line)
        if len(missing) == len(variants):
            _blank(ax, missing[0])
            continue
        ax.set(xlabel="block", ylabel="mean distance, px", xticks=range(2, 17, 2))
        ax.set_ylim(bottom=0)
        if missing:
            ax.set_xlabel(f"block\n({len(missing)} not there yet: {_wrapped(missing[0], 60)})", fontsize=6.5)
    if handles:
        fig.legend(handles.values(), handles, loc="outside lower center", ncols=math.ceil(len(labels) / legend_rows))
    return fig


def _distance_alt(what):
    return (
        "Two line charts, networks at initialisation on the left and trained on the right. Horizontal axis: "
        f"residual block 1 to 16; vertical axis: mean distance in pixels. One line each for {what}."
    )


_GRID = {
    suffix: ["resnet50"] + [f"resnet50_perm{k}{suffix}" for k in (1, 3, 5)]
    for suffix in ("", "_enc", "_attn")
}
_DISTANCE = "Mean distance of the effective receptive field of the centre feature, block by block: "


def _distance_figure(number, variants, caption, alt):
    """Register a figure of mean distances under the thesis' number."""
    draw = _figure(number, variants, _DISTANCE + caption, _distance_alt(alt))(
        lambda protocol, root=".": _mean_distances(variants, protocol, root)
    )
    return _named(draw, number)


_STAGES, _DILATED = TABLES["4.2"][1], TABLES["4.5"][1]

figure_4_1 = _distance_figure(
    "4.1",
    _GRID[""],
    "plain ResNet-50 and 1, 3, 5 random permutations in every block.",
    "plain ResNet-50 and for 1, 3 and 5 permutations",
)
figure_4_3 = _distance_figure(
    "4.3",
    _STAGES,
    "one permutation in all blocks, or only in stages 3 and 4 (block 8 onwards).",
    "plain ResNet-50, one permutation everywhere, one permutation in stages 3 and 4",
)
figure_4_5 = _distance_figure(
    "4.5",
    _GRID["_enc"],
    "random permutations with relative positional encoding.",
    "plain ResNet-50 and for 1, 3 and 5 permutations with encoding",
)
figure_4_7 = _distance_figure(
    "4.7",
    _GRID["_attn"],
    "random permutations weighed by attention.",
    "plain ResNet-50 and for 1, 3 and 5 permutations with attention",
)
figure_4_9 = _distance_figure(
    "4.9",
    _DILATED,
    "dilated convolutions in place of the 3×3, inserted, and at random offsets. The row marked “ours” is not in the thesis.",
    "plain ResNet-50 and each dilated variant",
)


# ---- receptive fields, plain and effective ----------------------------------------------------------------


def _contexts(rows, blocks, protocol, root, *, stacked=False, size=1.1):
    """A grid of RF/ERF pictures, once per kind of network.

    Args:
        rows: (row label, variant) pairs.
        blocks: block numbers, counted from 1, -1 for the last.
        stacked: the kinds of networks above each other instead of side by side.
        size: height of one picture in inches.
    """
    groups = (2, 1) if stacked else (1, 2)
    fig = style.figure(height=(size * len(rows) + 0.45) * groups[0])
    outer = fig.add_gridspec(*groups, wspace=0.06, hspace=0.06)
    for place, (title, load) in zip(outer, _sources(protocol, root), strict=True):
        part = fig.add_subfigure(place)
        part.suptitle(title, fontsize=8.5)
        grid = part.add_gridspec(len(rows), len(blocks))
        for i, (label, variant) in enumerate(rows):
            profile, command = _try(load, variant)
            if profile is None:
                _blank(part.add_subplot(grid[i, :]), command)
                continue
            for j, block in enumerate(blocks):
                ax = part.add_subplot(grid[i, j])
                index = len(profile.layers) - 1 if block == -1 else block - 1
                plots.plot_context(profile, index, ax=ax)
                ax.set_title(f"block {index + 1}" if i == 0 else "", fontsize=8, pad=3)
                ax.set_ylabel(label if j == 0 else "", fontsize=8)
    return fig


_READ = (
    " White: outside the receptive field; colour: effective receptive field (four decades, logarithmic); "
    "dot: the feature; circle: its mean distance. Averaged over ten images."
)


def _contexts_alt(what):
    return f"Square maps of the input image, networks at initialisation and trained side by side: {what}."


def _three(suffix):
    return [(f"k = {k}", f"resnet50_perm{k}{suffix}") for k in (1, 3, 5)]


@_figure(
    "4.2",
    _GRID[""][1:],
    "Receptive field and effective receptive field at the first, third and last block with "
    "1, 3, 5 permutations." + _READ,
    _contexts_alt(
        "rows 1, 3, 5 permutations, columns first, third and last block; the receptive field is a sparse "
        "scatter at first and covers the image later"
    ),
)
def figure_4_2(protocol, root="."):
    return _contexts(_three(""), [1, 3, -1], protocol, root)


@_figure(
    "4.4",
    _STAGES[2:],
    "Receptive field and effective receptive field at blocks 8, 9 and 16 with one permutation in "
    "stages 3 and 4: block 8 is the first that has one." + _READ,
    _contexts_alt(
        "blocks 8, 9 and 16; the field is local up to block 7 and spreads over the image from block 8"
    ),
)
def figure_4_4(protocol, root="."):
    return _contexts([("stages 3–4", _STAGES[2])], [8, 9, 16], protocol, root)


@_figure(
    "4.6",
    _GRID["_enc"][1:],
    "As Figure 4.2, with relative positional encoding added to the permuted tensors." + _READ,
    _contexts_alt("rows 1, 3, 5 permutations with encoding, columns first, third and last block"),
)
def figure_4_6(protocol, root="."):
    return _contexts(_three("_enc"), [1, 3, -1], protocol, root)


@_figure(
    "4.8",
    _GRID["_attn"][1:],
    "As Figure 4.2, with the permuted tensors weighed by attention." + _READ,
    _contexts_alt("rows 1, 3, 5 permutations with attention, columns first, third and last block"),
)
def figure_4_8(protocol, root="."):
    return _contexts(_three("_attn"), [1, 3, -1], protocol, root)


@_figure(
    "4.12",
    _DILATED[2:4],
    "Receptive field and effective receptive field of the inserted dilated convolution at the "
    "second and the last block, d = 4 and d = 8." + _READ,
    _contexts_alt("rows d = 4 and d = 8, columns second and last block"),
)
def figure_4_12(protocol, root="."):
    return _contexts(
        [(f"d = {d}", f"resnet50_inserted_dilated{d}") for d in (4, 8)], [2, -1], protocol, root, size=1.5
    )


@_figure(
    "4.13",
    ["resnet50_random_dilated8", "resnet50_random_dilated16"],
    "Receptive field and effective receptive field of the random dilated convolution (k = 8) at the second and the "
    "last block, d = 8 and d = 16." + _READ,
    _contexts_alt("rows d = 8 and d = 16, columns second and last block"),
)
def figure_4_13(protocol, root="."):
    return _contexts(
        [(f"d = {d}", f"resnet50_random_dilated{d}") for d in (8, 16)], [2, -1], protocol, root, size=1.5
    )


@_figure(
    "4.14",
    OTHERS,
    "Effective receptive field of the centre of the last feature map: ResNet-50, HRNet, ConvNeXt and "
    "the Vision Transformer." + _READ,
    "Square maps of the input image, upper row at initialisation, lower row trained, one column per network.",
)
def figure_4_14(protocol, root="."):
    def draw(ax, profile):
        plots.plot_context(profile, -1, ax=ax)

    return _networks(OTHERS, draw, protocol, root)


# ---- receptive fields alone: geometry, so the full-size networks only -------------------------------------


def _fields(cells, root, *, size=2.3):
    """Receptive fields side by side; ``cells`` are (title, variant, block), blocks counted from 1."""
    fig = style.figure(width=(size + 0.25) * len(cells), height=size + 0.3)
    for ax, (title, variant, block) in zip(fig.subplots(1, len(cells), squeeze=False)[0], cells, strict=True):
        profile, command = _try(lambda name: load_initial(name, root), variant)
        if profile is None:
            _blank(ax, command)
        else:
            plots.plot_context(profile, block - 1, ax=ax, erf=False)
        ax.set_title(title, fontsize=8.5)
    return fig


@_figure(
    "4.10",
    ["resnet50_dilated4"],
    "Receptive field of ResNet-50 with its 3×3 convolutions dilated by d = 4, at the "
    "second and the last block: islands without what lies between them.",
    "Two square maps. At the second block the receptive field is a regular lattice of separate "
    "squares; at the last block the lattice spans the image.",
    trained=False,
)
def figure_4_10(protocol, root="."):
    return _fields([("block 2", "resnet50_dilated4", 2), ("block 16", "resnet50_dilated4", 16)], root)


@_figure(
    "4.11",
    ["resnet50_inserted_dilated4", "resnet50_inserted_dilated8"],
    "Receptive field of the inserted dilated convolution at the second block: with d = 4 the 3×3 convolutions between "
    "fill the gaps, with d = 8 they do not.",
    "Two square maps. For d = 4 one solid square around the centre; for d = 8 a larger lattice of separate squares.",
    trained=False,
)
def figure_4_11(protocol, root="."):
    return _fields([(f"d = {d}, block 2", f"resnet50_inserted_dilated{d}", 2) for d in (4, 8)], root)


# ---- appendix B -------------------------------------------------------------------------------------------


def _networks(variants, draw, protocol, root, *, size=1.75):
    """One column per network, one row per kind of network."""
    fig = style.figure(height=2 * size + 0.45)
    for part, (title, load) in zip(fig.subfigures(2, 1), _sources(protocol, root), strict=True):
        part.suptitle(title, fontsize=8.5)
        for ax, variant in zip(part.subplots(1, len(variants), squeeze=False)[0], variants, strict=True):
            profile, command = _try(load, variant)
            if profile is None:
                _blank(ax, command)
            else:
                draw(ax, profile)
            ax.set_title(VARIANTS[variant].label, fontsize=8, pad=3)
    return fig


def _summed(variant, protocol, root):
    fig = style.figure(width=5.2, height=2.75)
    for ax, (title, load) in zip(fig.subplots(1, 2), _sources(protocol, root), strict=True):
        profile, command = _try(load, variant)
        if profile is None:
            _blank(ax, command)
        elif profile.summed is None:
            style.missing_panel(ax, "", "No sum in this profile.")
        else:
            plots.plot_summed(profile.summed, ax=ax)
        ax.set_title(title, fontsize=7.5)
    return fig


def _appendix(number, variant):
    name = VARIANTS[variant].label
    draw = _figure(
        number,
        [variant],
        f"Sum of the effective receptive fields over all positions of the last feature map of {name}: what each "
        "input pixel contributes to the whole map.",
        f"Two square maps of the input image for {name}, at initialisation and trained; brighter pixels "
        "contribute more.",
    )(lambda protocol, root=".": _summed(variant, protocol, root))
    return _named(draw, number)


figure_B_1, figure_B_2, figure_B_3, figure_B_4 = (
    _appendix(f"B.{i}", variant) for i, variant in enumerate(OTHERS, start=1)
)


# ---- chapter 5 (ours) -------------------------------------------------------------------------------------


@_figure(
    "5.1",
    [name for name in VARIANTS if VARIANTS[name].thesis_top1],
    "All rows at a glance (not in the thesis): top-1 "
    "with its 95 % interval, the thesis' numbers on its own 3,925 images and 100 epochs, ours in this "
    "protocol. Dashed: ResNet-50. The two axes differ: read orders and overlaps, not levels.",
    "Two dot plots with horizontal error bars, one row per network: the thesis' accuracies on the left, ours on "
    "the right.",
)
def figure_5_1(protocol, root="."):
    names = [name for name in VARIANTS if VARIANTS[name].thesis_top1][::-1]
    tables = pd.concat([table(number, protocol, root) for number in TABLES]).drop_duplicates("variant").set_index("variant")
    fig = style.figure(height=4.6)
    left, right = fig.subplots(1, 2, sharey=True)
    for y, name in enumerate(names):
        thesis = VARIANTS[name].thesis_top1
        low, high = wilson_interval(round(thesis / 100 * IMAGENETTE), IMAGENETTE)
        _dot(left, y, thesis, 100 * low, 100 * high, style.VERMILION)
        if name in tables.index and math.isfinite(tables.top1[name]):
            _dot(right, y, *tables.loc[name, ["top1", "low", "high"]], style.BLUE)
    for ax, baseline, title in (
        (left, VARIANTS["resnet50"].thesis_top1, "thesis"),
        (right, tables.top1["resnet50"], f"protocol {protocol}"),
    ):
        if math.isfinite(baseline):
            ax.axvline(baseline, color=style.GREY, linewidth=0.9, linestyle="--")
        ax.set(xlabel="top-1, %")
        ax.set_title(title, fontsize=8.5)
    left.set_yticks(range(len(names)), [VARIANTS[name].label for name in names])
    left.set_ylim(-0.7, len(names) - 0.3)
    if tables.top1.isna().all():
        _blank(right, f"dvc repro report@{protocol}")
    return fig


def _dot(ax, y, mean, low, high, colour):
    ax.plot([low, high], [y, y], color=colour, linewidth=1.2, alpha=0.6)
    ax.plot(mean, y, "o", color=colour, markersize=4.5)


# ---- shared -----------------------------------------------------------------------------------------------


def _sources(protocol, root):
    """[(title, variant -> profile)] for the two kinds of networks, in the order they are drawn."""
    full, own = load_measure(Path(root) / "params.yaml"), load_protocol(protocol, Path(root) / "params.yaml")
    width = "" if own.width == full.width else f", width ×{own.width / full.width:g}"
    return [
        (f"full size, {full.image_size} px, at initialisation", lambda variant: load_initial(variant, root)),
        (
            f"trained, {protocol} ({own.image_size} px{width})",
            lambda variant: load_profile(protocol, variant, seed=own.seeds[0], root=root),
        ),
    ]


def _try(load, variant):
    """(profile, None), or (None, the command that makes it)."""
    try:
        return load(variant), None
    except MissingRecord as missing:
        return None, missing.command


def _wrapped(command, width):
    return "\n".join(textwrap.wrap(command, width, break_long_words=False, break_on_hyphens=False))


def _blank(ax, command):
    style.missing_panel(ax, _wrapped(command, 32))
