"""Fields between layers, projective fields, grids, tiles, local fields and shares: against brute force and formulas."""

import copy
import itertools
import math

import pytest
import timm
import torch
import torchvision
from torch import nn

from ctxnet.measure import receptive_field
from ctxnet.measure.between import field_in_layer, projective_field
from ctxnet.measure.grids import Tiling, grid_table, tiling
from ctxnet.measure.local import local_field
from ctxnet.measure.share import radius_of_share, share_within


class Fn(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class UNet(nn.Module):
    """Two levels, with skip connections."""

    def __init__(self, c=3):
        super().__init__()
        self.top = nn.Sequential(nn.Conv2d(3, c, 3, padding=1), nn.Tanh())
        self.middle = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(c, c, 3, padding=1), nn.Tanh())
        self.bottom = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(c, c, 3, padding=1), nn.Upsample(scale_factor=2))
        self.up = nn.ConvTranspose2d(2 * c, c, 2, 2)
        self.out = nn.Conv2d(2 * c, 2, 3, padding=1)

    def forward(self, x):
        top = self.top(x)
        middle = self.middle(top)
        return self.out(torch.cat([top, self.up(torch.cat([middle, self.bottom(middle)], 1))], 1))


def moved(model, layer, other, size, read):
    """Bool map of ``other``: the features that move ``read(output of layer)`` when they alone are moved."""
    model = copy.deepcopy(model).double().eval()
    modules, kept, step = dict(model.named_modules()), {}, {}

    def disturb(module, args, output):
        kept["map"] = output
        return output + step["delta"] if "delta" in step else None

    modules[other].register_forward_hook(disturb)
    modules[layer].register_forward_hook(lambda module, args, output: kept.update(out=read(output)))
    x = torch.randn(1, *size, dtype=torch.double)
    with torch.no_grad():
        model(x)
        shape, before = kept["map"].shape, kept["out"]
        found = torch.zeros(shape[2:], dtype=torch.bool)
        for place in itertools.product(*map(range, shape[2:])):
            step["delta"] = torch.zeros(shape, dtype=torch.double)
            step["delta"][(slice(None), slice(None), *place)] = torch.randn(shape[1], dtype=torch.double)
            model(x)
            found[place] = bool((kept["out"] - before).abs().max() > 1e-12)
    return found


PAIRS = [
    (lambda: UNet(), "out", "middle", (3, 16, 12), (5, 6)),
    (lambda: UNet(), "out", "top", (3, 16, 12), (0, 3)),
    (lambda: UNet(), "up", "bottom.1", (3, 16, 16), (7, 2)),
    (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3, 2)), "2", "0", (3, 14, 14), None),
    (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), Fn(lambda x: x.flip(3)), nn.Conv2d(4, 4, 3)), "2", "0", (3, 9, 11), (0, 1)),
]


@pytest.mark.parametrize(("make", "layer", "other", "size", "position"), PAIRS)
def test_field_in_another_layer(make, layer, other, size, position):
    model = make()
    found = field_in_layer(model, layer, other, size, position)
    at = position or tuple(n // 2 for n in grid_table(model, size, [layer])[0].size)
    expected = moved(model, layer, other, size, lambda y: y[(slice(None), slice(None), *at)])
    assert found.exact and torch.equal(found.mask, expected) and not found.mask.all()


def test_fields_of_layers_that_are_equal_or_apart():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Identity(), nn.Conv2d(4, 4, 3, padding=1))
    own = field_in_layer(net, "0", "0", 8, (2, 3))
    assert own.mask.nonzero().tolist() == [[2, 3]]
    assert field_in_layer(net, "2", "1", 8, (2, 3)).mask.sum() == 9
    with pytest.raises(ValueError, match="layer '2' does not lie on a way from the image to layer '0'"):
        field_in_layer(net, "0", "2", 8)


@pytest.mark.parametrize("pixel", [(0, 0), (13, 5), (23, 19)])
def test_projective_field_is_what_a_pixel_moves(pixel):
    model = UNet()
    found = projective_field(model, "out", pixel, (3, 24, 20))
    twin = copy.deepcopy(model).double()
    x = torch.randn(2, 3, 24, 20, dtype=torch.double)[:1].repeat(2, 1, 1, 1)
    x[1, :, pixel[0], pixel[1]] += torch.randn(3, dtype=torch.double)
    with torch.no_grad():
        y = twin(x)
    expected = (y[1] - y[0]).abs().amax(0) > 1e-12
    assert found.exact and torch.equal(found.mask, expected) and not expected.all()


