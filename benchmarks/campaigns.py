"""Runs side by side on Ray against one after another: seconds of a small campaign as the command line makes it.

    python -m benchmarks.campaigns [--device cuda --width 64 --size 128 --precision bf16] [--at-once 1 2 4]
        [--threads 1]          # of every run, however many are side by side; else all cores are shared out
        [--against FOLDER]     # also by the code of another checkout, such as one from before campaigns ran on Ray
        [--kills]              # then also ten workers and three machines killed, with a shared folder and without

Everything counts that a campaign does: starting processes, training, measuring the trained networks, writing records. With
``--threads 1`` a run is the same computation in both, to the bit, and so are the records; without, a run has all cores one
after another and a share of them side by side.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from benchmarks.common import interleaved, report
from ctxnet.data import prepare_dataset
from ctxnet.training import load_params, load_protocol

ROOT = Path(__file__).parents[1]


def main():
    args = parse()
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        params = load_params(ROOT / "params.yaml")
        params["probe"]["train_images"], params["own_rows"], params["more_seeds"] = args.images, {}, {}
        params["rows"], params["protocol_names"] = [args.row], ["quick"]
        params.pop("pathfinder", None)  # which an older checkout does not know
        params["campaign"] = {"order": [args.row], "assumed_minutes": {}}
        params["protocols"]["quick"] = params["protocols"]["small"] | {
            "dataset": "probe", "min_crop": 1.0, "max_rotate": 0.0, "flip": False, "device": args.device,
            "image_size": args.size, "width": args.width, "epochs": args.epochs, "decay_epochs": [],
            "precision": args.precision, "threads": args.threads, "seeds": list(range(args.runs)),
        }  # fmt: skip
        params["protocols"] = {"quick": params["protocols"]["quick"]}
        (scratch / "params.yaml").write_text(yaml.safe_dump(params))
        prepare_dataset(load_protocol("quick", scratch / "params.yaml"), params, scratch)
        cases = {}
        for count in args.at_once:
            name = "one after another" if count == 1 else f"{count} at once"
            cases[name] = case(scratch, ROOT, count)
            if args.against and count > 1:
                cases[f"{name}, {args.against.name}"] = case(scratch, args.against, count)
        seconds = interleaved(cases, repeats=args.repeats, device=args.device, warmup=0)
    first, *_ = seconds.values()
    rows = [[name, spent, spent / args.runs, spent / first] for name, spent in seconds.items()]
    cores = f"{args.threads} thread(s) a run" if args.threads else "all cores shared out"
    notes = [
        f"{args.runs} runs of {args.row}: {args.epochs} epochs of {args.images} images, {args.size} px, width {args.width}, "
        f"{args.precision}, {cores}; medians of {args.repeats}. Load of the machine at the end: {os.getloadavg()[0]:.1f}."
    ]
    report("campaigns", ["campaign", "seconds", "a run", "time ratio"], rows, device=args.device, notes=notes + kills(args))


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--row", default="resnet50")
    parser.add_argument("--at-once", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--kills", action="store_true")
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--images", type=int, default=1280)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--precision", choices=["float32", "bf16"], default="float32")
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args()


def case(scratch, checkout, count):
    """A call that makes all runs anew by the code of a checkout."""

    def call():
        for record in scratch.rglob("record.json"):
            for path in record.parent.iterdir():
                path.unlink()
        command = [sys.executable, "-W", "ignore", "-m", "ctxnet", "campaign", "--protocol", "quick", "--quiet", "--root",
                   scratch, "--params", scratch / "params.yaml", "--at-once", str(count)]  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": str(checkout.resolve())}
        subprocess.run(command, cwd=checkout, env=environment, check=True, stdout=subprocess.DEVNULL)

    return call


def kills(args):
    """What the slow tests print about killed workers and machines; each of their lines was checked before it was printed."""
    if not args.kills:
        return []
    command = [sys.executable, "-m", "pytest", "tests/test_scale.py", "-m", "torture", "-rP", "-q"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stdout[-4000:])
    return ["", *(line for line in done.stdout.splitlines() if line.startswith("shared="))]


if __name__ == "__main__":
    main()
