"""Every architecture of timm, a row each: ``python -m ctxnet atlas "timm:*"``.

A row is what :func:`ctxnet.atlas.one.measure_architecture` gives, or why there is no such. Rows are appended to
``results/timm/networks.jsonl`` as they are made, smallest network first; the same command goes on from there.
"""

import fnmatch
import os
import re
import sys
from importlib import import_module, metadata
from pathlib import Path

from tqdm.auto import tqdm

from .. import provenance
from ..extras import require
from ..files import read_sealed, write_sealed
from ..locking import one_writer
from ..naming import unknown_name
from ..records import append_row, changes, read_table, tidy_table
from .children import Failure, in_children
from .one import IMAGES, LARGE, PROBES, RECIPE, SEED, SHOWN, count_parameters, describe, measure_architecture

FOLDER = Path("results") / "timm"
TABLE, REFERENCE = "networks.jsonl", "reference.json"
REFUSED = ("ValueError", "NotImplementedError", "TypeError")  # what the measures raise, with a reason a reader can use
SECONDS, GIGABYTES = 900, 8
_WAITING = Failure("waiting", "not measured yet")
_PREFIX, _UNITS = "timm:", {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}


def is_pattern(name):
    """Whether a name on the command line stands for many."""
    return any(sign in name for sign in "*?[")


