"""Every row: counts, shapes, precisions, compilation, weights, errors."""

import copy

import pytest
import torch

import ctxnet
from ctxnet.models.variants import VARIANTS
from tests.toys import rest_is_torture

RESNETS = [name for name in VARIANTS if isinstance(VARIANTS[name].arch, int)]
CONTEXTS = [name for name in RESNETS if VARIANTS[name].args]

# parameters without the classifier
COUNTS = {
    "resnet50": 23_508_032, "resnet50_perm1": 28_537_920, "resnet50_perm3": 38_597_696, "resnet50_perm5": 48_657_472,
    "resnet50_perm1_stages34": 28_226_624, "resnet50_perm1_enc": 28_537_920, "resnet50_perm3_enc": 38_597_696,
    "resnet50_perm5_enc": 48_657_472, "resnet50_perm1_attn": 23_508_032, "resnet50_perm3_attn": 23_508_032,
    "resnet50_perm5_attn": 23_508_032, "resnet50_dilated4": 23_508_032, "resnet50_inserted_dilated4": 34_832_832,
    "resnet50_inserted_dilated8": 34_832_832, "resnet50_random_dilated16": 63_747_136,
    "resnet50_random_dilated8": 63_747_136, "resnet50_random_dilated8_conv": 34_832_832, "hrnet_w18": 19_250_004,
    "convnext_tiny": 27_820_128, "vit_base_patch16_224": 85_798_656,
}  # fmt: skip


def small(name, **kwargs):
    return ctxnet.create_model(name, **{"width": 8, "input_size": 64} | kwargs)


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts_are_those_of_the_thesis(name):
    with torch.device("meta"):
        model = ctxnet.create_model(name)
    assert ctxnet.count_parameters(model) == COUNTS[name]


@pytest.mark.parametrize("name", list(VARIANTS))
def test_every_row_trains_a_step_in_channels_last(name):
    model = small(name, num_classes=7, width=16).to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 64, 64)
    y = model(x)
    y.square().mean().backward()
    assert y.shape == (2, 7)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    model.eval()
    with torch.inference_mode():
        assert model(x).isfinite().all()
    model(x)  # tables made in inference mode must serve training, too


@pytest.mark.parametrize("name", CONTEXTS)
def test_rows_take_any_size_and_precision(name):
    model = small(name).eval()
    x = torch.randn(1, 3, 45, 70)
    expected = model.double()(x.double())
    single = copy.deepcopy(model).float()(x).double()
    assert (single - expected).abs().max() <= 1e-3 * expected.abs().max()
    assert model.bfloat16()(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("name", rest_is_torture(CONTEXTS))
def test_compiles_without_graph_breaks(name):
    """The block that a row changes; what is around it is the network of the next test."""
    model = small(name, width=4)
    blocks = [block for _, block in model.named_modules() if isinstance(block, ctxnet.models.resnet.Bottleneck)]
    block = next((b for b in blocks if any(n.endswith("context") for n, _ in b.named_modules())), blocks[0])
    assert_compiles(block, torch.randn(1, block.conv1.in_channels, 16, 16))


@pytest.mark.parametrize("name", ["resnet18", pytest.param("resnet50_perm1_stages34_attn", marks=pytest.mark.torture)])
def test_whole_networks_compile_without_graph_breaks(name):
    assert_compiles(small(name), torch.randn(1, 3, 64, 64))


def assert_compiles(model, x):
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=False)
    compiled(x).sum().backward()
    assert torch.allclose(compiled.eval()(x), model.eval()(x), atol=1e-4)


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
@pytest.mark.parametrize("context", [None, "permutation", "attention", "inserted_dilated", "random_dilated"])
def test_all_depths_take_the_slot(depth, context):
    if depth > 50 and context not in (None, "permutation"):
        pytest.skip("the same bottleneck as ResNet-50")
    model = ctxnet.create_model(f"resnet{depth}", width=4, input_size=64, context=context)
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 10)
    blocks = [m for n, m in model.named_modules() if n.endswith(".context")]
    assert len(blocks) == {18: 8, 34: 16, 50: 16, 101: 33, 152: 50}[depth]


def test_context_goes_where_it_is_asked_for():
    def filled(**kwargs):
        model = small("resnet50", context="permutation", k=2, encoding=True, **kwargs)
        return [n for n, m in model.named_modules() if n.endswith(".context") and not isinstance(m, torch.nn.Identity)]

    assert filled(stages=(3, 4)) == [f"layer3.{i}.context" for i in range(6)] + [f"layer4.{i}.context" for i in range(3)]
    assert filled(blocks=["layer2.1"]) == ["layer2.1.context"]
    assert len(filled()) == 16


