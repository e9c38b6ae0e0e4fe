"""Sliders for chapters 1 and 3: move a control, see the receptive field and what is used of it.

The networks are small (64 px, a few channels, random weights) and every position of the sliders was measured beforehand
(:mod:`ctxnet.atlas.states`). So a page steps through pictures that it has: the same in JupyterLab, without a kernel, and on
the site, without a server. What lies between the positions, :func:`draw_stack` and :func:`draw_context` measure on the
spot. Every row at full size, over a photograph, is in the explorer of the site.
"""

import base64
import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from matplotlib.colors import to_hex
from PIL import Image

from ctxnet.atlas.small import measure_context, measure_stack
from ctxnet.atlas.states import COLUMNS, DECADES, LEVELS
from ctxnet.naming import require_known
from ctxnet.paper.figures import figure
from ctxnet.paper.figures.plots import CONTEXT_MAP, plot_context
from ctxnet.paper.figures.style import figure_bytes, new_figure
from ctxnet.paper.results import BadRecord, MissingRecord, read_measured

COMMAND = "python -m ctxnet measure --sliders"
BOOK = Path(__file__).with_name("book")  # its script, its style and its template serve notebooks, too
LABELS = {
    "stack": {"kernel": "kernel", "dilation": "dilation", "stride": "first stride", "layer": "convolutions"},
    "context": {"context": "context block", "k": "k, places", "d": "d, offset", "layer": "block"},
}
FIRST = {  # what each set opens with
    "stack": {"kernel": 3, "dilation": 1, "stride": 1, "layer": "relu3"},
    "context": {"context": "random sparse context (§3.1)", "k": 1, "d": None, "layer": "layer1.0"},
}
# What levels 2 … 15 of a tile stand for, relative to the strongest cell: the middle of each step.
EFFECTS = [*(10 ** (DECADES * ((step - 0.5) / LEVELS - 1)) for step in range(1, LEVELS)), 1.0]
ALT = (
    "Receptive field and effective receptive field of one feature, twice: in linear and in logarithmic scale; a circle has "
    "the mean distance as its radius."
)


def _draw(profile, title, share=None):
    """RF and ERF of a profile's last layer, in linear and in log scale; ``share``: of the image in the RF, if known."""
    share = float(profile.rf[-1].float().mean()) if share is None else share
    fig = new_figure(height=2.9)
    left, right = fig.subplots(1, 2)
    for ax, scale in ((left, "linear"), (right, "log")):
        plot_context(profile, -1, ax=ax, scale=scale)
        ax.set_title(f"ERF, {scale} scale")
    exact = "" if profile.exact[-1] else " at most"
    distance = float(profile.distance[-1])
    fig.suptitle(f"{title}: sees{exact} {share:.0%} of the image, mean distance {distance:.1f} px", size=9)
    return fig


@figure("", alt=ALT)
def draw_stack(layers=3, kernel=3, dilation=1, stride=1, row=0.5, column=0.5):
    """Context of one feature after a stack of convolutions: arguments of :func:`ctxnet.atlas.small.measure_stack`."""
    profile = measure_stack(layers, kernel, dilation, stride, row, column)
    return _draw(profile, f"{layers} × {kernel}×{kernel}")


@figure("", alt=ALT)
def draw_context(context="random sparse context (§3.1)", k=1, d=4, block="layer1.0", row=0.5, column=0.5):
    """Context of one feature of a small ResNet-50: arguments of :func:`ctxnet.atlas.small.measure_context`."""
    return _draw(measure_context(context, k, d, block, row, column), block)


# ---------------------------------------------------------------- every position of the sliders


@dataclass
class States:
    """A set of sliders as :func:`ctxnet.atlas.states.measure_states` recorded it.

    Attributes:
        settings: ``networks`` (dicts of what is chosen), ``layers``, ``places``, ``cells`` and ``image_size``.
        png: the tiles, one line per network.
        numbers: dict of float arrays (networks, layers, places²), one for each column of ``states.csv``.
    """

    settings: dict
    png: bytes
    numbers: dict


def read_states(name, root="."):
    """The :class:`States` of "stack" or "context".

    Raises:
        ValueError: an unknown set, with the near ones.
        MissingRecord: not measured yet.
        BadRecord: a record that is damaged, or whose pictures and numbers do not belong together.
    """
    folder = Path(root) / "results" / "sliders" / require_known("set", name, FIRST)
    settings = read_measured(folder, COMMAND)["settings"]
    shape = len(settings["networks"]), len(settings["layers"]), settings["places"] ** 2
    with (folder / "states.csv").open(newline="", encoding="utf-8") as handle:
        header, *lines = csv.reader(handle)
    if tuple(header) != COLUMNS or len(lines) != np.prod(shape):
        raise BadRecord(f"{folder / 'states.csv'}: needs {np.prod(shape)} states with {', '.join(COLUMNS)}")
    png, cells = (folder / "tiles.png").read_bytes(), settings["cells"]
    with Image.open(io.BytesIO(png)) as image:
        if image.size != (shape[1] * shape[2] * cells, shape[0] * cells):
            raise BadRecord(f"{folder / 'tiles.png'}: {image.size[0]}×{image.size[1]} px, not {np.prod(shape)} tiles")
    columns = np.array(lines, dtype=float).T.reshape(len(COLUMNS), *shape)
    return States(settings, png, dict(zip(COLUMNS, columns, strict=True)))


