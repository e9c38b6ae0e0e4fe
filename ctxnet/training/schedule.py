"""The step schedule of thesis §4.2, and the seeds of an epoch."""

import hashlib
import random

import numpy as np
import torch


def learning_rate(protocol, epoch):
    """Rate of ``epoch`` (counted from 0): multiplied by ``decay_factor`` at each of ``decay_epochs`` reached."""
    return protocol.learning_rate * protocol.decay_factor ** sum(epoch >= start for start in protocol.decay_epochs)


def reseed(seed, epoch, loaders=()):
    """Seed every generator from (seed, epoch), so that an epoch's start is the only state a resumed run needs."""
    value = int.from_bytes(hashlib.sha256(f"{seed}/{epoch}".encode()).digest()[:4], "little")
    random.seed(value)
    np.random.seed(value)  # noqa: NPY002  fastai draws from the global generator
    torch.manual_seed(value)
    for loader in loaders:
        loader.rng = random.Random(value)
