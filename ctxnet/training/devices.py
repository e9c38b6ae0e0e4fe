"""One run on several devices of this machine, or, under torchrun, of several machines."""

import os
import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ..files import one_line
from .group import join, launched
from .run import require_device, run

ERRORS = (ValueError, OSError, RuntimeError, FloatingPointError)


def run_on_devices(devices, protocol, variant, seed=0, *, root=".", max_minutes=None, progress=True):
    """:func:`ctxnet.training.run` by ``devices`` processes, one for each GPU, or sharing out the processor's cores.

    Global batches, schedule and files are those of one process; losses differ from its by rounding. Started by torchrun,
    this process joins the others (``devices`` is then torchrun's number) and ``root`` must be a folder that all see.

    Args:
        devices: how many; must divide ``protocol.batch_size``.
        Others: as for ``run``.

    Returns:
        :class:`ctxnet.training.RunResult`; ``record`` is None in all processes of torchrun's but the first.

    Raises:
        ValueError: ``devices`` does not fit batch or machine, or the protocol replays CUDA graphs.
        RuntimeError: what any of the processes ended with, in one line.
    """
    require_device(protocol)
    _require_fitting(devices, protocol)
    words = {"root": root, "max_minutes": max_minutes}
    if launched():
        return _joined({}, protocol, variant, seed, words, progress)
    with tempfile.TemporaryDirectory() as folder:
        results = mp.get_context("spawn").SimpleQueue()
        place = {"init_method": f"file://{folder}/meeting", "world_size": devices}
        threads = max(1, torch.get_num_threads() // devices)
        try:
            mp.spawn(_rank, (results, place, threads, protocol, variant, seed, words, progress), nprocs=devices)
        except (mp.ProcessExitedException, mp.ProcessRaisedException) as error:
            reason = f"a process of the run died: {one_line(error)}" if results.empty() else results.get()
            raise RuntimeError(reason) from None
        return results.get()


def _require_fitting(devices, protocol):
    size = protocol.batch_size
    near = next(n for n in range(min(devices, size), 0, -1) if size % n == 0)
    if near != devices:
        raise ValueError(f"devices={devices}: batch_size={size} cannot be split evenly; nearest valid value: devices={near}")
    here = torch.cuda.device_count()
    if protocol.device == "cuda" and not launched() and devices > here:
        raise ValueError(f"devices={devices}: {here} GPUs are here; nearest valid value: devices={here}")
    if protocol.cuda_graph:
        raise ValueError(f"devices={devices}: not with cuda_graph ({protocol.name}); nearest valid value: devices=1")


def _rank(rank, results, place, threads, protocol, variant, seed, words, progress):
    """What each process does; the first gives the result, and any that fails the reason."""
    torch.set_num_threads(threads)
    try:
        result = _joined({**place, "rank": rank}, protocol, variant, seed, words, progress and rank == 0)
    except ERRORS as error:
        results.put(one_line(error))  # the first to fail is the first to say so
        os._exit(1)  # without waiting for the others
    if rank == 0:
        results.put(result)


def _joined(place, protocol, variant, seed, words, progress):
    group = join(protocol.device, **place)
    try:
        return run(protocol, variant, seed, progress=progress and group.rank == 0, group=group, **words)
    finally:
        dist.destroy_process_group()
