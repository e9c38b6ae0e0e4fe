"""The probe set: images whose class can only be told from context.

Each image shows two marks on noise, a yellow and a blue disc, and the class is the bearing, in ten steps of
36°, of the blue one from the yellow one, at a distance D. Positions wrap around the border, so in every
class each mark alone is spread evenly over the image: neither what is seen near one mark nor where it lies
says anything. A square window less than 0.8·D - MARK px wide never shows both marks, so a bag of such
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
MARK = 7  # diameter of a mark, px
_YELLOW, _BLUE = (240, 240, 16), (16, 16, 240)
_NOISE = 16  # the background is grey, 120 … 135


def offsets(distance):
    """(row, column) of the blue mark from the yellow one in each class, whole pixels; (10, 2), rows
    downwards."""
    table = np.stack([-_COS_SIN[:, 1], _COS_SIN[:, 0]], 1) * distance
    return (2 * table + 10000) // 20000  # rounded


def _disc():
    rows, columns = np.mgrid[:MARK, :MARK] - MARK // 2
    return np.nonzero(4 * (rows**2 + columns**2) <= MARK**2)


def make_probe(n, *, image_size=64, distance=20, seed):
    """Make ``n`` probe images. Equal arguments give equal bytes on every machine.

    Only integers and PCG64's raw bits are used.

    Args:
        n: number of images; the classes are as equal in number as n allows, in random order.
        image_size: side S, px.
        distance: D between the centres of the marks, px; more than MARK + 1 and less than S/2.
        seed: not negative; take different ones for training and validation.

    Returns:
        images uint8 (n, S, S, 3) and labels int64 (n,); label i is a bearing of 36·i degrees,
        counterclockwise from the right.

    Raises:
        ValueError: at a distance where marks touch or bearings become ambiguous; for n below 1 or seed
            below 0.
    """
    if not MARK + 1 < distance < image_size / 2:
        raise ValueError(
            f"distance={distance}: must be more than {MARK + 1} and less than half of image_size={image_size}"
        )
    if n < 1 or seed < 0:
        raise ValueError(f"n={n}, seed={seed}: n must be at least 1, seed at least 0")
    bits, area = np.random.PCG64(seed), image_size * image_size
    labels = (np.arange(n, dtype=np.int64) % 10)[np.argsort(bits.random_raw(n), kind="stable")]
    yellow = (bits.random_raw(2 * n) % np.uint64(image_size)).astype(np.int64).reshape(n, 2)
    blue = yellow + offsets(distance)[labels]
    disc = np.stack(_disc(), 1) - MARK // 2
    images = np.empty((n, image_size, image_size, 3), dtype=np.uint8)
    for image, *centres in zip(images, yellow, blue, strict=True):
        noise = bits.random_raw(-(-area // 8)).astype("<u8").view(np.uint8)[:area] % _NOISE
        image[...] = (128 - _NOISE // 2 + noise).reshape(image_size, image_size, 1)
        for centre, colour in zip(centres, (_YELLOW, _BLUE), strict=True):
            rows, columns = ((disc + centre) % image_size).T
            image[rows, columns] = colour
    return images, labels
