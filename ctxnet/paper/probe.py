"""What the probe set tells of rows: which of them learned to look from one mark to the other.

The class is the bearing of one mark from another, so a row that never looks that far guesses: one in ten. Which rows do and
which do not is read from the records, by where their intervals lie.
"""

from pathlib import Path

from ctxnet.data.probe import CLASSES
from ctxnet.files import write_csv, write_text
from ctxnet.models.variants import VARIANTS
from ctxnet.paper import results, statistics
from ctxnet.paper.words import IMAGES_ONLY, ONE_SEED, Table, plain

CHANCE = 1 / len(CLASSES)
COLUMNS = ["variant", "architecture", "top1", "low", "high", "seeds", "n"]
NAME = "probe"


def is_probe(protocol, root="."):
    """Whether a protocol trains on the probe set."""
    return results.settings_of(protocol, root).dataset == "probe"


def accuracies(protocol, root="."):
    """Rows that have a record, the best first: dicts of :data:`COLUMNS`, accuracies as shares in 0…1.

    ``low``/``high``: 95 % interval over the validation images (Wilson) for one seed, over seeds and images for several.
    """
    records = results.load_records(protocol, root)
    lines = []
    for name, (images, right) in results.read_answers(protocol, VARIANTS, records, root).items():
        mean, low, high, _ = statistics.row_interval(right)
        values = (name, VARIANTS[name].label, mean, low, high, len(right), len(images))
        lines.append(dict(zip(COLUMNS, values, strict=True)))
    return sorted(lines, key=lambda line: (-line["top1"], line["variant"]))


def table(protocol, root="."):
    """The rows by accuracy on the probe set, each with its interval, and :func:`reading` below."""
    lines = accuracies(protocol, root)
    rows = [
        [f"`{line['variant']}`", line["architecture"], f"{100 * line['top1']:.1f}",
         f"{100 * line['low']:.1f}–{100 * line['high']:.1f}", str(line["seeds"])] for line in lines
    ]  # fmt: skip
    sizes = ", ".join(f"{n:,}" for n in sorted({line["n"] for line in lines}))
    caption = (
        f"Top-1 on {sizes} validation images of the probe set, protocol `{plain(protocol)}`: ten classes that only a network"
        f" can tell that looks {distance(protocol, root)} px far; guessing is right in {100 * CHANCE:.0f} %."
    )
    if any(line["seeds"] == 1 for line in lines):
        caption += f" {ONE_SEED.removeprefix(IMAGES_ONLY).strip()}"
    return Table(
        ["row", "what", "top-1 %", "95 % interval", "seeds"], rows, (2, 3, 4), caption=caption,
        after=reading(lines, distance(protocol, root)), shows=tuple(line["variant"] for line in lines),
        file=f"tables/{NAME}.csv",
    )  # fmt: skip


def distance(protocol, root="."):
    """Distance of the two marks in pixels."""
    from ctxnet.training import load_params

    return results.settings_of(protocol, root).dose or load_params(Path(root) / "params.yaml")["probe"]["distance"]


def reading(lines, far):
    """One sentence: which of :func:`accuracies` look ``far`` px, by where their whole interval lies.

    Above one half: in most images; above guessing, but not that: in some; else nothing tells the row from guessing.
    """
    parts = []
    for low, high, one, many, what in (
        (0.5, 1, "looks", "look", f"{far} px far in most images (interval above 50 %)"),
        (CHANCE, 0.5, "does", "do", f"so in some, above guessing ({100 * CHANCE:.0f} %) but not above 50 %"),
        (-1, CHANCE, "is", "are", "not told from guessing"),
    ):
        group = [f"{line['architecture']} ({100 * line['top1']:.0f} %)" for line in lines if low < line["low"] <= high]
        if group:
            rows = f"row {one}" if len(group) == 1 else f"rows {many}"
            parts.append(f"{len(group)} {rows} {what}: {', '.join(group)}")
    return f"By their intervals, {'; '.join(parts)}." if parts else "No row has a record, so there is nothing to read."


def write_probe(protocol, root="."):
    """Write ``tables/probe.csv`` and ``.md`` of a protocol that trains on the probe set; of another one, nothing."""
    if not is_probe(protocol, root):
        return
    folder = Path(root) / "results" / protocol / "tables"
    lines = accuracies(protocol, root)
    write_csv(folder / f"{NAME}.csv", COLUMNS, [[line[key] for key in COLUMNS] for line in lines])
    write_text(folder / f"{NAME}.md", table(protocol, root).markdown())
