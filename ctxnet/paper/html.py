"""``results/<protocol>/report.html``: one page with every table and figure, and under each what made it.

The page needs nothing but itself: style and pictures are inside. Equal records, tables and figures give equal
bytes, so it carries no date.
"""

import base64
import dataclasses
import json
import re
from pathlib import Path

from ctxnet.files import write_text
from ctxnet.paper import claims, statistics, tables
from ctxnet.paper.figures.experiments import FIGURES
from ctxnet.paper.results import BadRecord, load_provenance, load_records, make_command, missing_variants

TITLE = "Adding context into convolutional neural networks"
CHAPTERS = {
    "1": "1 Introduction",
    "2": "2 Architectures",
    "3": "3 Method",
    "4": "4 Experiments",
    "5": "5 Conclusion",
    "A": "A An atlas of context",
    "B": "B Summed effective receptive fields",
}
# Chapter 4 in the thesis' order: section, its table, its figures.
EXPERIMENTS = [
    ("4.3 Random sparse context", "4.1", ["4.1", "4.2"]),
    ("4.4 Random sparse context on higher layers", "4.2", ["4.3", "4.4"]),
    ("4.5 Relative positional encoding", "4.3", ["4.5", "4.6"]),
    ("4.6 Attention", "4.4", ["4.7", "4.8"]),
    ("4.7 Dilated convolutions", "4.5", ["4.9", "4.10", "4.11", "4.12", "4.13"]),
    ("4.8 Other architectures", "4.6", ["4.14"]),
]
POINT = 1.7  # CSS pixels for a point of a figure: one of full text width fills the page's column
LARGEST_SVG = 400_000  # bytes; a larger drawing, or one with pixels inside, goes in as PNG


def build_report(protocol, root="."):
    """Write ``results/<protocol>/report.html`` and return its path.

    Tables come from the records; figures are those that the notebooks saved in
    ``results/<protocol>/figures``. Figures of chapter 4 and appendix B that are not there yet are named with
    the command that makes them.

    Raises:
        ValueError: for an unknown protocol, with the near names.
        BadRecord: for a record or a figure's description that cannot be right.
    """
    import jinja2
    import markupsafe

    from ctxnet.training import load_protocol

    root = Path(root)
    settings = dataclasses.asdict(load_protocol(protocol, root / "params.yaml"))
    del settings["name"]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["ticks"] = lambda text: markupsafe.Markup(
        re.sub(r"`([^`]*)`", r"<code>\1</code>", str(markupsafe.escape(text)))
    )
    records = load_records(protocol, root)
    page = environment.get_template("report.html.j2").render(
        title=TITLE,
        protocol=protocol,
        command=make_command(protocol),
        summary=_summary(settings, records),
        notes=reading_notes(protocol, root),
        settings=[(key.replace("_", " "), setting_text(value)) for key, value in settings.items()],
        made_all=made_by(protocol, list(records["variant"].unique()), root),
        sections=_sections(protocol, root),
    )
    path = root / "results" / protocol / "report.html"
    write_text(path, page.rstrip() + "\n")
    return path


def _sections(protocol, root):
    figures = _figures(protocol, root)
    sections = []
    for key, title in CHAPTERS.items():
        numbers = sorted((n for n in figures if n.split(".")[0] == key), key=_order)
        parts = [{"title": "", "tables": [], "figures": [figures[n] for n in numbers]}]
        if key == "4":
            parts = [
                {
                    "title": name,
                    "tables": [_table(table, protocol, root)],
                    "figures": [figures[n] for n in drawn],
                }
                for name, table, drawn in EXPERIMENTS
            ]
        if key == "5" or parts[0]["figures"] or parts[0]["tables"]:
            words = _words(protocol, root) if key == "5" else []
            sections.append({"id": f"chapter-{key}", "title": title, "parts": parts, "words": words})
    return sections


def _order(number):
    """Natural order: 4.2 before 4.10, 1.2 before 1.2b."""
    return [int(part) if part.isdigit() else part for part in re.findall(r"\d+|\D+", number)]


