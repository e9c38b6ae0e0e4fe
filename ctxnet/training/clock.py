"""Time that a run takes over all its pieces, and the load of the machine meanwhile."""

import math
import os
import time


class Clock:
    """Counts the seconds of this piece of a run on top of those of earlier ones.

    A piece that was killed counts as far as its last checkpoint.

    Attributes:
        before: seconds of earlier pieces.
        loads: the machine's load (mean number of waiting or running processes in the last minute) at start and end of
            every piece; None where the system does not tell.
    """

    def __init__(self):
        self.started, self.before, self.loads = time.perf_counter(), 0.0, [_load()]

    def go_on(self, state):
        """Take over what an earlier piece has left in a checkpoint."""
        self.before = state.get("wall_seconds", state["seconds"])
        self.loads = [*state.get("load", []), *self.loads]

    def stated(self):
        """For a checkpoint or a provenance: ``wall_seconds`` and ``load`` until now."""
        return {
            "wall_seconds": round(self.before + time.perf_counter() - self.started, 2),
            "load": [*self.loads, _load()],
        }


def _load():
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):
        return None


def deadline(max_minutes):
    """When so many minutes from now are over, on ``time.perf_counter``; None for None.

    Raises:
        ValueError: not a number, which would never be over.
    """
    if max_minutes is None:
        return None
    if math.isnan(max_minutes):
        raise ValueError("max_minutes=nan is no time; nearest valid value: None")
    return time.perf_counter() + 60 * max_minutes
