"""Whether a cluster answers, before anything that takes long is imported or done."""

import os
import tempfile
from contextlib import suppress
from pathlib import Path

import grpc

ANSWER = 8  # seconds that an address has to answer in; Ray itself would try for many minutes


def resolved(address):
    """The address that "auto" stands for; any other as it is.

    Raises:
        RuntimeError: "auto", and no Ray runs on this machine.
    """
    if address != "auto":
        return address
    if os.environ.get("RAY_ADDRESS", "auto") not in ("auto", "local"):
        return os.environ["RAY_ADDRESS"]
    with suppress(OSError):  # written by `ray start`
        return (Path(tempfile.gettempdir()) / "ray" / "ray_current_cluster").read_text("utf-8").strip()
    raise RuntimeError("no Ray runs on this machine; start one with `ray start --head`, or name its address, host:port")


def require_answer(address):
    """The address of a cluster ("auto" resolved), once something there has spoken Ray's language, gRPC.

    Raises:
        RuntimeError: in one line, after :data:`ANSWER` seconds at most, if nothing does, or the address has no port.
    """
    found = resolved(address)
    place = found.removeprefix("ray://")
    name = address if found == address else f"{address} ({found})"
    host, _, port = place.rpartition(":")
    if not host or not port.isdigit():
        kind = "ray://" if "//" in found else ""
        raise RuntimeError(f"address {name!r} has no port; nearest valid value: {kind}{place}:{10001 if kind else 6379}")
    with grpc.insecure_channel(place) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=ANSWER)
        except grpc.FutureTimeoutError:
            raise RuntimeError(f"nothing answers at {name}, tried for {ANSWER} s; is Ray running there?") from None
    return found