@pytest.mark.parametrize("name", ["resnet50_perm1", "resnet50_random_dilated8"])
def test_same_seed_same_function_after_reload(name, tmp_path):
    model, x = small(name, seed=5).eval(), torch.randn(1, 3, 64, 64)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    again = small(name, seed=5).eval()
    assert torch.equal(again(x), model(x))
    other = small(name, seed=6).eval()
    other.load_state_dict(torch.load(tmp_path / "weights.pth", weights_only=True))
    assert not torch.equal(other(x), model(x))  # the positions are part of the seed


def test_building_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    small("resnet50_perm1")
    assert torch.equal(torch.rand(1), expected)


def trained_like(model):
    """Random statistics and scales, so that equal outputs cannot come from an idle network."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            torch.nn.init.uniform_(module.weight, 0.5, 1.0, generator=generator)
    return model.eval()


PLAIN_INSIDE = [n for n in CONTEXTS if VARIANTS[n].tables and "attn" not in n and n != "resnet50_dilated4"]


@pytest.mark.parametrize("name", PLAIN_INSIDE)
def test_plain_weights_give_the_plain_function(name, tmp_path):
    from safetensors.torch import save_file

    plain, x = trained_like(small("resnet50")), torch.randn(2, 3, 64, 64)
    save_file(plain.state_dict(), tmp_path / "plain.safetensors")
    model = small(name, pretrained=tmp_path / "plain.safetensors", seed=3).eval()
    expected = plain(x)
    assert (model(x) - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert expected.abs().max() > 0.1


def test_torchvision_weights_fit():
    import torchvision

    theirs = trained_like(torchvision.models.resnet50(num_classes=10))
    ours = ctxnet.create_model("resnet50", pretrained=theirs.state_dict()).eval()
    x = torch.randn(1, 3, 96, 96)
    assert torch.allclose(ours(x), theirs(x), atol=1e-5)


def test_a_classifier_of_another_size_keeps_its_own_weights():
    state = small("resnet50", num_classes=5).state_dict()
    model = small("resnet50_perm1", num_classes=3, pretrained=state)
    assert model.fc.out_features == 3
    assert torch.equal(model.conv1.weight, state["conv1.weight"])


def test_timm_builds_our_rows():
    import timm

    ctxnet.register_timm()
    ctxnet.register_timm()
    model = timm.create_model("resnet50_perm3", num_classes=4, width=8, input_size=64)
    assert model(torch.randn(1, 3, 64, 64)).shape == (1, 4)
    assert timm.create_model("resnet18").conv1.out_channels == 64  # timm's own names stay timm's


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ctxnet.create_model("resnet50_prem1"), "resnet50_perm1"),
        (lambda: ctxnet.list_models("*permutation*"), "unknown model"),
        (lambda: small("resnet50", context="permutations"), "'permutation'"),
        (lambda: small("resnet50_perm1", encodin=True), "'encoding'"),
        (lambda: small("resnet50", k=3), "needs a context block"),
        (lambda: small("resnet50_perm1", k=-2), "k=0"),
        (lambda: small("resnet50_perm1", stages=(5,)), "nearest valid value: 4"),
        (lambda: small("resnet50_perm1", blocks=["layer5.0"]), "layer"),
        (lambda: small("resnet50_inserted_dilated4", d=40), "d=16"),
        (lambda: small("resnet50_dilated4", dilation=17), "dilation=16"),
        (lambda: small("resnet50_perm1_attn", width=2), "value: 4"),
        (lambda: small("convnext_tiny", k=2), "no context slot"),
        (lambda: ctxnet.models.ResNet(51), "depth=50"),
        (lambda: small("resnet50", pretrained="no/such.safetensors"), "no/such.safetensors"),
        (lambda: small("resnet50", pretrained=small("resnet18").state_dict()), "another architecture"),
        (lambda: small("resnet50", pretrained=small("resnet50", width=4).state_dict()), "shape"),
    ],
)
def test_errors_are_one_line_and_name_the_way_out(make, words):
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        make()
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_import_is_light():
    import subprocess
    import sys

    heavy = ["fastai", "timm", "matplotlib", "papermill", "torchvision", "pandas", "IPython"]
    code = f"import ctxnet, sys; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
