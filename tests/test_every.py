"""Every architecture of timm: the run, its table, the check of its masks, gains, accuracies."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from ctxnet.__main__ import main
from ctxnet.atlas import accuracies, every
from ctxnet.atlas.children import Failure, in_children
from ctxnet.atlas.gains import close_gains, open_gains
from ctxnet.atlas.measures import evenly
from ctxnet.atlas.one import SHOWN, build, measure_architecture
from ctxnet.atlas.probing import probe_field
from ctxnet.measure.receptive_field import Reach
from ctxnet.records import DamagedRecord, append_row, read_table, tidy_table

# Registered with timm where it is imported, which the processes that measure do as well.
NETWORKS = """
import os, time
import timm
import torch
from torch import nn

class Tiny(nn.Module):
    def __init__(self, what):
        super().__init__()
        self.what = what
        self.blocks = nn.Sequential(Block(3), Block(8))
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        if self.what == "picky" and x.shape[-1] != 96:
            raise ValueError("takes 96 px and nothing else")
        if self.what == "dies":
            os._exit(7)
        if self.what == "sleeps":
            time.sleep(600)
        if self.what == "greedy":
            x = x + torch.zeros(40 * 2**30, dtype=torch.uint8)[:1]
        return self.head(self.blocks(x).mean((2, 3)))

class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv, self.act = nn.Conv2d(channels, 8, 3, padding=1), nn.ReLU()

    def forward(self, x):
        return self.act(self.conv(x))

def network(name):
    def entry(pretrained=False, **kwargs):
        return Tiny(name)
    entry.__name__ = f"ctxtest_{name}"
    entry.__module__ = "bad_networks"
    return entry

for name in ("dies", "good", "greedy", "picky", "sleeps"):
    timm.models.register_model(network(name))
