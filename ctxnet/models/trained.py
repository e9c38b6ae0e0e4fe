"""Small trained networks that come with the package: a quarter of the width, half precision, a file each.

They show *trained* context where there is neither a GPU nor a network connection. ``ctxnet keep`` writes them from a run.
"""

from pathlib import Path

import torch

from ..naming import unknown_name
from ..tensors import load_tensors, save_tensors

FOLDER = Path(__file__).parent / "trained"


def list_trained():
    """Names of the rows that come trained, for ``create_model(name, pretrained="small")``."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def read_trained(name):
    """A trained row.

    Returns:
        (state dict in single precision, about). About is a dict: ``network`` (arguments of ``create_model``), ``classes``,
        ``protocol``, ``seed``, ``record`` (SHA-256 of its record), ``commit``, ``top1`` of the record and ``top1_half`` of
        the weights as they are kept, 0 … 1, over ``n`` images.

    Raises:
        ValueError: no such row comes trained, with the near names; or its file is damaged.
    """
    if name not in list_trained():
        raise unknown_name("trained network", name, list_trained())
    tensors, about = load_tensors(FOLDER / f"{name}.safetensors")
    return single(tensors), about


def single(state):
    """A state dict with its floating-point tensors in single precision."""
    return {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in state.items()}


def halved(state):
    """A state dict with its floating-point tensors in half precision.

    Raises:
        ValueError: for a value that half precision cannot hold.
    """
    half = {key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in state.items()}
    for key, tensor in half.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{key}: holds values beyond ±65504, which half precision cannot keep")
    return half


def write_trained(name, state, about):
    """Keep a row's trained weights, as :func:`halved` gives them, with what is known of them; returns the path."""
    path = FOLDER / f"{name}.safetensors"
    save_tensors(path, state, about)
    return path
