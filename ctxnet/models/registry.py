"""Networks by name."""

import fnmatch
import sys

import torch

from ..extras import require
from ..naming import require_known, unknown_name
from .cifar import create_cifar
from .comparison import create_comparison
from .resnet import ResNet
from .trained import read_trained
from .variants import VARIANTS
from .weights import load_plain_weights, read_state_dict, torchvision_state_dict

FULL_WIDTH = 64


def list_models(pattern="*"):
    """Names of the known networks that match a shell pattern, in the order of the thesis.

    Raises:
        ValueError: if none matches, with the near names.
    """
    names = fnmatch.filter(VARIANTS, pattern)
    if not names:
        raise unknown_name("model", pattern, VARIANTS)
    return names


def create_model(name, *, num_classes=10, seed=0, width=FULL_WIDTH, input_size=224, drop_rate=0.0, init_seed=None,
                 draw_seed=None, scale_head=False, pretrained=False, **overrides):
    """Build a network of the thesis, or a variation of one.

    Args:
        name: one of ``list_models()``.
        num_classes: outputs of the classifier.
        seed: decides the initial weights and all random positions; the global generators are left alone.
        width: channels of the first stage; 64 is full size, 16 a quarter of every channel count. (So full size is 64
            also for the nets for 32×32 pixels, whose first stage then has 16 channels.)
        input_size: side of the square input in pixels: ViT's grid needs it, and it lets a ``d`` larger than the map
            be refused. ResNets accept any other size afterwards.
        drop_rate: share of the features before the classifier that dropout sets to zero in training.
        init_seed: decides the initial weights instead of ``seed``, and draws those of a ResNet layer by layer: networks
            with the same ``init_seed`` start with the same weights wherever a layer has the same name and shape.
        draw_seed: decides random positions instead of ``seed``.
        scale_head: also scale HRNet's classification head by ``width``; without effect on other networks.
        pretrained: True downloads torchvision's ImageNet weights; a path (``.safetensors``, ``.pth``) or a state
            dict loads those of a plain ResNet of the same depth and width, see ``load_plain_weights``. "small" gives a
            row of ``list_trained()`` as this project trained it on Imagenette, in eval mode: width, input size and seeds are
            those of its training, and ``model.trained`` says what is known of it (``ctxnet.models.trained.read_trained``).
        **overrides: arguments of :class:`ctxnet.models.resnet.ResNet` that replace or extend the row's own:
            ``context``, ``k``, ``d``, ``encoding``, ``tile``, ``stages``, ``blocks``, ``dilation``, ``spatial``,
            ``downsample``, ``zero_init``, ``offset_scale``. Of the ResNets for 32×32 pixels, ``drop_path``
            (:class:`ctxnet.models.cifar.CifarNet`).

    Raises:
        ValueError: on a wrong name or value, with the nearest valid one.
    """
    variant = VARIANTS[require_known("model", name, VARIANTS)]
    if isinstance(pretrained, str) and pretrained == "small":
        return _as_trained(name, num_classes, width, overrides)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed if init_seed is None else init_seed)
        if isinstance(variant.arch, str):
            dropped = {"drop_path": overrides.pop("drop_path", 0.0)} if variant.arch.startswith("cifar_") else {}
            if overrides or pretrained:
                given = ", ".join(overrides) or "pretrained"
                origin = "is a net for 32×32 pixels" if variant.arch.startswith("cifar_") else "comes from timm"
                raise ValueError(f"{name} {origin} and has no context slot: it takes no {given}; use a row from resnet18 on")
            if variant.arch.startswith("cifar_"):
                return create_cifar(variant.arch, num_classes=num_classes, width=width, drop_rate=drop_rate, **dropped)
            return create_comparison(
                variant.arch, num_classes=num_classes, width=width, input_size=input_size, drop_rate=drop_rate,
                scale_head=scale_head,
            )
        if "drop_path" in overrides:
            raise ValueError(f"{name} takes no drop_path; use a ResNet for 32×32 pixels, resnet20 … resnet110")
        positions = seed if draw_seed is None else draw_seed
        model = ResNet(variant.arch, num_classes=num_classes, width=width, seed=positions, input_size=input_size,
                       drop_rate=drop_rate, **variant.args | overrides)
        if init_seed is not None:
            model.draw_by_layer(init_seed)
    if pretrained is not False:
        state = torchvision_state_dict(variant.arch) if pretrained is True else read_state_dict(pretrained)
        load_plain_weights(model, state)
    return model


def _as_trained(name, num_classes, width, overrides):
    """A row of :func:`ctxnet.models.trained.list_trained`; a classifier of another size starts afresh."""
    state, about = read_trained(name)
    chosen = about["network"] | {"num_classes": num_classes}
    if overrides or width not in (FULL_WIDTH, chosen["width"]):
        given = ", ".join(overrides) or f"width={width}"
        raise ValueError(f"{name}, pretrained='small': trained as it stands at width={chosen['width']}; it takes no {given}")
    model = create_model(name, **chosen)
    if num_classes != len(about["classes"]):
        state |= {key: tensor for key, tensor in model.state_dict().items() if key.startswith("fc.")}
    model.load_state_dict(state)
    model.trained = about
    return model.eval()


def count_parameters(model):
    """Number of parameters without the classifier, which is how the thesis' numbers come out."""
    classifier = model.get_classifier() if hasattr(model, "get_classifier") else model.fc
    return sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in classifier.parameters())


def register_timm():
    """Make ``timm.create_model`` build our rows; names timm already has (``resnet50`` …) stay timm's. Safe to repeat."""
    require("timm", user="register_timm()")
    import timm
    from timm.models import register_model

    module = sys.modules[__name__]
    module.__all__ = []  # timm appends the names it registers here
    for name in VARIANTS:
        if not timm.is_model(name):
            entry = _timm_entry(name)
            setattr(module, name, entry)
            register_model(entry)


def _timm_entry(name):
    def build(pretrained=False, pretrained_cfg=None, pretrained_cfg_overlay=None, cache_dir=None, **kwargs):
        return create_model(name, pretrained=pretrained, **kwargs)

    build.__name__, build.__module__ = name, __name__
    return build
