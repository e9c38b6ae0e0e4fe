"""Sources, archives and prepared folders, on small sets made here."""

import ast
import errno
import functools
import http.server
import importlib.util
import io
import os
import tarfile
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ctxnet import data, files
from ctxnet.data import archive, imagenette, prepared

NAMES = ["n01440764", "n02102040"]


def write_image(path, *, size=(40, 30), colour=(200, 30, 60), mode="RGB", **save):
    path.parent.mkdir(parents=True, exist_ok=True)
    gradient = np.linspace(0, 1, size[0])[None, :, None] * np.array(colour)[None, None]
    image = Image.fromarray(np.broadcast_to(gradient, (size[1], size[0], 3)).astype(np.uint8))
    image.convert(mode).save(path, **save)
    return path


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "pictures"
    for split, n in (("train", 3), ("val", 2)):
        for i, name in enumerate(NAMES):
            for j in range(n):
                write_image(folder / split / name / f"{j}.png", colour=(80 * i + 50, 20 * j, 100))
    return folder


def make_tar(path, source, mode="w:gz"):
    with tarfile.open(path, mode) as tar:
        tar.add(source, arcname=source.name)
    return path


def hostile_tar(path, entry):
    with tarfile.open(path, "w") as tar:
        good = tarfile.TarInfo("set/train/a/0.png")
        good.size = 4
        tar.addfile(good, io.BytesIO(b"good"))
        tar.addfile(entry, io.BytesIO(b"x" * entry.size))
    return path


