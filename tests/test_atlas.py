"""The atlas: its table, its measures, its records and the command that makes them."""

import ast
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import ctxnet
from ctxnet import atlas
from ctxnet.__main__ import main
from ctxnet.atlas import measures, records
from ctxnet.atlas.names import folder_name
from ctxnet.atlas.networks import RCAN, UNet
from ctxnet.measure import ContextProfile
from ctxnet.models.variants import VARIANTS
from ctxnet.paper.figures import atlas as drawn
from ctxnet.paper.figures import style
from ctxnet.records import decode_profile, write_record
from ctxnet.tensors import save_tensors

ROOT = Path(__file__).parents[1]

# ---- nets for 32×32 pixels --------------------------------------------------------------------------------------------

CIFAR = {"20": 0.27, "32": 0.46, "44": 0.66, "56": 0.85, "110": 1.7}  # He et al. 2016, Table 6: millions


@pytest.mark.parametrize("depth", CIFAR)
def test_cifar_nets_have_the_papers_parameters_and_layers(depth):
    for kind in ("resnet", "plain") if depth in ("20", "56") else ("resnet",):
        model = ctxnet.create_model(f"{kind}{depth}", num_classes=10)
        assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2 if depth != "110" else 1) == CIFAR[depth]
        weighted = [m for m in model.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))]
        assert len(weighted) == int(depth)


def test_cifar_shortcuts_are_the_only_difference():
    """Branches that give zero leave a ResNet the shortcuts alone (option A), and a plain net nothing."""
    image = torch.rand(1, 3, 32, 32)
    for name, alive in (("resnet20", True), ("plain20", False)):
        model = ctxnet.create_model(name).eval()
        for block in (m for m in model.modules() if hasattr(m, "bn2")):
            torch.nn.init.zeros_(block.bn2.weight)
        with torch.no_grad():
            stem = model.relu(model.bn1(model.conv1(image)))
            features = model.forward_features(image)
        assert features.shape == (1, 64, 8, 8) and bool(features.any()) == alive
        if alive:  # 16 channels became 32 and then 64: 8 + 16 zeros on either side of them
            assert torch.equal(features[:, 24:40], stem[:, :, ::4, ::4]) and not features[:, :24].any()
    plain, residual = ctxnet.create_model("plain56"), ctxnet.create_model("resnet56")
    assert plain.state_dict().keys() == residual.state_dict().keys()


def test_cifar_width_is_a_share_of_full_size_as_for_every_row():
    for width, channels in ((64, 16), (16, 4), (128, 32), (1, 1)):
        model = ctxnet.create_model("plain20", width=width, num_classes=7, drop_rate=0.1, input_size=40)
        assert model.conv1.out_channels == channels and model.fc.in_features == 4 * channels
        assert model(torch.zeros(2, 3, 40, 24)).shape == (2, 7)
    first, second, other = (ctxnet.create_model("resnet20", seed=seed).conv1.weight for seed in (1, 1, 2))
    assert torch.equal(first, second) and not torch.equal(first, other)
    with pytest.raises(ValueError, match="no context slot"):
        ctxnet.create_model("resnet20", context="permutation")
    with pytest.raises(ValueError, match="depth=56"):
        ctxnet.models.cifar.CifarNet(60)


def test_calibrate_is_still_where_it_was():
    from ctxnet.training.context import calibrate

    assert calibrate is ctxnet.measure.calibrate


# ---- the table --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shapes():
    """Every row, built without memory."""
    with torch.device("meta"):
        return {name: row.build().eval() for name, row in atlas.ROWS.items()}


def test_every_row_builds_and_has_layers_to_measure(shapes):
    assert len({row.label for row in atlas.ROWS.values()}) == len(atlas.ROWS)
    for name, row in atlas.ROWS.items():
        layers = row.layer_names(shapes[name])
        assert len(layers) >= 3 and set(layers) <= {n for n, _ in shapes[name].named_modules()}, name
        assert row.family in atlas.FAMILIES and row.source.split("; ")[1] in ("timm", "torchvision", "ctxnet"), name