def test_projective_field_reads_receptive_fields_the_other_way():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1), Fn(lambda x: x[:, :, torch.tensor([3, 0, 2, 1])]), nn.Conv2d(4, 4, 3, 1, 1)
    )
    mask = projective_field(net, "2", (2, 5), 8).mask
    for position in itertools.product(range(4), range(4)):
        assert bool(mask[position]) == bool(receptive_field(net, "2", 8, position)[2, 5])
    with pytest.raises(ValueError, match=r"pixel \(8, 0\) lies outside the image of 8×8 pixels"):
        projective_field(net, "2", (8, 0), 8)


def test_grid_table_of_resnet18():
    """Araujo, Norris and Sim (2019): field, stride and padding by recurrence over the layers."""
    layers = ["conv1", "maxpool", "layer1.0.conv1", "layer2.0.conv1", "layer2.1", "layer3.0.downsample.0"]
    found = {row.layer: row for row in grid_table(torchvision.models.resnet18(), 256, layers)}
    field, stride, begin, expected = 1, 1, 0, {}
    stem = [("conv1", 7, 2, 3), ("maxpool", 3, 2, 1)]
    body = [("layer1", 3, 1, 1)] * 4 + [("layer2", 3, 2, 1)] + [("layer2", 3, 1, 1)] * 3
    for count, (name, kernel, step, padding) in enumerate(stem + body):
        field, begin = field + (kernel - 1) * stride, begin + padding * stride
        stride *= step
        expected[name, count] = (stride, field, begin)
    for layer, key in [
        ("conv1", ("conv1", 0)),
        ("maxpool", ("maxpool", 1)),
        ("layer1.0.conv1", ("layer1", 2)),
        ("layer2.0.conv1", ("layer2", 6)),
        ("layer2.1", ("layer2", 9)),
    ]:
        row = found[layer]
        stride, field, begin = expected[key]
        assert row.stride == (stride,) * 2 and row.field == (field,) * 2 and row.padding == (begin,) * 2
        assert row.offset == ((field - 1) / 2 - begin,) * 2 and row.size == (256 // stride,) * 2 and row.exact
    assert found["layer3.0.downsample.0"].stride == (16, 16)


def test_grid_table_says_what_it_cannot_know():
    net = nn.Sequential(nn.Conv2d(3, 4, (1, 4), (1, 4)), nn.Upsample(size=(8, 5)), nn.Conv2d(4, 4, 31, padding=15))
    first, uneven, wide = grid_table(net, (8, 16), ["0", "1", "2"])
    assert first.stride == (1, 4) and first.offset == (0, 1.5) and first.field == (1, 4) and first.padding == (0, 0)
    assert uneven.size == (8, 5)
    assert wide.padding == (None, None) and wide.field == (8, 16)


SITS = [  # stride and offset along a dimension of 12 pixels
    (nn.Conv2d(3, 4, 3, 2, dilation=2), 2, 2),
    (nn.Conv2d(3, 4, 4, 2, 1), 2, 0.5),
    (nn.ConvTranspose2d(3, 4, 2, 2), 0.5, -0.25),
    (nn.ConvTranspose2d(3, 4, 3, 2, 1), 0.5, 0),
    (nn.ConvTranspose2d(3, 4, 3, 2, 2, dilation=2), 0.5, 0),
    (nn.ConvTranspose2d(3, 4, 4, 4, 1, 1), 0.25, -0.125),
    (nn.AvgPool2d(4), 4, 1.5),
    (nn.MaxPool2d(3, 2, 1), 2, 0),
    (nn.MaxPool2d(2, 2, dilation=3), 2, 1.5),
    (nn.AdaptiveAvgPool2d(3), 4, 1.5),
    (nn.Upsample(scale_factor=2, mode="bilinear"), 0.5, -0.25),
    (nn.Upsample(scale_factor=0.5, mode="bilinear"), 2, 0.5),
    (nn.Upsample(size=23, mode="bilinear", align_corners=True), 0.5, 0),
    (nn.Upsample(size=4, mode="nearest-exact"), 3, 1),
    (nn.PixelUnshuffle(2), 2, 0.5),
    (nn.ZeroPad2d(2), 1, -2),
    (Fn(lambda x: x[:, :, 1::3, 1::3]), 3, 1),
]


@pytest.mark.parametrize(("layer", "stride", "offset"), SITS)
def test_where_the_features_of_a_layer_sit(layer, stride, offset):
    (row,) = grid_table(nn.Sequential(layer), (3, 12, 12), ["0"])
    assert row.stride == (stride,) * 2 and row.offset == (offset,) * 2


TILED = {
    "plain": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Tanh(), nn.Conv2d(4, 4, 5, 1, 2)), "2", 64),
    "unpadded": (lambda: nn.Sequential(nn.Conv2d(3, 4, 4, 2), nn.Tanh(), nn.Conv2d(4, 4, 3)), "2", 64),
    "unet": (UNet, "out", 64),
    "dilated": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding=4, dilation=4), nn.Conv2d(4, 2, (1, 3), padding=(0, 1))),
        "1",
        48,
    ),
    "windows": (lambda: nn.Sequential(nn.PixelUnshuffle(2), Fn(_mean_in_windows), nn.Conv2d(12, 4, 3, padding=1)), "2", 96),
    "lopsided": (lambda: nn.Sequential(nn.ZeroPad2d((4, 0, 0, 2)), nn.Conv2d(3, 4, (3, 5))), "1", 32),
    # The grid says a step of 1 pixel; what the features see repeats with 2.
    "swapped": (lambda: nn.Sequential(Fn(lambda x: x[..., torch.arange(x.shape[3]) ^ 1]), conv3()), "1", 32),
}


