"""Weights that see nothing but padding: taps of a kernel that never meet the map (§3.4 on small maps)."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from ctxnet.measure.isolation import isolated


class Unseen(NamedTuple):
    """Weights of convolutions that see constants only.

    Attributes:
        share: of all weights of convolutions, 0 … 1.
        layers: {layer: share of its own weights}, of those that have any.
    """

    share: float
    layers: dict


def unseen_weights(model, images):
    """The share of a network's convolution weights that read constants alone, whatever the image.

    A tap of a dilated kernel that lies outside of a small map at every position reads padding; so does every tap over a
    shifted copy of which nothing is left. Measured, not derived: an input of a convolution is a constant where it is the
    same for all ``images``, so there should be several, and none of them special. ReLUs are left out meanwhile: a channel
    that is zero on these images only is no constant.

    Args:
        model: any ``nn.Module`` that takes images; a copy in eval mode is run.
        images: (N, C, …) with N ≥ 2, different from each other.

    Returns:
        :class:`Unseen`; transposed convolutions and kernels of other calls than ``nn.Conv1d`` to ``nn.Conv3d`` are left out.

    Raises:
        ValueError: for a single image, or a model without convolutions.
    """
    if len(images) < 2:
        raise ValueError(f"images has {len(images)} image; two or more show what is constant")
    seen, handles = {}, []

    def keep(name):
        def hook(module, inputs):
            varies = _seen(module, inputs[0].detach())
            seen[name] = seen[name] | varies if name in seen else varies

        return hook

    with isolated(model) as made, torch.no_grad(), _WithoutReLU():
        for name, module in made.named_modules():
            if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
                handles.append(module.register_forward_pre_hook(keep(name)))
        made(images)
    total = sum(taps.numel() for taps in seen.values())
    if not total:
        raise ValueError(f"{type(model).__name__} runs no convolution")
    unseen = {name: int((~taps).sum()) for name, taps in seen.items()}
    return Unseen(sum(unseen.values()) / total, {n: count / seen[n].numel() for n, count in unseen.items() if count})


class _WithoutReLU(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return args[0] if func in _RELUS else func(*args, **(kwargs or {}))


_RELUS = {F.relu, F.relu6, F.hardtanh, torch.relu, torch.relu_, torch.Tensor.relu, torch.Tensor.relu_}


def _seen(conv, x):
    """Bool of the weight's shape: whether a tap reads a varying element at any position."""
    varies = (x != x[:1]).any(0, keepdim=True).float()
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    varies, none = F.pad(varies, conv._reversed_padding_repeated_twice, mode=mode), [0] * len(conv.kernel_size)
    weight = torch.zeros(conv.weight.shape, device=x.device)
    kind = {1: torch.conv1d, 2: torch.conv2d, 3: torch.conv3d}[len(conv.kernel_size)]
    output = kind(varies, weight, None, conv.stride, none, conv.dilation, conv.groups)
    _, gradient, _ = torch.ops.aten.convolution_backward(
        torch.ones_like(output), varies, weight, None, conv.stride, none, conv.dilation, False,
        none, conv.groups, [False, True, False],
    )  # fmt: skip
    return gradient > 0.5
