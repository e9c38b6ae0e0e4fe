"""A campaign on Ray: one run is one task, on this machine or on a cluster; one writer puts down what comes back.

For every run that is on its way the campaign holds the lock of its folder, so that several campaigns, on Ray or not, share
out a plan between them. A run whose worker or machine is lost goes on elsewhere from its last checkpoint.
"""

import hashlib
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import ray
import torch

from .. import provenance
from ..blocks.base import require_at_least
from ..data import prepare_dataset
from ..data.held_out import hold_out
from ..files import remove_partials, write_bytes
from ..locking import Busy, one_writer
from ..records import run_folder, write_images, write_record
from ..training import load_params, plan
from ..training.campaign import is_finished, minutes_left, outcome, unfinished
from ..training.clock import deadline
from ..training.progress import Progress, campaigns_folder
from ..training.protocol import identity
from ..training.run import require_device, set_aside_other
from ..training.trace import run_trace
from . import cluster, worker
from .task import Order, Parcel

RETRIES = 20  # losses of its worker after which a run counts as failed
LOOK = 0.5  # seconds between two looks at the runs on their way
SAVE = 10.0  # seconds between two looks for checkpoints, where no folder is shared


def campaign_on_ray(
    protocol, *, at_once=None, address=None, root=".", rows=None, seeds=None, max_minutes=None, progress=True, shared=None
):
    """:func:`ctxnet.training.campaign` with several runs at once.

    Args:
        protocol, root, rows, seeds, max_minutes, progress: as there.
        at_once: runs side by side; None: one on this machine, as many as fit on a cluster.
        address: of a cluster ("auto", "host:port", "ray://host:port"); None: a Ray of our own on this machine, whose cores
            (and GPU) the runs share out between them.
        shared: whether workers see ``root`` under the same name; None: each looks for itself.

    Returns:
        (finished, failed), as there.

    Raises:
        ValueError: ``at_once`` is less than 1.
        RuntimeError: the device is missing, nothing answers at ``address``, a worker has other versions.
    """
    require_at_least("at_once", 1 if at_once is None else at_once, 1)
    until, root = deadline(max_minutes), Path(root).resolve()
    if address is None:
        require_device(protocol)
    need, ray_there = _resources(protocol, at_once or 1, address)
    with ray_there:
        expected = None if address is None else cluster.require_equal_versions()
        if not cluster.slots(need):
            wanted = " and ".join(f"{amount:g} {name}" for name, amount in need.items() if amount)
            raise RuntimeError(f"no machine of the cluster has {wanted}, which a run of protocol {protocol.name} needs")
        prepared = prepare_dataset(protocol, load_params(root / "params.yaml"), root)
        prepared = hold_out(prepared, protocol.held_out) if protocol.held_out else prepared
        jobs = plan(protocol, root=root, rows=rows, seeds=seeds)
        with Progress(protocol, [job for job in jobs if job.minutes != 0], root=root, bar=progress) as shown:
            here = address is None and shared is None
            going = _Going(
                protocol, root, prepared, need, until, expected, shown, cluster.keeper(),
                data=None if here or shared else Parcel.of(prepared), shared=shared is not False, failed={},
            )  # fmt: skip
            waiting = unfinished(jobs, protocol, root=root, until=until, skip=shown.end)
            limit = (lambda: at_once or 1) if address is None else (lambda: at_once or max(1, cluster.slots(need)))
            with going:
                _drive(going, waiting, limit)
            return shown.finished, going.failed


