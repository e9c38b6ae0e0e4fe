"""From ResNet-50 to ConvNeXt-T, step by step (Liu et al. 2022, §2), and how far each step makes a block look.

One network with a switch for every step that changes what a feature can reach or what it costs.
"""

import functools
from dataclasses import dataclass, replace

import torch
from torch import nn

from ..measure.receptive_field import Reach
from .measures import multiply_adds
from .small import seeded

SIZE = 224  # px, side of the input


@dataclass(frozen=True)
class Step:
    """One network of the road.

    Attributes:
        label: what the step changes.
        depths: blocks per stage.
        width: of the first stage, between the 1×1 convolutions of a bottleneck or around those of an inverted one.
        patchify: 4×4 convolution of stride 4 in place of the stem of 7×7 and pooling.
        depthwise: one kernel per channel.
        inverted: 1×1 up to four times the width and back.
        first: the depthwise convolution before the 1×1 convolutions.
        kernel: side of the spatial kernel.
        separate: layers of their own between stages halve the map, and layer normalisation takes its modern places.
    """

    label: str
    depths: tuple = (3, 4, 6, 3)
    width: int = 64
    patchify: bool = False
    depthwise: bool = False
    inverted: bool = False
    first: bool = False
    kernel: int = 3
    separate: bool = False


CHANGES = {  # what each step adds to the one before
    "3, 3, 9, 3 blocks": {"depths": (3, 3, 9, 3)},
    "patchify": {"patchify": True},
    "depthwise": {"depthwise": True},
    "width 96": {"width": 96},
    "inverted bottleneck": {"inverted": True},
    "depthwise first": {"first": True},
    "7×7 kernels": {"kernel": 7},
    "ConvNeXt-T": {"separate": True},
}
STEPS = [Step("ResNet-50")]
for _label, _change in CHANGES.items():
    STEPS.append(replace(STEPS[-1], label=_label, **_change))


class _ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of each place."""

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _Block(nn.Module):
    def __init__(self, step, c_in, width, stride):
        super().__init__()
        c_out = width if step.inverted else 4 * width
        inner = 4 * width if step.inverted else width
        looking = c_in if step.first else inner
        spatial = nn.Conv2d(looking, looking, step.kernel, stride, step.kernel // 2,
                            groups=looking if step.depthwise else 1, bias=step.separate)  # fmt: skip
        ones = [nn.Conv2d(c_in, inner, 1, bias=step.separate), nn.Conv2d(inner, c_out, 1, bias=step.separate)]
        layers = [spatial, *ones] if step.first else [ones[0], spatial, ones[1]]
        if step.separate:  # one normalisation, one activation
            self.body = nn.Sequential(spatial, _ChannelNorm(c_in), ones[0], nn.GELU(), ones[1])
        else:
            normed = [[layer, nn.BatchNorm2d(layer.out_channels), nn.ReLU()] for layer in layers]
            self.body = nn.Sequential(*sum(normed, [])[:-1])
        self.shortcut = nn.Identity()
        if stride > 1 or c_in != c_out:
            self.shortcut = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))

    def forward(self, x):
        return self.shortcut(x) + self.body(x)


def build(step, scale=1.0):
    """The network of one step, without classifier; ``scale`` of its channels."""
    widths = [round(scale * step.width * 2**stage) for stage in range(4)]
    c = widths[0] if step.inverted or step.patchify else round(64 * scale)
    stem = [nn.Conv2d(3, c, 4, 4)] if step.patchify else [nn.Conv2d(3, c, 7, 2, 3, bias=False), nn.MaxPool2d(3, 2, 1)]
    layers = nn.Sequential(*stem)
    for stage, (width, depth) in enumerate(zip(widths, step.depths, strict=True)):
        halve = stage > 0
        if halve and step.separate:
            layers.append(nn.Sequential(_ChannelNorm(c), nn.Conv2d(c, width, 2, 2)))
            c, halve = width, False
        for block in range(depth):
            layers.append(_Block(step, c, width, 2 if halve and not block else 1))
            c = width if step.inverted else 4 * width
    return layers


@functools.cache
def field_sides(step):
    """Side in pixels of the receptive field of the middle feature of every block, at most :data:`SIZE`."""
    model = seeded(build, step, 1 / 16).eval()
    names = [name for name, module in model.named_modules() if isinstance(module, _Block)]
    stages = [stage for stage, depth in enumerate(step.depths) for _ in range(depth)]
    middles = [SIZE // 2 ** (3 + stage) for stage in stages]
    masks = Reach(model, names, (SIZE, SIZE)).masks({name: (at, at) for name, at in zip(names, middles, strict=True)})
    return [int(masks[name][0].any(0).sum()) for name in names]


@functools.cache
def cost(step):
    """(parameters without classifier, multiply-adds of one image) of one step at full width."""
    with torch.device("meta"):
        model, image = build(step), torch.zeros(1, 3, SIZE, SIZE)
    return sum(p.numel() for p in model.parameters()), multiply_adds(model, image)
