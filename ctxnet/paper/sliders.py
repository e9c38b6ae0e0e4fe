"""Explorers for notebooks: move a control, see the receptive field and what is used of it.

The networks of chapters 1 and 3 are small (64 px, a few channels, random weights): one change takes a second or two on
one core. Each explorer has its own drawing function, which works without widgets. Every row at full size, over a
photograph, is in the explorer of the book.
"""

from ctxnet.atlas.small import BLOCKS, CONTEXTS, measure_context, measure_stack
from ctxnet.paper.figures import figure
from ctxnet.paper.figures.plots import plot_context
from ctxnet.paper.figures.style import figure_bytes, new_figure

ALT = (
    "Receptive field and effective receptive field of one feature, twice: in linear and in logarithmic scale; a circle has "
    "the mean distance as its radius."
)


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


@figure("", alt=ALT)
def draw_stack(layers=3, kernel=3, dilation=1, stride=1, row=0.5, column=0.5):
    """Context of one feature after a stack of convolutions: arguments of :func:`ctxnet.atlas.small.measure_stack`."""
    profile = measure_stack(layers, kernel, dilation, stride, row, column)
    return _draw_profile(profile, f"{layers} × {kernel}×{kernel}")


@figure("", alt=ALT)
def draw_context(context="random sparse context (§3.1)", k=1, d=4, block="layer1.0", row=0.5, column=0.5):
    """Context of one feature of a small ResNet-50: arguments of :func:`ctxnet.atlas.small.measure_context`."""
    return _draw_profile(measure_context(context, k, d, block, row, column), block)


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