def test_all_rows_of_the_thesis_are_in_it_with_their_trained_records():
    thesis = [name for name, variant in VARIANTS.items() if variant.thesis_top1]
    assert len(thesis) == 19 and set(thesis) <= set(atlas.ROWS)
    assert all(atlas.ROWS[name].small == name for name in thesis)


PARAMETERS = {  # as the papers or the libraries' own documentation give them, millions
    "alexnet": 61.10, "vgg16": 138.36, "vgg19": 143.67, "googlenet": 6.62, "resnet18": 11.69, "resnet50": 25.56,
    "resnet101": 44.55, "resnet152": 60.19, "wide_resnet50_2": 68.88, "resnext50_32x4d": 25.03, "densenet121": 7.98,
    "seresnet50": 28.09, "squeezenet1_0": 1.25, "mobilenetv1_100": 4.23, "mobilenetv2_100": 3.50, "xception": 22.86,
    "efficientnet_b0": 5.29, "efficientnet_b3": 12.23, "convnext_tiny": 28.59, "vit_base_patch16_224": 86.57,
    "swin_tiny": 28.29, "mixer_b16": 59.88, "resmlp_12": 15.35, "unet": 31.04, "lenet5": 0.06,
}  # fmt: skip


def test_parameters_of_well_known_networks(shapes):
    counts = {name: sum(p.numel() for p in shapes[name].parameters()) / 1e6 for name in PARAMETERS}
    assert all(abs(counts[name] - millions) <= 0.0051 for name, millions in PARAMETERS.items()), counts


def test_attention_blocks_are_in_the_networks_named_after_them(shapes):
    kinds = {name: {type(m).__name__ for m in shapes[name].modules()} for name in ("cbam_resnet50", "seresnet50", "rcan")}
    assert {"CbamModule", "SpatialAttn"} <= kinds["cbam_resnet50"]
    assert "SEModule" in kinds["seresnet50"] and "RCAB" in kinds["rcan"]


def test_own_networks_give_what_they_are_for():
    image = torch.zeros(1, 3, 32, 48)
    assert UNet(num_classes=5, width=4)(image).shape == (1, 5, 32, 48)
    assert RCAN(groups=1, blocks=1, channels=8, reduction=4, scale=3)(image).shape == (1, 3, 96, 144)


def test_the_room_imports_nothing_from_above():
    for path in (ROOT / "ctxnet" / "atlas").glob("*.py"):
        nodes = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom)]
        assert not {"report", "pipeline", "training"} & {part for n in nodes for part in (n.module or "").split(".")}


SMALL = {"lenet5": 32, "plain20": 32, "alexnet": 64, "squeezenet1_0": 64, "mobilenetv2_100": 64, "rcan": 24}
FIXED = ("vit_base_patch16_224", "swin_tiny", "mixer_b16", "resmlp_12", "lenet5")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in SMALL else pytest.mark.torture) for n in atlas.ROWS]
)  # fmt: skip
def test_rows_can_be_measured(name):
    row = atlas.ROWS[name]
    size = SMALL.get(name, row.size if name in FIXED else min(row.size, 96))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = row.build()
    layers = row.layer_names(model)
    values = atlas.measure(model, size, layers=layers).values
    assert len(layers) == len(values["rf_side"]) == len(values["distance"]) == len(values["erf_share"]["0.9"])
    assert all(0 < share <= 1 for share in values["rf_share"]) and max(values["rf_side"]) <= size
    for distance, half, most in zip(values["distance"], *list(values["erf_share"].values())[::2], strict=True):
        assert distance is None or (0 <= distance < size * 2**0.5 and 0 < half <= most <= 1)


# ---- measures ---------------------------------------------------------------------------------------------------------


def test_multiply_adds_of_known_networks(shapes):
    image = torch.zeros(1, 3, 224, 224, device="meta")
    assert atlas.multiply_adds(shapes["resnet50"], image) == 4_089_184_256
    assert abs(atlas.multiply_adds(shapes["vgg16"], image) / 1e9 - 15.47) < 0.01
    assert abs(atlas.multiply_adds(shapes["mobilenetv2_100"], image) / 1e9 - 0.30) < 0.005


