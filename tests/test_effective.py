"""Effective receptive fields and mean distances against gradients taken by hand."""

import math

import pytest
import timm
import torch
import torchvision
from torch import nn

from ctxnet.measure import effective_receptive_field, mean_distance, receptive_field, residual_blocks, summed_erf


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 5, 3, padding=1)
    )


IMAGES = torch.randn(3, 3, 12, 10, generator=torch.Generator().manual_seed(1))


def by_hand(net, reduce, position):
    net.eval()
    total = 0
    for image in IMAGES:
        image = image[None].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(net(image)[0, :, position[0], position[1]].sum(), image)
        total = total + reduce(gradient[0])
    net.train()
    return total / total.sum()


REDUCTIONS = {
    "abs_sum": lambda g: g.abs().sum(0),
    "relu": lambda g: g.clamp(min=0).sum(0),
    "sum_abs": lambda g: g.sum(0).abs(),
    "square": lambda g: (g * g).sum(0),
}


@pytest.mark.parametrize("aggregate", REDUCTIONS)
@pytest.mark.parametrize("position", [None, (0, 4)])
def test_equals_the_gradient_taken_by_hand(net, aggregate, position):
    erf = effective_receptive_field(net, IMAGES, "4", position, aggregate)
    expected = by_hand(net, REDUCTIONS[aggregate], position or (3, 2))
    torch.testing.assert_close(erf, expected)
    assert erf.sum() == pytest.approx(1) and erf.dtype == torch.float32
    assert not (erf[~receptive_field(net, "4", (12, 10), position)] > 0).any()
    batched = effective_receptive_field(net, IMAGES, "4", position, aggregate, batch_size=2)
    torch.testing.assert_close(batched, erf)


def test_leaves_the_model_as_it_was(net):
    net[0].weight.requires_grad_(False)
    net[4].eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    effective_receptive_field(net, IMAGES, "3")
    assert net.training and net[1].training and not net[4].training
    assert [p.requires_grad for p in net.parameters()] == [False] + [True] * 5
    assert all(p.grad is None for p in net.parameters())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert not any(m._forward_hooks for m in net.modules())


def test_precisions(net):
    full = effective_receptive_field(net.double(), IMAGES, "4")
    assert full.dtype == torch.float64
    half = effective_receptive_field(net.half(), IMAGES.half(), "4")
    assert half.dtype == torch.float32 and net[0].weight.dtype == torch.float16
    torch.testing.assert_close(half.double(), full, atol=2e-3, rtol=0.05)


def test_an_in_place_call_after_the_layer_does_not_show():
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x):
            y = self.conv(x)
            y += x.mean()
            return y

    assert (effective_receptive_field(InPlace(), IMAGES, "conv") > 0).sum() == 9
    assert receptive_field(InPlace(), "conv", (12, 10)).sum() == 9


def test_tokens_and_nhwc():
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, class_token=True)
    erf = effective_receptive_field(vit, torch.randn(2, 3, 32, 32), "patch_embed", (0, 1))
    assert erf[:16, 16:].sum() == pytest.approx(1)
    swin = torchvision.models.SwinTransformer([4, 4], 8, [2], [2], [4, 4])
    erf = effective_receptive_field(swin, torch.randn(1, 3, 32, 32), "features.0.1", (7, 0))
    assert erf[28:, :4].sum() == pytest.approx(1)


def test_summed_adds_up_all_positions(net):
    total = sum(by_hand_unscaled(net, (r, c)) for r in range(6) for c in range(5))
    torch.testing.assert_close(summed_erf(net, IMAGES, "4"), total / total.sum())
    torch.testing.assert_close(summed_erf(net, IMAGES), total / total.sum())


def by_hand_unscaled(net, position):
    net.eval()
    images = IMAGES.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(net(images)[:, :, position[0], position[1]].sum(), images)
    return gradient.abs().sum((0, 1))


def test_refusals(net):
    with pytest.raises(ValueError, match="unknown aggregate 'abs'; did you mean .*'abs_sum'"):
        effective_receptive_field(net, IMAGES, "4", aggregate="abs")
    with pytest.raises(ValueError, match=r"shape \(3, 12, 10\); expected \(N, C, H, W\)"):
        effective_receptive_field(net, IMAGES[0], "4")
    with pytest.raises(ValueError, match="unknown layer"):
        effective_receptive_field(net, IMAGES, "9")
    nn.init.zeros_(net[4].weight)
    with pytest.raises(ValueError, match="no effective receptive field"):
        effective_receptive_field(net, IMAGES, "4")


def test_mean_distance():
    erf = torch.zeros(9, 9)
    erf[4, 7] = 1
    assert mean_distance(erf, (4, 4)) == 3
    erf[0, 4] = 3
    assert mean_distance(erf, (4, 4)) == pytest.approx((3 + 3 * 4) / 4)
    assert mean_distance(torch.ones(2, 2), (0.5, 0.5)) == pytest.approx(math.sqrt(0.5))
    assert mean_distance(torch.ones(1, 1), (-3, 4)) == 5
    with pytest.raises(ValueError, match="positive, finite sum"):
        mean_distance(torch.zeros(3, 3), (1, 1))
    with pytest.raises(ValueError, match="shape"):
        mean_distance(torch.ones(3), (1, 1))


BLOCKS = {
    "resnet50": (16, "layer1.0", "layer4.2"),
    "resnet18": (8, "layer1.0", "layer4.1"),
    "hrnet_w18_small": (5, "layer1.0", "final_layer"),
    "convnext_atto": (12, "stages.0.blocks.0", "stages.3.blocks.1"),
    "vit_tiny_patch16_224": (12, "blocks.0", "blocks.11"),
    "swin_tiny_patch4_window7_224": (12, "layers.0.blocks.0", "layers.3.blocks.1"),
    "efficientnet_b0": (16, "blocks.0.0", "blocks.6.0"),
    "densenet121": (58, "features.denseblock1.denselayer1", "features.denseblock4.denselayer16"),
    "regnety_002": (13, "s1.b1", "s4.b7"),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_residual_blocks(name):
    found = residual_blocks(timm.create_model(name))
    assert (len(found), found[0], found[-1]) == BLOCKS[name]


def test_residual_blocks_of_torchvision_and_of_plain_networks(net):
    models = torchvision.models
    assert residual_blocks(models.resnet50())[::15] == ["layer1.0", "layer4.2"]
    assert len(residual_blocks(models.convnext_tiny())) == 18
    assert len(residual_blocks(models.efficientnet_b0())) == 16
    assert len(residual_blocks(models.mobilenet_v3_small())) == 11
    assert len(residual_blocks(models.regnet_y_400mf())) == 16
    assert residual_blocks(net) == ["0", "4"]
