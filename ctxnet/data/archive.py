"""Download a file and check it; unpack an archive without trusting it."""

import hashlib
import lzma
import os
import shutil
import tarfile
import urllib.request
import zlib
from pathlib import Path, PurePosixPath, PureWindowsPath

from tqdm.auto import tqdm

from ctxnet.files import atomic_path, sha256

MAX_ENTRIES = 200_000
MAX_BYTES = 50 * 2**30


def download(url, path, *, sha256_hex, progress=True):
    """Download ``url`` to ``path`` unless a file with this hash is already there; return the path.

    Raises:
        ValueError: what came does not have the hash; nothing is kept.
        OSError: the address cannot be reached.
    """
    path = Path(path)
    if path.is_file() and sha256(path) == sha256_hex:
        return path
    try:
        response = urllib.request.urlopen(url, timeout=60)
    except OSError as error:
        raise OSError(
            f"{url}: cannot be downloaded ({error}); give a local folder or tar instead, see data/README.md"
        ) from None
    digest = hashlib.sha256()
    total = int(response.headers.get("Content-Length") or 0) or None
    bar = tqdm(total=total, unit="B", unit_scale=True, desc=f"download {path.name}", disable=not progress)
    with response, bar, atomic_path(path) as partial, open(partial, "wb") as handle:
        while block := response.read(2**20):
            handle.write(block)
            digest.update(block)
            bar.update(len(block))
        if digest.hexdigest() != sha256_hex:
            raise ValueError(f"{url}: SHA-256 is {digest.hexdigest()}, expected {sha256_hex}; nothing was kept")
    return path


def _check_member(archive, member):
    path = PurePosixPath(member.name)
    windows = PureWindowsPath(member.name)
    if path.is_absolute() or windows.drive or windows.root or ".." in windows.parts:
        raise ValueError(f"{archive}: entry {member.name!r} would leave the folder; nothing was unpacked")
    if not (member.isreg() or member.isdir()):
        raise ValueError(f"{archive}: entry {member.name!r} is a link or device; nothing was unpacked")


def extract(archive, folder, *, progress=True):
    """Unpack a tar (plain or compressed) into the new folder ``folder``, which appears only when complete.

    The whole archive is looked through first and refused before anything is written if any entry is
    absolute, climbs out of the folder, is a link or a device, or if there are too many entries or bytes.

    Raises:
        ValueError: a refused, damaged or foreign file; names the archive and the entry.
    """
    archive, folder = Path(archive), Path(folder)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with tarfile.open(archive) as tar:
            members, size = [], 0
            for member in tar:
                _check_member(archive, member)
                members.append(member)
                size += member.size
                if len(members) > MAX_ENTRIES or size > MAX_BYTES:
                    raise ValueError(
                        f"{archive}: over {MAX_ENTRIES} entries or {MAX_BYTES} bytes; nothing was unpacked"
                    )
            partial.mkdir(parents=True)
            bar = tqdm(members, unit="file", desc=f"unpack {archive.name}", disable=not progress)
            tar.extractall(partial, members=bar, filter="data")
        os.replace(partial, folder)
    except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise ValueError(f"{archive}: cannot be unpacked ({error})") from None
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return folder
