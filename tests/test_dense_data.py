"""CamVid and folders like it: pairs of images and masks, and the same geometry for both."""

import tarfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from ctxnet.data import camvid, loaders, prepare_dataset

CLASSES = ("left", "middle", "right")


def save(folder, split, name, *, size=(24, 16), label=None, mode="L"):
    """A frame whose red channel says the class of each pixel: 40 · class; and its mask, in which the corner is void."""
    label = np.arange(size[0])[None].repeat(size[1], 0) * len(CLASSES) // size[0] if label is None else label
    label = label.astype(np.uint8)
    image = np.zeros((*label.shape, 3), np.uint8)
    image[..., 0] = 40 * label
    image[..., 1] = sum(map(ord, name)) % 200
    label = label.copy()
    label[0, 0] = len(CLASSES)
    for part, array, kind in ((split, image, "RGB"), (f"{split}annot", label, mode)):
        path = folder / part / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).convert(kind).save(path)


def make(folder, frames=4, **changed):
    for split in ("train", "val", "test"):
        for number in range(frames):
            save(folder, split, f"drive_{split}{number}", **changed)
    (folder / "classes.txt").write_text("\n".join(CLASSES))
    return folder


@pytest.fixture
def source(tmp_path):
    return make(tmp_path / "frames")


def test_frames_and_masks_are_read(source):
    prepared = camvid.prepare(source, 16, own=True)
    assert prepared.classes == list(CLASSES) and prepared.train_images.shape == (4, 16, 24, 3)
    assert prepared.train_labels.shape == (4, 16, 24) and set(np.unique(prepared.train_labels)) == {0, 1, 2, camvid.VOID}
    assert prepared.train_ids[0] == "train/drive_train0" and prepared.valid_ids[0] == "val/drive_val0"
    assert camvid.prepare(source, 16, own=True, judged="test").valid_ids[0] == "test/drive_test0"


def test_the_hash_is_of_what_is_in_the_files(source):
    before = camvid.prepare(source, 16, own=True).manifest_hash
    assert camvid.prepare(source, 16, own=True).manifest_hash == before
    save(source, "train", "drive_train0", label=np.zeros((16, 24)))
    assert camvid.prepare(source, 16, own=True).manifest_hash != before


def test_larger_files_are_shrunk(tmp_path):
    prepared = camvid.prepare(make(tmp_path / "large", size=(48, 32)), 16, own=True)
    assert prepared.train_images.shape == (4, 16, 24, 3) and prepared.train_labels.shape == (4, 16, 24)
    inside = prepared.train_labels != camvid.VOID
    assert (prepared.train_images[..., 0][inside] == 40 * prepared.train_labels[inside])[inside[inside]].mean() > 0.95


def test_both_layouts_and_a_tar(source, tmp_path):
    expected = camvid.prepare(source, 16, own=True).manifest_hash
    with tarfile.open(tmp_path / "packed.tar", "w") as tar:
        tar.add(source, "frames")
    assert camvid.prepare(tmp_path / "packed.tar", 16, own=True, root=tmp_path).manifest_hash == expected
    save(source, "train", "drive_train0", label=np.zeros((16, 24)))
    with tarfile.open(tmp_path / "packed.tar", "w") as tar:  # another tar of that name is not taken for the first
        tar.add(source, "frames")
    changed = camvid.prepare(source, 16, own=True).manifest_hash
    assert camvid.prepare(tmp_path / "packed.tar", 16, own=True, root=tmp_path).manifest_hash == changed != expected
    make(source)
    other = tmp_path / "other"
    for split in ("train", "val", "test"):
        for new, old in (("images", split), ("masks", f"{split}annot")):
            (other / new).mkdir(parents=True, exist_ok=True)
            (source / old).rename(other / new / split)
    (other / "classes.txt").write_text("\n".join(CLASSES))
    assert camvid.prepare(other, 16, own=True).manifest_hash == expected


