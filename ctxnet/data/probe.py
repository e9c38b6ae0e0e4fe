"""The probe set: images whose class can only be told from context.

Each image shows two marks on noise, and the class is the bearing, in ten steps of 36°, of the second mark
from the first, at a distance D. Positions wrap around the border, so each mark alone is spread evenly over
the image in every class: what is seen near one mark, and where either of them lies, says nothing. A network
whose features never see both marks at once, that is further than about D, cannot do better than chance; a
network that does can solve it.
"""

import numpy as np

# 10^4 · (cos, sin) of 0°, 36° … 324°: a table, because the last bit of a math library's sine differs between
# machines.
_COS_SIN = (
    (10000, 0),
    (8090, 5878),
    (3090, 9511),
    (-3090, 9511),
    (-8090, 5878),
    (-10000, 0),
    (-8090, -5878),
    (-3090, -9511),
    (3090, -9511),
    (8090, -5878),
)
CLASSES = [f"{36 * i} degrees" for i in range(10)]
MARK = 5  # a mark's side, px
_NOISE = 64  # grey values of the background: 96 … 159
_DISC = np.array(
    [[0, 1, 1, 1, 0], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [0, 1, 1, 1, 0]], dtype=bool
)
_LOW, _HIGH = 16, 240


def offsets(distance):
    """Displacement (row, column) in pixels of the second mark in each of the ten classes, integers, (10, 2);
    rows grow downwards."""
    table = np.array([(-s, c) for c, s in _COS_SIN], dtype=np.int64) * distance
    return (2 * table + 10000) // 20000  # rounded to the nearest pixel


def make_probe(n, *, image_size=64, distance=20, seed):
    """Make ``n`` probe images. The same arguments give the same bytes on every machine (integers and PCG64
    only).

    Args:
        n: number of images; classes are as equal in number as n allows, in random order.
        image_size: side S, px.
        distance: D, px, between the centres of the two marks; more than two marks' sides, less than S/2.
        seed: non-negative; use different ones for training and validation.

    Returns:
        images uint8 (n, S, S, 3) and labels int64 (n,), label i meaning a bearing of 36·i degrees.

    Raises:
        ValueError: for a distance at which marks touch or bearings are ambiguous, and for n or seed below
            zero.
    """
    if not 2 * MARK < distance < image_size / 2:
        raise ValueError(
            f"distance={distance}: must be more than {2 * MARK} and less than half the image_size {image_size}"
        )
    if n < 0 or seed < 0:
        raise ValueError(f"n={n}, seed={seed}: must not be negative")
    bits = np.random.PCG64(seed)
    labels = np.arange(n, dtype=np.int64) % 10
    labels = labels[np.argsort(bits.random_raw(n) if n else labels, kind="stable")]
    first = (
        (bits.random_raw(2 * n) % np.uint64(image_size)).astype(np.int64).reshape(n, 2)
        if n
        else np.zeros((0, 2), np.int64)
    )
    second = first + offsets(distance)[labels]
    words = -(-image_size * image_size // 8)
    images = np.empty((n, image_size, image_size, 3), dtype=np.uint8)
    rows, columns = np.nonzero(_DISC)
    for image, a, b in zip(images, first, second, strict=True):
        noise = bits.random_raw(words).astype("<u8").view(np.uint8)[: image_size * image_size]
        image[...] = (noise % _NOISE + (128 - _NOISE // 2)).reshape(image_size, image_size, 1)
        for (r, c), value in ((a, _HIGH), (b, _LOW)):
            image[(rows + r - MARK // 2) % image_size, (columns + c - MARK // 2) % image_size] = value
    return images, labels