def _resources(protocol, at_once, address):
    """What a run asks of Ray, and the Ray that is asked."""
    cpu = protocol.device == "cpu"
    threads, gpus = protocol.threads or 1, 0 if cpu else torch.cuda.device_count()
    if address is None:
        threads = protocol.threads or max(1, torch.get_num_threads() // at_once)
        share = 0 if cpu else min(protocol.gpu_share, max(gpus, 1) / at_once)
        ray_there = cluster.on_this_machine(cpus=threads * at_once, gpus=gpus)
    else:
        share, ray_there = 0 if cpu else protocol.gpu_share, cluster.at(address)
    return {"CPU": threads, "GPU": share, "memory": int(protocol.memory_gb * 2**30)}, ray_there


def _drive(going, waiting, limit):
    """Keep as many runs on their way as may be until none waits."""
    saved, more = time.monotonic(), True
    while more or going.tasks:
        while more and len(going.tasks) < limit():
            job = next(waiting, None)
            if job is None:
                more = False
            else:
                going.start(job)
        done, _ = ray.wait(list(going.tasks), timeout=LOOK) if going.tasks else ([], [])
        for task in done:
            more = going.end(task) and more
        going.look()
        if time.monotonic() - saved > SAVE:
            going.save()
            saved = time.monotonic()


@dataclass
class _Going:
    """The runs on their way. Leaving its ``with`` block ends those that still are."""

    protocol: object
    root: Path
    prepared: object
    need: dict
    until: float | None
    expected: dict | None
    shown: Progress
    keeper: object
    data: Parcel | None
    shared: bool
    failed: dict

    def __enter__(self):
        self.tasks, self.digests = {}, {}
        self.source = provenance.collect(root=self.root, device="cpu")
        return self

    def __exit__(self, *error):
        self.save()
        for task, (_, held) in self.tasks.items():
            with suppress(Exception):
                ray.cancel(task, force=True)
            held.close()
        with suppress(Exception):
            ray.kill(self.keeper)

    def start(self, job):
        """Hand a run to Ray, unless another campaign works on it or has just finished it."""
        folder, held = self._folder(job), ExitStack()
        try:
            held.enter_context(one_writer(folder))
        except Busy:
            return self.shown.end(job)
        try:
            remove_partials(folder)
            set_aside_other(folder, lambda: self._key(job))
            if is_finished(self.protocol, job, self.root):
                held.close()
                return self.shown.end(job)
            self._send_checkpoint(job, folder)
        except ValueError as error:
            held.close()
            return self._fail(job, str(error))
        token = campaigns_folder(self.protocol, self.root).relative_to(self.root) / self.shown.path.name
        left = minutes_left(self.until)
        order = Order(
            protocol=self.protocol, variant=job.variant, seed=job.seed, threads=self.need["CPU"], root=str(self.root),
            until=None if left is None else time.time() + 60 * left, token=str(token) if self.shared else None,
            data=self.data,
        )  # fmt: skip
        ask = ray.remote(worker.train).options(
            num_cpus=self.need["CPU"], num_gpus=self.need["GPU"], memory=self.need["memory"] or None, max_retries=RETRIES,
            name=f"{job.variant} seed {job.seed}",
        )  # fmt: skip
        self.tasks[ask.remote(self.expected, order, self.keeper)] = job, held
        self.shown.begin(job)

    def end(self, task):
        """Take in what a task has come to; returns whether there is time for another."""
        job, held = self.tasks.pop(task)
        with held:
            try:
                made = ray.get(task)
            except ray.exceptions.RayError as error:
                reason = str(error).strip().splitlines()[0]
                made = {"status": "failed", "text": f"its worker was lost too often ({type(error).__name__}: {reason})"}
            if made["status"] == "refused":
                raise RuntimeError(f"{made['text']}; install there what is here, then start again")
            if made["status"] == "failed":
                self._fail(job, made["text"])
            elif made["status"] == "finished":
                self._write(job, made)
                self.shown.end(job, finished=True, text=outcome(made["record"]))
            else:
                self.save()
                self.shown.end(job)
            self.keeper.forget.remote(_named(job))
        return made["status"] != "paused"

    def look(self):
        """Show how far the runs are."""
        with suppress(ray.exceptions.RayError):
            epochs = ray.get(self.keeper.epochs.remote(), timeout=5)
            for job, _ in self.tasks.values():
                if _named(job) in epochs:
                    self.shown.epoch(job.variant, job.seed, epochs[_named(job)])

    def save(self):
        """Bring home the checkpoints that workers without the shared folder have made since."""
        with suppress(ray.exceptions.RayError):
            digests = ray.get(self.keeper.digests.remote(), timeout=5)
            for key, digest in digests.items():
                if self.digests.get(key) != digest:
                    digest, data = ray.get(self.keeper.checkpoint.remote(key), timeout=60)
                    if hashlib.sha256(data).hexdigest() == digest:
                        write_bytes(run_folder(self.protocol.name, *key, self.root) / "checkpoint.safetensors", data)
                        self.digests[key] = digest

    def _folder(self, job):
        return run_folder(self.protocol.name, job.variant, job.seed, self.root)

    def _key(self, job):
        settings = identity(self.protocol, job.variant, job.seed, self.prepared.manifest_hash)
        return {"settings": settings, "trace": run_trace(self.protocol, job.variant)}

    def _fail(self, job, text):
        self.failed[job.variant, job.seed] = text
        self.shown.end(job, failed=True, text=f"{job.variant} seed {job.seed}: failed: {text}")

    def _send_checkpoint(self, job, folder):
        path = folder / "checkpoint.safetensors"
        if self.data is not None and path.exists():
            data = path.read_bytes()
            digest = hashlib.sha256(data).hexdigest()
            self.digests[_named(job)] = digest
            ray.get(self.keeper.keep.remote(_named(job), digest, data))

    def _write(self, job, made):
        """Put the record of a finished run down as if it had been made here."""
        folder, record = self._folder(job), made["record"]
        write_images(self.protocol.name, *made["images"], self.root)
        write_bytes(folder / "weights.safetensors", made["weights"])
        source = {key: value for key, value in made["provenance"].items() if key != "record"}
        source |= {key: self.source[key] for key in ("commit", "dirty")}  # the code there is the code here
        bare = {key: value for key, value in record.items() if key != "files"}
        if write_record(folder, bare, made["files"], source) != record:
            (folder / "record.json").unlink()
            raise RuntimeError(f"{folder}: what came back is not what was made (SHA-256 differs); start again")
        (folder / "checkpoint.safetensors").unlink(missing_ok=True)


def _named(job):
    return job.variant, str(job.seed)
