"""fastai DataLoaders over prepared arrays, with the augmentation of §4.2 of the thesis: random crop, flip,
rotation.

One batch is gathered from the memory map at once, and crop, flip and rotation are one affine resampling per
image, so that loading costs a small part of a training step on one core. All random numbers of the
augmentation are drawn in the main process from torch's CPU generator: the number of workers and the device
do not change what is drawn.
"""

import math
import random
from functools import lru_cache, partial

import numpy as np
import torch
import torch.nn.functional as F

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
PIECE = 2**21  # bytes of float32 images that a processor finishes at a time: what fits into its cache is done twice as fast


@lru_cache
def _mean_std(device):
    """255·mean and 255·std, (1, 3, 1, 1)."""
    return tuple(torch.tensor(v, device=device).mul(255).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))


def _planes(images):
    """uint8 (n, H, W, 3) array or tensor to float32 (n, 3, H, W) tensor, 0…255."""
    images = images if torch.is_tensor(images) else torch.from_numpy(np.array(images))
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise ValueError(f"images must be uint8 (n, S, S, 3), not {images.dtype} {tuple(images.shape)}")
    return images.permute(0, 3, 1, 2).contiguous().float()


def _standardise(x):
    mean, std = _mean_std(x.device)
    return (x - mean) / std


def normalise(images):
    """uint8 (n, S, S, 3) images to float32 (n, 3, S, S) with ImageNet's channel means and standard
    deviations.

    Raises:
        ValueError: for another dtype or shape.
    """
    return _standardise(_planes(images))


def random_affines(n, *, min_crop, max_rotate, flip):
    """Draw n augmentations from torch's CPU generator as ``affine_grid`` matrices (n, 2, 3).

    A crop covers min_crop…1 of the area, with an aspect ratio of 3/4…4/3 as far as it fits into the image,
    anywhere in it (Szegedy et al. 2015, arXiv:1409.4842); a mirror image with probability ½ if ``flip``; a
    rotation about the middle of the crop by up to ``max_rotate`` degrees, either way. Crops are only
    enlarged, so bilinear sampling cannot alias.
    """
    area, ratio, x, y, angle, side = torch.rand(6, n)
    area = min_crop + (1 - min_crop) * area
    ratio = torch.exp((2 * ratio - 1) * torch.clamp(-area.log(), max=math.log(4 / 3)))
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    x, y = (1 - width) * (2 * x - 1), (1 - height) * (2 * y - 1)
    angle = math.radians(max_rotate) * (2 * angle - 1)
    side = torch.where(side < 0.5, -1.0, 1.0) if flip else torch.ones(n)
    rows = [
        torch.stack([width * angle.cos() * side, -width * angle.sin(), x], 1),
        torch.stack([height * angle.sin() * side, height * angle.cos(), y], 1),
    ]
    return torch.stack(rows, 1)


