"""params.yaml and the command line: every number has a range, and every mistake is one line that names its place."""

import copy
import importlib.util
import os
from pathlib import Path

import pytest
import yaml

from ctxnet import settings
from ctxnet.__main__ import main
from ctxnet.training import campaign, load_params, load_protocol, rows_of, run, seeds_of

ROOT = Path(__file__).parents[1]
TRAIN = ["train", "--protocol", "quick", "--variant", "plain20"]
TEXT = (ROOT / "params.yaml").read_text("utf-8")
SETTINGS = yaml.safe_load(TEXT)


def edited(tmp_path, change):
    params = copy.deepcopy(SETTINGS)
    change(params)
    (tmp_path / "params.yaml").write_text(yaml.dump(params, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper)))
    return tmp_path / "params.yaml"


def quick(**changes):
    return lambda params: params["protocols"]["quick"].update(changes)


def test_settings_are_their_callers_own_and_an_edit_is_seen_at_once(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(TEXT)
    first, stamp = load_params(path), path.stat().st_mtime_ns
    first["protocols"]["quick"]["seeds"].append(5)
    first.clear()
    assert load_params(path) == load_params(ROOT / "params.yaml")
    path.write_text(TEXT.replace("  train_images: 3000\n", "  train_images: 4000\n"))
    os.utime(path, ns=(stamp, stamp))
    assert load_params(path)["probe"]["train_images"] == 4000


@pytest.mark.parametrize(
    "contents, message",
    [
        (b"", "holds nothing"),
        (b"- a\n- b\n", "holds a list"),
        (b"3\n", "holds a int"),
        (TEXT.encode() + "# F\xfcr\n".encode("latin-1"), r"line \d+ is not UTF-8"),
        (TEXT.replace("measure:\n", "measure:\nlattice:\n").encode(), "key 'lattice' is there twice"),
        (TEXT.replace("  train_images: 3000\n", "  train_images: 3000\n  train_images: 4\n").encode(), "line .*twice"),
        (TEXT.replace("train_images: 3000", "train_imges: 3000").encode(), "probe: unknown key 'train_imges'; did you mean"),
        (TEXT.replace("train_images: 3000", "train_images: many").encode(), "probe.train_images='many' must be of type int"),
        (TEXT.replace("train_images: 3000", "train_images: -1").encode(), "probe.train_images=-1 .*nearest valid value: 1"),
        (TEXT.replace("\nrows:", "\nrowz:").encode(), "missing group 'rows'"),
        (TEXT.replace("measure:\n", "measure:\nmeasured:\n").encode(), "unknown group 'measured'; did you mean 'measure'"),
        (b"a: [1, 2\n", "not valid YAML: line"),
        (b"a: 2001-99-99\n", "not valid YAML"),
        (b"[" * 50_000, "not valid YAML"),
        (b"- " * 50_000, "not valid YAML"),
        (b"? [1]\n: 2\n", "line 1: found unhashable key"),
        (b"a: \x00\n", "not valid YAML"),
    ],
)
def test_a_file_that_is_none_is_refused_in_one_line(tmp_path, contents, message):
    path = tmp_path / "params.yaml"
    path.write_bytes(contents)
    with pytest.raises(ValueError, match=message) as caught:
        load_params(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_settings_are_read_without_libyaml_as_well(monkeypatch):
    monkeypatch.delattr(yaml, "CSafeLoader")
    spec = importlib.util.spec_from_file_location("ctxnet.settings_without", ROOT / "ctxnet/settings.py")
    without = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(without)
    assert without.read_yaml(ROOT / "params.yaml") == settings.read_yaml(ROOT / "params.yaml")
    with pytest.raises(ValueError, match="key 'a' is there twice"):
        without.parse_yaml("a: 1\na: 2", "here")


def test_every_group_without_a_body_is_named(tmp_path):
    for name in yaml.safe_load(TEXT):
        with pytest.raises(ValueError, match=rf"params.yaml: {name}\b.*(holds nothing|must be a list)"):
            load_params(edited(tmp_path, lambda p, name=name: p.update({name: None})))
    for name in ("quick", "small"):
        with pytest.raises(ValueError, match=f"params.yaml: protocols.{name}: holds nothing"):
            load_params(edited(tmp_path, lambda p, name=name: p["protocols"].update({name: None})))


@pytest.mark.parametrize("text", ["1e-05", "1e-4", "1E-4", "1.e-4", "+1e-4", ".1e-3"])
def test_scientific_notation_is_a_number(tmp_path, text):
    (tmp_path / "params.yaml").write_text(TEXT.replace("weight_decay: 1.0e-4", f"weight_decay: {text}"))
    assert load_protocol("small", tmp_path / "params.yaml").weight_decay == float(text)


def test_every_number_has_a_range(tmp_path):
    settings = yaml.safe_load(TEXT)
    groups = {name: settings[name] for name in ("probe", "measure", "lattice")} | {"quick": settings["protocols"]["quick"]}
    for name, values in groups.items():
        for key in [k for k, v in values.items() if type(v) in (int, float)]:
            bad = [-1, 10**12] + ([float("nan"), float("inf")] if type(values[key]) is float else [])
            for value in bad:
                path = edited(tmp_path, lambda p, n=name, k=key, v=value: p["protocols" if n == "quick" else n].update(
                    {"quick": {**p["protocols"]["quick"], k: v}} if n == "quick" else {k: v}))  # fmt: skip
                with pytest.raises(ValueError, match=rf"{name}\.{key}=.*nearest valid value: [\d.]+$"):
                    load_params(path)


@pytest.mark.parametrize(
    "change, message",
    [
        (quick(seeds=[0, 0]), "seeds=.* there twice"),
        (quick(seeds=[]), "names no run"),
        (quick(seeds=[-1]), "seeds=-1 .*nearest valid value: 0"),
        (quick(decay_epochs=[-1]), "decay_epochs=-1"),
        (quick(batch_size=True), "batch_size=True must be of type int"),
        (quick(dataset="<img src=x onerror=alert(1)>"), "no name for a data set"),
        (quick(dataset="a\u2028b"), "no name for a data set"),
        (quick(dataset="$(touch x)"), "no name for a data set"),
        (quick(extends="smal"), "protocols.quick.extends: unknown parent 'smal'; did you mean 'small'"),
        (quick(extends=["small"]), "unknown parent"),
        (lambda p: p["protocols"].update(a={"extends": "b"}, b={"extends": "a"}), "goes in a circle .a → b → a"),
        (lambda p: p["protocols"].update({"../../x": p["protocols"]["quick"]}), r"protocols.'../../x': a protocol's name"),
        (lambda p: p["protocols"].update({"quick\n": p["protocols"]["quick"]}), "a protocol's name"),
        (lambda p: p["protocols"].update({"x" * 65: p["protocols"]["quick"]}), "a protocol's name"),
        (lambda p: p["protocols"].update({"atlas": p["protocols"]["quick"]}), "results/atlas belongs to others"),
        (lambda p: p["protocols"].update({"Quick": p["protocols"]["quick"]}), "results/.uick belongs to others"),
        (quick(name="../../x"), "protocols.quick.name: the group's own name"),
        (lambda p: p.update(protocol_names=[["quick"]]), "protocol_names: unknown protocol"),
        (lambda p: p.update(rows=[["resnet50"]]), "rows: unknown variant"),
        (lambda p: p["protocols"].update({"$(touch x)": p["protocols"]["quick"]}), "a protocol's name"),
        (lambda p: p["protocols"].update({"-x": p["protocols"]["quick"]}), "a protocol's name"),
        (lambda p: p["protocols"].update({1: p["protocols"]["quick"]}), "key 1 must be of type str"),
        (lambda p: p["rows"].append("resnet50"), "rows: 'resnet50' is there twice"),
        (lambda p: p["own_rows"].update(degradaton=[]), "own_rows: unknown protocol 'degradaton'; did you mean"),
        (lambda p: p["own_rows"].update(degradation=["plian20"]), "own_rows.degradation: unknown variant 'plian20'"),
        (lambda p: p["more_seeds"].update(small={"resnet5": [1]}), "more_seeds.small: unknown variant 'resnet5'"),
        (lambda p: p["more_seeds"].update(small={"resnet50": 1}), "more_seeds.small.resnet50=1 must be a list"),
        (lambda p: p["more_seeds"].update(small={"resnet50": [-1]}), "more_seeds.small.resnet50: seed -1"),
        (lambda p: p["campaign"]["assumed_minutes"].update(fast=float("nan")), "assumed_minutes.fast=nan"),
        (lambda p: p["campaign"].update(ordr=[]), "campaign: unknown key 'ordr'; did you mean 'order'"),
    ],
)  # fmt: skip
def test_mistakes_are_named_with_file_and_key(tmp_path, change, message):
    path = edited(tmp_path, change)
    with pytest.raises(ValueError, match=message) as caught:
        load_protocol("quick", path)
    assert str(caught.value).startswith(f"{path}: ") and len(str(caught.value)) < 400 and "\n" not in str(caught.value)


def test_a_protocol_states_only_what_differs(tmp_path):
    lines = "  longer: &longer {<<: *quick, epochs: 4}\n  longest: {<<: *longer, flip: true}\n"
    text = TEXT.replace("\n  quick:\n", "\n  quick: &quick\n").replace("\n  fast: &fast\n", f"\n{lines}  fast: &fast\n")
    text = text.replace("\nown_rows:\n", "\nown_rows:\n  longest: [plain20]\n")
    path = tmp_path / "params.yaml"
    path.write_text(text.replace("\nmore_seeds:\n", "\nmore_seeds:\n  longest: {plain20: [3, 0]}\n"))
    params, longest, parent = load_params(path), load_protocol("longest", path), load_protocol("quick", path)
    assert (longest.epochs, longest.flip, longest.width) == (4, True, parent.width)
    assert load_protocol("longer", path).flip is parent.flip
    assert rows_of(longest, params) == ["plain20"] and seeds_of(longest, "plain20", params) == [0, 3]


@pytest.mark.parametrize(
    "words",
    [
        [*TRAIN, "--seed", "-1"],
        [*TRAIN, "--seed", "1" + "0" * 30],
        *([*TRAIN, "--max-minutes", bad] for bad in ("nan", "inf", "-1", "0")),
        ["campaign", "--protocol", "quick", "--max-minutes", "nan"],
        ["campaign", "--protocol", "quick", "--at-once", "0"],
        ["campaign", "--protocol", "quick", "--seeds", "0", "-1"],
        ["atlas", "lenet5", "--input-size", "-3"],
        ["atlas", "lenet5", "--input-size", "100000000"],
    ],
)
def test_numbers_of_the_command_line_have_a_range(words, capsys):
    with pytest.raises(SystemExit) as caught:
        main(words)
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert caught.value.code == 2 and f"argument {[word for word in words if word[:2] == '--'][-1]}: " in last


def test_a_hostile_protocol_name_touches_nothing(tmp_path, monkeypatch):
    (tmp_path / "params.yaml").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    for name in ("../../x", "$(touch x)", "a\nb"):
        with pytest.raises(SystemExit) as refused:
            main(["train", "--protocol", name, "--variant", "plain20"])
        assert "unknown protocol" in refused.value.code and "\n" not in refused.value.code
    assert [p.name for p in tmp_path.iterdir()] == ["params.yaml"]


@pytest.mark.parametrize("work", [lambda p, **k: run(p, "plain20", **k), campaign])
def test_no_time_is_not_forever(tmp_path, work):
    with pytest.raises(ValueError, match="max_minutes=nan is no time; nearest valid value: None"):
        work(load_protocol("quick", ROOT / "params.yaml"), root=tmp_path, max_minutes=float("nan"))
    assert not any(tmp_path.iterdir())
