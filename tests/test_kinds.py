"""Every kind of file that the program reads back: damaged, it is refused by name or makes no difference.

The kinds are not listed by hand but seen: an audit hook notes what all commands open below a project that holds
everything, and the program's text is searched for what opens files. A kind that no line of ``KINDS`` knows, or a module
that reads and is not in ``READERS``, fails the test, so that a new one is thought about.
"""

import ast
import contextlib
import io
import itertools
import random
import re
import shutil
import sys
import tarfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from PIL import Image

from ctxnet.atlas import records as atlas
from ctxnet.data import prepare_dataset, prepared
from ctxnet.files import built_folder
from ctxnet.paper import cards, claims, words
from ctxnet.paper import results as records
from ctxnet.paper.book import build, build_site, chapters, explorer, made
from ctxnet.pipeline import stages
from ctxnet.pipeline.notebook import write_executed
from ctxnet.records import read_context
from ctxnet.tensors import load_tensors
from ctxnet.training import load_params, load_protocol, measure_lattice, measure_variant, plan, run
from tests.toys import PLAIN

ROOT = Path(__file__).parents[1]

# Kind → how a damaged one shows: "refused" (one line with its path), "renewed" (it is made again, the answer the same),
# "either" (the form of others: a digest in capitals is the same digest).
KINDS = {
    r"data/quick\.json": "refused",
    r"data/probe-\d+/manifest\.json": "renewed",
    r"data/probe-\d+/(train|valid)_images\.npy": "renewed",
    r"results/quick/runs/\w+/seed\d+/record\.json": "refused",
    r"results/quick/runs/\w+/seed\d+/history\.csv": "refused",
    r"results/quick/runs/\w+/seed\d+/predictions\.bin": "refused",
    r"results/quick/runs/\w+/seed\d+/context\.npz": "refused",
    r"results/quick/images/\w+\.csv": "refused",
    r"results/quick/runs/\w+/seed\d+/weights\.safetensors": "refused",
    r"results/quick/runs/\w+/seed\d+/provenance\.json": "refused",
    r"results/atlas/\w+/record\.json": "refused",
    r"results/atlas/\w+/context\.npz": "refused",
    r"results/atlas/\w+/provenance\.json": "refused",
    r"results/quick/runs/\w+/seed\d+/checkpoint\.safetensors": "refused",
    r"results/(measure|lattice)/\w+/(record|provenance)\.json": "refused",
    r"results/measure/\w+/context\.npz": "refused",
    r"results/lattice/\w+/(maps\.png|places\.csv)": "refused",
    r"results/quick/notebook/\w+\.ipynb": "refused",  # by whom reads it; `site` executes it again
    r"site/site\.json": "refused",
    r"data/own-\d+/manifest\.json": "renewed",
    r"data/own-\d+/(train|valid)_images\.npy": "renewed",
    r"data/own-\d+/source\.json": "renewed",
    r"data/own\.\w+/unpacked\.sha256": "either",
    r"data/own\.\w+/(train|val)/\w+/\d\.bmp": "refused",
}
PERSONAL = r"(params|dvc|hypotheses|hypotheses_law)\.yaml|own\.tar"  # a person's to write, tested elsewhere
IGNORED = r".*\.(lock|partial|py|pyc|old)|\.git.*|\..*\.partial/.*"
# Module → what vouches for the files it opens to read.
READERS = {
    "ctxnet/files.py": "the seal, or whoever compares a SHA-256",
    "ctxnet/settings.py": "a person's files, every value checked",
    "ctxnet/tensors.py": "the digest inside; others' weights are only tensors",
    "ctxnet/measure/profile.py": "a user's own file, with the checksums of a zip",
    "ctxnet/records/store.py": "record.json",
    "ctxnet/records/counts.py": "record.json, and the digest in it; test_dense.py damages both files",
    "ctxnet/records/table.py": "a seal on every line; test_every.py damages one",
    "ctxnet/atlas/accuracies.py": "the SHA-256 of the pinned table",
    "ctxnet/scale/address.py": "Ray's own note of an address, which is then asked whether it answers",
    "ctxnet/scale/campaign.py": "a SHA-256 that travels with the file",
    "ctxnet/scale/guard.py": "the kernel's list of processes",
    "ctxnet/scale/task.py": "a SHA-256 that travels with the file; records are sealed",
    "ctxnet/scale/worker.py": "the package's own code, to compare it",
    "ctxnet/training/protocol.py": "a person's file, by settings",
    "ctxnet/training/progress.py": "nothing: what a running campaign says of itself, for --status alone",
    "ctxnet/records/maps.py": "record.json, else the checksums of a zip",
    "ctxnet/data/prepared.py": "manifest.json and its digests",
    "ctxnet/data/preflight.py": "a list of SHA-256 sums, where there is one",
    "ctxnet/data/imagenette.py": "the preflight",
    "ctxnet/data/camvid.py": "nothing but the readers: pixels, masks and names are hashed into what a run is",
    "ctxnet/data/archive.py": "checksums of the archive, or the download's SHA-256",
    "ctxnet/data/photograph.py": "matplotlib's own file",
    "ctxnet/pipeline/notebook.py": "the digest inside; notebooks to execute are code",
    "ctxnet/paper/words.py": "README, between two markers",
    "ctxnet/paper/book/build.py": "the package's own files, and chapters that were read",
    "ctxnet/paper/book/made.py": "dvc.yaml, read by settings",
    "ctxnet/paper/book/explorer.py": "record.json",
    "ctxnet/paper/book/pdf.py": "what a browser printed a moment ago",
    "ctxnet/paper/figures/style.py": "a picture in memory",
    "ctxnet/paper/figures/surface.py": "record.json",
    "ctxnet/paper/pays.py": "nothing: a benchmark's table of times, as it lies there",
    "ctxnet/paper/reach.py": "nothing: a benchmark's table of one control, as it lies there",
    "ctxnet/paper/sliders.py": "record.json; the package's own files",
    "ctxnet/paper/schematics/shapes.py": "the package's own files",
    "ctxnet/provenance.py": "/proc/cpuinfo",
}
OPENS = {"open", "read_text", "read_bytes", "read_csv", "safe_load", "safe_open", "loadtxt", "genfromtxt", "fromfile",
         "memmap", "parse", "read_json", "read_excel", "imread"}  # fmt: skip