def test_multiply_adds_by_hand():
    conv = torch.nn.Conv2d(4, 6, 3, padding=1, groups=2)
    assert atlas.multiply_adds(conv, torch.zeros(1, 4, 10, 12)) == 10 * 12 * 6 * 2 * 9
    up = torch.nn.ConvTranspose2d(4, 6, 2, stride=2)
    assert atlas.multiply_adds(up, torch.zeros(1, 4, 5, 5)) == 5 * 5 * 4 * 6 * 4
    assert atlas.multiply_adds(torch.nn.BatchNorm2d(4), torch.zeros(1, 4, 5, 5)) == 0


def test_attention_is_counted():
    class Attention(torch.nn.Module):
        def forward(self, x):  # 3 heads of 7 tokens with 8 channels
            return torch.nn.functional.scaled_dot_product_attention(x, x, x)

    assert atlas.multiply_adds(Attention(), torch.zeros(2, 3, 7, 8)) == 2 * 3 * (7 * 7 * 8 + 7 * 7 * 8)


def brute_force_share(erf, part):
    values, taken, count = sorted(erf.ravel().tolist(), reverse=True), 0.0, 0
    while taken < part * sum(values) * (1 - 1e-12):
        taken, count = taken + values[count], count + 1
    return count / len(values)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.99, 1.0])
def test_erf_share_against_brute_force(part):
    generator = np.random.default_rng(0)
    for erf in (generator.random((9, 7)), generator.random((16, 16)) ** 8, np.ones((5, 4)), np.eye(6)):
        assert abs(atlas.erf_share(erf, part) - brute_force_share(erf, part)) < 1e-6


def test_erf_share_refuses_what_means_nothing():
    with pytest.raises(ValueError, match="nearest valid value: 1"):
        atlas.erf_share(np.ones((2, 2)), 90)
    with pytest.raises(ValueError, match="sums to"):
        atlas.erf_share(np.zeros((2, 2)), 0.5)


@pytest.mark.parametrize(
    ("maps", "ends", "shown"),
    [
        ([56] * 3 + [28] * 4 + [14] * 6 + [7] * 3, [2, 6, 12, 15], [2, 6, 12, 15]),
        ([14] * 12, [2, 5, 8, 11], [2, 5, 8, 11]),  # one resolution: quarters of the depth
        ([32] * 3 + [16] * 3 + [8] * 3, [2, 4, 6, 8], [2, 4, 6, 8]),
        ([64, 32, 16, 8, 4, 8, 16, 32, 64], list(range(9)), [0, 3, 5, 8]),
        ([28, 10], [0, 1], [0, 1]),
    ],
)
def test_stages(maps, ends, shown):
    assert measures.stages(maps) == ends and measures.shown_stages(maps) == shown


def test_rf_side_is_that_of_the_box():
    mask = torch.zeros(20, 20, dtype=torch.bool)
    mask[3, 4] = mask[9, 18] = True
    assert measures.rf_side(mask) == 15 and measures.rf_side(torch.zeros(4, 4)) == 0


def test_measure_agrees_with_the_profile_and_leaves_trained_statistics_alone():
    model = ctxnet.create_model("resnet20", width=8, num_classes=3)
    result = atlas.measure(model, 32, layers=["layer1.0", "layer3.2"], fresh=False)
    assert int(model.bn1.num_batches_tracked) == 0 and float(model.bn1.running_mean.abs().sum()) == 0
    images = measures.probe_images(model, 32, 2)
    mask = ctxnet.receptive_field(model, "layer1.0", (32, 32))
    erf = ctxnet.effective_receptive_field(model, images, "layer3.2")
    assert result.values["rf_side"][0] == measures.rf_side(mask) == 7 and torch.equal(result.profile.rf[0], mask)
    assert result.values["erf_share"]["0.5"][1] == atlas.erf_share(erf, 0.5)
    assert result.values["map"] == [32, 8] and result.values["rf_exact"] == [True, True]
    atlas.measure(model, 32, layers=["layer1.0"])
    assert float(model.bn1.running_mean.abs().sum()) > 0


