"""What the benchmarks count, against sums by hand. What they time is no matter for a test."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks import shortcut
from benchmarks.common import kept_bytes
from benchmarks.roofline import Traffic, step_cost, step_limit
from ctxnet.data.pathfinder import find_marks, make_pathfinder


def test_traffic_counts_what_no_fusion_can_spare():
    x, w = torch.randn(2, 3, 8, 8), torch.randn(4, 3, 3, 3, requires_grad=True)
    with Traffic() as traffic:
        y = F.conv2d(x, w)
    assert traffic.bytes == x.nbytes + w.nbytes + y.nbytes
    with Traffic() as traffic:
        total = (2 * y.relu() + 1).flatten(1).sum()
    assert traffic.bytes == y.nbytes + total.nbytes  # the sum alone: what is elementwise or a view is free
    with Traffic() as traffic:
        total.backward(torch.ones(()))
    assert traffic.bytes == y.nbytes + x.nbytes + 2 * w.nbytes  # gradient, input and weight in, the weight's gradient out


def test_an_expanded_tensor_is_read_once():
    x, w = torch.randn(1, 4), torch.randn(4, 4)
    with Traffic() as traffic:
        y = torch.mm(x.expand(8, 4), w)
    assert traffic.bytes == x.nbytes + w.nbytes + y.nbytes


def test_cost_and_limit_of_a_step():
    model = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 5, bias=False))
    images, labels = torch.randn(2, 3, 8, 8), torch.tensor([1, 3])
    moved, operations = step_cost(model, images, labels)
    convolution, product = 2 * 2 * 64 * 3 * 4, 2 * 2 * 256 * 5
    assert operations == 2 * convolution + 3 * product  # the images want no gradient
    weights = 4 * (12 + 1280)
    assert moved > 5 * weights + 3 * weights
    assert all(p.grad is None for p in model.parameters())
    assert step_limit(model, images, labels, (1.0, 1e12)) == moved
    assert step_limit(model, images, labels, (1e12, 1.0)) == operations


def test_kept_bytes_are_those_of_the_backward_pass():
    x, w = torch.randn(1000), torch.randn(1000, requires_grad=True)
    assert kept_bytes(lambda: x * w, device="cpu") == 0  # x and w are there anyway
    assert kept_bytes(lambda: (x * w).exp() * w, device="cpu") == 4000  # the exponential
    with torch.no_grad():
        assert kept_bytes(lambda: (x * w).exp() * w, device="cpu") == 0


def test_the_shortcut_answers_by_distance_alone():
    seen, labels = np.array([1, 1, 1, 4, 4]), np.array([1, 1, 0, 0, 0])
    assert shortcut.answers(seen, labels, np.array([1, 4, 2, 9])).tolist() == [1, 0, 0, 0]
    images, _ = make_pathfinder(20, dashes=6, seed=4)
    for image, marks in zip(images, find_marks(images), strict=True):
        for row, column in marks:
            assert (image[row - 2 : row + 3, column - 1 : column + 2] > 200).all()


def test_directions_are_those_of_the_next_dash_seen_towards_the_other_mark():
    image = np.full((64, 64, 3), 128, np.uint8)
    marks = np.array([[[20, 20], [20, 40]]])  # side by side
    image[20, 25:28] = 240  # beside the first, straight to the second
    image[25, 40] = 240  # below the second, which looks left
    assert np.allclose(shortcut.directions(image[None], marks), [[1, -1j]])
    turned = shortcut.directions(np.rot90(image)[None].copy(), np.array([[[43, 20], [23, 20]]]))
    assert np.allclose(turned, [[1, -1j]])
    edge = shortcut.directions(image[None], np.array([[[3, 3], [60, 60]]]))
    assert (edge == 0).all()  # no dash near, and windows that leave the image


def test_boosted_directions_tell_facing_marks_from_others_in_any_order():
    dice = np.random.default_rng(0)
    far = dice.uniform(10, 40, 400)
    labels = dice.integers(0, 2, 400)
    facing = np.where(labels == 1, 0, dice.choice([-1, 1], 400) * 2.0) + dice.normal(0, 0.2, 400)
    way = np.exp(1j * np.stack([facing, dice.normal(0, 1, 400)], 1))
    seen, asked = (far[:300], way[:300]), (far[300:], way[300:])
    right = shortcut.boosted(seen, labels[:300], asked) == labels[300:]
    swapped = shortcut.boosted(seen, labels[:300], (far[300:], way[300:, ::-1])) == labels[300:]
    assert right.mean() > 0.95 and abs(swapped.mean() - right.mean()) < 0.05