MASK = "trainannot/drive_train1.png"
WRONG = {
    "missing": (lambda s: (s / MASK).unlink(), r"train/drive_train1\.png: its label .* is missing in trainannot/"),
    "size": (lambda s: Image.new("L", (24, 15)).save(s / MASK), f"{MASK}: 24×15 pixels, but its image has 24×16"),
    "label": (lambda s: Image.new("L", (24, 16), 4).save(s / MASK), f"{MASK}: label 4 is outside 0…3"),
    "mode": (lambda s: Image.new("RGB", (24, 16)).save(s / MASK), f"{MASK}: mode RGB"),
    "damaged": (lambda s: (s / "train/drive_train1.png").write_bytes(b"no image"), "train1.png: cannot be read as an image"),
    "classes": (lambda s: (s / "classes.txt").unlink(), "classes.txt: missing"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_told_in_one_line(source, what):
    spoil, message = WRONG[what]
    spoil(source)
    with pytest.raises(ValueError, match=message) as caught:
        camvid.prepare(source, 16, own=True)
    assert "\n" not in str(caught.value)


def test_how_many_are_wrong(source):
    for number in range(3):
        (source / "trainannot" / f"drive_train{number}.png").unlink()
    with pytest.raises(ValueError, match="and 2 more"):
        camvid.prepare(source, 16, own=True)


def test_camvid_has_its_number_of_frames(source):
    (source / "classes.txt").unlink()
    with pytest.raises(ValueError, match="4 frames, but CamVid has 367"):
        camvid.prepare(source, 16)


def test_where_camvid_is_looked_for(tmp_path):
    protocol = SimpleNamespace(dataset="camvid", image_size=16, task="segmentation", judged="val")
    with pytest.raises(FileNotFoundError, match="no CamVid here; take the folder CamVid/ of https://github.com/alexgkendall"):
        prepare_dataset(protocol, {}, tmp_path)
    make(tmp_path / "mine")
    own = SimpleNamespace(dataset="mine", image_size=16, task="segmentation", judged="val")
    assert prepare_dataset(own, {}, tmp_path).classes == list(CLASSES)


def test_image_and_mask_move_together(source):
    """Every pixel of the image says its class, so image and mask must agree after crop and mirror, but for blended edges."""
    prepared = camvid.prepare(source, 16, own=True)
    dls = loaders(prepared, image_size=16, batch_size=4, min_crop=0.3, max_rotate=0.0, flip=True, workers=0, seed=0)
    from ctxnet.data.loaders import _mean_std

    mean, std = _mean_std(torch.device("cpu"))
    seen = set()
    for epoch in range(6):
        torch.manual_seed(epoch)
        ((x, y),) = list(dls.train)
        assert x.shape == (4, 3, 16, 24) and y.shape == (4, 16, 24) and y.dtype == torch.int64
        said = (x * std + mean)[:, 0] / 40
        pure = (said - said.round()).abs() < 0.02  # no blend of two classes
        judged = pure & (y != camvid.VOID)
        assert (said.round().long()[judged] == y[judged]).double().mean() > 0.985
        assert set(y.unique().tolist()) <= {0, 1, 2, camvid.VOID}  # nearest: no class that is a mean of others
        seen |= {int(row[0]) - int(row[-1]) for row in y[:, 8]}
    assert {0, 2} & {abs(s) for s in seen} and min(seen) < 0 < max(seen)  # cropped, and some mirrored
    x, y = next(iter(dls.valid))
    assert (y == torch.from_numpy(prepared.valid_labels).long()).all()


def test_a_rotation_of_oblong_frames_is_refused(source):
    prepared = camvid.prepare(source, 16, own=True)
    with pytest.raises(ValueError, match="max_rotate=5.0: .*nearest valid value: 0"):
        loaders(prepared, image_size=16, batch_size=2, min_crop=1.0, max_rotate=5.0, flip=False, workers=0, seed=0)


def test_fastai_reads_the_same_frames(source):
    dls = camvid.plain_loaders(source, batch_size=4, classes=CLASSES)
    x, y = next(iter(dls.valid))
    prepared = camvid.prepare(source, 16, own=True)
    expected = np.where(prepared.valid_labels == camvid.VOID, len(CLASSES), prepared.valid_labels)
    assert x.shape == (4, 3, 16, 24) and (np.asarray(y) == expected).all()


def test_a_hostile_tar_is_refused(source, tmp_path):
    with tarfile.open(tmp_path / "hostile.tar", "w") as tar:
        tar.add(source, "../frames")
    with pytest.raises(ValueError, match="would leave the folder; nothing was unpacked"):
        camvid.prepare(tmp_path / "hostile.tar", 16, own=True, root=tmp_path)
    assert not list((tmp_path / "data").glob("*/*"))
