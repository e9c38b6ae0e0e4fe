"""Data: Imagenette or any folder of images, the procedural probe set and Pathfinder, and fastai loaders over both."""

import os
from pathlib import Path

from ctxnet.extras import require

require("train", user=__name__)

from ctxnet.data import camvid, imagenette, pathfinder, probe
from ctxnet.data.loaders import IMAGENET_MEAN, IMAGENET_STD, loaders, normalise
from ctxnet.data.prepared import Prepared, load_prepared, one_preparer, reuse, save_prepared
from ctxnet.files import stable_hash
from ctxnet.naming import unknown_name

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "Prepared",
    "load_prepared",
    "loaders",
    "normalise",
    "prepare_dataset",
]


# Sets that are drawn on the spot: module, function, and the argument that a protocol's dose sets.
DRAWN = {
    "probe": (probe, probe.make_probe, "distance"),
    "pathfinder": (pathfinder, pathfinder.make_pathfinder, "dashes"),
}


def prepare_dataset(protocol, params, root=".", *, progress=True):
    """The prepared data of a protocol, made on the first call and reused after it.

    Args:
        protocol: anything with ``dataset`` ("probe", "pathfinder", "imagenette" or the path of a folder or tar in
            train/val layout, relative to ``root``) and ``image_size`` (px), and for the first two, if it likes, ``dose``
            and ``mark`` (see :class:`ctxnet.training.Protocol`). With ``task`` "segmentation": "camvid" or a folder
            or tar of images and masks, of which ``judged`` names the split in place of the validation set.
        params: the contents of params.yaml; the group with the data set's name is read.
        root: the project's folder; prepared sets lie in ``data/<dataset>-<image_size>`` under it, those of a dose in
            ``data/probe-64-dose12``.

    Returns:
        Prepared.

    Raises:
        ValueError: no such data set, or a source that cannot be used; one line that names the first path.
        OSError: nothing can be read, written or fetched there; with the path.
    """
    root, name, size = Path(root), protocol.dataset, protocol.image_size
    if getattr(protocol, "task", "") == "segmentation":
        return _prepare_frames(protocol, params, root)
    if name in ("probe", "pathfinder"):
        return _prepare_drawn(name, params[name], protocol, root)
    if name == "imagenette":
        return _prepare_imagenette(params["imagenette"].get("source") or "", size, root, progress)
    source = root / Path(name).expanduser()
    if not source.exists():
        raise unknown_name("dataset (and no such folder or tar)", name, DRAWN | {"imagenette": ()})
    called = source.resolve().name.split(".")[0]
    if called in (*DRAWN, "imagenette"):  # a name is not enough to be one of these
        called += "-own"
    return imagenette.prepare(
        source, root / "data" / f"{called}-{size}", size, dataset=name, origin=_place(source), progress=progress
    )


def _prepare_frames(protocol, params, root):
    """Frames and masks, read into memory."""
    if protocol.dataset == "camvid":
        source = camvid.find_source((params.get("camvid") or {}).get("source") or "", root)
        return camvid.prepare(source, protocol.image_size, judged=protocol.judged, root=root)
    source = root / Path(protocol.dataset).expanduser()
    if not source.exists():
        raise unknown_name("dataset (and no such folder or tar)", protocol.dataset, {"camvid": ()})
    return camvid.prepare(source, protocol.image_size, judged=protocol.judged, own=True, root=root)


def _place(source):
    """Stands for the place of a source in a manifest, without telling it."""
    return stable_hash(str(source.resolve()))[:16]


def _prepare_imagenette(source, size, root, progress):
    folder = root / "data" / f"imagenette-{size}"
    given = source or os.environ.get("CTXNET_DATA") or ""
    if not given and not (root / "data" / "imagenette2-224").is_dir():  # do not download again what has been prepared
        manifest = folder / "manifest.json"
        if not manifest.exists():
            with one_preparer(folder):  # puts back what a killed process had moved aside
                pass
        if manifest.exists():
            return _require_imagenette(load_prepared(folder), folder)
    found = imagenette.find_source(source, root, image_size=size, progress=progress)
    origin = _place(root / Path(given).expanduser()) if given else ""
    return imagenette.prepare(found, folder, size, expected=imagenette.COUNTS, origin=origin, progress=progress)


def _require_imagenette(prepared, folder):
    """``prepared`` if it was made from Imagenette, where this project looks for it by itself."""
    counts = {"train": len(prepared.train_ids), "valid": len(prepared.valid_ids)}
    official = sorted(prepared.classes) == sorted(imagenette.CLASSES.values()) and counts == imagenette.COUNTS
    if prepared.dataset != "imagenette" or not official or prepared.origin.get("from"):
        where = "a source given by path" if official else f"{len(prepared.classes)} classes, {sum(counts.values())} images"
        raise ValueError(f"{folder}: was prepared from another source ({where}); give that one again, or move it away")
    return prepared


def _prepare_drawn(name, settings, protocol, root):
    """A set that is drawn on the spot: its group of params.yaml, with the protocol's dose in place of the group's own."""
    module, make, dosed = DRAWN[name]
    dose, mark = getattr(protocol, "dose", 0), getattr(protocol, "mark", 0)
    settings = settings | ({dosed: dose} if dose else {}) | ({"mark": mark} if mark else {})
    size, called = protocol.image_size, f"-dose{dose}" * bool(dose) + f"-mark{mark}" * bool(mark)
    folder, origin = root / "data" / f"{name}-{size}{called}", {"generator": module.VERSION, **settings}
    drawn = {key: value for key, value in settings.items() if key in (dosed, "mark")}
    with one_preparer(folder):
        if found := reuse(folder, lambda manifest: manifest["origin"] == origin):
            return found
        splits = {}
        for split in ("train", "valid"):
            n = settings[f"{split}_images"]
            images, labels = make(n, image_size=size, seed=settings[f"{split}_seed"], **drawn)
            splits[split] = ([f"{split}/{i:05d}" for i in range(n)], labels, images)
        return save_prepared(folder, dataset=name, image_size=size, classes=module.CLASSES, splits=splits, origin=origin)
