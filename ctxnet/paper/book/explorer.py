"""The explorer of the site: a page on which a reader moves a position over a photograph, and its data as scripts.

Opened from a folder, a page may neither fetch files nor read the pixels of their images. So the data of each row are a
script that hands them over, with the sprite of maps as a data URL, and the page loads it when the row is chosen.
"""

import base64
import csv
import io
import json
from pathlib import Path

from PIL import Image

from ctxnet.data.photograph import photograph
from ctxnet.files import renew, write_bytes, write_text
from ctxnet.models.segmentation import SEGMENTERS
from ctxnet.models.variants import VARIANTS
from ctxnet.naming import require_known
from ctxnet.paper import dense
from ctxnet.paper.results import BASELINE, OWN, TABLES, lattice_command
from ctxnet.training import read_record
from ctxnet.training.lattice import COLUMNS

FULL_WIDTH = 64  # of a ResNet's first stage
PHOTOGRAPH = 448  # px a side: sharp on a screen, small on a disk
ROWS = [*VARIANTS, *SEGMENTERS]


def write_explorer(out, root):
    """Write ``explorer/`` (a script per measured row, the photograph) into the folder of the site, ``out``.

    Returns:
        (names of the rows shown, in the order of :data:`ROWS`; dict of what ``explorer.html.j2`` needs). Without any row the
        page says how to measure one.

    Raises:
        ValueError: in one line with the path, for a damaged record, one of an unknown row, or settings that differ.
    """
    out, records = Path(out), _read_records(Path(root) / "results" / "lattice")
    for variant, (folder, record) in records.items():
        data = json.dumps(_row(folder, record), separators=(",", ":"), allow_nan=False)
        write_text(out / "explorer" / f"{variant}.js", f'ctxnetExplorer.add("{variant}", {data});\n')
    lattice = {"groups": _groups(records)}
    if records:
        write_bytes(out / "explorer" / "photograph.jpg", _photograph())
        _, record = next(iter(records.values()))
        lattice |= record["settings"] | {"full": record["settings"]["width"] == FULL_WIDTH}
    return list(records), {"lattice": lattice}


def _read_records(base):
    """(folder, record) by row, in the order of :data:`ROWS`; all of one setting, since the page compares them."""
    found = {}
    for folder in sorted(path.parent for path in base.glob("*/record.json")):
        record = read_record(folder)
        try:
            require_known("variant", folder.name, ROWS)
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from None
        if record.get("variant") != folder.name:
            raise ValueError(f"{folder / 'record.json'}: is the record of {record.get('variant')!r}, not of {folder.name!r}")
        found[folder.name] = folder, record
    found = {variant: found[variant] for variant in ROWS if variant in found}
    settings = [(folder, record["settings"]) for folder, record in found.values()]
    for folder, other in settings[1:]:
        differing = sorted(key for key in other | settings[0][1] if other.get(key) != settings[0][1].get(key))
        if differing:
            raise ValueError(
                f"{folder / 'record.json'}: {differing[0]}={other.get(differing[0])!r}, but "
                f"{settings[0][1].get(differing[0])!r} in {settings[0][0]}; run {lattice_command(folder.name)}"
            )
    return found


def _row(folder, record):
    """What the page needs of one row: flat lists, place by place of block after block, and the sprite."""
    layers, settings = record["layers"], record["settings"]
    count, cells = settings["places"] ** 2, settings["cells"]
    for name in ("maps.png", "places.csv"):
        if name not in record["files"]:
            path = folder / "record.json"
            raise ValueError(f"{path}: no {name}; {renew(path)}: {lattice_command(folder.name)}")
    with open(folder / "places.csv", newline="", encoding="utf-8") as handle:
        header, *lines = csv.reader(handle)
    places = [[str(block), str(place)] for block in range(len(layers)) for place in range(count)]
    if tuple(header) != COLUMNS or [line[:2] for line in lines] != places:
        raise ValueError(f"{folder / 'places.csv'}: needs {len(layers)} blocks × {count} places with {', '.join(COLUMNS)}")
    sprite = (folder / "maps.png").read_bytes()
    with Image.open(io.BytesIO(sprite)) as image:
        if image.mode != "L" or image.size != (count * cells, len(layers) * cells):
            raise ValueError(
                f"{folder / 'maps.png'}: is {image.mode} {image.size[0]}×{image.size[1]}, not L {count * cells}×"
                f"{len(layers) * cells}"
            )
    column = {name: [_number(value) for value in values] for name, *values in zip(header, *lines, strict=True)}
    return {
        "size": settings["image_size"], "cells": cells, "places": settings["places"], "layers": layers,
        "row": column["center_row"], "column": column["center_column"], "distance": column["distance"],
        "rf": column["rf_share"], "erf90": column["erf90_share"],
        "top": column["box_top"], "left": column["box_left"], "side": column["box_side"],
        "maps": "data:image/png;base64," + base64.b64encode(sprite).decode(),
    }  # fmt: skip


def _number(text):
    """A cell of ``places.csv``, short: None for an empty one, whole numbers without a point."""
    if not text:
        return None
    value = float(text)
    return int(value) if value.is_integer() else value


def _groups(variants):
    """``[(title, [(name, label), …]), …]`` for the list of rows."""
    groups = {}
    for variant in variants:
        if variant in SEGMENTERS:
            groups.setdefault("A class for every pixel (chapter 9)", []).append((variant, dense.label(variant)))
            continue
        shown = VARIANTS[variant].tables
        title = "Baseline" if variant == BASELINE else TABLES[OWN][0]
        if shown:
            title = f"{TABLES[shown[0]][0] if shown[0] in TABLES else 'Rows'} (Table {shown[0]})"
        groups.setdefault(title, []).append((variant, VARIANTS[variant].label))
    return list(groups.items())


def _photograph():
    buffer = io.BytesIO()
    Image.fromarray(photograph(PHOTOGRAPH)).save(buffer, format="jpeg", quality=88, optimize=True)
    return buffer.getvalue()