def conv3():
    return nn.Conv2d(3, 4, 3, padding=1)


def _mean_in_windows(x):
    """Every feature becomes a weighted sum over its window of 3×3 features."""
    n, c, h, w = x.shape
    y = x.reshape(n, c, h // 3, 3, w // 3, 3)
    weight = torch.arange(1.0, 10, dtype=x.dtype).reshape(3, 1, 3)
    return (y + (y * weight).mean((3, 5), keepdim=True)).reshape(n, c, h, w)


@pytest.mark.parametrize("name", TILED)
def test_tiles_compute_what_the_whole_image_does(name):
    make, layer, size = TILED[name]
    model = make().double().eval()
    found = tiling(model, layer, (3, size, size))
    image = torch.randn(1, 3, *(found.step[d] * (n + 40 // found.step[d]) for d, n in enumerate((7, 5))), dtype=torch.double)
    with torch.no_grad():
        whole = model(image)
        for cores in (1, 2):
            core = tuple(s * cores for s in found.step)
            assert torch.allclose(found.apply(model, image, core), whole, atol=1e-12, rtol=0)
        for dim in range(2):  # with less around the core it comes out wrong, so no more is asked for than is needed
            for side in ("before", "after"):
                margins = list(getattr(found, side))
                if margins[dim]:
                    margins[dim] -= found.step[dim]
                    less = found._replace(**{side: tuple(margins)})
                    assert not _equal(less, model, image, whole)


def _equal(tiles, model, image, whole):
    try:
        tiled = tiles.apply(model, image, tiles.step)
    except RuntimeError:  # a tile too small for the network
        return False
    return tiled.shape == whole.shape and torch.allclose(tiled, whole, atol=1e-12, rtol=0)


def test_tiling_of_a_known_network():
    net = nn.Sequential(nn.Conv2d(3, 4, 7, 2, 3), nn.MaxPool2d(3, 2, 1), nn.Conv2d(4, 4, 3, padding=1))
    # Fields of 19 pixels around every fourth: 9 before the first feature's pixel and 9 behind it, in steps of 4.
    assert tiling(net, "2", 64) == Tiling((4, 4), (1, 1), (12, 12), (8, 8))
    assert tiling(net, "2", 64).overlap == (20, 20)


def test_tiling_is_refused_where_tiles_cannot_do_it():
    wide = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), timm.layers.SEModule(4))
    with pytest.raises(ValueError, match="reach the border .* larger input_size, or the layer sees the whole image"):
        tiling(wide, "1", 32)
    encoded = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), Fn(lambda x: x + torch.arange(x.shape[3], dtype=x.dtype)))
    with pytest.raises(ValueError, match="does not compute the same in tiles: its features depend on where they sit"):
        tiling(encoded, "1", 32)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1))
    with pytest.raises(ValueError, match="core is 3 pixels; expected a multiple of 2 in dimension 0"):
        tiling(net, "0", 32).apply(net, torch.randn(1, 3, 32, 32), 3)


