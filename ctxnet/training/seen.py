"""What a pixel of the output needs of its image: measured on a trained network that gives every pixel a class.

Two answers for each class. *Where its score comes from*: the mean distance of the effective receptive field of the class'
score at a pixel of that class. *How much must be visible*: the share of right answers at pixels of the class when everything
outside a square around the pixel is replaced by the mean colour, which is zero after normalisation.
"""

import numpy as np
import torch
from torch import nn

from ..data import normalise
from ..measure import effective_receptive_field, mean_distance

SIDES = (15, 47, 95, 191)  # px, of the visible square
PIXELS = 8  # of each class whose answer is asked for, at most one of a frame
FRAMES = 2  # of each class over which an effective receptive field is averaged
BATCH = 16


class ClassScore(nn.Module):
    """The score of one class at every pixel, under the name ``pixel``."""

    def __init__(self, model, number):
        super().__init__()
        self.model, self.number, self.pixel = model, number, nn.Identity()

    def forward(self, x):
        return self.pixel(self.model(x)[:, self.number : self.number + 1])


def seen(model, prepared):
    """What :func:`doses` and :func:`class_distances` find, as fields of a record.

    Args:
        model: in eval mode, on a CPU or GPU.
        prepared: frames and masks; the validation frames are used.
    """
    sides, right, pixels = doses(model, prepared)
    shown = dict(zip(prepared.classes, right, strict=True))
    return {"dose": {"side": sides, "pixels": pixels, **shown}, "class_distance": class_distances(model, prepared)}


def some_pixels(masks, number, count=PIXELS):
    """Pixels of one class, [(frame, row, column)], one of each of ``count`` frames that have it, at equal distances.

    It is the middle one, in reading order, of all pixels of the class in that frame: nothing is drawn.
    """
    frames = np.flatnonzero((masks == number).any((1, 2)))
    chosen = frames[np.linspace(0, len(frames) - 1, min(count, len(frames))).astype(int)] if len(frames) else []
    found = []
    for frame in chosen:
        places = np.argwhere(masks[frame] == number)
        found.append((int(frame), *map(int, places[len(places) // 2])))
    return found


@torch.no_grad()
def doses(model, prepared, sides=SIDES):
    """The share of right answers by class and visible square.

    Returns:
        (sides, right, pixels): the sides with 0 for the whole image, per class a list of shares (None without a pixel), and
        the number of pixels asked for of each class.
    """
    device = next(model.parameters()).device
    right, pixels = [], []
    for number in range(len(prepared.classes)):
        asked = some_pixels(prepared.valid_labels, number)
        pixels.append(len(asked))
        right.append([_share(model, prepared, asked, number, side, device) for side in (*sides, 0)])
    return [*sides, 0], right, pixels


def _share(model, prepared, asked, number, side, device):
    hits = 0
    for start in range(0, len(asked), BATCH):
        part = asked[start : start + BATCH]
        images = normalise(prepared.valid_images[[frame for frame, *_ in part]]).to(device)
        if side:
            places = [(row, column) for _, row, column in part]
            images = torch.stack([only_around(x, *place, side) for x, place in zip(images, places, strict=True)])
        answers = model(images).argmax(1)
        hits += sum(int(answer[row, column]) == number for answer, (_, row, column) in zip(answers, part, strict=True))
    return hits / len(asked) if asked else None


def only_around(image, row, column, side):
    """An image (C, H, W) that is zero outside the square of ``side`` px around a pixel."""
    half, seen = side // 2, torch.zeros_like(image)
    rows, columns = (slice(max(0, middle - half), middle + half + 1) for middle in (row, column))
    seen[:, rows, columns] = image[:, rows, columns]
    return seen


def class_distances(model, prepared):
    """Mean distance in px, by class, of the effective receptive field of the class' score at a pixel of the class.

    The pixel is the one in the middle half of the image, in both directions, that is of the class in the most frames; the
    field is averaged over up to :data:`FRAMES` of them. None where no frame has the class there, or the score no gradient.
    """
    masks = prepared.valid_labels
    height, width = masks.shape[1:]
    top, left = height // 4, width // 4
    found = []
    for number in range(len(prepared.classes)):
        counts = (masks[:, top : height - top, left : width - left] == number).sum(0)
        if not counts.any():
            found.append(None)
            continue
        row, column = (int(place) for place in np.unravel_index(counts.argmax(), counts.shape))
        row, column = row + top, column + left
        frames = np.flatnonzero(masks[:, row, column] == number)
        frames = frames[np.linspace(0, len(frames) - 1, min(FRAMES, len(frames))).astype(int)]
        images = normalise(prepared.valid_images[frames])
        try:
            erf = effective_receptive_field(ClassScore(model, number), images, "pixel", position=(row, column))
            found.append(float(mean_distance(erf, (row, column))))
        except ValueError:  # a score that no longer depends on the image
            found.append(None)
    return found
