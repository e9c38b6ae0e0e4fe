"""How far a campaign is: one bar over all its runs, and a file that says so to another terminal.

The file lies in ``results/<protocol>/.campaigns/`` under a random name for as long as the campaign lives, which a lock
beside it vouches for; what a killed one has left goes when the next one looks.
"""

import json
import secrets
import time
from contextlib import suppress

from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from ..files import write_json
from ..records import protocol_folder

EVERY = 1.0  # seconds from one writing to the next, unless a run begins or ends


class Progress:
    """Counts epochs and runs of a campaign, within a ``with`` block.

    Args:
        protocol: from ``load_protocol``.
        jobs: what there is to do, from :func:`ctxnet.training.plan`.
        root: folder that holds results.
        bar: show one on the terminal.
    """

    def __init__(self, protocol, jobs, *, root=".", bar=False):
        self.left = {(job.variant, job.seed): job.of - job.epochs for job in jobs}
        self.of = {(job.variant, job.seed): job.of for job in jobs}
        self.running, self.finished, self.failed, self.done = {}, 0, 0, 0
        self.epochs, self.started, self.written = sum(self.left.values()), time.time(), 0.0
        self.token = secrets.token_hex(8)
        self.path = campaigns_folder(protocol, root) / f"{self.token}.json"
        self.lock = FileLock(self.path.with_suffix(".lock"))
        self.bar = tqdm(total=self.epochs, desc=protocol.name, unit="epoch", disable=not bar)

    def __enter__(self):
        living(self.path.parent)  # removes the dead
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.lock.acquire()
        self._write()
        return self

    def __exit__(self, *error):
        self.path.unlink(missing_ok=True)
        self.lock.release()
        _remove(self.path)
        self.bar.close()

    def begin(self, job):
        """A run is given to somebody."""
        self.running[job.variant, job.seed] = job.epochs
        self._write()

    def epoch(self, variant, seed, done):
        """So many epochs of a run are done. A run that a lost worker had begun can fall back."""
        key = variant, seed
        if key in self.running and self.running[key] != done:
            self.running[key] = done
            self._count(key, self.of[key] - done)
            if time.time() - self.written > EVERY:
                self._write()

    def end(self, job, *, finished=False, failed=False, text=""):
        """A run has ended here: it is finished, it failed, or it was left to another campaign."""
        key = job.variant, job.seed
        last = self.running.pop(key, None)
        self.finished, self.failed = self.finished + finished, self.failed + failed
        self._count(key, 0 if finished or last is None else self.of[key] - last)
        if text:
            tqdm.write(text)
        self._write()

    def watch(self, job):
        """What :func:`ctxnet.training.run` tells its epochs to."""
        return _Watch(self, job)

    def minutes_left(self):
        """By the pace of the epochs so far; None before the first."""
        spent = time.time() - self.started
        return round(spent * (self.epochs - self.done) / self.done / 60, 2) if self.done > 0 else None

    def _count(self, key, left):
        self.done += self.left[key] - left
        self.bar.update(self.left[key] - left)
        self.left[key] = left

    def _write(self):
        self.written = time.time()
        runs = [[row, seed, done, self.of[row, seed]] for (row, seed), done in self.running.items()]
        write_json(self.path, {
            "started": self.started, "runs": len(self.of), "finished": self.finished, "failed": self.failed,
            "running": runs, "minutes_left": self.minutes_left(),
        })  # fmt: skip


class _Watch:
    def __init__(self, progress, job):
        self.progress, self.job = progress, job

    def epoch(self, done):
        self.progress.epoch(self.job.variant, self.job.seed, done)

    def checkpoint(self, path):
        pass


def campaigns_folder(protocol, root="."):
    """Where the campaigns of a protocol that are on their way say how far they are."""
    return protocol_folder(protocol.name, root) / ".campaigns"


def status(protocol, *, root="."):
    """What the campaigns of a protocol that are on their way have said last.

    Returns:
        List of dicts, one for each campaign: ``started`` (seconds since 1970), ``runs`` (to do when it began),
        ``finished``, ``failed``, ``running`` (list of [variant, seed, epochs done, of]), ``minutes_left`` (or None).
    """
    return living(campaigns_folder(protocol, root))


def living(folder):
    """The files of living campaigns, as dicts; those of dead ones are removed."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            with FileLock(path.with_suffix(".lock"), timeout=0):
                path.unlink(missing_ok=True)
            _remove(path)
        except Timeout:
            with suppress(FileNotFoundError, ValueError):
                found.append(json.loads(path.read_text("utf-8")))
    return found


def _remove(path):
    path.with_suffix(".lock").unlink(missing_ok=True)
    with suppress(OSError):
        path.parent.rmdir()
