"""What the atlas knows of one network: cost, receptive field and effective receptive field, block by block."""

import math
import time
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..data import normalise, probe
from ..measure import ContextProfile, calibrate, residual_blocks
from ..measure.profile import profile_and_reach
from ..measure.summary import erf_share, rf_side
from .probing import probe_field

SHARES = (0.5, 0.9, 0.99)  # parts of the effective receptive field whose pixels are counted
DEPTHS = 4  # stages that are shown


@dataclass
class Measurement:
    """One network.

    Attributes:
        values: JSON-able dict of cost, layers and numbers per layer; see :func:`measure`.
        profile: :class:`ctxnet.measure.ContextProfile` of all measured layers.
    """

    values: dict
    profile: ContextProfile


def measure(model, input_size=224, *, layers=None, images=2, seed=0, fresh=True):
    """Measure any network on the footing of the atlas.

    The images are the probe set's, which every machine can make. The middle feature of every layer is measured.

    Args:
        model: any ``nn.Module`` that takes images (N, C, S, S), C = 1 or 3. With ``fresh`` its batch normalisation is
            given the statistics of the images; otherwise it is left as it was.
        input_size: side S in pixels.
        layers: names as in ``model.named_modules()``; None: ``ctxnet.measure.residual_blocks(model)``.
        images, seed: how many probe images, and which.
        fresh: the network has not been trained, so that the statistics of its normalisation mean nothing yet.

    Returns:
        :class:`Measurement`. ``values`` holds ``parameters``, ``multiply_adds`` (see :func:`multiply_adds`), ``size``,
        ``layers`` and, with one entry per layer: ``map`` (side of the feature map; "rows×columns" if not square),
        ``rf_side`` (longer side in px of the box around the receptive field), ``rf_share`` (of the image's pixels),
        ``rf_exact``, ``distance`` (mean, px), ``erf_share`` (see :func:`erf_share`; a list per part of :data:`SHARES`).
        A layer without any gradient has the distance None and the shares None.

    Raises:
        ValueError, NotImplementedError: as :func:`ctxnet.context_profile`.
        RuntimeError: the network itself, asked pixel by pixel, disagrees with a receptive field.
    """
    batch = probe_images(model, input_size, images, seed)
    layers = residual_blocks(model) if layers is None else list(layers)
    if fresh:
        calibrate(model, batch)
    model.eval()
    profile, reach = profile_and_reach(model, batch, layers)
    _require_agreement(model, reach, profile)
    grids = reach.grids.values()
    shares = [[erf_share(erf, part) if erf.any() else None for erf in profile.erf] for part in SHARES]
    values = {
        "size": input_size,
        "parameters": sum(p.numel() for p in model.parameters()),
        "multiply_adds": multiply_adds(model, batch[:1]),
        "layers": layers,
        "map": [grid.height if grid.height == grid.width else f"{grid.height}×{grid.width}" for grid in grids],
        "rf_side": [rf_side(mask) for mask in profile.rf],
        "rf_share": [round(float(mask.double().mean()), 6) for mask in profile.rf],
        "rf_exact": [bool(exact) for exact in profile.exact],
        "distance": [None if math.isnan(d) else round(d, 4) for d in profile.distance.tolist()],
        "erf_share": {f"{part:g}": share for part, share in zip(SHARES, shares, strict=True)},
    }
    return Measurement(values, profile)


def _require_agreement(model, reach, profile):
    """Ask the network whether its last field, and its last one that is not the whole image, are right."""
    last = len(profile.layers) - 1
    inner = [i for i, mask in enumerate(profile.rf) if not mask.all()]
    for i in sorted({last, *inner[-1:]}):
        found = probe_field(model, reach, profile.layers[i], profile.rf[i], bool(profile.exact[i]))
        if found["wrong"]:
            raise RuntimeError(
                f"layer {profile.layers[i]!r} disagrees with its receptive field at {found['wrong']} of {found['probes']}"
                " pixels: an error of the measures; please report it with the network's name"
            )


def probe_images(model, input_size, count, seed=0):
    """Normalised probe images (count, C, S, S), grey (the mean of the channels) where the model takes one channel.

    Raises:
        ValueError: for a model of another number of channels, or images of less than 20 px.
    """
    channels = next((m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d)), 3)
    if channels not in (1, 3):
        raise ValueError(f"{type(model).__name__} takes {channels} channels; the probe images have 3 (or 1, as grey)")
    if input_size < 20:
        raise ValueError(f"input_size={input_size} is too small for the probe images; nearest valid value: 20")
    distance = min(20, (input_size - 1) // 2)  # the two marks must fit into a small image
    pixels, _ = probe.make_probe(count, image_size=input_size, distance=distance, seed=seed)
    images = normalise(pixels)
    return images if channels == 3 else images.mean(1, keepdim=True)


def multiply_adds(model, image):
    """Multiply-adds of one forward pass over ``image`` (1, C, H, W), in eval mode.

    Convention: one multiplication with its addition counts once. Convolutions (transposed ones too) and matrix products
    count, attention's included; normalisation, activations, pooling, additions and moves of data do not.
    """
    counter = FlopCounterMode(display=False, custom_mapping=_ATTENTION)
    learned = [weight for weight in model.parameters() if weight.requires_grad]
    try:
        for weight in learned:  # the counter stumbles over a view of one that wants a gradient
            weight.requires_grad_(False)
        with torch.no_grad(), counter:
            model.eval()(image)
    finally:
        for weight in learned:
            weight.requires_grad_(True)
    return counter.get_total_flops() // 2  # it counts multiplication and addition


def _attention_flops(query, key, value, *args, out_shape=None, **kwargs):
    batch, heads, queries, depth = query
    return 2 * batch * heads * queries * key[-2] * (depth + value[-1])


# torch counts attention on a GPU; on a CPU it has no formula for it and would count nothing.
_ATTENTION = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}


def stages(maps):
    """Indices of the layers that end a stage: the last of every run of equal map size.

    A network that keeps its resolution has fewer than four of them; then the layers at a quarter, half, three
    quarters and the end of its depth stand for its stages.

    Args:
        maps: side of the feature map, per layer.
    """
    ends = [i for i, size in enumerate(maps) if i + 1 == len(maps) or maps[i + 1] != size]
    if len(ends) >= DEPTHS:
        return ends
    return sorted({max(0, math.ceil(len(maps) * (i + 1) / DEPTHS) - 1) for i in range(DEPTHS)})


def shown_stages(maps):
    """At most four of :func:`stages`, evenly chosen, with the first and the last among them."""
    return evenly(stages(maps), DEPTHS)


def evenly(items, most):
    """At most ``most`` of a list, evenly spread, with both ends."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def throughput(model, images, *, seconds=0.5):
    """Images per second of forward passes over ``images``, the best of at least two and at most ``seconds`` of them."""
    best, spent, passes = math.inf, 0.0, 0
    model.eval()
    with torch.no_grad():
        while passes < 2 or spent < seconds:
            start = time.perf_counter()
            model(images)
            took = time.perf_counter() - start
            best, spent, passes = min(best, took), spent + took, passes + 1
    return len(images) / best
