"""Imagenette (Howard 2019, https://github.com/fastai/imagenette), and any folder of images in the same
layout.

A source is a folder with ``train/<class>/*`` and ``val/<class>/*``, or a tar of one. Images are decoded
once into uint8 arrays: short side to the wanted size, centre crop.
"""

import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from ctxnet.data.archive import download, extract
from ctxnet.data.preflight import Preflight, decode, read_checksums, write_checksums
from ctxnet.data.prepared import one_preparer, reuse, save_prepared, save_source_state, source_state
from ctxnet.files import sha256, stable_hash

CLASSES = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}
COUNTS = {"train": 9469, "valid": 3925}
# The addresses are fastai's URLs.IMAGENETTE_320 and URLs.IMAGENETTE, repeated here because importing fastai
# takes seconds (a test compares them). The hashes are those TensorFlow Datasets publishes for the same
# files (tensorflow_datasets/datasets/imagenette/checksums.tsv); its sizes agree with fastai's own
# download_checks.py.
ARCHIVES = {
    320: (
        "https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-320.tgz",
        "569b4497c98db6dd29f335d1f109cf315fe127053cedf69010d047f0188e158c",
    ),
    None: (
        "https://s3.amazonaws.com/fast-ai-imageclas/imagenette2.tgz",
        "6cbfac238434d89fe99e651496f0812ebc7a10fa62bd42d6874042bf01de4efd",
    ),
}
SUFFIXES = {".jpeg", ".jpg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


def split_folder(path):
    """The folder that holds ``train`` and ``val``: ``path`` itself or the only folder in it that does; else
    a ValueError."""
    path = Path(path)
    inner = sorted(p for p in path.iterdir() if p.is_dir() and p.name[0] != ".")
    found = [folder for folder in (path, *inner) if (folder / "train").is_dir() and (folder / "val").is_dir()]
    if not found:
        raise ValueError(f"{path}: no folders train/ and val/ in it")
    if found[0] != path and len(found) > 1:
        raise ValueError(f"{path}: train/ and val/ are in {found[0].name} and in {found[1].name}; give one of them")
    return found[0]


def open_source(path, data="data", *, progress=True):
    """A folder in train/val layout from a path to such a folder or to a tar of it, which is unpacked once
    into ``data``.

    Raises:
        FileNotFoundError: there is nothing at the path.
        ValueError: it is neither, or the archive is refused.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        return split_folder(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such folder or tar")
    # One folder per state of the archive, so that a changed archive is never taken for the old one.
    stat = path.stat()
    state = stable_hash([str(path.resolve()), stat.st_size, stat.st_mtime_ns])[:8]
    folder = Path(data) / f"{path.name.split('.')[0]}.{state}"
    with one_preparer(folder):
        if not folder.is_dir():
            extract(path, folder, finish=_vouch, progress=progress)
    return split_folder(folder)


def _vouch(folder):
    """Leave a list of SHA-256 sums with what was unpacked, which is read again later; an archive's own list is kept."""
    try:
        source = split_folder(folder)
    except ValueError:  # said where it is used
        return
    if not read_checksums(source)[1]:
        files = sorted(path for split in ("train", "val") for path in source.glob(f"{split}/*/*") if path.is_file())
        write_checksums(source / "unpacked.sha256", {path.relative_to(source).as_posix(): sha256(path) for path in files})


def find_source(source="", root=".", *, image_size=224, progress=True):
    """The folder with Imagenette's images: ``source`` if given, else $CTXNET_DATA, else
    data/imagenette2-224, else the download.

    ``source`` and $CTXNET_DATA may be a folder or a tar, relative to ``root``. Up to 320 px the official
    archive with short sides of 320 px (340 MB) is enough; above, the full-size one (1.6 GB) is downloaded.
    Either is checked by SHA-256.
    """
    root = Path(root)
    data = root / "data"
    for given, name in ((source, "imagenette.source"), (os.environ.get("CTXNET_DATA", ""), "CTXNET_DATA")):
        if given:
            try:
                return open_source(root / Path(given).expanduser(), data, progress=progress)
            except (FileNotFoundError, ValueError) as error:
                raise type(error)(f"{name}: {error}") from None
    if (data / "imagenette2-224").is_dir():
        return open_source(data / "imagenette2-224", data)
    url, digest = ARCHIVES[320 if image_size <= 320 else None]
    archive = download(url, data / url.rsplit("/", 1)[1], sha256_hex=digest, progress=progress)
    return open_source(archive, data, progress=progress)


def list_images(source):
    """(classes, files): sorted class folder names and ``{"train": [(id, path, label)], "valid": …}`` sorted
    by id.

    Hidden files and files that are not images by name are passed over.

    Raises:
        ValueError: no classes, a class missing in one of the splits, or a class without images.
    """
    source = Path(source)
    names = {
        s: sorted(p.name for p in (source / s).iterdir() if p.is_dir() and p.name[0] != ".") for s in ("train", "val")
    }
    for here, there in (("train", "val"), ("val", "train")):
        if missing := sorted(set(names[there]) - set(names[here])):
            more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise ValueError(f"{source / here}: class {missing[0]!r} is missing here but present in {there}{more}")
    if not names["train"]:
        raise ValueError(f"{source / 'train'}: no class folders in it")
    files = {}
    for split, here in (("train", "train"), ("valid", "val")):
        files[split] = []
        for label, name in enumerate(names["train"]):
            with os.scandir(source / here / name) as entries:
                found = sorted(e.name for e in entries if e.name[0] != "." and Path(e.name).suffix.lower() in SUFFIXES)
            if not found:
                raise ValueError(f"{source / here / name}: no images in it; add some or remove the class from both splits")
            files[split] += [(f"{here}/{name}/{f}", source / here / name / f, label) for f in found]
    return names["train"], files


def _square(image, image_size):
    """The centre square of a Pillow image, resized to uint8 (S, S, 3)."""
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    # Pillow's bicubic widens its kernel when it shrinks, so this is antialiased; crop and resize in one go.
    box = (left, top, left + side, top + side)
    if (image.width, image.height) == (image_size, image_size):
        return np.asarray(image)
    return np.asarray(image.resize((image_size, image_size), Image.Resampling.BICUBIC, box=box))


def read_image(path, image_size):
    """One image file as uint8 (S, S, 3): as :func:`~ctxnet.data.preflight.decode` says, centre square, resized.

    Raises:
        ValueError: one line with the path, when the file cannot be decoded.
        OSError: it cannot be read.
    """
    try:
        return _square(decode(Path(path).read_bytes()), image_size)
    except ValueError as error:
        raise ValueError(f"{path}: cannot be read as an image ({error})") from None


def _check_classes(source, classes, files, expected):
    """Refuse a source that is not Imagenette by its classes and numbers of images: a record would call it that."""
    if set(classes) != set(CLASSES):
        known = len(set(classes) & set(CLASSES))
        raise ValueError(
            f"{source}: {len(classes)} classes, {known} of Imagenette's 10, so it is not Imagenette; give the folder "
            "itself as `dataset`"
        )
    for split, n in expected.items():
        if len(files[split]) != n:
            raise ValueError(
                f"{source}: {len(files[split])} {split} images, but Imagenette has {n}; fetch it again, "
                "or give the folder itself as `dataset` if this is meant to be a part"
            )


def _stat(path):
    try:
        return path.stat()
    except OSError:  # the preflight says what is wrong with it
        return os.stat_result([0] * 10)


def _listing(files, sums):
    """Hash of names and sizes of the source files, and one of their times too and of the list of checksums.

    Times are compared, not ordered: clocks are set back. That of a change of status is among them, because a file put
    in another's place can have an old date.
    """
    stats = [(name, _stat(path)) for split in files.values() for name, path, _ in split]
    listing = stable_hash([(name, s.st_size) for name, s in stats])
    every = [*(s for _, s in stats), *([_stat(sums)] if sums else [])]
    return listing, stable_hash([listing, *((s.st_mtime_ns, s.st_ctime_ns, s.st_ino) for s in every)])


def _contents(files, checksums, *, progress):
    """Hash of all source files' bytes."""
    check = Preflight(checksums)
    every = [item for split in files.values() for item in split]
    for item in tqdm(every, unit="image", desc="check", disable=not progress, leave=False):
        check.contents(*item)
    return check.finish()


def prepare(source, folder, image_size=224, *, dataset="imagenette", expected=None, origin="", progress=True):
    """Decode a train/val folder once into ``folder``; reuse what is there if it is complete and the source
    has not changed.

    Every file is looked at on the way (:mod:`ctxnet.data.preflight`), and a source with anything wrong in it
    is refused as a whole. Later calls read no file again unless a name, size or time of one has changed.

    Args:
        source: folder with ``train/<class>`` and ``val/<class>``, or a tar of it.
        folder: the prepared folder to make, e.g. ``data/imagenette-64``.
        image_size: side S of the square images, px, at least 8.
        expected: number of images by split, such as ``COUNTS``, required of a source with Imagenette's classes.
        origin: where the source was said to be; a set from elsewhere is not reused. Empty: where the project looks.

    Returns:
        Prepared; classes are in the order of their folder names, WordNet ids of Imagenette given their
        English names.

    Raises:
        ValueError, OSError: one line that names the offending path, and how many more there are.
    """
    if not isinstance(image_size, int) or image_size < 8:
        raise ValueError(f"image_size={image_size}: must be a whole number of pixels, at least 8")
    source = open_source(source, Path(folder).parent, progress=progress)
    classes, files = list_images(source)
    if expected:
        _check_classes(source, classes, files, expected)
    checksums = read_checksums(source)
    if len(classes) == 1:
        warnings.warn(f"{source}: one class alone, {classes[0]}: every answer is right and nothing learned", stacklevel=2)
    listing, state = _listing(files, checksums[0])
    place = {"from": origin} if origin else {}

    def is_current(manifest):
        said = manifest["origin"]
        if (manifest["image_size"], manifest["dataset"]) != (image_size, dataset):
            return False
        if (said.get("listing"), said.get("from", "")) != (listing, origin):
            return False
        if source_state(folder) != state:
            if said["contents"] != _contents(files, checksums, progress=progress):
                return False
            save_source_state(folder, state)  # as it was before the look, so that a change during it is seen next time
        return True

    with one_preparer(folder):
        if found := reuse(folder, is_current):
            return found
        check = Preflight(checksums)
        blank = np.zeros((image_size, image_size, 3), np.uint8)
        total = sum(len(split) for split in files.values())
        with tqdm(total=total, unit="image", desc=f"prepare {Path(folder).name}", disable=not progress) as bar:

            def images(split):
                for item in files[split]:
                    image = check.image(*item)
                    yield _square(image, image_size) if image else blank  # go on, to count what is wrong
                    bar.update()

            return save_prepared(
                folder,
                dataset=dataset,
                image_size=image_size,
                classes=[CLASSES.get(c, c) for c in classes],
                splits={s: ([f[0] for f in files[s]], [f[2] for f in files[s]], images(s)) for s in files},
                origin=lambda: {"listing": listing, "contents": check.finish(), **place},
                state=state,
            )
