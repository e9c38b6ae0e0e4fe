"""The table of the atlas: most of the architectures that the thesis and its background name, and how each is built.

A new row is one line here. ``build`` takes ``pretrained`` (bool) and gives the network of its published size, but for
RCAN's, which is shorter.
Nets for ImageNet get 1000 classes, as their papers and libraries count them.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from ..extras import require
from ..measure import residual_blocks
from ..models import create_model
from ..models.variants import VARIANTS
from .networks import RCAN, LeNet5, UNet

FAMILIES = ("classical", "residual", "thesis blocks", "efficient", "attention", "MLP", "dense output")


@dataclass(frozen=True)
class Row:
    """One architecture.

    Attributes:
        label: what tables and figures print.
        family: one of :data:`FAMILIES`; the marker in the overview.
        build: ``build(pretrained=False)`` gives an ``nn.Module`` with fresh weights from the global generator.
        size: side of the input in pixels.
        source: where the architecture is from, and whose code builds it.
        layers: pattern that the names of the measured layers match in full; "" for ``ctxnet.measure.residual_blocks``.
        small: name of the row in results/small whose trained record goes with it, or "".
        downloads: whether ``build(pretrained=True)`` knows weights to fetch.
    """

    label: str
    family: str
    build: Callable
    size: int
    source: str
    layers: str = ""
    small: str = ""
    downloads: bool = True

    def layer_names(self, model):
        """Names of the layers to measure, in the order of the model.

        Raises:
            ValueError: when the pattern matches none.
        """
        if not self.layers:
            return residual_blocks(model)
        found = [name for name, _ in model.named_modules() if re.fullmatch(self.layers, name)]
        if not found:
            raise ValueError(f"{self.label}: no layer matches {self.layers!r}")
        return found


def timm_model(name, pretrained=False, **args):
    """A network from timm with 1000 classes."""
    require("timm", user=name)
    import timm

    return timm.create_model(name, pretrained=pretrained, **args)


def torchvision_model(name, pretrained=False, *, segmentation=False, **args):
    """A network from torchvision; a segmentation net without the auxiliary classifier that only training uses."""
    require("timm", user=name)
    import torchvision

    if segmentation:
        args |= {"weights_backbone": None, "aux_loss": bool(pretrained)}
    return torchvision.models.get_model(name, weights="DEFAULT" if pretrained else None, **args)


def own_model(make, pretrained=False, **args):
    """A network of :mod:`ctxnet.atlas.networks`; nobody offers weights for it."""
    return make(**args)


def thesis_model(name, pretrained=False, *, num_classes=1000):
    """A row of :func:`ctxnet.list_models` at full size; weights for those from timm are timm's to find."""
    if pretrained and isinstance(VARIANTS[name].arch, str):
        return timm_model(name, pretrained)
    return create_model(name, num_classes=num_classes, pretrained=pretrained)


def _from(library, build, *, downloads=True):
    """What makes a row of this library: its arguments are the row's, then those of the network."""

    def row(label, family, network, size, source, *, layers="", **args):
        return Row(label, family, partial(build, network, **args), size, f"{source}; {library}", layers, downloads=downloads)

    return row


_timm, _torchvision = _from("timm", timm_model), _from("torchvision", torchvision_model)
_thesis, _own = _from("ctxnet", thesis_model), _from("ctxnet", own_model, downloads=False)
_cifar = _from("ctxnet", thesis_model, downloads=False)


def _of_the_thesis(name):
    variant = VARIANTS[name]
    family, label = ("thesis blocks", f"ResNet-50, {variant.label}") if variant.args else ("residual", variant.label)
    where = "§3.5" if variant.args else "§2.1"
    if variant.thesis_top1 and variant.tables:
        where = f"Table {variant.tables[0]}"
    family = {"vit_base_patch16_224": "attention"}.get(name, family)
    library = "timm" if isinstance(variant.arch, str) else "ctxnet"
    return Row(label, family, partial(thesis_model, name), 224, f"thesis, {where}; {library}", small=name)


# The last normalisation of a residual branch starts at one in every row. timm's default of zero would make every
# ResNet the identity at first, so that its blocks would use no context at all.
_ONE = {"zero_init_last": False}
_SEGMENTED = r"backbone\.layer\d\.\d+|classifier\.[04]"
THESIS = [name for name, variant in VARIANTS.items() if variant.tables or name == "resnet50"]

