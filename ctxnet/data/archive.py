"""Download a file and check it; unpack an archive without trusting it."""

import errno
import hashlib
import http.client
import lzma
import os
import shutil
import tarfile
import urllib.request
import zipfile
import zlib
from pathlib import Path, PurePosixPath, PureWindowsPath

from tqdm.auto import tqdm

from ctxnet.data.prepared import naming_errors, one_preparer
from ctxnet.files import atomic_path, sha256

MAX_ENTRIES = 200_000
MAX_BYTES = 50 * 2**30
BOMB_BYTES, BOMB_RATIO = 2**30, 100  # above so many bytes an archive may not unpack to so many times its size
MAX_DEPTH = 32  # folders within folders; every one of them is made, and unpacking goes down them one by one
MAX_HEADER = 2**16  # a long name; tarfile reads it whole


def download(url, path, *, sha256_hex, progress=True):
    """Download ``url`` to ``path`` unless a file with this hash is already there; return the path.

    Raises:
        ValueError: what came does not have the hash; nothing is kept.
        OSError: the address cannot be reached, or the file cannot be written.
    """
    path = Path(path)
    with one_preparer(path):
        if not (path.is_file() and sha256(path) == sha256_hex):
            _fetch(url, path, sha256_hex, progress)
    return path


def _fetch(url, path, sha256_hex, progress):
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
        for block in _blocks(url, response, total):
            handle.write(block)
            digest.update(block)
            bar.update(len(block))
        if digest.hexdigest() != sha256_hex:
            raise ValueError(f"{url}: SHA-256 is {digest.hexdigest()}, expected {sha256_hex}; nothing was kept")


def _blocks(url, response, total):
    """The bytes of a response, ``total`` in number where that is known."""
    received = 0
    try:
        while block := response.read(2**20):
            received += len(block)
            yield block
        if received < (total or 0):
            raise OSError("the connection was closed")
    except (OSError, http.client.HTTPException) as error:
        raise OSError(f"{url}: broke off after {received} bytes ({error}); run the same command again") from None


class _Entry(tarfile.TarInfo):
    """Refuses, while it is being read, what would fill the memory, very long names and maps of sparse files, and a header
    that is damaged or missing: tarfile takes one after the first entry for the end, and the rest would be left out."""

    @classmethod
    def fromtarfile(cls, tar):
        try:
            return super().fromtarfile(tar)
        except tarfile.EOFHeaderError:  # a block of zeros, the end
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"{error} at byte {tar.offset}, where an entry or the end was expected") from None

    def _proc_member(self, tar):
        types = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
        if self.size > MAX_HEADER and self.type in (*types, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
            raise tarfile.ReadError(f"a name or header of {self.size} bytes")
        return super()._proc_member(tar)

    def _refuse_sparse(self, *_):
        raise tarfile.ReadError(f"entry {self.name!r} is a sparse file")

    _proc_sparse = _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _refuse_sparse


def _check_member(archive, member, seen):
    """Refuse an entry that is no plain file or folder of its own; ``seen`` says of earlier paths whether they
    are folders."""
    if member.name.count("/") > 2 * MAX_DEPTH or len(PurePosixPath(member.name).parts) > MAX_DEPTH:
        raise ValueError(f"{archive}: entry {member.name[:80]!r}… is over {MAX_DEPTH} folders deep; nothing was unpacked")
    path, windows = PurePosixPath(member.name), PureWindowsPath(member.name)
    if path.is_absolute() or windows.drive or windows.root or ".." in windows.parts or "\0" in member.name:
        raise ValueError(f"{archive}: entry {member.name!r} would leave the folder; nothing was unpacked")
    if not (member.isreg() or member.isdir()):
        raise ValueError(f"{archive}: entry {member.name!r} is a link or device; nothing was unpacked")
    clash = path in seen if member.isreg() else not seen.get(path, True)
    if clash or not all(seen.setdefault(parent, True) for parent in path.parents):
        raise ValueError(f"{archive}: entry {member.name!r} is there twice; nothing was unpacked")
    seen[path] = member.isdir()


def _check_members(archive, tar):
    """All entries of an open tar, refused if one of them or their number or size is hostile; and their size.

    Reads on to the end of the file: what a compressed one says of itself, its checksum, comes after the tar's end."""
    members, size, seen = [], 0, {}
    limit = min(MAX_BYTES, max(BOMB_BYTES, BOMB_RATIO * archive.stat().st_size))
    for member in tar:
        _check_member(archive, member, seen)
        members.append(member)
        size += member.size
        if max(len(members), len(seen)) > MAX_ENTRIES or size > limit:  # folders that are only implied are in `seen`
            raise ValueError(f"{archive}: over {MAX_ENTRIES} entries or {limit} bytes; nothing was unpacked")
    while block := tar.fileobj.read(2**20):
        size += len(block)
        if size > limit:
            raise ValueError(f"{archive}: over {limit} bytes; nothing was unpacked")
        if block.strip(b"\0"):
            raise ValueError(f"{archive}: more follows after its end; nothing was unpacked")
    return members, sum(member.size for member in members)


def extract(archive, folder, *, finish=None, progress=True):
    """Unpack a tar (plain or compressed) into the new folder ``folder``, which appears only when complete, and when
    ``finish`` was called with what will be that folder.

    The whole archive is looked through first and refused before anything is written if any entry is
    absolute, climbs out of the folder, is a link or a device or there twice, or if there are too many
    entries or bytes. Owners, set-user-ID bits and the like are not restored.

    Raises:
        ValueError: a refused, damaged or foreign file; names the archive and the entry.
        OSError: with errno and path, when the disk is full or read-only.
    """
    archive, folder = Path(archive), Path(folder)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    if zipfile.is_zipfile(archive) and not tarfile.is_tarfile(archive):
        raise ValueError(f"{archive}: cannot be unpacked (a zip); unpack it yourself and give the folder")
    try:
        with tarfile.open(archive, tarinfo=_Entry) as tar:
            members, size = _check_members(archive, tar)
            partial.mkdir(parents=True)
            if size > (free := shutil.disk_usage(partial).free):
                raise OSError(errno.ENOSPC, f"{size} bytes to unpack, {free} free", str(folder))
            bar = tqdm(members, unit="file", desc=f"unpack {archive.name}", disable=not progress)
            with naming_errors(partial):
                tar.extractall(partial, members=bar, filter="data")
                if finish:
                    finish(partial)
        os.replace(partial, folder)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        damaged = isinstance(error, (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, MemoryError, RecursionError))
        if damaged or (isinstance(error, OSError) and error.errno is None):  # such as gzip.BadGzipFile
            reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(":")
            raise ValueError(f"{archive}: cannot be unpacked ({reason})") from None
        raise
    return folder
