"""The look at every image file of a source before anything is trained on it.

It happens while a source is decoded, so that each file is read once, and refuses the source in one line.
Against a list of SHA-256 sums, or an archive's own, every damage is found. Without one, only what Pillow notices is.
"""

import hashlib
import io
import re
import stat
import warnings
from pathlib import PurePosixPath

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ctxnet.files import write_bytes

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF")  # Pillow's others can start programs, or are no photographs
MIN_SIDE = 8  # px; smaller ones are placeholders, and image_size is at least as large
MAX_PIXELS = 90_000_000  # decoded, 270 MB
MAX_FILE_BYTES = 2**29

_BAND = 256  # lines of an image
_UNWRITABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")  # a line of an error or a CSV file cannot hold them


def _as_rgb(image):
    if image.mode == "F" or (image.mode == "I" and image.format != "PNG"):
        raise ValueError("32 bits a pixel; save it with 8")
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I"):  # 16 bits a pixel; convert() alone would clip it to white
        image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:  # what lies under a transparent pixel is arbitrary: show it as a page would
        shown = Image.new("RGB", image.size)
        for top in range(0, image.height, _BAND):  # in bands, or a large image would be in memory five times
            band = image.crop((0, top, image.width, min(top + _BAND, image.height))).convert("RGBA")
            shown.paste(Image.alpha_composite(Image.new("RGBA", band.size, "white"), band).convert("RGB"), (0, top))
        return shown
    return image if image.mode == "RGB" else image.convert("RGB")


def decode(data):
    """The bytes of an image file as a Pillow image, RGB: upright by its EXIF tag, the first of several frames,
    transparent parts on white, 16 bits cut to the upper 8.

    Raises:
        ValueError: the reason, in one line without the path.
    """
    if not data:
        raise ValueError("the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # broken EXIF, large: the image is still good, or refused below
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise ValueError(f"{width}×{height} pixels, more than {MAX_PIXELS:,}")
            if min(width, height) < MIN_SIDE:
                raise ValueError(f"{width}×{height} pixels, less than {MIN_SIDE}×{MIN_SIDE}")
            if image.format == "PNG":
                Image.open(io.BytesIO(data), formats=("PNG",)).verify()  # checksums, which load() passes over
            return _as_rgb(image)
    except UnidentifiedImageError:
        raise ValueError("in no image format that is read here") from None
    except Exception as error:  # a damaged header leads Pillow's readers to any exception there is
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from None


def read_checksums(source):
    """The list of SHA-256 sums of a source folder: (path of the list, ``{"train/<class>/<file>": hex digest}``).

    That is ``<folder>.sha256`` beside the folder, or else any ``*.sha256`` in it, in the form of sha256sum
    (``<digest>  <path>``, the path with or without the folder's name). Without one, or when it names no file
    of train/ or val/ (as the sum of an archive does), (None, {}).

    Raises:
        ValueError: a line of another form; names list and line.
    """
    for path in (source.with_name(f"{source.name}.sha256"), *sorted(source.glob("*.sha256"))):
        sums = {}
        lines = path.read_bytes().decode("utf-8", "surrogateescape").split("\n") if path.is_file() else []
        for number, line in enumerate(lines, 1):
            if not (line := line.removesuffix("\r")):
                continue
            if not (match := re.fullmatch(r"(\\?)([0-9a-fA-F]{64}) [ *](.+)", line)):
                raise ValueError(f"{path}: line {number} is not of the form `<sha256>  <path>`; write it with sha256sum")
            escaped, digest, name = match.groups()
            if escaped:  # sha256sum writes a backslash in a name as two, and says so at the start of the line
                name = name.replace("\\\\", "\\")
            name = str(PurePosixPath(name)).removeprefix(f"{source.name}/")
            if name.startswith(("train/", "val/")):
                sums[name] = digest.lower()
        if lines and not any(lines):
            raise ValueError(f"{path}: is empty; write it with sha256sum")
        if sums:
            return path, sums
    return None, {}


def write_checksums(path, sums):
    """Write ``{name: hex digest}`` as a list that :func:`read_checksums` and sha256sum read."""
    lines = []
    for name, digest in sums.items():
        escaped = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
        lines.append(f"{chr(92) if escaped != name else ''}{digest}  {escaped}\n")
    write_bytes(path, "".join(lines).encode("utf-8", "surrogateescape"))


class Preflight:
    """Collects what is wrong with the files of a source, in the order in which they are shown to it.

    Args:
        checksums: as from :func:`read_checksums`.
    """

    def __init__(self, checksums=(None, {})):
        self.list, self.sums = checksums
        self.problems, self.names, self.repeated = [], set(), []
        self._first, self._contents = {}, hashlib.sha256()

    def image(self, name, path, label):
        """The decoded file (Pillow, RGB), or None when there is something wrong with it."""
        data = self.contents(name, path, label)
        try:
            return None if data is None else decode(data)
        except ValueError as error:
            self._refuse(path, f"cannot be read as an image ({error}); replace or delete it")

    def contents(self, name, path, label):
        """The bytes of the file, or None: looked at, but not decoded."""
        self.names.add(name)
        if _UNWRITABLE.search(name):
            return self._refuse(repr(str(path)), "a name that cannot be written in one line of UTF-8; rename it")
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                return self._refuse(path, "cannot be read as an image (no file); delete it")
            if status.st_size > MAX_FILE_BYTES:
                return self._refuse(path, f"cannot be read as an image (over {MAX_FILE_BYTES} bytes); replace it")
            data = path.read_bytes()
        except OSError as error:
            return self._refuse(path, f"cannot be read ({error.strerror}); replace or delete it")
        self._contents.update(f"{name} {len(data)}\n".encode())
        self._contents.update(data)
        return self._compare(name, path, label, data)

    def finish(self):
        """The hash of names and bytes of all files that were shown.

        Raises:
            ValueError: the first thing that was wrong, with its path, and how many there are besides.
        """
        for name in sorted(self.sums.keys() - self.names):
            self._refuse(self.list, f"lists {name}, which is missing; fetch it again or take it off the list")
        if self.problems:
            more = len(self.problems) - 1
            raise ValueError(self.problems[0] + (f" ({more} more of {len(self.names)} files refused)" if more else ""))
        if self.repeated:
            first, second = self.repeated[0]
            n = len(self.repeated)
            warnings.warn(f"{second}: the same image as {first}, counted twice; {n} in all are", stacklevel=2)
        return self._contents.hexdigest()

    def _refuse(self, path, what):
        self.problems.append(f"{path}: {what}")

    def _compare(self, name, path, label, data):
        """``data`` again, if it is what the list says and no other file is its twin."""
        digest = hashlib.sha256(data).hexdigest()
        if self.sums and self.sums.get(name) != digest:
            wrong = "is not the one" if name in self.sums else "is not"
            return self._refuse(path, f"its SHA-256 {wrong} in {self.list}; fetch the file again or correct the list")
        first, *where = self._first.setdefault(digest, (path, name.split("/")[0], label))
        if where[0] != name.split("/")[0]:
            return self._refuse(path, f"the same image as {first}: in training and validation; delete one of them")
        if where[1] != label:
            return self._refuse(path, f"the same image as {first}: in two classes; delete the wrong one")
        if first != path:
            self.repeated.append((first, path))
        return data