ROWS = {
    "lenet5": _own("LeNet-5", "classical", LeNet5, 32, "LeCun et al. 1998"),
    "alexnet": _torchvision("AlexNet", "classical", "alexnet", 224, "Krizhevsky et al. 2012"),
    "vgg16": _torchvision("VGG-16", "classical", "vgg16", 224, "Simonyan and Zisserman 2015"),
    "vgg19": _torchvision("VGG-19", "classical", "vgg19", 224, "Simonyan and Zisserman 2015"),
    "googlenet": _torchvision("GoogLeNet", "classical", "googlenet", 224, "Szegedy et al. 2015", init_weights=True,
                              aux_logits=False, layers=r"conv[123]|inception\d[a-e]"),
    "inception_v3": _torchvision("Inception v3", "classical", "inception_v3", 299, "Szegedy et al. 2016",
                                 init_weights=True, aux_logits=False, layers=r"Conv2d_\d[ab]_\dx\d|Mixed_\d[a-e]"),
    **{name: _cifar(VARIANTS[name].label, "residual" if name.startswith("resnet") else "classical", name, 32,
                    "He et al. 2016 §4.2", num_classes=10)
       for name in ("plain20", "plain56", "resnet20", "resnet32", "resnet44", "resnet56", "resnet110")},
    "resnet18": _thesis("ResNet-18", "residual", "resnet18", 224, "He et al. 2016"),
    "resnet34": _thesis("ResNet-34", "residual", "resnet34", 224, "He et al. 2016"),
    **{name: _of_the_thesis(name) for name in THESIS},
    "resnet101": _thesis("ResNet-101", "residual", "resnet101", 224, "He et al. 2016"),
    "resnet152": _thesis("ResNet-152", "residual", "resnet152", 224, "He et al. 2016"),
    "wide_resnet50_2": _timm("Wide ResNet-50-2", "residual", "wide_resnet50_2", 224, "Zagoruyko and Komodakis 2016", **_ONE),
    "resnext50_32x4d": _timm("ResNeXt-50", "residual", "resnext50_32x4d", 224, "Xie et al. 2017", **_ONE),
    "densenet121": _torchvision("DenseNet-121", "residual", "densenet121", 224, "Huang et al. 2017"),
    "seresnet50": _timm("SE-ResNet-50", "attention", "seresnet50", 224, "Hu et al. 2018", **_ONE),
    "cbam_resnet50": _timm("CBAM-ResNet-50", "attention", "resnet50", 224, "Woo et al. 2018",
                           block_args={"attn_layer": "cbam"}, **_ONE),
    "resnest50d": _timm("ResNeSt-50", "attention", "resnest50d", 224, "Zhang et al. 2020", **_ONE),
    "squeezenet1_0": _torchvision("SqueezeNet", "efficient", "squeezenet1_0", 224, "Iandola et al. 2016"),
    "mobilenetv1_100": _timm("MobileNet v1", "efficient", "mobilenetv1_100", 224, "Howard et al. 2017"),
    "mobilenetv2_100": _timm("MobileNet v2", "efficient", "mobilenetv2_100", 224, "Sandler et al. 2018"),
    "xception": _timm("Xception", "efficient", "legacy_xception", 299, "Chollet 2017", layers=r"block\d+|conv[34]"),
    **{f"efficientnet_b{i}": _timm(f"EfficientNet-B{i}", "efficient", f"efficientnet_b{i}", size, "Tan and Le 2019")
       for i, size in enumerate((224, 240, 260, 300))},
    "swin_tiny": _timm("Swin-T", "attention", "swin_tiny_patch4_window7_224", 224, "Liu et al. 2021"),
    "mixer_b16": _timm("MLP-Mixer-B/16", "MLP", "mixer_b16_224", 224, "Tolstikhin et al. 2021"),
    "resmlp_12": _timm("ResMLP-12", "MLP", "resmlp_12_224", 224, "Touvron et al. 2021"),
    "fcn_resnet50": _torchvision("FCN (ResNet-50)", "dense output", "fcn_resnet50", 224, "Long et al. 2015",
                                 segmentation=True, layers=_SEGMENTED),
    "deeplabv3_resnet50": _torchvision("DeepLabv3 (ResNet-50)", "dense output", "deeplabv3_resnet50", 224,
                                       "Chen et al. 2017", segmentation=True, layers=_SEGMENTED),
    "unet": _own("U-Net", "dense output", UNet, 224, "Ronneberger et al. 2015", layers=r"(encoder|decoder)\.\d"),
    "rcan": _own("RCAN, 3 groups of 6", "dense output", RCAN, 64, "Zhang et al. 2018", groups=3, blocks=6,
                 layers=r"groups\.\d\.blocks\.\d+"),
}  # fmt: skip
