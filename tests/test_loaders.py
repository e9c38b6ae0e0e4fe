"""Loaders: shapes, order, determinism, and that the augmentation is what it says."""

import random
import sys

import numpy as np
import pytest
import torch

from ctxnet.data import IMAGENET_MEAN, IMAGENET_STD, loaders, normalise
from ctxnet.data.loaders import random_affines
from ctxnet.data.prepared import save_prepared

AUGMENT = {"min_crop": 0.35, "max_rotate": 10.0, "flip": True}
PLAIN = {"min_crop": 1.0, "max_rotate": 0.0, "flip": False}


def make(folder, dataset="set"):
    rng = np.random.default_rng(0)
    splits = {
        s: (
            [f"{s}/{i}" for i in range(n)],
            np.arange(n) % 3,
            rng.integers(0, 256, (n, 16, 16, 3), dtype=np.uint8),
        )
        for s, n in (("train", 22), ("valid", 10))
    }
    return save_prepared(folder, dataset=dataset, image_size=16, classes=["a", "b", "c"], splits=splits, origin={})


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return make(tmp_path_factory.mktemp("loaders") / "set-16")


def build(prepared, *, workers=0, seed=0, batch_size=4, **augmentation):
    return loaders(prepared, image_size=16, batch_size=batch_size, workers=workers, seed=seed, **augmentation)


def epoch(dls, seed=0):
    torch.manual_seed(seed)
    dls.train.rng = random.Random(seed)
    batches = list(dls.train)
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


def test_normalise(prepared):
    images = prepared.valid_images
    x = normalise(images)
    expected = (np.asarray(images) / 255 - IMAGENET_MEAN) / IMAGENET_STD
    assert x.dtype == torch.float32 and x.is_contiguous()
    np.testing.assert_allclose(x.permute(0, 2, 3, 1).numpy(), expected, atol=1e-5)
    assert torch.equal(x, normalise(torch.from_numpy(np.array(images))))
    with pytest.raises(ValueError, match="uint8"):
        normalise(x)


@pytest.mark.parametrize("augmentation", [AUGMENT, PLAIN], ids=["augmented", "plain"])
def test_batches_and_validation_order(prepared, augmentation):
    dls = build(prepared, **augmentation)
    assert dls.vocab == ["a", "b", "c"] and dls.c == 3
    train, valid = list(dls.train), list(dls.valid)
    assert [len(y) for _, y in train] == [4] * 5 and [len(y) for _, y in valid] == [4, 4, 2]
    for x, y in train + valid:
        assert type(x) is torch.Tensor and x.shape[1:] == (3, 16, 16) and x.dtype == torch.float32
        assert y.dtype == torch.int64
    assert torch.equal(torch.cat([x for x, _ in valid]), normalise(prepared.valid_images))
    assert torch.cat([y for _, y in valid]).tolist() == prepared.valid_labels.tolist()
    assert dls.valid.dataset.ids == prepared.valid_ids
    assert dls.train.dataset[3][1] == prepared.train_labels[3]


def test_training_images_are_the_prepared_ones_in_another_order(prepared):
    x, y = epoch(build(prepared, **PLAIN))
    known = {image.numpy().tobytes(): i for i, image in enumerate(normalise(prepared.train_images))}
    order = [known[image.numpy().tobytes()] for image in x]
    assert len(set(order)) == 20 and order != sorted(order)
    assert y.tolist() == prepared.train_labels[order].tolist()


def test_an_epoch_is_decided_by_the_seeds_and_not_by_workers(prepared):
    x, y = epoch(build(prepared, **AUGMENT))
    again = build(prepared, seed=9, **AUGMENT)
    list(again.train)  # an epoch before leaves no trace
    for other in (epoch(again), epoch(build(prepared, workers=2, **AUGMENT))):
        assert torch.equal(x, other[0]) and torch.equal(y, other[1])
    assert not torch.equal(x, epoch(again, seed=1)[0])
    first = [y for _, y in build(prepared, seed=3, **PLAIN).train]
    assert all(torch.equal(a, b) for a, (_, b) in zip(first, build(prepared, seed=3, **PLAIN).train, strict=True))


def test_affines_stay_in_the_image_and_spread_over_their_range():
    torch.manual_seed(0)
    theta = random_affines(4000, min_crop=0.35, max_rotate=0.0, flip=True)
    width, height, (x, y) = theta[:, 0, 0].abs(), theta[:, 1, 1], theta[:, :, 2].T
    assert (width + x.abs() <= 1 + 1e-6).all() and (height + y.abs() <= 1 + 1e-6).all()
    area, ratio = width * height, width / height
    assert 0.35 <= area.min() < 0.36 and 0.99 < area.max() <= 1 + 1e-6 and abs(area.mean() - 0.675) < 0.01
    assert 0.749 < ratio.min() < 0.77 and 1.30 < ratio.max() < 1.334
    assert abs((theta[:, 0, 0] < 0).float().mean() - 0.5) < 0.03
    turned = random_affines(1000, min_crop=1.0, max_rotate=10.0, flip=False)
    angle = torch.rad2deg(torch.atan2(turned[:, 1, 0], turned[:, 1, 1]))
    assert 9.8 < angle.max() <= 10.001 and -10.001 <= angle.min() < -9.8
    none = random_affines(3, min_crop=1.0, max_rotate=0.0, flip=False)
    torch.testing.assert_close(none, torch.eye(2, 3).expand(3, 2, 3))


