"""Effective receptive fields: how much each input pixel does contribute to a feature (Luo et al., 2016; thesis §1)."""

import itertools
import re
from contextlib import contextmanager

import torch

from ctxnet.measure.asking import ask
from ctxnet.measure.frozen import FrozenWeights
from ctxnet.measure.graph import Watch, image_dimensions, named_layers
from ctxnet.measure.isolation import isolated, require_measurable, unwrapped
from ctxnet.measure.receptive_field import Reach
from ctxnet.naming import require_known

# From the gradient (N, C, H, W) of the feature's sum to one map per image (N, H, W). They give different numbers.
AGGREGATES = {
    "abs_sum": lambda g: g.abs().sum(1),  # |∂y/∂x|, summed over the image's channels: the one used throughout
    "relu": lambda g: g.relu().sum(1),  # positive parts only, as RepLKNet's visualisation takes them
    "sum_abs": lambda g: g.sum(1).abs(),  # channels first, so that they can cancel
    "square": lambda g: g.square().sum(1),  # weighs the centre more
}


def effective_receptive_field(
    model, images, layer, position=None, aggregate="abs_sum", *,
    batch_size=None, layout=None, inputs=None, of=None, output=None, call=None,
):  # fmt: skip
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
        layout, output, call: as for :func:`ctxnet.receptive_field`.
        inputs, of: likewise, for a model that takes more than ``images``, which stand in place of what the inputs hold
            there; None as images: the inputs' own. Other tensors with as many entries go along with the images.

    Returns:
        Float tensor (H, W) on the model's device, sum 1.

    Raises:
        ValueError: unknown layer, aggregate, position; images the model does not take; no gradient at all.
    """
    require_known("aggregate", aggregate, AGGREGATES)
    asked, images = asked_with(images, inputs, of, output, call)
    with measurable(model, images) as (model, images):
        reach = Reach(model, [layer], tuple(images.shape[1:]), layout, asked)
        grid = reach.grids[layer]
        position = grid.position(position)
        require_more_than_rounding(reach, model, images, {layer: position})
        maps = erf_maps(reach, model, images, {layer: [position]}, aggregate, batch_size)[layer]
        require_inside(maps, reach.masks({layer: position})[layer][0], layer)
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
        reach = Reach(model, [layer], tuple(images.shape[1:]))
        positions = {layer: every_position(reach.grids[layer])}
        maps = erf_maps(reach, model, images, positions, aggregate, batch_size)[layer]
    return normalised(maps, f"layer {layer!r}")


def every_position(grid):
    """All positions of a map, in order."""
    return list(itertools.product(*map(range, grid.size)))


def asked_with(images, inputs, of, output, call):
    """The :class:`ctxnet.measure.asking.Ask` of a measure on images, and those images."""
    asked = ask(inputs, of, output, call, images)
    return asked, asked.feed.image if images is None and inputs is not None else images


def erf_maps(reach, model, images, positions, aggregate, batch_size=None):
    """Unscaled maps (H, W), summed over ``positions[layer]``, averaged over images: {layer: map}.

    One forward pass per batch, one backward pass per layer and position. ``model`` in eval mode, parameters frozen
    (see :func:`measurable`); ``reach`` its :class:`ctxnet.measure.receptive_field.Reach`.
    """
    reduce = AGGREGATES[require_known("aggregate", aggregate, AGGREGATES)]
    modules, asked, features = named_layers(model, positions), reach.asked.like(model), {}

    def keep(layer, output):  # summed at once: a later in-place call may change the output
        features[layer] = [reach.grids[layer].pick(output, p).sum() for p in positions[layer]]

    sums = {layer: torch.zeros(images.shape[2:], device=images.device, dtype=images.dtype) for layer in positions}
    size = batch_size or len(images)
    for start in range(0, len(images), size):
        rows = slice(start, start + size)
        batch = images[rows].detach().clone().requires_grad_()
        with Watch(modules, positions, keep, reach.trace.counts, asked) as watch, torch.enable_grad(), FrozenWeights():
            watch.run(model, batch, rows)
        left = sum(len(f) for f in features.values())
        for layer in reversed(list(positions)):
            for feature in features.pop(layer):
                left -= 1
                sums[layer] += reduce(_gradient(feature, batch, layer, retain=left > 0)).sum(0)
    return {layer: total / len(images) for layer, total in sums.items()}


def _gradient(feature, batch, layer, *, retain):
    if not feature.requires_grad:
        raise ValueError(
            f"no gradient reaches the image from layer {layer!r}: part of the model runs under no_grad, or is detached"
        )
    (gradient,) = torch.autograd.grad(feature, batch, retain_graph=retain, allow_unused=True)
    if gradient is None:
        raise ValueError(f"no gradient reaches the image from layer {layer!r}: it is detached from it, or constant")
    return gradient


# Results of these have a sum that is constant along what was normalised: the gradient of a feature's sum is rounding.
_CONSTANT_SUMS = ("layer_norm", "group_norm", "softmax")


def require_more_than_rounding(reach, model, images, positions):
    """Refuse layers that end in a normalisation over their channels, whose sum is constant up to rounding.

    Such a sum of channels has a gradient of zero, what is computed is rounding. It is so for a fresh LayerNorm; learned
    gains make it a real one. Measured where the graph ends that way: the gradient of the sum against that of the channels
    with other signs and weights.

    Raises:
        ValueError: naming the layer.
    """
    suspects = {layer: reach.grids[layer] for layer, node in reach.trace.outputs.items() if _ends_in_norm(node)}
    if not suspects:
        return
    batch = images[:1].detach().clone().requires_grad_()
    modules, outputs = named_layers(model, suspects), {}

    def keep(layer, output):
        outputs[layer] = suspects[layer].pick(output, positions[layer]).flatten(1)

    with Watch(modules, suspects, keep, reach.trace.counts, reach.asked.like(model)) as watch, torch.enable_grad():
        watch.run(model, batch)
    for layer, feature in outputs.items():
        if feature.shape[1] < 2 or not feature.requires_grad:
            continue
        signs = torch.ones(feature.shape[1], device=feature.device, dtype=feature.dtype)
        signs[torch.arange(0, len(signs), 2)] = -1.0
        plain, signed = (
            torch.autograd.grad((feature * weights).sum(), batch, retain_graph=True)[0].abs().sum()
            for weights in (torch.ones_like(signs), signs * torch.linspace(0.5, 1.5, len(signs), device=signs.device))
        )
        if float(plain) <= _ROUNDING * float(signed):
            raise ValueError(
                f"layer {layer!r} ends in a normalisation whose channels add up to a constant, so the gradient of their sum"
                " is rounding and no effective receptive field; measure the layer before it"
            )


_SAME_VALUES = ("getitem", "view", "permute", "transpose", "clone", "alias", "reshape", "_to_copy", "detach", "squeeze")
_ROUNDING = 1e-4  # of the gradient with random signs; float32 leaves about 1e-6


def _ends_in_norm(node):
    while node.op == "call_function":
        name = getattr(getattr(node.target, "_schema", None), "name", "") or getattr(node.target, "__name__", "")
        if any(part in name for part in _CONSTANT_SUMS):
            return True
        if len(node.all_input_nodes) != 1 or not any(part in name for part in _SAME_VALUES):
            return False
        node = node.all_input_nodes[0]
    return False


_SHAPES = {1: "(N, C, L)", 2: "(N, C, H, W)", 3: "(N, C, D, H, W)"}


def require_images(model, images):
    """Refuse anything but a batch of finite images, signals or volumes, whichever the model's first convolution takes."""
    wanted = image_dimensions(model)
    fits = isinstance(images, torch.Tensor) and images.ndim - 2 in (_SHAPES if wanted is None else (wanted,))
    if not fits or not len(images):
        shape = tuple(images.shape) if isinstance(images, torch.Tensor) else type(images).__name__
        raise ValueError(f"images have shape {shape}; expected {_SHAPES[wanted or 2]} with N ≥ 1")
    if not bool(torch.isfinite(images).all()):
        raise ValueError("images hold values that are not finite (NaN or infinity), and so would everything behind them")


@contextmanager
def measurable(model, images):
    """A copy of the model in eval mode with frozen parameters, at float32 or better, and the images to go with it."""
    require_measurable(model)
    require_images(model, images)
    parameter = next((p for p in unwrapped(model).parameters() if p.is_floating_point()), None)
    dtype = torch.float32
    if parameter is not None:
        dtype = torch.promote_types(parameter.dtype, torch.float32)
        images = images.to(parameter.device)
    with isolated(model, dtype if parameter is not None and dtype != parameter.dtype else None) as made:
        yield made, images.to(dtype)


def require_inside(erf, mask, layer):
    """An effective receptive field cannot be larger than what can reach the feature.

    Raises:
        RuntimeError: naming the layer; then a rule of this package is wrong, and neither result may be used.
    """
    outside = float(erf.detach().cpu().double()[~mask].sum() / max(float(erf.sum()), 1e-300)) if bool(erf.any()) else 0.0
    if outside > _LEAK:
        raise RuntimeError(
            f"layer {layer!r}: {outside:.1%} of the effective receptive field lies outside of the receptive field; one of"
            " them is wrong, please report the model"
        )


_LEAK = 1e-6  # of the sum: what fast convolutions may leave beside their windows


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
