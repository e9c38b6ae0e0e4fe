"""Effective receptive fields: how much each input pixel does contribute to a feature (Luo et al., 2016; thesis §1)."""

import copy
import re
from contextlib import contextmanager

import torch

from ctxnet.measure.frozen import FrozenWeights
from ctxnet.measure.graph import evaluating, first_tensor
from ctxnet.measure.receptive_field import Reach
from ctxnet.naming import require_known

# From the gradient (N, C, H, W) of the feature's sum to one map per image (N, H, W). They give different numbers.
AGGREGATES = {
    "abs_sum": lambda g: g.abs().sum(1),  # |∂y/∂x|, summed over the image's channels: the one used throughout
    "relu": lambda g: g.relu().sum(1),  # positive parts only, as RepLKNet's visualisation takes them
    "sum_abs": lambda g: g.sum(1).abs(),  # channels first, so that they can cancel
    "square": lambda g: g.square().sum(1),  # weighs the centre more
}


def effective_receptive_field(model, images, layer, position=None, aggregate="abs_sum", *, batch_size=None):
    """|∂ Σ_c y_c(p) / ∂x| summed over the image's channels, averaged over ``images``, scaled to sum 1.

    Args:
        model: any ``nn.Module`` that takes images (N, C, H, W); used in eval mode and left as it was. Models in less
            than float32 are copied and measured in float32.
        images: (N, C, H, W), normalised as the model expects. They are brought to the model's device and precision.
        layer: a name as in ``model.named_modules()``; outputs as in :func:`ctxnet.receptive_field`. Not one that ends
            in a fresh LayerNorm: the sum of its channels is constant, so that its gradient is rounding noise or zero.
        position: (row, column) on the feature map; None: (H//2, W//2).
        aggregate: "abs_sum" as above; "relu" (only positive gradients, as RepLKNet does), "sum_abs" (absolute value
            of the sum over the image's channels), "square". They give different numbers: name the one you use.
        batch_size: images per pass; None: all at once.

    Returns:
        Float tensor (H, W) on the model's device, sum 1.

    Raises:
        ValueError: unknown layer, aggregate, position; images the model does not take; no gradient at all.
    """
    with measurable(model, images) as (model, images):
        grid = Reach(model, [layer], tuple(images.shape[1:])).grids[layer]
        position = grid.position(position)
        maps = erf_maps(model, images, {layer: grid}, {layer: [position]}, aggregate, batch_size)[layer]
    return normalised(maps, f"layer {layer!r} at {position}")


def summed_erf(model, images, layer=None, aggregate="abs_sum", *, batch_size=None):
    """Sum of the effective receptive fields of all positions of a layer, scaled to sum 1 (thesis, appendix B).

    The maps of the positions are added as they are and scaled once, so that a position with a stronger gradient
    counts more. Takes one backward pass per position and batch.

    Args:
        layer: None for the last of :func:`residual_blocks`. The others as for :func:`effective_receptive_field`.

    Returns:
        Float tensor (H, W) on the model's device.
    """
    layer = layer or residual_blocks(model)[-1]
    with measurable(model, images) as (model, images):
        grid = Reach(model, [layer], tuple(images.shape[1:])).grids[layer]
        positions = [(r, c) for r in range(grid.height) for c in range(grid.width)]
        maps = erf_maps(model, images, {layer: grid}, {layer: positions}, aggregate, batch_size)[layer]
    return normalised(maps, f"layer {layer!r}")


