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
from ctxnet.report import statistics
from ctxnet.report.records import (
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

# Chapter 5: what the thesis concludes from its accuracies, as differences A − B of two of its rows.
CLAIMS = [
    ("One random permutation per block hardly changes accuracy", "resnet50_perm1", BASELINE),
    ("More permutations are worse", "resnet50_perm5", "resnet50_perm1"),
    ("Permuting only in stages 3–4 helps a little", "resnet50_perm1_stages34", BASELINE),
    ("Relative encoding does not help", "resnet50_perm1_enc", "resnet50_perm1"),
    ("Attention does not help", "resnet50_perm1_attn", BASELINE),
    ("More permutations under attention are worse", "resnet50_perm5_attn", "resnet50_perm1_attn"),
    ("Dilating the 3×3 itself costs accuracy", "resnet50_dilated4", BASELINE),
    ("An inserted convolution with d = 4 helps a little", "resnet50_inserted_dilated4", BASELINE),
    ("Inserted d = 8 is worse than d = 4", "resnet50_inserted_dilated8", "resnet50_inserted_dilated4"),
    ("Random offsets with d = 8 are the best modification", "resnet50_random_dilated8", BASELINE),
    ("Random d = 16 is worse than d = 8", "resnet50_random_dilated16", "resnet50_random_dilated8"),
    ("HRNet is better than ResNet-50", "hrnet_w18", BASELINE),
    ("ConvNeXt is better than ResNet-50", "convnext_tiny", BASELINE),
    ("ViT, without much data, is worse than ResNet-50", "vit_base_patch16_224", BASELINE),
]
IMAGENETTE = 3925  # validation images, on which the thesis' accuracies were taken

COLUMNS = [
    "architecture",
    "variant",
    "thesis_top1",
    "top1",
    "low",
    "high",
    "interval_over",
    "n",
    "seeds",
    "difference_points",
    "thesis_difference_points",
    "parameters_million",
    "thesis_parameters_million",
    "trained_parameters_million",
]


def table(number, protocol, root="."):
    """One table as a DataFrame with :data:`COLUMNS`, a row per architecture in the thesis' order.

    Accuracies in percent, differences to our (the thesis') ResNet-50 in percentage points, parameters in
    millions without classifier: of the full-width network, and (``trained_…``) of the one this protocol
    trained. ``low``/``high`` is a 95 % interval over the validation images for one seed, over seeds for
    several. What is unknown is NaN.

    Raises:
        ValueError: for an unknown table number.
        BadRecord: see :func:`ctxnet.report.records.load_records`.
    """
    require_known("table", number, TABLES)
    records = load_records(protocol, root)
    return pd.DataFrame([_row(variant, records) for variant in TABLES[number][1]], columns=COLUMNS)


def markdown(number, protocol, root="."):
    """The table as GitHub-flavoured Markdown with its title and notes."""
    frame = table(number, protocol, root)
    header, rows = cells(frame, protocol)
    text = [
        f"**Table {number}.** {caption(number, protocol)}",
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
    header = ["architecture", "thesis %", f"{protocol} %", "95 % interval", "Δ thesis", f"Δ {protocol}"]
    header += ["n", "seeds", "params M", "thesis M", "trained M"]
    return header, [_cells(row) for row in frame.to_dict("records")]


def caption(number, protocol):
    """Title, how to read the columns, and the notes of one table, as one paragraph."""
    how = (
        f"{TABLES[number][0]}: top-1 on the validation set in the thesis and in protocol `{protocol}`; "
        "Δ in points to the same column's ResNet-50; parameters without classifier."
    )
    return " ".join([how, NOTES.get(number, "")]).strip()


def write_tables(protocol, root="."):
    """Write ``table_4_1.csv`` and ``.md`` … into ``results/<protocol>/tables``; returns the folder."""
    folder = Path(root) / "results" / protocol / "tables"
    for number in TABLES:
        stem = folder / f"table_{number.replace('.', '_')}"
        rows = table(number, protocol, root).to_dict("records")
        write_csv(
            stem.with_suffix(".csv"),
            COLUMNS,
            [["" if _unknown(r[c]) else r[c] for c in COLUMNS] for r in rows],
        )
        write_text(stem.with_suffix(".md"), markdown(number, protocol, root))
    return folder


def overview(protocol, root="."):
    """Every row of Tables 4.1–4.6 once, as Markdown: what README shows. ± is half the 95 % interval."""
    header = ["network", "what", "params M", "thesis %", f"{protocol} %", "±"]
    frames = [table(number, protocol, root) for number in TABLES]
    rows = []
    for row in pd.concat(frames).drop_duplicates("variant").to_dict("records"):
        label = VARIANTS[row["variant"]].label
        accuracy = [row["thesis_top1"], row["top1"], (row["high"] - row["low"]) / 2]
        numbers = [f"{row['parameters_million']:.1f}", *("–" if _unknown(a) else f"{a:.1f}" for a in accuracy)]
        rows.append([f"`{row['variant']}`", label, *numbers])
    return as_markdown(header, rows, range(2, len(header)))


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


def claims(protocol, root="."):
    """What the thesis concludes from its accuracies, beside our records.

    Columns: claim, a, b, ``thesis`` (A − B in points), ``thesis_reading`` (against an interval for two
    independent samples of 3,925 images, all that the printed numbers allow), ``ours``, ``low``, ``high``
    (points, 95 % over the same images, paired; first seed), ``p`` (exact McNemar), ``reading``. Missing
    records leave NaN and "no record yet".
    """
    first = load_records(protocol, root).groupby("variant")["seed"].min()
    rows = []
    for claim, a, b in CLAIMS:
        top1s = VARIANTS[a].thesis_top1, VARIANTS[b].thesis_top1
        difference = round(top1s[0] - top1s[1], 2)
        half = 100 * statistics.Z95 * math.sqrt(sum(t / 100 * (1 - t / 100) for t in top1s) / IMAGENETTE)
        reading = statistics.verdict(difference - half, difference + half, "there; one run each")
        row = {"claim": claim, "a": a, "b": b, "thesis": difference, "thesis_reading": reading}
        row |= dict.fromkeys(["ours", "low", "high", "p"], math.nan) | {"reading": "no record yet"}
        if a in first and b in first:
            pair = statistics.compare(*(load_predictions(protocol, v, int(first[v]), root) for v in (a, b)))
            row |= {"ours": 100 * pair["difference"], "low": 100 * pair["low"], "high": 100 * pair["high"]}
            row |= {
                "p": pair["p"],
                "reading": statistics.verdict(pair["low"], pair["high"], "here; one seed"),
            }
        rows.append(row)
    return pd.DataFrame(rows)


def claims_cells(protocol, root="."):
    """:func:`claims` as text cells: (header, rows)."""
    header = [
        "what the thesis concludes",
        "Δ thesis",
        "on its own numbers",
        f"Δ {protocol}, 95 %",
        "McNemar p",
        "our record",
    ]
    rows = []
    for row in claims(protocol, root).to_dict("records"):
        ours, p = "–", "–"
        if not _unknown(row["ours"]):
            ours = minus(f"{row['ours']:+.1f} [{row['low']:+.1f}, {row['high']:+.1f}]")
            p = f"{row['p']:.2f}" if row["p"] >= 0.005 else "< 0.005"
        rows.append(
            [row["claim"], minus(f"{row['thesis']:+.2f}"), row["thesis_reading"], ours, p, row["reading"]]
        )
    return header, rows


def readings(number, protocol, root="."):
    """What the records say about one table: a Markdown list, each row against plain ResNet-50."""
    frame = table(number, protocol, root).set_index("variant")
    lines = []
    for name, row in frame.drop(index=BASELINE).iterrows():
        if _unknown(row["top1"]) or _unknown(frame.loc[BASELINE, "top1"]):
            lines.append(f"- **{row['architecture']}**: no record yet; `{make_command(protocol, name)}`")
            continue
        seeds = load_records(protocol, root).groupby("variant")["seed"].min()
        pair = statistics.compare(
            *(load_predictions(protocol, v, int(seeds[v]), root) for v in (name, BASELINE))
        )
        low, high = 100 * pair["low"], 100 * pair["high"]
        text = f"{row['top1']:.1f} %, {100 * pair['difference']:+.1f} points to ResNet-50 "
        text += f"(95 %: {low:+.1f} to {high:+.1f})"
        if not _unknown(row["thesis_difference_points"]):
            text += f", {row['thesis_difference_points']:+.2f} in the thesis"
        reading = statistics.verdict(low, high, "here; one seed")
        lines.append(f"- **{row['architecture']}**: {minus(text)}: {reading}.")
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
        covered = "–" if _unknown(row["covered"]) else str(int(row["covered"])) if row["covered"] else "never"
        shares = [row[f"{kind}_{block}"] for kind in ("initial", "trained") for block in ("1", "last")]
        rows.append(
            [row["architecture"], covered, *("–" if _unknown(s) else f"{100 * s:.1f} %" for s in shares)]
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


def _row(variant, records):
    about, baseline = VARIANTS[variant], VARIANTS[BASELINE]
    runs, plain = (records[records["variant"] == name] for name in (variant, BASELINE))
    row = dict.fromkeys(COLUMNS, math.nan)
    row |= {
        "architecture": about.label,
        "variant": variant,
        "interval_over": "",
        "seeds": len(runs),
        "parameters_million": parameters_million(variant),
    }
    if about.thesis_top1 is not None:
        row["thesis_top1"] = about.thesis_top1
        row["thesis_difference_points"] = round(about.thesis_top1 - baseline.thesis_top1, 2)
    if about.thesis_params is not None:
        row["thesis_parameters_million"] = about.thesis_params
    if len(runs):
        n = int(runs["n"].iloc[0])
        mean, low, high, kind = statistics.top1_interval(list(runs["top1"]), n)
        row |= {"top1": round(100 * mean, 2), "low": round(100 * low, 2), "high": round(100 * high, 2)}
        row |= {"interval_over": kind, "n": n, "trained_parameters_million": runs["parameters"].iloc[0] / 1e6}
        if len(plain):
            row["difference_points"] = round(100 * (mean - plain["top1"].mean()), 2)
    return row


def _cells(row):
    def number(key, form):
        return "–" if _unknown(row[key]) else minus(format(row[key], form))

    interval = "–" if _unknown(row["low"]) else f"{row['low']:.1f}–{row['high']:.1f}"
    own = row["variant"] == BASELINE  # a difference to itself says nothing
    return [
        row["architecture"],
        number("thesis_top1", ".2f"),
        number("top1", ".2f"),
        interval,
        "" if own else number("thesis_difference_points", "+.2f"),
        "" if own else number("difference_points", "+.2f"),
        number("n", ".0f"),
        str(row["seeds"]),
        number("parameters_million", ".3f"),
        number("thesis_parameters_million", ".1f"),
        number("trained_parameters_million", ".3f"),
    ]


def _unknown(value):
    return isinstance(value, float) and math.isnan(value)


def minus(text):
    """``text`` with typographic minus signs before numbers; the hyphen of ResNet-50 stays."""
    return re.sub(r"(?<!\w)-(?=\d)", "−", text)
