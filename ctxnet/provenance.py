"""Where a result came from: code, data, versions, machine; nothing that names a person or a host."""

import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path

PACKAGES = ("torch", "torchvision", "fastai", "timm", "numpy", "ctxnet")

# What a run writes is no change of the code that made it.
_WRITTEN = (":(top,exclude)results", ":(top,exclude)dvc.lock")


def collect(data_manifest=None, root=".", device=None):
    """Describe this process and the checkout it runs in.

    Args:
        data_manifest: hash of the prepared data set that was used, or None.
        root: any folder inside the checkout; outside of one, ``commit`` and ``dirty`` are None.
        device: "cpu", "cuda", "cuda:1" …; None: the GPU where there is one.

    Returns:
        JSON-able dict: ``commit`` (hex), ``dirty`` (True when code or settings differ from the commit),
        ``data_manifest``, ``versions`` (package -> version; None when not installed), ``device`` (name of the
        processor or GPU), ``cores`` (that this process may use), ``threads`` (of torch).
    """
    import torch

    changed = _git(root, "status", "--porcelain", "--", ":/", *_WRITTEN)
    return {
        "commit": _git(root, "rev-parse", "HEAD"),
        "dirty": None if changed is None else bool(changed),
        "data_manifest": data_manifest,
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "device": _device_name(device),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def subject(commit, root="."):
    """First line of a commit's message; None where the commit or git is not there.

    ``commit`` comes from a record, so anything but 12 to 40 hex digits names no commit here.
    """
    if not (isinstance(commit, str) and re.fullmatch(r"[0-9a-f]{12,40}", commit)):
        return None
    return _git(root, "show", "--no-patch", "--format=%s", "--end-of-options", commit)


def is_commit(value):
    """Whether ``value`` has the form of a commit's name: 40 lower-case hex digits."""
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{40}", value) is not None


def _git(root, *arguments):
    # GIT_OPTIONAL_LOCKS: runs side by side must not fight over the index.
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=root,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
            capture_output=True,
            text=True,
            timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(package):
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _device_name(device):
    import torch

    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if str(device).startswith("cuda"):
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
