"""A step of training of every row of a protocol, against plain ResNet-50: what a block costs in time.

    python -m benchmarks.rows [--protocols pays pays128] [--device cuda] [--repeats 15]

Forward, backward and optimiser on one batch of noise, at the protocol's image size, width, batch and precision; all rows in
turn, so that a busy machine slows all alike. On a CPU it is the time of the process that counts, on one thread.
"""

import argparse
import os
import time
from functools import partial
from pathlib import Path

import torch

from benchmarks.common import interleaved, report
from benchmarks.training import bare
from ctxnet.paper import pays
from ctxnet.training import load_params, load_protocol, rows_of
from ctxnet.training.run import network
from ctxnet.training.seeds import parse_seeds

BASELINE, CLASSES = "resnet50", 10


def step(protocol, row, *, device):
    """A callable that trains one step of a row as the protocol has it."""
    model = network(protocol, row, parse_seeds(0), num_classes=CLASSES).to(device, memory_format=torch.channels_last)
    size, batch = protocol.image_size, protocol.batch_size
    x = torch.randn(batch, 3, size, size, device=device).to(memory_format=torch.channels_last)
    labels = torch.arange(batch, device=device) % CLASSES
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=protocol.momentum, fused=True)
    return partial(bare, model, optimizer, [(x, labels)], device=device, bf16=protocol.precision == "bf16")


def measure(protocol, rows, *, repeats, device):
    """[row, milliseconds, ratio to plain ResNet-50] of every row."""
    cases = {row: step(protocol, row, device=device) for row in dict.fromkeys([BASELINE, *rows])}
    clock = time.perf_counter if device == "cuda" else time.process_time
    seconds = interleaved(cases, repeats=repeats, device=device, warmup=2, clock=clock)
    return [[row, 1000 * seconds[row], seconds[row] / seconds[BASELINE]] for row in rows]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--protocols", nargs="+", default=["pays", "pays128"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    path, table, notes = Path("params.yaml"), [], []
    for name in args.protocols:
        protocol = load_protocol(name, path)
        rows = pays.rows_of_size(name) if name in pays.PROTOCOLS else rows_of(protocol, load_params(path))
        rows = measure(protocol, rows, repeats=args.repeats, device=args.device)
        table += [[name, *row] for row in rows]
        size = f"{protocol.image_size} px, width {protocol.width}, batch {protocol.batch_size}, {protocol.precision}"
        notes.append(f"{name}: {size}, medians of {args.repeats} steps; load of the machine {os.getloadavg()[0]:.1f}.")
    report("rows", ["protocol", "row", "ms", f"time ÷ {BASELINE}"], table, device=args.device, notes=notes)


if __name__ == "__main__":
    main()
