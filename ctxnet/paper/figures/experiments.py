"""Figures 4.1–4.14, 5.1 and B.1–B.4: what the thesis draws, from the records at hand.

The thesis shows one set of networks; here there are two of each: the full-size network with 224 px input at initialisation
(``results/measure``), which has the thesis' geometry, and the one that the protocol trained, which has learned what to look
at. A network without a record leaves a panel with the command that makes it.
"""

import math
import textwrap
from functools import partial

from ctxnet.models.variants import VARIANTS
from ctxnet.paper import results
from ctxnet.paper.figures import figure, initial_title, plots, style, trained_title
from ctxnet.paper.results import IMAGENETTE, MissingRecord, load_initial, load_profile
from ctxnet.paper.statistics import wilson_interval

READ = (
    " White: outside the receptive field; colour: effective receptive field (four decades, logarithmic); "
    "dot: the feature; circle: its mean distance. Averaged over ten images."
)
ONE_RUN = (
    " Trained panels show one run, of the protocol's first seed, on validation images; panels at initialisation show one "
    "draw of weights, on images that ctxnet draws itself."
)
OTHERS = ("resnet50", "hrnet_w18", "convnext_tiny", "vit_base_patch16_224")
THESIS = tuple(name for name, row in VARIANTS.items() if row.thesis_top1)
_of = {
    number: ("resnet50", *(name for name, row in VARIANTS.items() if number in row.tables)) for number in results.TABLES
}


def _sources(protocol, root):
    """[(title, variant -> profile)] for the two kinds of networks, in the order they are drawn."""
    seed = results.settings_of(protocol, root).seeds[0]
    return [
        (initial_title(root), lambda variant: load_initial(variant, root)),
        (trained_title(protocol, root), lambda variant: load_profile(protocol, variant, seed, root)),
    ]


def _draw(ax, load, variant, draw):
    """``draw(ax, profile)``, or the command that makes the record."""
    try:
        profile = load(variant)
    except MissingRecord as missing:
        style.missing_panel(ax, _wrapped(missing.command))
    else:
        draw(ax, profile)


def _wrapped(command, width=32):
    return "\n".join(textwrap.wrap(command, width, break_long_words=False, break_on_hyphens=False))


# ---- mean distance over the blocks ------------------------------------------------------------------------------------


def _distances(variants, protocol, root="."):
    """Two panels, one per kind of network, with one curve per variant, and one legend for both."""
    labels = [VARIANTS[variant].label for variant in variants]
    legend_rows = math.ceil(sum(len(label) + 7 for label in labels) / 90)  # 90 characters fill the figure's width
    fig, handles = style.new_figure(height=2.72 + 0.18 * legend_rows), {}
    for ax, (title, load) in zip(fig.subplots(1, 2), _sources(protocol, root), strict=True):
        ax.set_title(title, fontsize=8.5)
        missing = []
        for variant, label, marker, colour in zip(variants, labels, "os^Dv*X", style.PALETTE, strict=False):
            try:
                profile = load(variant)
            except MissingRecord as error:
                missing.append(error.command)
                continue
            blocks = range(1, len(profile.layers) + 1)
            (line,) = ax.plot(blocks, profile.distance.numpy(), marker=marker, color=colour, markersize=3)
            handles.setdefault(label, line)
        if len(missing) == len(variants):
            style.missing_panel(ax, _wrapped(missing[0]))
            continue
        ax.set(xlabel="block", ylabel="mean distance, px", xticks=range(2, 17, 2))
        ax.set_ylim(bottom=0)
        if missing:
            ax.set_xlabel(f"block\n({len(missing)} not there yet: {_wrapped(missing[0], 60)})", fontsize=6.5)
    if handles:
        fig.legend(handles.values(), handles, loc="outside lower center", ncols=math.ceil(len(labels) / legend_rows))
    return fig


for number, table, caption, alt in (
    ("4.1", "4.1", "plain ResNet-50 and 1, 3, 5 random permutations in every block.",
     "plain ResNet-50 and for 1, 3 and 5 permutations"),
    ("4.3", "4.2", "one permutation in all blocks, or only in stages 3 and 4 (block 8 onwards).",
     "plain ResNet-50, one permutation everywhere, one permutation in stages 3 and 4"),
    ("4.5", "4.3", "random permutations with relative positional encoding.",
     "plain ResNet-50 and for 1, 3 and 5 permutations with encoding"),
    ("4.7", "4.4", "random permutations weighed by attention.",
     "plain ResNet-50 and for 1, 3 and 5 permutations with attention"),
    ("4.9", "4.5", "dilated convolutions in place of the 3×3, inserted, and at random offsets. The row marked “ours” is not "
     "in the thesis.", "plain ResNet-50 and each dilated variant"),
):  # fmt: skip
    figure(
        number, shows=_of[table], rests_on=("measure",),
        caption=f"Mean distance of the effective receptive field of the centre feature, block by block: {caption}{ONE_RUN}",
        alt="Two line charts, networks at initialisation on the left and trained on the right. Horizontal axis: residual "
        f"block 1 to 16; vertical axis: mean distance in pixels. One line each for {alt}.",
    )(partial(_distances, _of[table]))  # fmt: skip


