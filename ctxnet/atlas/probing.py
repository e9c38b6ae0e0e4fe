"""Ask a network itself whether a receptive field is right: many probes at once, independent of the rules.

:func:`ctxnet.measure.check_receptive_field` changes one pixel per forward pass: 400 of them for 200 probes and two images.
The same questions are put here to a few passes. A pixel whose derivative is not zero reaches the feature, and one backward
pass gives the derivatives of all pixels. Pixels outside reach nothing exactly if the feature stays as it is when all of
them change at once by random amounts. Only pixels inside without a derivative (behind dead ReLUs and lost maxima) have to
be tried one by one.
"""

import torch

from ..measure.isolation import isolated
from ..measure.receptive_field import _changed, _double, _Look, _sample

TRIED = 24  # pixels that are tried one by one, at most
_STEP, _ROUNDING = 3.0, 1e-11  # of a pixel; of the features, relative, in double precision


def probe_field(model, reach, layer, mask, exact, *, pixels=200, seed=0):
    """Compare a receptive field with the network, of which a copy computes in double precision on a random image.

    Args:
        model: the network that ``reach`` is of.
        reach: a :class:`ctxnet.measure.receptive_field.Reach`; ``layer`` one of its layers, at its middle position.
        mask, exact: bool (H, W) and flag, as it gives them.
        pixels: how many pixels are drawn: a third each along the border of the mask, inside, and outside; where one of
            these has too few (a mask that is the whole image has neither border nor outside), others from anywhere.

    Returns:
        dict: ``probes`` pixels drawn; ``wrong`` of them outside the mask that move the feature, or 1 if a pixel that was not
        drawn does; ``unsettled`` inside an exact mask that nothing moved (dead ReLUs or lost maxima, of this image, or
        past the :data:`TRIED` that are tried); ``seen`` the share of the mask's pixels with a derivative.

    Raises:
        ValueError: pixels outside have a derivative, and changing them does nothing: the backward pass is wrong.
    """
    grid = reach.grids[layer]
    chosen = _drawn(mask, pixels, torch.Generator().manual_seed(seed))
    shape = tuple(reach.trace.source.meta["val"].shape[1:])
    with isolated(model, torch.float64) as made, _double():
        look = _Look(made, layer, reach, grid.position(None))
        image = torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        derived, before = _derivative(look, image)
        with torch.no_grad():
            leaks = _leaks(look, image, mask, chosen, before)
            inside = [p for p in chosen if mask[tuple(p)] and not derived[tuple(p)]] if exact else []
            unsettled = sum(not _moves(look, image, pixel, before) for pixel in inside[:TRIED])
    beyond = int((derived & ~mask).sum())
    if beyond and not leaks:  # as in a batch normalisation before its gradients were straightened (isolation.py)
        raise ValueError(
            f"layer {layer!r}: PyTorch's backward pass gives {beyond} pixels a gradient of which none moves the feature "
            "when it changes, so that nothing made of gradients can be trusted here"
        )
    return {
        "probes": len(chosen), "wrong": leaks, "unsettled": int(unsettled) + max(0, len(inside) - TRIED),
        "seen": round(float((derived & mask).sum() / mask.sum().clamp(min=1)), 4),
    }  # fmt: skip


def _drawn(mask, pixels, generator):
    chosen = _sample(mask, pixels, generator)
    if len(chosen) >= min(pixels, mask.numel()):
        return chosen
    free = torch.ones_like(mask)
    free[tuple(chosen.T)] = False
    others = free.nonzero()
    return torch.cat([chosen, others[torch.randperm(len(others), generator=generator)[: pixels - len(chosen)]]])


def _derivative(look, image):
    """Whether each pixel (H, W) has a derivative, and the features (1, values)."""
    image = image.clone().requires_grad_()
    with torch.enable_grad():
        features = look(image)
        generator = torch.Generator().manual_seed(1)
        weights = torch.rand(features.shape, generator=generator, dtype=torch.float64) + 0.5
        signs = torch.randint(0, 2, features.shape, generator=generator) * 2.0 - 1
        (gradient,) = torch.autograd.grad((features * weights * signs).sum(), image)
    return (gradient != 0).any(1)[0], features.detach()


def _leaks(look, image, mask, chosen, before):
    """Probes outside the mask that move the feature; 1 if other pixels outside do, 0 if none does."""
    if bool(mask.all()):
        return 0
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(2), dtype=image.dtype) * _STEP
    if not _differ(look(image + noise * ~mask), before):
        return 0
    outside = [pixel for pixel in chosen if not mask[tuple(pixel)]]
    return max(1, sum(_differ(look(_changed(image, pixel, _STEP)), before) for pixel in outside))


def _moves(look, image, pixel, before):
    if _differ(look(_changed(image, pixel, _STEP)), before):
        return True
    return bool(look(_changed(torch.zeros_like(image), pixel, torch.nan)).isnan().any())


def _differ(after, before):
    return bool(((after - before).abs() > _ROUNDING * before.abs().max()).any())
