"""Context profiles of networks: the trained one at the end of a run, and the full-size one at initialisation."""

import dataclasses
import math
import time
from pathlib import Path

import numpy as np

from .. import provenance
from ..data import normalise, probe
from ..files import remove_partials
from ..locking import one_writer
from ..measure import ContextProfile, calibrate, context_profile, residual_blocks, summed_erf
from ..measure.summary import erf_share
from ..models import create_model, create_segmenter
from ..models.segmentation import SEGMENTERS, crop_scale
from ..naming import require_known
from ..records import encode_profile, reusable, write_record
from .protocol import load_measure

# Appendix B of the thesis sums the effective receptive fields of these networks over all final positions.
SUMMED = ("resnet50", "hrnet_w18", "convnext_tiny", "vit_base_patch16_224")
CELLS, LEVELS = 112, 100  # of the stored maps: finer than those of the many runs
SHARES = (0.5, 0.9, 0.99)  # parts of an effective receptive field whose pixels are counted


def profile_images(prepared, count):
    """The first images of every class of the validation set in turn, ``count`` of them: float32 (count, 3, H, W).

    Of frames with masks: ``count`` of them at equal distances.
    """
    labels = np.asarray(prepared.valid_labels)
    if labels.ndim > 1:
        return normalise(prepared.valid_images[np.linspace(0, len(labels) - 1, min(count, len(labels))).astype(int)])
    rank = np.zeros(len(labels), dtype=int)
    for label in np.unique(labels):
        rank[labels == label] = np.arange((labels == label).sum())
    chosen = np.lexsort((labels, rank))[:count]
    return normalise(np.asarray(prepared.valid_images[np.sort(chosen)]))


def trained_profile(model, variant, images):
    """The context profile of a trained network, with the sum over all final positions where appendix B shows it."""
    profile = context_profile(model, images)
    if variant in SUMMED:
        profile.summed = summed_erf(model, images)
    return profile


def shares(profile):
    """Numbers of a profile's full maps for its record: the shares of the pixels that hold 50, 90 and 99 % of each
    effective receptive field, float64 (L,), NaN without a gradient."""
    return {
        f"erf{100 * part:g}_share": [erf_share(erf, part) if erf.any() else math.nan for erf in profile.erf]
        for part in SHARES
    }


def encode_run(profile, maps):
    """The bytes of a trained network's profile as its run keeps it.

    Args:
        maps: "blocks" for the maps of all its layers, or "stages" for those of each stage's last block: enough where
            there are many runs and no figure shows more. Numbers are kept of all layers, mean distances too.
    """
    numbers = shares(profile)
    if maps == "stages":
        numbers |= {"mean_distance": profile.distance.tolist()}
        profile = profile.only([profile.layers.index(name) for name in stage_ends(profile.layers)])
    return encode_profile(profile, numbers=numbers)


def stage_ends(blocks):
    """The last of the blocks of each stage, by their names: of ``layer1.0``, ``layer1.1``, ``layer2.0`` the latter two."""
    return list({name.rpartition(".")[0]: name for name in blocks}.values())


def initial_network(variant, settings):
    """The network of ``settings`` (:class:`ctxnet.training.Measure`) before training, and the images it was calibrated on.

    The images are those of the probe set, which every machine can make. Batch normalisation takes its statistics
    from them, as it would in the first step of training; without that, activations double block by block.

    Args:
        variant: one of ``ctxnet.list_models()`` or of ``ctxnet.list_segmenters()``; the rates of the latter shrink with the
            image, as where they are trained.

    Returns:
        (model, float32 images (N, 3, S, S)).
    """
    chosen = {"seed": settings.seed, "width": settings.width, "input_size": settings.image_size}
    if variant in SEGMENTERS:
        model = create_segmenter(variant, rate_scale=crop_scale(settings.image_size), **chosen)
    else:
        model = create_model(variant, **chosen)
    pixels, _ = probe.make_probe(settings.images, image_size=settings.image_size, seed=settings.seed)
    images = normalise(pixels)
    calibrate(model, images)
    return model, images


def shown_layers(model, variant):
    """The layers of :func:`initial_network` that are shown: residual blocks; of a network that answers for every pixel the
    last block of each stage, and the output."""
    blocks = residual_blocks(model)
    if variant not in SEGMENTERS:
        return blocks
    return [*stage_ends(blocks), "pixel"]


def measure_variant(variant, path="params.yaml", *, root="."):
    """Measure the full-size network at initialisation into ``results/measure/<variant>/``, once per setting.

    The images are those of :func:`initial_network`.

    Returns:
        Path of the folder.
    """
    from .. import list_models
    from .trace import measure_trace

    root = Path(root)
    settings = load_measure(root / path)
    require_known("variant", variant, list_models())
    folder = root / "results" / "measure" / variant
    key = {"settings": dataclasses.asdict(settings), "trace": measure_trace(variant)}
    with one_writer(folder):
        remove_partials(folder)
        if reusable(folder, key):
            return folder
        started = time.perf_counter()
        model, images = initial_network(variant, settings)
        profile = context_profile(model, images)
        if variant in SUMMED:
            profile.summed = summed_erf(model, images[: settings.summed_images])
        context = encode_profile(profile, numbers=shares(profile), cells=CELLS, levels=LEVELS)
        source = provenance.collect(root=root) | {"wall_seconds": round(time.perf_counter() - started, 1)}
        write_record(folder, {"variant": variant, **key}, {"context.npz": context}, source)
    return folder


__all__ = ["ContextProfile", "calibrate", "measure_variant", "profile_images", "trained_profile"]
