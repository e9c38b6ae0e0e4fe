"""Records changed on purpose: whole again, so that what is tested is what they say and not their digests."""

import json

from ctxnet.records import write_record


def rewrite(folder, change=(), files=(), provenance=()):
    """Write the record in ``folder`` anew with some keys, files (name → bytes, None: without) or origins changed.

    Returns:
        The record.
    """
    record = json.loads((folder / "record.json").read_text()) | dict(change)
    origin = json.loads((folder / "provenance.json").read_text()) | dict(provenance)
    had = {name: (folder / name).read_bytes() for name in record["files"]} | dict(files)
    for key in ("sha256", "record"):
        record.pop(key, None)
        origin.pop(key, None)
    return write_record(folder, record, {name: data for name, data in had.items() if data is not None}, origin)
