"""Figures: one registry. A figure is a function with its facts; a notebook shows it, and the facts travel with the output.

    @figure("4.1", caption="Mean distance …", alt="Two line charts …", shows=("resnet50",), rests_on=("measure",))
    def distances(protocol, root="."):
        return fig

A function takes ``protocol`` and ``root`` if it needs them. A figure without a number is not in the registry: it is called
by its name, and its text alternative may use its arguments, as in ``alt="{name}: …"``. If a record is missing without which
nothing can be drawn (:class:`ctxnet.paper.results.MissingRecord`), the figure says how to make it.
"""

import functools
import importlib
import inspect
import pkgutil
from pathlib import Path

from ctxnet.files import write_bytes
from ctxnet.naming import require_known
from ctxnet.paper.figures.style import missing_panel, new_figure, styled
from ctxnet.paper.results import MissingRecord, natural

LARGEST_SVG = 200_000  # bytes; a larger drawing, or one with pixels inside, is kept as PNG
FIGURES = {}


def figure(number, *, caption="", alt, shows=(), rests_on=(), networks=""):
    """Register a drawing function, and let what it returns carry its facts.

    Args:
        number: its place in the registry; "": none.
        caption, alt: below the picture, and in its place for readers who cannot see it; plain text with `code` marked.
        shows: rows whose networks, as the protocol at hand trained them, are in it.
        rests_on: further records in it: names of :data:`ctxnet.paper.book.made.RECORDS`.
        networks: which networks were drawn, in words; "": what ``shows`` and ``rests_on`` say.
    """
    facts = {"number": number, "caption": caption, "alt": alt, "shows": list(shows), "rests_on": list(rests_on)}

    def register(draw):
        @functools.wraps(draw)
        @styled
        def drawn(*args, **kwargs):
            known = True
            try:
                fig = draw(*args, **kwargs)
            except MissingRecord as missing:
                known = False
                fig = new_figure(height=0.8)
                missing_panel(fig.subplots(), missing.command)
            given = inspect.signature(draw).bind(*args, **kwargs)
            given.apply_defaults()
            fig.facts = facts | {
                "alt": alt if number else alt.format(**given.arguments),
                "networks": networks or _networks(facts, given.arguments.get("protocol"), given.arguments.get("root", ".")),
                "drawn": known,
                "points": [round(72 * float(side), 1) for side in fig.get_size_inches()],
            }
            return fig

        drawn.facts = facts
        if number:
            FIGURES[number] = drawn
        return drawn

    return register


def _networks(facts, protocol, root):
    titles = [initial_title(root)] if "measure" in facts["rests_on"] else []
    return "; ".join(titles + ([trained_title(protocol, root)] if facts["shows"] and protocol else []))


def initial_title(root="."):
    """Of the networks of ``results/measure``."""
    from ctxnet.training import load_measure

    return f"full size, {load_measure(Path(root) / 'params.yaml').image_size} px, at initialisation"


def trained_title(protocol, root="."):
    """Of the networks that a protocol trained."""
    from ctxnet.training import load_measure, load_protocol

    path = Path(root) / "params.yaml"
    full, own = load_measure(path), load_protocol(protocol, path)
    width = "" if own.width == full.width else f", width ×{own.width / full.width:g}"
    return f"trained, {protocol} ({own.image_size} px{width})"


def known_figures():
    """The registry with every figure of this package and of the schematics, in the order of their numbers."""
    from ctxnet.paper import figures, schematics

    for package in (figures, schematics):
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{package.__name__}.{module.name}")
    return dict(sorted(FIGURES.items(), key=lambda item: natural(item[0])))


def show(number, protocol="small", root=".", *, save=False):
    """Draw figure ``number`` and return it; with ``save`` also write it into ``results/<protocol>/figures``, as one file.

    Raises:
        ValueError: for an unknown number, with the near ones.
        BadRecord: for a record that cannot be right. One that is missing is not an error: the figure says how to make it.
    """
    if number not in FIGURES:
        require_known("figure", number, known_figures())
    draw = FIGURES[number]
    wanted = inspect.signature(draw).parameters
    drawn = draw(**{key: value for key, value in {"protocol": protocol, "root": root}.items() if key in wanted})
    if save:
        stem = Path(root) / "results" / protocol / "figures" / f"figure_{number.replace('.', '_')}"
        kind, data = one_file(drawn)
        for other in {"svg", "png"} - {kind}:
            stem.with_suffix(f".{other}").unlink(missing_ok=True)
        write_bytes(stem.with_suffix(f".{kind}"), data)
    return drawn


def one_file(drawn):
    """("svg" or "png", bytes): the form in which a figure is kept."""
    data = drawn.svg()
    return ("svg", data) if is_small_drawing(data) else ("png", drawn.png())


def is_small_drawing(svg):
    """Whether a drawing is better kept as SVG than as PNG: not if it holds pixels or a great many lines."""
    return 0 < len(svg) <= LARGEST_SVG and b"<image" not in svg