class Finish:
    """After a batch is on its device: augment, normalise, (B, S, S, 3) uint8 to (B, 3, S, S) float32.

    The matrices of a whole epoch are drawn and brought to the device with its first batch, so that later batches
    wait for nothing. They are drawn batch by batch, so that an epoch is the same whoever draws it.

    Args:
        sizes: images per batch of an epoch, in order; empty: no augmentation.
        part: (r, N): the batch holds images r, r + N … of a larger one, which ``sizes`` speak of.
        **augmentation: arguments of :func:`random_affines`.
    """

    def __init__(self, sizes=(), part=(0, 1), **augmentation):
        self.sizes, self.part, self.augmentation, self.waiting = sizes, part, augmentation, []

    def restart(self):
        """To be called before an epoch: what a broken-off one has left is dropped."""
        self.waiting = []

    def __call__(self, batch):
        images, labels = batch
        affines = self._draw(images.device) if self.sizes else None
        labels = labels if labels.ndim == 1 else _moved(labels, affines)
        size = max(1, PIECE // (12 * images.shape[1] * images.shape[2])) if images.device.type == "cpu" else len(images)
        if size >= len(images):
            return _finished(images, affines), labels
        x = torch.empty(len(images), 3, *images.shape[1:3])
        for start in range(0, len(images), size):
            piece = slice(start, start + size)
            x[piece] = _finished(images[piece], None if affines is None else affines[piece])
        return x, labels

    def _draw(self, device):
        if not self.waiting:
            drawn = [random_affines(size, **self.augmentation) for size in self.sizes]
            self.waiting = list(torch.cat(drawn).to(device, non_blocking=True).split(self.sizes))[::-1]
        rank, size = self.part
        return self.waiting.pop()[rank::size]


def _finished(images, affines):
    """uint8 (n, S, S, 3) to normalised float32 (n, 3, S, S), augmented by ``affines`` (n, 2, 3) unless they are None."""
    x = _planes(images)
    if affines is not None:
        grid = F.affine_grid(affines, x.shape, align_corners=False)
        x = F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return _standardise(x)


def _moved(masks, affines):
    """uint8 masks (n, H, W) to int64, by the ``affines`` of their images; the nearest pixel, since classes have no mean."""
    if affines is None:
        return masks.long()
    x = masks[:, None].float()
    grid = F.affine_grid(affines, x.shape, align_corners=False)
    return F.grid_sample(x, grid, mode="nearest", padding_mode="reflection", align_corners=False)[:, 0].long()


class Split:
    """One split as a data set: item i is (image uint8 (S, S, 3), label); ``ids[i]`` is its name."""

    def __init__(self, images, labels, ids):
        self.images, self.labels, self.ids = images, labels, ids

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, i):
        return self.images[i], self.labels[i]


def _same(item):
    return item


def _gather(split, part, indices):
    """(uint8 (B, S, S, 3), int64 (B,)) tensors of every Nth of the items at ``indices``, for ``part`` (r, N) from the r-th
    on, where the split's images are."""
    indices = indices[part[0] :: part[1]]
    if torch.is_tensor(split.images):
        chosen = torch.tensor(indices).to(split.images.device, non_blocking=True)
        return split.images.index_select(0, chosen), split.labels.index_select(0, chosen)
    indices = np.asarray(indices)
    return torch.from_numpy(np.array(split.images[indices])), torch.from_numpy(split.labels[indices])


def _check(prepared, *, image_size, batch_size, min_crop, max_rotate, flip, workers):
    if image_size != prepared.image_size:
        raise ValueError(
            f"image_size={image_size}: the prepared images are {prepared.image_size} px; prepare them again"
        )
    images = len(prepared.train_ids)
    if not len(prepared.valid_ids):
        raise ValueError(f"{prepared.dataset}: no validation images; nothing trained on it could be judged")
    if not 2 <= batch_size <= images:
        # One image alone has no batch statistics where a map is a single position.
        near = min(max(batch_size, 2), images)
        raise ValueError(f"batch_size={batch_size}: must be 2…{images} (training images); nearest valid value: {near}")
    if not 0 < min_crop <= 1:
        raise ValueError(f"min_crop={min_crop}: the smallest part of the area to crop must be above 0 and at most 1")
    if not 0 <= max_rotate <= 180:
        raise ValueError(f"max_rotate={max_rotate}: must be 0…180 degrees")
    if max_rotate and prepared.train_images.shape[1] != prepared.train_images.shape[2]:
        raise ValueError(f"max_rotate={max_rotate}: a crop that is not square would be sheared; nearest valid value: 0")
    if workers < 0:
        raise ValueError(f"workers={workers}: must be 0 or more")
    if prepared.dataset == "probe" and (min_crop < 1 or max_rotate > 0 or flip):
        raise ValueError("the probe set's label is geometry: it needs min_crop=1.0, max_rotate=0.0 and flip=False")
    if prepared.dataset == "pathfinder" and (min_crop < 1 or max_rotate > 0):
        raise ValueError("a cut path is another label: pathfinder needs min_crop=1.0 and max_rotate=0.0")


