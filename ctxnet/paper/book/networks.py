"""The page of all networks of timm: sort, filter, compare two. Its data lie in it: a page from a disk fetches nothing."""

import json

from ctxnet.atlas.accuracies import ADDRESS, read_accuracies
from ctxnet.atlas.every import read_networks

PAGE, TITLE = "networks.html", "All networks"
# Columns of the table: key, heading, decimals. What each is, the page says.
COLUMNS = (
    ("parameters", "parameters, M", 1), ("top1", "top-1, %", 1),
    ("operations", "multiply-adds, G", 2), ("size", "input, px", 0),
    ("blocks", "blocks", 0), ("rf", "RF, % of image", 1), ("distance", "mean distance, % of side", 1),
    ("third", "ERF within a third, %", 1), ("erf90", "pixels with 90 % of ERF, %", 1),
    ("speed", "images/s", 1),
)  # fmt: skip


def shown_networks(root):
    """What ``networks.html.j2`` needs: (names of the networks on it, dict). Without any, the page says how to measure them.

    Raises:
        DamagedRecord: for a line of the table that is not as it was written.
    """
    data = page_data(root)
    without = [row["refused"] for row in read_networks(root).values() if "refused" in row]
    counts = {"all": len(data["networks"]), "refused": len(without), "waiting": without.count("waiting")}
    return [each["name"] for each in data["networks"]], {"counts": counts, "columns": COLUMNS, "data": script(data)}


def page_data(root="."):
    """What the page shows: dict of ``columns`` ([key, heading, decimals]) and ``networks``, smallest first.

    A network has ``name``, ``family`` and a number per column; ``curve``: [block, mean distance in % of the side] pairs, and
    ``tag``, the weights of its accuracy. One that was not measured has ``why``; what is not known is left out.
    """
    accuracies = read_accuracies(root)
    shown = [_network(row, accuracies.get(name, {})) for name, row in read_networks(root).items()]
    return {"columns": [list(column) for column in COLUMNS], "networks": shown, "source": ADDRESS if accuracies else ""}


def _network(row, accuracy):
    shown = {"name": row["name"], "family": row["family"], "size": row["size"]}
    if "parameters" in row:
        shown["parameters"] = round(row["parameters"] / 1e6, 3)
    if "refused" in row:
        return shown | {"why": row["why"]}
    side, distance, third, erf = row["size"], row["distance"], row["third"][-1], row["erf_share"]["0.9"][-1]
    curve = [[at, _percent(d, side)] for at, d in zip(row["at"], distance, strict=True) if d is not None]
    values = {
        "operations": round(row["multiply_adds"] / 1e9, 4), "blocks": row["blocks"],
        "rf": _percent(row["rf_share"][-1]), "distance": _percent(distance[-1], side), "third": _percent(third),
        "erf90": _percent(erf), "speed": row["made"]["images_per_second"],
        "top1": _percent(accuracy.get("top1")), "tag": accuracy.get("tag"), "bound": None if row["exact"] else 1,
        "curve": curve, "early": 1 if row.get("early") else None,
    }  # fmt: skip
    return shown | {key: value for key, value in values.items() if value is not None}


def _percent(value, of=1):
    return None if value is None else round(100 * value / of, 2)


def script(data):
    """JSON that may stand inside a ``<script>``: no ``<`` in it, so that nothing ends it early."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
