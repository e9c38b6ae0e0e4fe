"""Which weights see nothing but padding, against every tap tried by hand."""

import itertools

import pytest
import torch
from torch import nn

import ctxnet
from ctxnet.measure import unseen_weights


def by_hand(size, kernel, stride, padding, dilation):
    """Share of the taps of a square kernel that meet no element of a square map."""
    outputs = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    meets = [any(0 <= o * stride - padding + t * dilation < size for o in range(outputs)) for t in range(kernel)]
    return sum(not (a and b) for a, b in itertools.product(meets, meets)) / kernel**2


@pytest.mark.parametrize("size, kernel, stride, padding, dilation", [
    (2, 3, 1, 4, 4), (4, 3, 1, 4, 4), (5, 3, 1, 4, 4), (8, 3, 1, 4, 4), (3, 5, 1, 4, 2), (1, 3, 1, 1, 1), (2, 3, 2, 1, 1),
    (2, 2, 2, 0, 1),
])  # fmt: skip
def test_taps_outside_of_the_map(size, kernel, stride, padding, dilation):
    net = nn.Conv2d(4, 6, kernel, stride, padding, dilation, groups=2)
    found = unseen_weights(net, torch.randn(3, 4, size, size))
    assert found.share == by_hand(size, kernel, stride, padding, dilation)


def test_nothing_is_unseen_where_padding_repeats_the_map():
    images = torch.randn(2, 3, 4, 4)
    assert unseen_weights(nn.Conv2d(3, 4, 3, padding=4, dilation=4, padding_mode="replicate"), images).share == 0
    assert unseen_weights(nn.Conv2d(3, 4, 3, padding="same", dilation=4), images).share == 8 / 9
    assert unseen_weights(nn.Conv1d(3, 4, 3, padding=4, dilation=4), torch.randn(2, 3, 4)).share == 2 / 3


def test_shifted_copies_of_which_nothing_is_left():
    net = ctxnet.create_model("resnet50_random_dilated8", num_classes=10, width=8).eval()
    small, large = (unseen_weights(net, torch.randn(2, 3, size, size)) for size in (64, 256))
    assert large.share < 0.1 < 0.5 < small.share
    assert all(0 < share < 1 for share in small.layers.values())


def test_a_plain_network_sees_with_all_its_weights():
    net = ctxnet.create_model("resnet50", num_classes=10, width=8)
    assert unseen_weights(net, torch.randn(2, 3, 128, 128)) == (0, {})


def test_bad_input():
    with pytest.raises(ValueError, match="two or more"):
        unseen_weights(nn.Conv2d(3, 4, 3), torch.randn(1, 3, 8, 8))
    with pytest.raises(ValueError, match="Linear runs no convolution"):
        unseen_weights(nn.Linear(4, 4), torch.randn(2, 4))
