"""Every kind of file that the program reads back: damaged, it is refused by name or makes no difference.

The kinds are not listed by hand but seen: an audit hook notes what a training, a finished run, the tables, the atlas and
the site's sources open below the project. One that no line of ``KINDS`` knows fails the test, so that a new kind is
thought about.
"""

import random
import re
import sys
import warnings
from pathlib import Path

import pytest
import torch
import yaml

from ctxnet.atlas import records as atlas
from ctxnet.data import prepared
from ctxnet.paper import results as records
from ctxnet.paper.book import made
from ctxnet.pipeline import stages
from ctxnet.tensors import load_tensors
from ctxnet.training import load_params, load_protocol, run

ROOT = Path(__file__).parents[1]

# Kind → how a damaged one shows: "refused" (one line with its path), "renewed" (it is made again, the answer the same).
# "told" is for what carries no result: a flip is refused or changes nothing but what is said about the run.
KINDS = {
    r"data/quick\.json": "refused",
    r"data/probe-\d+/manifest\.json": "renewed",
    r"data/probe-\d+/(train|valid)_images\.npy": "renewed",
    r"results/quick/runs/\w+/seed\d+/record\.json": "refused",
    r"results/quick/runs/\w+/seed\d+/(history|predictions)\.csv": "refused",
    r"results/quick/runs/\w+/seed\d+/context\.npz": "refused",
    r"results/quick/runs/\w+/seed\d+/weights\.safetensors": "refused",
    r"results/quick/runs/\w+/seed\d+/provenance\.json": "told",
    r"results/atlas/\w+/record\.json": "refused",
    r"results/atlas/\w+/stages\.npz": "refused",
    r"results/atlas/\w+/provenance\.json": "told",
}
SETTINGS = r"params\.yaml"  # a person's to write: tests/test_settings.py
IGNORED = r".*\.(lock|partial|py|pyc)|\.git.*"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project with a trained row, its data, and a network of the atlas."""
    root = tmp_path_factory.mktemp("project")
    params = load_params(ROOT / "params.yaml")
    params["probe"] |= {"train_images": 64, "valid_images": 20, "distance": 12}
    params["protocols"]["quick"] |= {"image_size": 32, "width": 4, "epochs": 1, "decay_epochs": [], "profile_images": 1}
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    stages.data("quick", root)
    run(load_protocol("quick", root / "params.yaml"), "plain20", root=root, progress=False)
    atlas.measure_rows(["lenet5"], root=root, progress=False)
    return root


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
        lambda: records.load_provenance("quick", "plain20", 0, root) and "told",
        lambda: {k: v.double().sum().item() for k, v in load_tensors(folder / "weights.safetensors")[0].items()},
        lambda: made.data_sets(["quick"], root),
        lambda: made.sources(["quick"], root) and "told",
        lambda: atlas.read_records(root),
        lambda: atlas.read_records(root) and atlas.load_stages(root / "results/atlas/lenet5/stages.npz").distance,
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
        found = {path for path in _opened if path.startswith(str(root))}
    finally:
        _opened = None
    found |= {str(path) for path in root.rglob("*.safetensors")}  # opened by a library that no hook sees
    kinds = {}
    for path in sorted(found):
        name = Path(path).relative_to(root).as_posix()
        if Path(path).is_file() and not re.fullmatch(f"{SETTINGS}|{IGNORED}", name):
            known = [kind for kind in KINDS if re.fullmatch(kind, name)]
            assert known, f"{name}: a kind of file that no line of KINDS knows; seal it, and add the line"
            kinds[name] = known[0]
    return kinds


def damages(data, rng, flips, cuts):
    for _ in range(flips):
        bad, at = bytearray(data), rng.randrange(8 * len(data))
        bad[at // 8] ^= 1 << at % 8
        yield bytes(bad)
    for _ in range(cuts):
        yield data[: rng.randrange(len(data))]


@pytest.mark.parametrize(("flips", "cuts"), [(1, 1), pytest.param(50, 30, marks=pytest.mark.torture)])
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
