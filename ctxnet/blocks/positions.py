"""Where a context block looks: permutations and offsets that are random but fixed.

They depend on nothing but the seed, the name of the layer and (for permutations) the size of the map, so that a
reloaded network looks at the same places, on any machine. The raw 64-bit stream of PCG64 and a stable sort are
used because NumPy promises both never to change, unlike the methods of its ``Generator``.
"""

import hashlib

import numpy as np


def _raw(count, *key):
    digest = hashlib.sha256(repr(key).encode()).digest()
    return np.random.PCG64(int.from_bytes(digest[:16], "little")).random_raw(count)


def permutations(k, height, width, *, seed=0, layer=""):
    """``k`` random permutations of the positions of a map, drawn independently (thesis §3.1).

    Returns:
        int64 array (k, height·width): entry [i, p] is the position that the i-th permuted tensor shows at p,
        positions counted row by row.
    """
    count = height * width
    order = [np.argsort(_raw(count, "permutation", seed, layer, height, width, i), kind="stable") for i in range(k)]
    return np.array(order, dtype=np.int64).reshape(k, count)


def offsets(k, d, *, seed=0, layer=""):
    """``k`` different offsets from [−d, d]² without (0, 0), drawn without replacement (thesis §3.5).

    They do not depend on the size of the map: a kernel has one shape wherever it is applied.

    Returns:
        int64 array (k, 2) of (row, column) offsets.
    """
    side = 2 * d + 1
    order = np.argsort(_raw(side * side, "offsets", seed, layer, d), kind="stable")
    order = order[order != side * side // 2][:k]
    return np.stack([order // side - d, order % side - d], axis=1).astype(np.int64)


def relative_positions(index, width):
    """Row and column distance from each position to the one shown there.

    Args:
        index: int array (k, positions), as from :func:`permutations`.
        width: width of the map.

    Returns:
        int64 array (2, k, positions).
    """
    here = np.arange(index.shape[1])
    return np.stack([index // width - here // width, index % width - here % width])


def cycle(tile, height, width, *, seed=0, layer=""):
    """A permutation of the positions of a map that is one random ring within each ``tile`` × ``tile`` square.

    Args:
        tile: side of the squares, cut at the lower and right border; 0: the whole map.

    Returns:
        int64 array (height·width,): entry p is the position shown at p, never p itself unless its square has no other.
    """
    positions = np.arange(height * width).reshape(height, width)
    rows, columns = (min(tile, size) or size for size in (height, width))
    keys = _raw(height * width, "cycle", seed, layer, height, width, tile)
    order = np.empty(height * width, dtype=np.int64)
    for top in range(0, height, rows):
        for left in range(0, width, columns):
            square = positions[top : top + rows, left : left + columns].ravel()
            ring = square[np.argsort(keys[square], kind="stable")]
            order[ring] = np.roll(ring, -1)
    return order


def tile_offset(tile, height, width, *, seed=0, layer=""):
    """(rows, columns) from one position of a ``tile`` × ``tile`` square to another one, both random.

    Args:
        tile: side of the square, at most that of the map; 0: the whole map.

    Returns:
        Two ints; 0, 0 on a map of one position.
    """
    rows, columns = (min(tile, size) or size for size in (height, width))
    here, there = np.argsort(_raw(rows * columns, "tile offset", seed, layer, rows, columns), kind="stable")[[0, -1]]
    return int(there // columns - here // columns), int(there % columns - here % columns)