def test_probe_images_for_grey_and_refused_models():
    assert measures.probe_images(torch.nn.Conv2d(1, 2, 3), 32, 2).shape == (2, 1, 32, 32)
    with pytest.raises(ValueError, match="takes 5 channels"):
        measures.probe_images(torch.nn.Conv2d(5, 2, 3), 32, 2)
    with pytest.raises(ValueError, match="nearest valid value: 20"):
        measures.probe_images(torch.nn.Conv2d(3, 2, 3), 12, 2)


# ---- records ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def counted(monkeypatch):
    """The names of networks that were really measured, as they are."""
    real, seen = records.measure, []

    def measure(model, *args, **kwargs):
        seen.append(type(model).__name__)
        return real(model, *args, **kwargs)

    monkeypatch.setattr(records, "measure", measure)
    monkeypatch.setattr(records, "throughput", lambda model, images: 1.0)
    return seen


def run(root, *names, **kwargs):
    return atlas.measure_rows(names, root=root, progress=False, **kwargs)


def bytes_of(folder):
    return {p.relative_to(folder): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


def test_a_record_is_made_once(tmp_path, counted):
    measured, kept, failed = run(tmp_path, "lenet5")
    assert (len(measured), kept, failed) == (1, [], {}) and measured[0].name == "lenet5"
    before = bytes_of(tmp_path)
    measured, kept, failed = run(tmp_path, "lenet5")
    assert (measured, len(kept), failed) == ([], 1, {}) and counted == ["LeNet5"] and bytes_of(tmp_path) == before
    run(tmp_path, "lenet5", images=3)  # another setting
    assert len(counted) == 2


def test_tables_and_maps_are_equal_byte_for_byte(tmp_path, counted):
    for folder in ("a", "b"):
        run(tmp_path / folder, "lenet5", "plain20")
    a, b = (bytes_of(tmp_path / folder) for folder in ("a", "b"))
    assert a.keys() == b.keys()
    assert {path.name for path in a if a[path] != b[path]} <= {"provenance.json"}  # times
    text = (tmp_path / "a/results/atlas/atlas.csv").read_text().splitlines()
    assert text[0].split(",") == records.COLUMNS and [line.split(",")[0] for line in text[1:]] == ["lenet5", "plain20"]
    shutil.rmtree(tmp_path / "b/results/atlas/lenet5")
    run(tmp_path / "b", "lenet5")  # made in another order
    assert (tmp_path / "b/results/atlas/blocks.csv").read_bytes() == (tmp_path / "a/results/atlas/blocks.csv").read_bytes()


def test_a_damaged_record_is_refused_by_readers_and_made_again(tmp_path, counted, capsys):
    run(tmp_path, "lenet5")
    folder = tmp_path / "results/atlas/lenet5"
    good = bytes_of(folder)
    for name in ("record.json", "context.npz"):
        data = bytearray((folder / name).read_bytes())
        data[len(data) // 2] ^= 1
        (folder / name).write_bytes(data)
        with pytest.raises(ValueError, match="damaged"):
            atlas.read_record(folder)
        run(tmp_path, "lenet5")
        assert f"{name}: damaged" in capsys.readouterr().out
        assert (folder / name).read_bytes() == good[Path(name)]
    assert len(counted) == 3
    (folder / "record.json").unlink()  # as a kill before the end leaves it
    run(tmp_path, "lenet5")
    assert len(counted) == 4
    with pytest.raises(FileNotFoundError, match="python -m ctxnet atlas vgg16"):
        atlas.read_record(tmp_path / "results/atlas/vgg16")


MODEL = """
import torch
from torch import nn

def tiny():
    return nn.Sequential(nn.Conv2d(3, 8, {kernel}, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, stride=2))

def wrong():
    return 3

def breaks():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(5, 5))
"""


def test_a_model_in_a_file_of_ones_own(tmp_path, counted):
    file = tmp_path / "mine.py"
    file.write_text(MODEL.format(kernel=3))
    name = f"{file}:tiny"
    measured, _, failed = run(tmp_path, name, input_size=32)
    assert measured[0].name == folder_name(name) and not failed
    record = atlas.read_record(measured[0])
    assert record["layers"] == ["0", "2"] and record["rf_side"] == [3, 5] and record["map"] == [32, 15]
    assert not run(tmp_path, name, input_size=32)[0]
    file.write_text(MODEL.format(kernel=5))  # the code changed, and with it the network
    assert run(tmp_path, name, input_size=32)[0] and atlas.read_record(measured[0])["rf_side"] == [5, 7]
    for wrong, words in ((f"{file}:tinny", "'tiny'"), (str(file), ":function"), (f"{tmp_path}/no.py:f", "no such file")):
        with pytest.raises((ValueError, FileNotFoundError), match=words):
            run(tmp_path, wrong)
    file.write_text("1 / 0")
    with pytest.raises(ValueError, match="division by zero"):
        run(tmp_path, name)


def test_weights_of_a_file_have_a_record_of_their_own(tmp_path, counted):
    file = tmp_path / "mine.py"
    file.write_text(MODEL.format(kernel=3))
    model, name = atlas.find_row(f"{file}:tiny").build(), f"{file}:tiny"
    weights = tmp_path / "trained.safetensors"
    for scale, new in ((1.0, True), (1.0, False), (2.0, True)):
        save_tensors(weights, {key: scale * value for key, value in model.state_dict().items()}, {})
        measured, kept, failed = run(tmp_path, name, weights=weights, input_size=32)
        assert not failed and bool(measured) == new and (measured + kept)[0].name.startswith("mine.tiny+trained-")
    assert atlas.read_record(measured[0])["weights"] == "trained"
    save_tensors(weights, {"0.weight": torch.zeros(8, 3, 5, 5)}, {})
    assert "0.bias is missing" in run(tmp_path, name, weights=weights, input_size=32)[2][name]
    with pytest.raises(ValueError, match="name just one"):
        run(tmp_path, "lenet5", "plain20", weights=weights)


def test_one_failure_does_not_stop_the_others(tmp_path, counted, capsys):
    file = tmp_path / "mine.py"
    file.write_text(MODEL.format(kernel=3))
    names = [f"{file}:wrong", f"{file}:breaks", "lenet5"]
    with pytest.raises(SystemExit, match="2 of 3 not measured") as caught:
        main(["atlas", *names, "--root", str(tmp_path), "--quiet"])
    assert caught.value.code not in (0, None)
    error = capsys.readouterr().err
    assert "gave a int, not an nn.Module" in error and error.count("\n") == 2
    assert {p.name for p in (tmp_path / "results/atlas").iterdir() if p.is_file()} == {
        "atlas.csv", "blocks.csv", "overview.png", "overview.svg"
    }  # fmt: skip
    assert (tmp_path / "results/atlas/lenet5/context.png").exists()


@pytest.mark.parametrize(
    ("typed", "meant"), [("vgg61", "vgg16"), ("resnet50_prem1", "resnet50_perm1"), ("timm:resnet5", "resnet50")]
)
def test_a_wrong_name_is_answered_before_any_work(tmp_path, counted, typed, meant):
    with pytest.raises(SystemExit, match=f"'{meant}'"):
        main(["atlas", "lenet5", typed, "--root", str(tmp_path), "--quiet"])
    assert not counted and not (tmp_path / "results").exists()


def test_names_of_the_libraries(tmp_path):
    assert atlas.find_row("deit_base_patch16_384").size == 384 and atlas.find_row("mnasnet0_5").source == "torchvision"
    theirs, ours = atlas.find_row("timm:resnet18"), atlas.find_row("resnet18")
    with torch.device("meta"):
        assert type(theirs.build()).__module__.startswith("timm") and not type(ours.build()).__module__.startswith("timm")
    assert folder_name("timm:resnet18") == "timm.resnet18" and folder_name("a/b.py:f", "w x").startswith("b.f+w.x-")
    with pytest.raises(ValueError, match="unknown model 'qqqqqqqqq'; known: lenet5"):
        atlas.find_row("qqqqqqqqq")


def test_pretrained_without_a_connection_says_so_in_one_line(tmp_path, counted, capsys, monkeypatch):
    def offline(pretrained=False):
        if pretrained:
            raise OSError("no route to host\nand more lines")
        return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 4, 3))

    row = atlas.find_row("lenet5")
    monkeypatch.setattr(records, "_look_for_connection", lambda: None)  # it would tell this whole process to stay offline
    monkeypatch.setitem(atlas.ROWS, "net", type(row)("net", "classical", offline, 32, "nowhere; timm"))
    measured, _, failed = run(tmp_path, "net", "lenet5", pretrained=True)
    said = capsys.readouterr().err.splitlines()
    assert not failed and [folder.name for folder in measured] == ["net", "lenet5"] and len(said) == 2
    assert "net: random weights" in said[0] and "no route to host" in said[0] and "nobody offers" in said[1]