def first_state(name, states):
    """(network, layer, place) with which a set opens: what :data:`FIRST` says, in the middle of the map."""
    chosen = {key: value for key, value in FIRST[name].items() if key != "layer"}
    places = states.settings["places"] ** 2
    return states.settings["networks"].index(chosen), states.settings["layers"].index(FIRST[name]["layer"]), places // 2


@figure("", alt=ALT)
def draw_still(name, root="."):
    """The state that a set opens with, from its record: what a page shows where no script runs."""
    states = read_states(name, root)
    at = network, layer, place = first_state(name, states)
    cells, size = states.settings["cells"], states.settings["image_size"]
    left = (layer * states.settings["places"] ** 2 + place) * cells
    with Image.open(io.BytesIO(states.png)) as image:
        levels = np.asarray(image.crop((left, network * cells, left + cells, (network + 1) * cells)).convert("L")) // 17
    levels = torch.from_numpy(levels.repeat(size // cells, 0).repeat(size // cells, 1).astype(int))
    effects = torch.tensor([0.0, 0.0, *EFFECTS])
    number = {key: float(values[at]) for key, values in states.numbers.items()}
    profile = SimpleNamespace(
        layers=[states.settings["layers"][layer]], rf=[levels > 0], erf=[effects[levels]], exact=[number["exact"]],
        center=[(number["center_row"], number["center_column"])], distance=[number["distance"]],
    )  # fmt: skip
    chosen = ", ".join(f"{value}" if key == "context" else f"{key} {value}" for key, value in FIRST[name].items() if value)
    return _draw(profile, chosen, number["rf_share"])


def page_data(name, root="."):
    """What the script of the sliders takes, a JSON-able dict of flat lists; states in the order of the record."""
    states = read_states(name, root)
    networks, layers = states.settings["networks"], states.settings["layers"]
    keys = [key for key in LABELS[name] if key != "layer"]
    values = {key: list(dict.fromkeys(net[key] for net in networks if net[key] is not None)) for key in keys}
    chosen = [[-1 if net[key] is None else values[key].index(net[key]) for key in keys] for net in networks]
    network, layer, place = first_state(name, states)
    values["layer"] = [text.removeprefix("relu") for text in layers]
    digits = {"rf_share": 4, "distance": 1, "center_row": 1, "center_column": 1, "exact": 0}
    scales = {"linear": EFFECTS, "logarithmic": [1 + np.log10(effect) / DECADES for effect in EFFECTS]}
    colours = {name: ["", *(to_hex(CONTEXT_MAP(float(value))) for value in (0, *scale))] for name, scale in scales.items()}
    return {
        "controls": [{"label": LABELS[name][key], "values": values[key], "list": key == "context"} for key in LABELS[name]],
        "networks": chosen,
        "first": [*(max(index, 0) for index in chosen[network]), layer],
        "place": place,
        "places": states.settings["places"],
        "cells": states.settings["cells"],
        "size": states.settings["image_size"],
        "states": {column: _short(states.numbers[column], places) for column, places in digits.items()},
        "colours": colours,
        "tiles": "data:image/png;base64," + base64.b64encode(states.png).decode(),
    }


def _short(values, digits):
    """Numbers of few digits, whole ones without a point."""
    return [int(value) if value == int(value) else value for value in np.round(values.ravel(), digits).tolist()]


def script(name, root="."):
    """The data of a set as a script, for a page that has ``sliders.js``."""
    return f'ctxnetSliders.add("{name}", {json.dumps(page_data(name, root), separators=(",", ":"), allow_nan=False)});\n'


class Sliders:
    """A set of sliders that shows itself in a notebook; its facts tell the site which set it is."""

    def __init__(self, name, root="."):
        self.name, self.root = name, root

    def markup(self):
        """What a page shows before its scripts run."""
        import jinja2

        still = draw_still(self.name, self.root)
        environment = jinja2.Environment(loader=jinja2.FileSystemLoader(BOOK / "pages"), autoescape=True)
        picture = figure_bytes(still, "png", 110)
        with Image.open(io.BytesIO(picture)) as image:
            width, height = image.size
        values = {"still": base64.b64encode(picture).decode(), "alt": still.facts["alt"], "width": width, "height": height}
        return environment.get_template("sliders.html.j2").render(name=self.name, **values)

    def _repr_mimebundle_(self, include=None, exclude=None):
        try:
            markup, data = self.markup(), script(self.name, self.root)
        except MissingRecord as missing:
            return {"text/markdown": f"Not measured yet: `{missing.command}`", "text/plain": missing.command}, {}
        style, code = ((BOOK / "static" / f"sliders.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
        page = f"<style>\n{style}</style>\n{markup}\n<script>\n{code}{data}</script>"
        return {"text/html": page, "text/plain": f"<sliders: {self.name}>"}, {"ctxnet": {"sliders": self.name}}


def stack_explorer(root="."):
    """Chapter 1: number of convolutions, kernel, dilation, stride and position; shows itself in a notebook."""
    return Sliders("stack", root)


def context_explorer(root="."):
    """Chapter 3: context block, k, d, network block and position; shows itself in a notebook."""
    return Sliders("context", root)
