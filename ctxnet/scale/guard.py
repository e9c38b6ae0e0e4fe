"""Sees a Ray of our own off: when whoever started it has ended, however, so does all that it started.

Two of Ray's processes would outlive a killed campaign by minutes, asking a server that is gone. Run as a file of its own by
:func:`ctxnet.scale.cluster.on_this_machine`, with the folder of that Ray, which its processes carry in their environment:
so it imports nothing but the standard library.
"""

import os
import shutil
import signal
import sys
import time
from pathlib import Path

MARK = "CTXNET_RAY"  # variable of the environment that holds the folder


def started_by(folder):
    """Numbers of the processes that carry a folder in their environment (Linux alone tells)."""
    mark, found = f"{MARK}={folder}".encode(), []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            running = (place / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
            if running and mark in (place / "environ").read_bytes().split(b"\0"):
                found.append(int(place.name))
        except OSError:  # it has ended, or is not ours
            continue
    return found


def main(folder):
    sys.stdin.read()  # until nobody holds the other end
    until = time.monotonic() + 10
    while (found := started_by(folder)) and time.monotonic() < until:
        for process in found:
            try:
                os.kill(process, signal.SIGKILL)
            except OSError:
                continue
        time.sleep(0.1)
    gone, until = 0, time.monotonic() + 10
    while gone < 10 and time.monotonic() < until:  # what is dying may still write, and make the folder anew
        shutil.rmtree(folder, ignore_errors=True)
        gone = 0 if os.path.exists(folder) else gone + 1
        time.sleep(0.1)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    main(sys.argv[1])