def erf_maps(model, images, grids, positions, aggregate, batch_size=None):
    """Unscaled maps (H, W), summed over ``positions[layer]``, averaged over images: {layer: map}.

    One forward pass per batch, one backward pass per layer and position. ``model`` in eval mode, parameters frozen
    (see :func:`measurable`).
    """
    reduce = AGGREGATES[require_known("aggregate", aggregate, AGGREGATES)]
    modules = dict(model.named_modules())
    features, handles = {}, []

    def keep(layer):
        def hook(module, args, output):  # summed at once: a later in-place call may change the output
            output = first_tensor(output, layer)
            features[layer] = [grids[layer].pick(output, p).sum() for p in positions[layer]]

        return hook

    sums = {layer: torch.zeros(images.shape[-2:], device=images.device, dtype=images.dtype) for layer in grids}
    try:
        for layer in grids:
            handles.append(modules[layer].register_forward_hook(keep(layer)))
        for batch in images.split(batch_size or len(images)):
            batch = batch.detach().clone().requires_grad_()
            with torch.enable_grad(), FrozenWeights():
                model(batch)
            left = sum(len(f) for f in features.values())
            for layer in reversed(list(grids)):
                for feature in features.pop(layer):
                    left -= 1
                    (gradient,) = torch.autograd.grad(feature, batch, retain_graph=left > 0)
                    sums[layer] += reduce(gradient).sum(0)
    finally:
        for handle in handles:
            handle.remove()
    return {layer: total / len(images) for layer, total in sums.items()}


@contextmanager
def measurable(model, images):
    """The model in eval mode with frozen parameters, at float32 or better, and the images to go with it.

    Modes and ``requires_grad`` are restored; ``.grad`` is never touched.
    """
    if images.ndim != 4 or not len(images):
        raise ValueError(f"images have shape {tuple(images.shape)}; expected (N, C, H, W) with N ≥ 1")
    parameter = next((p for p in model.parameters() if p.is_floating_point()), None)
    dtype = torch.float32
    if parameter is not None:
        dtype = torch.promote_types(parameter.dtype, torch.float32)
        if dtype != parameter.dtype:
            model = copy.deepcopy(model).to(dtype)
        images = images.to(parameter.device)
    flags = [(p, p.requires_grad) for p in model.parameters()]
    try:
        for p, _ in flags:
            p.requires_grad_(False)
        with evaluating(model):
            yield model, images.to(dtype)
    finally:
        for p, flag in flags:
            p.requires_grad_(flag)


def normalised(erf, what):
    total = erf.sum()
    if not (torch.isfinite(total) and total > 0):
        raise ValueError(f"the gradient of {what} sums to {total.item()}, so it has no effective receptive field")
    return erf / total


# Module names of the blocks of the usual families, most specific first.
_BLOCKS = (
    r"(layer|stage)\d+\.\d+",  # ResNets (torchvision, timm, ours), HRNet
    r"(stages|layers)\.\d+\.blocks\.\d+",  # timm: ConvNeXt, Swin
    r"blocks\.\d+(\.\d+)?",  # timm: EfficientNet; ViT, Mixer
    r"encoder\.layers\.encoder_layer_\d+",  # torchvision: ViT
    r"features\.denseblock\d+\.denselayer\d+",  # DenseNet
    r"features\.\d+\.\d+",  # torchvision: ConvNeXt, EfficientNet, Swin
    r"s\d+\.b\d+|trunk_output\.block\d+\.block\d+-\d+",  # RegNet: timm, torchvision
)


def residual_blocks(model):
    """Names of the residual blocks of a model, in order; without any, the nearest thing: its convolutions.

    HRNet: the blocks of the first stage, the modules of the others (of which the first, finest branch counts) and
    the final layer.
    """
    modules = dict(model.named_modules())

    def is_block(module):  # a container or a single layer is none
        plain = type(module).__module__.startswith("torch.nn") or isinstance(module, torch.nn.Sequential)
        return not plain and any(True for _ in module.children())

    for pattern in _BLOCKS:
        found = [name for name, module in modules.items() if re.fullmatch(pattern, name) and is_block(module)]
        if found:
            return found + (["final_layer"] if "incre_modules" in modules and "final_layer" in modules else [])
    blocks = [name for name, module in modules.items() if name.rpartition(".")[2].isdigit() and is_block(module)]
    outermost = [n for n in blocks if not any(n.startswith(other + ".") for other in blocks)]
    return outermost or [name for name, module in modules.items() if isinstance(module, torch.nn.Conv2d)]
