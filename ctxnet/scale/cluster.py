"""Ray itself: one of our own on this machine, or somebody's cluster, for the length of a ``with`` block."""

import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ..provenance import PACKAGES
from . import guard, worker

ANSWER = 10  # seconds that an address has to answer in; Ray itself would try for hours
ray.cloudpickle.register_pickle_by_value(worker)
# Ray would count its users, build an environment for every worker anew if run by uv, and let workers give way to others.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
         "RAY_worker_niceness": "0"}  # fmt: skip


@contextmanager
def on_this_machine(*, cpus, gpus=0):
    """A Ray of our own, of so many CPUs and GPUs; it ends, and its folder goes, with the block or with this process."""
    short = "/tmp" if Path("/tmp").is_dir() else None  # the path of a socket has at most 107 bytes
    folder = tempfile.mkdtemp(prefix="ctxnet-ray-", dir=short)
    watch = [sys.executable, "-I", "-S", guard.__file__, folder]
    sees_off = subprocess.Popen(watch, stdin=subprocess.PIPE, start_new_session=True)
    os.environ[guard.MARK] = folder  # after the guard has begun, which is not to end itself
    try:
        with _connected(address="local", num_cpus=cpus, num_gpus=gpus, include_dashboard=False, _temp_dir=folder):
            yield
    finally:
        del os.environ[guard.MARK]
        sees_off.stdin.close()
        sees_off.wait()


@contextmanager
def at(address):
    """A cluster that is there already, left as it was.

    Args:
        address: "auto" (the one that runs on this machine, or $RAY_ADDRESS), "host:port" or "ray://host:port".

    Raises:
        RuntimeError: nothing answers there; in one line, after :data:`ANSWER` seconds at most.
    """
    found = _resolved(address)
    require_answer(found, address)
    with _connected(address=found):
        yield


@contextmanager
def _connected(**words):
    os.environ.update({name: os.environ.get(name, value) for name, value in QUIET.items()})
    if ray.is_initialized():
        raise RuntimeError("this process is connected to a Ray already; call ray.shutdown() first")
    try:
        try:
            ray.init(logging_level="ERROR", log_to_driver=False, **words)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            raise RuntimeError(f"Ray does not start here: {error}") from None
        yield
    finally:
        ray.shutdown()


def _resolved(address):
    """The address that "auto" stands for; any other as it is."""
    if address != "auto":
        return address
    if os.environ.get("RAY_ADDRESS", "auto") not in ("auto", "local"):
        return os.environ["RAY_ADDRESS"]
    current = Path(tempfile.gettempdir()) / "ray" / "ray_current_cluster"  # written by `ray start`
    with suppress(OSError):
        return current.read_text("utf-8").strip()
    raise RuntimeError("no Ray runs on this machine; start one with `ray start --head`, or name its address, host:port")


def require_answer(address, name=None):
    """Raise ``RuntimeError`` unless something at an address speaks Ray's language, gRPC."""
    place = address.removeprefix("ray://")
    name = address if name in (None, address) else f"{name} ({address})"
    host, _, port = place.rpartition(":")
    if not host or not port.isdigit():
        kind = "ray://" if "//" in address else ""
        raise RuntimeError(f"address {name!r} has no port; nearest valid value: {kind}{place}:{10001 if kind else 6379}")
    with grpc.insecure_channel(place) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=ANSWER)
        except grpc.FutureTimeoutError:
            raise RuntimeError(f"nothing answers at {name}, tried for {ANSWER} s; is Ray running there?") from None


def nodes():
    """The machines that are up, as Ray describes them."""
    return [node for node in ray.nodes() if node["Alive"]]


def slots(need):
    """How many runs that need so much (dict of "CPU", "GPU", "memory") fit into the cluster at once."""
    return sum(
        min(int(node["Resources"].get(name, 0) / amount + 1e-9) for name, amount in need.items() if amount)
        for node in nodes()
    )


def require_equal_versions():
    """Compare what is installed on every machine with what is installed here.

    Returns:
        The versions here.

    Raises:
        RuntimeError: naming the machine and the packages that differ.
    """
    here = worker.versions(PACKAGES)
    asked = {}
    for node in nodes():
        place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ask = ray.remote(worker.differing).options(num_cpus=0, scheduling_strategy=place)
        asked[node["NodeManagerAddress"], node["NodeID"]] = ask.remote(here)
    for (name, _), answer in asked.items():
        if text := ray.get(answer, timeout=120):
            raise RuntimeError(f"worker {name}: {text}; install there what is here, then start again")
    return here


def keeper():
    """The actor that holds what runs tell, on this machine where it is part of the cluster."""
    return ray.remote(worker.Keeper).options(num_cpus=0, max_restarts=-1, max_task_retries=3).remote()