def test_stages_on_disk_keep_field_and_effect(tmp_path):
    at = torch.arange(224) - 100.0
    apart = torch.hypot(at[:, None], at)
    erf = torch.stack([torch.exp(-apart / d) * (apart < 60) for d in (5.0, 20.0)])
    erf /= erf.sum((1, 2), keepdim=True)
    center = torch.full((2, 2), 100.0, dtype=torch.float64)
    distance = torch.tensor([3.0, 9.0], dtype=torch.float64)
    profile = ContextProfile(["a", "b"], center, (apart < 60).expand(2, -1, -1), erf, distance, [True, False])
    read, _ = decode_profile(records.encode_profile(profile, cells=records.CELLS, levels=records.LEVELS))
    assert torch.equal(read.rf, profile.rf) and read.layers == ["a", "b"] and read.exact == [True, False]
    assert (read.erf - erf).abs().sum((1, 2)).max() < 0.2 and torch.allclose(read.erf.sum((1, 2)), torch.ones(2))
    for i, c in enumerate(read.center):
        assert abs(ctxnet.mean_distance(read.erf[i], c) - ctxnet.mean_distance(erf[i], c)) < 0.5


# ---- figures ----------------------------------------------------------------------------------------------------------


def test_labels_cover_neither_each_other_nor_a_point():
    generator = np.random.default_rng(0)
    points = [(x, y, f"network {i}") for i, (x, y) in enumerate(generator.normal(0.5, 0.12, (45, 2)).clip(0, 1))]
    fig = style.new_figure(5.5, 6)
    ax = fig.subplots()
    ax.plot([p[0] for p in points], [p[1] for p in points], "o", markersize=5)
    ax.set(xlim=(-0.1, 1.1), ylim=(-0.1, 1.1))
    fig.canvas.draw()
    boxes = np.array(drawn.place_labels(ax, points))
    assert not np.isnan(boxes).any()
    centres = ax.transData.transform([p[:2] for p in points])
    for i, box in enumerate(boxes):
        others = np.delete(boxes, i, 0)
        apart = (box[:2] >= others[:, 2:] - 1e-6) | (others[:, :2] >= box[2:] - 1e-6)
        assert apart.any(1).all()
        assert not ((centres > box[:2]) & (centres < box[2:])).all(1).any()