def loaders(prepared, *, image_size, batch_size, min_crop, max_rotate, flip, workers, seed, resident=None, part=(0, 1)):
    """fastai ``DataLoaders`` over a :class:`~ctxnet.data.Prepared`.

    A batch is x float32 (B, 3, H, W), ImageNet-normalised, and y int64 (B,), or (B, H, W) where labels are masks, which are
    cropped and mirrored as their images. Training is shuffled,
    augmented and drops the last incomplete batch; validation is complete, in the order of
    ``prepared.valid_ids``, and never augmented. ``dls.vocab`` holds the class names, ``dls.c`` their
    number, ``dls.valid.dataset.ids`` the image names.

    An epoch is a function of ``dls.train.rng`` (order) and torch's CPU generator (augmentation) at its
    start: seed both there to repeat it. ``seed`` sets the former for the first epoch.

    Args:
        image_size: S, the size the images were prepared at.
        min_crop: smallest part of the image's area a crop may cover, 0…1; 1.0 is no cropping.
        max_rotate: degrees, 0…180.
        flip: mirror left-right with probability ½.
        workers: processes that gather batches; 0 gathers in this one.
        resident: a device, such as "cuda", that all images are copied to first (uint8, 3·S² bytes each); batches are
            then gathered there, and ``workers`` must be 0. None: they stay on disk, behind a memory map.
        part: (r, N): what the r-th of N processes loads that train together: images r, r + N … of every training batch,
            which N divides, augmented as in the whole one, and the r-th of N successive parts of the validation set.

    Raises:
        ValueError: an argument out of range, or augmentation asked for on the probe set.
    """
    from fastai.data.core import DataLoaders
    from fastai.data.load import DataLoader

    augmentation = {"min_crop": min_crop, "max_rotate": max_rotate, "flip": flip}
    _check(prepared, image_size=image_size, batch_size=batch_size, workers=workers, **augmentation)
    if part[1] > len(prepared.valid_ids):
        near = len(prepared.valid_ids)
        raise ValueError(f"devices={part[1]}: fewer validation images than that; nearest valid value: devices={near}")
    if resident and workers:
        raise ValueError(f"workers={workers}: images that lie on {resident} are gathered there; nearest valid value: 0")
    steps = len(prepared.train_ids) // batch_size
    plain = min_crop == 1 and max_rotate == 0 and not flip
    finish = Finish() if plain else Finish([batch_size] * steps, part, **augmentation)

    # partial: fastai would bind a plain method to the loader
    hooks = {"before_iter": partial(Finish.restart, finish), "after_batch": finish}

    def loader(images, labels, ids, *, train):
        split = Split(images, labels, ids)
        if resident:
            split.images = torch.from_numpy(np.array(images)).to(resident)
            split.labels = torch.from_numpy(labels).to(resident)
        return DataLoader(
            split,
            bs=batch_size,
            shuffle=train,
            drop_last=train,
            num_workers=workers,
            pin_memory=torch.cuda.is_available() and not resident,
            create_item=_same,  # items stay indices until the whole batch is gathered
            do_batch=partial(_gather, split, part if train else (0, 1)),
            **(hooks if train else {"after_batch": Finish()}),
        )

    train = loader(prepared.train_images, prepared.train_labels, prepared.train_ids, train=True)
    rank, size = part
    mine = slice(*(number * len(prepared.valid_ids) // size for number in (rank, rank + 1)))
    valid = loader(prepared.valid_images[mine], prepared.valid_labels[mine], prepared.valid_ids[mine], train=False)
    train.rng, valid.rng = random.Random(seed), random.Random(seed)
    dls = DataLoaders(train, valid)
    dls.vocab, dls.c = list(prepared.classes), len(prepared.classes)
    return dls