GATES = {
    "squeeze-excite": lambda: timm.layers.SEModule(8),
    "effective se": lambda: timm.layers.create_attn("ese", 8),
    "eca": lambda: timm.layers.EcaModule(8),
    "global context": lambda: timm.layers.GlobalContext(8),
    "gather-excite": lambda: timm.layers.GatherExcite(8, use_mlp=False),
    "group norm": lambda: nn.GroupNorm(2, 8),
    "instance norm": lambda: nn.InstanceNorm2d(8, affine=True),
    "layer norm over all": lambda: nn.LayerNorm((8, 24, 24)),
    "global response": lambda: Fn(lambda x: x * x.norm(dim=(2, 3), keepdim=True)),
    "several": lambda: nn.Sequential(nn.GroupNorm(2, 8), timm.layers.SEModule(8), nn.InstanceNorm2d(8)),
}


@pytest.mark.parametrize("name", GATES)
def test_local_field_leaves_gates_and_statistics_out(name):
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), GATES[name](), nn.Conv2d(8, 8, 3, stride=2, padding=1))
    assert receptive_field(net, "2", 24).all()
    found = local_field(net, "2", 24, (3, 4))
    expected = torch.zeros(24, 24, dtype=torch.bool)
    expected[4:9, 6:11] = True
    assert torch.equal(found.mask, expected) and found.exact


def test_local_field_of_networks():
    with_gates = timm.create_model("seresnet18")
    expected = receptive_field(timm.create_model("resnet18"), "layer2.1", 128)
    assert torch.equal(local_field(with_gates, "layer2.1", 128).mask, expected)
    without = receptive_field(timm.create_model("convnext_atto"), "stages.1.blocks.0", 128)
    assert torch.equal(local_field(timm.create_model("convnextv2_atto"), "stages.1.blocks.0", 128).mask, without)


def test_local_field_keeps_what_is_no_statistic():
    same = nn.Conv2d(3, 4, 3, padding=1)
    for layer in (Fn(lambda x: x * x.mean(3, keepdim=True)), nn.AvgPool2d(5, 1, 2), nn.LayerNorm((16,)), nn.MaxPool2d(4)):
        net = nn.Sequential(same, layer)
        assert torch.equal(local_field(net, "1", 16).mask, receptive_field(net, "1", 16))
    mixer = timm.create_model("mixer_s32_224", img_size=64)
    assert local_field(mixer, "blocks.0", 64).mask.all()
    with pytest.raises(ValueError, match="layer '1' sees the image through gates or statistics over the whole map alone"):
        local_field(nn.Sequential(same, nn.AdaptiveAvgPool2d(1)), "1", 16)


def test_shares_of_an_effective_receptive_field():
    erf = torch.zeros(9, 11)
    erf[4, 5], erf[4, 8], erf[0, 5] = 5.0, 3.0, 2.0
    assert share_within(erf, (4, 5), 0) == 0.5
    assert share_within(erf, (4, 5), [2.9, 3, 4, 100]) == pytest.approx([0.5, 0.8, 1, 1])
    assert radius_of_share(erf, (4, 5), 0.5) == 0 and radius_of_share(erf, (4, 5), 0.51) == 3
    assert radius_of_share(erf, (4, 5), 1) == 4
    assert share_within(torch.ones(5), (2,), 1) == pytest.approx(0.6)
    assert share_within(torch.ones(3, 3, 3), (1, 1, 1), 1) == pytest.approx(7 / 27)
    assert radius_of_share(torch.ones(3, 3, 3), (1, 1, 1), 1) == pytest.approx(math.sqrt(3))


def test_shares_refuse_what_they_cannot_measure():
    with pytest.raises(ValueError, match="center has 1 coordinates and erf the shape"):
        share_within(torch.ones(3, 3), (1,), 1)
    with pytest.raises(ValueError, match="radius is -1"):
        share_within(torch.ones(3, 3), (1, 1), -1)
    with pytest.raises(ValueError, match="expected no negative value and a positive, finite sum"):
        share_within(torch.zeros(3, 3), (1, 1), 1)
    with pytest.raises(ValueError, match="share is 0"):
        radius_of_share(torch.ones(3, 3), (1, 1), 0)


def test_a_projective_field_through_a_choice_is_a_bound():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), Fn(lambda x: x.sort(3).values))
    assert projective_field(net, "0", (2, 3), (6, 6)).exact
    found = projective_field(net, "1", (2, 3), (6, 6))
    assert not found.exact and found.mask[2].all() and int(found.mask.sum()) == 6
