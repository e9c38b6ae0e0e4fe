"""Pathfinder: are the two marked ends those of one dashed path? After Linsley et al. 2018 (arXiv:1805.08315).

Each image shows, on noise, two dashed paths of equal length that bend a little from dash to dash, four short ones to
distract, and two discs. In class "connected" these lie on the two ends of one path, in class "apart" on one end of each.
The scene is drawn before the class is known, and in both classes each of the four ends is marked with probability ½: what
is seen in windows too small to show two ends, averaged over the image, has the same mean in both. To follow a path takes
context along all of it; how far that is grows with the number of dashes.

Different paths, with room for discs on their ends, keep ``APART`` px from each other, more than the ``LINK`` px from a dash
to the next one, so that a flood fill that jumps gaps is always right (:func:`read_pathfinder`).
"""

import numpy as np

CLASSES = ["apart", "connected"]
VERSION = 1  # to be raised with every change of the images, so that prepared sets are made again
LENGTHS = (6, 9, 14)  # dashes of a path, as in the paper
DASH, STEP = 3, 5  # px of a dash, and from the start of one to that of the next
LINK, APART = 3, 5  # Chebyshev distances, px: largest within a path, smallest between paths
MARK = 5  # diameter of a disc, px
SMALLEST = 64  # side of an image that holds two of the longest paths
_DISTRACTORS, _BORDER, _WHITE, _NOISE = 4, 3, 240, 16
# 10^4 · cos of 0°, 15° … 345°. A table, because math libraries differ in the last bit of a cosine.
_QUARTER = [10000, 9659, 8660, 7071, 5000, 2588, 0]
_COS = np.array([*_QUARTER, *(-v for v in _QUARTER[-2::-1]), *(-v for v in _QUARTER[1:]), *_QUARTER[-2:0:-1]])
_WAYS = [(-int(down), int(right)) for down, right in zip(np.roll(_COS, 6), _COS, strict=True)]  # rows go downwards


def _disc():
    rows, columns = np.mgrid[:MARK, :MARK] - MARK // 2
    return np.stack(np.nonzero(4 * (rows**2 + columns**2) <= MARK**2), 1) - MARK // 2


_DISC = _disc()


def _grown(mask, reach):
    """``mask`` (S, S) and all pixels within a Chebyshev distance of ``reach``."""
    wide = np.pad(mask, reach)
    rows = np.logical_or.reduce([wide[i : i + len(mask)] for i in range(2 * reach + 1)])
    return np.logical_or.reduce([rows[:, i : i + len(mask)] for i in range(2 * reach + 1)])


class _Dice:
    """Numbers from PCG64's raw bits, which NumPy promises never to change."""

    def __init__(self, seed):
        self.bits = np.random.PCG64(seed)

    def below(self, n):
        return int(self.bits.random_raw() % n)


def _ground(blocked):
    """``blocked`` (S, S) as lists, its border and all around it blocked as well: places from -STEP to S + STEP - 1 exist."""
    ground = np.ones(np.add(blocked.shape, STEP), dtype=bool)  # a negative place is one of those at the end
    inside = slice(_BORDER, len(blocked) - _BORDER)
    ground[inside, inside] = blocked[inside, inside]
    return ground.tolist()