"""


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """A module that registers networks of all kinds with timm, importable here and in processes of their own."""
    folder = tmp_path_factory.mktemp("networks")
    (folder / "bad_networks.py").write_text("__all__ = []\n" + NETWORKS)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def measured(networks, tmp_path_factory):
    """One run over good and bad networks: (root, rows)."""
    root = tmp_path_factory.mktemp("root")
    given = {"imports": ("bad_networks",), "progress": False, "seconds": 12, "gigabytes": 6}
    return root, every.measure_every(("timm:ctxtest_*",), root=root, **given), given


def test_bad_networks_do_not_stop_the_others_and_say_why(measured):
    _, rows, _ = measured
    assert list(rows) == [f"ctxtest_{name}" for name in ("dies", "good", "greedy", "picky", "sleeps")]
    why = {name.removeprefix("ctxtest_"): (row.get("refused"), row.get("why")) for name, row in rows.items()}
    assert why["good"] == (None, None) and rows["ctxtest_good"]["blocks"] == 2
    assert why["dies"] == ("died", "its process died (exit code 7)")
    assert why["greedy"] == ("memory", "needs more than 6 GB of memory")
    assert why["picky"] == ("measures", "takes 96 px and nothing else")
    assert why["sleeps"] == ("time", "took more than 12 seconds")
    assert all(row["parameters"] == 898 and row["family"] == "bad_networks" for row in rows.values())


def test_a_second_call_measures_nothing_and_equal_rows_give_equal_bytes(measured):
    root, rows, given = measured
    table = root / "results/timm/networks.jsonl"
    before = table.read_bytes()
    started = time.monotonic()
    assert every.measure_every(("timm:ctxtest_*",), root=root, **given) == rows
    assert table.read_bytes() == before and time.monotonic() - started < 11  # the one that sleeps would take 12 seconds
    assert all(len(line) <= 1024 for line in before.splitlines())


def test_retry_asks_those_again_that_had_no_answer(measured, tmp_path):
    root, rows, given = measured
    folder = tmp_path / "results/timm"
    folder.mkdir(parents=True)
    for name in ("networks.jsonl", "reference.json"):
        (folder / name).write_bytes((root / "results/timm" / name).read_bytes())
    again = every.measure_every(("timm:ctxtest_picky", "timm:ctxtest_good"), root=tmp_path, retry=True, **given)
    assert again["ctxtest_good"] == rows["ctxtest_good"] and again["ctxtest_picky"]["why"] == rows["ctxtest_picky"]["why"]
    assert len(read_table(folder / "networks.jsonl")) == 5


@pytest.mark.torture
def test_a_run_that_is_killed_goes_on_where_it_was(networks, tmp_path):
    words = [sys.executable, "-m", "ctxnet", "atlas", "timm:ctxtest_[gs]*", "--import", "bad_networks"]
    environment = os.environ | {"PYTHONPATH": f"{networks}{os.pathsep}{Path(__file__).parents[1]}"}
    process = subprocess.Popen([*words, "--root", str(tmp_path)], env=environment, stderr=subprocess.DEVNULL)
    table = tmp_path / "results/timm/networks.jsonl"
    for _ in range(600):
        if table.exists() and "blocks" in read_table(table).get("ctxtest_good", {}):
            break
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = read_table(table)["ctxtest_good"]
    assert read_table(table)["ctxtest_sleeps"]["refused"] == "waiting"
    with open(table, "ab") as handle:  # as if it had been killed in the middle of a line
        handle.write(b'{"name":"ctxtest_greedy","fam')
    time.sleep(1)  # its children die with it, and the lock is free
    rows = every.measure_every(("ctxtest_[gs]*",), root=tmp_path, imports=("bad_networks",), progress=False, seconds=5)
    assert rows["ctxtest_good"] == kept and rows["ctxtest_sleeps"]["refused"] == "time"


def test_limits_of_size_say_so_and_can_be_raised(networks, tmp_path):
    given = {"root": tmp_path, "imports": ("bad_networks",), "progress": False}
    rows = every.measure_every(("ctxtest_good",), max_parameters=500, **given)
    assert rows["ctxtest_good"]["why"] == "0.0 M parameters, more than 0.0005 M"
    assert "blocks" in every.measure_every(("ctxtest_good",), max_parameters=1000, **given)["ctxtest_good"]


def test_rows_of_other_measures_are_put_aside(measured, tmp_path, capsys):
    root, _, given = measured
    folder = tmp_path / "results/timm"
    folder.mkdir(parents=True)
    (folder / "networks.jsonl").write_bytes((root / "results/timm/networks.jsonl").read_bytes())
    from ctxnet.files import read_sealed, write_sealed

    key = read_sealed(root / "results/timm/reference.json")
    key["trace"]["distance"] = [1e9]
    write_sealed(folder / "reference.json", {name: value for name, value in key.items() if name != "sha256"})
    every.measure_every(("ctxtest_good",), root=tmp_path, **given)
    assert list(read_table(folder / "networks.jsonl")) == ["ctxtest_good"]
    assert len(read_table(folder / "superseded-1.jsonl")) == 5
    assert "the code computes something else" in capsys.readouterr().err


# ---- names and numbers that people type --------------------------------------------------------------------------------


def test_patterns():
    assert every.architectures(("timm:resnet1?",)) == ["resnet18"]
    names = every.architectures()
    assert len(names) == len(set(names)) > 1000 and "resnet50" in names and not [n for n in names if "." in n]
    with pytest.raises(ValueError, match=r"no architecture of timm matches 'resnett\*'; did you mean 'resnet"):
        every.architectures(("timm:resnett*",))
    with pytest.raises(ValueError, match=r"matches 'zzqq\*'; \d+ are known"):
        every.architectures(("zzqq*",))


@pytest.mark.parametrize(("text", "number"), [("100M", 100_000_000), ("1.5g", 1_500_000_000), ("250k", 250_000), ("7", 7)])
def test_counts(text, number):
    assert every.parse_count(text) == number


@pytest.mark.parametrize("text", ["", "M", "-1", "0", "1 TB", "many"])
def test_wrong_counts(text):
    with pytest.raises(ValueError, match="write it as 100M"):
        every.parse_count(text)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["timm:nothing_*x"], "no architecture of timm matches 'nothing_*x'"),
        (["timm:resnet1*", "--input-size", "64"], "--input-size belongs to networks that are named"),
        (["timm:resnet1*", "resnet50"], "resnet50 is no pattern; measure it by a command of its own"),
    ],
)
def test_wrong_commands_are_one_line(words, message, tmp_path):
    with pytest.raises(SystemExit) as refused:
        main(["atlas", *words, "--root", str(tmp_path)])
    assert str(refused.value).startswith(f"ctxnet: {message}") and "\n" not in str(refused.value)
    assert not list(tmp_path.rglob("*.jsonl"))


# ---- what is measured ---------------------------------------------------------------------------------------------------


def test_a_row_says_what_the_measures_say(networks):
    import bad_networks  # noqa: F401  registers it

    row, model = measure_architecture("ctxtest_good"), build("ctxtest_good")
    assert row["rf_side"] == [3, 5] and row["exact"] and row["whole_from"] is None and row["third"] == [1.0, 1.0]
    assert row["rf_share"] == [float(f"{n / 224**2:.3g}") for n in (9, 25)] and row["map"] == [224, 224]
    assert row["multiply_adds"] == 224**2 * 9 * 8 * (3 + 8) + 80 and row["gains"] == 0 and "as_built" not in row
    assert row["check"] == {"layers": ["blocks.0", "blocks.1"], "probes": 200, "seen": row["check"]["seen"], "unsettled": 0,
                            "wrong": 0}  # fmt: skip
    assert sum(p.numel() for p in model.parameters()) == row["parameters"]
    assert measure_architecture("ctxtest_good") | {"made": 0} == row | {"made": 0}


def test_blocks_that_are_listed():
    assert evenly(range(3), SHOWN) == [0, 1, 2]
    many = evenly(range(55), SHOWN)
    assert len(many) == len(set(many)) == 10 and many[0] == 0 and many[-1] == 54 and many == sorted(many)


def _small():
    torch.manual_seed(0)
    layers = torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(4, 4, 3, padding=1)
    return torch.nn.Sequential(*layers).eval()


def test_probes_agree_with_the_right_mask_and_see_every_wrong_one():
    model = _small()
    reach = Reach(model, ["2"], (3, 24, 24))
    mask, exact = reach.masks({"2": (12, 12)})["2"]
    right = probe_field(model, reach, "2", mask, exact, pixels=60)
    assert right["probes"] == 60 and right["wrong"] == 0 and right["unsettled"] == 0 and right["seen"] == 1
    small, large = mask.clone(), mask.clone()
    small[10, 10] = False  # one pixel too few: it reaches the feature
    assert probe_field(model, reach, "2", small, exact, pixels=60)["wrong"] >= 1
    large[9] = True  # a row too many: nothing moves it
    assert probe_field(model, reach, "2", large, exact, pixels=600)["unsettled"] > 0
    assert probe_field(model, reach, "2", large, False, pixels=600)["unsettled"] == 0  # an upper bound may be too large


class _Tokens(torch.nn.Module):
    """Tokens of a normalised map of one image: the gradient comes back with strides that torch 2.11 takes for others."""

    def __init__(self):
        super().__init__()
        self.convolution, self.bn = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.BatchNorm2d(8)
        self.norm, self.last = torch.nn.LayerNorm(8), torch.nn.Linear(8, 8)

    def forward(self, x):
        return self.last(self.norm(self.bn(self.convolution(x)).flatten(2).transpose(1, 2)))


def test_gradients_find_their_way_through_a_normalised_map_of_one_image():
    torch.manual_seed(0)
    model = _Tokens().eval()
    reach = Reach(model, ["last"], (3, 24, 24))
    mask, exact = reach.masks({"last": reach.grids["last"].position(None)})["last"]
    assert mask.sum() == 9
    found = probe_field(model, reach, "last", mask, exact, pixels=60)
    assert found["wrong"] == 0 and found["seen"] == 1


class _Rolled(torch.autograd.Function):
    """The identity, with a backward pass that gives the gradient to other pixels."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient.roll(8, -1)


