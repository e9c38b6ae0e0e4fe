"""Sources, archives and prepared folders, on small sets made here."""

import ast
import ctypes
import errno
import functools
import gzip
import http.server
import importlib.util
import io
import json
import os
import random
import shutil
import signal
import sys
import tarfile
import threading
import time
import zipfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tqdm.auto
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
                write_image(folder / split / name / f"{j}.png", colour=(80 * i + 50, 20 * j, 20 * n))
    return folder


def make_tar(path, source, mode="w:gz"):
    with tarfile.open(path, mode) as tar:
        tar.add(source, arcname=source.name)
    return path


def hostile_tar(path, *entries):
    with tarfile.open(path, "w") as tar:
        good = tarfile.TarInfo("set/train/a/0.png")
        good.size = 4
        tar.addfile(good, io.BytesIO(b"good"))
        for entry in entries:
            tar.addfile(entry, io.BytesIO(b"x" * entry.size))
    return path


def entry(name, kind=tarfile.REGTYPE, link="", **pax):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.pax_headers = kind, link, {k.replace("_", "."): v for k, v in pax.items()}
    return info


def names(folder):
    """What lies in a folder but for the locks, which stay so that two processes lock the same file."""
    return sorted(p.name for p in folder.iterdir() if p.suffix != ".lock")


def contents(folder):
    """A prepared set without the times of its source."""
    return {name: data for name, data in snapshot(folder).items() if name != "source.json"}


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
    manifest = json.loads((tmp_path / "data/set-16/manifest.json").read_text())
    assert manifest["train"]["count"] == 6
    assert manifest["valid"]["sha256"] == files.sha256(tmp_path / "data/set-16/valid_images.npy")


def test_same_bytes_from_folder_twice_and_from_tar(source, tmp_path):
    one = imagenette.prepare(source, tmp_path / "one", 16, progress=False)
    two = imagenette.prepare(source, tmp_path / "two", 16, progress=False)
    tar = make_tar(tmp_path / "pictures.tgz", source)
    three = imagenette.prepare(tar, tmp_path / "three", 16, progress=False)
    assert contents(tmp_path / "one") == contents(tmp_path / "two") == contents(tmp_path / "three")
    assert one.manifest_hash == two.manifest_hash == three.manifest_hash
    assert imagenette.prepare(source, tmp_path / "four", 17, progress=False).manifest_hash != one.manifest_hash


