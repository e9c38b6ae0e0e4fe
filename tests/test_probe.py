"""The probe set: same bytes everywhere, solvable with context, at chance without."""

import hashlib
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ctxnet.data import normalise
from ctxnet.data.probe import MARK, make_probe, offsets, read_probe

SIZE, DISTANCE = 64, 20


@pytest.fixture(scope="module")
def splits():
    return make_probe(2000, seed=1), make_probe(1000, seed=2)


def centres(images):
    """(yellow, blue) centres (n, 2), found by a matched filter on the torus."""
    blueness = torch.from_numpy(images[..., 2].astype(np.float32) - images[..., 0])[:, None]
    disc = torch.tensor([[4 * (r * r + c * c) <= MARK**2 for c in range(-3, 4)] for r in range(-3, 4)]).float()
    score = F.conv2d(F.pad(blueness, (3, 3, 3, 3), mode="circular"), disc[None, None]).flatten(1)
    found = []
    for index in (score.argmin(1), score.argmax(1)):
        found.append(np.stack(np.unravel_index(index.numpy(), images.shape[1:3]), 1))
    return found


def ridge(train, valid, labels):
    """Predicted classes of a ridge regression to one-hot labels on standardised features."""
    mean, std = train.mean(0), train.std(0) + 1e-6
    train, valid = (train - mean) / std, (valid - mean) / std
    target = F.one_hot(torch.from_numpy(labels), 10).double()
    gram = train.T @ train + 10 * torch.eye(train.shape[1], dtype=train.dtype)
    return (valid @ torch.linalg.solve(gram, train.T @ (target - target.mean(0)))).argmax(1).numpy()


def test_same_bytes_everywhere():
    images, labels = make_probe(30, image_size=48, distance=15, seed=1)
    assert images.shape == (30, 48, 48, 3) and images.dtype == np.uint8 and labels.dtype == np.int64
    digest = hashlib.sha256(images.tobytes() + labels.astype("<i8").tobytes()).hexdigest()
    assert digest == "4a23411870e78a2f156dea5641c93cafebce3e916fef02861345463eb0752af1"
    again = make_probe(30, image_size=48, distance=15, seed=1)
    assert (images == again[0]).all() and (labels == again[1]).all()
    assert not (images == make_probe(30, image_size=48, distance=15, seed=2)[0]).all()


@pytest.mark.parametrize("distance", [9, 20, 31])
def test_offsets_are_the_rounded_bearings(distance):
    for i, (row, column) in enumerate(offsets(distance)):
        angle = math.radians(36 * i)
        # The table has four decimals, so it can round differently only within 0.01 px of a half.
        assert abs(row + distance * math.sin(angle)) <= 0.51 and abs(column - distance * math.cos(angle)) <= 0.51
    assert len({tuple(o) for o in offsets(distance).tolist()}) == 10


def test_classes_are_balanced_and_splits_differ(splits):
    (images, labels), (valid, valid_labels) = splits
    assert (np.bincount(labels) == 200).all() and (np.bincount(valid_labels) == 100).all()
    assert not {i.tobytes() for i in images} & {i.tobytes() for i in valid}


def test_full_context_solves_it(splits):
    images, labels = splits[1]
    yellow, blue = centres(images)
    apart = (blue - yellow + SIZE // 2) % SIZE - SIZE // 2  # the short way around the torus
    distance = np.hypot(*apart.T)
    bearing = np.round(np.degrees(np.arctan2(-apart[:, 0], apart[:, 1])) / 36).astype(int) % 10
    assert (bearing == labels).mean() > 0.99
    assert np.abs(distance - DISTANCE).max() < 0.8


def test_position_of_either_mark_says_nothing():
    """Chi-squared of position (4×4 cells) against class, 135 degrees of freedom, averaged over 20
    independent draws."""
    found = []
    for seed in range(10):
        images, labels = make_probe(200, seed=seed)
        for mark in centres(images):
            counts = np.zeros((10, 16))
            np.add.at(counts, (labels, mark[:, 0] // 16 * 4 + mark[:, 1] // 16), 1)
            expected = counts.sum(1, keepdims=True) * counts.sum(0, keepdims=True) / counts.sum()
            found.append(((counts - expected) ** 2 / expected).sum())
    assert abs(np.mean(found) - 135) < 4 * (2 * 135 / 20) ** 0.5


def test_narrow_windows_show_one_mark_at_most():
    gap = np.abs(offsets(DISTANCE)).max(1).min() - MARK  # free pixels between the marks along the longer axis
    assert gap + 1 >= 0.8 * DISTANCE - MARK


def test_a_bag_of_local_patches_stays_near_chance(splits):
    """Random 8×8 filters, rectified, averaged over every position of the torus, then a linear classifier.

    Every position: the average over every fourth one would tell where the marks are, modulo 4.
    """
    window = int(0.8 * DISTANCE - MARK) - 1
    generator = torch.Generator().manual_seed(0)
    filters = torch.randn(48, 3, window, window, generator=generator) / window
    bias = torch.randn(48, generator=generator)

    def bag(images):
        x = normalise(images)
        x = F.pad(x, (0, window - 1, 0, window - 1), mode="circular")
        return F.conv2d(x, filters, bias).relu().mean((2, 3)).double()

    (train, labels), (valid, valid_labels) = splits
    train, labels = train[:1200], labels[:1200]
    accuracy = (ridge(bag(train), bag(valid), labels) == valid_labels).mean()
    assert 0.06 < accuracy < 0.14  # chance 0.10, standard error 0.0095

    # The same classifier, given one pooled feature per bearing that looks D pixels away, has no difficulty.
    def pairs(images):
        marks = [(images[..., c] > 200) & (images[..., 2 - c] < 60) for c in (0, 2)]
        shifts = offsets(DISTANCE)
        rolled = [(marks[0] & np.roll(marks[1], tuple(-s), (1, 2))).mean((1, 2)) for s in shifts]
        return torch.from_numpy(np.stack(rolled, 1))

    assert (ridge(pairs(train), pairs(valid), labels) == valid_labels).mean() > 0.95


@pytest.mark.parametrize("wrong", [{"distance": 7}, {"distance": 32}, {"mark": 4}, {"n": 0}, {"seed": -1}])
def test_wrong_arguments_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        make_probe(**({"n": 10, "seed": 0} | wrong))


@pytest.mark.parametrize("distance", [4, 5, 8, 12, 20, 31])
def test_a_perfect_reader_is_always_right_and_no_mark_hides_another(distance):
    images, labels = make_probe(300, distance=distance, mark=3, seed=5)
    assert (read_probe(images, distance) == labels).all()
    pixels = [((images[..., c] > 200) & (images[..., 2 - c] < 60)).sum((1, 2)) for c in (0, 2)]
    assert (np.array(pixels) == 9).all()  # both discs whole


def test_a_reader_of_another_distance_is_not(distance=20):
    images, labels = make_probe(300, distance=distance, seed=5)
    assert (read_probe(images, distance) == labels).all() and (read_probe(images, 9) == labels).mean() < 0.3