LOADS = {"np", "numpy", "json", "yaml", "torch", "pickle", "tarfile", "zipfile", "nbformat", "Image"}  # .load, .read, .open


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project with a trained row, its data, and a network of the atlas."""
    root = tmp_path_factory.mktemp("project")
    params = load_params(ROOT / "params.yaml")
    params["probe"] |= {"train_images": 64, "valid_images": 20, "distance": 12}
    quick = {"image_size": 32, "width": 4, "epochs": 2, "decay_epochs": [], "profile_images": 1, "batch_size": 16}
    params["protocols"]["quick"] = PLAIN | quick
    params["protocols"]["own"] = params["protocols"]["quick"] | {"dataset": "own.tar"}
    params["own_rows"]["quick"], params["own.tar"] = ["plain20", "resnet20"], {}
    params["measure"] |= {"image_size": 64, "width": 4, "images": 1, "summed_images": 0}
    params["lattice"] |= {"places": 2, "cells": 8}
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    stages.data("quick", root)
    run(load_protocol("quick", root / "params.yaml"), "plain20", root=root, progress=False)
    stopped = run(load_protocol("quick", root / "params.yaml"), "resnet20", root=root, max_minutes=1e-6, progress=False)
    assert stopped.status == "paused"
    atlas.measure_rows(["lenet5"], root=root, progress=False)
    measure_variant("plain20", root=root)
    measure_lattice("plain20", root=root, progress=False)
    shutil.copy(ROOT / "dvc.yaml", root)
    with tarfile.open(root / "own.tar", "w") as tar:
        for number, (split, name) in enumerate(itertools.product(("train", "val"), "ab")):
            image = io.BytesIO()
            Image.fromarray(np.full((16, 16, 3), 40 * number, np.uint8)).save(image, "bmp")
            entry = tarfile.TarInfo(f"{split}/{name}/0.bmp")
            entry.size = len(image.getvalue())
            tar.addfile(entry, io.BytesIO(image.getvalue()))
    own(root)
    cells = [new_markdown_cell("# 1 One", id="a"), new_code_cell("1", id="b")]
    write_executed(root / "results/quick/notebook/01.ipynb", new_notebook(cells=cells))
    build_site("quick", root / "site", root)
    return root


def own(root):
    prepared = prepare_dataset(load_protocol("own", root / "params.yaml"), {}, root, progress=False)
    return [prepared.manifest_hash, int(prepared.train_images.sum()), prepared.train_labels.tolist()]


def site_mark(root):
    """The mark of a site, as the next building of it reads it."""

    class Enough(Exception):
        pass

    with contextlib.suppress(Enough), built_folder(root / "site", build.MARK):
        raise Enough
    return "read"


def read_all(root):
    """What every reader gives, as text. Each is called, so that one refusal does not hide another reader."""
    prepared._verified.clear()  # as in a new process
    folder = root / "results/quick/runs/plain20/seed0"
    readers = [
        lambda: run(load_protocol("quick", root / "params.yaml"), "plain20", root=root, progress=False).record,
        lambda: records.load_records("quick", root).to_csv(),
        lambda: records.load_history("quick", "plain20", 0, root).to_csv(),
        lambda: records.load_predictions("quick", "plain20", 0, root).to_csv(),
        lambda: records.load_profile("quick", "plain20", 0, root).distance,
        lambda: records.load_provenance("quick", "plain20", 0, root),
        lambda: {k: v.double().sum().item() for k, v in load_tensors(folder / "weights.safetensors")[0].items()},
        lambda: made.data_sets(["quick"], root),
        lambda: made.sources(["quick"], root),
        lambda: atlas.read_records(root),
        lambda: read_context(root / "results/atlas/lenet5")[0].distance,
        lambda: plan(load_protocol("quick", root / "params.yaml"), root=root),
        lambda: records.load_initial("plain20", root).distance,
        lambda: {k: explorer._row(*v) for k, v in explorer._read_records(root / "results/lattice").items()},
        lambda: chapters.read_chapter(root / "results/quick/notebook/01.ipynb"),
        lambda: site_mark(root),
        lambda: own(root),
    ]
    said, refused = [], []
    for reader in readers:
        try:
            said.append(str(reader()))
        except (ValueError, FileNotFoundError) as error:
            refused.append(str(error))
            assert "\n" not in refused[-1] and "delete" not in refused[-1], refused[-1]
    return said, refused


_opened = None


def _note(event, arguments):
    if _opened is not None and event == "open" and isinstance(arguments[0], str | bytes | Path):
        _opened.add(str(arguments[0] if not isinstance(arguments[0], bytes) else arguments[0].decode()))


sys.addaudithook(_note)


def kinds_read(root):
    """{path below the root: the line of KINDS that knows it} of all files that the readers open."""
    global _opened
    _opened = set()
    try:
        assert not read_all(root)[1]
        build_site("quick", root / "site", root)
        words.write_tables("quick", root)
        claims.write_claims("quick", root)
        cards.write_cards("quick", root)
        atlas.write_tables(root)
        found = {path for path in _opened if path.startswith(str(root))}
    finally:
        _opened = None
    found |= {str(path) for path in root.rglob("*.safetensors")}  # opened by a library that no hook sees
    found |= {str(path) for path in root.glob("data/own.*/*/*/*.bmp")}  # read again once one has changed
    kinds = {}
    for path in sorted(found):
        name = Path(path).relative_to(root).as_posix()
        if Path(path).is_file() and not re.fullmatch(f"{PERSONAL}|{IGNORED}", name):
            known = [kind for kind in KINDS if re.fullmatch(kind, name)]
            assert known, f"{name}: a kind of file that no line of KINDS knows; seal it, and add the line"
            kinds[name] = known[0]
    return kinds


def test_every_module_that_opens_files_is_thought_about():
    found = set()
    for path in sorted((ROOT / "ctxnet").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                module = getattr(getattr(node.func, "value", None), "id", "")
                if name in OPENS - ({"parse"} if module == "ast" else set()) or (
                    name in ("load", "open", "read") and module in LOADS
                ):
                    found.add(path.relative_to(ROOT).as_posix())
    assert found == set(READERS)


def damages(data, rng, flips, cuts):
    for _ in range(flips):
        bad, at = bytearray(data), rng.randrange(8 * len(data))
        bad[at // 8] ^= 1 << at % 8
        yield bytes(bad)
    for _ in range(cuts):
        yield data[: rng.randrange(len(data))]


@pytest.mark.parametrize(("flips", "cuts"), [(1, 1), pytest.param(20, 11, marks=pytest.mark.torture)])
def test_a_damaged_file_of_any_kind_is_refused_by_name_or_makes_no_difference(project, flips, cuts):
    kinds, rng = kinds_read(project), random.Random(0)
    assert set(kinds.values()) == set(KINDS), "a kind that nobody reads any more"
    right, count, outcomes = read_all(project)[0], 0, {"refused": 0, "renewed": 0, "no difference": 0}
    for name, kind in kinds.items():
        path = project / name
        whole = path.read_bytes()
        for bad in damages(whole, rng, flips, cuts):
            count += 1
            path.write_bytes(bad)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that a prepared set is made again is told in one
                said, refused = read_all(project)
            for message in refused:
                assert path.name in message, f"{name}: {message}"
            wrong = [text for text in said if text not in right]
            assert not wrong, f"{name}: used though damaged: {wrong[0][:200]}"
            assert refused or KINDS[kind] != "refused", f"{name}: nobody noticed"
            renewed = path.read_bytes() == whole
            assert not refused or KINDS[kind] != "renewed", refused
            outcomes["refused" if refused else "renewed" if renewed else "no difference"] += 1
            path.write_bytes(whole)
    assert read_all(project) == (right, [])
    print(f"{count} flips and cuts in {len(KINDS)} kinds of files: {outcomes}, 0 wrong uses, 0 tracebacks")
    assert torch.is_grad_enabled()
