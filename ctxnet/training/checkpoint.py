"""Checkpoints: one safetensors file that carries tensors, JSON state and a digest of both.

safetensors loads silently wrong weights after a flipped bit; the digest makes that an error.
"""

import hashlib
import json

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..files import atomic_path


def _digest(tensors, state_text):
    digest = hashlib.sha256(state_text.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_checkpoint(path, tensors, state):
    """Write ``tensors`` (dict name → tensor) and ``state`` (JSON-able) atomically."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(state, sort_keys=True)
    with atomic_path(path) as partial:
        save_file(tensors, partial, metadata={"state": text, "sha256": _digest(tensors, text)})


def load_checkpoint(path):
    """Read what :func:`save_checkpoint` wrote.

    Returns:
        (tensors, state), the tensors on the CPU.

    Raises:
        ValueError: in one line with the path, if the file is damaged or none of ours.
    """
    try:
        with safe_open(path, framework="pt") as handle:
            metadata = handle.metadata() or {}
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    except (SafetensorError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: damaged checkpoint ({error}); delete it and run the same command again") from None
    if "state" not in metadata or metadata.get("sha256") != _digest(tensors, metadata["state"]):
        raise ValueError(f"{path}: damaged checkpoint (digest differs); delete it and run the same command again")
    return tensors, json.loads(metadata["state"])


def flatten_optimizer(optimizer):
    """State of a ``torch.optim`` optimiser as (tensors, JSON-able rest); :func:`restore_optimizer` is the inverse."""
    state = optimizer.state_dict()
    tensors, rest = {}, {}
    for index, values in state["state"].items():
        for key, value in values.items():
            if isinstance(value, torch.Tensor):
                tensors[f"optimizer.{index}.{key}"] = value
            else:
                rest[f"{index}.{key}"] = value
    return tensors, rest


def restore_optimizer(optimizer, tensors, rest):
    """Put back what :func:`flatten_optimizer` took; hyperparameters stay as the optimiser was built."""
    state = {}
    for name, value in (tensors | {f"optimizer.{key}": value for key, value in rest.items()}).items():
        _, index, key = name.split(".", 2)
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
