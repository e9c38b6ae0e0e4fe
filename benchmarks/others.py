"""Receptive fields of networks from other packages, against the networks themselves.

    PYTHONPATH=.:/tmp/others python -m benchmarks.others [--only monai] [--seconds 60]

None of the packages is a dependency; those that are missing are skipped. To get them, beside the project's environment:
``uv pip install --target /tmp/others --no-deps segmentation-models-pytorch transformers tokenizers regex huggingface-hub
pytorchcv pretrainedmodels munch kornia kornia-rs monai einops``. Weights are random, nothing is downloaded.

Two layers of each network are asked, an early and a late one. The probe knows nothing of the rules: it changes single
pixels inside the mask, outside of it and along its border, in double precision, by finite steps and by NaN.

right    exact, and no probe disagrees        refused  in one line that names a layer or an argument
bound    an upper bound, and no probe disagrees    wrong    anything else
"""

import argparse
import collections
import copy
import importlib
import itertools
import math
import re
import signal
import sys
import time
import warnings
from functools import partial

import torch
from torch import nn

from ctxnet.measure.receptive_field import Reach

PIXELS = 18  # probed per layer
EARLY = 150  # pixels of a small field
NAMED = r"layer '[^']*'|layout=|inputs=|the model does not take an input"


# --------------------------------------------------------------------------------------------------------- networks