def test_flip_alone_mirrors_exactly(prepared):
    x, _ = epoch(build(prepared, **(PLAIN | {"flip": True})))
    known = {}
    for i, image in enumerate(normalise(prepared.train_images)):
        known[i] = image
    originals, mirrored = 0, 0
    for image in x:
        originals += any((image - k).abs().max() < 1e-3 for k in known.values())
        mirrored += any((image.flip(-1) - k).abs().max() < 1e-3 for k in known.values())
    assert originals + mirrored == 20 and originals and mirrored


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 23}, "batch_size=23"),
        ({"min_crop": 0.0}, "min_crop=0.0"),
        ({"max_rotate": -1.0}, "max_rotate=-1.0"),
        ({"workers": -1}, "workers=-1"),
    ],
)
def test_wrong_arguments_are_named(prepared, change, message):
    with pytest.raises(ValueError, match=message):
        build(prepared, **(AUGMENT | change))


def test_wrong_size_and_augmented_probe_are_refused(prepared, tmp_path):
    with pytest.raises(ValueError, match="image_size=32: the prepared images are 16 px"):
        loaders(prepared, image_size=32, batch_size=4, workers=0, seed=0, **PLAIN)
    probe = make(tmp_path / "probe-16", dataset="probe")
    build(probe, **PLAIN)
    for change in ({"flip": True}, {"max_rotate": 5.0}, {"min_crop": 0.9}):
        with pytest.raises(ValueError, match="label is geometry"):
            build(probe, **(PLAIN | change))


def test_a_fastai_learner_trains_and_predicts_in_order(prepared):
    import fastai.callback.progress  # noqa: F401  (gives Learner no_bar)
    from fastai.learner import Learner

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 3))
    learner = Learner(build(prepared, **AUGMENT), model, loss_func=torch.nn.CrossEntropyLoss())
    with learner.no_bar(), learner.no_logging():
        learner.fit(1)
        predicted, labels = learner.get_preds()
    assert labels.tolist() == prepared.valid_labels.tolist()
    with torch.no_grad():
        expected = model(normalise(prepared.valid_images))
    torch.testing.assert_close(predicted, expected, rtol=1e-4, atol=1e-4)


def test_resident_images_give_the_same_batches(prepared):
    """Where the images lie changes nothing: same order, same augmentation, same bits, epoch after epoch."""
    settings = {"min_crop": 0.35, "max_rotate": 10.0, "flip": True}
    for _ in range(2):
        batches = []
        for resident in (None, "cpu"):
            dls = build(prepared, resident=resident, **settings)
            torch.manual_seed(3)
            batches.append([*dls.train, *dls.train, *dls.valid])
        for (x, y), (x_, y_) in zip(*batches, strict=True):
            assert torch.equal(x, x_) and torch.equal(y, y_)


def test_a_broken_off_epoch_leaves_nothing_to_the_next(prepared):
    settings = {"min_crop": 0.35, "max_rotate": 10.0, "flip": True}
    epochs = []
    for broken in (False, True):
        dls = build(prepared, **settings)
        if broken:
            next(iter(dls.train))
        torch.manual_seed(3)
        dls.train.rng = random.Random(1)
        epochs.append([x for x, _ in dls.train])
    assert all(torch.equal(a, b) for a, b in zip(*epochs, strict=True))


def test_images_on_a_device_need_no_processes(prepared):
    with pytest.raises(ValueError, match="workers=2: .*nearest valid value: 0"):
        build(prepared, workers=2, resident="cpu", min_crop=1.0, max_rotate=0.0, flip=False)


@pytest.mark.parametrize("sizes", [[], [5]])
def test_a_batch_finished_piece_by_piece_is_that_finished_at_once(monkeypatch, sizes):
    module = sys.modules["ctxnet.data.loaders"]  # the package has a function of this name
    images = torch.randint(0, 256, (5, 16, 16, 3), dtype=torch.uint8)
    batches = []
    for piece in (1, 2 * 12 * 16 * 16, 2**30):  # bytes: one image, two, all
        monkeypatch.setattr(module, "PIECE", piece)
        torch.manual_seed(0)
        batches.append(module.Finish(sizes, **AUGMENT)((images, torch.zeros(5)))[0])
    assert torch.equal(batches[0], batches[2]) and torch.equal(batches[1], batches[2])


def test_a_crop_is_what_pillow_makes_of_it():
    """Bilinear resampling of a crop: within 1/255 of Pillow's on average."""
    from PIL import Image

    from ctxnet.data.loaders import IMAGENET_MEAN, IMAGENET_STD, Finish

    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
    images = np.stack([Image.fromarray(i).resize((64, 64), Image.Resampling.BICUBIC) for i in noise])
    torch.manual_seed(0)
    theta = random_affines(8, min_crop=0.35, max_rotate=0.0, flip=True)
    finish = Finish([8], min_crop=0.35, max_rotate=0.0, flip=True)
    torch.manual_seed(0)
    ours, _ = finish((torch.from_numpy(images), torch.zeros(8)))
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    for image, matrix, got in zip(images, theta, ours, strict=True):
        (width, _, x), (_, height, y) = matrix.tolist()
        box = (32 * (1 + x - abs(width)), 32 * (1 + y - height), 32 * (1 + x + abs(width)), 32 * (1 + y + height))
        expected = Image.fromarray(image).resize((64, 64), Image.Resampling.BILINEAR, box=box)
        expected = torch.from_numpy(np.array(expected)).permute(2, 0, 1) / 255
        expected = expected.flip(2) if width < 0 else expected
        assert (got * std + mean - expected).abs().mean() < 1 / 255
