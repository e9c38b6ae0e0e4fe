"""The roofline (Williams et al., 2009) of a training step: no device can be faster than its memory and its arithmetic.

Bytes are counted as if everything elementwise were fused with its neighbours: every other operation of the forward and
the backward pass reads each of its tensors and writes each of its results once, and SGD with momentum reads weight,
gradient and momentum and writes two of them. Bandwidth and arithmetic are measured on the device, in the same run, with a
copy and a matrix product.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import interleaved

FUSED = ("aten::_to_copy", "aten::copy_", "aten::zero_", "aten::fill_")  # besides what torch tags as pointwise


class Traffic(TorchDispatchMode):
    """``bytes``: what the operations inside the ``with`` block move at least."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        free = func.is_view or torch.Tag.pointwise in func.tags or func.name().split(".")[0] in FUSED
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if given and not free:
            made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
            self.bytes += sum(_size(tensor) for tensor in given + made)
        return result


def _size(tensor):
    return min(tensor.nbytes, tensor.untyped_storage().nbytes())  # an expanded tensor is read once


def step_cost(model, images, labels, *, bf16=False):
    """(bytes, floating-point operations) of one training step of ``model`` on images (N, C, H, W)."""
    model.train()
    with Traffic() as traffic, FlopCounterMode(display=False) as flops:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
            output = model(images)
        torch.nn.functional.cross_entropy(output.float(), labels).backward()
    weights = sum(p.nbytes for p in model.parameters())
    model.zero_grad()
    return traffic.bytes + 5 * weights, flops.get_total_flops()


def device_limits(device, *, bf16=False, repeats=5):
    """(bytes per second of a copy, read and written; floating-point operations per second of a matrix product)."""
    side, length = (8192, 2**28) if device == "cuda" else (1024, 2**25)
    numbers = torch.zeros(length, device=device)
    target = torch.empty_like(numbers)
    factor = torch.ones(side, side, device=device, dtype=torch.bfloat16 if bf16 else torch.float32)
    cases = {"copy": lambda: target.copy_(numbers), "product": lambda: factor @ factor}
    seconds = interleaved(cases, repeats=repeats, device=device)
    return 2 * numbers.nbytes / seconds["copy"], 2 * side**3 / seconds["product"]


def step_limit(model, images, labels, limits, *, bf16=False):
    """Seconds below which no training step of ``model`` on these images can go, under :func:`device_limits`."""
    moved, operations = step_cost(model, images, labels, bf16=bf16)
    bandwidth, arithmetic = limits
    return max(moved / bandwidth, operations / arithmetic)