def saved_figures(protocol, root="."):
    """Every figure that the notebooks have saved, and every one of chapter 4 and appendix B that they should have.

    Returns:
        dict: number -> dict of ``number``, ``path`` (the picture to show; None: not drawn yet) and, where there is one,
        ``caption``, ``alt``, ``width`` and ``height`` (CSS pixels), ``notebook``, ``networks``, ``variants`` (rows whose
        trained networks it shows).

    Raises:
        BadRecord: for a description that cannot be right, or without a picture.
    """
    found = {number: {"number": number, "path": None} for number in FIGURES}
    for path in sorted((root / "results" / protocol / "figures").glob("figure_*.json")):
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
            number, caption, alt = about["number"], about["caption"], about["alt"]
        except (ValueError, KeyError, TypeError):
            raise BadRecord(f"{path.as_posix()}: not a figure's description; draw it again") from None
        known = FIGURES.get(number)
        picture, width, height = _picture(path)
        found[number] = {"number": number, "caption": caption, "alt": alt, "path": picture, "width": width, "height": height}
        found[number] |= {"notebook": about.get("notebook") or "–", "networks": _networks(about.get("networks") or "")}
        found[number] |= {"variants": list(known.variants) if known and known.trained else []}
    return found


def _figures(protocol, root):
    """number -> what the template needs, for every saved figure and every registered one."""
    found = saved_figures(protocol, root)
    for figure in found.values():
        path = figure["path"]
        if path is None:
            figure["source"] = None
            continue
        kind = "image/svg+xml" if path.suffix == ".svg" else "image/png"
        figure["source"] = f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
        made = [("notebook", figure["notebook"]), ("DVC stage", f"report@{protocol}")]
        made += [("networks", figure["networks"])] if figure["networks"] else []
        figure["made"] = made + (made_by(protocol, figure["variants"], root) if figure["variants"] else [])
    return found


def _picture(description):
    """Path, width and height in CSS pixels of the figure beside its JSON description."""
    svg, png = description.with_suffix(".svg"), description.with_suffix(".png")
    if not svg.exists() or not png.exists():
        raise BadRecord(f"{description.as_posix()}: no picture beside it; draw it again")
    data = svg.read_bytes()
    head = data[:2000].decode("utf-8", errors="replace")
    sizes = [re.search(rf'<svg[^>]*?\s{side}="([\d.]+)pt"', head) for side in ("width", "height")]
    if not all(sizes):
        raise BadRecord(f"{svg.as_posix()}: no size in points in it; draw it again")
    width, height = (round(float(size[1]) * POINT) for size in sizes)
    if b"<image" in data or len(data) > LARGEST_SVG:
        return png, width, height
    return svg, width, height


def _table(number, protocol, root):
    frame = tables.with_own_recipes(number, protocol, root)
    header, rows = tables.cells(frame, protocol)
    made = [("notebook", "notebooks/04_experiments.ipynb"), ("DVC stage", f"report@{protocol}")]
    made += [("records", f"results/{protocol}/runs/<variant>/seed<k>/record.json")]
    made += made_by(protocol, list(frame.loc[frame["top1"].notna(), "variant"]), root)
    rows = [{"cells": row, "variant": name} for row, name in zip(rows, frame["variant"], strict=True)]
    return {
        "number": number,
        "caption": f"{tables.caption(number, protocol)} {tables.legend(frame)}",
        "header": header,
        "rows": rows,
        "made": made,
    }


def _words(protocol, root):
    """The two tables of chapter 5."""
    header, rows = claims.cells(protocol, root)
    conclusions = {"caption": claims.caption(protocol, root), "header": header, "rows": rows, "numbers": [2, 3, 4, 5]}
    header, rows = tables.context_cells(protocol, root)
    context = {
        "caption": "How far each row looks: the first block whose receptive field is the whole 224 px image, "
        "and the mean distance of the first and last block as a share of the input's side.",
        "header": header,
        "rows": rows,
        "numbers": [1, 2, 3, 4, 5],
    }
    return [conclusions, context]


