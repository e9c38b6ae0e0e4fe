"""The pictures of context profiles: what one layer sees, and what it uses of that."""

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, LogNorm, Normalize
from matplotlib.patches import Circle

from ctxnet.naming import require_known
from ctxnet.paper.figures.style import BLUE, GREY, SKY, VERMILION, new_figure, styled

# The lightest tint is the receptive field without any effect; white is what cannot be reached.
CONTEXT_MAP = LinearSegmentedColormap.from_list("context", ["#D3E4F3", SKY, BLUE, "#00264D"])
DECADES = 4  # of the logarithmic scale, counted down from the strongest pixel
SCALES = ("log", "linear")


@styled
def plot_context(profile, layer, ax=None, scale="log", *, erf=True, circle=True, colorbar=False):
    """One layer of a profile over the input image, as the thesis draws it (§4.1).

    White is outside the receptive field, the lightest tint inside; the darker, the stronger the effect of a pixel. A
    dot marks the feature, a circle around it has its mean distance as radius.

    Args:
        profile: a :class:`ctxnet.measure.ContextProfile`.
        layer: a name among ``profile.layers``, or its number, -1 for the last.
        ax: matplotlib axes to draw into; None: a new figure.
        scale: "log" (four decades down from the strongest pixel) or "linear".
        erf: False draws the receptive field alone, in one tone and without the circle.
        colorbar: add a scale beside the map.

    Returns:
        The axes; ``ax.figure`` is the figure.

    Raises:
        ValueError: for a layer that is not in the profile, or an unknown scale.
    """
    number = _number(profile, layer)
    ax = _axes(ax)
    rf, field = _array(profile.rf[number]), _array(profile.erf[number])
    if erf:
        norm = _norm(scale)
        shown = _relative(field, norm)
    else:
        norm, shown = Normalize(0, 1), np.full(field.shape, 0.42)
    image = _show(ax, np.ma.array(shown, mask=~rf), norm)
    row, col = (float(c) for c in profile.center[number])
    radius = float(profile.distance[number])
    if erf and circle and np.isfinite(radius):
        ax.add_patch(Circle((col, row), radius, fill=False, edgecolor="white", linewidth=1.7, alpha=0.8))
        ax.add_patch(Circle((col, row), radius, fill=False, edgecolor=VERMILION, linewidth=1.0))
    ax.plot(col, row, "o", color=VERMILION, markersize=2.8, markeredgecolor="white", markeredgewidth=0.4)
    left, right, bottom, top = image.get_extent()
    ax.set(xlim=(left, right), ylim=(bottom, top))  # a circle that leaves the image would add white that is no part of it
    ax.set_title(profile.layers[number])
    if colorbar and erf:
        _colorbar(ax, image)
    return ax


@styled
def plot_summed(summed, ax=None, scale="linear", *, colorbar=False):
    """The effective receptive fields of all positions of a feature map together (thesis, appendix B).

    Args:
        summed: (H, W), as from :func:`ctxnet.measure.summed_erf` or ``profile.summed``.
        scale: "linear" or "log", relative to the strongest pixel.

    Returns:
        The axes.
    """
    ax, field = _axes(ax), _array(summed)
    norm = _norm(scale)
    image = _show(ax, _relative(field, norm), norm)
    if colorbar:
        _colorbar(ax, image)
    return ax


def _number(profile, layer):
    count = len(profile.layers)
    if isinstance(layer, str):
        return profile.layers.index(require_known("layer", layer, profile.layers))
    if not -count <= layer < count:
        raise ValueError(f"layer {layer} of a profile of {count}; expected {-count}…{count - 1}")
    return layer % count


def _array(values):
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)


def _axes(ax):
    return new_figure(width=3.0, height=3.0).subplots() if ax is None else ax


def _relative(field, norm):
    """A field relative to its strongest pixel, and nothing below the scale."""
    peak = field.max()
    return np.clip(field / peak if peak > 0 else field, norm.vmin, None)


def _norm(scale):
    if require_known("scale", scale, SCALES) == "log":
        return LogNorm(10.0**-DECADES, 1)
    return Normalize(0, 1)


def _show(ax, values, norm):
    # Smoothed in colour when shrunk, so that single pixels of a scattered field fade instead of getting lost.
    image = ax.imshow(values, cmap=CONTEXT_MAP, norm=norm, interpolation="antialiased", interpolation_stage="rgba")
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    ax.spines[:].set(visible=True, linewidth=0.5, color=GREY)
    return image


def _colorbar(ax, image):
    bar = ax.figure.colorbar(image, ax=ax, fraction=0.046, pad=0.03)
    bar.set_label("effect relative to the strongest pixel")
    bar.outline.set_linewidth(0.5)

