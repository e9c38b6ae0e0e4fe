"""The few networks of the atlas that neither timm nor torchvision has, as small as their papers allow."""

import torch
from torch import nn


class LeNet5(nn.Module):
    """LeNet-5 (LeCun et al., 1998, "Gradient-based learning", §II.B): grey digits of 32×32 pixels.

    Two simplifications that do not touch the context: all maps of the second layer are connected, and the output is
    linear in place of radial basis functions.
    """

    def __init__(self, num_classes=10):
        super().__init__()
        self.conv1, self.pool1 = nn.Conv2d(1, 6, 5), nn.AvgPool2d(2)
        self.conv2, self.pool2 = nn.Conv2d(6, 16, 5), nn.AvgPool2d(2)
        self.conv3 = nn.Conv2d(16, 120, 5)
        self.fc1, self.fc2 = nn.Linear(120, 84), nn.Linear(84, num_classes)

    def forward(self, x):
        """(N, 1, 32, 32) → (N, num_classes)."""
        x = torch.tanh(self.pool1(self.conv1(x)))
        x = torch.tanh(self.pool2(self.conv2(x)))
        x = torch.tanh(self.conv3(x)).flatten(1)
        return self.fc2(torch.tanh(self.fc1(x)))


class _TwoConvolutions(nn.Sequential):
    def __init__(self, inputs, outputs):
        super().__init__()
        for number, channels in enumerate((inputs, outputs), start=1):
            self.add_module(f"conv{number}", nn.Conv2d(channels, outputs, 3, padding=1, bias=False))
            self.add_module(f"bn{number}", nn.BatchNorm2d(outputs))
            self.add_module(f"relu{number}", nn.ReLU())


class UNet(nn.Module):
    """U-Net (Ronneberger et al., 2015, arXiv:1505.04597, Figure 1) with padded convolutions and normalisation.

    Five resolutions down, four up again. On the way up a transposed convolution doubles the map and the map of the same
    size from the way down is put beside it. The paper's convolutions are unpadded, so that its maps shrink.

    Args:
        num_classes: classes of a pixel.
        width: channels at full resolution; 64 in the paper.
    """

    def __init__(self, num_classes=2, width=64):
        super().__init__()
        channels = [width * 2**level for level in range(5)]
        self.pool = nn.MaxPool2d(2)
        pairs = zip([3, *channels], channels, strict=False)
        self.encoder = nn.ModuleList(_TwoConvolutions(inputs, outputs) for inputs, outputs in pairs)
        upwards = list(zip(channels[:0:-1], channels[-2::-1], strict=True))
        self.enlarge = nn.ModuleList(nn.ConvTranspose2d(inputs, outputs, 2, stride=2) for inputs, outputs in upwards)
        self.decoder = nn.ModuleList(_TwoConvolutions(inputs, outputs) for inputs, outputs in upwards)
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, x):
        """(N, 3, H, W) → (N, num_classes, H, W); H and W multiples of 16."""
        kept = []
        for level, convolutions in enumerate(self.encoder):
            x = convolutions(self.pool(x) if level else x)
            kept.append(x)
        for enlarge, convolutions, beside in zip(self.enlarge, self.decoder, kept[-2::-1], strict=True):
            x = convolutions(torch.cat([beside, enlarge(x)], dim=1))
        return self.head(x)


class RCAB(nn.Module):
    """Residual channel attention block (Zhang et al., 2018, arXiv:1807.02758, §3.3).

    Two 3×3 convolutions; their result is weighed per channel by a squeeze-and-excitation with one weight for the whole
    map, and added to the input.
    """

    def __init__(self, channels=64, reduction=16):
        super().__init__()
        looking = [nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2)]
        self.body = nn.Sequential(looking[0], nn.ReLU(), looking[1])
        narrow = max(1, channels // reduction)
        squeeze = [nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, narrow, 1), nn.ReLU(), nn.Conv2d(narrow, channels, 1)]
        self.attention = nn.Sequential(*squeeze, nn.Sigmoid())

    def forward(self, x):
        y = self.body(x)
        return x + self.attention(y) * y


class _ResidualGroup(nn.Module):
    def __init__(self, channels, blocks, reduction):
        super().__init__()
        self.blocks = nn.Sequential(*[RCAB(channels, reduction) for _ in range(blocks)])
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return x + self.conv(self.blocks(x))


class RCAN(nn.Module):
    """RCAN for super-resolution (the same paper, §3.1): residual groups of RCABs at low resolution, then enlargement.

    Args:
        groups, blocks: residual groups, and RCABs in each; 10 and 20 in the paper.
        channels, reduction: 64 and 16 in the paper.
        scale: how much larger the output is.
    """

    def __init__(self, groups=10, blocks=20, channels=64, reduction=16, scale=2):
        super().__init__()
        self.head = nn.Conv2d(3, channels, 3, padding=1)
        self.groups = nn.Sequential(*[_ResidualGroup(channels, blocks, reduction) for _ in range(groups)])
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.enlarge = nn.Sequential(nn.Conv2d(channels, channels * scale**2, 3, padding=1), nn.PixelShuffle(scale))
        self.tail = nn.Conv2d(channels, 3, 3, padding=1)

    def forward(self, x):
        """(N, 3, H, W) → (N, 3, scale·H, scale·W)."""
        x = self.head(x)
        return self.tail(self.enlarge(x + self.conv(self.groups(x))))
