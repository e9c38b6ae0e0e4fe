"""Pieces of a trace: the numbers by which a record knows the code that made it (:mod:`ctxnet.records.key`)."""

import math
import random
import warnings
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
import torch

from ..data.loaders import IMAGENET_MEAN, IMAGENET_STD

PERIOD = 1_000_003  # of the weights' pattern: a prime, so that no two rows of a weight are alike


@contextmanager
def undisturbed():
    """Leave the generators of Python, NumPy and torch as they were, and hold back warnings: no one asked for this work."""
    python, arrays = random.getstate(), np.random.get_state()  # noqa: NPY002  fastai draws from the global generator
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(arrays)  # noqa: NPY002


def parameters(model):
    """What can be told of initial weights on every processor: [number, mean absolute value]."""
    weights = [p.detach().double().abs() for p in model.parameters()]
    number = sum(w.numel() for w in weights)
    return rounded([number, sum(w.sum().item() for w in weights) / max(number, 1)])


@torch.no_grad()
def refill(model):
    """Give a double-precision model weights of about their initial size, the same on every processor to the last bit.

    Initial ones differ in the last bit of single precision, and two training steps make a visible number of it. Constants,
    such as the gains of normalisation, stay.
    """
    values, start = _values(), 0
    for _, weight in sorted(model.named_parameters()):
        if weight.ndim > 1 and weight.min() != weight.max():
            bound, count = (6 / weight[0].numel()) ** 0.5, weight.numel()
            weight.copy_(bound * torch.cat([values[start:], values.repeat(count // PERIOD + 1)])[:count].view(weight.shape))
            start = (start + count) % PERIOD


@lru_cache
def _values():
    """:data:`PERIOD` numbers, uniform in -1 … 1."""
    whole = np.random.PCG64(0).random_raw(PERIOD) >> np.uint64(11)
    return torch.from_numpy(whole.astype(np.int64)).double() * 2.0**-52 - 1


def standardised(pixels):
    """uint8 (n, S, S, 3) images to normalised float64 (n, 3, S, S), exact where :func:`ctxnet.data.normalise` rounds."""
    mean, std = mean_std()
    return (torch.as_tensor(pixels).permute(0, 3, 1, 2).double() / 255 - mean) / std


def mean_std():
    return tuple(torch.tensor(v, dtype=torch.float64).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))


def moments(x):
    """Mean, mean absolute value and spread of a tensor, and its correlation with a fixed wave."""
    x = x.detach().double().flatten()
    wave = torch.arange(len(x), dtype=torch.float64).mul(0.7).sin()
    return rounded([x.mean().item(), x.abs().mean().item(), x.square().mean().sqrt().item(), (x * wave).mean().item()])


def measured(profile):
    """Numbers of a :class:`ctxnet.measure.ContextProfile`: ``distances`` in px, -1 without a gradient, and ``reach``, the
    share of the image in each receptive field."""
    return {
        "distances": rounded(profile.distance.nan_to_num(-1.0).tolist()),
        "reach": rounded(profile.rf.double().mean((-2, -1)).tolist()),
    }


def rounded(values):
    """Floats of nine digits; -1 in the place of what is not finite."""
    return [float(f"{value:.9g}") if math.isfinite(value) else -1.0 for value in map(float, values)]
