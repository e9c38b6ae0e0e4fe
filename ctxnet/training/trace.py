"""The version of the code that makes a run, as numbers: what it computes on eight small images in two steps.

Everything a run is made of takes part: the variant under the protocol's settings, augmentation, loss, optimiser and
schedule, and the measurement of the trained network. Steps are in double precision, since rounding, which differs between
processors, would otherwise grow with the large gradients of an untrained network; they are taken on images that are not
augmented, since augmentation is in single precision. See :mod:`ctxnet.records.key`.
"""

import dataclasses
import random
import warnings
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
import torch
from fastai.callback.core import Callback

from ..data import loaders, probe
from ..data.loaders import IMAGENET_MEAN, IMAGENET_STD
from ..data.prepared import Prepared
from ..measure import context_profile
from .learner import build_learner
from .schedule import learning_rate, reseed
from .seeds import parse_seeds

IMAGES, CLASSES = 4, 10  # per batch
WIDTH, SIDE = 16, 128  # larger networks are traced at these
RATE, DECAY = 0.01, 0.1  # so that two steps show them
_cache = {}


def run_trace(protocol, variant):
    """The trace of a run, computed once per process.

    Returns:
        Dict of lists of floats: ``parameters`` (of the initial network: number, mean absolute value), ``rates``
        (learning rates at ten points of the run), ``augmented`` (moments of an augmented batch), ``losses`` (of two
        training steps and of the validation after them), ``distances`` (px, of the network then), ``reach`` (share
        of the image in each receptive field).
    """
    settings = dataclasses.asdict(protocol)
    for name in ("name", "seeds", "device", "cuda_graph"):
        del settings[name]
    key = (repr(sorted(settings.items())), variant)
    if key not in _cache:
        with _own_generators(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about maps without a gradient: that, too, is a number
            _cache[key] = _trace(protocol, variant)
    return _cache[key]


@lru_cache
def _images(side):
    """Eight images and their labels, of the probe set, at any side: uint8 (8, S, S, 3) and int64 (8,)."""
    pixels, labels = probe.make_probe(2 * IMAGES, image_size=max(side, 32), distance=12, seed=0)
    return np.ascontiguousarray(pixels[:, :side, :side]), labels


def _trace(protocol, variant):
    from .run import network

    side, width = min(protocol.image_size, SIDE), min(protocol.width, WIDTH)
    small = dataclasses.replace(
        protocol, image_size=side, width=width, batch_size=IMAGES, workers=0, device="cpu", cuda_graph=False, compile="",
        precision="float32", drop_rate=0.0, learning_rate=RATE, weight_decay=DECAY if protocol.weight_decay else 0.0,
    )  # fmt: skip
    pixels, labels = _images(side)
    ids = [f"{number}" for number in range(len(labels))]
    classes = [str(number) for number in range(CLASSES)]
    prepared = Prepared("trace", side, classes, "", {}, pixels, labels, ids, pixels, labels, ids)
    plain = {"image_size": side, "batch_size": IMAGES, "workers": 0, "seed": 0}
    augmentation = {"min_crop": protocol.min_crop, "max_rotate": protocol.max_rotate, "flip": protocol.flip}
    dls = loaders(prepared, min_crop=1.0, max_rotate=0.0, flip=False, **plain)
    model = network(small, variant, parse_seeds(0), num_classes=CLASSES).double()
    parameters = [float(sum(p.numel() for p in model.parameters())), _mean_size(model)]
    steps = _Steps()
    learner = build_learner(model, dls, small, cbs=[steps])
    reseed(0, 0, (dls.train, dls.valid))
    learner.validating = True
    if hasattr(learner, "step_rate"):
        learner.step_rate.epoch_number = 0
    learner.fit(1, lr=RATE)
    model.eval()
    profile = context_profile(model, _double(pixels[:2]))
    return {
        "parameters": _rounded(parameters),
        "rates": _rounded([learning_rate(protocol, epoch) for epoch in _some(protocol.epochs)]),
        "augmented": _rounded(_moments(loaders(prepared, **augmentation, **plain))),
        "losses": _rounded(steps.losses),
        "distances": _rounded(profile.distance.nan_to_num(-1.0).tolist()),
        "reach": _rounded(profile.rf.double().mean((-2, -1)).tolist()),
    }


class _Steps(Callback):
    """Whole steps in double precision: images exactly as their pixels say, and the loss of the network's own output."""

    order = 70

    def before_fit(self):
        self.losses, self.total, self.seen = [], 0.0, 0
        self.handle = self.learn.model.register_forward_hook(self._keep)

    def _keep(self, module, inputs, output):
        self.output = output

    def before_batch(self):
        mean, std = (torch.tensor(v).double().view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
        x = self.learn.xb[0].double()
        self.learn.xb = (((255 * (x * std + mean)).round() / 255 - mean) / std,)

    def after_pred(self):
        self.learn.pred = self.output  # the step's own is rounded to single precision

    def after_loss(self):
        self.losses.append(self.learn.loss_grad.item())

    def after_fit(self):
        self.handle.remove()


def _double(pixels):
    mean, std = (torch.tensor(v).double().view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (torch.from_numpy(pixels).permute(0, 3, 1, 2).double() / 255 - mean) / std


def _moments(dls):
    """Mean, spread and four correlations with fixed patterns of the first augmented batch."""
    reseed(0, 0, (dls.train,))
    x, y = next(iter(dls.train))
    x = x.double()
    rows, columns = (torch.linspace(-1, 1, x.shape[-1], dtype=torch.float64).view(shape) for shape in ((-1, 1), (1, -1)))
    patterns = (rows, columns, rows * columns, (6 * rows).cos() * (5 * columns).sin())
    seen = [(x * p).mean().item() for p in patterns]
    return [x.mean().item(), x.std().item(), *seen, float((y * torch.arange(len(y))).sum())]


def _mean_size(model):
    return torch.cat([p.detach().abs().flatten() for p in model.parameters()]).mean().item()


def _some(epochs):
    return sorted({round(part * (epochs - 1) / 9) for part in range(10)})


def _rounded(values):
    return [float(f"{value:.9g}") for value in values]


@contextmanager
def _own_generators():
    """Leave the generators of Python, NumPy and torch as they were."""
    python, arrays = random.getstate(), np.random.get_state()  # noqa: NPY002  fastai draws from the global generator
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(arrays)  # noqa: NPY002
