"""What all benchmarks share: interleaved repeats, medians, one table as Markdown and CSV.

Ratios are what to read: all cases of a table run in turn in one process, so that a busy machine slows all alike.
"""

import csv
import platform
import resource
import sys
import time
from pathlib import Path
from statistics import median

import torch

from ctxnet import provenance

RESULTS = Path(__file__).parents[1] / "results" / "benchmarks"


def timed(call, *, device, clock=time.perf_counter):
    """Seconds of one call, with the device's queue empty before and after."""
    if device == "cuda":
        torch.cuda.synchronize()
    started = clock()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - started


def interleaved(cases, *, repeats, device, warmup=1, clock=time.perf_counter):
    """Median seconds of each case (dict name → callable): every repeat runs all of them in turn."""
    for _ in range(warmup):
        for call in cases.values():
            call()
    seconds = {name: [] for name in cases}
    for _ in range(repeats):
        for name, call in cases.items():
            seconds[name].append(timed(call, device=device, clock=clock))
    return {name: median(values) for name, values in seconds.items()}


def kept_bytes(call, *, device):
    """Bytes that ``call()`` allocates on the device and that stay, besides its result: what the backward pass needs."""
    call()  # tables that are made once
    with torch.profiler.profile(profile_memory=True, acc_events=True) as profile:
        result = call()
    usage = "self_device_memory_usage" if device == "cuda" else "self_cpu_memory_usage"
    return sum(getattr(event, usage) for event in profile.events()) - result.nbytes


def peak_memory(device):
    """Most memory in GiB that this process has held so far, on the GPU if that is the device."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    factor = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * factor / 2**30


def report(name, header, rows, *, device, notes=()):
    """Print a table as Markdown and write it, with the machine and the versions, to ``results/benchmarks``.

    A row that brings its own machine and commit, two cells beyond the header, was measured before and keeps them.
    """
    where = provenance.collect(device=device)
    versions = ", ".join(f"{key} {value}" for key, value in where["versions"].items() if value)
    machine = f"{where['device']}, {where['cores']} cores, {where['threads']} threads, {platform.system()}; {versions}"
    shown = [row[: len(header)] for row in rows]
    text = [[f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row] for row in shown]
    lines = ["| " + " | ".join(header) + " |", "|" + " :-- |" + " --: |" * (len(header) - 1)]
    lines += ["| " + " | ".join(row) + " |" for row in text]
    page = "\n".join([f"# {name}", "", machine, "", *lines, "", *notes]).rstrip() + "\n"
    print(page)
    RESULTS.mkdir(parents=True, exist_ok=True)
    stem = RESULTS / f"{name}-{'gpu' if device == 'cuda' else 'cpu'}"
    stem.with_suffix(".md").write_text(page)
    with open(stem.with_suffix(".csv"), "w", newline="") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow([*header, "machine", "commit"])
        writer.writerows([*row, machine, where["commit"]][: len(header) + 2] for row in rows)
