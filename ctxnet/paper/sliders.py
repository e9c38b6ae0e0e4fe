"""Explorers for notebooks: move a control, see the receptive field and what is used of it.

The networks of chapters 1 and 3 are small (64 px, a few channels, random weights): one change takes a second or two on
one core. The one over a photograph shows every row at full size from records. Each explorer has a drawing function of its
own that works without widgets.
"""

import functools
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from matplotlib.patches import Circle
from matplotlib.ticker import MaxNLocator
from torch import nn

from ctxnet.data.photograph import photograph
from ctxnet.measure import context_profile
from ctxnet.models.resnet import STAGES, ResNet
from ctxnet.models.variants import VARIANTS
from ctxnet.naming import require_known
from ctxnet.paper.figures.plots import plot_context
from ctxnet.paper.figures.style import BLUE, VERMILION, figure, figure_bytes, styled
from ctxnet.paper.results import load_places
from ctxnet.paper.schematics.architectures import trace_shapes

SIZE, WIDTH, IMAGES = 64, 8, 4
BLOCKS = [f"layer{stage + 1}.{i}" for stage, count in enumerate(STAGES[50]) for i in range(count)]
CONTEXTS = {
    "none (plain ResNet-50)": {},
    "random sparse context (§3.1)": {"context": "permutation", "uses": ("k",)},
    "… with relative encoding (§3.2)": {"context": "permutation", "encoding": True, "uses": ("k",)},
    "attention over it (§3.3)": {"context": "attention", "uses": ("k",)},
    "dilated 3×3 (§3.4)": {"uses": ("dilation",)},
    "inserted dilated 3×3 (§3.4.1)": {"context": "inserted_dilated", "uses": ("d",)},
    "random dilated, concatenated (§3.5)": {"context": "random_dilated", "uses": ("k", "d")},
    "random dilated convolution (§3.5)": {"context": "random_dilated_conv", "uses": ("k", "d")},
}


def _images(n=IMAGES, size=SIZE):
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(0))


def _seeded(make, *args, seed=0, **kwargs):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make(*args, **kwargs)


@styled
def draw_profile(profile, title):
    """RF and ERF of a profile's last layer, in linear and in log scale; returns the Figure."""
    fig = figure(height=2.9)
    left, right = fig.subplots(1, 2)
    for ax, scale in ((left, "linear"), (right, "log")):
        plot_context(profile, -1, ax=ax, scale=scale)
        ax.set_title(f"ERF, {scale} scale")
    share = float(profile.rf[-1].float().mean())
    exact = "" if profile.exact[-1] else " at most"
    distance = float(profile.distance[-1])
    fig.suptitle(f"{title}: sees{exact} {share:.0%} of the image, mean distance {distance:.1f} px", size=9)
    return fig


# ---------------------------------------------------------------- chapter 1: a stack of convolutions


def stack_of_convolutions(layers=3, kernel=3, dilation=1, stride=1, channels=8):
    """``layers`` equal convolutions with ReLU (``conv1``, ``relu1``, …), the first with ``stride``."""
    net = OrderedDict()
    for i in range(layers):
        padding = dilation * (kernel - 1) // 2
        step = stride if i == 0 else 1
        net[f"conv{i + 1}"] = nn.Conv2d(3 if i == 0 else channels, channels, kernel, step, padding, dilation)
        net[f"relu{i + 1}"] = nn.ReLU()
    return nn.Sequential(net).eval()


def draw_stack(layers=3, kernel=3, dilation=1, stride=1, row=0.5, column=0.5):
    """Context of one feature after a stack of convolutions.

    Args:
        layers, kernel, dilation, stride: as in :func:`stack_of_convolutions`.
        row, column: where the feature lies, as a share (0 … 1) of the map.
    """
    net = _seeded(stack_of_convolutions, layers, kernel, dilation, stride)
    profile = _profile(net, f"relu{layers}", row, column)
    return draw_profile(profile, f"{layers} × {kernel}×{kernel}")


def _profile(net, layer, row, column):
    images = _images()
    size = trace_shapes(net, images.shape[1:])[layer][1][1:]
    position = tuple(min(int(share * n), n - 1) for share, n in zip((row, column), size, strict=True))
    return context_profile(net, images, layers=[layer], position=position)


# ---------------------------------------------------------------- chapter 3: a block in a ResNet-50


@functools.lru_cache(maxsize=16)
def _network(context, k, d, block):
    """The small ResNet-50 up to and including ``block``: nothing behind it changes what it sees."""
    args = dict(CONTEXTS[context])
    given = {"k": k, "d": d, "dilation": d}
    args |= {name: given[name] for name in args.pop("uses", ())}
    model = _seeded(ResNet, 50, width=WIDTH, input_size=SIZE, **args).eval()
    stage, index = block.split(".")
    net = OrderedDict()
    for name, module in model.named_children():
        net[name] = module
        if name == stage:
            net[name] = module[: int(index) + 1]
            break
    return nn.Sequential(net).eval()


def draw_context(context="random sparse context (§3.1)", k=1, d=4, block="layer1.0", row=0.5, column=0.5):
    """Context of one feature of a small ResNet-50 with a context block in every bottleneck.

    Args:
        context: one of :data:`CONTEXTS`.
        k, d: number of permutations or offsets; dilation or largest offset. Ignored where without meaning.
        block: ``layer1.0`` … ``layer4.2``.
        row, column: where the feature lies, as a share (0 … 1) of the map.
    """
    profile = _profile(_network(context, k, d, block), block, row, column)
    return draw_profile(profile, block)


# ---------------------------------------------------------------- every row, over a photograph


