"""Explorers for notebooks: move a control, see the receptive field and what is used of it.

The networks of chapters 1 and 3 are small (64 px, a few channels, random weights): one change takes a second or two on
one core. Each explorer has a drawing function of its own that works without widgets. Every row at full size, over a
photograph, is in the explorer of the book.
"""

import functools
from collections import OrderedDict

import torch
from torch import nn

from ctxnet.measure import context_profile
from ctxnet.models.resnet import STAGES, ResNet
from ctxnet.paper.figures import figure
from ctxnet.paper.figures.plots import plot_context
from ctxnet.paper.figures.style import figure_bytes, new_figure
from ctxnet.paper.schematics.architectures import trace_shapes

SIZE, WIDTH, IMAGES = 64, 8, 4
ALT = (
    "Receptive field and effective receptive field of one feature, twice: in linear and in logarithmic scale; a circle has "
    "the mean distance as its radius."
)
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


def _draw_profile(profile, title):
    """RF and ERF of a profile's last layer, in linear and in log scale; returns the Figure."""
    fig = new_figure(height=2.9)
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


@figure("", alt=ALT)
def draw_stack(layers=3, kernel=3, dilation=1, stride=1, row=0.5, column=0.5):
    """Context of one feature after a stack of convolutions.

    Args:
        layers, kernel, dilation, stride: as in :func:`stack_of_convolutions`.
        row, column: where the feature lies, as a share (0 … 1) of the map.
    """
    net = _seeded(stack_of_convolutions, layers, kernel, dilation, stride)
    profile = _profile(net, f"relu{layers}", row, column)
    return _draw_profile(profile, f"{layers} × {kernel}×{kernel}")


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


@figure("", alt=ALT)
def draw_context(context="random sparse context (§3.1)", k=1, d=4, block="layer1.0", row=0.5, column=0.5):
    """Context of one feature of a small ResNet-50 with a context block in every bottleneck.

    Args:
        context: one of :data:`CONTEXTS`.
        k, d: number of permutations or offsets; dilation or largest offset. Ignored where without meaning.
        block: ``layer1.0`` … ``layer4.2``.
        row, column: where the feature lies, as a share (0 … 1) of the map.
    """
    profile = _profile(_network(context, k, d, block), block, row, column)
    return _draw_profile(profile, block)


# ---------------------------------------------------------------- widgets


def _explorer(draw, **controls):
    """Controls above the picture that ``draw`` makes from their values; an error is shown in words."""
    import ipywidgets as widgets

    class Sliders(widgets.VBox):
        def _repr_mimebundle_(self, **kwargs):
            shown = super()._repr_mimebundle_(**kwargs)
            return shown, {"ctxnet": {"widget": True}}

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
    box = widgets.HBox(list(controls.values()), layout={"flex_flow": "row wrap"})
    return Sliders([box, message, picture])


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
