"""How a process of this project ends: with the one that started it, and once, however often Ctrl-C is pressed.

Imported before anything else of the package, so it imports nothing that takes time.
"""

import os
import signal
import sys
import threading
import time
from contextlib import contextmanager

GRACE = 2.0  # seconds in which a second Ctrl-C is part of the first


def command_name(words=None):
    """The module that ``python -m`` runs as this process, if it is of this package; else ""."""
    words = sys.orig_argv if words is None else words
    name = words[words.index("-m") + 1] if "-m" in words[:-1] else ""
    return name if name.split(".")[0] == "ctxnet" else ""


def die_with_parent(signum=signal.SIGTERM):
    """Send this process ``signum`` when the one that started it ends, even if that was killed."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signum)  # 1: PR_SET_PDEATHSIG
    else:
        threading.Thread(target=_watch, args=(os.getppid(), signum), daemon=True).start()


def _watch(parent, signum):
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signum)


@contextmanager
def one_interrupt():
    """Within it, the first Ctrl-C raises ``KeyboardInterrupt``; those right after it do not break off the tidying up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    first = None

    def interrupt(signum, frame):
        nonlocal first
        now = time.monotonic()
        if first is None or now - first > GRACE:
            first = now
            raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:  # as nohup sets it
        yield
        return
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        if first is None:  # else what is left of this process ends in peace
            signal.signal(signal.SIGINT, before)


if command_name():
    if command_name().startswith("ctxnet.pipeline") or "DVC_STAGE" in os.environ:
        die_with_parent()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # while it imports, there is nothing to tidy up or to trace back
