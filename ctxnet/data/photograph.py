"""One photograph that every machine has: Rear Admiral Grace Hopper, by the United States Navy, in the public domain."""

import numpy as np
from PIL import Image

from ctxnet.extras import require


def photograph(size):
    """uint8 (size, size, 3): the upper square of the portrait that comes with matplotlib, resampled to ``size`` px.

    Raises:
        ValueError: for a size below 1.
    """
    require("plot", user="photograph()")
    from matplotlib.cbook import get_sample_data

    if size < 1:
        raise ValueError(f"size={size} must be at least 1")
    with Image.open(get_sample_data("grace_hopper.jpg", asfileobj=False)) as image:
        side = min(image.size)
        left = (image.width - side) // 2
        square = image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR, (left, 0, left + side, side))
    return np.asarray(square)
