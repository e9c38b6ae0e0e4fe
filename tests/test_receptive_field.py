"""Receptive fields against the networks themselves: NaN in every single input pixel, or one after the other."""

import math

import pytest
import timm
import torch
import torchvision
from torch import nn

import ctxnet
from ctxnet.measure import check_receptive_field, receptive_field, residual_blocks
from ctxnet.measure.receptive_field import Reach

RESNET50 = [19, 27, 35, 43, 59, 75, 91, 107, 139, 171, 203, 235, 267, 299, 363, 427]


def same(channels=4, kernel=3, **options):
    return nn.Conv2d(channels, channels, kernel, padding=options.pop("padding", kernel // 2), **options)


class Branch(nn.Module):
    """Residual connection around ``inner``."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return x + self.inner(x)


class Lambda(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Attention(nn.Module):
    """Self-attention over rows, so that the reach is neither one pixel nor the whole image."""

    def __init__(self, fused):
        super().__init__()
        self.fused, self.qkv = fused, nn.Linear(4, 12)

    def forward(self, x):
        q, k, v = self.qkv(x.permute(0, 2, 3, 1)).chunk(3, -1)  # N H W C
        if self.fused:
            y = nn.functional.scaled_dot_product_attention(q, k, v)
        else:
            y = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        return y.permute(0, 3, 1, 2)


class Lazy(nn.Module):
    """Makes its index on first use and works in place, like many a real module."""

    def forward(self, x):
        if not hasattr(self, "index"):
            self.index = torch.randperm(x.shape[3], generator=torch.Generator().manual_seed(3))
        y = x[..., self.index]
        y[:, 1:3, ::2] += x[:, :2, ::2]
        return y.relu_()


class Custom(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.roll(3, 2)

    @staticmethod
    def backward(ctx, gradient):
        return gradient.roll(-3, 2)


OFFSETS = torch.tensor([[0, -3], [2, 1], [-1, 4]])


def shifted(x):
    padded = nn.functional.pad(x, (4, 4, 4, 4))
    height, width = x.shape[2:]
    return torch.cat([padded[:, :, 4 + r : 4 + r + height, 4 + c : 4 + c + width] for r, c in OFFSETS.tolist()], 1)


NETS = {
    "plain": lambda: nn.Sequential(same(), nn.ReLU(), same()),
    "dilated": lambda: nn.Sequential(same(dilation=2, padding=2), same(dilation=4, padding=4)),
    "strided": lambda: nn.Sequential(same(stride=2), same(kernel=5, stride=2)),
    "unpadded": lambda: nn.Sequential(nn.Conv2d(4, 4, (2, 5), padding=0), nn.Conv2d(4, 4, (4, 1), padding=(3, 0))),
    "grouped": lambda: nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.ChannelShuffle(4), nn.Conv2d(8, 4, 3, groups=4)),
    "pooled": lambda: nn.Sequential(nn.MaxPool2d(3, 2, 1, ceil_mode=True), same(), nn.AvgPool2d(2, ceil_mode=True)),
    "dilated pool": lambda: nn.MaxPool2d(3, 1, 1, dilation=2),
    "adaptive": lambda: nn.Sequential(same(), nn.AdaptiveAvgPool2d((5, 3))),
    "reflected": lambda: nn.Sequential(nn.ReflectionPad2d((2, 3, 1, 4)), nn.Conv2d(4, 4, 5)),
    "circular": lambda: same(padding_mode="circular"),
    "transposed": lambda: nn.Sequential(nn.ConvTranspose2d(4, 4, 3, 2, 1, 1), same(stride=2)),
    "upsampled": lambda: nn.Sequential(same(stride=3), nn.Upsample(scale_factor=2, mode="bilinear"), same()),
    "bicubic": lambda: nn.Upsample(size=(7, 9), mode="bicubic", align_corners=True),
    "nearest": lambda: nn.Sequential(nn.Upsample(size=(7, 9)), same()),
    "batch norm in training": lambda: nn.Sequential(same(), nn.BatchNorm2d(4, track_running_stats=False)),
    "group norm": lambda: nn.Sequential(nn.MaxPool2d(4), nn.GroupNorm(2, 4), nn.Conv2d(4, 4, 1, groups=4)),
    "squeeze-excite": lambda: Lambda(lambda x: x * x.mean((2, 3), keepdim=True).sigmoid()),
    "attention": lambda: nn.Sequential(same(), Branch(Attention(False))),
    "fused attention": lambda: nn.Sequential(same(), Branch(Attention(True))),
    "permuted": lambda: nn.Sequential(same(), Branch(Lazy()), same()),
    "custom function": lambda: Branch(Lambda(Custom.apply)),
    "random offsets": lambda: nn.Sequential(Lambda(shifted), nn.Conv2d(12, 4, 1)),
    "unfolded": lambda: Lambda(lambda x: nn.functional.unfold(x, 3, 2, 2).unflatten(2, x.shape[2:])),
    "constant mask": lambda: Lambda(lambda x: torch.where(torch.eye(x.shape[2], x.shape[3]).bool(), x, x.flip(3))),
    "cumulative": lambda: Lambda(lambda x: x.cumsum(2)),
    "stacked": lambda: Lambda(lambda x: torch.stack([x, x.roll((2, 3), (2, 3)), x * 0.5], 1)[:, 1:].flatten(1, 2)),
    "split": lambda: Lambda(lambda x: torch.cat([x[:, :1], x[:, 1:].roll((2, 3), (2, 3))], 1)),
    "zero weights": lambda: _zeroed(nn.Sequential(same(), nn.BatchNorm2d(4), nn.ReLU())),
}


def _zeroed(net):
    for parameter in net.parameters():
        nn.init.zeros_(parameter)
    return net


@pytest.mark.parametrize("name", NETS)
def test_equals_every_pixel_tried(name):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 4, 1), NETS[name]())
    grid = Reach(net, ["1"], (13, 15)).grids["1"]
    corner = (0, grid.width - 1)
    for position in (None, corner):
        assert check_receptive_field(net, "1", (13, 15), position, pixels=None) == []
    assert receptive_field(net, "1", (13, 15), corner).shape == (13, 15)


def test_split_channels_follow_their_own_way():
    net = nn.Sequential(Lambda(lambda x: torch.cat([x[:, :1], x[:, 1:].roll(2, 3)], 1)), Lambda(lambda x: x[:, 1:]))
    mask = receptive_field(net, "1", (3, 8), (1, 4))
    assert mask.nonzero().tolist() == [[1, 2]]


def test_dead_units_and_pooling_make_no_holes():
    net = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 1, 1))
    nn.init.constant_(net[0].bias, -1e6)
    mask = receptive_field(net, "2", (11, 11))
    assert mask[3:8, 3:8].all() and mask.sum() == 25
    image = torch.randn(1, 1, 11, 11, requires_grad=True)
    net(image)[0, 0, 5, 5].backward()
    assert not image.grad.any()  # where a gradient sees nothing at all


def test_weights_precision_and_training_state_do_not_matter():
    net = nn.Sequential(same(3), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(), same(3, stride=2))
    expected = receptive_field(net, "4", 20)
    assert torch.equal(receptive_field(net.double(), "4", 20), expected)
    assert torch.equal(receptive_field(net.half(), "4", 20), expected)
    assert net.training and all(p.grad is None and p.requires_grad for p in net.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_resnet50_has_the_known_sizes():
    model = torchvision.models.resnet50()
    layers = residual_blocks(model)
    reach = Reach(model, layers, 448)
    masks = reach.masks({layer: reach.grids[layer].position(None) for layer in layers})
    for (mask, exact), side in zip((masks[layer] for layer in layers), RESNET50, strict=True):
        rows, cols = mask.any(1).nonzero(), mask.any(0).nonzero()
        assert exact and mask.sum() == side**2
        assert rows.max() - rows.min() + 1 == cols.max() - cols.min() + 1 == side
    assert reach.grids["layer4.2"].center((7, 7)) == (224, 224)


FAMILIES = [
    ("resnet26", 64, "layer2.1", {}),  # its last gammas start at zero
    ("seresnet18", 64, "layer1.0", {}),
    ("hrnet_w18_small", 64, "stage2.0", {}),
    ("convnext_atto", 64, "stages.1.blocks.0", {}),
    ("efficientnet_lite0", 64, "blocks.0.0", {}),
    ("mobilenetv3_small_050", 64, "blocks.1.0", {}),
    ("densenet121", 64, "features.denseblock1.denselayer2", {"block_config": (2, 1, 1, 1)}),
    ("res2net50_26w_4s", 64, "layer1.1", {"layers": [2, 1, 1, 1]}),
    ("mixer_s32_224", 224, "blocks.1", {}),
    ("vit_tiny_patch16_224", 64, "blocks.1", {"img_size": 64, "depth": 2}),
    ("deit_tiny_distilled_patch16_224", 64, "blocks.0", {"img_size": 64, "depth": 2}),
    ("swin_tiny_patch4_window7_224", 56, "layers.0.blocks.1", {"img_size": 56, "depths": (2, 1), "num_heads": (3, 6)}),
]


@pytest.mark.parametrize(("name", "size", "layer", "options"), FAMILIES)
def test_timm_families(name, size, layer, options):
    assert check_receptive_field(timm.create_model(name, **options), layer, size, pixels=9, batch_size=9) == []


def test_torchvision_vit_and_swin():
    vit = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32)
    assert check_receptive_field(vit, residual_blocks(vit)[1], 32, pixels=9) == []
    swin = torchvision.models.SwinTransformer([4, 4], 8, [2, 2], [2, 2], [4, 4])
    layer = residual_blocks(swin)[1]  # windows shifted
    mask = receptive_field(swin, layer, 64, (6, 6))
    assert not mask.all() and check_receptive_field(swin, layer, 64, (6, 6), pixels=15) == []


@pytest.mark.parametrize("name", ["resnet50_perm3_attn", "resnet50_random_dilated8", "resnet50_random_dilated8_conv"])
def test_context_rows(name):
    model = ctxnet.create_model(name, width=8, input_size=64)
    assert check_receptive_field(model, "layer1.1", 64, pixels=15, batch_size=15) == []
    layers = ["layer1.0.context", "layer1.1", "layer4.2"]
    grids = Reach(model, layers, 64).grids
    assert all(grids[layer].center(grids[layer].position(None)) == (32, 32) for layer in layers)


def test_a_wrong_mask_is_found_out(monkeypatch):
    net = nn.Sequential(same(1))
    monkeypatch.setattr(Reach, "masks", lambda self, positions: {"0": (torch.eye(9).bool(), True)})
    found = check_receptive_field(net, "0", 9, pixels=None)
    assert (0, 0, False) in found and (3, 4, True) in found and len(found) == 6 + 6


CENTERS = [
    ("resnet18", 64, "layer4.1", {}, 32),
    ("vit_tiny_patch16_224", 64, "blocks.0.attn", {"img_size": 64, "depth": 1}, 39.5),
    (
        "swin_tiny_patch4_window7_224",
        56,
        "layers.1.blocks.0",
        {"img_size": 56, "depths": (2, 1), "num_heads": (3, 6)},
        3 * 8 + 3.5,
    ),
    ("convnext_atto", 96, "stages.3.blocks.1", {}, 32 + 15.5),
    ("hrnet_w18_small", 64, "stage3.0", {}, 32),
    ("mixer_s32_224", 224, "blocks.0", {}, 3 * 32 + 15.5),
]


@pytest.mark.parametrize(("name", "size", "layer", "options", "expected"), CENTERS)
def test_where_features_sit(name, size, layer, options, expected):
    grid = Reach(timm.create_model(name, **options), [layer], size).grids[layer]
    assert grid.center(grid.position(None)) == pytest.approx((expected, expected), abs=1e-9)


def test_centers_beyond_padding_and_before_the_image():
    net = nn.Sequential(nn.Conv2d(3, 1, 4, stride=4, padding=4))
    centers = Reach(net, ["0"], 16).grids["0"].centers
    assert centers[0, 1].tolist() == [-2.5, 1.5]
    assert centers[:, 0, 0].diff().tolist() == [4.0] * (len(centers) - 1)


def test_outputs_of_other_kinds():
    pair = Lambda(lambda x: (x[:, :, ::2], x))
    assert Reach(pair, [""], 8).grids[""].height == 4
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 5))
    assert receptive_field(flat, "1", 8).all()
    with pytest.raises(ValueError, match="gives a str, not a tensor"):
        receptive_field(Lambda(lambda x: "x"), "", 8)
    with pytest.raises(ValueError, match="does not depend on the image"):
        receptive_field(Lambda(lambda x: torch.zeros(1, 3, 4, 4)), "", 8)


def test_selection_by_value_is_an_upper_bound():
    net = nn.Sequential(same(3), Lambda(lambda x: x.sort(3).values))
    reach = Reach(net, ["1"], 8)
    mask, exact = reach.masks({"1": (4, 4)})["1"]
    assert not exact and mask[3:6].all() and not mask[:3].any()
    assert check_receptive_field(net, "1", 8, (4, 4), pixels=None) == []


def test_refusals_name_what_is_wrong():
    model = torchvision.models.resnet18()
    with pytest.raises(ValueError, match="unknown layer 'layer5.0'; did you mean 'layer"):
        receptive_field(model, "layer5.0", 64)
    with pytest.raises(ValueError, match=r"position \(2, 0\) lies outside the 2×2 map .* rows 0…1, columns 0…1"):
        receptive_field(model, "layer4.1", 64, position=(2, 0))
    with pytest.raises(ValueError, match=r"input_size is \(0, 3\)"):
        receptive_field(model, "layer4.1", (0, 3))
    with pytest.raises(ValueError, match="does not take an input of 1×4×64×64"):
        receptive_field(model, "layer4.1", (4, 64, 64))
    unused = nn.Sequential(same(3))
    unused.spare = nn.Identity()
    unused.forward = lambda x: unused[0](x)
    with pytest.raises(ValueError, match="'spare' does not run"):
        receptive_field(unused, "spare", 8)


def test_what_cannot_be_followed_is_named():
    class Sampled(nn.Module):
        def forward(self, x):
            return nn.functional.grid_sample(x, x[:, :2, :4, :4].permute(0, 2, 3, 1), align_corners=False)

    class Decides(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(NotImplementedError, match="layer '1' calls aten.grid_sampler"):
        receptive_field(nn.Sequential(same(3), Sampled(), same(3)), "2", 8)
    assert receptive_field(nn.Sequential(same(3), Sampled()), "0", 8).sum() == 9  # only what lies before matters
    with pytest.raises(NotImplementedError, match="layer '1' cannot be followed"):
        receptive_field(nn.Sequential(same(3), Decides(), same(3)), "2", 8)


def test_check_is_reproducible_and_covers_all_sides():
    from ctxnet.measure.receptive_field import _sample

    mask = torch.zeros(32, 32, dtype=torch.bool)
    mask[8:20, 8:20] = True
    chosen = [_sample(mask, 30, torch.Generator().manual_seed(1)) for _ in range(2)]
    assert torch.equal(*chosen) and 25 <= len(chosen[0]) <= 30
    inside = mask[chosen[0][:, 0], chosen[0][:, 1]].float().mean()
    assert math.isclose(inside, 0.5, abs_tol=0.25)
