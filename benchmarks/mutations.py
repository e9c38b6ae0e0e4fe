"""Do the tests hold the measures? Changes one line at a time and runs the tests that should notice.

    python -m benchmarks.mutations [--only RULES] [--first 10]

Every change is applied to a copy of the repository in a temporary folder, so that nothing here is touched. A change is
killed when a test fails, and survives when all pass; "stale" says that its old text is no longer in the file.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Fastest first: most changes die at the first of them.
TESTS = ["tests/test_fuzzing.py", "tests/test_signals.py", "tests/test_receptive_field.py", "tests/test_between.py"]
SECONDS = 600

RULES, GRAPH, FIELD = "ctxnet/measure/rules.py", "ctxnet/measure/graph.py", "ctxnet/measure/receptive_field.py"

# (file, old text, new text); the first place counts where the old text occurs several times.
CHANGES = []


def copied(folder):
    keep = shutil.ignore_patterns("__pycache__", ".*", "results", "site", "data", "notebooks")
    shutil.copytree(ROOT, folder, ignore=keep, dirs_exist_ok=True)


def tried(folder, file, old, new, tests):
    """"killed", "survived" or "stale", and what the tests said last."""
    path = Path(folder) / file
    text = path.read_text()
    if old not in text:
        return "stale", ""
    path.write_text(text.replace(old, new, 1))
    environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not torture", *tests]
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
        )
        failed, said = done.returncode != 0, done.stdout.strip().splitlines()
    except subprocess.TimeoutExpired:
        failed, said = True, ["too slow"]
    finally:
        path.write_text(text)
    said = next((line for line in said if line.startswith(("FAILED", "ERROR", "too slow"))), said[-1] if said else "")
    return "killed" if failed else "survived", said


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="changes of files whose path contains this")
    parser.add_argument("--numbers", type=int, nargs="*", help="changes by number, from 0")
    options = parser.parse_args()
    counts = {"killed": 0, "survived": 0, "stale": 0}
    with tempfile.TemporaryDirectory() as folder:
        copied(folder)
        if tried(folder, *(RULES, "", ""), TESTS)[0] != "survived":
            sys.exit("the tests fail without any change; mend that first")
        for number, (file, old, new) in enumerate(CHANGES):
            if options.only not in file or (options.numbers and number not in options.numbers):
                continue
            start = time.time()
            verdict, said = tried(folder, file, old, new, TESTS)
            counts[verdict] += 1
            took = f"{time.time() - start:.0f} s"
            print(f"{number:3} {verdict:8} {took:>6} {Path(file).name}: {old!r} -> {new!r}  {said[:90]}", flush=True)
    print(f"{counts['killed']} of {sum(counts.values())} killed, {counts['survived']} survived, {counts['stale']} stale")
    return int(counts["survived"] + counts["stale"] > 0)


if __name__ == "__main__":
    sys.exit(main())
