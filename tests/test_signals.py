"""Receptive fields of signals, volumes, videos and masked convolutions against the formulas of their papers."""

import itertools

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from ctxnet.measure.receptive_field import Reach


def field(model, layer, size, position):
    reach = Reach(model, [layer], size)
    mask, exact = reach.masks({layer: reach.grids[layer].position(position)})[layer]
    assert exact and tuple(mask.shape) == tuple(size[1:])
    return mask


def box(shape, spans):
    """True from the first to the last of each dimension's span, as far as the image goes."""
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[tuple(slice(max(0, first), last + 1) for first, last in spans)] = True
    return mask


class Temporal(nn.Module):
    """One level of a TCN (Bai, Kolter and Koltun, 2018): two causal dilated convolutions and a residual connection."""

    def __init__(self, inputs, outputs, kernel, dilation):
        super().__init__()
        self.cut = (kernel - 1) * dilation
        self.first = nn.Conv1d(inputs, outputs, kernel, padding=self.cut, dilation=dilation)
        self.second = nn.Conv1d(outputs, outputs, kernel, padding=self.cut, dilation=dilation)
        self.skip = nn.Conv1d(inputs, outputs, 1)

    def forward(self, x):
        y = self.first(x)[:, :, : -self.cut].relu()
        y = self.second(y)[:, :, : -self.cut].relu()
        return (y + self.skip(x)).relu()


@pytest.mark.parametrize(("kernel", "levels"), [(2, 3), (3, 3), (7, 2)])
def test_tcn_sees_the_past_of_its_formula(kernel, levels):
    net = nn.Sequential(*(Temporal(2 if i == 0 else 4, 4, kernel, 2**i) for i in range(levels)))
    length = 1 + 2 * (kernel - 1) * (2**levels - 1)
    for at in (63, 40, 3):
        assert torch.equal(field(net, str(levels - 1), (2, 64), (at,)), box((64,), [(at - length + 1, at)]))


class WaveNet(nn.Module):
    """Stacks of gated causal convolutions of two taps, dilated by 1, 2, 4, …, with skip outputs (van den Oord, 2016)."""

    def __init__(self, stacks, layers, channels=4):
        super().__init__()
        self.dilations = [2**i for i in range(layers)] * stacks
        self.into = nn.Conv1d(1, channels, 1)
        self.gated = nn.ModuleList(nn.Conv1d(channels, 2 * channels, 2, dilation=d) for d in self.dilations)
        self.residual = nn.ModuleList(nn.Conv1d(channels, channels, 1) for _ in self.dilations)
        self.out = nn.Conv1d(channels, 3, 1)

    def forward(self, x):
        x, skip = self.into(x), 0
        for dilation, gated, residual in zip(self.dilations, self.gated, self.residual, strict=True):
            y, gate = gated(F.pad(x, (dilation, 0))).chunk(2, 1)
            y = y.tanh() * gate.sigmoid()
            skip = skip + y
            x = x + residual(y)
        return self.out(skip.relu())


@pytest.mark.parametrize(("stacks", "layers"), [(1, 4), (2, 3), (3, 2)])
def test_wavenet_sees_the_past_of_its_formula(stacks, layers):
    length = stacks * (2**layers - 1) + 1
    for at in (59, 31, 2):
        mask = field(WaveNet(stacks, layers), "out", (1, 60), (at,))
        assert torch.equal(mask, box((60,), [(at - length + 1, at)]))


class UNet3d(nn.Module):
    """Two levels of the 3-D U-Net (Çiçek et al., 2016), padded."""

    def __init__(self, c=2):
        super().__init__()

        def twice(inputs):
            return nn.Sequential(nn.Conv3d(inputs, c, 3, padding=1), nn.ReLU(), nn.Conv3d(c, c, 3, padding=1), nn.ReLU())

        self.top, self.bottom, self.out = twice(1), twice(c), twice(2 * c)
        self.up = nn.ConvTranspose3d(c, c, 2, 2)

    def forward(self, x):
        top = self.top(x)
        return self.out(torch.cat([top, self.up(self.bottom(F.max_pool3d(top, 2)))], 1))