def _path(dashes, ground, dice):
    """Pixels of a dashed path on free ground as an array (dashes, DASH, 2), or None where it ran into something."""
    side, heading, path = len(ground) - STEP, dice.below(24), []
    row, column = 10000 * dice.below(side), 10000 * dice.below(side)
    while len(path) < dashes:
        turns = [-2, -1, 0, 1, 2]
        while turns:
            turn = (heading + turns.pop(dice.below(len(turns)))) % 24
            down, right = _WAYS[turn]
            dash = [((row + i * down + 5000) // 10000, (column + i * right + 5000) // 10000) for i in range(DASH)]
            if not any(ground[y][x] for y, x in dash) and not _is_near(dash, path[:-1]):
                break
        else:
            return None
        path.append(dash)
        row, column, heading = row + STEP * down, column + STEP * right, turn
    return np.array(path)


def _is_near(dash, others):
    """Whether a dash touches one of a path's earlier ones: ends and middles are less than 3 px apart."""
    (top, left), (bottom, right) = dash[0], dash[-1]
    for other in others:  # plain loops: asked at every try of a dash, generators take longer
        for y, x in other:
            if (abs(top - y) < 3 and abs(left - x) < 3) or (abs(bottom - y) < 3 and abs(right - x) < 3):
                return True
    return False


def _footprint(path, side, *, ends):
    """Mask (S, S) of a path, with discs on its ends if they may be marked."""
    mask = np.zeros((side, side), dtype=bool)
    for dash in path:
        mask[tuple(dash.T)] = True
    for end in (path[0][0], path[-1][-1]) if ends else ():
        mask[tuple((end + _DISC).T)] = True
    return mask


def _scene(dashes, side, dice):
    """(two long paths, short paths), all apart from each other."""
    while True:
        blocked, paths = np.zeros((side, side), dtype=bool), []
        for number in range(2 + _DISTRACTORS):
            long, ground = number < 2, _ground(blocked)
            for _ in range(50):
                path = _path(dashes if long else max(2, dashes // 3), ground, dice)
                mask = None if path is None else _footprint(path, side, ends=long)
                if path is not None and not (mask & blocked).any():
                    break
            else:
                break  # no room: another scene
            blocked |= _grown(mask, APART - 1)
            paths.append(path)
        if len(paths) == 2 + _DISTRACTORS:
            return paths[:2], paths[2:]


def require_dashes(dashes, image_size, where="dashes"):
    """``dashes`` if an image of that side holds two such paths; else ``ValueError`` with the nearest valid value."""
    if image_size < SMALLEST:
        raise ValueError(f"{where}={dashes}: pathfinder needs image_size={SMALLEST} or more, not {image_size}")
    if dashes not in LENGTHS:
        near = min(LENGTHS, key=lambda known: abs(known - dashes))
        raise ValueError(f"{where}={dashes}: paths have 6, 9 or 14 dashes; nearest valid value: {near}")
    return dashes


def make_pathfinder(n, *, image_size=64, dashes=9, seed):
    """Make ``n`` images, each in 1 to 20 ms by the length of its paths. Equal arguments give equal bytes on every machine.

    Args:
        n: number of images, as many of each class as n allows, in random order.
        image_size: side S, px, at least 64.
        dashes: of each of the two long paths: 6, 9 or 14.
        seed: not negative; take different ones for training and validation.

    Returns:
        images uint8 (n, S, S, 3) and labels int64 (n,): 1 where the marked ends are those of one path.

    Raises:
        ValueError: a path that the image cannot hold, n below 1, seed below 0.
    """
    require_dashes(dashes, image_size)
    if n < 1 or seed < 0:
        raise ValueError(f"n={n}, seed={seed}: n must be at least 1, seed at least 0")
    dice, area = _Dice(seed), image_size * image_size
    labels = (np.arange(n, dtype=np.int64) % 2)[np.argsort(dice.bits.random_raw(n), kind="stable")]
    images = np.empty((n, image_size, image_size, 3), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        long, short = _scene(dashes, image_size, dice)
        noise = dice.bits.random_raw(-(-area // 8)).astype("<u8").view(np.uint8)[:area] % _NOISE
        image[...] = (128 - _NOISE // 2 + noise).reshape(image_size, image_size, 1)
        for path in (*long, *short):
            image[_footprint(path, image_size, ends=False)] = _WHITE
        ends = [(path[0][0], path[-1][-1]) for path in long]
        which = dice.below(2), dice.below(2)
        marked = ends[which[0]] if label else (ends[0][which[0]], ends[1][which[1]])
        for end in marked:
            image[tuple((end + _DISC).T)] = _WHITE
    return images, labels


def read_pathfinder(images):
    """The labels as a flood fill reads them from the pixels: from one disc over all gaps of up to LINK px to the other.

    Args:
        images: uint8 (n, S, S, 3) from :func:`make_pathfinder`.

    Returns:
        int64 (n,), right for every image.
    """
    found = np.empty(len(images), dtype=np.int64)
    for number, (image, (first, second)) in enumerate(zip(images, find_marks(images), strict=True)):
        lit = image[..., 0] > 200
        filled = np.zeros_like(lit)
        filled[tuple(first)] = True
        while True:
            wider = _grown(filled, LINK) & lit
            if (wider == filled).all():
                break
            filled = wider
        found[number] = filled[tuple(second)]
    return found


def find_marks(images):
    """Centres of the two discs of images from :func:`make_pathfinder`: int64 (n, 2, 2), row and column in px."""
    places = np.empty((len(images), 2, 2), dtype=np.int64)
    for number, image in enumerate(images):
        lit = image[..., 0] > 200
        whole = np.logical_and.reduce([np.roll(lit, (-row, -column), (0, 1)) for row, column in _DISC])
        places[number] = np.argwhere(whole)
    return places