def parse_count(text):
    """A number of parameters such as "100M", "1.5G", "250k" or "5000" as a whole number.

    Raises:
        ValueError: for anything else.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgb]?)", text.strip().lower())
    number = round(float(found[1]) * _UNITS[found[2]]) if found else 0
    if number < 1:
        raise ValueError(f"{text!r} is no number of parameters; write it as 100M, 1.5G or 250000")
    return number


def architectures(patterns=("timm:*",), imports=()):
    """Names of timm's architectures that match, each once, whatever weights there are for it; sorted.

    Args:
        patterns: shell patterns after ``timm:``, which may be left out.
        imports: modules that register models of their own with timm.

    Raises:
        ValueError: for a pattern that matches none, with the near names.
    """
    require("timm", user="architectures()")
    import timm

    for module in imports:
        import_module(module)
    known, found = timm.list_models(), set()
    for pattern in patterns:
        plain = pattern.removeprefix(_PREFIX)
        matched = fnmatch.filter(known, plain)
        if not matched:
            near = str(unknown_name("timm pattern", plain, known)) if re.sub(r"[*?\[\]]", "", plain) else ""
            hint = near.partition("; ")[2] if "did you mean" in near else f"{len(known)} are known: ctxnet atlas 'timm:*'"
            raise ValueError(f"no architecture of timm matches {plain!r}; {hint}")
        found.update(matched)
    return sorted(found)


def measure_every(
    patterns=("timm:*",), *, root=".", max_parameters=None, at_once=1, imports=(), retry=False, progress=True,
    seconds=SECONDS, gigabytes=GIGABYTES,
):  # fmt: skip
    """Measure all matching architectures of timm that have no row yet, the smallest first; nothing stops the others.

    Args:
        patterns, imports: as for :func:`architectures`.
        max_parameters: larger ones get a row that says so; None: no limit.
        at_once: networks side by side, one core each.
        retry: also measure those again whose row says why they could not be measured, or that their check found an error.
        seconds, gigabytes: what one network may take.

    Returns:
        dict from name to row, of all that match.

    Raises:
        ValueError: before any work, for a pattern that matches none.
        Busy: another process writes the table.
        DamagedRecord: a line of the table is not as it was written.
    """
    names = architectures(patterns, imports)
    folder = Path(root) / FOLDER
    with one_writer(folder):
        _keep_reference(folder)
        table, made = folder / TABLE, {"commit": (provenance.collect(root=root, device="cpu")["commit"] or "")[:12]}
        rows = read_table(table)
        todo = [name for name in names if _open(rows.get(name), max_parameters, retry)]
        limits = {"at_once": at_once, "imports": imports, "seconds": seconds, "gigabytes": gigabytes}
        shown = {"unit": "network", "disable": not progress, "mininterval": 1.0}
        counts = {name: rows[name]["parameters"] for name in todo if "parameters" in rows.get(name, {})}
        rest = [name for name in todo if name not in counts]
        counts |= dict(tqdm(in_children(count_parameters, rest, batch=50, **limits), "counting", len(rest), **shown))
        asked = []
        for name in sorted(todo, key=lambda name: (_size(counts[name]), name)):
            reason = _left_out(counts[name], max_parameters)
            if reason is None:
                asked.append(name)
            if name not in rows or reason is not None:  # from now on the table knows of every network that matches
                append_row(table, _refusal(name, counts[name], reason or _WAITING, made))
        with tqdm(desc="timm", total=len(asked), **shown) as bar:
            for name, result in in_children(measure_architecture, asked, **limits):
                if isinstance(result, Failure):
                    result = _refusal(name, counts[name], result, made)
                    tqdm.write(f"ctxnet: {name}: {result['why']}", file=sys.stderr)
                append_row(table, _versioned(result, made))
                bar.set_postfix_str(name, refresh=False)
                bar.update()
        tidy_table(table, lambda row: (row.get("parameters", 0), row["name"]))
        rows = read_table(table)
    return {name: rows[name] for name in names}


def read_networks(root="."):
    """All rows of timm's networks, {name: row}, smallest first; {} where nobody measured any.

    Raises:
        DamagedRecord: for a line that is not as it was written.
    """
    rows = read_table(Path(root) / FOLDER / TABLE)
    return dict(sorted(rows.items(), key=lambda item: (item[1].get("parameters", 0), item[0])))


def _open(row, max_parameters, retry):
    """Whether an architecture with this row is still to be measured."""
    if row is None or (row["recipe"], row["timm"]) != (RECIPE, metadata.version("timm")):
        return True
    if row.get("refused") == _WAITING.kind:
        return True
    if row.get("refused") == "large":
        return max_parameters is None or row["parameters"] <= max_parameters
    return retry and ("refused" in row or row["check"]["wrong"] > 0)


def _size(count):
    return sys.maxsize if isinstance(count, Failure) else count


def _left_out(count, max_parameters):
    if isinstance(count, Failure):
        return count
    if max_parameters is not None and count > max_parameters:
        return Failure("large", f"{count / 1e6:.1f} M parameters, more than {max_parameters / 1e6:g} M")
    return None


def _refusal(name, count, failure, made):
    """The row of a network without measurement; ``refused`` says by whom or what."""
    about = describe(name)
    row = {"name": name, "family": about["family"], "size": max(about["shape"][1:])}
    row |= {"refused": "measures" if failure.kind in REFUSED else failure.kind, "why": failure.why[:200]}
    if not isinstance(count, Failure):
        row["parameters"] = count
    return _versioned(row, made)


def _versioned(row, made):
    return row | {"recipe": RECIPE, "timm": metadata.version("timm"), "made": row.get("made", {}) | made}


def _keep_reference(folder):
    """Rows belong to what the measures compute: what they give for one small network lies beside the table.

    Where they give something else now, the table is put aside under another name, and a new one is begun.
    """
    from .records import _reference  # what every record of the atlas is known by

    settings = {"recipe": RECIPE, "seed": SEED, "images": IMAGES, "large": LARGE, "probes": PROBES, "shown": SHOWN}
    key, path, table = {"settings": settings, "trace": _reference()}, folder / REFERENCE, folder / TABLE
    reason = changes(read_sealed(path), key) if path.exists() else "no reference" if table.exists() else None
    if reason and table.exists():
        number = 1 + len(list(folder.glob("superseded-*.jsonl")))
        os.replace(table, folder / f"superseded-{number}.jsonl")
        print(f"{table}: {reason}; the earlier rows are kept in superseded-{number}.jsonl", file=sys.stderr)
    if reason != "":
        write_sealed(path, key)
