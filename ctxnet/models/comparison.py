"""The architectures of Table 4.6, from timm, at any width (timm has no width argument for them)."""

import copy

from ..extras import require


def create_comparison(name, *, num_classes, width, input_size, drop_rate=0.0):
    """HRNet-W18, ConvNeXt-T or ViT-B/16 from timm, all channel counts scaled by ``width`` / 64.

    HRNet's classification head keeps its size below full width: timm fixes it.
    """
    require("timm", user=name)
    import timm

    scale = width / 64
    if name.startswith("vit"):
        heads = max(1, round(12 * scale))
        return timm.create_model(
            name, num_classes=num_classes, img_size=input_size, num_heads=heads, embed_dim=heads * 64, drop_rate=drop_rate
        )
    if name.startswith("convnext"):
        dims = [max(1, round(dim * scale)) for dim in (96, 192, 384, 768)]
        return timm.create_model(name, num_classes=num_classes, dims=dims, drop_rate=drop_rate)
    if width == 64:
        return timm.create_model(name, num_classes=num_classes, drop_rate=drop_rate)
    from timm.models.hrnet import HighResolutionNet, cfg_cls

    config = copy.deepcopy(cfg_cls[name])
    config["stem_width"] = max(1, round(config["stem_width"] * scale))
    for stage in ("stage1", "stage2", "stage3", "stage4"):
        config[stage]["num_channels"] = tuple(max(4, round(c * scale)) for c in config[stage]["num_channels"])
    return HighResolutionNet(config, num_classes=num_classes, drop_rate=drop_rate)
