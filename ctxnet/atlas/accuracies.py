"""timm's published ImageNet accuracies: fetched by a pinned address, one per measured architecture kept with its source.

The table itself stays with whoever has it. What the paper needs of it, the accuracy of one set of weights per architecture,
lies in ``results/timm/accuracies.jsonl`` beside the measurements, each with its set of weights; ``source.json`` says whose.
"""

import csv
import io
import math
import os
import re
from pathlib import Path

from ..data.archive import download
from ..files import sha256, write_sealed, write_text
from ..records import append_row, read_table
from .every import FOLDER, read_networks

COMMIT = "aa4b5850c1543fa488abf260f18390eda46cf85d"
NAME = "results-imagenet.csv"
ADDRESS = f"https://raw.githubusercontent.com/huggingface/pytorch-image-models/{COMMIT}/results/{NAME}"
SHA256 = "30972bf7c7ab451bbd4480ec6116b13d0a84441c57bbc946896fd312264acfcd"
TABLE, SOURCE = "accuracies.jsonl", "source.json"
LOCAL = "CTXNET_TIMM_RESULTS"  # environment: a folder that holds the table, for who has it already
TRAININGS = ("in1k", "distilled", "more")

# By the tag of the weights or the name. More data: pictures or teachers of other sets; distilled: a teacher of ImageNet-1k.
_MORE = re.compile(r"in21k|in22k|in12k|jft|ig1b|yfcc|webli|laion|openai|clip|swag|seer|m30m|m38m|6m", re.I)
_DISTILLED = re.compile(r"dist|ssld|usi_|_pd_|teacher", re.I)


def find_table(root="."):
    """Path of timm's table: in the folder that :data:`LOCAL` names, else in ``data/timm-results``, else downloaded there.

    Raises:
        ValueError: what is there, or what came, is not the table of that commit.
        FileNotFoundError: the folder named does not hold it.
        OSError: it is not at hand and cannot be downloaded.
    """
    given = os.environ.get(LOCAL, "")
    if not given:
        return download(ADDRESS, Path(root) / "data" / "timm-results" / NAME, sha256_hex=SHA256, progress=False)
    path = Path(given).expanduser() / NAME
    if not path.is_file():
        raise FileNotFoundError(f"{LOCAL}={given}: holds no {NAME}; get it from {ADDRESS}")
    if (found := sha256(path)) != SHA256:
        raise ValueError(f"{path}: SHA-256 is {found}, expected {SHA256}, that of {ADDRESS}")
    return path


def training(model):
    """What a set of weights was trained on, by its full name: one of :data:`TRAININGS`."""
    architecture, _, tag = model.partition(".")
    if _MORE.search(tag):
        return "more"
    return "distilled" if _DISTILLED.search(tag) or "distilled" in architecture else "in1k"


def chosen(lines, networks):
    """One published accuracy per architecture.

    Of several: ImageNet-1k alone before distilled before more data; then the test size nearest to the network's own input
    (by ratio); then the highest; then by name.

    Args:
        lines: dicts with ``model``, ``img_size`` and ``top1`` (in percent), as texts.
        networks: {architecture: its own input size in px}.

    Returns:
        {architecture: dict of ``name``, ``tag``, ``training``, ``test_size`` px, ``top1`` in 0 … 1, ``sets`` (of weights
        there are)}.
    """

    def rank(entry):
        far = abs(math.log(entry["test_size"] / networks[entry["name"]]))
        return TRAININGS.index(entry["training"]), round(far, 9), -entry["top1"], entry["tag"]

    offers = {}
    for line in lines:
        name, _, tag = line["model"].partition(".")
        if name in networks:
            entry = {"name": name, "tag": tag, "training": training(line["model"]), "test_size": int(line["img_size"])}
            offers.setdefault(name, []).append(entry | {"top1": round(float(line["top1"]) / 100, 6)})
    return {name: min(found, key=rank) | {"sets": len(found)} for name, found in sorted(offers.items())}


def keep_accuracies(root="."):
    """Write the accuracies of all measured architectures from timm's table; gives them, and raises, as :func:`chosen` and
    :func:`find_table` do.
    """
    path = find_table(root)
    lines = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
    networks = {name: row["size"] for name, row in read_networks(root).items() if "refused" not in row}
    kept, folder = chosen(lines, networks), Path(root) / FOLDER
    write_text(folder / TABLE, "")
    for row in kept.values():
        append_row(folder / TABLE, row)
    about = {"address": ADDRESS, "sha256_of_table": SHA256, "lines": len(lines), "licence": "Apache-2.0"}
    write_sealed(folder / SOURCE, about)
    return kept


def read_accuracies(root="."):
    """What :func:`keep_accuracies` wrote, {architecture: dict}; {} where nobody did.

    Raises:
        DamagedRecord: for a line that is not as it was written.
    """
    return read_table(Path(root) / FOLDER / TABLE)
