"""A campaign in several processes side by side."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time

import torch
from tqdm.auto import tqdm

from ..blocks.base import require_at_least
from ..records import run_folder
from .campaign import campaign, plan
from .run import require_device


def campaign_at_once(count, protocol, *, root=".", rows=None, seeds=None, max_minutes=None, progress=True):
    """:func:`campaign` in ``count`` processes, which share out the runs and this machine's cores between them.

    On a GPU one process then computes while another prepares, measures or writes. When this process ends, however it
    ends, so do the others.

    Raises:
        ValueError: ``count`` is less than 1.
        RuntimeError: the device is missing, or a process died (of too little memory, say).
    """
    require_at_least("at_once", count, 1)
    require_device(protocol)
    chosen = {"root": root, "rows": rows, "seeds": seeds}
    jobs = [job for job in plan(protocol, **chosen) if job.minutes != 0]
    records = [run_folder(protocol.name, job.variant, job.seed, root) / "record.json" for job in jobs]
    before = [_made(record) for record in records]  # a record of other settings may be there
    until = None if max_minutes is None else time.time() + 60 * max_minutes
    context = multiprocessing.get_context("spawn")
    results, threads = context.SimpleQueue(), max(1, torch.get_num_threads() // count)
    workers = [context.Process(target=_work, args=(results, threads, until, protocol, chosen)) for _ in range(count)]
    try:
        for worker in workers:
            worker.start()
        with tqdm(total=len(jobs), desc=protocol.name, unit="run", disable=not progress) as bar:
            while running := [worker.sentinel for worker in workers if worker.is_alive()]:
                multiprocessing.connection.wait(running, timeout=1)
                bar.update(_finished(records, before) - bar.n)
    finally:
        for worker in workers:
            if worker.is_alive():
                worker.terminate()
    died = [worker.exitcode for worker in workers if worker.exitcode]
    if died:
        raise RuntimeError(f"{len(died)} of {count} processes died (exit {died[0]}); the same command goes on from here")
    return _finished(records, before), {key: text for _ in workers for key, text in results.get().items()}


def _made(record):
    try:
        return record.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def _finished(records, before):
    return sum(_made(record) not in (None, old) for record, old in zip(records, before, strict=True))


def _work(results, threads, until, protocol, chosen):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the parent's to answer
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    left = None if until is None else (until - time.time()) / 60
    results.put(campaign(protocol, **chosen, max_minutes=left, progress=False)[1])


def _end_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)
