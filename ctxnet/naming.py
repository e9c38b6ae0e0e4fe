"""Names typed by people: one way to refuse a wrong one and to offer the near ones."""

import difflib

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
    if name not in known:
        raise unknown_name(kind, name, known)
    return name
