"""What schematics are made of: drawings kept as SVG files, and maps drawn cell by cell."""

import re
import string
from pathlib import Path

from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle


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


def shade(colour, amount):
    """``colour`` mixed with white (``amount`` > 0) or black (< 0), by up to 1."""
    target = 1.0 if amount > 0 else 0.0
    return tuple(c + (target - c) * abs(amount) for c in to_rgb(colour))


def grid(ax, rows, columns, *, fill=None, line="#C9CED6", background="white", lw=0.7):
    """Draw a rows × columns map, one unit per cell, row 0 on top; ``fill`` maps (row, column) to a colour."""
    ax.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5), aspect="equal", xticks=[], yticks=[])
    ax.axis("off")
    for r in range(rows):
        for c in range(columns):
            colour = (fill or {}).get((r, c), background)
            ax.add_patch(Rectangle((c - 0.5, r - 0.5), 1, 1, facecolor=colour, edgecolor=line, linewidth=lw, clip_on=False))
