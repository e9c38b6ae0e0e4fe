"""Tables 4.1–4.6: the thesis' accuracy beside ours, one protocol at a time.

:func:`table` gives a DataFrame with plain numbers, :func:`markdown` the same for reading,
:func:`write_tables` puts both into ``results/<protocol>/tables/`` with equal bytes for equal records. A row
without a record keeps the thesis' numbers and leaves ours empty.
"""

import functools
import math
import re
from pathlib import Path

import pandas as pd

from ctxnet.files import write_csv, write_text
from ctxnet.models.variants import VARIANTS
from ctxnet.naming import require_known
from ctxnet.paper import statistics
from ctxnet.paper.results import (
    BadRecord,
    MissingRecord,
    load_initial,
    load_predictions,
    load_profile,
    load_records,
    make_command,
)

BASELINE = "resnet50"


def _grid(suffix):
    return [BASELINE] + [f"resnet50_perm{k}{suffix}" for k in (1, 3, 5)]


TABLES = {
    "4.1": ("Random sparse context", _grid("")),
    "4.2": (
        "Random sparse context on higher layers",
        [BASELINE, "resnet50_perm1", "resnet50_perm1_stages34"],
    ),
    "4.3": ("Random sparse context with relative positional encoding", _grid("_enc")),
    "4.4": ("Random sparse context with attention", _grid("_attn")),
    "4.5": (
        "Dilated convolutions",
        [
            BASELINE,
            "resnet50_dilated4",
            "resnet50_inserted_dilated4",
            "resnet50_inserted_dilated8",
            "resnet50_random_dilated16",
            "resnet50_random_dilated8",
            "resnet50_random_dilated8_conv",
        ],
    ),
    "4.6": ("Other architectures", [BASELINE, "hrnet_w18", "convnext_tiny", "vit_base_patch16_224"]),
}

# What a reader of the thesis has to know to compare the columns; printed under the table concerned.
NOTES = {
    "4.2": "The thesis labels its last row “3 permutations” and 28.3 M; its text says one, which comes to 28.2 M.",
    "4.5": "63.7 M needs the eight shifted copies and the centre side by side before the last 1×1 convolution. "
    "The last row is ours and not in the thesis: the formula of its §3.5, a convolution over the centre and eight "
    "random positions that keeps the channels.",
    "4.6": "The thesis' 21.3 M (HRNet) and 28.6 M (ConvNeXt) include a classifier of 1000 classes; its 85.6 M (ViT) "
    "leaves out the position and class tokens. Our counts are without classifier throughout.",
}

IMAGENETTE = 3925  # validation images, on which the thesis' accuracies were taken
IMAGES_ONLY, SIGNIFICANT, OWN_RECIPE = "†", "*", "‡"  # signs in the cells, explained by legend()

COLUMNS = [
    "architecture",
    "variant",
    "thesis_top1",
    "top1",
    "sd_points",
    "low",
    "high",
    "interval_over",
    "n",
    "seeds",
    "difference_points",
    "p",
    "p_holm",
    "thesis_difference_points",
    "parameters_million",
    "thesis_parameters_million",
    "trained_parameters_million",
]


def table(number, protocol, root="."):
    """One table as a DataFrame with :data:`COLUMNS`, a row per architecture in the thesis' order.

    Accuracies in percent, means over seeds, ``sd_points`` their s.d.; differences to our (the thesis') ResNet-50 in
    percentage points; parameters in millions without classifier: of the full-width network, and (``trained_…``) of the
    one this protocol trained. ``low``/``high`` is a 95 % interval over what ``interval_over`` says: the validation images
    for one seed, seeds and images for several. ``p`` belongs to the difference and is there with three seeds of both
    rows; ``p_holm`` is corrected for the number of p in the table. What is unknown is NaN.

    Raises:
        ValueError: for an unknown table number, or runs on different images.
        BadRecord: see :func:`ctxnet.paper.results.load_records`.
    """
    require_known("table", number, TABLES)
    records = load_records(protocol, root)
    rows = read_answers(protocol, TABLES[number][1], records, root)
    frame = pd.DataFrame([row(variant, records, rows) for variant in TABLES[number][1]], columns=COLUMNS)
    return frame.assign(p_holm=statistics.holm(frame["p"]))


