"""Runs side by side against one after another: minutes of a small campaign in 1, 2, … processes on the same device.

    python -m benchmarks.campaigns [--device cuda --width 64 --size 128 --precision bf16] [--at-once 1 2 4]

The processes share out the cores. Everything counts that a campaign does: starting processes, training, measuring the
trained networks, writing records.
"""

import argparse
import dataclasses
import tempfile
from pathlib import Path

import yaml

from benchmarks.common import interleaved, report
from ctxnet.data import prepare_dataset
from ctxnet.training import campaign_at_once, load_params, load_protocol

ROOT = Path(__file__).parents[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--row", default="resnet50")
    parser.add_argument("--at-once", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--images", type=int, default=1280)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--precision", choices=["float32", "bf16"], default="float32")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    params = load_params(ROOT / "params.yaml")
    params["probe"]["train_images"] = args.images
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "params.yaml").write_text(yaml.safe_dump(params))
        protocol = dataclasses.replace(
            load_protocol("small", Path(scratch) / "params.yaml"), dataset="probe", min_crop=1.0, max_rotate=0.0,
            flip=False, device=args.device, image_size=args.size,
            width=args.width, epochs=args.epochs, decay_epochs=[], precision=args.precision,
        )  # fmt: skip
        prepare_dataset(protocol, params, Path(scratch))
        made = iter(range(1000))  # every call makes runs of its own

        def campaign(count):
            mine = dataclasses.replace(protocol, name=f"campaign{next(made)}")
            done = campaign_at_once(
                count, mine, root=scratch, rows=[args.row], seeds=list(range(args.runs)), progress=False
            )
            assert done == (args.runs, {})

        calls = {count: (lambda count=count: campaign(count)) for count in args.at_once}
        seconds = interleaved(calls, repeats=args.repeats, device=args.device, warmup=0)
    first = seconds[args.at_once[0]]
    rows = [[str(count), seconds[count], seconds[count] / args.runs, seconds[count] / first] for count in args.at_once]
    notes = [
        f"{args.runs} runs of {args.row}: {args.epochs} epochs of {args.images} images, {args.size} px, width {args.width}, "
        f"{args.precision}; medians of {args.repeats}."
    ]
    report("campaigns", ["processes", "seconds", "a run", "time ratio"], rows, device=args.device, notes=notes)


if __name__ == "__main__":
    main()