class Twice(nn.Module):
    """A network of two images, such as optical flow: the second is the first, shifted."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x, x.roll(1, -1))


class Features(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner.features(x)


def smp():
    import segmentation_models_pytorch as package

    def build(architecture, encoder, **options):
        return lambda: (package.create_model(architecture, encoder, encoder_weights=None, **options), (3, 64, 64))

    archs = ["unet", "unetplusplus", "manet", "linknet", "fpn", "pspnet", "deeplabv3", "deeplabv3plus", "pan", "upernet"]
    found = {f"{a}-resnet18": build(a, "resnet18") for a in archs}
    encoders = (
        "mit_b0 vgg11_bn densenet121 mobilenet_v2 efficientnet-b0 se_resnet50 dpn68 timm-skresnet18 mobileone_s0 xception"
    )
    return (
        found
        | {f"unet-{e}": build("unet", e) for e in encoders.split()}
        | {"segformer-mit_b0": build("segformer", "mit_b0")}
    )


def hugging():
    import transformers as t

    tiny = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    vit = tiny | {"image_size": 32, "patch_size": 8}
    swin = {"image_size": 32, "patch_size": 4, "embed_dim": 8, "depths": [2, 1], "num_heads": [2, 2], "window_size": 4}
    heads = {"hidden_sizes": [8, 12, 16, 24], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 2, 2]}
    stages = {"hidden_sizes": [8, 12, 16, 24], "depths": [1, 1, 1, 1]}
    configs = {
        "ViT": vit,
        "DeiT": vit,
        "Beit": vit,
        "Data2VecVision": vit,
        "ViTMAE": vit | {"mask_ratio": 0.0},
        "ViTMSN": vit,
        "Yolos": vit | {"image_size": [32, 32], "num_detection_tokens": 3},
        "Dinov2": vit,
        "Dinov2WithRegisters": vit,
        "CLIPVision": vit,
        "SiglipVision": vit,
        "ChineseCLIPVision": vit,
        "BlipVision": vit,
        "OwlViTVision": vit,
        "GroupViTVision": vit | {"depths": [1, 1, 1]},
        "IJepa": vit,
        "DPT": vit | {"is_hybrid": False, "backbone_out_indices": [0, 0, 1, 1]},
        "PixtralVision": vit | {"head_dim": 8},
        "Swin": swin,
        "Swinv2": swin,
        "DonutSwin": swin,
        "MaskFormerSwin": swin,
        "ConvNext": stages,
        "ConvNextV2": stages,
        "ResNet": stages | {"embedding_size": 8, "layer_type": "basic"},
        "RegNet": stages | {"embedding_size": 8, "groups_width": 4},
        "PoolFormer": stages,
        "Segformer": heads,
        "GLPN": heads,
        "Pvt": heads | {"image_size": 64},
        "PvtV2": heads | {"image_size": 64},
        "MobileNetV1": {"depth_multiplier": 0.25},
        "MobileNetV2": {"depth_multiplier": 0.35},
        "MobileViT": {"hidden_sizes": [16, 20, 24], "neck_hidden_sizes": [8, 8, 12, 16, 16, 16, 32], "image_size": 64,
                      "num_attention_heads": 2},
        "MobileViTV2": {"image_size": 64, "width_multiplier": 0.25},
        "EfficientNet": {"width_coefficient": 0.25, "depth_coefficient": 0.5, "hidden_dim": 320},
        "Levit": {"image_size": 64, "hidden_sizes": [16, 24, 32], "num_attention_heads": [2, 2, 2], "depths": [1, 1, 1],
                  "key_dim": [8, 8, 8]},
        "Cvt": {"embed_dim": [8, 16, 16], "num_heads": [1, 2, 2], "depth": [1, 1, 1], "cls_token": [False, False, True],
                "drop_rate": [0.0] * 3},
        "FocalNet": {"embed_dim": 8, "depths": [1, 1], "image_size": 32, "focal_levels": [2, 2], "focal_windows": [3, 3]},
        "Bit": stages | {"embedding_size": 32, "hidden_sizes": [32, 64, 64, 64], "num_groups": 8},
        "Hiera": {"image_size": [64, 64], "embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1]},
        "SwiftFormer": {"depths": [1, 1, 1, 1], "embed_dims": [8, 12, 16, 24]},
        "HGNetV2": {},
        "TextNet": {},
        "SuperPoint": {"encoder_hidden_sizes": [8, 8, 8, 8], "decoder_hidden_size": 16, "descriptor_decoder_dim": 16},
        "Swin2SR": {"image_size": 32, "embed_dim": 8, "depths": [2], "num_heads": [2], "window_size": 4},
        "SamVision": vit | {"output_channels": 8, "global_attn_indexes": [1], "window_size": 3},
        "DINOv3ViT": vit,
        "DINOv3ConvNext": stages,
    }  # fmt: skip

    def build(name, options):
        def made():
            config = getattr(t, f"{name}Config")(**options)
            model = getattr(t, f"{name}Model", None)
            if model is None:
                model = getattr(t, {"SuperPoint": "SuperPointForKeypointDetection"}.get(name, f"{name}Backbone"))
            size = options.get("image_size", 64)
            return model(config), (3, *(size if isinstance(size, list) else (size, size)))

        return made

    return {name: build(name, options) for name, options in configs.items()}


def cv():
    from pytorchcv.model_provider import get_model

    names = (
        "resnet10 preresnet10 resnext14_16x4d seresnet10 sepreresnet10 diaresnet10 resnesta18 cbam_resnet18 "
        "bam_resnet18 airnet50_1x64d_r16 vgg11 bn_vgg11 alexnet squeezenet_v1_1 squeezeresnet_v1_1 bagnet9 "
        "octresnet10_ad2 resnet18_wd4 scnet50 sknet50 dla34 darknet_tiny darknet_ref hardnet39ds mobilenet_wd4 "
        "mobilenetv2_wd4 mobilenetv3_small_w7d20 igcv3_wd4 shufflenet_g1_wd4 shufflenetv2_wd2 shufflenetv2b_wd2 "
        "menet108_8x1_g3 mnasnet_small ghostnet peleenet efficientnet_b0 mixnet_s dicenet_wd5 espnetv2_wd2 fbnet_cb "
        "proxylessnas_cpu regnetx002 regnety002 hrnet_w18_small_v1 drnc26 dpn68 condensenet74_c8_g8 "
        "densenet40_k12_cifar10 channelnet fishnet99 fractalnet_cifar10 nin_cifar10 rir_cifar10 ror3_56_cifar10 "
        "revnet38 diracnet18v2 isqrtcovresnet18 resattnet56 selecsls42 sharesnet18 shakeshakeresnet20_2x16d_cifar10 "
        "wrn16_10_cifar10 xdensenet40_2_k24_bc_cifar10 msdnet22_cifar10 bisenet_resnet18_celebamaskhq cgnet_cityscapes "
        "dabnet_cityscapes edanet_cityscapes enet_cityscapes erfnet_cityscapes esnet_cityscapes espcnet_cityscapes "
        "fastscnn_cityscapes fpenet_cityscapes lednet_cityscapes linknet_cityscapes sinet_cityscapes segnet_cityscapes "
        "unet_cityscapes centernet_resnet18_voc ibppose_coco "
    )

    sizes = {"scnet50": 128, "espnetv2_wd2": 224, "fractalnet_cifar10": 32, "msdnet22_cifar10": 32}

    def build(name):
        model, size = get_model(name, pretrained=False), sizes.get(name, 64)
        if size in (224, 32):
            return model, (3, size, size)
        if isinstance(getattr(model, "features", None), nn.Module) and hasattr(model, "output"):
            model = model.features  # a classifier's last pool takes maps of 224 pixels alone
            if hasattr(model, "final_pool"):
                model.final_pool = nn.Identity()
        return model, (3, size, size)

    return {name: partial(build, name) for name in names.split()}


def cadene():
    import pretrainedmodels as package

    names = "bninception dpn68 fbresnet152 nasnetamobile squeezenet1_1 xception se_resnet50 vgg11 inceptionresnetv2"
    sizes = {"nasnetamobile": 128, "xception": 96, "inceptionresnetv2": 96}
    options = {"pretrained": None, "num_classes": 1000}

    def build(name):  # their classifiers take maps of 224 pixels alone
        return Features(getattr(package, name)(**options)), (3, *[sizes.get(name, 64)] * 2)

    return {name: partial(build, name) for name in names.split()}


def kornian():
    import kornia

    f, k = kornia.feature, kornia.filters
    return {
        "GaussianBlur2d": lambda: (nn.Sequential(k.GaussianBlur2d((5, 7), (1.0, 2.0))), (3, 24, 24)),
        "BoxBlur": lambda: (nn.Sequential(k.BoxBlur((3, 5))), (3, 24, 24)),
        "MedianBlur": lambda: (nn.Sequential(k.MedianBlur((3, 3))), (3, 24, 24)),
        "Sobel": lambda: (nn.Sequential(k.Sobel()), (3, 24, 24)),
        "Laplacian": lambda: (nn.Sequential(k.Laplacian(5)), (3, 24, 24)),
        "UnsharpMask": lambda: (nn.Sequential(k.UnsharpMask((3, 3), (1.5, 1.5))), (3, 24, 24)),
        "MotionBlur": lambda: (nn.Sequential(k.MotionBlur(5, 35.0, 0.5)), (3, 24, 24)),
        "BlurPool2D": lambda: (nn.Sequential(k.BlurPool2D(5, 2)), (3, 24, 24)),
        "MaxBlurPool2D": lambda: (nn.Sequential(k.MaxBlurPool2D(3)), (3, 24, 24)),
        "BilateralBlur": lambda: (nn.Sequential(k.BilateralBlur((3, 3), 0.5, (1.5, 1.5))), (3, 24, 24)),
        "CornerHarris": lambda: (nn.Sequential(f.CornerHarris(0.04)), (1, 24, 24)),
        "HardNet": lambda: (f.HardNet(False), (1, 32, 32)),
        "HardNet8": lambda: (f.HardNet8(False), (1, 32, 32)),
        "HyNet": lambda: (f.HyNet(False), (1, 32, 32)),
        "SOSNet": lambda: (f.SOSNet(False), (1, 32, 32)),
        "TFeat": lambda: (f.TFeat(False), (1, 32, 32)),
        "DISK": lambda: (f.DISK(), (3, 64, 64)),
        "KeyNet": lambda: (f.KeyNet(False), (1, 64, 64)),
        "XFeat": lambda: (f.XFeatModel(), (3, 64, 64)),
        "TinyViT": lambda: (
            kornia.contrib.TinyViT(img_size=64, embed_dims=(16, 32, 32, 32), num_heads=(1, 2, 2, 2)),
            (3, 64, 64),
        ),
    }


def medical():
    import monai.networks.nets as m

    two = {"spatial_dims": 2, "in_channels": 1}
    steps = {"channels": (4, 8, 8), "strides": (2, 2)}
    return {
        "UNet-2d": lambda: (m.UNet(**two, out_channels=2, **steps, num_res_units=1), (1, 32, 32)),
        "UNet-3d": lambda: (m.UNet(spatial_dims=3, in_channels=1, out_channels=2, **steps), (1, 12, 12, 12)),
        "UNet-1d": lambda: (m.UNet(spatial_dims=1, in_channels=1, out_channels=2, **steps), (1, 64)),
        "BasicUNet": lambda: (m.BasicUNet(**two, features=(4, 4, 8, 8, 8, 4)), (1, 64, 64)),
        "BasicUNet-3d": lambda: (m.BasicUNet(spatial_dims=3, features=(4, 4, 4, 4, 4, 4)), (1, 32, 32, 32)),
        "BasicUNetPlusPlus": lambda: (m.BasicUNetPlusPlus(**two, features=(4, 4, 8, 8, 8, 4)), (1, 32, 32)),
        "AttentionUnet": lambda: (m.AttentionUnet(**two, out_channels=2, **steps), (1, 32, 32)),
        "AttentionUnet-3d": lambda: (m.AttentionUnet(3, 1, 2, **steps), (1, 12, 12, 12)),
        "DynUNet": lambda: (m.DynUNet(2, 1, 2, (3, 3, 3), (1, 2, 2), (2, 2), filters=(4, 8, 8)), (1, 32, 32)),
        "SegResNet": lambda: (m.SegResNet(2, 8), (1, 32, 32)),
        "SegResNet-3d": lambda: (m.SegResNet(3, 8, blocks_down=(1, 1), blocks_up=(1,)), (1, 12, 12, 12)),
        "VNet": lambda: (m.VNet(spatial_dims=2, dropout_dim=2), (1, 32, 32)),
        "HighResNet": lambda: (m.HighResNet(2, 1, 2), (1, 48, 48)),
        "DenseNet": lambda: (m.DenseNet(2, 1, 2, 8, 4, (2, 2)), (1, 32, 32)),
        "DenseNet-3d": lambda: (m.DenseNet(3, 1, 2, 8, 4, (2,)), (1, 16, 16, 16)),
        "ResNet-3d": lambda: (m.ResNet("basic", (1, 1, 1, 1), (4, 4, 8, 8), n_input_channels=1), (1, 32, 32, 32)),
        "EfficientNet": lambda: (m.EfficientNetBN("efficientnet-b0", False, False, 2, 1), (1, 64, 64)),
        "FlexibleUNet": lambda: (m.FlexibleUNet(1, 2, "efficientnet-b0", decoder_channels=(16, 8, 8, 8, 8)), (1, 64, 64)),
        "AutoEncoder": lambda: (m.AutoEncoder(2, 1, 1, (4, 8), (2, 2)), (1, 32, 32)),
        "RegUNet": lambda: (m.RegUNet(2, 1, 4, 2), (1, 32, 32)),
        "ViT": lambda: (m.ViT(1, (32, 32), (8, 8), 16, 24, 2, 2, spatial_dims=2), (1, 32, 32)),
        "UNETR": lambda: (m.UNETR(1, 2, (32, 32), 4, 16, 24, 2, spatial_dims=2), (1, 32, 32)),
        "SwinUNETR": lambda: (m.SwinUNETR(1, 2, feature_size=12, spatial_dims=2, depths=(1,) * 4, num_heads=(1,) * 4),
                              (1, 64, 64)),
        "MedNeXt": lambda: (m.MedNeXt(spatial_dims=2, init_filters=4, in_channels=1, out_channels=2), (1, 64, 64)),
        "AutoencoderKL": lambda: (m.AutoencoderKL(**two, out_channels=1, num_res_blocks=(1, 1), channels=(8, 8),
                                  attention_levels=(False, False), norm_num_groups=4, latent_channels=2), (1, 32, 32)),
        "PatchDiscriminator": lambda: (m.PatchDiscriminator(2, 4, 1), (1, 64, 64)),
    }  # fmt: skip


def vision():
    import torchvision.models as m

    d, s, v = m.detection, m.segmentation, m.video
    off = {"weights": None, "weights_backbone": None}
    return {
        "fcn_resnet50": lambda: (s.fcn_resnet50(**off), (3, 64, 64)),
        "deeplabv3_mobilenet": lambda: (s.deeplabv3_mobilenet_v3_large(**off), (3, 64, 64)),
        "lraspp_mobilenet": lambda: (s.lraspp_mobilenet_v3_large(**off), (3, 64, 64)),
        "retinanet": lambda: (d.retinanet_resnet50_fpn(**off, min_size=64, max_size=64), (3, 64, 64)),
        "fasterrcnn_mobilenet": lambda: (
            d.fasterrcnn_mobilenet_v3_large_320_fpn(**off, min_size=64, max_size=64),
            (3, 64, 64),
        ),
        "ssdlite": lambda: (d.ssdlite320_mobilenet_v3_large(**off), (3, 320, 320)),
        "fcos": lambda: (d.fcos_resnet50_fpn(**off, min_size=64, max_size=64), (3, 64, 64)),
        "r3d_18": lambda: (v.r3d_18(), (3, 4, 32, 32)),
        "mc3_18": lambda: (v.mc3_18(), (3, 4, 32, 32)),
        "r2plus1d_18": lambda: (v.r2plus1d_18(), (3, 4, 32, 32)),
        "s3d": lambda: (v.s3d(), (3, 14, 224, 224)),
        "swin3d_t": lambda: (v.swin3d_t(), (3, 4, 32, 32)),
        "mvit_v1_b": lambda: (v.mvit_v1_b(), (3, 16, 224, 224)),
        "raft_small": lambda: (Twice(m.optical_flow.raft_small()), (3, 128, 128)),
        "shufflenet": lambda: (m.shufflenet_v2_x0_5(), (3, 64, 64)),
        "googlenet": lambda: (m.googlenet(init_weights=False), (3, 64, 64)),
        "mnasnet": lambda: (m.mnasnet0_5(), (3, 64, 64)),
        "maxvit": lambda: (m.maxvit_t(), (3, 224, 224)),
    }


PACKAGES = {
    "segmentation_models_pytorch": smp,
    "transformers": hugging,
    "pytorchcv": cv,
    "pretrainedmodels": cadene,
    "kornia": kornian,
    "monai": medical,
    "torchvision": vision,
}


# ------------------------------------------------------------------------------------------------------------- probe


class Stop(Exception):
    pass


def enliven(model):
    """Weights that hide no path: no scale is zero, no statistics are those of a fresh network."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point() and parameter.numel() > 1 and not bool(parameter.any()):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
            elif parameter.ndim == 1 and parameter.numel() > 1 and bool((parameter == parameter[0]).all()):
                parameter.copy_(parameter * (1 + 0.3 * torch.randn(parameter.shape, generator=generator)))
    return model.eval()


