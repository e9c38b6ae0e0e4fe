"""The version of the code behind a record, as numbers: what it computes on a few small images.

Everything a run is made of takes part: the variant under the protocol's settings, augmentation, loss, optimiser and
schedule, and the measurement of the trained network. Steps are in double precision, since rounding, which differs between
processors, would otherwise grow with the large gradients of an untrained network; they are taken on images that are not
augmented, since augmentation is in single precision. See :mod:`ctxnet.records.key`.
"""

import dataclasses
from functools import lru_cache

import numpy as np
import torch
from fastai.callback.core import Callback

from ..data import loaders, probe
from ..data.camvid import VOID
from ..data.prepared import Prepared
from ..measure import calibrate, context_profile, profile_lattice
from ..records.traces import mean_std, measured, moments, parameters, refill, rounded, standardised, undisturbed
from .context import initial_network, shown_layers
from .learner import build_learner
from .protocol import NO_IDENTITY, Measure
from .schedule import learning_rate, reseed
from .seeds import parse_seeds

IMAGES, CLASSES = 4, 10  # images per batch
WIDTH, SIDE = 16, 128  # larger networks are traced at these
RATE, DECAY = 0.001, 0.1  # so that two steps show them, and do not blow up
_runs = {}


def run_trace(protocol, variant):
    """The trace of a run, computed once per process; a second or two.

    Returns:
        Dict of lists of floats: ``parameters`` (of the initial network: number, mean absolute value), ``rates``
        (learning rates at ten points of the run), ``augmented`` (moments of an augmented batch), ``losses`` (of two
        training steps and of the validation after them), ``distances`` and ``reach`` of the network then
        (:func:`ctxnet.records.traces.measured`).
    """
    settings = dataclasses.asdict(protocol)
    for name in (*NO_IDENTITY, "profile_images", "validate_every"):
        del settings[name]
    key = repr(sorted(settings.items())), variant
    if key not in _runs:
        with undisturbed():
            _runs[key] = _run_trace(protocol, variant)
    return _runs[key]


@lru_cache
def measure_trace(variant, places=0):
    """The trace of a network measured at initialisation: of a small one of the same row, computed once per process.

    Args:
        places: also at so many positions per side, as for :func:`ctxnet.training.measure_lattice`.

    Returns:
        Dict of lists of floats: ``parameters``, ``distances`` and ``reach`` as for :func:`run_trace`, ``places``
        (distances of the last block).
    """
    small = Measure(image_size=64, width=WIDTH, images=2, summed_images=1, seed=0)
    with undisturbed():
        model, _ = initial_network(variant, small)
        found = {"parameters": parameters(model)}
        refill(model.double())
        images = standardised(_images(small.image_size)[0][: small.images])
        calibrate(model, images)
        layers = shown_layers(model, variant)
        found |= measured(context_profile(model, images, layers))
        if places:
            profiles = (profile for _, profile in profile_lattice(model, images, places, layers))
            found["places"] = rounded([profile.distance[-1] for profile in profiles])
        return found


@lru_cache
def _images(side):
    """Eight images and their labels, of the probe set, at any side: uint8 (8, S, S, 3) and int64 (8,)."""
    pixels, labels = probe.make_probe(2 * IMAGES, image_size=max(side, 32), distance=12, seed=0)
    return np.ascontiguousarray(pixels[:, :side, :side]), labels


def _run_trace(protocol, variant):
    from .run import network

    side = min(protocol.image_size, SIDE)
    small = dataclasses.replace(
        protocol, image_size=side, width=min(protocol.width, WIDTH), batch_size=IMAGES, workers=0, device="cpu",
        cuda_graph=False, compile="", precision="float32", drop_rate=0.0, drop_path=0.0,
        learning_rate=RATE, weight_decay=DECAY if protocol.weight_decay else 0.0,
    )  # fmt: skip
    pixels, labels = _images(side)
    ids = [str(number) for number in range(len(labels))]
    classes = [str(number) for number in range(CLASSES)]
    if protocol.task == "segmentation":  # a class for every pixel, by its brightness; the brightest are void
        shade = pixels.sum(-1, dtype=np.int64) * (CLASSES + 1) // (3 * 255 + 1)
        labels = np.where(shade == CLASSES, VOID, shade).astype(np.uint8)
    prepared = Prepared("trace", side, classes, "", {}, pixels, labels, ids, pixels, labels, ids)
    sizes = {"image_size": side, "batch_size": IMAGES, "workers": 0, "seed": 0}
    augmentation = {"min_crop": protocol.min_crop, "max_rotate": protocol.max_rotate, "flip": protocol.flip}

    dls = loaders(prepared, **augmentation, **sizes)
    reseed(0, 0, (dls.train,))
    augmented, order = next(iter(dls.train))
    found = {
        "rates": rounded(learning_rate(protocol, epoch) for epoch in _some(protocol.epochs)),
        # the nearest pixel of a mask can be another one where rounding differs, so that less is said of masks
        "augmented": [*moments(augmented), *(moments(order) if order.ndim == 1 else [round(v, 1) for v in moments(order)])],
    }
    dls = loaders(prepared, min_crop=1.0, max_rotate=0.0, flip=False, **sizes)
    model = network(small, variant, parse_seeds(0), num_classes=CLASSES)
    found["parameters"] = parameters(model)
    refill(model.double())
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    steps = _Steps()
    learner = build_learner(model, dls, small, cbs=[steps])
    reseed(0, 0, (dls.train, dls.valid))
    learner.fit(1, lr=RATE)
    found["losses"] = rounded(steps.losses)
    return found | measured(context_profile(model.eval(), standardised(pixels[:2])))


class _Steps(Callback):
    """Whole steps in double precision: images exactly as their pixels say, and the loss of the network's own output."""

    order = 70

    def before_fit(self):
        self.losses = []
        self.handle = self.learn.model.register_forward_hook(self._keep)

    def _keep(self, module, inputs, output):
        self.output = output

    def before_batch(self):
        mean, std = mean_std()
        pixels = (255 * (self.learn.xb[0].double() * std + mean)).round()
        self.learn.xb = ((pixels / 255 - mean) / std,)

    def after_pred(self):
        self.learn.pred = self.output  # the step's own is rounded to single precision

    def after_loss(self):
        self.losses.append(self.learn.loss_grad.item())

    def after_fit(self):
        self.handle.remove()


def _some(epochs):
    return sorted({round(part * (epochs - 1) / 9) for part in range(10)})