def with_own_recipes(number, protocol, root="."):
    """:func:`table`, and in Table 4.6 a second line for each row that was also trained by the recipe of its own paper.

    Those records are of protocol ``<protocol>_adamw``; ``variant`` is ``<protocol>_adamw:<row>`` there, and the
    difference is to the same ResNet-50 as in the other lines. Without such records it is :func:`table`.
    """
    frame = table(number, protocol, root)
    if number != "4.6":
        return frame
    other = f"{protocol}_adamw"
    own, records = load_records(other, root), load_records(protocol, root)
    own = own[own["variant"].isin(TABLES[number][1])]
    if own.empty:
        return frame
    rows = read_answers(protocol, [BASELINE], records, root)
    rows |= {f"{other}:{name}": found for name, found in read_answers(other, TABLES[number][1], own, root).items()}
    every = pd.concat([records, own.assign(variant=other + ":" + own["variant"])])
    lines = [row(name, every, rows) for name in rows if name != BASELINE]
    more = pd.DataFrame(lines, columns=COLUMNS)
    more["architecture"] += f", own recipe {OWN_RECIPE}"
    return pd.concat([frame, more.assign(p_holm=statistics.holm(more["p"]))], ignore_index=True)


def read_answers(protocol, variants, records, root="."):
    """variant -> (image ids, bool (seeds, images)): which images its finished runs, those in ``records``, got right.

    Variants without a run are left out.

    Raises:
        BadRecord: the answers disagree with a record's accuracy, or a row's runs were tested on different images.
    """
    rows = {}
    for variant, runs in records[records["variant"].isin(variants)].groupby("variant"):
        frames = [load_predictions(protocol, variant, int(seed), root) for seed in runs["seed"]]
        try:
            images, right = statistics.right_answers(frames)
        except ValueError as error:
            raise BadRecord(f"{variant}, protocol {protocol}: {error}") from None
        for seed, top1, share in zip(runs["seed"], runs["top1"], right.mean(1), strict=True):
            if abs(top1 - share) > 1e-6:
                raise BadRecord(f"{variant} seed {seed}: predictions.csv gives {share:.4f}, record.json says {top1:.4f}")
        rows[variant] = images, right
    return rows


def compare(a, b, rows):
    """:class:`ctxnet.paper.statistics.Comparison` of two of ``rows`` (:func:`read_answers`), A − B as shares.

    Raises:
        ValueError: rows tested on different images.
    """
    (images_a, right_a), (images_b, right_b) = rows[a], rows[b]
    if len(images_a) != len(images_b) or (images_a != images_b).any():
        raise ValueError(f"{a} and {b} were not tested on the same images, so they cannot be compared in pairs")
    return statistics.compare(right_a, right_b)


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
    rows = read_answers(protocol, (a, b), load_records(protocol, root), root)
    for name in (a, b):
        if name not in rows:
            raise MissingRecord(Path(root) / "results" / protocol / "runs" / name, make_command(protocol, name))
    found = compare(a, b, rows)
    width = max(len(a), len(b), 20)
    lines = [f"{'protocol ' + protocol:{width}}  mean %  s.d.  seeds"]
    each = (a, found.mean_a, found.sd_a, found.seeds_a), (b, found.mean_b, found.sd_b, found.seeds_b)
    for name, mean, sd, seeds in each:
        lines.append(f"{name:{width}}  {100 * mean:6.2f}  {_or_dash(100 * sd, '.2f'):>4}  {seeds:5}")
    verdict = found.verdict() + (f": {a} than {b}" if found.p <= statistics.LEVEL else "")
    described = [
        ("difference A − B", found.difference, f"{points(found.difference)} points"),
        ("95 % interval", found.low, f"{points(found.low)} to {points(found.high)} points, over seeds and images"),
        ("p", found.p, f"{p_text(found.p)}, Welch's t over seeds and images"),
        ("minimum detectable", found.detectable, f"{100 * found.detectable:.2f} points: 80 % power with these seeds"),
        ("seeds needed", found.needed, f"{_seeds_text(found.needed)} of each: 80 % power for this difference"),
        ("verdict", 0.0, verdict),
    ]
    lines += [f"{what:{width}}  {'–' if unknown(value) else text}" for what, value, text in described]
    return "\n".join(lines)


