"""What is wrong with a source is found before anything is trained on it, and said in one line."""

import hashlib
import io
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ctxnet import data
from ctxnet.data import imagenette, preflight
from ctxnet.files import sha256

NAMES = ["n01440764", "n02102040"]


def picture(seed=0, size=(72, 60)):
    """A smooth random picture, so that JPEG keeps it nearly as it is."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def encode(image, kind="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": 90} if kind == "JPEG" else {}) | options)
    return buffer.getvalue()


def make_source(folder, classes=NAMES, train=3, valid=2):
    seed = 0
    for split, n in (("train", train), ("val", valid)):
        for name in classes:
            for i in range(n):
                path = folder / split / name / f"{i}.JPEG"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(encode(picture(seed := seed + 1)))
    return folder


@pytest.fixture
def source(tmp_path):
    return make_source(tmp_path / "pictures")


def prepare(source, **options):
    return imagenette.prepare(source, source.parent / "out", 16, progress=False, **options)


def refusal(source, **options):
    """The one line with which a source is refused, after which nothing of it is left."""
    with pytest.raises((ValueError, OSError)) as caught:
        prepare(source, **options)
    assert "\n" not in str(caught.value)
    assert not [p for p in source.parent.iterdir() if "out" in p.name and p.suffix != ".lock"]
    return str(caught.value)


# -- files that cannot be used ----------------------------------------------------------------------------


def png_of(width, height):
    """A PNG whose header promises width×height pixels, and that holds none."""
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def flipped(contents, at):
    return contents[:at] + bytes([contents[at] ^ 4]) + contents[at + 1 :]


WHOLE = encode(picture(99, (160, 120)))
PNG = encode(picture(99), "PNG")
DAMAGED = {
    "empty": (b"", "the file is empty"),
    "text": (b"not an image", "no image format"),
    "program": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 72 72\n", "no image format"),
    "half of it": (WHOLE[: len(WHOLE) // 2], "truncated"),
    "PNG, one bit": (flipped(PNG, len(PNG) // 2), "cannot be read as an image"),
    "PNG, half of it": (PNG[: len(PNG) // 2], "cannot be read as an image"),
    "one pixel": (encode(picture(0, (1, 1)), "PNG"), "1×1 pixels, less than 8×8"),
    "one line": (encode(picture(0, (200, 1))), "200×1 pixels, less than 8×8"),
    "decompression bomb": (png_of(60000, 60000), "pixels"),
    "smaller bomb": (png_of(10000, 10000), "10000×10000 pixels, more than 90,000,000"),
    "floats": (encode(Image.new("F", (20, 20)), "TIFF"), "32 bits a pixel"),
    "32 bits": (encode(Image.new("I", (20, 20)), "TIFF"), "32 bits a pixel"),
}


@pytest.mark.parametrize("contents, reason", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_file_is_refused_with_its_path_and_the_reason(source, contents, reason):
    bad = source / "val" / NAMES[1] / "1.JPEG"
    bad.write_bytes(contents)
    message = refusal(source)
    assert message.startswith(f"{bad}: cannot be read as an image (") and message.endswith("; replace or delete it")
    assert reason in message
    with pytest.raises(ValueError, match=re.escape(f"{bad}: cannot be read as an image (")):
        imagenette.read_image(bad, 16)


def test_a_bomb_is_refused_by_its_header(source, monkeypatch):
    (source / "train" / NAMES[0] / "0.JPEG").write_bytes(encode(Image.new("1", (12000, 12000)), "PNG"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # as other libraries set it
    monkeypatch.setattr(preflight, "_as_rgb", lambda image: pytest.fail("decoded") if image.width > 72 else image)
    assert "12000×12000 pixels, more than 90,000,000" in refusal(source)


@pytest.mark.parametrize("kind", ["folder", "broken link", "pipe", "huge file", "no permission"])
def test_what_is_no_readable_file_is_refused(source, kind, monkeypatch):
    bad = source / "train" / NAMES[0] / "x.JPEG"
    if kind == "folder":
        bad.mkdir()
    elif kind == "broken link":
        bad.symlink_to("nowhere")
    elif kind == "pipe":
        os.mkfifo(bad)
    elif kind == "huge file":
        bad.touch()
        os.truncate(bad, 2**40)  # sparse
    else:
        bad.write_bytes(encode(picture(50)))
        bad.chmod(0)
        read = Path.read_bytes  # root may read it nevertheless
        denied = PermissionError(13, "Permission denied", str(bad))
        monkeypatch.setattr(Path, "read_bytes", lambda p: read(p) if p != bad else (_ for _ in ()).throw(denied))
    assert refusal(source).startswith(f"{bad}: cannot be read")


@pytest.mark.parametrize("name", ["a\nb.JPEG", os.fsdecode(b"a\xff.JPEG")])
def test_a_name_that_no_record_could_hold_is_refused(source, name):
    (source / "train" / NAMES[0] / name).write_bytes(encode(picture(50)))
    assert "a name that cannot be written in one line of UTF-8; rename it" in refusal(source)


def test_of_several_bad_files_the_first_is_named_and_the_others_counted(source):
    for i, name in enumerate(NAMES):
        (source / "train" / name / "1.JPEG").write_bytes(WHOLE[: 700 + i])
    (source / "val" / NAMES[0] / "0.JPEG").write_text("no image")
    message = refusal(source)
    assert message.startswith(f"{source / 'train' / NAMES[0] / '1.JPEG'}: ")
    assert message.endswith("(2 more of 10 files refused)")


def test_any_damage_gives_an_image_or_one_line():
    rng = random.Random(0)
    wholes = [encode(picture(1, (24, 24)), kind) for kind in preflight.FORMATS]
    outcomes = set()
    for whole in wholes:
        for _ in range(60):
            contents = bytearray(whole)
            for _ in range(rng.randrange(1, 5)):
                contents[rng.randrange(len(contents))] = rng.randrange(256)
            contents = bytes(contents[: rng.choice([len(whole), len(whole), rng.randrange(len(whole))])])
            try:
                assert preflight.decode(contents).mode == "RGB"
                outcomes.add("image")
            except ValueError as error:
                assert str(error) and "\n" not in str(error)
                outcomes.add("refused")
    assert outcomes == {"image", "refused"}


# -- files that are unusual, but good -----------------------------------------------------------------------


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


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_of_every_mode_shows_the_picture(mode):
    image = picture(3)
    image = image.convert("L").convert("RGB") if mode == "L" else image
    shown = np.asarray(preflight.decode(encode(image.convert(mode), quality=95)))
    assert np.abs(shown.astype(int) - np.asarray(image)).mean() < 4


def test_transparent_parts_are_white_whatever_lies_beneath():
    pixels = np.zeros((16, 16, 4), np.uint8)  # black, and transparent but for one half
    pixels[:, 8:, 3], pixels[0, 0, 3] = 255, 51
    rgba = Image.fromarray(pixels)
    palette = Image.fromarray(pixels[..., 3] // 255)
    palette.putpalette([0, 0, 255, 0, 0, 0])
    for contents in (
        encode(rgba, "PNG"),
        encode(rgba.convert("LA"), "PNG"),
        encode(palette, "PNG", transparency=0),
        encode(palette, "PNG", transparency=b"\x00\xff"),
        encode(palette, "GIF", transparency=0),
        encode(Image.fromarray(pixels[..., 3]), "PNG", transparency=0),
    ):
        shown = np.asarray(preflight.decode(contents))
        assert (shown[1:, :8] == 255).all() and len(np.unique(shown[:, 8:])) == 1
    assert (np.asarray(preflight.decode(encode(rgba, "PNG")))[0, 0] == 204).all()  # a fifth of black


def test_a_jpeg_is_turned_upright_by_its_exif_tag():
    image, exif = picture(4), Image.Exif()
    exif[0x0112] = 8
    turned = preflight.decode(encode(image, exif=exif))
    assert turned.size == (60, 72)
    assert turned.tobytes() == preflight.decode(encode(image)).transpose(Image.Transpose.ROTATE_90).tobytes()


def test_of_an_animation_the_first_frame_is_taken():
    frames = [picture(i).quantize(16) for i in range(3)]
    shown = preflight.decode(encode(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert np.abs(np.asarray(shown).astype(int) - np.asarray(frames[0].convert("RGB"))).max() <= 8


# -- classes, splits, twins ---------------------------------------------------------------------------------


def test_classes_that_do_not_agree_are_refused(source):
    (source / "train" / "extra").mkdir()
    (source / "train" / "more").mkdir()
    assert refusal(source) == f"{source / 'val'}: class 'extra' is missing here but present in train (and 1 more)"
    for split in ("train", "val"):
        (source / split / "extra").mkdir(exist_ok=True)
    (source / "train" / "more").rmdir()
    assert refusal(source).startswith(f"{source / 'train' / 'extra'}: no images in it")
    (source / "val").rename(source / "test")
    assert refusal(source) == f"{source}: no folders train/ and val/ in it"
    for name in ("train", "test"):
        (source / name).rename(source / "later")
        (source / "later").rename(source / {"train": "train", "test": "val"}[name])
    empty = source.parent / "none"
    (empty / "train").mkdir(parents=True)
    (empty / "val").mkdir()
    assert refusal(empty) == f"{empty / 'train'}: no class folders in it"


def test_two_sources_in_one_folder_are_refused(source):
    make_source(source.parent / "set/a")
    make_source(source.parent / "set/b")
    assert "train/ and val/ are in a and in b; give one of them" in refusal(source.parent / "set")


def twin(source, of, path):
    (source / path).write_bytes((source / of).read_bytes())


def test_one_image_in_training_and_validation_is_refused(source):
    first, second = f"train/{NAMES[0]}/1.JPEG", f"val/{NAMES[0]}/other.JPEG"
    twin(source, first, second)
    assert refusal(source) == (
        f"{source / second}: the same image as {source / first}: in training and validation; delete one of them"
    )


def test_one_image_in_two_classes_is_refused(source):
    first, second = f"train/{NAMES[0]}/1.JPEG", f"train/{NAMES[1]}/other.JPEG"
    twin(source, first, second)
    assert refusal(source) == f"{source / second}: the same image as {source / first}: in two classes; delete the wrong one"


def test_one_image_twice_in_a_class_is_told(source):
    first, second = f"train/{NAMES[0]}/1.JPEG", f"train/{NAMES[0]}/other.JPEG"
    twin(source, first, second)
    with pytest.warns(UserWarning, match=re.escape(f"{source / second}: the same image as {source / first}")):
        assert len(prepare(source).train_ids) == 7


# -- numbers ------------------------------------------------------------------------------------------------


def dataset(name, root, source=""):
    settings = SimpleNamespace(dataset=name, image_size=16)
    return data.prepare_dataset(settings, {"imagenette": {"source": str(source)}}, root, progress=False)


def test_imagenette_with_a_wrong_number_of_images_is_refused(tmp_path, monkeypatch):
    ten = make_source(tmp_path / "ten", classes=list(imagenette.CLASSES), train=2, valid=1)
    with pytest.raises(ValueError, match="ten: 20 train images, but Imagenette has 9469") as caught:
        dataset("imagenette", tmp_path, ten)
    assert "\n" not in str(caught.value) and not (tmp_path / "data/imagenette-16").exists()
    assert len(dataset("ten", tmp_path).train_ids) == 20  # a folder of one's own may hold a part
    monkeypatch.setattr(imagenette, "COUNTS", {"train": 20, "valid": 11})
    with pytest.raises(ValueError, match="10 valid images, but Imagenette has 11"):
        dataset("imagenette", tmp_path, ten)
    monkeypatch.setattr(imagenette, "COUNTS", {"train": 20, "valid": 10})
    assert dataset("imagenette", tmp_path, ten).classes[-1] == "parachute"


def test_what_is_not_imagenette_is_not_called_so(source, tmp_path, monkeypatch):
    monkeypatch.delenv("CTXNET_DATA", raising=False)
    with pytest.raises(ValueError, match="pictures: 2 classes, 2 of Imagenette's 10, so it is not Imagenette"):
        dataset("imagenette", tmp_path, source)
    own = source.rename(tmp_path / "imagenette")
    made = dataset("imagenette/", tmp_path)  # a folder of one's own of that name
    assert made.dataset == "imagenette/" and (tmp_path / "data/imagenette-own-16").is_dir()
    assert not (tmp_path / "data/imagenette-16").exists()
    (tmp_path / "data/imagenette-own-16").rename(tmp_path / "data/imagenette-16")  # as earlier versions called it
    with pytest.raises(ValueError, match="imagenette-16: was prepared from another source .2 classes, 10 images"):
        dataset("imagenette", tmp_path)
    assert own.is_dir()


def test_what_was_prepared_from_elsewhere_is_not_used_without_it(tmp_path, monkeypatch):
    monkeypatch.setattr(imagenette, "COUNTS", {"train": 20, "valid": 10})
    elsewhere = make_source(tmp_path / "elsewhere", classes=list(imagenette.CLASSES), train=2, valid=1)
    monkeypatch.setenv("CTXNET_DATA", str(elsewhere))
    made = dataset("imagenette", tmp_path)
    assert dataset("imagenette", tmp_path).manifest_hash == made.manifest_hash
    monkeypatch.delenv("CTXNET_DATA")
    with pytest.raises(ValueError, match="imagenette-16: was prepared from another source .a source given by path"):
        dataset("imagenette", tmp_path)
    elsewhere.rename(tmp_path / "data/imagenette2-224")  # the place where the project looks
    assert dataset("imagenette", tmp_path).manifest_hash == made.manifest_hash
    (tmp_path / "data/imagenette2-224").rename(elsewhere)
    assert dataset("imagenette", tmp_path).manifest_hash == made.manifest_hash


# -- lists of checksums -------------------------------------------------------------------------------------


def write_list(source, path=None, prefix=None):
    prefix = f"{source.name}/" if prefix is None else prefix
    lines = [f"{sha256(p)}  {prefix}{p.relative_to(source).as_posix()}" for p in sorted(source.glob("*/*/*"))]
    path = path or source.with_name(f"{source.name}.sha256")
    path.write_text("\n".join(lines) + "\n")
    return path


def test_against_a_list_every_flipped_bit_is_found(source):
    sums = write_list(source)
    rng, paths = random.Random(1), sorted(source.glob("*/*/*"))
    assert prepare(source).train_ids
    for path in rng.sample(paths, 8):
        whole = path.read_bytes()
        path.write_bytes(flipped(whole, rng.randrange(len(whole))))
        with pytest.raises(ValueError, match=re.escape(f"{path}: its SHA-256 is not the one in {sums}")):
            prepare(source)
        path.write_bytes(whole)


@pytest.mark.skipif(not shutil.which("sha256sum"), reason="no sha256sum")
def test_a_list_of_strange_names_is_read_as_sha256sum_wrote_it(source):
    for name in ("a\\b.JPEG", "a\u2028b.JPEG", "c\\nb.JPEG", " a .JPEG", "\x85.JPEG"):
        (source / "train" / NAMES[0] / name).write_bytes(encode(picture(len(name) + 60 + ord(name[0]))))
    files = [str(path.relative_to(source.parent)) for path in sorted(source.glob("*/*/*"))]
    written = subprocess.run(["sha256sum", *files], cwd=source.parent, capture_output=True, check=True).stdout
    source.with_name("pictures.sha256").write_bytes(written)
    assert len(prepare(source).train_ids) == 11


@pytest.mark.parametrize("where, prefix", [("pictures.sha256", "./pictures/"), ("pictures/sums.sha256", "")])
def test_a_list_is_read_beside_and_in_the_folder(source, where, prefix):
    sums = write_list(source, source.parent / where, prefix)
    assert prepare(source).train_ids
    (source / "train" / NAMES[0] / "new.JPEG").write_bytes(encode(picture(50)))
    gone = source / "val" / NAMES[1] / "0.JPEG"
    gone.unlink()
    with pytest.raises(ValueError, match="new.JPEG: its SHA-256 is not in .*1 more of 10 files refused"):
        prepare(source)
    (source / "train" / NAMES[0] / "new.JPEG").unlink()
    with pytest.raises(ValueError, match=re.escape(f"{sums}: lists val/{NAMES[1]}/0.JPEG, which is missing")):
        prepare(source)


def test_a_list_that_comes_later_is_compared_too(source):
    prepare(source)
    sums = write_list(source)
    prepare(source)
    sums.write_text("0" * 64 + sums.read_text()[64:])
    with pytest.raises(ValueError, match="its SHA-256 is not the one in"):
        prepare(source)


def test_lists_of_another_form_are_refused_and_those_of_archives_passed_over(source):
    beside = source.with_name("pictures.sha256")
    beside.write_text(f"{'0' * 64}  pictures.tgz\n")
    assert prepare(source).train_ids
    beside.write_text(f"{'0' * 64}  train/a/0.JPEG\n{'0' * 32}  train/a/1.JPEG\n")
    with pytest.raises(ValueError, match=re.escape(f"{beside}: line 2 is not of the form")):
        prepare(source)


# -- once -----------------------------------------------------------------------------------------------------


def test_a_second_call_reads_no_file_unless_one_changed(source, monkeypatch):
    looked = []
    contents = preflight.Preflight.contents
    monkeypatch.setattr(preflight.Preflight, "contents", lambda *a: looked.append(a[1]) or contents(*a))
    first = prepare(source)
    assert len(looked) == 10
    for _ in range(2):
        assert prepare(source).manifest_hash == first.manifest_hash
    assert len(looked) == 10
    path = source / "train" / NAMES[0] / "0.JPEG"
    path.touch()
    prepare(source)
    prepare(source)
    assert len(looked) == 20  # read once more, found the same
    path.rename(path.with_name("9.JPEG"))
    assert prepare(source).manifest_hash != first.manifest_hash


def test_a_file_of_the_same_size_and_an_old_date_is_noticed(source):
    first = prepare(source)
    path = source / "train" / NAMES[0] / "0.JPEG"
    stat, other = path.stat(), encode(picture(60), quality=50)
    path.write_bytes(other + bytes(stat.st_size - len(other)))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size
    assert prepare(source).manifest_hash != first.manifest_hash


def test_a_clock_that_was_set_back_hides_no_change(source):
    first = prepare(source)
    path = source / "train" / NAMES[0] / "0.JPEG"
    size, other = path.stat().st_size, encode(picture(60), quality=50)
    future = 4e9
    for name in ("manifest.json", "source.json"):  # the set was made when the clock was ahead
        os.utime(source.parent / "out" / name, (future, future))
    path.write_bytes(other + bytes(size - len(other)))
    assert path.stat().st_size == size and prepare(source).manifest_hash != first.manifest_hash


def test_one_class_alone_is_told(tmp_path):
    with pytest.warns(UserWarning, match="one class alone, cats: every answer is right"):
        prepare(make_source(tmp_path / "one", classes=["cats"]))


@pytest.mark.torture
def test_a_large_image_takes_bounded_memory():
    """88 megapixels with transparency, in a process of its own."""
    code = """
import io, resource
from PIL import Image
from ctxnet.data.preflight import decode
buffer = io.BytesIO()
Image.new("RGBA", (9400, 9400), (9, 9, 9, 99)).save(buffer, "PNG", compress_level=1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
decode(buffer.getvalue())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""
    peak = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    print(f"peak memory of a PNG of 88 megapixels: {peak} MiB")
    assert peak < 1300


def test_the_hash_of_the_contents_is_that_of_names_and_bytes(source):
    every = sorted(source.glob("train/*/*")) + sorted(source.glob("val/*/*"))
    contents = [(p.relative_to(source).as_posix(), p.read_bytes()) for p in every]
    joined = b"".join(f"{name} {len(b)}\n".encode() + b for name, b in contents)
    assert prepare(source).origin["contents"] == hashlib.sha256(joined).hexdigest()
