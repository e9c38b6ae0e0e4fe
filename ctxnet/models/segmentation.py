"""Networks that answer for every pixel: a backbone of any ResNet row, or HRNet-W18, and a head.

============  =========================================================================================================
head          what it does
============  =========================================================================================================
fcn32         one 1×1 convolution on stage 4, enlarged 32 times (FCN-32s: Long, Shelhamer and Darrell, 2015)
fpn           1×1 convolutions on stages 1–4, enlarged to stage 1 and summed, as in a feature pyramid (Lin et al., 2017),
              without its 3×3 convolutions: the stages' own context and no other
deeplabv3     atrous spatial pyramid pooling (torchvision's ASPP) on stage 4 at output stride 16 or 8 (Chen et al., 2017)
unet          stage by stage enlarged, beside the features of that size, two 3×3 convolutions (Ronneberger et al., 2015)
hrnetv2       HRNet's four maps side by side, two 1×1 convolutions (Sun et al., 2019); of ``hrnet_w18`` alone
============  =========================================================================================================

A row is a head and a backbone: ``fcn32_resnet50_perm1``, ``deeplabv3_starved_perm1``, ``hrnetv2_hrnet_w18``.
"""

import fnmatch

import torch
import torch.nn.functional as F
from torch import nn

from ..blocks.base import require_at_least
from ..extras import require
from ..naming import require_known, unknown_name
from .registry import create_model
from .resnet import Bottleneck, draw_by_layer
from .variants import VARIANTS

RATES, CROP = (6, 12, 18), 513  # of DeepLabv3 at output stride 16, for training crops of so many px
STRIDES = (8, 16, 32)


def enlarged(x, size):
    """Bilinear interpolation to (H, W), in single precision at least."""
    return F.interpolate(x.to(torch.promote_types(x.dtype, torch.float32)), size, mode="bilinear", align_corners=False)


def _conv(inputs, outputs, size):
    """Convolution, normalisation, ReLU."""
    layer = nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class FCN32(nn.Module):
    """One 1×1 convolution on the last map. All heads take the maps of stem and stages, finest first."""

    stride = 32

    def __init__(self, channels, num_classes, width, scale, stride):
        super().__init__()
        self.classifier = nn.Conv2d(channels[-1], num_classes, 1)

    def forward(self, maps):
        return self.classifier(maps[-1])


class SummedPyramid(nn.Module):
    """The stages' maps, each through a 1×1 convolution, enlarged to the finest one and summed."""

    stride = 32

    def __init__(self, channels, num_classes, width, scale, stride):
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(count, 4 * width, 1, bias=False) for count in channels[1:])
        self.after = nn.Sequential(nn.BatchNorm2d(4 * width), nn.ReLU(inplace=True))
        self.classifier = nn.Conv2d(4 * width, num_classes, 1)

    def forward(self, maps):
        size = maps[1].shape[-2:]
        parts = [lateral(x) for lateral, x in zip(self.laterals, maps[1:], strict=True)]
        total = parts[0]
        for part in parts[1:]:
            total = total + enlarged(part, size)
        return self.classifier(self.after(total))


class DeepLabV3(nn.Module):
    """torchvision's ASPP and what follows it in its ``DeepLabHead``, at any width.

    The rates 6, 12 and 18 are those of 513 px; ``scale`` shrinks them with the map, and at output stride 8 they are doubled.
    """

    stride = 16

    def __init__(self, channels, num_classes, width, scale, stride):
        require("timm", user="head 'deeplabv3'")
        from torchvision.models.segmentation.deeplabv3 import ASPP

        super().__init__()
        self.rates = tuple(max(1, round(rate * scale * 16 / stride)) for rate in RATES)
        self.aspp = ASPP(channels[-1], self.rates, 4 * width)
        self.after = _conv(4 * width, 4 * width, 3)
        self.classifier = nn.Conv2d(4 * width, num_classes, 1)

    def forward(self, maps):
        return self.classifier(self.after(self.aspp(maps[-1])))