# ---- receptive fields, plain and effective ----------------------------------------------------------------------------


def _contexts(rows, blocks, size, protocol, root="."):
    """A grid of RF/ERF pictures, ``size`` inches high each, once per kind of network: ``rows`` are (label, variant),
    ``blocks`` are counted from 1, -1 for the last."""
    fig = style.new_figure(height=size * len(rows) + 0.45)
    outer = fig.add_gridspec(1, 2, wspace=0.06, hspace=0.06)
    for place, (title, load) in zip(outer, _sources(protocol, root), strict=True):
        part = fig.add_subfigure(place)
        part.suptitle(title, fontsize=8.5)
        grid = part.add_gridspec(len(rows), len(blocks))
        for i, (label, variant) in enumerate(rows):
            try:
                profile = load(variant)
            except MissingRecord as missing:
                style.missing_panel(part.add_subplot(grid[i, :]), _wrapped(missing.command))
                continue
            for j, block in enumerate(blocks):
                ax = part.add_subplot(grid[i, j])
                index = len(profile.layers) - 1 if block == -1 else block - 1
                plots.plot_context(profile, index, ax=ax)
                ax.set_title(f"block {index + 1}" if i == 0 else "", fontsize=8, pad=3)
                ax.set_ylabel(label if j == 0 else "", fontsize=8)
    return fig


_FIELDS = "Receptive field and effective receptive field"


def _three(suffix):
    return [(f"k = {k}", f"resnet50_perm{k}{suffix}") for k in (1, 3, 5)]


for number, rows, blocks, size, caption, alt in (
    ("4.2", _three(""), (1, 3, -1), 1.1, f"{_FIELDS} at the first, third and last block with 1, 3, 5 permutations.",
     "rows 1, 3, 5 permutations, columns first, third and last block; the receptive field is a sparse scatter at first and "
     "covers the image later"),
    ("4.4", [("stages 3–4", "resnet50_perm1_stages34")], (8, 9, 16), 1.1, f"{_FIELDS} at blocks 8, 9 and 16 with one "
     "permutation in stages 3 and 4: block 8 is the first that has one.",
     "blocks 8, 9 and 16; the field is local up to block 7 and spreads over the image from block 8"),
    ("4.6", _three("_enc"), (1, 3, -1), 1.1, "As Figure 4.2, with relative positional encoding added to the permuted "
     "tensors.",
     "rows 1, 3, 5 permutations with encoding, columns first, third and last block"),
    ("4.8", _three("_attn"), (1, 3, -1), 1.1, "As Figure 4.2, with the permuted tensors weighed by attention.",
     "rows 1, 3, 5 permutations with attention, columns first, third and last block"),
    ("4.12", [(f"d = {d}", f"resnet50_inserted_dilated{d}") for d in (4, 8)], (2, -1), 1.5, f"{_FIELDS} of the inserted "
     "dilated convolution at the second and the last block, d = 4 and d = 8.",
     "rows d = 4 and d = 8, columns second and last block"),
    ("4.13", [(f"d = {d}", f"resnet50_random_dilated{d}") for d in (8, 16)], (2, -1), 1.5, f"{_FIELDS} of the random "
     "dilated convolution (k = 8) at the second and the last block, d = 8 and d = 16.",
     "rows d = 8 and d = 16, columns second and last block"),
):  # fmt: skip
    figure(
        number, caption=caption + READ + ONE_RUN, shows=[variant for _, variant in rows], rests_on=("measure",),
        alt=f"Square maps of the input image, networks at initialisation and trained side by side: {alt}.",
    )(partial(_contexts, rows, blocks, size))  # fmt: skip


@figure(
    "4.14", shows=OTHERS, rests_on=("measure",),
    caption="Effective receptive field of the centre of the last feature map: ResNet-50, HRNet, ConvNeXt and the Vision "
    "Transformer." + READ + ONE_RUN,
    alt="Square maps of the input image, upper row at initialisation, lower row trained, one column per network.",
)  # fmt: skip
def other_architectures(protocol, root="."):
    fig = style.new_figure(height=3.95)
    for part, (title, load) in zip(fig.subfigures(2, 1), _sources(protocol, root), strict=True):
        part.suptitle(title, fontsize=8.5)
        for ax, variant in zip(part.subplots(1, len(OTHERS)), OTHERS, strict=True):
            _draw(ax, load, variant, lambda ax, profile: plots.plot_context(profile, -1, ax=ax))
            ax.set_title(VARIANTS[variant].label, fontsize=8, pad=3)
    return fig


# ---- receptive fields alone: geometry, so the full-size networks only -------------------------------------------------


def _fields(cells, root=".", size=2.3):
    """Receptive fields side by side; ``cells`` are (title, variant, block), blocks counted from 1."""
    fig = style.new_figure(width=(size + 0.25) * len(cells), height=size + 0.3)
    for ax, (title, variant, block) in zip(fig.subplots(1, len(cells)), cells, strict=True):
        _draw(ax, partial(load_initial, root=root), variant,
              lambda ax, profile, block=block: plots.plot_context(profile, block - 1, ax=ax, erf=False))  # fmt: skip
        ax.set_title(title, fontsize=8.5)
    return fig


