"""A copy of a model to measure, so that the model itself is left as it was, whatever its forward does.

Parameters are shared, not copied: a forward pass reads them only. Buffers, attributes, counters and lazy layers belong to
the copy. What hides a model's parts is taken off it: ``torch.compile``, ``DataParallel``, gradient checkpointing and the
fused path of attention.
"""

import copy
from contextlib import contextmanager

import torch
import torch.utils.checkpoint
from torch import nn
from torch.nn.parameter import UninitializedTensorMixin

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def unwrapped(model):
    """The module inside ``torch.compile``, ``DataParallel`` and the like; its layers have the names that users know."""
    while True:
        if hasattr(model, "_orig_mod"):
            model = model._orig_mod
        elif isinstance(model, _WRAPPERS):
            model = model.module
        else:
            return model


def require_measurable(model):
    """Refuse what is no module of Python layers.

    Raises:
        TypeError, ValueError: in one line that says what to measure instead.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is a {type(model).__name__}, not an nn.Module; wrap a function into a module first")
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError("model is TorchScript, which has no layers to look into; pass the module that it was made from")
    if isinstance(model, torch.fx.GraphModule) and any("quantize" in str(n.target) for n in model.graph.nodes):
        raise ValueError("model is quantised; pass the floating-point model that it was made from")
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError(f"layer {name!r} is TorchScript and cannot be followed; pass the module that it was made from")
        if ".quantized" in type(module).__module__ and "torch" in type(module).__module__:
            raise ValueError(f"layer {name!r} is quantised; pass the floating-point model that it was made from")


@contextmanager
def isolated(model, dtype=None):
    """Yield a copy of ``model`` in eval mode, frozen; the global random numbers and settings are as before afterwards.

    Args:
        model: any ``nn.Module``.
        dtype: floating-point type of the copy; None: that of the model.

    Raises:
        TypeError, ValueError: as :func:`require_measurable`; for a model that cannot be copied, naming what stands in
            the way.
    """
    require_measurable(model)
    made = _copy(unwrapped(model))
    if dtype is not None:
        made = made.to(dtype)
    for module in made.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.register_forward_hook(_straighten)
    fast = torch.backends.mha.get_fastpath_enabled()
    devices = {p.device for p in made.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=[d.index for d in devices]), _without_checkpoints():
        try:
            torch.backends.mha.set_fastpath_enabled(False)
            yield made.eval()
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)


def _straighten(module, inputs, output):
    """Let the gradient of a batch normalisation arrive contiguous.

    Its backward pass on a CPU takes that of one image whose tokens were made of the map for another memory layout and gives
    it to other places (seen in torch 2.11: gradient of shape (1, C, H, W) with strides (C, 1, W·C, C)).
    """
    if isinstance(output, torch.Tensor) and output.requires_grad:
        output.register_hook(torch.Tensor.contiguous)


def _copy(model):
    memo, seen = {}, set()
    for module in model.modules():
        for tensor in _tensors(vars(module), seen):
            if isinstance(tensor, UninitializedTensorMixin):
                continue
            if isinstance(tensor, nn.Parameter):
                memo[id(tensor)] = _shared(tensor)
            elif not tensor.is_leaf:  # kept by a forward pass; only leaves can be copied
                memo[id(tensor)] = tensor.detach().clone()
    try:
        made = copy.deepcopy(model, memo)
    except Exception as error:  # whatever an attribute's own copying raises
        reason = (str(error).strip().splitlines() or [""])[0]
        kind = f"{type(model).__name__} cannot be copied to be measured"
        raise ValueError(f"{kind} ({type(error).__name__}: {reason})") from None
    for module in made.modules():
        module._compiled_call_impl = None
        for name, child in module.named_children():
            if unwrapped(child) is not child:
                module._modules[name] = unwrapped(child)
    return made


def _shared(parameter):
    made = copy.copy(parameter) if type(parameter) is not nn.Parameter else nn.Parameter(parameter.data, requires_grad=False)
    return made.requires_grad_(False) if made.is_leaf else made


def _tensors(tree, seen):
    """All tensors in nested dicts, lists and tuples; modules among them have their turn of their own."""
    if isinstance(tree, torch.Tensor):
        yield tree
    elif isinstance(tree, dict) and id(tree) not in seen:
        seen.add(id(tree))
        for value in list(tree.values()):
            yield from _tensors(value, seen)
    elif isinstance(tree, (list, tuple, set)) and id(tree) not in seen:
        seen.add(id(tree))
        for value in list(tree):
            yield from _tensors(value, seen)


class _Plain:
    """In the place of a checkpointing function: the call itself."""

    @staticmethod
    def apply(function, _preserve_rng_state, *args):
        return function(*args)


def _plain_generator(function, *args, **kwargs):
    yield


@contextmanager
def _without_checkpoints():
    """Gradient checkpointing saves memory by running a part again in the backward pass; here the first run must do."""
    module = torch.utils.checkpoint
    kept = module.CheckpointFunction, module._checkpoint_without_reentrant_generator
    module.CheckpointFunction, module._checkpoint_without_reentrant_generator = _Plain, _plain_generator
    try:
        yield
    finally:
        module.CheckpointFunction, module._checkpoint_without_reentrant_generator = kept