def markdown(number, protocol, root="."):
    """The table as GitHub-flavoured Markdown with its title and notes."""
    frame = with_own_recipes(number, protocol, root)
    header, rows = cells(frame, protocol)
    text = [
        f"**Table {number}.** {caption(number, protocol)} {legend(frame)}",
        "",
        as_markdown(header, rows, range(1, len(header))),
    ]
    missing = list(frame.loc[frame["top1"].isna(), "variant"])
    if missing:
        command = make_command(protocol, missing[0] if len(missing) == 1 else None)
        text += ["", f"No record yet: {', '.join(missing)}. Make it with `{command}`."]
    return "\n".join(text) + "\n"


def cells(frame, protocol):
    """What :func:`table` returned, as text cells: (header, rows)."""
    header = ["architecture", "thesis %", f"{protocol} %", "95 % interval", "s.d.", "seeds", "Δ thesis", f"Δ {protocol}"]
    header += ["params M", "thesis M"]
    return header, [_cells(row) for row in frame.to_dict("records")]


def caption(number, protocol):
    """Title, how to read the columns, and the notes of one table, as one paragraph."""
    how = (
        f"{TABLES[number][0]}: top-1 on the validation set in the thesis and, as mean over seeds, in protocol `{protocol}`; "
        "Δ in points to the same column's ResNet-50; parameters without classifier."
    )
    return " ".join([how, NOTES.get(number, "")]).strip()


def legend(frame):
    """What the signs in a table's cells mean: † and *, as far as they apply to ``frame``."""
    sizes = frame["n"].dropna().unique()
    text = [f"{', '.join(f'{size:,.0f}' for size in sizes)} images."] if len(sizes) else []
    if (frame["interval_over"] == "images").any():
        text.append(f"{IMAGES_ONLY} One seed: the interval covers the choice of images and nothing else.")
    own = [name.partition(":")[0] for name in frame["variant"] if ":" in name]
    if own:
        text.append(
            f"{OWN_RECIPE} AdamW, warm-up and cosine schedule as in the network's own paper, all else as in the other lines "
            f"(protocol `{own[0]}`)."
        )
    if (frame["interval_over"] == "seeds and images").any():
        text.append("Other intervals cover seeds and images.")
    tests = int(frame["p"].notna().sum())
    if tests:
        clear = (frame["p_holm"] <= statistics.LEVEL).any()
        text.append(
            (f"{SIGNIFICANT} differs" if clear else "No row with three seeds is shown to differ")
            + " from ResNet-50: Welch's t over seeds and images, 5 % after Holm's correction for "
            f"{tests} test{'s' if tests > 1 else ''} in this table."
        )
    elif frame["top1"].notna().any():
        text.append(f"No difference is tested: that takes {statistics.MIN_SEEDS} seeds of a row and of ResNet-50.")
    return " ".join(text)


def write_tables(protocol, root="."):
    """Write ``table_4_1.csv`` and ``.md`` … into ``results/<protocol>/tables``; returns the folder."""
    folder = Path(root) / "results" / protocol / "tables"
    for number in TABLES:
        stem = folder / f"table_{number.replace('.', '_')}"
        rows = with_own_recipes(number, protocol, root).to_dict("records")
        write_csv(
            stem.with_suffix(".csv"),
            COLUMNS,
            [["" if unknown(r[c]) else r[c] for c in COLUMNS] for r in rows],
        )
        write_text(stem.with_suffix(".md"), markdown(number, protocol, root))
    return folder


def overview(protocol, root="."):
    """Every row of Tables 4.1–4.6 once, as Markdown with a line on its signs: what README shows."""
    header = ["network", "what", "params M", "thesis %", f"{protocol} %", "95 % interval", "seeds"]
    frames = [with_own_recipes(number, protocol, root) for number in TABLES]
    rows = []
    for row in pd.concat(frames).drop_duplicates("variant").to_dict("records"):
        numbers = [_or_dash(row[key], ".1f") for key in ("parameters_million", "thesis_top1", "top1")]
        name = row["variant"].rpartition(":")[2]
        rows.append([f"`{name}`", row["architecture"], *numbers, _interval(row), str(row["seeds"])])
    text = as_markdown(header, rows, range(2, len(header)))
    if any(IMAGES_ONLY in cell for row in rows for cell in row):
        text += f"\n\n{IMAGES_ONLY} One seed: the interval covers the choice of images and nothing else."
    if any(OWN_RECIPE in cell for row in rows for cell in row):
        text += f" {OWN_RECIPE} AdamW, warm-up and cosine schedule instead of the thesis' SGD."
    return text