class UNet(nn.Module):
    """From the last map upwards: enlarged, beside the map of that size, two 3×3 convolutions."""

    stride = 32

    def __init__(self, channels, num_classes, width, scale, stride):
        super().__init__()
        steps, inputs = [], channels[-1]
        for level, skipped in enumerate(reversed(channels[:-1])):
            outputs = max(4, 4 * width >> level)
            steps.append(nn.Sequential(_conv(inputs + skipped, outputs, 3), _conv(outputs, outputs, 3)))
            inputs = outputs
        self.steps = nn.ModuleList(steps)
        self.classifier = nn.Conv2d(inputs, num_classes, 1)

    def forward(self, maps):
        x = maps[-1]
        for step, skipped in zip(self.steps, reversed(maps[:-1]), strict=True):
            x = step(torch.cat([enlarged(x, skipped.shape[-2:]), skipped], 1))
        return self.classifier(x)


class HRNetV2(nn.Module):
    """All four resolutions enlarged to the finest and side by side, a 1×1 convolution as wide, and the classifier."""

    stride = 32

    def __init__(self, channels, num_classes, width, scale, stride):
        super().__init__()
        self.mix = _conv(sum(channels), sum(channels), 1)
        self.classifier = nn.Conv2d(sum(channels), num_classes, 1)

    def forward(self, maps):
        size = maps[0].shape[-2:]
        return self.classifier(self.mix(torch.cat([enlarged(x, size) for x in maps], 1)))


HEADS = {"fcn32": FCN32, "fpn": SummedPyramid, "deeplabv3": DeepLabV3, "unet": UNet, "hrnetv2": HRNetV2}
OWN = {"hrnetv2": "hrnet_w18"}  # a head of one backbone alone
BACKBONES = [name for name, row in VARIANTS.items() if isinstance(row.arch, int)] + list(OWN.values())
SEGMENTERS = {
    f"{head}_{name}": (head, name)
    for head in HEADS
    for name in BACKBONES
    if (head in OWN or name in OWN.values()) == (OWN.get(head) == name)
}


def list_segmenters(pattern="*"):
    """Names of the known heads on known backbones that match a shell pattern; errors as :func:`ctxnet.list_models`."""
    names = fnmatch.filter(SEGMENTERS, pattern)
    if not names:
        raise unknown_name("segmenter", pattern, SEGMENTERS)
    return names


class Segmenter(nn.Module):
    """A backbone, a head, and bilinear interpolation to the size of the image: (N, 3, H, W) → (N, num_classes, H, W)."""

    def __init__(self, backbone, head):
        super().__init__()
        self.backbone, self.head = backbone, head
        self.pixel = nn.Identity()  # a name under which the output can be measured

    def get_classifier(self):
        return self.head.classifier

    def forward(self, x):
        return self.pixel(enlarged(self.head(self.backbone(x)), x.shape[-2:]))


class ResNetMaps(nn.Module):
    """The maps of a ResNet after its stem and its four stages, at output stride 32, 16 or 8."""

    def __init__(self, resnet, stride):
        super().__init__()
        for name, module in resnet.named_children():
            if name not in ("avgpool", "dropout", "fc"):
                self.add_module(name, module)
        _dilate(resnet, stride)
        outputs = [stage[-1].bn3 if isinstance(stage[-1], Bottleneck) else stage[-1].bn2 for stage in self.stages()]
        self.channels = [resnet.bn1.num_features, *(bn.num_features for bn in outputs)]

    def stages(self):
        return self.layer1, self.layer2, self.layer3, self.layer4

    def forward(self, x):
        x = self.relu(self.bn1(self.conv1(x)))
        maps, x = [x], self.maxpool(x)
        for stage in self.stages():
            x = stage(x)
            maps.append(x)
        return maps