def calibrate(model, size):
    """Batch normalisation as after training, else what lies behind it vanishes; not all networks take a batch."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    try:
        with torch.no_grad():
            model(torch.randn(4, *size))
    except Exception:  # noqa: BLE001
        for norm in norms:
            norm.reset_running_stats()
    return model.eval()


def maps(model, size):
    """Names of an early and a late layer with a map of their own, and the shapes of their outputs."""
    seen, handles, calls = [], [], collections.Counter()
    n = len(size) - 1
    for name, module in model.named_modules():

        def look(module, args, output, name=name):
            calls[name] += 1
            if isinstance(output, torch.Tensor) and output.is_floating_point() and output.shape[:1] == (1,):
                map_like = output.ndim == n + 2 and math.prod(output.shape[2:]) > 1
                tokens = output.ndim == 3 and n == 2 and min(output.shape[1:]) > 3
                if map_like or tokens:
                    seen.append((name, tuple(output.shape)))

        handles.append(module.register_forward_hook(look))
    try:
        with torch.no_grad():
            model(torch.zeros(1, *size))
    finally:
        for handle in handles:
            handle.remove()
    # What runs several times, or is asked as the whole model, would need to be told apart.
    once = [(name, shape) for name, shape in seen if calls[name] == 1 and name]
    if not once:
        raise ValueError("no layer with a map")
    return dict([once[len(once) // 3], once[-1]])


def positions_of(shape, n):
    if len(shape) == n + 2:
        return shape[2:], None
    side = math.isqrt(shape[1])
    return (side, side), shape[1] - side * side


def pick(y, position, sizes, first, last):
    if last:
        return y[(slice(None), *position)]
    if first is not None:
        return y[:, first + position[0] * sizes[1] + position[1]]
    return y[(slice(None), slice(None), *position)]


def probe(model, layer, size, mask, exact, read):
    """Disagreements between a mask and the network in double precision."""
    net = copy.deepcopy(model).double()
    caught = {}

    def hook(module, args, output):
        caught["y"] = read(output).detach().flatten(1)
        raise Stop

    dict(net.named_modules())[layer].register_forward_hook(hook)

    def run(x):
        with torch.no_grad():
            try:
                net(x)
            except Stop:
                return caught["y"]
        raise ValueError(f"layer {layer!r} does not run")

    generator = torch.Generator().manual_seed(0)
    chosen = sample(mask, generator)
    moved, may = torch.zeros(len(chosen), dtype=torch.bool), torch.zeros(len(chosen), dtype=torch.bool)
    # A field this small belongs to a layer so early that finite steps cannot vanish on their way; of others, NaN decides.
    early = int(mask.sum()) <= EARLY
    for step in (1.0, -40.0, *((40.0, -1.0, 5.0, -5.0) if early else (math.nan,))):
        x = torch.randn(1, *size, dtype=torch.double, generator=generator)
        before = run(x)
        for i, pixel in enumerate(chosen.tolist()):
            y = x.clone()
            y[(0, slice(None), *pixel)] += step
            try:
                after = run(y)
            except Stop:
                raise
            except Exception:  # noqa: BLE001  some networks refuse NaN
                continue
            if math.isnan(step):
                may[i] |= bool(after.isnan().any())
            else:
                moved[i] |= bool((after - before).abs().max() > 1e-9 * (1e-3 + before.abs().max()))
    inside = mask[tuple(chosen.T)]
    outside = int((moved & ~inside).sum())
    idle = int((inside & ~moved & ~may).sum()) if exact else 0
    return outside, idle, int((inside & moved).sum())


def sample(mask, generator):
    groups = [mask.nonzero(), (~mask).nonzero()]
    shifted = torch.zeros_like(mask)
    for dim, by in itertools.product(range(mask.ndim), (1, -1)):
        shifted |= mask.roll(by, dim) != mask
    groups.append(shifted.nonzero())
    picked = [g[torch.randperm(len(g), generator=generator)[: PIXELS // 3]] for g in groups]
    return torch.cat(picked).unique(dim=0)


def judge(build):
    torch.manual_seed(0)
    model, size = build()
    model = calibrate(enliven(model), size)
    n = len(size) - 1
    verdicts, said = [], []
    for layer, shape in maps(model, size).items():
        try:
            reach = Reach(model, [layer], size)
            grid = reach.grids[layer]
            sizes, first = positions_of(shape, n)
            last = len(shape) == n + 2 and grid.dims == tuple(range(1, n + 1))  # channels last
            if last:
                sizes = shape[1:-1]
            position = tuple(s // 2 for s in sizes)
            mask, exact = reach.masks({layer: grid.position(position)})[layer]
        except (NotImplementedError, ValueError) as error:
            line = str(error)
            known = "\n" not in line and re.search(NAMED, line)
            verdicts.append("refused" if known else "wrong")
            said.append(line.splitlines()[0][:150])
            continue
        except Exception as error:  # noqa: BLE001
            verdicts.append("wrong")
            said.append(f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:150]}")
            continue
        if tuple(grid.centers.shape[:-1]) != tuple(sizes):
            verdicts.append("wrong")
            said.append(f"{layer}: map of {tuple(grid.centers.shape[:-1])}, output {shape}")
            continue
        read = partial(pick, position=position, sizes=sizes, first=first, last=last)
        outside, idle, moved = probe(model, layer, size, mask, exact, read)
        if outside or idle:
            verdicts.append("wrong")
            said.append(f"{layer} {shape} at {position}: {outside} pixels outside move it, {idle} inside do not")
        else:
            verdicts.append("right" if exact else "bound")
            if not moved:
                said.append(f"{layer}: no probed pixel moves it beyond rounding")
    worst = next(v for v in ("wrong", "refused", "bound", "right") if v in verdicts)
    return worst, "; ".join(said)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=PACKAGES)
    parser.add_argument("--name", default="", help="networks whose name contains this")
    parser.add_argument("--seconds", type=int, default=90, help="per network")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    totals = {}

    def late(*_):
        raise TimeoutError("too slow")

    signal.signal(signal.SIGALRM, late)
    for package, table in PACKAGES.items():
        if options.only not in (None, package):
            continue
        try:
            importlib.import_module(package)
            networks = table()
        except ImportError as error:
            print(f"{package}: skipped ({error})")
            continue
        counts = totals.setdefault(package, collections.Counter())
        for name, build in networks.items():
            if options.name not in name:
                continue
            start = time.time()
            signal.alarm(options.seconds)
            try:
                verdict, why = judge(build)
            except BaseException as error:  # noqa: BLE001
                if isinstance(error, KeyboardInterrupt):
                    raise
                verdict, why = "not run", f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:150]}"
            finally:
                signal.alarm(0)
            counts[verdict] += 1
            print(f"{verdict:8} {package}/{name} {time.time() - start:.0f} s {why}", flush=True)
    for package, counts in totals.items():
        print(f"{package:28} {dict(counts)}")
    print(f"{'all':28} {dict(sum(totals.values(), collections.Counter()))}")
    return int(any(counts["wrong"] for counts in totals.values()))


if __name__ == "__main__":
    sys.exit(main())
