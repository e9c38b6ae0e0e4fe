"""Ray itself: one of our own on this machine, or somebody's cluster, for the length of a ``with`` block."""

import os
import subprocess
import sys
import tempfile
import warnings
from contextlib import contextmanager
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ..provenance import PACKAGES
from . import guard, worker
from .address import require_answer

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
        RuntimeError: nothing answers there; in one line, within seconds.
    """
    with _connected(address=require_answer(address)):
        yield


@contextmanager
def _connected(**words):
    os.environ.update({name: os.environ.get(name, value) for name, value in QUIET.items()})
    if ray.is_initialized():
        raise RuntimeError("this process is connected to a Ray already; call ray.shutdown() first")
    try:
        try:
            with warnings.catch_warnings():  # what Ray's client warns of, it raises as well
                warnings.filterwarnings("ignore", "Ray Client connection timed out")
                ray.init(logging_level="ERROR", log_to_driver=False, **words)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            raise RuntimeError(_why(error, words["address"])) from None
        yield
    finally:
        ray.shutdown()


def _why(error, address):
    """Why there is no connection, in a line. Ray's client only times out where a cluster asks for a token."""
    if address.startswith("ray://") and "timeout" in str(error):
        return f"{address} lets nobody in: {error}; where it asks for a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
    return f"Ray does not start here: {error}"


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
    place = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    kept = ray.remote(worker.Keeper).options(num_cpus=0, max_restarts=-1, max_task_retries=3, scheduling_strategy=place)
    return kept.remote()
