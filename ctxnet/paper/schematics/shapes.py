"""The few shapes that diagrams are made of. Coordinates are inches from the figure's lower left corner."""

import re
import string
from pathlib import Path

from matplotlib.colors import to_rgb
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Polygon, Rectangle

from ctxnet.paper.figures.style import INK, TEXT_WIDTH, new_figure


class Drawing:
    """A drawing kept as an SVG beside this module, with values filled in; shows itself in a notebook, with its facts.

    Raises:
        KeyError: for a value that the drawing needs and does not get.
    """

    def __init__(self, name, **values):
        self.text = string.Template(Path(__file__).with_name(f"{name}.svg").read_text(encoding="utf-8")).substitute(values)
        self.facts = {}

    def get_size_inches(self):
        return [float(side) / 100 for side in re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', self.text).groups()]

    def svg(self):
        return self.text.encode()

    def _repr_mimebundle_(self, include=None, exclude=None):
        return {"text/plain": self.facts.get("alt", ""), "image/svg+xml": self.text}, {"ctxnet": self.facts}


def canvas(height, width=TEXT_WIDTH):
    """A figure of ``width`` × ``height`` inches and one empty axes over all of it; returns both."""
    fig = new_figure(width, height, layout="none")
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    ax.axis("off")
    return fig, ax


def shade(colour, amount):
    """``colour`` mixed with white (``amount`` > 0) or black (< 0), by up to 1."""
    target = 1.0 if amount > 0 else 0.0
    return tuple(c + (target - c) * abs(amount) for c in to_rgb(colour))


def label(ax, x, y, text, **kwargs):
    """Text centred on (x, y)."""
    return ax.text(x, y, text, **({"ha": "center", "va": "center", "size": 8, "linespacing": 1.25} | kwargs))


def box(ax, x, y, width, height, text="", *, colour="#8A8F98", size=8, dashed=False, **kwargs):
    """A rounded box centred on (x, y), tinted with ``colour``, with ``text`` inside."""
    style = "round,pad=0,rounding_size=0.05"
    patch = FancyBboxPatch(
        (x - width / 2, y - height / 2),
        width,
        height,
        boxstyle=style,
        linewidth=1,
        edgecolor=colour,
        facecolor="white" if dashed else shade(colour, 0.82),
        linestyle="--" if dashed else "-",
        zorder=2,
    )
    ax.add_patch(patch)
    label(ax, x, y, text, size=size, zorder=3, **kwargs)
    return patch


def arrow(ax, *points, colour=INK, width=1.0, head=True, dashed=False, zorder=1.5):
    """A straight or bent line through ``points``, with a head at the last one."""
    line = "--" if dashed else "-"
    *corners, last = points
    if len(corners) > 1:
        ax.plot(
            *zip(*corners, strict=True),
            color=colour,
            linewidth=width,
            linestyle=line,
            zorder=zorder,
            solid_joinstyle="round",
            solid_capstyle="butt",
        )
    shape = "-|>,head_length=4,head_width=2" if head else "-"
    ax.add_patch(
        FancyArrowPatch(
            corners[-1],
            last,
            arrowstyle=shape,
            shrinkA=0,
            shrinkB=0,
            color=colour,
            linewidth=width,
            linestyle=line,
            zorder=zorder,
        )
    )


def cuboid(ax, x, y, width, height, depth, *, colour, cells=None, zorder=2):
    """A box in oblique view: front face from (x, y) up, ``depth`` going back to the upper right.

    Args:
        cells: colours of the front face's cells, (rows, columns), row 0 on top; a plain face without it.
    Returns:
        the x and y of the middle of the whole shape's right-hand side.
    """
    dx, dy = 0.72 * depth, 0.5 * depth
    top = [(x, y + height), (x + dx, y + height + dy), (x + width + dx, y + height + dy), (x + width, y + height)]
    side = [(x + width, y), (x + width + dx, y + dy), (x + width + dx, y + height + dy), (x + width, y + height)]
    edge = {"edgecolor": shade(colour, -0.45), "linewidth": 0.7, "joinstyle": "round"}
    ax.add_patch(Polygon(top, facecolor=shade(colour, 0.7), zorder=zorder, **edge))
    ax.add_patch(Polygon(side, facecolor=shade(colour, 0.2), zorder=zorder, **edge))
    ax.add_patch(Rectangle((x, y), width, height, facecolor=shade(colour, 0.5), zorder=zorder, **edge))
    if cells is not None:
        rows, columns = len(cells), len(cells[0])
        w, h = width / columns, height / rows
        for r, row in enumerate(cells):
            for c, fill in enumerate(row):
                corner = (x + c * w, y + (rows - 1 - r) * h)
                ax.add_patch(Rectangle(corner, w, h, facecolor=fill, edgecolor="white", linewidth=0.6, zorder=zorder))
    return x + width + dx, y + (height + dy) / 2


def grid(ax, rows, columns, *, fill=None, line="#C9CED6", background="white", lw=0.7):
    """Draw a rows × columns map, one unit per cell, row 0 on top; ``fill`` maps (row, column) to a colour."""
    ax.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5), aspect="equal", xticks=[], yticks=[])
    ax.axis("off")
    for r in range(rows):
        for c in range(columns):
            colour = (fill or {}).get((r, c), background)
            ax.add_patch(Rectangle((c - 0.5, r - 0.5), 1, 1, facecolor=colour, edgecolor=line, linewidth=lw, clip_on=False))