@figure(
    "4.10", rests_on=("measure",),
    caption="Receptive field of ResNet-50 with its 3×3 convolutions dilated by d = 4, at the second and the last block: "
    "islands without what lies between them.",
    alt="Two square maps. At the second block the receptive field is a regular lattice of separate squares; at the last "
    "block the lattice spans the image.",
)  # fmt: skip
def dilated_fields(root="."):
    return _fields([(f"block {block}", "resnet50_dilated4", block) for block in (2, 16)], root)


@figure(
    "4.11", rests_on=("measure",),
    caption="Receptive field of the inserted dilated convolution at the second block: with d = 4 the 3×3 convolutions "
    "between fill the gaps, with d = 8 they do not.",
    alt="Two square maps. For d = 4 one solid square around the centre; for d = 8 a larger lattice of separate squares.",
)  # fmt: skip
def inserted_fields(root="."):
    return _fields([(f"d = {d}, block 2", f"resnet50_inserted_dilated{d}", 2) for d in (4, 8)], root)


# ---- appendix B -------------------------------------------------------------------------------------------------------


def _summed(variant, protocol, root="."):
    def draw(ax, profile):
        if profile.summed is None:
            style.missing_panel(ax, "", "No sum in this profile.")
        else:
            plots.plot_summed(profile.summed, ax=ax)

    fig = style.new_figure(width=5.2, height=2.75)
    for ax, (title, load) in zip(fig.subplots(1, 2), _sources(protocol, root), strict=True):
        _draw(ax, load, variant, draw)
        ax.set_title(title, fontsize=7.5)
    return fig


for place, variant in enumerate(OTHERS, start=1):
    name = VARIANTS[variant].label
    figure(
        f"B.{place}", shows=(variant,), rests_on=("measure",),
        caption=f"Sum of the effective receptive fields over all positions of the last feature map of {name}: what each "
        "input pixel contributes to the whole map. At initialisation over one image." + ONE_RUN,
        alt=f"Two square maps of the input image for {name}, at initialisation and trained; brighter pixels "
        "contribute more.",
    )(partial(_summed, variant))  # fmt: skip


# ---- chapter 5 (ours) -------------------------------------------------------------------------------------------------


@figure(
    "5.1", shows=THESIS,
    caption="All rows at a glance (not in the thesis): top-1 with its 95 % interval, the thesis' numbers on its own 3,925 "
    "images and 100 epochs, ours in this protocol. Dashed: ResNet-50. The two axes differ: read orders and overlaps, not "
    "levels.",
    alt="Two dot plots with horizontal error bars, one row per network: the thesis' accuracies on the left, ours on the "
    "right.",
)  # fmt: skip
def all_rows(protocol, root="."):
    shown = results.tables_shown(protocol, root)
    lines = {line["variant"]: line for n in shown for line in results.table(n, protocol, root).to_dict("records")}
    thesis = results.has_thesis_numbers(results.settings_of(protocol, root))
    names = [*THESIS, *(name for name in lines if name not in THESIS and lines[name]["seeds"])] if thesis else list(lines)
    names = names[::-1]
    fig = style.new_figure(height=0.6 + 0.21 * max(len(names), 3))
    axes = fig.subplots(1, 2 if thesis else 1, sharey=True, squeeze=False)[0]
    for y, name in enumerate(names):
        if thesis and VARIANTS[name].thesis_top1:
            low, high = wilson_interval(round(VARIANTS[name].thesis_top1 / 100 * IMAGENETTE), IMAGENETTE)
            _dot(axes[0], y, VARIANTS[name].thesis_top1, 100 * low, 100 * high, style.VERMILION)
        if name in lines and math.isfinite(lines[name]["top1"]):
            _dot(axes[-1], y, *(lines[name][key] for key in ("top1", "low", "high")), style.BLUE)
    plain = lines["resnet50"]["top1"] if "resnet50" in lines else math.nan
    baselines = [VARIANTS["resnet50"].thesis_top1, plain] if thesis else [plain]
    for ax, baseline, title in zip(axes, baselines, ["thesis", f"protocol {protocol}"][-len(axes) :], strict=True):
        if math.isfinite(baseline):
            ax.axvline(baseline, color=style.GREY, linewidth=0.9, linestyle="--")
        ax.set(xlabel="top-1, %")
        ax.set_title(title, fontsize=8.5)
    axes[0].set_yticks(range(len(names)), [VARIANTS[name].label for name in names])
    axes[0].set_ylim(-0.7, len(names) - 0.3)
    if not any(line["seeds"] for line in lines.values()):
        style.missing_panel(axes[-1], results.make_command(protocol))
    return fig


def _dot(ax, y, mean, low, high, colour):
    ax.plot([low, high], [y, y], color=colour, linewidth=1.2, alpha=0.6)
    ax.plot(mean, y, "o", color=colour, markersize=4.5)
