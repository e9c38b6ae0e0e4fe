"""Ordinary ResNet weights into a context ResNet."""

from pathlib import Path

import torch

from ..blocks.base import ContextBlock
from ..extras import require
from ..tensors import read_weights


def read_state_dict(source):
    """A state dict from a mapping or a file; errors as :func:`ctxnet.tensors.read_weights`."""
    return read_weights(source) if isinstance(source, (str, Path)) else dict(source)


def torchvision_state_dict(depth):
    """ImageNet weights of torchvision's ResNet of this depth; downloads them once."""
    require("timm", user="pretrained=True")
    import torchvision

    return torchvision.models.get_model_weights(f"resnet{depth}").DEFAULT.get_state_dict(progress=True, check_hash=True)


@torch.no_grad()
def load_plain_weights(model, state):
    """Load the weights of a plain ResNet so that a context model computes the same function, where its block allows it.

    A widened convolution gets zeros for the added inputs, an inserted layer starts as the identity (in eval mode).
    Attention and a dilated 3×3 convolution have no weights that could undo them: those networks start elsewhere.
    A classifier of another size keeps its initial weights.

    Args:
        model: a :class:`ctxnet.models.resnet.ResNet`.
        state: state dict of a plain ResNet of the same depth and width, with torchvision's names.

    Raises:
        ValueError: naming the first tensor that is missing, unknown or misshapen.
    """
    own = model.state_dict()
    expected = {name for name in own if ".context." not in name}
    for name in sorted(expected ^ set(state)):
        # old checkpoints lack the counter of batch normalisation
        if not name.endswith("num_batches_tracked"):
            where = "missing from the weights" if name in expected else "in the weights but not in the model"
            raise ValueError(f"{name}: {where}; they belong to another architecture")
    loaded = {}
    for name in expected & set(state):
        tensor, target = state[name], own[name]
        if name.startswith("fc.") and tensor.shape != target.shape:
            continue
        if tensor.shape[:1] + tensor.shape[2:] == target.shape[:1] + target.shape[2:] and tensor.ndim == 4:
            wide = torch.zeros_like(target)
            wide[:, : tensor.shape[1]] = tensor
            tensor = wide
        if tensor.shape != target.shape:
            raise ValueError(f"{name}: weights have shape {tuple(state[name].shape)}, the model {tuple(target.shape)}")
        loaded[name] = tensor
    model.load_state_dict(loaded, strict=False)
    for module in model.modules():
        if isinstance(module, ContextBlock):
            module.start_as_identity()
