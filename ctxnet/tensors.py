"""Tensors on disk: safetensors files that carry a digest of themselves, and no pickle that is trusted.

safetensors loads silently wrong weights after a flipped bit; the digest makes that an error.
"""

import hashlib
import json
import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from .files import renew, write_bytes


def _digest(tensors, state_text):
    digest = hashlib.sha256(state_text.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_tensors(path, tensors, state):
    """Write ``tensors`` (dict name → tensor) and ``state`` (JSON-able) atomically into one ``.safetensors`` file.

    Raises:
        OSError: with errno and path; what was there before stays.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(state, sort_keys=True)
    write_bytes(path, save(tensors, metadata={"state": text, "sha256": _digest(tensors, text)}))


def load_tensors(path):
    """Read what :func:`save_tensors` wrote.

    Returns:
        (tensors, state), the tensors on the CPU.

    Raises:
        ValueError: in one line with the path, if the file is damaged or none of ours.
    """
    tensors, metadata = _read(path)
    if not _intact(tensors, metadata):
        raise ValueError(f"{path}: damaged checkpoint (digest differs); {renew(path)}")
    return tensors, json.loads(metadata["state"])


def read_weights(path):
    """State dict from a ``.safetensors`` file, ours or another's, or a ``torch.save`` file of tensors.

    A file of ours is checked against its digest; those of others carry none. Of a pickle only tensors are
    read, and no code in it is run.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: in one line with the path, if it is damaged or holds anything but named tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such weights file")
    if path.suffix == ".safetensors":
        tensors, metadata = _read(path)
        ours = {"state", "sha256"} & set(metadata)
        if ours and not _intact(tensors, metadata):
            raise ValueError(f"{path}: damaged weights (digest differs); make or download them again")
        return tensors
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, TypeError,
            AttributeError, MemoryError) as error:  # fmt: skip
        reason = str(error).strip().partition("\n")[0][:120]
        raise ValueError(f"{path}: damaged, or more than tensors in it, which is never run ({reason})") from None
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in tensors.items()
    ):
        raise ValueError(f"{path}: a state dict (names → tensors) was expected, not {type(tensors).__name__}")
    return dict(tensors)


def _read(path):
    try:
        with safe_open(path, framework="pt") as handle:
            return {name: handle.get_tensor(name) for name in handle.keys()}, handle.metadata() or {}  # noqa: SIM118
    except (SafetensorError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: damaged checkpoint ({error}); {renew(path)}") from None


def _intact(tensors, metadata):
    return "state" in metadata and metadata.get("sha256") == _digest(tensors, metadata["state"])
