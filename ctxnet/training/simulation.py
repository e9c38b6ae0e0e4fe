"""How long a campaign would take on so many devices, from the minutes of its runs."""

import heapq


def simulate(minutes, devices):
    """Minutes until the last of these runs ends, if each begins, in this order, on the first device that is free.

    That is how a campaign hands out its runs. Starting processes and reading data are not counted, nor that runs on one
    machine slow each other down.

    Args:
        minutes: of each run, in the order of the plan.
        devices: how many runs there may be at once.

    Raises:
        ValueError: no device.
    """
    if devices < 1:
        raise ValueError(f"devices={devices} must be 1 or more; nearest valid value: 1")
    free = [0.0] * devices
    for each in minutes:
        heapq.heappush(free, heapq.heappop(free) + each)
    return max(free)
