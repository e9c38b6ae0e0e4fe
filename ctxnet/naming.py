"""Names and numbers typed by people: one way to refuse a wrong one and to offer the nearest valid one."""

import difflib
import math

SHOWN = 40  # known names in a message where none is near


def unknown_name(kind, name, known):
    """A ``ValueError`` (to be raised by the caller) saying that ``name`` is no ``kind``, with the nearest known ones."""
    known = [str(k) for k in known]
    near = {k.lower(): k for k in known}
    matches = [near[m] for m in difflib.get_close_matches(str(name)[:200].lower(), near, n=3, cutoff=0.5)]
    shown = ", ".join(known[:SHOWN]) + (f" and {len(known) - SHOWN} more" if len(known) > SHOWN else "")
    hint = f"did you mean {' or '.join(repr(m) for m in matches)}?" if matches else f"known: {shown}"
    name = name if len(str(name)) <= 200 else f"{str(name)[:200]}…"
    return ValueError(f"unknown {kind} {name!r}; {hint}")


def require_known(kind, name, known):
    """Return ``name`` if it is among ``known``; raise the error of :func:`unknown_name` otherwise."""
    if name not in list(known):  # a list, because a name read from a file may be unhashable
        raise unknown_name(kind, name, known)
    return name


def in_range(value, interval, where):
    """``value``, a finite number, if it lies in ``interval``: "[1, 64]", "(0, 1)", "[0, inf)".

    Raises:
        ValueError: with the nearest valid value; not-a-number lies nowhere.
    """
    low, high = (float(end) for end in interval[1:-1].split(","))
    above = value >= low if interval[0] == "[" else value > low
    below = value <= high if interval[-1] == "]" else value < high
    if above and below and math.isfinite(value):
        return value
    kind, step = (int, 1) if isinstance(value, int) else (float, 0.01)
    ends = (low + step * (interval[0] == "("), high - step * (interval[-1] == ")"))
    near = ends[1] if value > low and math.isfinite(ends[1]) else ends[0]
    raise ValueError(f"{where}={value!r} must lie in {interval}; nearest valid value: {kind(near)}")
