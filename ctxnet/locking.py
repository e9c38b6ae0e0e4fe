"""One writer at a time: a lock file per folder, released by the operating system when its holder dies."""

from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


class Busy(RuntimeError):
    """Another process holds the lock."""


@contextmanager
def one_writer(folder):
    """Hold the exclusive right to write into ``folder`` for the length of a ``with`` block.

    Raises:
        Busy: at once, when another process holds it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        with lock.acquire(timeout=0):
            yield
    except Timeout:
        raise Busy(f"{folder}: another process is writing this run; wait for it or stop it") from None
