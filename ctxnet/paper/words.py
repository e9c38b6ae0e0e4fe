"""Numbers as text: the one type of table, and the sentences around the tables. Every number comes from :mod:`.results`.

What a record, a setting or the name of a folder says is data: it enters a text through :func:`plain`, which strips it of any
meaning as Markdown or HTML.
"""

import contextlib
import csv
import dataclasses
import html
import math
import re
import string
from dataclasses import dataclass
from pathlib import Path

from ctxnet.files import write_csv, write_text
from ctxnet.models.variants import VARIANTS
from ctxnet.naming import require_known
from ctxnet.paper import results, statistics
from ctxnet.paper.results import BASELINE, OWN_RECIPE, TABLES, MissingRecord, load_records, make_command

IMAGES_ONLY, SIGNIFICANT = "†", "*"  # signs in the cells, with OWN_RECIPE; explained by legend()
ONE_SEED = f"{IMAGES_ONLY} One seed: the interval covers the choice of images and nothing else."
DATASETS = {
    "imagenette": "Imagenette",
    "probe": "the probe set of this repository",
    "pathfinder": "Pathfinder as this repository draws it",
}


@dataclass(frozen=True)
class Table:
    """A table as it is read: text cells, which are Markdown.

    In a notebook it shows itself, and its facts travel with the output's metadata to the pages of the book.

    Attributes:
        header, rows: cells; ``numbers``: indices of the columns that are aligned to the right.
        number: "4.1", or "" for a table without one. caption stands above, after below.
        shows: rows whose trained networks it is about; rests_on: other records (:data:`ctxnet.paper.book.made.RECORDS`).
        file: the same as numbers, relative to the results of the protocol.
    """

    header: list
    rows: list
    numbers: object = ()
    number: str = ""
    caption: str = ""
    after: str = ""
    shows: tuple = ()
    rests_on: tuple = ()
    file: str = ""

    def markdown(self):
        align = ["--:" if i in self.numbers else ":--" for i in range(len(self.header))]
        lines = ["| " + " | ".join(cells) + " |" for cells in (self.header, align, *self.rows)]
        above = f"**Table {self.number}.** {self.caption}" if self.number else self.caption
        return "\n\n".join(part for part in (above, "\n".join(lines) if self.rows else "", self.after) if part) + "\n"

    def _repr_mimebundle_(self, include=None, exclude=None):
        facts = {"table": self.number, "shows": list(self.shows), "rests_on": list(self.rests_on), "file": self.file}
        text = self.markdown()
        return {"text/markdown": text, "text/plain": text}, {"ctxnet": facts}


# ---- cells ------------------------------------------------------------------------------------------------------------


def plain(text):
    """``text`` on one line, without any meaning as Markdown or HTML."""
    escaped = html.escape(" ".join(str(text).split()), quote=False)
    return re.sub(r"([|`*_\[\]\\$])", r"\\\1", escaped)


def without_runs(missing, every, command):
    """A sentence below a table that leaves out the rows without a run; "" if there are none.

    Args:
        missing, every: how many rows are left out, of how many.
        command: what makes their runs.
    """
    if not missing:
        return ""
    which = "No row has a run yet" if missing == every else f"{missing} of {every} rows have no run yet and are left out"
    return f"{which}; make them with `{command}`."


def unknown(value):
    """Whether a cell is NaN, that is: there is no such number."""
    return isinstance(value, float) and math.isnan(value)


def minus(text):
    """``text`` with typographic minus signs before numbers; the hyphen of ResNet-50 stays."""
    return re.sub(r"(?<!\w)-(?=\d)", "−", text)


def or_dash(value, form):
    """A number in a form, with a typographic minus, which zero has not; "–" for NaN."""
    if unknown(value):
        return "–"
    text = format(value, form)
    return minus(text if text.strip("-0.") else format(abs(value), form))


class _Cell(string.Formatter):
    def format_field(self, value, form):
        return value if isinstance(value, str) else or_dash(value, form)