class _Contradicts(torch.nn.Module):
    def forward(self, x):
        return _Rolled.apply(x)


def test_a_backward_pass_that_contradicts_the_forward_pass_is_no_error_of_the_mask():
    torch.manual_seed(0)
    convolutions = [torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.Conv2d(4, 4, 3, padding=1)]
    model = torch.nn.Sequential(convolutions[0], _Contradicts(), convolutions[1]).eval()
    reach = Reach(model, ["2"], (3, 24, 24))
    mask, exact = reach.masks({"2": (12, 12)})["2"]
    with pytest.raises(ValueError, match="layer '2': PyTorch's backward pass gives 25 pixels a gradient"):
        probe_field(model, reach, "2", mask, exact, pixels=60)


def test_probes_agree_with_one_by_one():
    """What a few passes say is what :func:`ctxnet.measure.check_receptive_field` finds pixel by pixel."""
    from ctxnet.measure import check_receptive_field

    model = build("test_resnet")
    layer = "layer2.0"
    reach = Reach(model, [layer], (3, 96, 96))
    mask, exact = reach.masks({layer: reach.grids[layer].position(None)})[layer]
    assert check_receptive_field(model, layer, (96, 96), pixels=30) == []
    assert probe_field(model, reach, layer, mask, exact, pixels=30)["wrong"] == 0
    assert not mask.all()


