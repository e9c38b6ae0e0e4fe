"""Learning rates of thesis §4.2 and of the cosine schedule, and the seeds of an epoch."""

import hashlib
import math
import random

import numpy as np
import torch


def learning_rate(protocol, epoch):
    """Rate at ``epoch`` (counted from 0).

    "step" multiplies by ``decay_factor`` at each of ``decay_epochs`` reached; "cosine" falls to zero over the epochs
    after the warm-up (Loshchilov and Hutter 2017, arXiv:1608.03983, without restarts). Both are fixed within an epoch.
    "linear" changes with every step, so ``epoch`` has a fraction: it rises over ``warmup_epochs`` and falls to zero at
    the end. A warm-up always rises linearly.
    """
    warmup = protocol.warmup_epochs
    if protocol.schedule == "linear":
        rising = epoch / warmup if warmup else 1.0
        return protocol.learning_rate * min(rising, (protocol.epochs - epoch) / (protocol.epochs - warmup))
    if epoch < warmup:
        return protocol.learning_rate * (epoch + 1) / (warmup + 1)
    if protocol.schedule == "cosine":
        return protocol.learning_rate * (1 + math.cos(math.pi * (epoch - warmup) / (protocol.epochs - warmup))) / 2
    return protocol.learning_rate * protocol.decay_factor ** sum(epoch >= start for start in protocol.decay_epochs)


def reseed(seed, epoch, loaders=()):
    """Seed every generator from (seed, epoch), so that an epoch's start is the only state a resumed run needs."""
    value = int.from_bytes(hashlib.sha256(f"{seed}/{epoch}".encode()).digest()[:4], "little")
    random.seed(value)
    np.random.seed(value)  # noqa: NPY002  fastai draws from the global generator
    torch.manual_seed(value)
    for loader in loaders:
        loader.rng = random.Random(value)