def write_overview(path, protocol, root="."):
    """Replace what stands between the markers ``<!-- table: rows -->`` and ``<!-- end -->`` of a Markdown file.

    Raises:
        ValueError: if the file has no such markers.
    """
    text = Path(path).read_text()
    before, start, rest = text.partition("<!-- table: rows -->\n")
    _, end, after = rest.partition("<!-- end -->")
    if not end:
        raise ValueError(f"{path}: no lines '<!-- table: rows -->' and '<!-- end -->' to write between")
    write_text(path, before + start + overview(protocol, root) + "\n" + end + after)


def readings(number, protocol, root="."):
    """What the records say about one table: a Markdown list, each row against plain ResNet-50, with a verdict after
    Holm's correction where both have three seeds."""
    frame = table(number, protocol, root).set_index("variant")
    rows = read_answers(protocol, frame.index, load_records(protocol, root), root)
    lines = []
    for name, row in frame.drop(index=BASELINE).iterrows():
        if unknown(row["top1"]) or unknown(frame.loc[BASELINE, "top1"]):
            lines.append(f"- **{row['architecture']}**: no record yet; `{make_command(protocol, name)}`")
            continue
        found = compare(name, BASELINE, rows)
        text = f"{row['top1']:.1f} %, {points(found.difference, '+.1f')} points to ResNet-50"
        if found.testable:
            text += f" (95 %: {points(found.low, '+.1f')} to {points(found.high, '+.1f')}; {p_said(row['p_holm'])}"
            text += f", Holm; detectable from {100 * found.detectable:.1f})"
        if not unknown(row["thesis_difference_points"]):
            text += minus(f", {row['thesis_difference_points']:+.2f} in the thesis")
        lines.append(f"- **{row['architecture']}**: {text}: {found.verdict(row['p_holm'])}.")
    return "\n".join(lines)


def context(protocol, root="."):
    """How far every row looks, in numbers, for the ResNets.

    Columns: architecture, variant, ``covered`` (first block, from 1, whose receptive field is the whole 224
    px image at full size; 0: none), ``initial_1``, ``initial_last`` and ``trained_1``, ``trained_last``: mean
    distance of the first and last block as a share of the input's side, full size at initialisation and
    trained. NaN where there is no record.
    """
    names = list(
        dict.fromkeys(v for _, variants in TABLES.values() for v in variants if v.startswith("resnet"))
    )
    rows = []
    for name in names:
        row = {"architecture": VARIANTS[name].label, "variant": name, "covered": math.nan}
        loaders = {
            "initial": lambda n=name: load_initial(n, root),
            "trained": lambda n=name: load_profile(protocol, n, root=root),
        }
        for kind, load in loaders.items():
            row |= {f"{kind}_1": math.nan, f"{kind}_last": math.nan}
            try:
                profile = load()
            except MissingRecord:
                continue
            side = profile.rf.shape[-1]
            row |= {
                f"{kind}_1": float(profile.distance[0]) / side,
                f"{kind}_last": float(profile.distance[-1]) / side,
            }
            if kind == "initial":
                full = [bool(mask.all()) for mask in profile.rf]
                row["covered"] = full.index(True) + 1 if any(full) else 0
        rows.append(row)
    return pd.DataFrame(rows)


def context_cells(protocol, root="."):
    """:func:`context` as text cells: (header, rows)."""
    header = ["architecture", "whole image from block", "block 1, initial", "last, initial"]
    header += [f"block 1, {protocol}", f"last, {protocol}"]
    rows = []
    for row in context(protocol, root).to_dict("records"):
        covered = "–" if unknown(row["covered"]) else str(int(row["covered"])) if row["covered"] else "never"
        shares = [row[f"{kind}_{block}"] for kind in ("initial", "trained") for block in ("1", "last")]
        rows.append(
            [row["architecture"], covered, *("–" if unknown(s) else f"{100 * s:.1f} %" for s in shares)]
        )
    return header, rows


