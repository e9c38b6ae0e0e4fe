"""What the chapters on records of their own (6 to 9) have in common: plans, contrasts as lines, and words for both."""

import math
from pathlib import Path

import pandas as pd

from ctxnet.models.variants import VARIANTS
from ctxnet.paper import results, words
from ctxnet.paper.contrasts import load_hypotheses, replicates_needed
from ctxnet.training import load_params, rows_of

CONTRAST_COLUMNS = ["contrast", "text", "kind", "cells", "estimate", "low", "high", "p", "p_holm", "p_against",
                    "margin", "n", "most", "planned", "looked", "waits_for", "verdict", "needed"]  # fmt: skip


def planned(protocol, root=".", known=VARIANTS):
    """(rows, seeds) that a protocol is to train: of the rows in ``params.yaml`` those among ``known``, in their order."""
    settings = results.settings_of(protocol, root)
    rows = rows_of(settings, load_params(Path(root) / "params.yaml"))
    return [row for row in rows if row in known], settings.seeds


def hypotheses(protocol, root="."):
    """Those of a protocol, in the order in which they stand in ``hypotheses.yaml``."""
    return [one for one in load_hypotheses(Path(root) / "hypotheses.yaml") if one.protocol == protocol]


def in_order(lines, columns, rows):
    """A DataFrame of lines in the order of ``rows``, then of the keys that follow ``row``, up to ``seed``."""
    keys = columns[: columns.index("seed") + 1]
    by = {row: number for number, row in enumerate(rows)}
    return pd.DataFrame(lines, columns=columns).sort_values(
        keys, key=lambda column: column.map(by) if column.name == "row" else column, ignore_index=True
    )


def contrast_line(one, p_holm, tests, formula):
    """A tested hypothesis as a dict of :data:`CONTRAST_COLUMNS`; NaN where it is not tested or has none.

    Args:
        one, p_holm: as :func:`ctxnet.paper.contrasts.family` gives them; ``tests``: how many it gave.
        formula: {row: weight} to text, for ``cells``.

    ``n`` and ``most`` are the replicates of the cell with the fewest and with the most, ``waits_for`` is the former's row,
    ``looked`` the replicates that were tested; ``needed`` is known for what is not shown
    (:func:`ctxnet.paper.contrasts.replicates_needed`).
    """
    about, verdict = one.hypothesis, one.verdict(p_holm)
    line = {"contrast": about.name, "text": about.text, "kind": about.kind, "cells": formula(about.cells)}
    line |= {key: getattr(one, key) for key in ("estimate", "low", "high", "p")} | {"p_holm": p_holm}
    line |= {"p_against": one.p_against, "margin": about.margin or math.nan}
    line |= {"n": min(one.counts.values()), "most": max(one.counts.values())}
    line |= {"planned": about.replicates, "looked": one.looked, "waits_for": one.waits_for, "verdict": verdict}
    return line | {"needed": replicates_needed(one, tests) if verdict == "not shown" else math.nan}


# ---- in words ---------------------------------------------------------------------------------------------------------


def progress(who, done, rows, seeds, command, *, times=1, where="", after=""):
    """How many of the planned runs of ``who`` are there, and how to make the others: one paragraph of Markdown.

    Args:
        rows, seeds: those planned, in each of ``times`` protocols.
        where: a sentence on which of them are there; after: more to say of what is missing.
    """
    every = len(rows) * len(seeds) * times
    text = f"{who}: {done} of {every} runs are there ({len(rows)} row{'s' * (len(rows) != 1)}, {len(seeds)} seeds)."
    if done == every:
        return text
    text += f" {where}" if where else ""
    return text + f" Make the others with `{command}`, which takes up where it stopped{after}."


def named(line):
    """Name of a contrast, what it claims and its cells, as a cell of a table."""
    name = words.plain(line["contrast"].replace("_", " "))
    return f"**{name}**: {words.plain(line['text'])}<br><small>`{line['cells']}`</small>"


def margin(line):
    return "–" if words.unknown(line["margin"]) else f"±{line['margin']:g}"


def contrast_columns(of):
    """What tables of contrasts have in common, for :func:`ctxnet.paper.words.filled`; ``of`` as for :func:`verdict`."""
    return {
        "contrast": named, "estimate": "{estimate:+.2f}",
        "95 % interval": lambda line: words.between(line["low"], line["high"]),
        "p": p_cell, "margin": margin, "n": "{n} of {planned}", "verdict": lambda line: verdict(line, of),
    }  # fmt: skip


def p_cell(line):
    """p of a contrast as a cell of a table; that of the contrary where that is what was shown."""
    if line["verdict"] == "refuted":
        return f"{words.p_text(line['p_against'])}, contrary"
    return words.p_text(line["p_holm"])


def verdict(line, of):
    """A verdict with what is missing; ``of``: what has replicates, "cell" or "row"."""
    if line["verdict"].startswith("open"):
        looked = f"; the look at {line['looked']} settled nothing" if line["looked"] else ""
        return f"**open**: `{line['waits_for']}` has {line['n']} of {line['planned']}{looked}"
    if line["verdict"] == "not shown":
        if words.unknown(line["margin"]) and line["estimate"] <= 0:
            return "**not shown**; the estimate points the other way"
        return f"**not shown**; it would take {words.how_many(line['needed'])} replicates of each {of}"
    return f"**{line['verdict']}**"


def story(frame, of):
    """The contrasts that have been tested so far, in their own words and with what came of them, as a Markdown list.

    Args:
        frame: of :data:`CONTRAST_COLUMNS`; ``of`` as for :func:`verdict`.
    """
    tested = [line for line in frame.to_dict("records") if not words.unknown(line["estimate"])]
    lines = [f"- {words.plain(line['text'])} {came_of(line, of)}" for line in tested]
    return "\n".join(lines) or "None of them has had as many replicates as its first look needs."


def came_of(line, of):
    """Verdict and numbers of a contrast, as what ends a sentence; ``of`` as for :func:`verdict`."""
    return f"{verdict(line, of)}{numbers(line)}."


def numbers(line):
    """Estimate, interval, p and the replicates they rest on of a contrast that has been tested, in brackets; else ""."""
    if words.unknown(line["estimate"]):
        return ""
    p = words.p_said(line["p_holm"])
    if line["verdict"] == "refuted":
        p = f"{words.p_said(line['p_against'])} for the contrary"
    between = f"95 %: {words.between(line['low'], line['high'])}; {p}, Holm; n = {line['looked']}"
    return words.minus(f" ({line['estimate']:+.2f} points, {between})")