def test_figures_say_how_to_make_what_is_missing(tmp_path):
    (ax,) = drawn.draw_network("vgg16", tmp_path).axes
    assert "python -m ctxnet atlas vgg16" in [t.get_text() for t in ax.texts]
    assert "python -m ctxnet atlas" in drawn.table(tmp_path).markdown()
    assert "python -m ctxnet atlas" in [t.get_text() for t in drawn.draw_overview(tmp_path).axes[0].texts]
    assert "`python -m ctxnet atlas vgg16`" in drawn.table(tmp_path, ["vgg16"]).markdown()


def test_the_table_shows_the_speed_of_the_machine_that_measured():
    header, _, *lines = drawn.table(ROOT, ["lenet5", "resnet152"]).markdown().splitlines()
    assert header.endswith(" img/s |")
    cells = [line.rstrip(" |").rpartition("| ")[2] for line in lines]
    assert not [cell for cell in cells if "e" in cell]  # 7,047 and not 7.05e+03
    small, large = (float(cell.replace(",", "")) for cell in cells)
    assert small > 100 * large > 0


# ---- what lies in results/atlas ---------------------------------------------------------------------------------------

COMMITTED = ROOT / "results" / "atlas"
needs_records = pytest.mark.skipif(not (COMMITTED / "atlas.csv").exists(), reason="no atlas has been made yet")


