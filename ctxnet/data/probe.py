"""The probe set: images whose class can only be told from context.

Each image shows two marks on noise, a yellow and a blue disc, and the class is the bearing, in ten steps of
36°, of the blue one from the yellow one, at a distance D. Positions wrap around the border, so in every
class each mark alone is spread evenly over the image: neither what is seen near one mark nor where it lies
says anything. A square window less than 0.8·D - ``mark`` px wide never shows both marks, so a bag of such
windows, taken at every position, stays at chance however it is weighed. What a network knows about where
its windows are (by zero padding, or modulo its stride) is context of another kind: from it, two separate
sightings can be combined, and a bag of 8 px windows taken every 4 px was right in 15 % of cases.
"""

import numpy as np

# 10^4 · (cos, sin) of 0°, 36° … 324°. A table, because math libraries differ in the last bit of a sine.
_COS_SIN = np.array(
    [
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
    ]
)
CLASSES = [f"{36 * i} degrees" for i in range(10)]
VERSION = 1  # to be raised with every change of the images, so that prepared sets are made again
MARK = 7  # diameter of a mark, px, unless told
_YELLOW, _BLUE = (240, 240, 16), (16, 16, 240)
_NOISE = 16  # the background is grey, 120 … 135


def offsets(distance):
    """(row, column) of the blue mark from the yellow one in each class, whole pixels; (10, 2), rows
    downwards."""
    table = np.stack([-_COS_SIN[:, 1], _COS_SIN[:, 0]], 1) * distance
    return (2 * table + 10000) // 20000  # rounded


def _disc(mark):
    """(row, column) of its pixels from its centre."""
    rows, columns = np.mgrid[:mark, :mark] - mark // 2
    return np.stack(np.nonzero(4 * (rows**2 + columns**2) <= mark**2), 1) - mark // 2


def require_distance(distance, image_size, mark=MARK, where="distance"):
    """``distance`` if an image of that side can hold such marks so far apart: none touches another, no bearing is ambiguous.

    Raises:
        ValueError: in one line with the nearest valid value.
    """
    if mark < 3 or mark % 2 == 0:
        raise ValueError(f"mark={mark}: a disc's diameter is odd and at least 3; nearest valid value: {max(3, mark + 1)}")
    largest = (image_size - 1) // 2
    if largest <= mark:
        raise ValueError(f"image_size={image_size}: too small for two marks of {mark} px; at least {2 * mark + 3}")
    if not mark < distance <= largest:
        raise ValueError(
            f"{where}={distance}: marks of {mark} px must be more than {mark} px apart and less than half of "
            f"image_size={image_size}; nearest valid value: {largest if distance > largest else mark + 1}"
        )
    return distance


def make_probe(n, *, image_size=64, distance=20, mark=MARK, seed):
    """Make ``n`` probe images. Equal arguments give equal bytes on every machine.

    Only integers and PCG64's raw bits are used.

    Args:
        n: number of images; the classes are as equal in number as n allows, in random order.
        image_size: side S, px.
        distance: D between the centres of the marks, px; more than ``mark`` and less than S/2.
        mark: diameter of a mark, px; odd, at least 3. Small ones fit closer together.
        seed: not negative; take different ones for training and validation.

    Returns:
        images uint8 (n, S, S, 3) and labels int64 (n,); label i is a bearing of 36·i degrees,
        counterclockwise from the right.

    Raises:
        ValueError: at a distance where marks touch or bearings become ambiguous; for n below 1 or seed
            below 0.
    """
    require_distance(distance, image_size, mark)
    if n < 1 or seed < 0:
        raise ValueError(f"n={n}, seed={seed}: n must be at least 1, seed at least 0")
    bits, area = np.random.PCG64(seed), image_size * image_size
    labels = (np.arange(n, dtype=np.int64) % 10)[np.argsort(bits.random_raw(n), kind="stable")]
    yellow = (bits.random_raw(2 * n) % np.uint64(image_size)).astype(np.int64).reshape(n, 2)
    blue = yellow + offsets(distance)[labels]
    disc = _disc(mark)
    images = np.empty((n, image_size, image_size, 3), dtype=np.uint8)
    for image, *centres in zip(images, yellow, blue, strict=True):
        noise = bits.random_raw(-(-area // 8)).astype("<u8").view(np.uint8)[:area] % _NOISE
        image[...] = (128 - _NOISE // 2 + noise).reshape(image_size, image_size, 1)
        for centre, colour in zip(centres, (_YELLOW, _BLUE), strict=True):
            rows, columns = ((disc + centre) % image_size).T
            image[rows, columns] = colour
    return images, labels


def read_probe(images, distance):
    """The labels as a perfect reader tells them from the marks: accuracy 1 by construction, the upper line of figures.

    For every bearing it counts the yellow pixels that have a blue one at that offset, around the border. At the true one
    these are all pixels of a mark, at any other one fewer, since the marks are equal discs and no two offsets are equal.

    Args:
        images: uint8 (n, S, S, 3) from :func:`make_probe`, with that ``distance``.

    Returns:
        int64 (n,).
    """
    yellow, blue = ((images[..., channel] > 200) & (images[..., 2 - channel] < 60) for channel in (0, 2))
    pairs = [(yellow & np.roll(blue, tuple(-offset), (1, 2))).sum((1, 2)) for offset in offsets(distance)]
    return np.argmax(pairs, 0)
