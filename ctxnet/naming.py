"""Names typed by people: one way to refuse a wrong one and to offer the near ones."""

import difflib


def unknown_name(kind, name, known):
    """A ``ValueError`` (to be raised by the caller) saying that ``name`` is no ``kind``, with the nearest known ones."""
    known = [str(k) for k in known]
    near = {k.lower(): k for k in known}
    matches = [near[m] for m in difflib.get_close_matches(str(name).lower(), near, n=3, cutoff=0.5)]
    hint = f"did you mean {' or '.join(repr(m) for m in matches)}?" if matches else f"known: {', '.join(known)}"
    return ValueError(f"unknown {kind} {name!r}; {hint}")


def require_known(kind, name, known):
    """Return ``name`` if it is among ``known``; raise the error of :func:`unknown_name` otherwise."""
    if name not in known:
        raise unknown_name(kind, name, known)
    return name
