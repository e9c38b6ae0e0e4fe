"""ResNets (He et al., 2016) with one context slot in every residual block.

Module names are torchvision's, so ordinary ResNet weights fit. The stride sits in the 3×3 convolution of a
bottleneck. The slot lies after the 3×3 convolution (its normalisation and ReLU included) and before the last
convolution, which widens when the block in the slot hands on more channels (thesis Figure 3.2).

A *starved* network (``spatial=1``) has 1×1 convolutions instead of its 3×3: whatever its blocks see of other places comes
through the slot. Strides that skip positions would blind it to most pixels, so ``downsample="average"`` takes the mean of
2×2 positions before every stride, in the shortcuts too.
"""

import hashlib
import inspect
import math

import torch
from torch import nn

from ..blocks import BLOCKS
from ..blocks.base import convolve, require_at_least
from ..naming import require_known

STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def _conv(inputs, outputs, size, *, stride=1, dilation=1):
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2 * dilation, dilation=dilation, bias=False)


def _shortcut(inputs, outputs, stride):
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(_conv(inputs, outputs, 1, stride=stride), nn.BatchNorm2d(outputs))


def _pool(stride, average):
    """What comes before a block that halves the map, and the stride that is left to the block."""
    if average and stride > 1:
        return nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False), 1
    return nn.Identity(), stride


class BasicBlock(nn.Module):
    """3×3, slot, 3×3 (ResNet-18 and 34)."""

    expansion = 1
    widened = "conv2"

    def __init__(self, inputs, channels, stride, dilation, make_context, spatial=3, average=False):
        super().__init__()
        self.pool, stride = _pool(stride, average)
        self.conv1 = _conv(inputs, channels, spatial, stride=stride, dilation=dilation)
        self.bn1 = nn.BatchNorm2d(channels)
        self.context = make_context(channels)
        self.conv2 = _conv(getattr(self.context, "out_channels", channels), channels, spatial, dilation=dilation)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inputs, channels, stride)

    def forward(self, x):
        x = self.pool(x)
        identity = x if self.downsample is None else self.downsample(x)
        y = convolve(self.conv2, self.context, self.relu(self.bn1(self.conv1(x))))
        return self.relu(self.bn2(y) + identity)