def made_by(protocol, variants, root="."):
    """(what, value) pairs that sum up the provenance of the runs of ``variants``."""
    records = load_records(protocol, root)
    runs = records[records["variant"].isin(variants)]
    sources = [
        load_provenance(protocol, variant, seed, root)
        for variant, seed in zip(runs["variant"], runs["seed"], strict=True)
    ]
    sources = [source for source in sources if source]
    if not sources:
        return [("runs", "none yet")]
    commits = sorted({str(s.get("commit"))[:10] + (" + changes" if s.get("dirty") else "") for s in sources})
    devices = sorted({f"{s.get('device')}, {s.get('cores')} cores" for s in sources})
    manifests = sorted({str(s.get("data_manifest"))[:16] for s in sources})
    versions = sorted({f"torch {(s.get('versions') or {}).get('torch', '?')}" for s in sources})
    seconds = sum(s.get("wall_seconds") or 0 for s in sources)
    return [
        (
            "runs",
            f"{len(sources)}, {seconds / 60:.0f} min in all"
            if seconds >= 60
            else f"{len(sources)}, {seconds:.0f} s in all",
        ),
        ("commit", ", ".join(commits)),
        ("machine", "; ".join(devices + versions)),
        ("data manifest", ", ".join(manifests)),
    ]


def _networks(value):
    return value if isinstance(value, str) else ", ".join(value)


def _summary(settings, records):
    width = f"{settings['image_size']} px input, first stage {settings['width']} channels wide"
    runs = f"{len(records)} finished run{'s' if len(records) != 1 else ''}"
    return f"{settings['dataset']}, {width}, {settings['epochs']} epochs, {runs}."


def reading_notes(protocol, root="."):
    """What a reader must know before comparing numbers: sentences in which `code` is marked as in Markdown."""
    from ctxnet.training import load_protocol

    settings = dataclasses.asdict(load_protocol(protocol, Path(root) / "params.yaml"))
    records = load_records(protocol, root)
    rows = list(dict.fromkeys(v for _, variants in tables.TABLES.values() for v in variants))
    notes = []
    seeds = records["variant"].value_counts()
    enough = list(seeds.index[seeds >= statistics.MIN_SEEDS].sort_values())
    if len(enough) < len(rows):
        few = "One seed per row" if len(seeds) and seeds.max() == 1 else f"Fewer than {statistics.MIN_SEEDS} seeds"
        few += "" if not enough else f" for all rows but {', '.join(enough)}"
        notes.append(
            f"{few}: training again with another seed moves a row by an amount that one run cannot show, so a difference "
            "between such rows carries no verdict about an architecture. Where a row has one seed, its interval is over "
            "validation images only."
        )
    notes.append(
        {
            "quick": "The `quick` protocol trains on a small procedural task, not on photographs: it shows "
            "that every row trains and can be measured. Its accuracies say nothing about the thesis'.",
            "thesis": "The settings follow §4.2 of the thesis.",
        }.get(
            protocol,
            f"The thesis trained full-width networks at 224 px for 100 epochs; `{protocol}` trains at "
            f"{settings['image_size']} px with {settings['width']} of 64 first-stage channels for "
            f"{settings['epochs']} epochs. "
            "Levels are not comparable with the thesis'; orders and differences are of interest.",
        )
    )
    notes.append(
        "Receptive fields are structural, so their figures show the full-size 224 px networks; effective "
        "receptive fields "
        "are drawn for those at initialisation and for the trained ones of this protocol."
    )
    missing = missing_variants(protocol, rows, root)
    if missing:
        notes.append(
            f"{len(missing)} of {len(rows)} rows have no record yet: {', '.join(missing)}. "
            f"`{make_command(protocol)}`"
        )
    elif records["n"].nunique() > 1:
        notes.append("The rows were not all tested on the same number of images.")
    return notes


def setting_text(value):
    """A setting of a protocol as a reader sees it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return (
        ", ".join(map(str, value))
        if isinstance(value, list)
        else f"{value:g}"
        if isinstance(value, float)
        else value
    )
