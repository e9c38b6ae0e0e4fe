"""Gains that training starts near zero, set to one, so that a network at initialisation shows all of its wiring."""

import re

import torch

SMALL = 0.5  # gains up to this size count as switched off at first

# What is zero at first for other reasons: added terms, positions, tokens, tables, temperatures.
_STACKED = re.compile(r"gamma|alpha|scale", re.IGNORECASE)  # names of gains that lie several rows to a tensor
_NO_GAIN = re.compile(r"bias|token|pos|embed|beta|table|mean|logit|tau|temp|shift|query|latent|mask|prompt", re.IGNORECASE)


@torch.no_grad()
def open_gains(model):
    """Set every gain of a residual branch that starts at (nearly) zero to one; gives their earlier values by name.

    A gain is a floating parameter with one value per channel, or one in all, whose values are equal and at most
    :data:`SMALL`, zero included: the last normalisation of a ResNet's block under ``zero_init_last``, layer scale (10⁻⁶ …
    0.1), the gain of a skip initialisation, that of a global response normalisation. With them a fresh network is its
    shortcuts and downsampling alone, whatever its blocks look at, and some libraries choose so and others do not. Biases,
    positions and tokens stay.

    Args:
        model: an ``nn.Module`` with initial weights; changed in place. :func:`close_gains` undoes it.

    Returns:
        dict from the parameter's name to its value before, a float.
    """
    found = {}
    for name, weight in model.named_parameters():
        last = name.rpartition(".")[2]
        per_channel = weight.numel() == max(weight.shape, default=1) or (weight.ndim == 2 and _STACKED.search(last))
        if not (weight.is_floating_point() and weight.numel() and per_channel) or _NO_GAIN.search(last):
            continue
        value = weight.flatten()[0].item()
        if abs(value) <= SMALL and bool((weight == value).all()):
            found[name] = value
            weight.fill_(1.0)
    return found


@torch.no_grad()
def close_gains(model, values):
    """Give the gains that :func:`open_gains` opened their earlier values."""
    parameters = dict(model.named_parameters())
    for name, value in values.items():
        parameters[name].fill_(value)
