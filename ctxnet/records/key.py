"""What a record belongs to: settings, data, and the version of the code that made it.

The version is no hash of source text, which changes with every comment, but a *trace*: numbers that the code computes on
a small fixed input. They are kept in the record and computed anew when the record is to be reused. Processors round
differently, so numbers are compared with a tolerance and never hashed.
"""

import math

TOLERANCE = 1e-5  # relative; rounding alone moves a trace by far less, a change of what is computed by far more


def close(old, new, tolerance=TOLERANCE):
    """Whether two JSON-able values are equal, floats within a relative ``tolerance`` (absolute below 1)."""
    if isinstance(old, dict) and isinstance(new, dict):
        return old.keys() == new.keys() and all(close(old[key], new[key], tolerance) for key in old)
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(close(a, b, tolerance) for a, b in zip(old, new, strict=True))
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (old, new))
    if numbers and float in (type(old), type(new)):
        return math.isclose(old, new, rel_tol=tolerance, abs_tol=tolerance)
    return type(old) is type(new) and old == new


def changes(old, new):
    """What differs between two keys, in words; "" where a record of the one may be reused for the other.

    Args:
        old, new: dicts with ``settings`` (compared exactly) and ``trace`` (compared within :data:`TOLERANCE`). Of an old
            one without trace, made before they were kept, only the settings are compared.
    """
    before, now = old["settings"], new["settings"]
    names = [name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]
    if names:
        return "settings changed (" + "; ".join(f"{n} {before.get(n)!r} → {now.get(n)!r}" for n in names) + ")"
    trace, current = old.get("trace"), new["trace"]
    if not trace:
        return ""
    parts = [part for part in sorted(trace.keys() | current.keys()) if not close(trace.get(part), current.get(part))]
    return f"the code computes something else now ({', '.join(parts)})" if parts else ""
