"""Calls in processes of their own, so that a crash, too much memory or an endless loop costs one call and no more.

The processes are forked from a server that has imported the heavy packages once: a child is there in a few hundredths of a
second, where importing torch and timm takes five seconds.
"""

import multiprocessing
import time
from collections import deque
from dataclasses import dataclass, field
from multiprocessing.connection import wait

from ..process import die_with_parent


@dataclass(frozen=True)
class Failure:
    """Why a call has no result: ``kind`` ("memory", "time", "died", or the name of an exception) and one line."""

    kind: str
    why: str


@dataclass
class _Child:
    process: multiprocessing.Process
    connection: object
    names: deque
    started: float = field(default_factory=time.monotonic)


def in_children(function, names, *, batch=1, at_once=1, seconds=600, gigabytes=8, imports=()):
    """Call ``function(name)`` for every name in child processes, as they come: yields (name, result or :class:`Failure`).

    Args:
        function: of a module that can be imported; one name in, something that can be pickled out.
        names: texts.
        batch: calls per process; what a call leaves behind is gone with its process.
        at_once: processes side by side, one thread each.
        seconds: of the clock, for one call.
        gigabytes: of memory for a process, where the system can limit it (Linux).
        imports: modules that the server imports beforehand, such as one that registers models of your own.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["timm", function.__module__, *imports])
    waiting, running = deque(names), {}
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                taken = deque(waiting.popleft() for _ in range(min(batch, len(waiting))))
                child = _start(context, function, taken, gigabytes, imports)
                running[child.connection] = child
            for connection in wait(list(running), timeout=0.5):
                yield from _received(running, running[connection], waiting)
            for child in [c for c in running.values() if time.monotonic() - c.started > seconds]:
                yield child.names.popleft(), Failure("time", f"took more than {seconds:g} seconds")
                _end(running, child, waiting)
    finally:
        for child in list(running.values()):
            _end(running, child, waiting)


def _start(context, function, names, gigabytes, imports):
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(theirs, function, list(names), gigabytes, tuple(imports)), daemon=True)
    process.start()
    theirs.close()
    return _Child(process, ours, names)


def _received(running, child, waiting):
    try:
        name, result = child.connection.recv()
    except EOFError:
        child.process.join()
        if child.names:
            yield child.names.popleft(), _death(child.process.exitcode)
        _end(running, child, waiting)
        return
    child.names.popleft()
    child.started = time.monotonic()
    yield name, result
    if not child.names:
        _end(running, child, waiting)


def _death(code):
    if code == -9:
        return Failure("memory", "its process was killed, most likely by the system for want of memory")
    return Failure("died", f"its process died ({'signal' if code < 0 else 'exit code'} {abs(code)})")


def _end(running, child, waiting):
    """Let go of a child; what it had not begun waits again."""
    running.pop(child.connection, None)
    child.process.kill()
    child.process.join()
    child.connection.close()
    waiting.extendleft(reversed(child.names))


def _work(connection, function, names, gigabytes, imports):
    import importlib
    import signal
    import warnings

    import torch

    die_with_parent(signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent tidies up
    for module in imports:
        importlib.import_module(module)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    _limit(gigabytes)
    for name in names:
        try:
            result = function(name)
        except Exception as error:  # models of all kinds fail in ways of all kinds
            result = _failure(error, gigabytes)
        try:
            connection.send((name, result))
        except BrokenPipeError:  # nobody waits for it any more
            return


def _failure(error, gigabytes):
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error) or "bad_alloc" in str(error):
        return Failure("memory", f"needs more than {gigabytes:g} GB of memory")
    return Failure(type(error).__name__, first_line(error))


def first_line(error):
    """What an error says first, or else what it is."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _limit(gigabytes):
    """Cap what this process may allocate; without it one network could take the machine along."""
    try:
        import resource
    except ImportError:  # not a Unix
        return
    limit = int(gigabytes * 2**30)
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    if most != resource.RLIM_INFINITY:
        limit = min(limit, most)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, most))
