"""The architectures of Table 4.6, from timm, at any width (timm has no width argument for them)."""

import copy

from ..extras import require


def create_comparison(name, *, num_classes, width, input_size, drop_rate=0.0, scale_head=False):
    """HRNet-W18, ConvNeXt-T or ViT-B/16 from timm, all channel counts scaled by ``width`` / 64.

    HRNet's classification head, whose size timm fixes, is scaled with the rest only by ``scale_head``.
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
    made = _scaled_hrnet(scale) if scale_head else HighResolutionNet
    return made(config, num_classes=num_classes, drop_rate=drop_rate)


def _scaled_hrnet(scale):
    """HRNet whose classification head is scaled like the rest: timm sets its channel counts to constants when it is made."""
    from timm.models.hrnet import HighResolutionNet

    def scaled(name):
        def set_scaled(self, value):
            narrow = [max(4, round(count * scale)) for count in (value if isinstance(value, list) else [value or 0])]
            self.__dict__[name] = narrow if isinstance(value, list) else value and narrow[0]

        return property(lambda self: self.__dict__[name], set_scaled)

    class ScaledHRNet(HighResolutionNet):
        head_channels = scaled("head_channels")
        num_features = scaled("num_features")

    return ScaledHRNet
