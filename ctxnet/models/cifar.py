"""Plain nets and ResNets in CIFAR form (He et al., 2016, "Deep Residual Learning", §4.2), for 32×32 pixels.

A 3×3 convolution, then three stages of 2n layers at full, half and quarter resolution with 16, 32 and 64 channels,
global pooling and a classifier: 6n + 2 layers. Shortcuts are of the paper's option A and have no weights, so that a
plain net and its ResNet have exactly as many parameters and differ in the additions alone.
"""

import torch
from torch import nn
from torch.nn import functional

from ..blocks.base import require_at_least
from .resnet import Classifier

DEPTHS = (20, 32, 44, 56, 110)
FULL_WIDTH = 16  # channels of the first stage at ``width=64``, the full size of every row


class CifarBlock(nn.Module):
    """Two 3×3 convolutions with normalisation, and the shortcut around them unless ``residual`` is False.

    In training an image loses the branch with probability ``drop_path``; what is kept is divided by its share.
    """

    def __init__(self, inputs, outputs, stride, residual, drop_path=0.0):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.stride, self.missing, self.residual, self.drop_path = stride, outputs - inputs, residual, drop_path

    def forward(self, x):
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        if self.training and self.drop_path:
            kept = torch.rand(len(y), 1, 1, 1, device=y.device) >= self.drop_path
            y = y * kept / (1 - self.drop_path)
        return self.relu(y + self.shortcut(x)) if self.residual else self.relu(y)

    def shortcut(self, x):
        """Option A: every ``stride``-th position, and zeros for the channels that ``x`` does not have."""
        x = x[:, :, :: self.stride, :: self.stride]
        before = self.missing // 2
        return functional.pad(x, (0, 0, 0, 0, before, self.missing - before)) if self.missing else x


class CifarNet(Classifier):
    """A plain net or a ResNet of 6n + 2 layers.

    Args:
        depth: 20, 32, 44, 56 or 110.
        residual: False leaves the shortcuts out, which makes the plain net of the same depth.
        num_classes: outputs of the classifier.
        width: 64 is full size as for every row: 16 channels in the first stage, so ``width / 4`` of them, rounded.
        drop_rate: share of the pooled features that dropout sets to zero in training, 0 … 1.
        drop_path: stochastic depth (Huang et al., 2016, arXiv:1603.09382): probability in training that the last residual
            branch is dropped, 0 … 1 without 1; that of block l of L is l/L times as large. Not of a plain net.

    Input (N, 3, H, W), any size; output (N, num_classes).

    Raises:
        ValueError: naming the argument and the nearest valid value.
    """

    def __init__(self, depth, *, residual=True, num_classes=10, width=64, drop_rate=0.0, drop_path=0.0):
        super().__init__()
        if depth not in DEPTHS:
            near = min(DEPTHS, key=lambda known: abs(known - depth))
            raise ValueError(f"depth={depth} is not one of {list(DEPTHS)}; nearest valid value: depth={near}")
        require_at_least("width", width, 1)
        require_at_least("num_classes", num_classes, 1)
        if not 0 <= drop_path < 1 or (drop_path and not residual):
            rule = "needs residual branches" if 0 <= drop_path < 1 else "must lie in 0 … 1 without 1"
            near = 0.99 if residual and drop_path >= 1 else 0
            raise ValueError(f"drop_path={drop_path} {rule}; nearest valid value: {near}")
        inputs = first = max(1, round(FULL_WIDTH * width / 64))
        self.num_classes, self.num_features = num_classes, 4 * first
        self.conv1 = nn.Conv2d(3, inputs, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.relu = nn.ReLU()
        for stage in range(3):
            channels, blocks, each = first * 2**stage, [], (depth - 2) // 6
            for index in range(each):
                dropped = drop_path * (stage * each + index + 1) / (3 * each)
                blocks.append(CifarBlock(inputs, channels, 2 if stage and not index else 1, residual, dropped))
                inputs = channels
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.finish(inputs, num_classes, drop_rate)

    def forward_features(self, x):
        """(N, 3, H, W) → (N, num_features, H/4, W/4), rounded up."""
        x = self.relu(self.bn1(self.conv1(x)))
        return self.layer3(self.layer2(self.layer1(x)))


def create_cifar(name, *, num_classes, width, drop_rate=0.0, drop_path=0.0):
    """``"cifar_plain56"`` or ``"cifar_resnet56"`` as the table of rows names them."""
    kind = name.removeprefix("cifar_")
    depth = int(kind.removeprefix("plain").removeprefix("resnet"))
    return CifarNet(
        depth, residual=not kind.startswith("plain"), num_classes=num_classes, width=width, drop_rate=drop_rate,
        drop_path=drop_path,
    )  # fmt: skip
