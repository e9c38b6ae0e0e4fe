"""Networks that give every pixel a class: heads, output strides, weights, names."""

import pytest
import torch

import ctxnet
from ctxnet.models.segmentation import HEADS, OWN

SIZE = {"width": 8, "input_size": 64}


def network(head, backbone=None, **changed):
    return ctxnet.create_segmenter(backbone or OWN.get(head, "resnet50"), head, num_classes=5, **SIZE | changed).eval()


@pytest.mark.parametrize("head", HEADS)
@torch.no_grad()
def test_every_pixel_gets_scores(head):
    model = network(head)
    assert model(torch.zeros(2, 3, 60, 76)).shape == (2, 5, 60, 76)  # no multiples of 32
    assert model.get_classifier().out_channels == 5
    assert ctxnet.count_parameters(model) == sum(p.numel() for p in model.parameters()) - sum(
        p.numel() for p in model.get_classifier().parameters()
    )


@pytest.mark.parametrize("stride, sides", [(32, [32, 16, 8, 4, 2]), (16, [32, 16, 8, 4, 4]), (8, [32, 16, 8, 8, 8])])
@pytest.mark.parametrize("backbone", ["resnet50_perm1", "starved_perm1", "resnet18"])
@torch.no_grad()
def test_output_stride(backbone, stride, sides):
    model = network("deeplabv3", backbone, output_stride=stride)
    maps = model.backbone(torch.zeros(1, 3, 64, 64))
    assert [y.shape[-1] for y in maps] == sides and [y.shape[1] for y in maps] == model.backbone.channels


@torch.no_grad()
def test_dilation_is_torchvisions():
    """With torchvision's weights the dilated stages compute what torchvision's do."""
    from torchvision.models import resnet50

    theirs = resnet50(replace_stride_with_dilation=[False, True, True]).eval()
    ours = ctxnet.create_segmenter("resnet50", "deeplabv3", output_stride=8).eval()
    state = {k: v for k, v in theirs.state_dict().items() if not k.startswith("fc")}
    assert set(state) == set(ours.backbone.state_dict())
    ours.backbone.load_state_dict(state)
    x = torch.randn(1, 3, 64, 64)
    y = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x))))
    y = theirs.layer4(theirs.layer3(theirs.layer2(theirs.layer1(y))))
    assert torch.allclose(ours.backbone(x)[-1], y, atol=1e-4)


def test_deeplab_is_torchvisions_head_at_full_width():
    from torchvision.models.segmentation.deeplabv3 import DeepLabHead

    theirs, ours = DeepLabHead(2048, 5, (6, 12, 18)), ctxnet.create_segmenter("resnet50", "deeplabv3", num_classes=5).head
    assert sum(p.numel() for p in theirs.parameters()) == sum(p.numel() for p in ours.parameters())
    assert ours.rates == (6, 12, 18)
    assert network("deeplabv3", output_stride=8).head.rates == (12, 24, 36)
    assert network("deeplabv3", rate_scale=180 / 513).head.rates == (2, 4, 6)


@torch.no_grad()
def test_the_pyramid_is_a_sum_of_stages():
    model = network("fpn")
    x = torch.randn(1, 3, 64, 64)
    maps = model.backbone(x)
    parts = [
        torch.nn.functional.interpolate(lateral(y), (16, 16), mode="bilinear")
        for lateral, y in zip(model.head.laterals, maps[1:], strict=True)
    ]
    assert torch.allclose(model.head(maps), model.head.classifier(model.head.after(sum(parts))), atol=1e-5)


def test_weights_follow_from_the_seed():
    a, b, c = (network("unet", init_seed=seed).state_dict() for seed in (0, 0, 1))
    name = "head.steps.0.0.0.weight"
    assert all(torch.equal(a[k], b[k]) for k in a) and not torch.equal(a[name], c[name])
    plain, wide = network("fcn32", init_seed=0), network("fcn32", "resnet50_perm1", init_seed=0)
    assert torch.equal(plain.backbone.conv1.weight, wide.backbone.conv1.weight)
    assert torch.equal(plain.head.classifier.weight, wide.head.classifier.weight)
    state = torch.random.get_rng_state()
    network("fcn32")
    assert torch.equal(state, torch.random.get_rng_state())


def test_the_controls_have_the_size_of_what_they_control():
    permuted, copied, plain, mean = (
        ctxnet.count_parameters(network("fcn32", name))
        for name in ("resnet50_perm1", "resnet50_identity", "resnet50", "resnet50_mean")
    )
    assert permuted == copied > plain == mean


def test_names():
    assert "fcn32_resnet50_perm1" in ctxnet.list_segmenters("fcn32_*")
    assert ctxnet.list_segmenters("hrnetv2_*") == ["hrnetv2_hrnet_w18"]
    named = ctxnet.create_segmenter("fpn_resnet50", **SIZE)
    assert type(named.head).__name__ == "SummedPyramid"


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"name": "resnet50_perm"}, "unknown backbone of a segmenter 'resnet50_perm'; did you mean 'resnet50_perm"),
        ({"name": "resnet50", "head": "deeplab"}, "unknown head 'deeplab'; did you mean 'deeplabv3'"),
        ({"name": "resnet50", "head": "hrnetv2"}, "does not fit backbone 'resnet50'; nearest valid value: 'hrnet_w18'"),
        ({"name": "hrnet_w18", "head": "fpn"}, "does not fit backbone 'hrnet_w18'; nearest valid value: 'resnet50'"),
        ({"name": "resnet50", "output_stride": 12}, "output_stride=12 is not possible here; nearest valid value: 8"),
        ({"name": "resnet50", "num_classes": 1}, "num_classes"),
    ],
)
def test_wrong_arguments_are_told_in_one_line(arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        ctxnet.create_segmenter(**arguments)
    assert "\n" not in str(caught.value)
