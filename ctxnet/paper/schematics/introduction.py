"""Figures 1.1–1.3: how a receptive field grows, and how little of it is used."""

import numpy as np
import torch
from torch import nn

from ctxnet.atlas.small import attention_distance, field_sizes, noise_images, uniform_distance
from ctxnet.models.registry import create_model
from ctxnet.models.resnet import ResNet
from ctxnet.paper.figures import figure
from ctxnet.paper.figures.plots import CONTEXT_MAP
from ctxnet.paper.figures.style import BLUE, GREY, VERMILION, new_figure
from ctxnet.paper.results import load_initial
from ctxnet.paper.schematics.method import sources
from ctxnet.paper.schematics.shapes import Drawing

IMAGE = 224


def stacked_fields(layers=2, kernel=3, side=7):
    """What the middle feature of a stack of equal convolutions sees in each layer, from itself down.

    Returns:
        a list of ``layers + 1`` sets of (row, column): the feature itself first, the input last.
    """
    convs = [nn.Conv2d(1, 1, kernel, padding=kernel // 2, bias=False) for _ in range(layers)]
    for conv in convs:
        nn.init.ones_(conv.weight)
    centre = (side // 2, side // 2)
    return [sources(nn.Sequential(*convs[:n]), side, side, centre) for n in range(layers + 1)]


@figure(
    "1.1", networks="two 3×3 convolutions",
    caption="Receptive field of one feature of layer 2 after two 3×3 convolutions: 9 features of layer 1, 25 pixels.",
    alt="Three grids side by side: 25 marked cells in the input, 9 in layer 1, one in layer 2, joined by lines.",
)  # fmt: skip
def figure_1_1():
    values = {}
    for sheet, field in enumerate(stacked_fields()[::-1]):  # the input first; each field is a square
        (first, _), (last, _) = min(field), max(field)
        values |= {f"at{sheet}": first, f"side{sheet}": last - first + 1, f"seen{sheet}": len(field)}
    return Drawing("figure_1_1", **values)


@figure(
    "1.2", networks="ViT-B/16 and ResNet-50, full size, 224 px, at initialisation",
    caption="Growth of context with depth. a) Mean attention distance of each of the 12 heads in each block of "
    "ViT-B/16, at initialisation: before training every head weighs all patches almost alike; heads that look near "
    "are learned. b) Side of the receptive field at the end of the 16 blocks of ResNet-50, by layer arithmetic.",
    alt="Left: all dots lie on a level line near 116 px. Right: a curve rising from 19 px at block 1 to 427 px at "
    "block 16, past the image's 224 px at block 12.",
)  # fmt: skip
def figure_1_2(vit=None, images=None):
    """Growth of context: attention distance of every head of ViT-B/16, and receptive field of ResNet-50.

    Args:
        vit: a timm vision transformer, for instance a pretrained one; ViT-B/16 at initialisation without it.
        images: what its attention is averaged over; two noise images without it.
    """
    untrained = vit is None
    vit = create_model("vit_base_patch16_224") if untrained else vit
    heads = attention_distance(vit, noise_images(2, IMAGE) if images is None else images)
    heads = heads.round(decimals=1)  # px: as far as processors agree
    with torch.device("meta"):
        sizes = list(field_sizes(ResNet(50)).values())
    fig = new_figure(height=2.9)
    left, right = fig.subplots(1, 2)
    depth = np.repeat(np.arange(1, len(heads) + 1), heads.shape[1])
    grid, patch = vit.patch_embed.grid_size[0], vit.patch_embed.patch_size[0]
    uniform, near = uniform_distance(grid, patch), uniform_distance(grid, patch, reach=1)
    left.axhline(uniform, color=GREY, lw=1, ls="--", zorder=1)
    left.axhline(near, color=GREY, lw=1, ls=":", zorder=1)
    note = {"ha": "right", "color": GREY, "size": 8, "transform": left.get_yaxis_transform()}
    left.text(0.98, 1.03 * uniform, "all patches alike", **note)
    left.text(0.98, near + 0.02 * uniform, "only the 3×3 nearest patches", **note)
    left.plot(depth, heads.ravel(), "o", color=BLUE, mec="white", mew=0.4, ms=5)
    state = "at initialisation" if untrained else "given weights"
    left.set(title=f"a) vision transformer, {state}", xlabel="encoder block", ylabel="mean attention distance (px)")
    left.set(ylim=(0, 1.3 * max(uniform, heads.max())), xlim=(0.3, len(heads) + 0.7), xticks=range(1, len(heads) + 1))
    right.axhline(IMAGE, color=GREY, lw=1, ls="--", zorder=1)
    right.text(1, IMAGE + 8, f"side of the image, {IMAGE} px", color=GREY, size=8)
    right.plot(range(1, len(sizes) + 1), sizes, "o-", color=VERMILION, mec="white", mew=0.5, ms=5.5)
    for i, offset in ((0, (0, 7)), (len(sizes) - 1, (-9, 5))):
        right.annotate(str(sizes[i]), (i + 1, sizes[i]), xytext=offset, textcoords="offset points", size=8, ha="center")
    right.set(title="b) ResNet-50", xlabel="residual block", ylabel="side of the receptive field (px)")
    right.set(ylim=(0, 470), xlim=(0.3, len(sizes) + 0.7), xticks=range(1, len(sizes) + 1, 3))
    return fig


def resnet50_profile(root=".", layer="layer2.3"):
    """RF and ERF of the full-size ResNet-50 at initialisation, from its record.

    Returns:
        receptive field (H, W) bool, effective receptive field (H, W), centre (row, column) at ``layer``.

    Raises:
        MissingRecord: it has not been measured.
    """
    profile = load_initial("resnet50", root)
    i = list(profile.layers).index(layer)
    return tuple(np.asarray(part[i]) for part in (profile.rf, profile.erf, profile.center))


@figure(
    "1.3", rests_on=("measure",), networks="ResNet-50, full size, 224 px, at initialisation",
    caption="Receptive field and effective receptive field of the middle feature at the end of layer 2 of ResNet-50. "
    "Most of the gradient falls in the middle of the receptive field; summed over rows it is close to a normal curve.",
    alt="Left: a square of 91 px in the middle of the image. Middle: the same square with a dark blot in its centre "
    "that fades outwards. Right: a bell-shaped curve of column sums with a fitted normal curve.",
)  # fmt: skip
def figure_1_3(root="."):
    rf, erf, centre = resnet50_profile(root)
    size = rf.shape[1]
    fig = new_figure(height=2.55)
    left, middle, right = fig.subplots(1, 3, width_ratios=[1, 1, 1.15])
    maps = (left, 1.0, 2.4, "receptive field"), (middle, erf / erf.max(), 1, "effective receptive field")
    for ax, image, most, title in maps:
        ax.imshow(np.where(rf, image, np.nan), cmap=CONTEXT_MAP, vmin=0, vmax=most)
        ax.plot(centre[1], centre[0], "o", color=VERMILION, ms=3.5, mec="white", mew=0.4)
        ax.set(title=title, xlabel="px")
        for ticks in (ax.set_xticks, ax.set_yticks):
            ticks([0, size // 2, size - 1], [0, size // 2, size])
        ax.grid(False)
        ax.spines[:].set_visible(True)
    px = np.arange(size) - centre[1]
    marginal = erf.sum(0)
    spread = float(np.sqrt((marginal * (px - (marginal * px).sum()) ** 2).sum()))
    bell = np.exp(-((px - (marginal * px).sum()) ** 2) / (2 * spread**2)) / (spread * np.sqrt(2 * np.pi))
    reach = np.flatnonzero(rf.any(0)) - centre[1]
    right.axvspan(reach.min(), reach.max(), color=CONTEXT_MAP(0.0), lw=0, zorder=0)
    note = {"ha": "center", "va": "top", "color": GREY, "size": 7.5, "transform": right.get_xaxis_transform()}
    right.text(0, 0.985, f"receptive field: {len(reach)} px", **note)
    right.plot(px, marginal * 100, color=BLUE, label="ERF, summed over rows")
    right.plot(px, bell * 100, color=VERMILION, ls="--", lw=1.3, label=f"normal, σ = {spread:.1f} px")
    right.set(xlim=(-64, 64), ylim=(0, 1.62 * max(marginal.max(), bell.max()) * 100), xticks=[-60, -30, 0, 30, 60])
    right.set(xlabel="columns from the centre (px)", ylabel="share of a column (%)")
    right.legend(loc="upper center", bbox_to_anchor=(0.5, 0.93), fontsize=7, handlelength=1.5)
    return fig
