"""Small networks that are measured on the spot, in a second or two on one core: what sliders and schematics draw.

64 px, a few channels, random weights. Everything else in the paper is read from records.
"""

import functools
from collections import OrderedDict

import numpy as np
import torch
from torch import nn

from ..measure import context_profile
from ..models.resnet import ResNet

SIZE, WIDTH, IMAGES = 64, 8, 4
CONTEXTS = {
    "none (plain ResNet-50)": {},
    "random sparse context (§3.1)": {"context": "permutation", "uses": ("k",)},
    "… with relative encoding (§3.2)": {"context": "permutation", "encoding": True, "uses": ("k",)},
    "attention over it (§3.3)": {"context": "attention", "uses": ("k",)},
    "dilated 3×3 (§3.4)": {"uses": ("dilation",)},
    "inserted dilated 3×3 (§3.4.1)": {"context": "inserted_dilated", "uses": ("d",)},
    "random dilated, concatenated (§3.5)": {"context": "random_dilated", "uses": ("k", "d")},
    "random dilated convolution (§3.5)": {"context": "random_dilated_conv", "uses": ("k", "d")},
}


def seeded(make, *args, seed=0, **kwargs):
    """``make(*args, **kwargs)`` with torch's generator at ``seed``, and as it was afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make(*args, **kwargs)


def stack_of_convolutions(layers=3, kernel=3, dilation=1, stride=1):
    """``layers`` equal convolutions with ReLU (``conv1``, ``relu1``, …), the first with ``stride``."""
    net = OrderedDict()
    for i in range(layers):
        padding = dilation * (kernel - 1) // 2
        step = stride if i == 0 else 1
        net[f"conv{i + 1}"] = nn.Conv2d(3 if i == 0 else WIDTH, WIDTH, kernel, step, padding, dilation)
        net[f"relu{i + 1}"] = nn.ReLU()
    return nn.Sequential(net).eval()


def measure_stack(layers=3, kernel=3, dilation=1, stride=1, row=0.5, column=0.5):
    """:class:`ctxnet.measure.ContextProfile` of one feature after a stack of convolutions.

    Args:
        layers, kernel, dilation, stride: as in :func:`stack_of_convolutions`.
        row, column: where the feature lies, as a share (0 … 1) of the map.
    """
    net = seeded(stack_of_convolutions, layers, kernel, dilation, stride)
    return _profile(net, f"relu{layers}", row, column)


def measure_context(context="random sparse context (§3.1)", k=1, d=4, block="layer1.0", row=0.5, column=0.5):
    """The same of one feature of a small ResNet-50 with a context block in every bottleneck.

    Args:
        context: one of :data:`CONTEXTS`.
        k, d: number of permutations or offsets; dilation or largest offset. Ignored where they have no meaning.
        block: ``layer1.0`` … ``layer4.2``.
        row, column: where the feature lies, as a share (0 … 1) of the map.
    """
    return _profile(_network(context, k, d, block), block, row, column)


def _profile(net, layer, row, column):
    images = noise_images()
    size = trace_shapes(net, images.shape[1:])[layer][1][1:]
    position = tuple(min(int(share * n), n - 1) for share, n in zip((row, column), size, strict=True))
    return context_profile(net, images, layers=[layer], position=position)


@functools.lru_cache(maxsize=16)
def _network(context, k, d, block):
    """The small ResNet-50 up to and including ``block``: nothing behind it changes what it sees."""
    args = dict(CONTEXTS[context])
    given = {"k": k, "d": d, "dilation": d}
    args |= {name: given[name] for name in args.pop("uses", ())}
    model = seeded(ResNet, 50, width=WIDTH, input_size=SIZE, **args).eval()
    stage, index = block.split(".")
    net = OrderedDict()
    for name, module in model.named_children():
        net[name] = module
        if name == stage:
            net[name] = module[: int(index) + 1]
            break
    return nn.Sequential(net).eval()


# ---- by layer arithmetic, and by attention ----------------------------------------------------------------------------


def trace_shapes(model, input_shape=(3, 224, 224)):
    """Shapes without the batch axis at every module: ``{name: (input, output)}``; lists stay lists.

    The model runs once in eval mode on one zero image; on the meta device that costs nothing.
    """
    shapes, device = {}, next(model.parameters()).device

    def shape(value):
        return tuple(value.shape[1:]) if torch.is_tensor(value) else [shape(v) for v in value]

    def record(name, module, inputs, output):
        shapes[name] = (shape(inputs[0]) if inputs else None, shape(output))

    hooks = [m.register_forward_hook(functools.partial(record, n)) for n, m in model.named_modules()]
    training = model.training
    with torch.no_grad():
        model.eval()(torch.zeros(1, *input_shape, device=device))
    model.train(training)
    for hook in hooks:
        hook.remove()
    return shapes


def attention_distance(vit, images):
    """Mean attention distance of every head of a timm vision transformer (ViT paper, section D.7).

    For each patch the distance to all patches, in pixels, weighted by its attention, without the class token;
    averaged over patches and images.

    Args:
        vit: a timm ``VisionTransformer`` with one class token.
        images: float (N, 3, H, W).
    Returns:
        float array (blocks, heads), px.
    """
    patch, (rows, columns) = vit.patch_embed.patch_size[0], vit.patch_embed.grid_size
    at = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).float() * patch
    distances = torch.cdist(at, at)
    result = []

    def record(module, inputs, output):
        n, tokens, _ = inputs[0].shape
        qkv = module.qkv(inputs[0]).view(n, tokens, 3, module.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k = module.q_norm(qkv[0]), module.k_norm(qkv[1])
        weights = (q @ k.transpose(2, 3) * module.scale).softmax(-1)[:, :, 1:, 1:]
        weights = weights / weights.sum(-1, keepdim=True)
        result.append((weights * distances).sum(-1).mean((0, 2)).numpy())

    hooks = [block.attn.register_forward_hook(record) for block in vit.blocks]
    with torch.no_grad():
        vit.eval()(images)
    for hook in hooks:
        hook.remove()
    return np.stack(result)


def uniform_distance(grid=14, patch=16, reach=None):
    """Mean distance in px from a patch to all, or to those at most ``reach`` rows and columns away."""
    at = np.stack(np.divmod(np.arange(grid * grid), grid), axis=1) * float(patch)
    offset = at[:, None] - at[None]
    near = np.ones(offset.shape[:2]) if reach is None else (np.abs(offset).max(-1) <= reach * patch)
    return float(((np.hypot(*offset.transpose(2, 0, 1)) * near).sum(1) / near.sum(1)).mean())


def field_sizes(model):
    """Side of the receptive field in px after every residual block of a plain ResNet, by layer arithmetic.

    Along the main path, r grows by (k − 1)·dilation·(product of the strides so far) at every layer.
    """
    size, jump, sizes = 1, 1, {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.MaxPool2d) and "downsample" not in name:
            first = [v[0] if isinstance(v, tuple) else v for v in (module.kernel_size, module.stride, module.dilation)]
            kernel, stride, dilation = first
            size += (kernel - 1) * dilation * jump
            jump *= stride
            if name.startswith("layer"):
                sizes[name.rpartition(".")[0]] = size
    return sizes


def noise_images(n=IMAGES, size=SIZE):
    """``n`` images (n, 3, size, size) of standard normal noise, the same on every call."""
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(0))
