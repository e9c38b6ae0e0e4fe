"""What a network is asked: one class for an image, or one for every pixel of it. A protocol names its task.

A task says which rows there are and how they are built, what is learned and judged, and what of the answers a record keeps.
"""

from functools import partial

import torch
import torch.nn.functional as F

from ..data.camvid import VOID
from ..models import create_model, create_segmenter, list_models, list_segmenters
from ..models.segmentation import SEGMENTERS, crop_scale
from ..records import encode_counts, encode_predictions, frame_counts, scores, write_frames, write_images
from .seen import seen


class Classification:
    """One class per image, judged by top-1."""

    score, title = "top1", "top-1"
    judge = staticmethod(F.cross_entropy)

    def rows(self):
        return list_models()

    def backbone(self, variant):
        return variant

    def create(self, variant, protocol, **chosen):
        return create_model(variant, **chosen)

    def loss(self, smoothing):
        return torch.nn.CrossEntropyLoss(label_smoothing=smoothing)

    def mean(self, predicted, labels, classes):
        return float((predicted == labels).double().mean())

    def kept(self, protocol, prepared, keeper, results):
        """(files, fields) of a record: the answers, and where the images are named."""
        images = write_images(protocol.name, prepared.valid_ids, keeper.labels.tolist(), results)
        return {"predictions.bin": encode_predictions(keeper.predicted)}, {"images": images}

    def scores(self, history, keeper, classes):
        return {"top1": history[-1][4], "top1_best": max(row[4] for row in history if row[4] is not None)}


class Segmentation:
    """One class per pixel, judged by intersection over union, its mean over classes. Void is neither learned nor judged."""

    score, title = "mean_iou", "mean IoU"
    judge = staticmethod(partial(F.cross_entropy, ignore_index=VOID))

    def rows(self):
        return list_segmenters()

    def backbone(self, variant):
        return SEGMENTERS[variant][1]

    def create(self, variant, protocol, **chosen):
        if protocol.scale_offsets:
            chosen["rate_scale"] = crop_scale(protocol.image_size)
        return create_segmenter(variant, **chosen)

    def loss(self, smoothing):
        return torch.nn.CrossEntropyLoss(label_smoothing=smoothing, ignore_index=VOID)

    def mean(self, predicted, labels, classes):
        return scores(frame_counts(predicted.numpy(), labels.numpy(), classes))["mean_iou"]

    def kept(self, protocol, prepared, keeper, results):
        counts = frame_counts(keeper.predicted.numpy(), keeper.labels.numpy(), len(prepared.classes))
        frames = write_frames(protocol.name, prepared.valid_ids, counts, results)
        return {"counts.bin": encode_counts(counts)}, {"images": frames}

    def seen(self, model, prepared):
        """Further fields of a record, measured on the trained network."""
        return seen(model, prepared)

    def scores(self, history, keeper, classes):
        return scores(frame_counts(keeper.predicted.numpy(), keeper.labels.numpy(), classes))


TASKS = {"classification": Classification(), "segmentation": Segmentation()}