def as_markdown(header, rows, numbers=()):
    """A Markdown table; the columns in ``numbers`` (indices) are aligned to the right."""
    align = ["--:" if i in numbers else ":--" for i in range(len(header))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, align, *rows])


@functools.cache
def parameters_million(variant):
    """Millions of parameters of the full-width network without classifier, counted on the built one."""
    import torch

    from ctxnet.models import count_parameters, create_model

    with torch.device("meta"):  # shapes only: nothing is allocated or initialised
        return round(count_parameters(create_model(variant)) / 1e6, 3)


def row(variant, records, rows):
    """One line of :func:`table`, as a dict of :data:`COLUMNS`; ``rows`` as :func:`read_answers` gives them."""
    name = variant.rpartition(":")[2]  # "small_adamw:vit_base_patch16_224" is a row of another protocol
    about, baseline = VARIANTS[name], VARIANTS[BASELINE]
    runs, plain = (records[records["variant"] == name] for name in (variant, BASELINE))
    row = dict.fromkeys(COLUMNS, math.nan)
    row |= {
        "architecture": about.label,
        "variant": variant,
        "interval_over": "",
        "seeds": len(runs),
        "parameters_million": parameters_million(name),
    }
    if about.thesis_top1 is not None:
        row["thesis_top1"] = about.thesis_top1
        row["thesis_difference_points"] = round(about.thesis_top1 - baseline.thesis_top1, 2)
    if about.thesis_params is not None:
        row["thesis_parameters_million"] = about.thesis_params
    if len(runs):
        images, right = rows[variant]
        mean, low, high, kind = statistics.row_interval(right)
        row |= {"top1": round(100 * mean, 2), "low": round(100 * low, 2), "high": round(100 * high, 2)}
        row |= {"interval_over": kind, "n": len(images), "trained_parameters_million": runs["parameters"].iloc[0] / 1e6}
        if len(runs) > 1:
            row["sd_points"] = round(100 * statistics.mean_sd(runs["top1"])[1], 2)
        if len(plain) and variant != BASELINE:
            found = compare(variant, BASELINE, rows)
            row |= {"difference_points": round(100 * found.difference, 2), "p": found.p}
        elif len(plain):
            row["difference_points"] = 0.0
    return row


def _cells(row):
    def number(key, form):
        return "–" if unknown(row[key]) else minus(format(row[key], form))

    mark = f" {SIGNIFICANT}" if row["p_holm"] <= statistics.LEVEL else ""
    own = row["variant"] == BASELINE  # a difference to itself says nothing
    return [
        row["architecture"],
        number("thesis_top1", ".2f"),
        number("top1", ".2f"),
        _interval(row),
        number("sd_points", ".1f"),
        str(row["seeds"]),
        "" if own else number("thesis_difference_points", "+.2f"),
        "" if own else number("difference_points", "+.2f") + mark,
        number("parameters_million", ".3f"),
        number("thesis_parameters_million", ".1f"),
    ]


def _interval(row):
    if unknown(row["low"]):
        return "–"
    return f"{row['low']:.1f}–{row['high']:.1f}" + (f" {IMAGES_ONLY}" if row["interval_over"] == "images" else "")


def points(share, form="+.2f"):
    """A share as percentage points in text, with a typographic minus; "–" for NaN."""
    return minus(_or_dash(100 * share, form))


def p_text(p):
    """A p-value in text: two digits, "< 0.001", "–" for NaN."""
    return "–" if unknown(p) else "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def p_said(p):
    """A p-value within a sentence: "p = 0.020", "p < 0.001"."""
    text = p_text(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def _seeds_text(needed):
    if unknown(needed):
        return "–"
    return str(needed) if needed < math.inf else f"over {statistics.MOST_SEEDS}"


def _or_dash(value, form):
    return "–" if unknown(value) else format(value, form)


def unknown(value):
    """Whether a cell is NaN, that is: there is no such number."""
    return isinstance(value, float) and math.isnan(value)


def minus(text):
    """``text`` with typographic minus signs before numbers; the hyphen of ResNet-50 stays."""
    return re.sub(r"(?<!\w)-(?=\d)", "−", text)