def entry(name, kind=tarfile.REGTYPE, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def snapshot(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


# -- preparing ------------------------------------------------------------------------------------------


def test_prepare_gives_arrays_ids_labels_and_class_names(source, tmp_path):
    made = imagenette.prepare(source, tmp_path / "data/set-16", 16, progress=False)
    assert made.train_images.shape == (6, 16, 16, 3) and made.train_images.dtype == np.uint8
    assert made.valid_images.shape == (4, 16, 16, 3)
    assert isinstance(made.train_images, np.memmap) and not made.train_images.flags.writeable
    assert made.classes == ["tench", "English springer"]
    assert made.train_ids[0] == "train/n01440764/0.png" and made.valid_ids[-1] == "val/n02102040/1.png"
    assert made.train_labels.tolist() == [0, 0, 0, 1, 1, 1] and made.train_labels.dtype == np.int64
    manifest = prepared.read_manifest(tmp_path / "data/set-16")
    assert manifest["train"]["count"] == 6
    assert manifest["valid"]["sha256"] == files.sha256(tmp_path / "data/set-16/valid_images.npy")


def test_same_bytes_from_folder_twice_and_from_tar(source, tmp_path):
    one = imagenette.prepare(source, tmp_path / "one", 16, progress=False)
    two = imagenette.prepare(source, tmp_path / "two", 16, progress=False)
    tar = make_tar(tmp_path / "pictures.tgz", source)
    three = imagenette.prepare(tar, tmp_path / "three", 16, progress=False)
    assert snapshot(tmp_path / "one") == snapshot(tmp_path / "two") == snapshot(tmp_path / "three")
    assert one.manifest_hash == two.manifest_hash == three.manifest_hash
    assert imagenette.prepare(source, tmp_path / "four", 17, progress=False).manifest_hash != one.manifest_hash


def test_reused_until_the_source_changes(source, tmp_path, monkeypatch):
    folder = tmp_path / "set-16"
    first = imagenette.prepare(source, folder, 16, progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(imagenette, "read_image", lambda *a: pytest.fail("decoded again"))
        imagenette.prepare(source, folder, 16, progress=False)
        os.utime(source / "train" / NAMES[0] / "0.png", (2e9, 2e9))  # newer, same contents
        imagenette.prepare(source, folder, 16, progress=False)
    changed = source / "train" / NAMES[0] / "0.png"
    data_bytes = changed.read_bytes()
    other = write_image(tmp_path / "other.png", colour=(0, 255, 0)).read_bytes()
    changed.write_bytes(other + b"\0" * (len(data_bytes) - len(other)) if len(other) < len(data_bytes) else other)
    os.utime(changed, (2.1e9, 2.1e9))
    second = imagenette.prepare(source, folder, 16, progress=False)
    assert second.manifest_hash != first.manifest_hash
    (source / "train" / NAMES[1] / "2.png").unlink()
    assert len(imagenette.prepare(source, folder, 16, progress=False).train_ids) == 5


def test_a_stopped_preparation_leaves_the_old_set_and_nothing_else(source, tmp_path, monkeypatch):
    folder = tmp_path / "data" / "set-16"
    imagenette.prepare(source, folder, 16, progress=False)
    before = snapshot(folder)
    (source / "val" / NAMES[1] / "1.png").unlink()
    monkeypatch.setattr(imagenette, "read_image", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        imagenette.prepare(source, folder, 16, progress=False)
    assert snapshot(folder) == before
    assert [p.name for p in folder.parent.iterdir() if p.name[0] != "."] == ["set-16"]
    assert not list(folder.parent.glob("*.partial"))


def test_damaged_prepared_folders_are_named(source, tmp_path):
    folder = tmp_path / "set-16"
    with pytest.raises(FileNotFoundError, match="no prepared data"):
        prepared.load_prepared(folder)
    imagenette.prepare(source, folder, 16, progress=False)
    np.save(folder / "train_images.npy", np.zeros((2, 16, 16, 3), np.uint8))
    with pytest.raises(ValueError, match="train_images.npy: holds uint8"):
        prepared.load_prepared(folder)
    (folder / "train_images.npy").write_bytes(b"no array")
    with pytest.raises(ValueError, match="train_images.npy: damaged"):
        prepared.load_prepared(folder)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "I;16", "CMYK"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    values = np.tile(np.arange(32, dtype=np.uint8) * 8, (32, 1))
    if mode == "I;16":
        Image.fromarray(values.astype(np.uint16) * 256).save(path)
    elif mode == "P":
        Image.fromarray(values).convert("RGB").quantize(64).save(path)
    else:
        Image.fromarray(values).convert("RGB").convert(mode).save(path)
    image = imagenette.read_image(path, 32)
    assert image.shape == (32, 32, 3) and image.dtype == np.uint8
    if mode != "1":  # one bit is dithered
        assert np.abs(image.astype(int) - values[..., None]).max() <= 4


def test_exif_orientation_short_side_and_centre_crop(tmp_path):
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, 20:40] = 255  # only the centre square is white
    pixels[:10, 20:40, 1:] = 0  # and its upper half is red
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels).save(tmp_path / "b.png", exif=exif)
    upright = imagenette.read_image(tmp_path / "a.png", 20)
    assert (upright == pixels[:, 20:40]).all()
    assert (imagenette.read_image(tmp_path / "b.png", 20) == np.rot90(upright, -1)).all()
    assert imagenette.read_image(tmp_path / "a.png", 8).min() < 5  # shrunk, still the centre


def test_errors_are_one_line_with_the_path(source, tmp_path):
    def message():
        with pytest.raises((ValueError, FileNotFoundError)) as caught:
            imagenette.prepare(source, tmp_path / "out", 16, progress=False)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()
        return str(caught.value)

    bad = source / "val" / NAMES[1] / "1.png"
    whole = write_image(bad, size=(90, 90)).read_bytes()
    bad.write_bytes(whole[: len(whole) // 2])
    assert str(bad) in message() and "cannot be read" in message()
    bad.write_bytes(b"not an image")
    assert str(bad) in message()
    bad.unlink()
    (source / "val" / NAMES[1] / "0.png").rename(source / "val" / NAMES[1] / "notes.txt")
    assert message() == f"{source / 'val' / NAMES[1]}: no images in it"
    (source / "val" / NAMES[1] / "notes.txt").unlink()
    (source / "val" / NAMES[1]).rmdir()
    assert message() == f"{source / 'val'}: class '{NAMES[1]}' is missing here but present in train"
    (source / "val" / "extra").mkdir()
    assert "missing" in message()
    (source / "val").rename(source / "test")
    assert message() == f"{source}: no folders train/ and val/ in it"
    with pytest.raises(FileNotFoundError, match="no such folder or tar"):
        imagenette.prepare(tmp_path / "nowhere", tmp_path / "out", 16)
    with pytest.raises(ValueError, match="image_size=4"):
        imagenette.prepare(source, tmp_path / "out", 4)


# -- archives -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        entry("../outside"),
        entry("set/../../outside"),
        entry("/tmp/absolute"),
        entry("..\\outside"),
        entry("C:\\outside"),
        entry("set/link", tarfile.SYMTYPE, "../../etc/passwd"),
        entry("set/hard", tarfile.LNKTYPE, "set/train/a/0.png"),
        entry("set/device", tarfile.CHRTYPE),
        entry("set/pipe", tarfile.FIFOTYPE),
    ],
    ids=lambda e: e.name,
)
def test_hostile_archives_are_refused_before_anything_is_written(tmp_path, bad):
    tar = hostile_tar(tmp_path / "bad.tar", bad)
    with pytest.raises(ValueError, match="nothing was unpacked") as caught:
        archive.extract(tar, tmp_path / "data" / "bad")
    assert repr(bad.name) in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.tar"]


def test_archives_with_too_much_in_them_and_damaged_ones(source, tmp_path, monkeypatch):
    tar = make_tar(tmp_path / "set.tgz", source)
    with monkeypatch.context() as patch:
        patch.setattr(archive, "MAX_ENTRIES", 3)
        with pytest.raises(ValueError, match="over 3 entries"):
            archive.extract(tar, tmp_path / "out")
        patch.setattr(archive, "MAX_ENTRIES", 1000)
        patch.setattr(archive, "MAX_BYTES", 100)
        with pytest.raises(ValueError, match="100 bytes"):
            archive.extract(tar, tmp_path / "out")
    tar.write_bytes(tar.read_bytes()[:-200])
    with pytest.raises(ValueError, match="cannot be unpacked"):
        archive.extract(tar, tmp_path / "out")
    (tmp_path / "text").write_text("no tar")
    with pytest.raises(ValueError, match="cannot be unpacked"):
        imagenette.open_source(tmp_path / "text", tmp_path / "data")
    assert not (tmp_path / "out").exists()


# -- download and where the images come from ------------------------------------------------------------


@pytest.fixture
def server(tmp_path):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    (tmp_path / "www").mkdir()
    handler = functools.partial(Quiet, directory=str(tmp_path / "www"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield tmp_path / "www", f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_download_checks_the_hash_and_is_not_repeated(tmp_path, server):
    folder, url = server
    (folder / "set.tgz").write_bytes(b"contents")
    target, digest = tmp_path / "data/set.tgz", files.sha256(folder / "set.tgz")
    with pytest.raises(ValueError, match="nothing was kept"):
        archive.download(f"{url}/set.tgz", target, sha256_hex="0" * 64, progress=False)
    assert list(target.parent.iterdir()) == []
    archive.download(f"{url}/set.tgz", target, sha256_hex=digest, progress=False)
    (folder / "set.tgz").unlink()
    assert archive.download(f"{url}/set.tgz", target, sha256_hex=digest).read_bytes() == b"contents"
    with pytest.raises(OSError, match="cannot be downloaded"):
        archive.download(f"{url}/other.tgz", tmp_path / "other", sha256_hex=digest, progress=False)


def test_a_full_disk_leaves_no_download(tmp_path, server, monkeypatch):
    folder, url = server
    (folder / "set.tgz").write_bytes(b"contents")
    monkeypatch.setattr(files.os, "fsync", lambda *a: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(OSError, match="full"):
        archive.download(
            f"{url}/set.tgz",
            tmp_path / "x/set.tgz",
            sha256_hex=files.sha256(folder / "set.tgz"),
            progress=False,
        )
    assert list((tmp_path / "x").iterdir()) == []


def test_order_of_sources(source, tmp_path, server, monkeypatch):
    folder, url = server
    monkeypatch.delenv("CTXNET_DATA", raising=False)
    root = tmp_path / "project"
    tar = make_tar(folder / "imagenette2-320.tgz", source)
    monkeypatch.setattr(imagenette, "ARCHIVES", {320: (f"{url}/{tar.name}", files.sha256(tar))})
    found = imagenette.find_source(root=root, progress=False)
    assert found.parent.parent == root / "data" and (found / "train").is_dir()

    local = root / "data" / "imagenette2-224"
    (local / "train").mkdir(parents=True)
    (local / "val").mkdir()
    assert imagenette.find_source(root=root) == local
    monkeypatch.setenv("CTXNET_DATA", str(source))
    assert imagenette.find_source(root=root) == source
    (root / "mine").mkdir()
    source.rename(root / "mine" / "pictures")
    assert imagenette.find_source("mine", root) == root / "mine" / "pictures"
    with pytest.raises(FileNotFoundError, match="CTXNET_DATA: .*no such folder"):
        imagenette.find_source(root=root)
    with pytest.raises(FileNotFoundError, match="imagenette.source: .*no such folder"):
        imagenette.find_source("typo", root)


def test_addresses_are_those_fastai_knows():
    # Read, not imported: importing fastai takes seconds. The file is one dict literal: url to (size, md5).
    package = Path(importlib.util.find_spec("fastai").origin).parent
    known = ast.literal_eval((package / "data/download_checks.py").read_text())
    assert {url for url, _ in imagenette.ARCHIVES.values()} < set(known)
    assert len(imagenette.CLASSES) == 10


# -- dispatch -------------------------------------------------------------------------------------------


def test_prepare_dataset(source, tmp_path, monkeypatch):
    monkeypatch.delenv("CTXNET_DATA", raising=False)
    params = {
        "probe": {"train_images": 20, "valid_images": 10, "distance": 12, "train_seed": 1, "valid_seed": 2},
        "imagenette": {"source": str(source)},
    }

    def make(dataset, size):
        settings = SimpleNamespace(dataset=dataset, image_size=size)
        return data.prepare_dataset(settings, params, tmp_path, progress=False)

    probe = make("probe", 32)
    assert probe.train_images.shape == (20, 32, 32, 3) and probe.classes[1] == "36 degrees"
    stamp = (tmp_path / "data/probe-32/manifest.json").stat().st_mtime_ns
    assert make("probe", 32).manifest_hash == probe.manifest_hash
    assert (tmp_path / "data/probe-32/manifest.json").stat().st_mtime_ns == stamp
    params["probe"]["distance"] = 13
    assert make("probe", 32).manifest_hash != probe.manifest_hash

    assert make("imagenette", 16).dataset == "imagenette"
    assert (tmp_path / "data/imagenette-16/manifest.json").is_file()
    assert make("pictures", 16).manifest_hash
    assert (tmp_path / "data/pictures-16/manifest.json").is_file()
    with pytest.raises(ValueError, match="did you mean 'imagenette'"):
        make("imagenete", 16)
    # A prepared set is enough: without any source, nothing is downloaded.
    params["imagenette"]["source"] = ""
    monkeypatch.setattr(imagenette, "find_source", lambda *a, **k: pytest.fail("looked for a source"))
    assert make("imagenette", 16).train_ids