def test_reused_until_the_source_changes(source, tmp_path, monkeypatch):
    folder = tmp_path / "set-16"
    first = imagenette.prepare(source, folder, 16, progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(imagenette, "_square", lambda *a: pytest.fail("decoded again"))
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
    monkeypatch.setattr(imagenette, "_square", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        imagenette.prepare(source, folder, 16, progress=False)
    assert snapshot(folder) == before
    assert names(folder.parent) == ["set-16"]


def test_damaged_prepared_folders_are_named(source, tmp_path):
    folder = tmp_path / "set-16"
    with pytest.raises(FileNotFoundError, match="no prepared data"):
        prepared.load_prepared(folder)
    imagenette.prepare(source, folder, 16, progress=False)
    np.save(folder / "train_images.npy", np.zeros((2, 16, 16, 3), np.uint8))
    with pytest.raises(ValueError, match="train_images.npy: damaged"):
        prepared.load_prepared(folder)
    forge(folder)
    with pytest.raises(ValueError, match="train_images.npy: holds uint8"):
        prepared.load_prepared(folder)
    (folder / "train_images.npy").unlink()
    with pytest.raises(ValueError, match="train_images.npy: damaged or missing"):
        prepared.load_prepared(folder)


def forge(folder):
    """Give a prepared folder the manifest that fits the arrays it holds."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for split in prepared.SPLITS:
        manifest[split]["sha256"] = files.sha256(folder / f"{split}_images.npy")
    outside = {k: manifest.pop(k) for k in ("manifest_hash", "origin", "digest")}
    manifest |= {"manifest_hash": files.stable_hash(manifest), "origin": outside["origin"]}
    manifest["digest"] = files.stable_hash(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest, sort_keys=True) + "\n")


def damages(contents, rng, n):
    """n versions of a file with one flipped bit, and truncations of it."""
    for _ in range(n):
        bad, at = bytearray(contents), rng.randrange(8 * len(contents))
        bad[at // 8] ^= 1 << at % 8
        yield bytes(bad)
    for end in (0, 1, len(contents) // 2, len(contents) - 1, rng.randrange(len(contents))):
        yield contents[:end]
    yield contents + b"\n"


@pytest.mark.parametrize("name", ["manifest.json", "train_images.npy", "valid_images.npy"])
def test_every_flipped_bit_and_truncation_is_found_before_use(source, tmp_path, monkeypatch, name, tiny_imagenette):
    folder = tmp_path / "data/imagenette-16"
    imagenette.prepare(source, folder, 16, progress=False)
    whole = snapshot(folder)
    monkeypatch.delenv("CTXNET_DATA", raising=False)
    monkeypatch.setattr(imagenette, "find_source", lambda *a, **k: pytest.fail("looked for a source"))
    settings = SimpleNamespace(dataset="imagenette", image_size=16)
    for bad in damages(whole[name], random.Random(name), 40):
        (folder / name).write_bytes(bad)
        prepared._verified.clear()  # as in a new process
        with pytest.raises(ValueError) as caught:
            data.prepare_dataset(settings, {"imagenette": {}}, tmp_path)
        message = str(caught.value)
        assert message.startswith(f"{folder / name}: damaged") and "\n" not in message
        assert message.endswith(f"delete {folder} and prepare it again")
    with pytest.warns(UserWarning, match="damaged.* prepare it again .this happens now"):
        imagenette.prepare(source, folder, 16, progress=False)  # with its source, it is
    assert contents(folder) == {name: data for name, data in whole.items() if name != "source.json"}


@pytest.mark.parametrize("label", [99, -1, 2, True, "0", None, 0.0])
def test_a_label_of_no_class_is_refused(source, tmp_path, label):
    folder = tmp_path / "set-16"
    imagenette.prepare(source, folder, 16, progress=False)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["train"]["labels"][0] = label
    (folder / "manifest.json").write_text(json.dumps(manifest))
    forge(folder)  # with digests that fit
    with pytest.raises(ValueError, match="manifest.json: damaged or of another version"):
        prepared.load_prepared(folder)


def test_hashes_are_compared_once_per_process(source, tmp_path, monkeypatch):
    imagenette.prepare(source, tmp_path / "set-16", 16, progress=False)
    monkeypatch.setattr(prepared, "sha256", lambda path: pytest.fail("compared again"))
    prepared.load_prepared(tmp_path / "set-16")


def test_pickles_are_not_opened(source, tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    folder = tmp_path / "set-16"
    imagenette.prepare(source, folder, 16, progress=False)
    np.save(folder / "train_images.npy", np.array([Trap()]), allow_pickle=True)
    forge(folder)
    with pytest.raises(ValueError, match="train_images.npy: damaged .*pickle"):
        prepared.load_prepared(folder)
    assert not (tmp_path / "sprung").exists()


def test_nothing_but_prepared_data_is_replaced(source, tmp_path):
    folder = tmp_path / "set-16"
    write_image(folder / "mine.png")
    with pytest.raises(FileExistsError, match="Errno 17. holds mine.png.*set-16'$"):
        imagenette.prepare(source, folder, 16, progress=False)
    assert names(folder) == ["mine.png"]
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotADirectoryError, match="Errno 20. a file lies where.*file'$"):
        imagenette.prepare(source, tmp_path / "file", 16, progress=False)
    assert (tmp_path / "file").read_text() == "mine"
    assert names(tmp_path) == ["file", "pictures", "set-16"]


def test_arrays_are_those_of_numpy_save(source, tmp_path):
    images = imagenette.prepare(source, tmp_path / "set-16", 16, progress=False).train_images
    np.save(tmp_path / "expected.npy", np.asarray(images))
    assert (tmp_path / "expected.npy").read_bytes() == (tmp_path / "set-16/train_images.npy").read_bytes()


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


def test_wrong_paths_and_sizes_are_named(source, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder or tar"):
        imagenette.prepare(tmp_path / "nowhere", tmp_path / "out", 16)
    with pytest.raises(ValueError, match="image_size=4"):
        imagenette.prepare(source, tmp_path / "out", 4)


# -- archives -------------------------------------------------------------------------------------------


HOSTILE = {
    "parent": [entry("../outside")],
    "parent inside": [entry("set/../../outside")],
    "absolute": [entry("/tmp/absolute")],
    "backslashes": [entry("..\\outside")],
    "drive": [entry("C:\\outside")],
    "drive, relative": [entry("C:outside")],
    "share": [entry("\\\\host\\share\\outside")],
    "symbolic link": [entry("set/link", tarfile.SYMTYPE, "../../etc/passwd")],
    "link, then through it": [entry("set/link", tarfile.SYMTYPE, ".."), entry("set/link/outside")],
    "hard link": [entry("set/hard", tarfile.LNKTYPE, "set/train/a/0.png")],
    "character device": [entry("set/device", tarfile.CHRTYPE)],
    "block device": [entry("set/device", tarfile.BLKTYPE)],
    "pipe": [entry("set/pipe", tarfile.FIFOTYPE)],
    "NUL": [entry("set/nul", path="set/a\0b")],
    "twice": [entry("set/train/a/0.png")],
    "twice, spelt otherwise": [entry("./set//train/./a/0.png")],
    "file, then folder": [entry("set/train/a/0.png", tarfile.DIRTYPE)],
    "file in a file": [entry("set/train/a/0.png/1.png")],
    "folder, then file": [entry("set/train")],
    "sparse": [entry("set/holes", tarfile.GNUTYPE_SPARSE)],
    "sparse, 0.1": [entry("set/holes", GNU_sparse_map="0,1", GNU_sparse_size="99999999999")],
    "sparse, 1.0": [entry("set/holes", GNU_sparse_major="1", GNU_sparse_minor="0", GNU_sparse_realsize="99999999999")],
    "endless name": [entry("set/long", path="x" * 100_000)],
    "deep": [entry("a/" * 32_000 + "b")],
    "deep folder": [entry("set/" + "a/" * 40, tarfile.DIRTYPE)],
}


@pytest.mark.parametrize("bad", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_archives_are_refused_before_anything_is_written(tmp_path, bad):
    tar = hostile_tar(tmp_path / "bad.tar", *bad)
    with pytest.raises(ValueError, match="nothing was unpacked|cannot be unpacked") as caught:
        archive.extract(tar, tmp_path / "data" / "bad", progress=False)
    assert str(caught.value).startswith(f"{tar}: ") and "\n" not in str(caught.value)
    assert names(tmp_path) == ["bad.tar"]


def gzipped(path, *blocks):
    """Bytes, given as (block, how often), as one gzip file: gzip members may follow one another."""
    path.write_bytes(b"".join(gzip.compress(block, 6) * n for block, n in blocks))
    return path


def header(name, size, kind=tarfile.REGTYPE):
    info = entry(name, kind)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    "blocks, limit",
    [
        ([(header("set", 0, tarfile.DIRTYPE) * 1000, 1000)], "over 20000 entries"),  # a million of them
        ([(header("set/zeros", 60 * 2**30), 1), (bytes(2**20), 8)], "bytes; nothing"),
        ([block for i in range(5) for block in ((header(f"set/{i}", 2**27), 1), (bytes(2**20), 128))], "bytes; nothing"),
        ([(header("set/more than there is", 2**20), 1), (bytes(512), 4)], "unexpected end of data"),
        ([(header("set", 0, tarfile.DIRTYPE) + header("name", 2**33, tarfile.GNUTYPE_LONGNAME), 1)], "a name or header of"),
        ([(header("name", 2**33, tarfile.XHDTYPE), 1)], "could not be opened"),
    ],
    ids=["a million entries", "huge size", "bomb", "size that is no size", "name of 8 GiB", "header of 8 GiB"],
)
def test_bombs_are_refused_without_unpacking_them(tmp_path, monkeypatch, blocks, limit):
    monkeypatch.setattr(archive, "MAX_ENTRIES", 20_000)
    monkeypatch.setattr(archive, "BOMB_BYTES", 2**28)
    tar = gzipped(tmp_path / "bomb.tgz", *blocks)
    with pytest.raises(ValueError, match=limit) as caught:
        archive.extract(tar, tmp_path / "data" / "bomb", progress=False)
    assert str(caught.value).startswith(f"{tar}: ") and "\n" not in str(caught.value)
    assert names(tmp_path) == ["bomb.tgz"]


def test_folders_that_are_only_implied_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MAX_ENTRIES", 200)
    tar = hostile_tar(tmp_path / "bad.tar", *(entry(f"{i}/" + "a/" * 25 + "b") for i in range(10)))
    with pytest.raises(ValueError, match="over 200 entries"):
        archive.extract(tar, tmp_path / "out", progress=False)
    assert names(tmp_path) == ["bad.tar"]


@pytest.mark.parametrize("kind", ["tar", "gz", "bz2", "xz"])
@pytest.mark.parametrize("count", [40, pytest.param(1000, marks=pytest.mark.torture)])
def test_a_damaged_archive_is_refused_or_gives_all_that_was_in_it(tmp_path, kind, count):
    """Cut off, with something after its end, or with a flip; a plain tar has checksums in its headers alone."""
    folder, chance, outcomes = tmp_path / "set", random.Random(kind), Counter()
    for name in ("train/a/0", "train/a/1", "val/a/0"):
        path = folder / f"{name}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.frombuffer(chance.randbytes(300), np.uint8).reshape(10, 10, 3)).save(path)
    whole = make_tar(tmp_path / "whole", folder, "w:" + kind.replace("tar", "")).read_bytes()
    with tarfile.open(tmp_path / "whole") as tar:
        edges = [member.offset for member in tar] if kind == "tar" else []
    bad = [whole[:at] for at in [*edges, *(chance.randrange(len(whole)) for _ in range(count))]]
    bad += [whole + tail for tail in (b"x", b"\0" * 512, chance.randbytes(2000), whole, whole[:100])]
    flips = [8 * edge + chance.randrange(4000) for edge in edges] + [chance.randrange(8 * len(whole)) for _ in range(count)]
    for at in flips:
        flipped = bytearray(whole)
        flipped[at // 8] ^= 1 << at % 8
        body = kind == "tar" and not any(edge <= at // 8 < edge + 512 for edge in edges)
        bad += [] if body else [bytes(flipped)]
    for damaged in bad:
        (tmp_path / f"bad.{kind}").write_bytes(damaged)
        try:
            archive.extract(tmp_path / f"bad.{kind}", tmp_path / "out", progress=False)
        except ValueError as error:
            assert str(error).startswith(f"{tmp_path / 'bad'}.{kind}: ") and "\n" not in str(error)
            outcomes["refused"] += 1
        else:
            outcomes["whole"] += 1
            found = {p.relative_to(tmp_path / "out/set"): p.read_bytes() for p in (tmp_path / "out").rglob("*.bmp")}
            assert found == {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*.bmp")}
            shutil.rmtree(tmp_path / "out")
    print(f"{kind}: {len(bad)} damaged archives: {dict(outcomes)}, 0 wrong uses, 0 tracebacks")


def test_what_was_unpacked_is_vouched_for(tmp_path, source, monkeypatch):
    tar = make_tar(tmp_path / "set.tgz", source)
    imagenette.prepare(tar, tmp_path / "data/set-8", 8, dataset="own", progress=False)
    [unpacked] = [p for p in (tmp_path / "data").iterdir() if p.name.startswith("set.")]
    path = next(unpacked.rglob("0.png"))
    write_image(path, colour=(1, 2, 3))
    with pytest.raises(ValueError, match=rf"{path}: its SHA-256 is not the one in .*unpacked.sha256"):
        imagenette.prepare(tar, tmp_path / "data/set-8", 8, dataset="own", progress=False)


def test_owners_and_set_user_id_bits_are_not_restored(tmp_path):
    bad = entry("set/program")
    bad.mode, bad.uid, bad.gid = 0o6777, 12345, 12345
    archive.extract(hostile_tar(tmp_path / "set.tar", bad), tmp_path / "out", progress=False)
    status = (tmp_path / "out/set/program").stat()
    assert status.st_mode & 0o7022 == 0
    assert (status.st_uid, status.st_gid) == (os.getuid(), os.getgid())


def test_a_zip_is_refused_with_what_to_do(tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as file:
        file.writestr("set/train/a/0.png", b"")
    with pytest.raises(ValueError, match="set.zip: cannot be unpacked .a zip.; unpack it yourself"):
        archive.extract(tmp_path / "set.zip", tmp_path / "out")


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
    with pytest.raises(ValueError, match="cannot be unpacked") as caught:
        imagenette.open_source(tmp_path / "text", tmp_path / "data")
    assert "\n" not in str(caught.value)
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
        thread = threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True)
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
    assert names(target.parent) == []
    archive.download(f"{url}/set.tgz", target, sha256_hex=digest, progress=False)
    (folder / "set.tgz").unlink()
    assert archive.download(f"{url}/set.tgz", target, sha256_hex=digest).read_bytes() == b"contents"
    with pytest.raises(OSError, match="cannot be downloaded"):
        archive.download(f"{url}/other.tgz", tmp_path / "other", sha256_hex=digest, progress=False)


def test_a_download_that_breaks_off_is_named_and_leaves_nothing(tmp_path):
    class Half(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "2000000")
            self.end_headers()
            self.wfile.write(bytes(1_500_000))

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Half) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/set.tgz"
        with pytest.raises(OSError, match=f"^{url}: broke off after 1500000 bytes .*; run the same command again$"):
            archive.download(url, tmp_path / "x/set.tgz", sha256_hex="0" * 64, progress=False)
    assert names(tmp_path / "x") == []


def test_a_full_disk_leaves_no_download(tmp_path, server, monkeypatch):
    folder, url = server
    (folder / "set.tgz").write_bytes(b"contents")
    monkeypatch.setattr(files.os, "fsync", lambda *a: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(OSError, match="Errno 28.*x/set.tgz"):
        archive.download(
            f"{url}/set.tgz",
            tmp_path / "x/set.tgz",
            sha256_hex=files.sha256(folder / "set.tgz"),
            progress=False,
        )
    assert names(tmp_path / "x") == []


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


@pytest.fixture
def tiny_imagenette(monkeypatch):
    """Imagenette with two classes and ten images: those of ``source``."""
    monkeypatch.delenv("CTXNET_DATA", raising=False)
    monkeypatch.setattr(imagenette, "CLASSES", {name: imagenette.CLASSES[name] for name in NAMES})
    monkeypatch.setattr(imagenette, "COUNTS", {"train": 6, "valid": 4})


def test_prepare_dataset(source, tmp_path, monkeypatch, tiny_imagenette):
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
    with pytest.raises(ValueError, match="imagenette-16: was prepared from another source"):
        make("imagenette", 16)
    source.rename(tmp_path / "data/imagenette2-224")
    assert make("imagenette", 16).train_ids
    shutil.rmtree(tmp_path / "data/imagenette2-224")
    monkeypatch.setattr(imagenette, "find_source", lambda *a, **k: pytest.fail("looked for a source"))
    assert make("imagenette", 16).train_ids


# -- killed, several at once, full disks ------------------------------------------------------------------


def start(action):
    """Run ``action()`` in a process of its own, which writes what it returns, or its error, into a pipe."""
    reader, writer = os.pipe()
    if not (pid := os.fork()):
        for bar in (tqdm.std.tqdm, tqdm.auto.tqdm):  # killed, this process would keep the lock that they share for ever
            bar.set_lock(threading.RLock())
        try:
            text = str(action())
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(writer, text.encode())
        os._exit(0)
    os.close(writer)
    return pid, reader


def finish(process):
    """What the process wrote, and the signal that ended it or 0."""
    pid, reader = process
    with open(reader) as pipe:
        text = pipe.read()
    return text, os.WTERMSIG(os.waitpid(pid, 0)[1])


def killed_at(step, action, folder):
    """Run ``action`` in a process that is killed just before its ``step``-th change in ``folder``; whether it came
    to that."""
    events = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.utime", "shutil.rmtree"}
    writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT  # how often a file is read depends on how new it is

    def watched():
        left = step

        def hook(event, arguments):
            nonlocal left
            if event not in events or event == "open" and not arguments[2] & writes:
                return
            if str(folder) in str(arguments[0]) or not str(arguments[0]).startswith("/"):
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        action()

    return finish(start(watched))[1] == signal.SIGKILL


def killed_after(seconds, action):
    process = start(action)
    time.sleep(seconds)
    os.kill(process[0], signal.SIGKILL)
    return finish(process)[1] == signal.SIGKILL


def test_a_preparation_killed_at_any_step_is_made_good_by_the_next(source, tmp_path):
    folder = tmp_path / "data/set-16"

    def prepare():
        return imagenette.prepare(source, folder, 16, progress=False)

    prepare()
    whole, step = snapshot(folder), 0
    shutil.rmtree(folder)
    while killed_at(step := step + 1, prepare, tmp_path):
        assert not folder.exists() or contents(folder) == {k: v for k, v in whole.items() if k != "source.json"}
        prepare()
        assert snapshot(folder) == whole and names(folder.parent) == ["set-16"]
        shutil.rmtree(folder)
    assert step > 20 and snapshot(folder) == whole


def test_a_replacement_killed_at_any_step_leaves_the_old_set_or_the_new(source, tmp_path, monkeypatch, tiny_imagenette):
    folder, last = tmp_path / "data/imagenette-16", source / "val" / NAMES[1] / "1.png"
    monkeypatch.delenv("CTXNET_DATA", raising=False)

    def prepare():
        return imagenette.prepare(source, folder, 16, progress=False)

    prepare()
    new, image = contents(folder), last.read_bytes()
    last.unlink()
    prepare()
    old = contents(folder)
    shutil.copytree(folder, tmp_path / "old")
    last.write_bytes(image)
    step = aside = 0
    while killed_at(step := step + 1, prepare, tmp_path):
        if not folder.exists():  # between the two renames; without a source, the old set is used
            aside += 1
            settings = SimpleNamespace(dataset="imagenette", image_size=16)
            monkeypatch.setattr(imagenette, "COUNTS", {"train": 6, "valid": 3})
            assert len(data.prepare_dataset(settings, {"imagenette": {}}, tmp_path).valid_ids) == 3
        assert contents(folder) in (old, new)
        prepare()
        assert contents(folder) == new and names(folder.parent) == ["imagenette-16"]
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "old", folder)
    assert step > 20 and aside == 1


def test_an_unpacking_killed_at_any_step_is_made_good_by_the_next(source, tmp_path):
    tar, step = make_tar(tmp_path / "set.tgz", source), 0

    def unpack():
        return imagenette.open_source(tar, tmp_path / "data", progress=False)

    expected = sorted([*(p.relative_to(source) for p in source.rglob("*")), Path("unpacked.sha256")])
    while killed_at(step := step + 1, unpack, tmp_path):
        found = unpack()
        assert sorted(p.relative_to(found) for p in found.rglob("*")) == expected
        assert names(tmp_path / "data") == [found.parent.name]
        shutil.rmtree(found.parent)
    assert step > 12


def test_work_killed_at_any_moment_is_made_good_by_the_next(tmp_path, server):
    rng = random.Random(int.from_bytes(os.urandom(4), "big"))
    source, noise = tmp_path / "noise", np.random.default_rng(0)
    for i in range(30):
        path = source / ("train", "train", "val")[i % 3] / NAMES[i // 3 % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise.integers(0, 256, (300, 300, 3), dtype=np.uint8)).save(path, compress_level=1)
    tar = make_tar(server[0] / "noise.tar", source, "w")
    digest, folder = files.sha256(tar), tmp_path / "data"

    def download():
        return archive.download(f"{server[1]}/noise.tar", folder / "noise.tar", sha256_hex=digest, progress=False)

    def unpack():
        return imagenette.open_source(tar, folder, progress=False)

    def prepare():
        return imagenette.prepare(source, folder / "noise-64", 64, progress=False)

    for action, seconds in ((download, 0.02), (unpack, 0.05), (prepare, 0.2)):
        for _ in range(3):
            killed_after(rng.uniform(0, seconds), action)
            action()
            assert len(names(folder)) == 1
            shutil.rmtree(folder)
    assert prepare().manifest_hash == imagenette.prepare(source, tmp_path / "other", 64, progress=False).manifest_hash


def test_of_several_processes_at_once_one_prepares_and_all_succeed(source, tmp_path, monkeypatch):
    looks = []
    look = imagenette.Preflight.image
    monkeypatch.setattr(imagenette.Preflight, "image", lambda *a: looks.append(a) or time.sleep(0.01) or look(*a))

    def prepare():
        made = imagenette.prepare(source, tmp_path / "data/set-16", 16, progress=False)
        return f"{made.manifest_hash} {len(looks)}"

    outcomes = [finish(p)[0].split() for p in [start(prepare) for _ in range(3)]]
    assert len({hash for hash, _ in outcomes}) == 1
    assert sorted(int(n) for _, n in outcomes) == [0, 0, 10]
    assert names(tmp_path / "data") == ["set-16"]


def test_of_several_downloads_at_once_one_fetches_and_all_succeed(tmp_path, server):
    folder, url = server
    (folder / "set.tar").write_bytes(np.random.default_rng(0).bytes(3_000_000))
    digest = files.sha256(folder / "set.tar")

    def download():
        return files.sha256(archive.download(f"{url}/set.tar", tmp_path / "x/set.tar", sha256_hex=digest, progress=False))

    assert [finish(p)[0] for p in [start(download) for _ in range(3)]] == [digest] * 3
    assert names(tmp_path / "x") == ["set.tar"]


def on_disk(folder, options, action, *, read_only=False):
    """The error of ``action`` when ``folder`` is a disk of its own, and what is left there; no other process sees
    the disk. Skips the test where that is not allowed."""

    def mounted():
        libc = ctypes.CDLL(None, use_errno=True)
        private, place = 0x4000 | 0x40000, os.fsencode(folder)
        if (
            libc.unshare(0x20000 | (0x10000000 if os.geteuid() else 0))
            or libc.mount(None, b"/", None, ctypes.c_ulong(private), None)
            or libc.mount(b"none", place, b"tmpfs", ctypes.c_ulong(0), options.encode())
            or (read_only and libc.mount(b"none", place, b"tmpfs", ctypes.c_ulong(32 | 1), options.encode()))
        ):
            return "not allowed"
        try:
            return f"no error: {action()}"
        except Exception as error:
            return f"{type(error).__name__}: {error}|{names(folder)}"

    folder.mkdir(exist_ok=True)
    if not sys.platform.startswith("linux") or (text := finish(start(mounted))[0]) == "not allowed":
        pytest.skip("no disk can be mounted here")
    assert "\n" not in text
    return text


def test_a_full_or_read_only_disk_is_named_and_nothing_is_left(source, tmp_path, server):
    disk, noise = tmp_path / "disk", np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8)
    Image.fromarray(noise).save(source / "train" / NAMES[0] / "noise.png")
    tar = make_tar(server[0] / "set.tar", source, "w")

    def prepare():
        return imagenette.prepare(source, disk / "set-64", 64, progress=False)

    def download():
        digest = files.sha256(tar)
        return archive.download(f"{server[1]}/set.tar", disk / "set.tar", sha256_hex=digest, progress=False)

    def unpack():
        return imagenette.open_source(tar, disk, progress=False)

    full = "OSError: [Errno 28] "
    assert on_disk(disk, "size=64k", prepare) == (
        f"{full}No space left on device: '{disk}/.set-64.partial/train_images.npy'|[]"
    )
    assert on_disk(disk, "size=16k", download) == f"{full}No space left on device: '{disk}/set.tar'|[]"
    left = on_disk(disk, "size=20k", unpack)
    assert left.startswith(full) and "bytes to unpack" in left and str(disk) in left and left.endswith("|[]")
    left = on_disk(disk, "size=1m,nr_inodes=9", unpack)
    assert left.startswith(f"{full}No space left on device: '{disk}") and left.endswith("|[]")
    for action in (prepare, download, unpack):
        left = on_disk(disk, "size=1m", action, read_only=True)
        assert left.startswith("OSError: [Errno 30] Read-only file system: ") and str(disk) in left
