"""Time and memory of every chapter, run from its first cell to its last in a process of its own.

    python -m benchmarks.notebooks [--protocol small] [chapter …]

The chapters show it at their head (:func:`ctxnet.paper.words.cost`). A page of the book is made of what was run here.
"""

import argparse
import csv
import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.common import RESULTS, report

ROOT = Path(__file__).parents[1]
RUN = (
    "import sys; from ctxnet.pipeline.notebook import run_notebook; _, notebook, protocol, output = sys.argv; "
    "run_notebook(notebook, {'protocol': protocol}, output)"
)
HEADER = ["notebook", "CPU s", "clock s", "peak GiB"]


def measured(chapter, protocol):
    """(CPU seconds, seconds, GiB) of one chapter: all its processes, the largest of them."""
    started = time.perf_counter()
    words = [f"notebooks/{chapter}.ipynb", protocol, f"results/{protocol}/notebook/{chapter}.ipynb"]
    process = subprocess.Popen([sys.executable, "-c", RUN, *words], cwd=ROOT)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{chapter}: its run ended with {os.waitstatus_to_exitcode(status)}")
    factor = 1 if sys.platform == "darwin" else 1024
    return used.ru_utime + used.ru_stime, time.perf_counter() - started, used.ru_maxrss * factor / 2**30


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("chapters", nargs="*", help="stems of notebooks; all unless given, and the others keep their line")
    parser.add_argument("--protocol", default="small")
    args = parser.parse_args()
    every = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
    kept, path = {}, RESULTS / "notebooks-cpu.csv"
    if path.exists():
        with open(path, newline="") as handle:
            for line in csv.DictReader(handle):
                kept[line["notebook"]] = [*(float(line[key]) for key in HEADER[1:]), line["machine"], line["commit"]]
    for chapter in args.chapters or every:
        kept[chapter] = measured(chapter, args.protocol)
    rows = [[name, *kept[name]] for name in every if name in kept]
    notes = [f"Protocol `{args.protocol}`. The clock depends on what else runs. The CSV says of which commit a line is."]
    report("notebooks", HEADER, rows, device="cpu", notes=notes)


if __name__ == "__main__":
    main()
