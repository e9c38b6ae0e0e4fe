"""What the distance of the two marks alone tells of Pathfinder: a control that sees both marks and follows no path.

    python -m benchmarks.shortcut [--images 6000]

In each bin of distances it answers with the class that has more training images there. Networks that are no better may have
learned no more than that.
"""

import argparse

import numpy as np

from benchmarks.common import report
from ctxnet.data import prepare_dataset
from ctxnet.data.pathfinder import find_marks
from ctxnet.paper.reach import TASKS
from ctxnet.paper.statistics import wilson_interval
from ctxnet.training import load_params, load_protocol

BIN = 3  # px


def distances(images):
    """Bins of the distance between the two marks, int (n,)."""
    first, second = find_marks(images).transpose(1, 0, 2)
    return (np.hypot(*(first - second).T) // BIN).astype(int)


def answers(seen, labels, asked):
    """For each bin of ``asked`` the class, by ``labels``, that is more frequent in that bin of ``seen``; 0 where none is."""
    count = max(seen.max(), asked.max()) + 1
    votes = np.bincount(seen, np.where(labels == 1, 1, -1), count)
    return (votes > 0).astype(int)[asked]


def measure(protocol, params, *, images):
    """[dashes, images learned from, images judged, top-1 in percent, low, high]."""
    prepared = prepare_dataset(protocol, params)
    seen = distances(np.asarray(prepared.train_images[:images]))
    right = answers(seen, prepared.train_labels[: len(seen)], distances(np.asarray(prepared.valid_images)))
    right = right == prepared.valid_labels
    low, high = wilson_interval(int(right.sum()), len(right))
    return [protocol.dose, len(seen), len(right), *(100 * share for share in (right.mean(), low, high))]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=6000)
    args = parser.parse_args()
    params = load_params()
    rows = [measure(load_protocol(name), params, images=args.images) for name in TASKS["pathfinder"].values()]
    notes = [f"Bins of {BIN} px. Chance is 50 %; low and high: 95 %, Wilson, over images."]
    report("shortcut", ["dashes", "learned from", "images", "top-1 %", "low", "high"], rows, device="cpu", notes=notes)


if __name__ == "__main__":
    main()