@pytest.mark.parametrize(("name", "share"), [("test_resnet", "bn.weight"), ("test_convnext", "gamma"), ("test_vit", "")])
def test_gains_near_zero_are_opened_and_closed_again(name, share):
    model = build(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    opened = open_gains(model)
    assert all(key.endswith("weight" if share == "bn.weight" else share) for key in opened) and bool(opened) == bool(share)
    assert all("bn" in key for key in opened) or share != "bn.weight"
    parameters = dict(model.named_parameters())
    assert all(bool((parameters[key] == 1).all()) for key in opened)
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == set(opened)  # no bias, no position, no token
    close_gains(model, opened)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


# ---- the table -----------------------------------------------------------------------------------------------------------


def test_a_table_keeps_the_last_row_of_a_name_and_survives_a_torn_end(tmp_path):
    path = tmp_path / "folder/table.jsonl"
    assert read_table(path) == {}
    for row in ({"name": "a", "n": 1}, {"name": "b", "n": 2}, {"name": "a", "n": 3}):
        append_row(path, row)
    assert read_table(path) == {"b": {"name": "b", "n": 2}, "a": {"name": "a", "n": 3}}
    path.write_bytes(path.read_bytes()[:-9])  # killed while it wrote
    assert read_table(path) == {"a": {"name": "a", "n": 1}, "b": {"name": "b", "n": 2}}
    append_row(path, {"name": "c", "n": 4})
    tidy_table(path, lambda row: -row["n"])
    assert [json.loads(line)["name"] for line in path.read_text().splitlines()] == ["c", "b", "a"]


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "table.jsonl"
    for number in range(3):
        append_row(path, {"name": f"n{number}", "top1": 0.5})
    whole = path.read_bytes()
    for at in range(0, len(whole) - 1, 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(DamagedRecord, match=re.escape(str(path)) + r", line [123]"):
            read_table(path)
    with pytest.raises(ValueError, match="top1=7 must be a share"):
        append_row(path, {"name": "x", "top1": 7})
    with pytest.raises(ValueError, match="no name"):
        append_row(path, {"top1": 0.5})


# ---- processes -----------------------------------------------------------------------------------------------------------


def test_calls_of_one_process_that_dies_cost_one_name(networks):
    found = dict(in_children(_size, ["good", "dies", "other"], batch=3, at_once=2))
    assert found == {"good": 4, "dies": Failure("died", "its process died (exit code 3)"), "other": 5}


def _size(name):
    if name == "dies":
        os._exit(3)
    return len(name)


# ---- published accuracies ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("resnet50.a1_in1k", "in1k"), ("resnet50.fb_ssl_yfcc100m_ft_in1k", "more"), ("vit_base_patch16_224.mae", "in1k"),
        ("deit_base_distilled_patch16_224.fb_in1k", "distilled"), ("hgnet_base.ssld_in1k", "distilled"),
        ("tf_efficientnet_b0.ns_jft_in1k", "more"), ("repvit_m1.dist_450e_in1k", "distilled"),
        ("convnext_tiny.in12k_ft_in1k", "more"), ("resnet18.tv_in1k", "in1k"), ("tresnet_l.miil_in1k_448", "in1k"),
    ],
)  # fmt: skip
def test_what_weights_were_trained_on(model, kind):
    assert accuracies.training(model) == kind


def test_one_accuracy_an_architecture():
    lines = [{"model": model, "img_size": size, "top1": top1} for model, size, top1 in (
        ("a.in22k_ft_in1k", "224", "90.0"), ("a.x_in1k", "288", "80.0"), ("a.y_in1k", "224", "79.0"),
        ("a.z_in1k", "224", "78.0"), ("b.fb_dist_in1k", "384", "84.123"), ("c.in1k", "224", "70.0"),
    )]  # fmt: skip
    found = accuracies.chosen(lines, {"a": 224, "b": 224, "d": 224})
    assert found["a"] == {"name": "a", "tag": "y_in1k", "training": "in1k", "test_size": 224, "top1": 0.79, "sets": 4}
    assert found["b"]["training"] == "distilled" and found["b"]["top1"] == 0.84123 and list(found) == ["a", "b"]


def test_accuracies_come_from_the_pinned_table_alone(monkeypatch, tmp_path):
    monkeypatch.setenv(accuracies.LOCAL, str(tmp_path))
    with pytest.raises(FileNotFoundError, match="holds no results-imagenet.csv"):
        accuracies.find_table()
    (tmp_path / accuracies.NAME).write_text("model,img_size,top1\na.in1k,224,99.0\n")
    with pytest.raises(ValueError, match="SHA-256 is .*, expected 30972bf7"):
        accuracies.find_table()
    assert accuracies.read_accuracies(tmp_path) == {}
    pinned = r"https://.*/aa4b5850c1543fa488abf260f18390eda46cf85d/results/results-imagenet.csv"
    assert re.fullmatch(pinned, accuracies.ADDRESS)