def filled(columns, lines):
    """Header and rows of a :class:`Table`: ``columns`` is {header: cell}, ``lines`` are dicts.

    A cell is a function of the line, or a format string over its keys with numbers as by :func:`or_dash`: "{n} of {most}".
    """

    def text(cell, line):
        return cell(line) if callable(cell) else _Cell().vformat(cell, (), line)

    return list(columns), [[text(cell, line) for cell in columns.values()] for line in lines]


def span(values, form=""):
    """Smallest and largest of some numbers in text: "3–6", or one of them where they read alike."""
    return "–".join(dict.fromkeys(format(end, form) for end in (min(values), max(values))))


def points(share, form="+.2f"):
    """A share as percentage points in text; "–" for NaN."""
    return or_dash(100 * share, form)


def p_text(p):
    """A p-value in text: two digits, "< 0.001", "–" for NaN."""
    return "–" if unknown(p) else "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def how_many(needed):
    """A number of seeds or replicates that something would take."""
    return f"about {needed:.0f}" if needed <= statistics.MOST_SEEDS else f"over {statistics.MOST_SEEDS}"


def p_said(p):
    """A p-value within a sentence: "p = 0.020", "p < 0.001"."""
    text = p_text(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def setting_text(value):
    """A setting of a protocol as a reader sees it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "–"
    return f"{value:g}" if isinstance(value, float) else plain(value) if value != "" else "–"


def versions(origin):
    """The versions that a provenance names, in one line."""
    return ", ".join(f"{name} {version}" for name, version in sorted((origin.get("versions") or {}).items()) if version)


def dataset(settings):
    """The data set's name; of a path its last part, which says enough and names no machine."""
    return settings.dataset if settings.dataset in DATASETS else Path(settings.dataset).name


def between(low, high, form="+.2f"):
    """An interval with signs, in text: "+0.10 to +0.52"; "–" for NaN."""
    return "–" if unknown(low) else f"{or_dash(low, form)} to {or_dash(high, form)}"


def interval(line, form=".1f"):
    """``low`` and ``high`` of a line in text, with a sign where they do not cover seeds (``interval_over``); "–" for NaN."""
    if unknown(line["low"]):
        return "–"
    sign = f" {IMAGES_ONLY}" if line["interval_over"] in ("images", "frames") else ""
    return f"{line['low']:{form}}–{line['high']:{form}}{sign}"


def one_seed(frame):
    """What the sign of :func:`interval` means, where a line of ``frame`` has it over images, as the end of a caption."""
    return f" {ONE_SEED}" if (frame["interval_over"] == "images").any() else ""


def write_frames(home, frames):
    """Write DataFrames as CSV, ``{path below home: frame}``: six digits, nothing for NaN.

    Returns:
        ``tables`` in the folder ``home``, where these files lie.
    """
    for name, frame in frames.items():
        write_csv(Path(home) / name, list(frame.columns), [list(map(written, row)) for row in frame.values.tolist()])
    return Path(home) / "tables"


def written(value):
    """A value as a CSV has it: six digits, nothing for NaN."""
    return "" if unknown(value) else round(value, 6) if isinstance(value, float) else value


# ---- tables 4.1 and following -----------------------------------------------------------------------------------------


def table(number, protocol, root="."):
    """:func:`results.table`, with own recipes, as a :class:`Table`; without a row in this protocol it has no lines."""
    return _table(number, protocol, results.with_own_recipes(number, protocol, root))


def _table(number, protocol, frame):
    if frame.empty:
        return Table([], [], caption=f"Protocol `{protocol}` has no row of its own that another table does not show."
                     if number == results.OWN else f"Protocol `{protocol}` has no row of Table {number}.")  # fmt: skip
    missing, after = list(frame.loc[frame["top1"].isna(), "variant"]), ""
    if missing:
        command = make_command(protocol, missing[0] if len(missing) == 1 else None)
        after = f"No record yet: {', '.join(missing)}. Make it with `{command}`."
    if frame["blind"].isna().all():
        after += f" Shares of blind weights are not measured yet; `{results.wiring_command(protocol)}`."
    header, rows = cells(frame, protocol)
    return Table(
        header, rows, range(1, len(header)), "" if number == results.OWN else number,
        f"{caption(number, protocol, frame)} {legend(frame)}", after.strip(), shows=tuple(frame["variant"]),
        file=f"tables/{_stem(number)}.csv",
    )  # fmt: skip


def _stem(number):
    return f"table_{number.replace('.', '_')}"


def cells(frame, protocol):
    """What :func:`results.table` returned, as text cells: (header, rows); with the thesis' columns if it has a number."""
    thesis = frame["thesis_top1"].notna().any()
    columns = {
        "architecture": "{architecture}", "thesis %": "{thesis_top1:.2f}", f"{protocol} %": "{top1:.2f}",
        "95 % interval": interval, "s.d.": "{sd_points:.1f}", "seeds": "{seeds}",
        "Δ thesis": lambda line: _difference(line, "thesis_difference_points"),
        f"Δ {protocol}": lambda line: _difference(line, "difference_points", line["p_holm"]),
        "params M": "{parameters_million:.3f}", "thesis M": "{thesis_parameters_million:.1f}", "blind %": _blind,
    }  # fmt: skip
    if not frame["blind"].notna().any():
        del columns["blind %"]
    if not thesis:
        columns = {name: cell for name, cell in columns.items() if not re.search(r"\bthesis (%|M)|Δ thesis$", name)}
    return filled(columns, frame.to_dict("records"))


def _blind(line):
    low, mean, high = (100 * line[key] for key in ("blind_low", "blind", "blind_high"))
    return or_dash(mean, ".0f") + (f" ({low:.0f}–{high:.0f})" if high - low >= 0.5 else "")


def blind_table(root="."):
    """:func:`results.blind` as a :class:`Table`: the rows of which more than half a percent is blind at any size."""
    frame = results.blind(root)
    settings = {name: results.settings_of(name, root) for name in results.SIZES if frame[name].notna().any()}
    frame = frame[(frame[list(settings)] > 0.005).any(axis=1)]
    columns = {"architecture": "{architecture}"}
    for name, chosen in settings.items():
        head = f"`{name}`, {chosen.image_size} px{', offsets scaled' if chosen.scale_offsets else ''}"
        columns[head] = lambda line, name=name: or_dash(100 * line[name], ".0f")
    caption = (
        "Share of the weights of a network's convolutions that see nothing but padding, in percent, before training; means "
        "over draws of positions. Scaled: with the map, as from 224 px. Rows that are not here have half a percent or less."
    )
    missing = " && ".join(results.wiring_command(name) for name in results.SIZES if name not in settings)
    after = f"Not measured yet: `{missing}`." if missing else ""
    return Table(*filled(columns, frame.to_dict("records")), range(1, len(columns)), caption=caption, after=after)


def _difference(line, key, p=math.nan):
    if line["variant"] == BASELINE:
        return ""  # to itself it says nothing
    return or_dash(line[key], "+.2f") + (f" {SIGNIFICANT}" if p <= statistics.LEVEL else "")


def caption(number, protocol, frame):
    """Title, how to read the columns, and the notes of one table, as one paragraph."""
    title, note = TABLES.get(number, (f"Rows of table {number}", ""))
    thesis = frame["thesis_top1"].notna().any()
    where = "in the thesis and, as mean over seeds, in" if thesis else "as mean over seeds in"
    to = "the same column's ResNet-50" if thesis else "ResNet-50"
    how = f"{title}: top-1 on the validation set {where} protocol `{protocol}`; Δ in points to {to}; "
    return f"{how}parameters without classifier. {note if thesis else ''}".strip()


def legend(frame):
    """What the signs in a table's cells mean, as far as they apply to ``frame``."""
    sizes = ", ".join(f"{size:,.0f}" for size in frame["n"].dropna().unique())
    text = [f"{sizes} images."] if sizes else []
    if (frame["interval_over"] == "images").any():
        text.append(ONE_SEED)
    own = [name.partition(":")[0] for name in frame["variant"] if ":" in name]
    if own:
        text.append(
            f"{OWN_RECIPE} AdamW, warm-up and cosine schedule, which the network's own recipe has too; all else is as in "
            f"the other lines, so none of its augmentation, regularisation and hundreds of epochs (protocol `{own[0]}`)."
        )
    if (frame["interval_over"] == "seeds and images").any():
        text.append("Intervals of several seeds cover seeds and images.")
    tests = int(frame["tests"].max())
    if frame["p"].notna().any():
        clear = (frame["p_holm"] <= statistics.LEVEL).any()
        text.append(
            (f"{SIGNIFICANT} differs" if clear else "No row with three seeds is shown to differ")
            + " from ResNet-50: Welch's t over seeds and images, 5 % after Holm's correction for "
            f"{tests} test{'s' if tests > 1 else ''} in all tables of this protocol."
        )
    elif frame["top1"].notna().any():
        text.append(f"No difference is tested: that takes {statistics.MIN_SEEDS} seeds of a row and of ResNet-50.")
    return " ".join([*text, *_about_blind(frame)])


def _about_blind(frame):
    """What the column "blind %" means, and which rows it speaks against: sentences."""
    if not frame["blind"].notna().any():
        return []
    text = ["Blind: share of the weights of convolutions that see nothing but padding at this size, with its range over "
            "three draws where random positions move it."]  # fmt: skip
    lines = frame[frame["blind"] > results.BLIND].to_dict("records")
    if lines:
        named = "; ".join(f"{line['architecture']}, {100 * line['blind']:.0f} %" for line in lines)
        text.append(f"**More than {100 * results.BLIND:.0f} % of the weights are blind** in {named}: what such a row gains "
                    "or loses is in part an effect of zero padding, not of its context.")  # fmt: skip
    return text


def write_tables(protocol, root=".", home=None):
    """Write ``table_4_1.csv`` and ``.md`` … into ``tables`` in the folder ``home``; returns that.

    ``home`` is ``results/<protocol>`` unless given.
    """
    folder = Path(home or Path(root) / "results" / protocol) / "tables"
    for number in results.tables_shown(protocol, root):
        frame = results.with_own_recipes(number, protocol, root)
        values = [[_kept(key, line[key]) for key in results.COLUMNS] for line in frame.to_dict("records")]
        write_csv(folder / f"{_stem(number)}.csv", results.COLUMNS, values)
        write_text(folder / f"{_stem(number)}.md", _table(number, protocol, frame).markdown())
    return folder


def _kept(key, value):
    """A value as a table's CSV has it: accuracies with two digits, millions with three, nothing for NaN."""
    digits = dict.fromkeys(("top1", "low", "high", "sd_points", "difference_points"), 2) | {"parameters_million": 3}
    return "" if unknown(value) else round(value, digits[key]) if key in digits else value


def overview(protocol, root="."):
    """Every row of every table once, as Markdown with a line on its signs: what README shows."""
    columns = {
        "network": lambda line: f"`{line['variant'].rpartition(':')[2]}`", "what": "{architecture}",
        "params M": "{parameters_million:.1f}", "thesis %": "{thesis_top1:.2f}", f"{protocol} %": "{top1:.1f}",
        "95 % interval": interval, "seeds": "{seeds}",
    }  # fmt: skip
    lines = {}
    for number in results.tables_shown(protocol, root):
        lines |= {line["variant"]: line for line in results.with_own_recipes(number, protocol, root).to_dict("records")}
    if all(unknown(line["thesis_top1"]) for line in lines.values()):
        del columns["thesis %"]
    header, rows = filled(columns, lines.values())
    signs = "".join(cell for row in rows for cell in row)
    after = [ONE_SEED] if IMAGES_ONLY in signs else []
    after += [f"{OWN_RECIPE} AdamW, warm-up and cosine schedule instead of the thesis' SGD."] if OWN_RECIPE in signs else []
    return Table(header, rows, range(2, len(header)), after=" ".join(after)).markdown().rstrip()


def write_overview(path, protocol, root="."):
    """Renew what a Markdown file says of records: the table between the lines ``<!-- table: rows -->`` and ``<!-- end -->``,
    and everywhere ``<!-- minutes: small -->…<!-- end -->`` with a name of :data:`SAID` and its protocol.

    Raises:
        ValueError: if the file has no place for the table, or a protocol of which minutes are told has no records.
    """
    try:
        text = Path(path).read_bytes().decode()
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not UTF-8; save the file in that encoding") from None
    before, start, rest = text.partition("<!-- table: rows -->\n")
    _, end, after = rest.partition("<!-- end -->")
    if not end:
        raise ValueError(f"{path}: no lines '<!-- table: rows -->' and '<!-- end -->' to write between")
    text = before + start + overview(protocol, root) + "\n" + end + after
    said = re.compile(rf"(<!-- ({'|'.join(SAID)}): ([\w-]+) -->)(?:(?!<!--).)*", re.S)  # "p < 0.001" is no end
    write_text(path, said.sub(lambda match: match[1] + SAID[match[2]](match[3], root), text))


def _minutes(protocol, root):
    spent = results.minutes(protocol, root).values()
    if not spent:
        raise ValueError(f"{protocol}: no seed that every row has, so nothing to tell of its minutes")
    return span(spent, ".0f")


def _claims(protocol, root):
    from ctxnet.paper import claims

    return f"\n\n{claims.summary(protocol, root)}\n\n"


def _size(protocol, root):
    settings = results.settings_of(protocol, root)
    return f"{settings.image_size} px with {settings.width} of 64 first-stage channels for {settings.epochs} epochs"


def _story(name, root):
    from ctxnet.paper import coherence, dense, pays, reach

    told = {"context": coherence.story, "dense": dense.story, "pays": pays.story, "probe": reach.story}
    return f"\n\n{told[require_known('story', name, told)](root)}\n\n"


# What :func:`write_overview` can say within a text: ``(protocol, root)`` to Markdown.
SAID = {
    "minutes": _minutes, "claims": _claims, "size": _size, "story": _story,
    "seeds": lambda protocol, root: span(results.independent_runs(protocol, root)["variant"].value_counts()),
    "millions": lambda row, root: f"{results.parameters_million(row):.1f} M",
    "networks": lambda folder, root: str(len(list(Path(root).glob(f"results/{folder}/*/record.json")))),
}  # fmt: skip


def context_table(protocol, root="."):
    """:func:`results.context` as a :class:`Table`."""
    def share(key):
        return lambda line: "–" if unknown(line[key]) else f"{100 * line[key]:.1f} %"

    columns = {
        "architecture": "{architecture}",
        "whole image from block": lambda line: "never" if line["covered"] == 0 else or_dash(line["covered"], ".0f"),
        "block 1, initial": share("initial_1"), "last, initial": share("initial_last"),
        f"block 1, {protocol}": share("trained_1"), f"last, {protocol}": share("trained_last"),
    }  # fmt: skip
    frame = results.context(protocol, root)
    cells = filled(columns, frame.to_dict("records"))
    return Table(*cells, range(1, 6), shows=tuple(frame["variant"]), rests_on=("measure",))


# Settings that say where and how a campaign runs, and nothing of what; seeds are those of the tables.
PLACES = ("threads", "gpu_share", "memory_gb", "device", "workers", "seeds", "compile", "cuda_graph", "validate_every",
          "maps")  # fmt: skip


def settings_table(protocol, root="."):
    """The settings of a protocol beside those of the thesis, as a :class:`Table`."""
    from ctxnet.training import load_params

    known = load_params(Path(root) / "params.yaml")["protocols"]
    names = [name for name in dict.fromkeys(["thesis", protocol]) if name in known]
    settings = [results.settings_of(name, root) for name in names]
    columns = [dataclasses.asdict(each) | {"dataset": dataset(each)} for each in settings]
    keys = [key for key in columns[0] if key not in ("name", "note", *PLACES)]
    on = [key for key in keys if any(settings[key] for settings in columns)]
    rows = [[key.replace("_", " "), *(setting_text(settings[key]) for settings in columns)] for key in on]
    after = "Settings that are off in all columns are left out."
    return Table(["setting", *names], rows, range(1, len(names) + 1), after=after)


# ---- sentences --------------------------------------------------------------------------------------------------------


def status(protocol, root="."):
    """How many rows of a protocol have a record, and how to make those of the others."""
    rows, runs = results.rows_shown(protocol, root), load_records(protocol, root)
    missing = results.missing_variants(protocol, rows, root)
    text = f"Protocol `{protocol}`: {len(runs)} finished runs; {len(rows) - len(missing)} of {len(rows)} rows have a record."
    if missing:
        text += f" Not there yet: {', '.join(missing)}. Make them with `{make_command(protocol)}`."
    return text


def cost(chapter, root="."):
    """What running a chapter takes, as ``python -m benchmarks.notebooks`` measured it: a sentence."""
    path = Path(root) / "results/benchmarks/notebooks-cpu.csv"
    with contextlib.suppress(FileNotFoundError), path.open(newline="") as handle:
        for line in csv.DictReader(handle):
            if line["notebook"] == chapter:
                seconds, memory = float(line["CPU s"]), float(line["peak GiB"])
                where = plain(line["machine"].partition(",")[0])
                return f"*To run it: {seconds:.0f} s of one core and {memory:.1f} GiB of memory ({where}).*"
    return f"*To run it: not measured yet; `python -m benchmarks.notebooks {chapter}`.*"


def about_hrnet(protocol, root="."):
    """How much of HRNet a protocol narrows: its head has a width of its own, which timm fixes."""
    import torch

    from ctxnet.models import count_parameters, create_model

    settings = results.settings_of(protocol, root)
    with torch.device("meta"):
        model = create_model("hrnet_w18", width=settings.width, scale_head=settings.scale_offsets)
    parts = [getattr(model, name) for name in ("incre_modules", "downsamp_modules", "final_layer")]
    head = sum(parameter.numel() for part in parts for parameter in part.parameters())
    whole = f"HRNet as `{protocol}` trains it has {count_parameters(model) / 1e6:.1f} M parameters without the classifier, "
    return whole + f"{head / 1e6:.1f} M of them in its head, " + (
        "which is narrowed like the rest." if settings.scale_offsets else
        f"which timm makes as wide for every HRNet: width {settings.width} of 64 is that of the rest alone."
    )  # fmt: skip


def reading_notes(protocol, root="."):
    """What a reader must know before comparing numbers: sentences in which `code` is marked as in Markdown."""
    settings, records = results.settings_of(protocol, root), load_records(protocol, root)
    rows, notes = results.rows_shown(protocol, root), []
    seeds = records["variant"].value_counts()
    enough = list(seeds.index[seeds >= statistics.MIN_SEEDS].sort_values())
    if len(enough) < len(rows):
        few = "One seed per row" if len(seeds) and seeds.max() == 1 else f"Fewer than {statistics.MIN_SEEDS} seeds"
        few += f" for all rows but {', '.join(enough)}" if enough else ""
        notes.append(
            f"{few}: training again with another seed moves a row by an amount that one run cannot show, so a difference "
            "between such rows carries no verdict about an architecture. Where a row has one seed, its interval is over "
            "validation images only."
        )
    size = _size(protocol, root)
    general = f"Trained on {dataset(settings)} at {size}; no number of the thesis stands beside these."
    if results.has_thesis_numbers(settings):
        general = (
            f"The thesis trained full-width networks at 224 px for 100 epochs; `{protocol}` trains at {size}. "
            "Levels are not comparable with the thesis'; orders and differences are of interest."
        )
    notes.append(settings.note or general)
    notes.append(
        "Receptive fields are structural, so their figures show the full-size 224 px networks; effective receptive fields "
        "are drawn for those at initialisation and for the trained ones of this protocol."
    )
    missing = results.missing_variants(protocol, rows, root)
    if missing:
        have = f"{len(missing)} of {len(rows)} rows have no record yet: {', '.join(missing)}."
        notes.append(f"{have} `{make_command(protocol)}`")
    elif records["n"].nunique() > 1:
        notes.append("The rows were not all tested on the same number of images.")
    return notes


def readings(number, protocol, root="."):
    """What the records say about one table: a Markdown list, each row against plain ResNet-50, with a verdict after
    Holm's correction where both have three seeds."""
    frame = results.table(number, protocol, root).set_index("variant")
    answers = results.read_answers(protocol, frame.index, results.independent_runs(protocol, root), root)
    lines = []
    for name, line in frame.drop(index=BASELINE, errors="ignore").iterrows():
        if name not in answers or BASELINE not in answers:
            lines.append(f"- **{line['architecture']}**: no record yet; `{make_command(protocol, name)}`")
            continue
        found = results.compare(name, BASELINE, answers)
        text = f"{line['top1']:.1f} %, {points(found.difference, '+.1f')} points to ResNet-50"
        if found.testable:
            text += f" (95 %: {points(found.low, '+.1f')} to {points(found.high, '+.1f')}; {p_said(line['p_holm'])}"
            text += f", Holm; detectable from {100 * found.detectable:.1f})"
        if not unknown(line["thesis_difference_points"]):
            text += minus(f", {line['thesis_difference_points']:+.2f} in the thesis")
        lines.append(f"- **{line['architecture']}**: {text}: {found.verdict(line['p_holm'])}.")
    return "\n".join(lines)


def comparison(protocol, a, b, root="."):
    """Two rows of one protocol in words, A − B: what ``python -m ctxnet compare`` prints.

    Args:
        a, b: names of rows, also as ``protocol:row``.
        protocol: None for the one that the names say, or else ``small``.

    Raises:
        ValueError: an unknown name, one row twice, or rows of different protocols.
        MissingRecord: a row has no finished run.
    """
    from ctxnet.training import load_params

    said = [protocol, *(name.rpartition(":")[0] for name in (a, b))]
    said = list(dict.fromkeys(name for name in said if name)) or ["small"]
    if len(said) > 1:
        raise ValueError(f"rows are compared within one protocol only, not across {' and '.join(said)}")
    protocol = require_known("protocol", said[0], load_params(Path(root) / "params.yaml")["protocols"])
    a, b = (require_known("row", name.rpartition(":")[2], VARIANTS) for name in (a, b))
    if a == b:
        raise ValueError(f"{a!r} twice: two different rows are needed")
    answers = results.read_answers(protocol, (a, b), results.independent_runs(protocol, root), root)
    for name in (a, b):
        if name not in answers:
            raise MissingRecord(Path(root) / "results" / protocol / "runs" / name, make_command(protocol, name))
    found = results.compare(a, b, answers)
    width = max(len(a), len(b), 20)
    lines = [f"{'protocol ' + protocol:{width}}  mean %  s.d.  seeds"]
    each = (a, found.mean_a, found.sd_a, found.seeds_a), (b, found.mean_b, found.sd_b, found.seeds_b)
    for name, mean, sd, seeds in each:
        lines.append(f"{name:{width}}  {100 * mean:6.2f}  {or_dash(100 * sd, '.2f'):>4}  {seeds:5}")
    seeds = f"over {statistics.MOST_SEEDS}" if found.needed == math.inf else str(found.needed)
    described = compared(found) | {
        "p": f"{p_text(found.p)}, Welch's t over seeds and images",
        "seeds needed": f"{seeds} of each: 80 % power for this difference",
        "verdict": found.verdict() + (f": {a} than {b}" if found.p <= statistics.LEVEL else ""),
    }
    known = {"95 % interval": found.low, "p": found.p, "minimum detectable": found.detectable, "seeds needed": found.needed}
    return "\n".join(lines + [f"{what:{width}}  {'–' if unknown(known.get(what, 0.0)) else text}"
                              for what, text in described.items()])  # fmt: skip


def compared(found):
    """What a :class:`ctxnet.paper.statistics.Comparison` says, in the words of the command line and of model cards."""
    return {
        "difference A − B": f"{points(found.difference)} points",
        "95 % interval": f"{points(found.low)} to {points(found.high)} points, over seeds and images",
        "p": p_text(found.p),
        "minimum detectable": f"{100 * found.detectable:.2f} points: 80 % power with these seeds",
    }
