"""What the two marks of Pathfinder tell without the path between them: controls that follow nothing.

    python -m benchmarks.shortcut [--images N]

The first reads the distance of the marks alone: in each bin of distances it answers with the class that has more training
images there. The second also reads, at each mark, in which direction the next dash lies, and learns by gradient boosting
(scikit-learn's defaults). Networks that are no better may have learned no more than that. Both learn from images drawn like
those that networks are trained on, and are judged by the images that networks are judged by.
"""

import argparse

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier

from benchmarks.common import report
from ctxnet.data.pathfinder import find_marks, make_pathfinder
from ctxnet.paper.reach import READS, TASKS
from ctxnet.paper.statistics import wilson_interval
from ctxnet.training import load_params, load_protocol

BIN = 3  # px
NEAR, FAR = 3, 6  # px from a mark's centre: outside its disc, and nearer than any dash of another path may lie


def answers(seen, labels, asked):
    """For each bin of ``asked`` the class, by ``labels``, that is more frequent in that bin of ``seen``; 0 where none is."""
    count = max(seen.max(), asked.max()) + 1
    votes = np.bincount(seen, np.where(labels == 1, 1, -1), count)
    return (votes > 0).astype(int)[asked]


def directions(images, marks):
    """Where the next dash lies from each mark, seen towards the other one: complex (n, 2) of length 1; 0 where none is near.

    1 is straight to the other mark, -1 away from it, the sign of the imaginary part tells the side.
    """
    rows, columns = np.mgrid[-FAR : FAR + 1, -FAR : FAR + 1]
    ring = (np.hypot(rows, columns) >= NEAR) & (np.hypot(rows, columns) <= FAR)
    way = (columns + 1j * rows)[ring]
    found = np.zeros(marks.shape[:2], dtype=complex)
    for number, (image, places) in enumerate(zip(images, marks, strict=True)):
        lit = np.pad(image[..., 0] > 200, FAR)
        for which, (row, column) in enumerate(places):
            found[number, which] = way[lit[row : row + 2 * FAR + 1, column : column + 2 * FAR + 1][ring]].sum()
    between = (marks[:, 1] - marks[:, 0]) @ [1j, 1]
    found *= np.stack([between, -between], 1).conj()
    return found / np.maximum(np.abs(found), 1e-9)


def boosted(seen, labels, asked):
    """Classes of ``asked``, learned from ``seen``: each (distance float (n,) in px, directions complex (n, 2)).

    Which mark is the first and which side is left is no matter: both orders and both mirror images are learned from.
    """

    def table(far, way):
        return np.column_stack([far, np.angle(way)])

    far, way = seen
    views = [way, way[:, ::-1], way.conj(), way[:, ::-1].conj()]
    model = HistGradientBoostingClassifier(random_state=0)
    model.fit(np.concatenate([table(far, view) for view in views]), np.tile(labels, len(views)))
    return model.predict(table(*asked))


def measure(protocol, settings, *, images):
    """Rows of [reads, dashes, images learned from, images judged, top-1 in percent, low, high]."""
    like, sets = {"image_size": protocol.image_size, "dashes": protocol.dose}, []
    for count, seed in ((images, settings["train_seed"]), (settings["valid_images"], settings["valid_seed"])):
        shown, labels = make_pathfinder(count, **like, seed=seed)
        marks = find_marks(shown)
        far = np.hypot(*(marks[:, 0] - marks[:, 1]).T)
        sets.append((labels, far, directions(shown, marks)))
    (labels, *seen), (truth, *asked) = sets
    bins = [(far // BIN).astype(int) for far, _ in (seen, asked)]
    rows, found = [], (answers(bins[0], labels, bins[1]), boosted(seen, labels, asked))
    for reads, answered in zip(READS, found, strict=True):
        right = answered == truth
        low, high = wilson_interval(int(right.sum()), len(right))
        shares = (100 * share for share in (right.mean(), low, high))
        rows.append([reads, protocol.dose, images, len(right), *shares])
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=6000, help="learn from so many")
    args = parser.parse_args()
    protocols, settings = map(load_protocol, TASKS["pathfinder"].values()), load_params()["pathfinder"]
    rows = [row for protocol in protocols for row in measure(protocol, settings, images=args.images)]
    notes = [f"Distances alone in bins of {BIN} px. Chance is 50 %; low and high: 95 %, Wilson, over images."]
    header = ["reads", "dashes", "learned from", "images", "top-1 %", "low", "high"]
    report("shortcut", header, rows, device="cpu", notes=notes)


if __name__ == "__main__":
    main()