def _dilate(resnet, stride):
    """Take the strides out of the last stages and dilate their 3×3 convolutions instead (atrous convolution)."""
    dilation = 1
    for number, stage in ((3, resnet.layer3), (4, resnet.layer4)):
        if 2 ** (number + 1) <= stride:
            continue
        before, dilation = dilation, 2 * dilation
        for index, block in enumerate(stage):
            block.pool = nn.Identity()
            convs = [block.conv1, block.conv2] + ([block.downsample[0]] if block.downsample is not None else [])
            for conv in convs:
                conv.stride = (1, 1)
                if conv.kernel_size == (3, 3):
                    factor = dilation if index else before
                    conv.dilation = conv.padding = (factor * conv.dilation[0],) * 2


class HRNetMaps(nn.Module):
    """The four maps of timm's HRNet, without what its classifier adds.

    It doubles maps without asking for their size, so images are padded to a multiple of 32 and the maps are cut.
    """

    def __init__(self, hrnet):
        super().__init__()
        hrnet.incre_modules = hrnet.downsamp_modules = hrnet.final_layer = hrnet.classifier = None
        hrnet.global_pool = hrnet.head_drop = None
        self.net, self.channels = hrnet, list(hrnet.stage4_cfg["num_channels"])

    def forward(self, x):
        height, width = x.shape[-2:]
        maps = self.net.forward_features(F.pad(x, (0, -width % 32, 0, -height % 32)))
        return [y[..., : -(-height // step), : -(-width // step)] for y, step in zip(maps, (4, 8, 16, 32), strict=True)]


def crop_scale(side):
    """Side of an image in px over that of the crops that :data:`RATES` are meant for."""
    return side / CROP


def create_segmenter(name, head="fcn32", *, num_classes=11, output_stride=None, seed=0, width=64, input_size=224,
                     rate_scale=1.0, init_seed=None, **overrides):
    """Build a network that gives every pixel a class.

    Args:
        name: a backbone: a ResNet row of ``ctxnet.list_models()`` or "hrnet_w18"; or head and backbone in one, as
            ``list_segmenters()`` names them, which ``head`` then has no part in.
        head: one of :data:`HEADS`.
        num_classes: classes of a pixel.
        output_stride: 32, 16 or 8: pixels of the image per place of the last map; below 32 strides become dilation. None:
            the head's own, 16 of deeplabv3 and 32 of the others.
        rate_scale: deeplabv3's rates are multiplied by this, say :func:`crop_scale` of the image's side.
        seed, width, input_size, init_seed, **overrides: as for ``ctxnet.create_model``, of the backbone; the two seeds
            decide the head's weights as well.

    Raises:
        ValueError: on a wrong name or value, with the nearest valid one.
    """
    if name in SEGMENTERS:
        head, name = SEGMENTERS[name]
    require_known("head", head, HEADS)
    if name not in BACKBONES:
        raise unknown_name("backbone of a segmenter", name, BACKBONES)
    if f"{head}_{name}" not in SEGMENTERS:
        near = OWN.get(head) or "resnet50"
        raise ValueError(f"head {head!r} does not fit backbone {name!r}; nearest valid value: {near!r}")
    require_at_least("num_classes", num_classes, 2)
    kind, stride = HEADS[head], HEADS[head].stride if output_stride is None else output_stride
    if stride not in STRIDES or (name in OWN.values() and stride != 32):
        near = 32 if name in OWN.values() else min(STRIDES, key=lambda known: abs(known - stride))
        raise ValueError(f"output_stride={stride} is not possible here; nearest valid value: {near}")
    start = {"seed": seed, "width": width, "input_size": input_size, "init_seed": init_seed, **overrides}
    made = create_model(name, num_classes=2, **start)
    backbone = HRNetMaps(made) if name in OWN.values() else ResNetMaps(made, stride)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed if init_seed is None else init_seed)
        top = kind(backbone.channels, num_classes, width, rate_scale, stride)
        draw_by_layer(top, f"{seed if init_seed is None else init_seed}/{head}")
    return Segmenter(backbone, top)
