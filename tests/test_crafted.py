"""Records that somebody wrote: every digest is right, and the fields say what they like."""

import shutil
import warnings

import pytest
from rewriting import rewrite
from test_report import fabricate

from ctxnet.atlas import records as atlas
from ctxnet.paper import cards, claims, results, words
from ctxnet.paper.book import made
from ctxnet.records import read_provenance, read_record, write_record
from ctxnet.training import load_protocol, plan

EVIL = [
    "<script>x</script>", None, [], ["<b>"], {}, {"a": "<script>"}, {"a": [1, "x"]}, -1, 0.5, 1e308, 10**400, True,
    "../../x", "--output=x", "a\nb|c", "$(touch x)", "x" * 20_000,
]  # fmt: skip
FORGED = {"predictions.bin": b"no zlib", "history.csv": b"epoch\nx\n", "context.npz": b"PK"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = fabricate(tmp_path_factory.mktemp("crafted"), ["resnet50"])
    shutil.copy(results.Path(__file__).parents[1] / "dvc.yaml", root)
    rows = {"map": [8, 4], "rf_side": [3, 5], "rf_share": [0.1, 0.2], "rf_exact": [True, False], "distance": [1.0, None]}
    record = rows | {"layers": ["a", "b"], "erf_share": {k: [0.1, 0.2] for k in ("0.5", "0.9", "0.99")}, "size": 32}
    record |= {"name": "own", "label": "Own", "family": "", "source": "here", "weights": "initial", "small": ""}
    record |= {"shown": [0, 1], "parameters": 3, "multiply_adds": 4, "images": 2, "settings": {}, "trace": {}}
    write_record(root / "results/atlas/own", record, {}, {"commit": None})
    return root


def read_all(root):
    """Whatever the readers say, or the one line in which each refuses; anything else is an error of the test."""
    readers = [
        lambda: len(results.load_records("small", root)),
        lambda: results.load_history("small", "resnet50", 0, root).to_csv(),
        lambda: results.load_profile("small", "resnet50", 0, root).distance,
        lambda: "".join(cards.cards("small", root).values()),
        lambda: words.table("4.1", "small", root).markdown() + "".join(words.reading_notes("small", root)),
        lambda: claims.summary("small", root),
        lambda: len(made.sources(["small"], root)),
        lambda: len(made.Origins("small", root, here=None).links(["resnet50"], notebook="")),
        lambda: plan(load_protocol("small", root / "params.yaml"), root=root),
        lambda: atlas.write_tables(root),
    ]
    refused = []
    for reader in readers:
        try:
            said = str(reader())
        except (ValueError, FileNotFoundError) as error:
            refused.append(str(error))
            assert "\n" not in str(error) and str(root) in str(error) and len(str(error)) < 1000, error
        else:
            assert not any(mark in said for mark in ("<script", "<b>")), said[:200]
    return refused


def crafted(folder, values):
    record, source = read_record(folder), read_provenance(folder)
    for about, fields in ("change", record), ("provenance", source):
        for key in fields.keys() - {"sha256", "files", "record"}:
            for value in values:
                yield {about: {key: value}}
    for name in record["files"]:
        yield {"files": {name: FORGED[name]}}


@pytest.mark.parametrize("place", ["small/runs/resnet50/seed0", "atlas/own"])
@pytest.mark.parametrize("values", [["<script>x</script>"], pytest.param(EVIL, marks=pytest.mark.torture)])
def test_whatever_a_sealed_record_says_is_text_or_refused_by_name(root, place, values):
    folder, count, times = root / "results" / place, 0, 0
    whole = {path: path.read_bytes() for path in folder.iterdir()}
    assert not read_all(root)
    for change in list(crafted(folder, values)):
        rewrite(folder, **change)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            times += bool(read_all(root))
        count += 1
        for path, data in whole.items():
            path.write_bytes(data)
    print(f"{place}: {count} crafted records, {times} refused, 0 tracebacks, 0 markup")
    assert times > 8 * len(values) and sorted(path.name for path in root.iterdir()) == ["dvc.yaml", "params.yaml", "results"]
