"""One look for every figure, and one way to write a figure so that equal figures give equal bytes.

Figures are made by :func:`new_figure` without pyplot: nothing is registered globally, shown twice in a notebook or has to
be closed. A notebook shows one by ending a cell with it.
"""

import base64
import functools
import io
import os
from pathlib import Path

import matplotlib
from matplotlib import font_manager
from matplotlib.figure import Figure
from PIL import Image

# Okabe and Ito's palette: distinguishable with any common colour blindness, and in order of use.
PALETTE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442"]
BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK, YELLOW = PALETTE
GREY, LIGHT, INK = "#8A8F98", "#E9ECEF", "#22262B"

STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": INK,
    "axes.grid": True,
    "axes.grid.axis": "both",
    "axes.labelcolor": INK,
    "axes.labelsize": 9,
    "axes.linewidth": 0.8,
    "axes.prop_cycle": matplotlib.cycler(color=PALETTE),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9.5,
    "axes.titleweight": "normal",
    "figure.dpi": 110,
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",  # shipped with matplotlib: the same glyphs on every machine
    "font.size": 9,
    "grid.color": "#DDE1E6",
    "grid.linewidth": 0.6,
    "image.interpolation": "nearest",
    "legend.fontsize": 8,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "savefig.bbox": "standard",
    "savefig.facecolor": "white",
    "svg.fonttype": "path",
    "svg.hashsalt": "ctxnet",
    "text.color": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.color": INK,
    "ytick.color": INK,
}


def _use_shipped_fonts():
    """Put the fonts that come with matplotlib before all others: the list of fonts that a machine keeps may lack them, or
    name a system's DejaVu first, whose glyphs differ."""
    manager = font_manager.fontManager
    known, manager.ttflist = manager.ttflist, []
    for path in sorted(Path(matplotlib.get_data_path(), "fonts", "ttf").glob("*.ttf")):
        manager.addfont(path)
    manager.ttflist += known


_use_shipped_fonts()
_SESSION = ("backend", "backend_fallback", "interactive", "toolbar", "webagg.open_in_browser")
_SETTINGS = {k: v for k, v in matplotlib.rcParamsDefault.items() if k not in _SESSION} | STYLE
TEXT_WIDTH = 6.9  # inches: the width of a page's text, which every full-width figure takes


def styled(function):
    """Decorator: run a function that draws under :data:`STYLE`, and leave the caller's settings alone."""

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        with matplotlib.rc_context(_SETTINGS):
            return function(*args, **kwargs)

    return wrapper


class Sheet(Figure):
    """A matplotlib figure that shows itself in a notebook, with its facts (:func:`ctxnet.paper.figures.figure`)."""

    facts = {}

    def svg(self):
        return figure_bytes(self, "svg")

    def png(self):
        return figure_bytes(self, "png")

    def _repr_mimebundle_(self, include=None, exclude=None):
        shown = {"text/plain": repr(self), "image/png": base64.b64encode(self.png()).decode()}
        if self.facts.get("number"):
            shown["image/svg+xml"] = self.svg().decode()
        return shown, {"ctxnet": self.facts}


@styled
def new_figure(width=TEXT_WIDTH, height=3.0, **kwargs):
    """An empty :class:`Sheet` of ``width`` × ``height`` inches in the project's style."""
    kwargs.setdefault("layout", "constrained")
    return Sheet(figsize=(width, height), **kwargs)


def missing_panel(ax, command, what="No record yet."):
    """Fill ``ax`` with the command that makes what should be drawn here, and without axes; returns ``ax``."""
    ax.set(xticks=[], yticks=[], facecolor="#FAFBFC")
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.text(0.5, 0.56, what, ha="center", va="bottom", transform=ax.transAxes, color=GREY)
    ax.text(0.5, 0.5, command, ha="center", va="top", transform=ax.transAxes, family="monospace", size=7.5)
    return ax


def find_root(start="."):
    """The repository's root: the nearest folder at or above ``start`` that holds ``params.yaml``.

    Raises:
        FileNotFoundError: when there is none.
    """
    start = Path(start).resolve()
    for folder in (start, *start.parents):
        if (folder / "params.yaml").is_file():
            return folder
    raise FileNotFoundError(f"{start}: no params.yaml here or above; start inside the repository")


def enter_root(start="."):
    """Change to the repository's root and return it: a notebook may have been started in ``notebooks/``."""
    root = find_root(start)
    os.chdir(root)
    return root


@styled
def figure_bytes(fig, kind="svg", dpi=170, colours=256):
    """``fig`` as ``"svg"`` or ``"png"`` bytes, equal for equal figures: no date, no random ids.

    A PNG has at most ``colours`` colours, up to 256: half the bytes, and a mean error below half a step of 255 where
    photographs and maps are drawn.
    """
    buffer = io.BytesIO()
    metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
    fig.savefig(buffer, format=kind, dpi=dpi, metadata=metadata)
    if kind == "svg":
        return b"\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + b"\n"
    picture, buffer = Image.open(buffer).convert("RGB"), io.BytesIO()
    picture.quantize(colours, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(buffer, kind, optimize=True)
    return buffer.getvalue()
