"""Backward passes through frozen networks: equal to autograd's wherever the gradient starts, and skipping its zeros."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ctxnet.measure import frozen
from ctxnet.measure.frozen import FrozenWeights


def gradients(call, x, at, *, layout=torch.contiguous_format):
    """Input gradients of the outputs at ``at`` (rows, columns), with autograd and within :class:`FrozenWeights`."""
    found = []
    for mode in (torch.enable_grad(), FrozenWeights()):
        given = x.clone(memory_format=layout).requires_grad_()
        with mode:
            y = call(given)
        weights = torch.zeros_like(y)
        weights[(..., *at)] = torch.randn(weights[(..., *at)].shape, generator=torch.Generator().manual_seed(1)).to(y)
        found.append((y.detach(), torch.autograd.grad(y, given, weights)[0]))
    return found


def assert_equal(found):
    (plain, plain_gradient), (ours, our_gradient) = found
    torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(our_gradient, plain_gradient, rtol=1e-12, atol=1e-12)


PLACES = {
    "corner": (slice(0, 1), slice(0, 1)),
    "far corner": (slice(-1, None), slice(-1, None)),
    "middle": (slice(1, 3), slice(2, 3)),
    "a row": (slice(1, 2), slice(None)),
    "nowhere": (slice(0, 0), slice(0, 0)),
    "everywhere": (slice(None), slice(None)),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "settings",
    [
        {"kernel_size": 1},
        {"kernel_size": 1, "stride": 2},
        {"kernel_size": 3, "padding": 1, "bias": False},
        {"kernel_size": 3, "padding": 1, "stride": 2, "groups": 4},
        {"kernel_size": (3, 1), "padding": (1, 0), "stride": (1, 3)},
        {"kernel_size": 3, "padding": 4, "dilation": 4},
        {"kernel_size": 3, "padding": (7, 2), "dilation": (2, 1)},  # some outputs see padding alone
        {"kernel_size": 2, "stride": 3},  # the last rows and columns of the input are seen by none
        {"kernel_size": 3, "padding": "same"},
        {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    ],
    ids=str,
)
def test_a_convolution_passes_back_what_autograd_passes_back(settings, layout, place):
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 8, **settings).double().requires_grad_(False)
    assert_equal(gradients(layer, torch.randn(2, 4, 11, 12, dtype=torch.float64), PLACES[place], layout=layout))


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("layer", [nn.BatchNorm1d, nn.BatchNorm2d])
def test_a_batch_normalisation_does_too(layer, affine):
    torch.manual_seed(0)
    layer = layer(4, affine=affine).double().eval().requires_grad_(False)
    layer.running_mean.normal_()
    layer.running_var.uniform_(0.5, 2)
    shape = (3, 4, 6, 6)[: 4 if isinstance(layer, nn.BatchNorm2d) else 3]
    assert_equal(gradients(layer, torch.randn(shape, dtype=torch.float64), (slice(1, 3),)))


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(4, track_running_stats=False).eval(), nn.BatchNorm2d(4).train()])
def test_a_batch_normalisation_over_the_batch_stays_one(layer):
    torch.manual_seed(0)
    assert_equal(gradients(layer.double().requires_grad_(False), torch.randn(3, 4, 6, 6).double(), PLACES["middle"]))


def test_weights_that_want_a_gradient_get_it():
    x, layers = torch.randn(2, 3, 8, 8), nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    with FrozenWeights():
        layers(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in layers.parameters())


def test_a_gradient_that_is_not_a_number_stays_visible():
    layer = nn.Conv2d(3, 4, 3, padding=1).requires_grad_(False)
    x = torch.randn(1, 3, 8, 8, requires_grad=True)
    with FrozenWeights():
        y = layer(x)
    weights = torch.zeros_like(y)
    weights[0, 0, 4, 4] = torch.nan
    (found,) = torch.autograd.grad(y, x, weights)
    assert found[0, 0].isnan().nonzero().amin(0).tolist() == [3, 3] and found[0, 0].isnan().sum() == 9


def test_only_the_part_that_is_not_zero_is_convolved_back(monkeypatch):
    seen, whole = [], frozen._convolve_back
    monkeypatch.setattr(frozen, "_convolve_back", lambda g, *rest: seen.append(tuple(g.shape[2:])) or whole(g, *rest))
    net = nn.Sequential(*(nn.Conv2d(3, 3, 3, padding=1) for _ in range(4))).requires_grad_(False)
    x = torch.randn(1, 3, 20, 20, requires_grad=True)
    with FrozenWeights():
        y = net(x)
    torch.autograd.grad(y[:, :, 10, 10].sum(), x)
    assert seen == [(1, 1), (3, 3), (5, 5), (7, 7)]


def test_a_convolution_of_one_image_without_a_batch():
    layer = nn.Conv2d(3, 4, 3).requires_grad_(False)
    x = torch.randn(3, 8, 8)
    with FrozenWeights():
        torch.testing.assert_close(layer(x), F.conv2d(x, layer.weight, layer.bias))