class Bottleneck(nn.Module):
    """1×1, 3×3, slot, 1×1 (ResNet-50 and deeper)."""

    expansion = 4
    widened = "conv3"

    def __init__(self, inputs, channels, stride, dilation, make_context, spatial=3, average=False):
        super().__init__()
        outputs = channels * self.expansion
        self.pool, stride = _pool(stride, average)
        self.conv1 = _conv(inputs, channels, 1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = _conv(channels, channels, spatial, stride=stride, dilation=dilation)
        self.bn2 = nn.BatchNorm2d(channels)
        self.context = make_context(channels)
        self.conv3 = _conv(getattr(self.context, "out_channels", channels), outputs, 1)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(inputs, outputs, stride)

    def forward(self, x):
        x = self.pool(x)
        identity = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = convolve(self.conv3, self.context, self.relu(self.bn2(self.conv2(y))))
        return self.relu(self.bn3(y) + identity)


def scaled_offset(d, scale):
    """An offset or dilation ``d`` on a map that is ``scale`` times as large, rounded half up, at least 1."""
    return max(1, math.floor(d * scale + 0.5))


def stage_sizes(input_size):
    """Side of the map in stages 1 … 4 for a square input of ``input_size`` pixels."""
    sizes, size = [], input_size
    for _ in range(5):
        size = (size + 1) // 2
        sizes.append(size)
    return sizes[1:]


class Classifier(nn.Module):
    """A network that ends in global pooling, dropout and one linear layer, above its own ``forward_features``."""

    def finish(self, inputs, num_classes, drop_rate):
        """Add the end, and He initialisation for all convolutions; the last thing a constructor calls."""
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(drop_rate) if drop_rate else nn.Identity()
        self.fc = nn.Linear(inputs, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x):
        return self.fc(self.dropout(self.avgpool(self.forward_features(x)).flatten(1)))


class ResNet(Classifier):
    """ResNet-18/34/50/101/152 with a context block in chosen stages or blocks.

    Args:
        depth: 18, 34, 50, 101 or 152.
        num_classes: outputs of the classifier.
        width: channels of the first stage; 64 is the standard size.
        context: name of a block (``ctxnet.blocks.BLOCKS``) or None.
        stages: stages (1 … 4) whose blocks get it.
        blocks: single block names such as ``["layer2.0"]`` instead of whole stages.
        dilation: dilation of every 3×3 convolution of the residual blocks (thesis §4.7, first row).
        spatial: side of the residual blocks' spatial convolutions: 3, or 1 for a starved network.
        downsample: "stride", or "average": 2×2 positions are averaged before every stride of the blocks.
        zero_init: the last normalisation of every block starts at zero, so that the block starts as its shortcut.
        offset_scale: ``d`` and ``dilation`` are multiplied by this, rounded, at least 1: 128 / 224 makes 2, 5 and 9 of the
            thesis' 4, 8 and 16, the same share of a map at 128 px.
        seed: what random positions are derived from. (Weights follow the global generator; see ``create_model``.)
        input_size: side of the input in pixels, if known: lets a ``d`` larger than every map be refused.
        drop_rate: share of the pooled features that dropout sets to zero in training, 0 … 1.
        **context_args: arguments of the block: ``k``, ``d``, ``encoding``, ``tile``.

    Input (N, 3, H, W), output (N, num_classes).

    Raises:
        ValueError: naming the argument and the nearest valid value.
    """

    def __init__(self, depth=50, *, num_classes=10, width=64, context=None, stages=(1, 2, 3, 4), blocks=None,
                 dilation=1, spatial=3, downsample="stride", zero_init=False, offset_scale=1.0, seed=0, input_size=None,
                 drop_rate=0.0, **context_args):
        super().__init__()
        if depth not in STAGES:
            near = min(STAGES, key=lambda known: abs(known - depth))
            raise ValueError(f"depth={depth} is not one of {sorted(STAGES)}; nearest valid value: depth={near}")
        require_at_least("width", width, 1)
        require_at_least("num_classes", num_classes, 1)
        require_at_least("dilation", dilation, 1)
        if spatial not in (1, 3):
            raise ValueError(f"spatial={spatial!r} is not 1 or 3; nearest valid value: {3 if spatial != 0 else 1}")
        if spatial == 1 and dilation > 1:
            raise ValueError(f"dilation={dilation} needs a 3×3 convolution, and spatial=1 has none; nearest valid value: 1")
        require_known("downsample", downsample, ("stride", "average"))
        if not 0 < offset_scale <= 1:
            raise ValueError(f"offset_scale={offset_scale!r} must lie in (0, 1]; nearest valid value: 1.0")
        dilation = scaled_offset(dilation, offset_scale) if dilation > 1 else 1
        if "d" in context_args:
            require_at_least("d", context_args["d"], 1)
            context_args["d"] = scaled_offset(context_args["d"], offset_scale)
        names = [f"layer{s + 1}.{b}" for s, count in enumerate(STAGES[depth]) for b in range(count)]
        chosen = _chosen_blocks(names, stages, blocks) if context else []
        _check_context(context, context_args, dilation, chosen or names, input_size)

        def make_context(name):
            if name not in chosen:
                return lambda channels: nn.Identity()
            block, args = BLOCKS[context], dict(context_args)
            if "seed" in inspect.signature(block).parameters:
                args |= {"seed": seed, "layer": name}
            return lambda channels: block(channels, **args)

        kind = BasicBlock if depth < 50 else Bottleneck
        self.num_features = 8 * width * kind.expansion
        self.conv1 = nn.Conv2d(3, width, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        inputs = width
        for stage, count in enumerate(STAGES[depth]):
            channels, layers = width * 2**stage, []
            for index in range(count):
                stride = 2 if stage and not index else 1
                make = make_context(f"layer{stage + 1}.{index}")
                layers.append(kind(inputs, channels, stride, dilation, make, spatial, downsample == "average"))
                inputs = channels * kind.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.finish(inputs, num_classes, drop_rate)
        if zero_init:
            for module in self.modules():
                if isinstance(module, kind):
                    nn.init.zeros_((module.bn2 if kind is BasicBlock else module.bn3).weight)

    def draw_by_layer(self, seed):
        """:func:`draw_by_layer` of this network."""
        draw_by_layer(self, seed)

    def forward_features(self, x):
        """(N, 3, H, W) → (N, num_features, H/32, W/32), rounded up."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))


@torch.no_grad()
def draw_by_layer(model, seed):
    """Draw all weights anew, those of each layer from (``seed``, its name), as they were drawn when it was made.

    Networks that differ in some layers then start with the same weights in all others.
    """
    with torch.random.fork_rng(devices=[]):
        for name, module in model.named_modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                torch.manual_seed(int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:7], "little"))
                module.reset_parameters()
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _chosen_blocks(names, stages, blocks):
    if blocks is not None:
        return [require_known("block", block, names) for block in blocks]
    for stage in stages:
        if stage not in (1, 2, 3, 4):
            near = min((1, 2, 3, 4), key=lambda known: abs(known - stage))
            raise ValueError(f"stage {stage!r} is not one of 1, 2, 3, 4; nearest valid value: {near}")
    return [name for name in names if int(name[5]) in stages]


def _check_context(context, context_args, dilation, names, input_size):
    accepted = []
    if context is not None:
        require_known("context block", context, BLOCKS)
        accepted = [p for p in inspect.signature(BLOCKS[context]).parameters if p not in ("channels", "seed", "layer")]
    for argument in context_args:
        if not accepted:
            raise ValueError(f"argument {argument!r} needs a context block; choose context= one of {', '.join(BLOCKS)}")
        require_known(f"argument of {context}", argument, accepted)
    if input_size is not None:
        require_at_least("input_size", input_size, 1)
        sizes = stage_sizes(input_size)
        largest = max(sizes[int(name[5]) - 1] for name in names)
        for label, reach in (("d", context_args.get("d", 1)), ("dilation", dilation)):
            if isinstance(reach, int) and reach > largest:
                raise ValueError(
                    f"{label}={reach} is larger than the {largest}×{largest} map at {input_size} px; "
                    f"nearest valid value: {label}={largest}"
                )
