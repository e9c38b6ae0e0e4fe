"""The table of rows: every network of the thesis by name, and what the thesis reports of it.

A new row is one line here. ``arch`` is a ResNet depth or a timm name, ``args`` are arguments of
:class:`ctxnet.models.resnet.ResNet`.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Variant:
    """One row.

    Attributes:
        label: what tables and figures print.
        arch: depth of a ResNet, the name of a timm model, or ``cifar_`` and the name of a network for 32×32 pixels.
        table: tables that show the row beside plain ResNet-50 ("4.5", or several: "4.1 4.2"); "": the table of rows that
            no other table shows.
        thesis_top1: accuracy on the validation set in percent, or None.
        thesis_params: parameters in millions as printed in the thesis, or None.
        args: arguments of the ResNet.
    """

    label: str
    arch: int | str
    table: str = ""
    thesis_top1: float | None = None
    thesis_params: float | None = None
    args: dict = field(default_factory=dict)

    @property
    def tables(self):
        """Numbers of the tables that show this row."""
        return tuple(self.table.split())


def _permuted(k, top1, params, *, table="4.1", suffix="", **args):
    plural = "s" if k > 1 else ""
    return Variant(f"{k} permutation{plural}{suffix}", 50, table, top1, params, {"context": "permutation", "k": k, **args})


def _attended(k, top1):
    plural = "s" if k > 1 else ""
    return Variant(f"{k} permutation{plural} + attention", 50, "4.4", top1, 23.5, {"context": "attention", "k": k})


def _random(d, top1):
    return Variant(f"random dilated d = {d}", 50, "4.5", top1, 63.7, {"context": "random_dilated", "k": 8, "d": d})


def _starved(label, **args):
    """3×3 convolutions made 1×1, and averages before every stride, so that every pixel still counts (chapter 6)."""
    return Variant(f"starved{label}", 50, args={"spatial": 1, "downsample": "average", **args})


def _full(label, **args):
    """The same network with its 3×3 convolutions, and averages before every stride as well."""
    return Variant(f"averaged strides{label}", 50, args={"downsample": "average", **args})


def _cheap(label, context, **args):
    """ResNet-50 with one of the blocks of chapter 8."""
    return Variant(label, 50, args={"context": context, **args})


FOUR_BLOCKS = ("layer1.2", "layer2.3", "layer3.5", "layer4.2")
EIGHT_BLOCKS = ("layer1.0", "layer1.2", "layer2.1", "layer2.3", "layer3.1", "layer3.3", "layer3.5", "layer4.1")
SHIFT, PERMUTED, MEAN = {"context": "half_shift"}, {"context": "half_permutation"}, {"context": "half_mean"}

VARIANTS = {
    "resnet50": Variant("ResNet-50", 50, "", 90.42, 23.5),
    "resnet50_perm1": _permuted(1, 90.52, 28.5, table="4.1 4.2"),
    "resnet50_perm3": _permuted(3, 89.63, 38.6),
    "resnet50_perm5": _permuted(5, 89.81, 48.7),
    "resnet50_perm1_stages34": _permuted(1, 90.85, 28.3, table="4.2", suffix=", stages 3–4", stages=(3, 4)),
    "resnet50_perm1_stages34_enc": Variant(
        "1 permutation + encoding, stages 3–4", 50,
        args={"context": "permutation", "k": 1, "encoding": True, "stages": (3, 4)},
    ),
    "resnet50_perm1_stages34_attn": Variant(
        "1 permutation + attention, stages 3–4", 50, args={"context": "attention", "k": 1, "stages": (3, 4)}
    ),
    "resnet50_perm1_enc": _permuted(1, 90.14, 28.5, table="4.3", suffix=" + encoding", encoding=True),
    "resnet50_perm3_enc": _permuted(3, 89.81, 38.6, table="4.3", suffix=" + encoding", encoding=True),
    "resnet50_perm5_enc": _permuted(5, 89.43, 48.7, table="4.3", suffix=" + encoding", encoding=True),
    "resnet50_perm1_attn": _attended(1, 90.14),
    "resnet50_perm3_attn": _attended(3, 89.83),
    "resnet50_perm5_attn": _attended(5, 89.76),
    "resnet50_dilated4": Variant("3×3 dilated, d = 4", 50, "4.5", 87.26, 23.5, {"dilation": 4}),
    "resnet50_inserted_dilated4": Variant(
        "inserted dilated d = 4", 50, "4.5", 90.78, 34.8, {"context": "inserted_dilated", "d": 4}
    ),
    "resnet50_inserted_dilated8": Variant(
        "inserted dilated d = 8", 50, "4.5", 89.81, 34.8, {"context": "inserted_dilated", "d": 8}
    ),
    "resnet50_random_dilated16": _random(16, 90.55),
    "resnet50_random_dilated8": _random(8, 91.09),
    "resnet50_random_dilated8_conv": Variant(
        "random dilated d = 8, convolution (ours)", 50, "4.5", None, None,
        {"context": "random_dilated_conv", "k": 8, "d": 8},
    ),
    "hrnet_w18": Variant("HRNet-W18", "hrnet_w18", "4.6", 91.62, 21.3),
    "convnext_tiny": Variant("ConvNeXt-T", "convnext_tiny", "4.6", 94.80, 28.6),
    "vit_base_patch16_224": Variant("ViT-B/16", "vit_base_patch16_224", "4.6", 84.99, 85.6),
    # not in the thesis: chapter 6, which kind of context helps a network that has none. Reach 1, 2, 4: tiles of 2, 4, 8
    "starved_resnet50": _starved(""),
    "starved_shift1": _starved(", one offset, reach 1", **SHIFT, tile=2),
    "starved_shift2": _starved(", one offset, reach 2", **SHIFT, tile=4),
    "starved_shift4": _starved(", one offset, reach 4", **SHIFT, tile=8),
    "starved_shiftmap": _starved(", one offset, whole map", **SHIFT),
    "starved_permute1": _starved(", permuted, reach 1", **PERMUTED, tile=2),
    "starved_permute2": _starved(", permuted, reach 2", **PERMUTED, tile=4),
    "starved_permute4": _starved(", permuted, reach 4", **PERMUTED, tile=8),
    "starved_permutemap": _starved(", permuted, whole map", **PERMUTED),
    "starved_redrawn": _starved(", permuted anew at every step", **PERMUTED, redraw=True),
    "starved_mean": _starved(", mean of the map", **MEAN),
    "starved_identity": _starved(", identity copy", context="identity_copy"),
    "starved_perm1": _starved(", concatenated permutation", context="permutation", k=1),
    "starved_shiftmap_4blocks": _starved(", one offset in 4 blocks", **SHIFT, blocks=FOUR_BLOCKS),
    "starved_shiftmap_8blocks": _starved(", one offset in 8 blocks", **SHIFT, blocks=EIGHT_BLOCKS),
    "full_resnet50": _full(""),
    "full_shift1": _full(", one offset, reach 1", **SHIFT, tile=2),
    "full_shiftmap": _full(", one offset, whole map", **SHIFT),
    "full_permutemap": _full(", permuted, whole map", **PERMUTED),
    "full_mean": _full(", mean of the map", **MEAN),
    # not in the thesis: chapter 8, context that costs at most a tenth more parameters and 15 % more multiplications. The
    # cheapest network that may reach ResNet-50 is a row of chapter 6: starved_shift1
    "resnet50_gc": _cheap("global context", "global_context"),
    "resnet50_dw7": _cheap("7×7 depthwise", "depthwise"),
    "resnet50_se": _cheap("squeeze-and-excitation", "squeeze_excitation"),
    "resnet50_eca": _cheap("efficient channel attention", "channel_attention"),
    "resnet50_shift": _cheap("shift", "shift"),
    "resnet50_ssconv": _cheap("spatially shuffled convolution", "spatial_shuffle"),
    "resnet50_gated_perm": _cheap("gated permutation", "gated_permutation"),
    "resnet50_partial_perm": _cheap("a quarter permuted", "partial_permutation"),
    "resnet50_dw_random": _cheap("8 depthwise random offsets, d = 4", "depthwise_random", k=8, d=4),
    # not in the thesis: controls of chapter 9, beside one concatenated permutation
    "resnet50_identity": Variant("identity copy", 50, args={"context": "identity_copy"}),
    "resnet50_mean": Variant("mean of the map", 50, args=MEAN),
    # not in the thesis: other depths, to be given a context by argument
    "resnet18": Variant("ResNet-18", 18),
    "resnet34": Variant("ResNet-34", 34),
    "resnet101": Variant("ResNet-101", 101),
    "resnet152": Variant("ResNet-152", 152),
    # not in the thesis: He et al. (2016) §4.2, for images of 32×32 pixels; ``width=64`` is their full size, 16 channels
    "plain20": Variant("plain-20", "cifar_plain20"),
    "plain56": Variant("plain-56", "cifar_plain56"),
    "resnet20": Variant("ResNet-20", "cifar_resnet20"),
    "resnet32": Variant("ResNet-32", "cifar_resnet32"),
    "resnet44": Variant("ResNet-44", "cifar_resnet44"),
    "resnet56": Variant("ResNet-56", "cifar_resnet56"),
    "resnet110": Variant("ResNet-110", "cifar_resnet110"),
}