@needs_records
def test_committed_records_are_whole_small_and_tabled(tmp_path):
    found = records.read_records(ROOT)
    assert set(atlas.ROWS) <= set(found)
    for name in atlas.ROWS:
        row = records.summary(found[name], name, ROOT)
        assert row["weights"] == "initial" and list(row) == records.COLUMNS
        assert (COMMITTED / name / "context.png").exists()
        speed = json.loads((COMMITTED / name / "provenance.json").read_text())["images_per_second"]
        assert speed > 0
    assert sum(p.stat().st_size for p in COMMITTED.rglob("*") if p.is_file()) < 6_000_000
    for name in found:  # the tables follow from the records
        (tmp_path / "results/atlas" / name).mkdir(parents=True)
        for file in ("record.json", "provenance.json", "context.npz"):
            shutil.copy(COMMITTED / name / file, tmp_path / "results/atlas" / name / file)
    (tmp_path / "results/small").symlink_to(ROOT / "results" / "small")
    records.write_tables(tmp_path)
    for table in ("atlas.csv", "blocks.csv"):
        assert (tmp_path / "results/atlas" / table).read_bytes() == (COMMITTED / table).read_bytes()


@needs_records
def test_records_say_what_is_known():
    found = records.read_records(ROOT)
    assert found["resnet50"]["multiply_adds"] == 4_089_184_256
    assert abs(found["vit_base_patch16_224"]["multiply_adds"] / 1e9 - 17.56) < 0.01  # attention is in it
    sides = [19, 27, 35, 43, 59, 75, 91, 107, 139, 171, 203]  # the rest is cut off by the border
    assert found["resnet50"]["rf_side"][:11] == sides and found["resnet50"]["rf_side"][12:] == [224] * 4
    assert found["plain56"]["rf_side"] == found["resnet56"]["rf_side"]


def test_a_record_of_another_folder_is_listed_by_its_folder(tmp_path):
    (tmp_path / "results/atlas/x").mkdir(parents=True)
    record = {"name": "n", "label": "N", "family": "", "source": "s", "weights": "initial", "size": 32, "parameters": 5}
    record |= {"multiply_adds": 7, "layers": ["a"], "map": [8], "rf_side": [3], "rf_share": [1.0], "rf_exact": [False]}
    record |= {"distance": [None], "erf_share": {"0.5": [None], "0.9": [None], "0.99": [None]}, "small": ""}
    write_record(tmp_path / "results/atlas/x", record, {}, {})
    path = records.write_tables(tmp_path)
    assert path.read_text().splitlines()[1] == "x,N,,s,initial,32,5,7,1,a,8,3,1,upper bound,1,–,,,,,,,,,"


def test_results_of_two_files_with_one_name_lie_apart(tmp_path):
    code = "from torch import nn\ndef make():\n    "
    code += "return nn.Sequential(nn.Conv2d(3, {n}, 3), nn.ReLU(), nn.Conv2d({n}, 4, 3))\n"
    names = []
    for n, part in enumerate(("one", "two"), start=2):
        (tmp_path / part).mkdir()
        (tmp_path / part / "model.py").write_text(code.format(n=n))
        model = torch.nn.Sequential(torch.nn.Conv2d(3, n, 3), torch.nn.ReLU(), torch.nn.Conv2d(n, 4, 3))
        torch.save(model.state_dict(), tmp_path / part / "initial.pth")
        names.append(f"{tmp_path / part / 'model.py'}:make")
    for name, part in zip(names, ("one", "two"), strict=True):
        assert len(run(tmp_path, name, input_size=32)[0]) == 1
        assert len(run(tmp_path, name, weights=tmp_path / part / "initial.pth", input_size=32)[0]) == 1
    found = records.read_records(tmp_path)
    assert len(found) == 4 and sorted({record["name"] for record in found.values()}) == names
    assert sum(record["weights"] == "initial" for record in found.values()) == 2  # a file called initial is not that
    assert len({folder_name(text) for text in ("a b", "a/b", "a.b", "a:b", "timm:x", "timm.x", "torchvision:x")}) == 6