@pytest.mark.parametrize("position", [(7, 8, 9), (0, 5, 15)])
def test_unet_of_volumes(position):
    # Two 3×3×3 convolutions see 2 voxels further on every side; the up-convolution reads the voxel ⌊p / 2⌋ below.
    spans = [(2 * ((p - 2) // 2 - 2) - 2, 2 * ((p + 2) // 2 + 2) + 1 + 2) for p in position]
    assert torch.equal(field(UNet3d(), "out", (1, 16, 16, 16), position), box((16, 16, 16), spans))


def test_r2plus1d_sees_frames_and_pixels():
    net = torchvision.models.video.r2plus1d_18()
    # Stem (1, 7, 7) with stride (1, 2, 2) and (3, 1, 1), then four pairs of (1, 3, 3) and (3, 1, 1).
    frames, pixels = 3 + 4 * 2, 7 + 4 * 2 * 2
    spans = [(8 - frames // 2, 8 + frames // 2)] + [(2 * 12 - pixels // 2, 2 * 12 + pixels // 2)] * 2
    mask = field(net, "layer1", (3, 16, 48, 48), (8, 12, 12))
    assert torch.equal(mask, box((16, 48, 48), spans)) and int(mask.sum()) == 11 * 23 * 23


class Masked(nn.Conv2d):
    """PixelCNN's convolution: what lies behind in reading order is masked, type A its own pixel, too."""

    def __init__(self, inputs, outputs, kernel, own):
        super().__init__(inputs, outputs, kernel, padding=kernel // 2)
        mask = torch.zeros(kernel, kernel)
        mask[: kernel // 2] = 1
        mask[kernel // 2, : kernel // 2 + own] = 1
        self.register_buffer("mask", mask)

    def forward(self, x):
        return F.conv2d(x, self.weight * self.mask, self.bias, padding=self.padding)


@pytest.mark.parametrize("layers", [0, 1, 4])
def test_pixelcnn_and_its_blind_spot(layers):
    parts = [Masked(1, 4, 7, own=False)] + [Masked(4, 4, 3, own=True) for _ in range(layers)]
    net = nn.Sequential(*parts)
    row, col, size = 11, 9, (16, 20)
    expected = torch.zeros(size, dtype=torch.bool)
    for up in range(layers + 4):  # rows above: a step to the right is only possible with one upwards
        right = -1 if up == 0 else min(up - 1, layers) + 3
        for across in range(-layers - 3, right + 1):
            if row - up >= 0 and 0 <= col + across < size[1]:
                expected[row - up, col + across] = True
    assert torch.equal(field(net, str(layers), (1, *size), (row, col)), expected)


@pytest.mark.parametrize("size", [(2, 12), (2, 6, 7), (2, 4, 5, 6)])
def test_every_kind_of_convolution_in_every_number_of_dimensions(size):
    """A stride, a dilation, a group and a transposition against the arithmetic of one dimension, applied to each."""
    n = len(size) - 1
    conv, back = getattr(nn, f"Conv{n}d"), getattr(nn, f"ConvTranspose{n}d")
    net = nn.Sequential(conv(2, 4, 3, 2, 2, dilation=2, groups=2), back(4, 4, 3, 2, 1))
    out = [2 * ((s + 4 - 5) // 2 + 1) - 1 for s in size[1:]]
    for position in itertools.islice(itertools.product(*map(range, out)), 0, None, 7):
        expected = torch.ones(size[1:], dtype=torch.bool)
        for dim, at in enumerate(position):
            middle = [i for i in range((out[dim] + 1) // 2) if 0 <= at + 1 - 2 * i <= 2]
            seen = {2 * i - 2 + 2 * tap for i in middle for tap in range(3)}
            line = torch.tensor([i in seen for i in range(size[1 + dim])])
            expected &= line.reshape([-1 if d == dim else 1 for d in range(n)])
        assert torch.equal(field(net, "1", size, position), expected)
