"""What a protocol's networks are before training: measured, recorded, and printed beside the rows."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from rewriting import rewrite
from test_report import fabricate

from ctxnet.__main__ import main
from ctxnet.measure import unseen_weights
from ctxnet.models import create_model
from ctxnet.models.variants import VARIANTS
from ctxnet.paper import claims, results, words
from ctxnet.records import read_record, wiring_folder
from ctxnet.training import load_protocol, measure_wiring, wiring
from ctxnet.training.run import network
from ctxnet.training.seeds import parse_seeds

REPO = Path(__file__).parents[1]
ROWS = ["resnet50", "resnet50_dilated4", "resnet50_random_dilated8_conv"]


def change(root, **settings):
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["protocols"]["small"] |= settings
    params["own_rows"] = {**params["own_rows"], "small": ROWS}
    (root / "params.yaml").write_text(yaml.safe_dump(params))


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    root = tmp_path_factory.mktemp("measured")
    fabricate(root, ROWS, seeds=(0, 1, 2), measured=False)
    change(root, image_size=64, width=8, zero_init=True)
    measure_wiring("small", root=root)
    return root


def test_every_row_is_measured_as_it_would_be_trained(measured):
    rows = results.load_wiring("small", measured)
    assert list(rows) == sorted(ROWS)
    images = torch.randn(3, 3, 64, 64)
    for name in ROWS:
        shares = [unseen_weights(create_model(name, width=8, input_size=64, seed=s), images).share for s in (0, 1, 2)]
        assert rows[name]["blind"] == pytest.approx(shares, abs=1e-6)
        plain = sum(p.numel() for key, p in create_model(name, width=8).named_parameters() if not key.startswith("fc."))
        assert rows[name]["parameters"] == plain
    assert rows["resnet50"]["blind"] == [0, 0, 0] and min(rows["resnet50_dilated4"]["blind"]) > 0.3
    assert len(set(rows["resnet50_random_dilated8_conv"]["blind"])) > 1  # draws differ
    assert rows["resnet50"]["multiply_adds"] == rows["resnet50_dilated4"]["multiply_adds"] > 1e5


def test_the_table_of_blind_shares_has_a_column_for_every_size_that_was_measured(measured, tmp_path):
    rows, table = results.load_wiring("small", measured), words.blind_table(measured)
    assert table.header == ["architecture", "`small`, 64 px"]
    assert "measure --protocol small128 && " in table.after and "--protocol small " not in table.after
    shown = {VARIANTS[name].label: 100 * sum(row["blind"]) / 3 for name, row in rows.items() if sum(row["blind"]) > 0.015}
    assert {line[0]: int(line[1]) for line in table.rows} == {label: round(share) for label, share in shown.items()}
    shutil.copy(REPO / "params.yaml", tmp_path)
    assert words.blind_table(tmp_path).rows == [] and "measure --protocol small " in words.blind_table(tmp_path).after


def test_the_same_again_gives_the_same_record(measured):
    path = wiring_folder("small", measured) / "record.json"
    before = path.read_bytes()
    main(["measure", "--protocol", "small", "--root", str(measured), "--quiet"])
    assert path.read_bytes() == before


def test_an_equal_record_is_kept_and_one_of_another_code_is_made_anew(measured, monkeypatch):
    asked, row = [], wiring._row

    def watched(settings, name, draws):
        asked.append((name, draws))
        return row(settings, name, draws)

    monkeypatch.setattr(wiring, "_row", watched)
    made = wiring_folder("small", measured) / "provenance.json"
    before = made.stat().st_mtime_ns
    measure_wiring("small", root=measured)
    assert sorted(asked) == [(name, (0,)) for name in sorted(ROWS)] and made.stat().st_mtime_ns == before
    good = read_record(made.parent)
    try:
        rewrite(made.parent, {"trace": {name: each | {"parameters": 1} for name, each in good["trace"].items()}})
        measure_wiring("small", root=measured)
        assert (ROWS[0], (1, 2)) in asked and read_record(made.parent)["rows"] == good["rows"]
    finally:
        rewrite(made.parent, {"trace": good["trace"]})


def test_tables_print_the_share_and_say_in_words_what_is_above_five_percent(measured):
    table = words.table("4.5", "small", measured)
    column = table.header.index("blind %")
    cells = {row[0]: row[column] for row in table.rows}
    assert cells["ResNet-50"] == "0" and int(cells["3×3 dilated, d = 4"]) > 30
    assert "–" in cells["random dilated d = 8, convolution (ours)"]  # a range over draws
    assert "More than 5 % of the weights are blind** in 3×3 dilated, d = 4" in table.caption
    assert "three draws" in table.caption
    assert "ResNet-50, 0 %" not in table.caption
    assert "see nothing but padding in 3×3 dilated" in claims.table("small", measured).after
    frame = results.table("4.5", "small", measured).set_index("variant")
    assert frame.loc["resnet50_dilated4", "blind"] == frame.loc["resnet50_dilated4", "blind_high"]


def test_shares_of_other_settings_are_not_shown(measured, tmp_path):
    fabricate(tmp_path, ROWS, measured=False)
    change(tmp_path, image_size=64, width=8, zero_init=True)
    assert results.load_wiring("small", tmp_path) == {}
    table = words.table("4.5", "small", tmp_path)
    assert "blind %" not in table.header and "python -m ctxnet measure --protocol small" in table.after
    wiring_folder("small", measured).rename(wiring_folder("small", tmp_path))
    assert results.load_wiring("small", tmp_path)
    change(tmp_path, image_size=96)
    assert results.load_wiring("small", tmp_path) == {}
    wiring_folder("small", tmp_path).rename(wiring_folder("small", measured))


@pytest.mark.parametrize(
    "bad", [{"rows": []}, {"protocol": "fast"},
            {"rows": {"resnet50": {"blind": [2.0], "parameters": 1, "multiply_adds": 1}}},
            {"rows": {"resnet50": {"blind": [], "parameters": 1, "multiply_adds": 1}}},
            {"rows": {"resnet50": {"blind": [0.0], "parameters": "1", "multiply_adds": 1}}}],
)  # fmt: skip
def test_an_impossible_record_is_refused_with_its_path(measured, bad):
    folder = wiring_folder("small", measured)
    good = {key: read_record(folder)[key] for key in ("rows", "protocol")}
    try:
        rewrite(folder, bad)
        with pytest.raises(results.BadRecord, match="wiring/record.json") as caught:
            results.load_wiring("small", measured)
        assert "\n" not in str(caught.value)
    finally:
        rewrite(folder, good)


def test_a_damaged_record_is_refused(measured):
    path = wiring_folder("small", measured) / "record.json"
    whole = path.read_bytes()
    try:
        path.write_bytes(whole.replace(b"0.0", b"0.1"))
        with pytest.raises(results.BadRecord, match="wiring/record.json: damaged"):
            words.table("4.5", "small", measured)
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("arguments, message", [
    (["--protocol", "smal"], "did you mean 'small'"), (["--protocol", "small", "--everywhere"], "goes with --variant"),
])  # fmt: skip
def test_a_wrong_command_is_refused_in_a_line(arguments, message):
    with pytest.raises(SystemExit) as caught:
        main(["measure", *arguments])
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("protocol, name", [
    ("small", "resnet50_dilated4"), ("small128", "resnet50_inserted_dilated8"), ("context", "starved_shiftmap"),
])  # fmt: skip
def test_the_committed_shares_are_those_of_the_present_code(protocol, name):
    rows = results.load_wiring(protocol, REPO)
    assert rows, f"make it with: {results.wiring_command(protocol)}"
    settings = dataclasses.replace(load_protocol(protocol, REPO / "params.yaml"), zero_init=False)
    assert rows[name] == json.loads(json.dumps(wiring._row(settings, name)))
    model = network(settings, name, parse_seeds(0), num_classes=10)
    images = torch.randn(2, 3, settings.image_size, settings.image_size)
    assert rows[name]["blind"][0] == pytest.approx(unseen_weights(model, images).share, abs=1e-6)