def measured_rows(root="."):
    """Rows with a record in ``results/lattice``, in the order of the table of rows."""
    return [name for name in VARIANTS if (Path(root) / "results" / "lattice" / name / "record.json").exists()]


@styled
def draw_place(variant="resnet50", block=1, row=0.5, column=0.5, root="."):
    """What a full-size row sees of a photograph from one place, and its mean distance over the blocks there.

    Args:
        variant: a row of ``results/lattice``.
        block: 1 … number of blocks; a larger one means the last.
        row, column: share (0 … 1) of the map; the nearest measured place is shown.
        root: the repository.

    Raises:
        ValueError: for a row that does not exist, or a damaged record.
        MissingRecord: for one that has not been measured.
    """
    record, places, sprite = load_places(require_known("row", variant, VARIANTS), root)
    n, cells, size = (record["settings"][key] for key in ("places", "cells", "image_size"))
    block = min(max(int(block), 1), len(record["layers"]))
    i, j = (min(int(share * n), n - 1) for share in (row, column))
    here = places[places["place"] == i * n + j]
    one = here[here["block"] == block - 1].iloc[0]
    tile = sprite[(block - 1) * cells : block * cells, (i * n + j) * cells :][:, :cells]
    fig = figure(height=3.3)
    left, right = fig.subplots(1, 2, width_ratios=[1, 1.1])
    box = [one.box_left - 0.5, one.box_left + one.box_side - 0.5, one.box_top + one.box_side - 0.5, one.box_top - 0.5]
    left.imshow(photograph(size).mean(2), cmap="gray", vmin=-120, vmax=255)  # light, so that the field stands out
    effect, reach = tile // 16 / 15, tile % 16 / 15
    left.imshow(np.ones_like(reach), extent=box, cmap="Blues", vmin=0, vmax=2, alpha=0.25 * reach)
    left.imshow(effect, extent=box, cmap="YlOrRd", vmin=0, vmax=1, alpha=0.85 * effect)  # a weak one is clear
    left.plot(one.center_column, one.center_row, "+", color=BLUE, markersize=9, markeredgewidth=1.6)
    left.add_patch(Circle((one.center_column, one.center_row), one.distance, fill=False, edgecolor=BLUE, linewidth=1.4))
    left.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), xticks=[], yticks=[])
    left.set_title(f"{VARIANTS[variant].label}, {record['layers'][block - 1]}")
    shares = f"sees {100 * one.rf_share:.0f} % of the pixels; 90 % of the effect in {100 * one.erf90_share:.0f} %"
    left.set_xlabel(shares, fontsize=8)
    right.plot(here["block"] + 1, here["distance"], "o-", color=BLUE)
    right.plot(block, one.distance, "o", color=VERMILION, markersize=8)
    right.set(xlabel="block", ylabel="mean distance, px", ylim=(0, 1.15 * max(here["distance"].max(), size / 3)))
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.set_title(f"block {block}: {one.distance:.1f} px")
    return fig


# ---------------------------------------------------------------- widgets


def _explorer(draw, **controls):
    """Controls above the picture that ``draw`` makes from their values; an error is shown in words."""
    import ipywidgets as widgets

    picture, message = widgets.Image(format="png"), widgets.HTML()

    def update(change=None):
        message.value = "measuring …"
        try:
            fig = draw(**{name: control.value for name, control in controls.items()})
            picture.value = figure_bytes(fig, "png", 110)
            message.value = ""
        except (ValueError, NotImplementedError, FileNotFoundError) as error:
            message.value = f"<b>{error}</b>"

    for control in controls.values():
        control.observe(update, names="value")
    update()
    return widgets.VBox(
        [widgets.HBox(list(controls.values()), layout={"flex_flow": "row wrap"}), message, picture]
    )


def _slider(kind, description, value, low, high, step=1):
    return kind(value=value, min=low, max=high, step=step, description=description, continuous_update=False)


def _place():
    import ipywidgets as widgets

    return {name: _slider(widgets.FloatSlider, name, 0.5, 0.0, 1.0, 0.05) for name in ("row", "column")}


def stack_explorer():
    """Chapter 1: number of convolutions, kernel, dilation, stride and position; returns a widget."""
    import ipywidgets as widgets

    return _explorer(
        draw_stack,
        layers=_slider(widgets.IntSlider, "layers", 3, 1, 8),
        kernel=_slider(widgets.IntSlider, "kernel", 3, 1, 7, 2),
        dilation=_slider(widgets.IntSlider, "dilation", 1, 1, 4),
        stride=_slider(widgets.IntSlider, "first stride", 1, 1, 4),
        **_place(),
    )


def context_explorer():
    """Chapter 3: context block, k, d, network block and position; returns a widget."""
    import ipywidgets as widgets

    return _explorer(
        draw_context,
        context=widgets.Dropdown(options=list(CONTEXTS), value=list(CONTEXTS)[1], description="context"),
        block=widgets.Dropdown(options=BLOCKS, value="layer1.0", description="block"),
        k=_slider(widgets.IntSlider, "k", 1, 0, 8),
        d=_slider(widgets.IntSlider, "d", 4, 1, 12),
        **_place(),
    )


def photograph_explorer(root="."):
    """Every measured row over a photograph: row, block and place; returns a widget."""
    import ipywidgets as widgets

    rows = measured_rows(root) or ["resnet50"]  # without any, the picture's place says how to measure one
    return _explorer(
        functools.partial(draw_place, root=root),
        variant=widgets.Dropdown(options=[(VARIANTS[name].label, name) for name in rows], description="network"),
        block=_slider(widgets.IntSlider, "block", 1, 1, 16),
        **_place(),
    )
