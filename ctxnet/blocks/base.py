"""What all context blocks share: argument checks and constant tables kept per map size."""

import torch
from torch import nn
from torch.utils._python_dispatch import _disable_current_modes


def require_at_least(name, value, minimum):
    """Refuse anything but an integer ≥ ``minimum``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ValueError(f"{name}={value!r} must be an integer ≥ {minimum}; nearest valid value: {name}={minimum}")
    return value


def require_quarters(channels):
    """Refuse a channel count that the relative encoding cannot split into four quarters."""
    require_at_least("channels", channels, 1)
    if channels % 4:
        near = max(4, 4 * round(channels / 4))
        raise ValueError(f"channels={channels} must be a multiple of 4 for the encoding; nearest valid value: {near}")
    return channels


def memory_format(x):
    """How a map (N, C, H, W) lies in memory: channels last, or as usual."""
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


class ContextBlock(nn.Module):
    """Fills the context slot of a residual block: (N, C, H, W) in, (N, ``out_channels``, H, W) out.

    Attributes:
        channels: C.
        out_channels: channels handed to the next convolution.
        copies: whether it hands on nothing but copies of its input, which are made again in no time.
        save_memory: whether :func:`convolve` keeps the input for the backward pass instead of the copies. None: on a CPU,
            where that costs nothing; a GPU, which waits for its memory, would pay with time.
    """

    copies = False
    save_memory = None

    def __init__(self, channels, *, out_channels=None):
        super().__init__()
        self.channels = require_at_least("channels", channels, 1)
        self.out_channels = out_channels or channels
        self._tables = {}

    def make_tables(self, height, width):
        """NumPy arrays this block needs for maps of one size; integer ones become indices, floating ones take x's dtype."""
        raise NotImplementedError

    def tables(self, x):
        """The tables for the size of ``x`` (N, C, H, W), as tensors on its device.

        They are not registered as buffers, which would follow ``model.half()`` and lose precision for a later
        ``model.double()``.
        """
        height, width = x.shape[2], x.shape[3]
        key = (height, width, x.device, x.dtype)
        if key not in self._tables:
            made = self._constant_tables(height, width, x.device, x.dtype)
            if torch.compiler.is_compiling():
                return made
            self._tables[key] = made
        return self._tables[key]

    def _constant_tables(self, height, width, device, dtype):
        # made outside any tracing or inference mode, so that what is kept is an ordinary tensor
        with _disable_current_modes(), torch.inference_mode(False):
            return tuple(
                torch.from_numpy(table).to(device=device, dtype=dtype if table.dtype.kind == "f" else torch.int64)
                for table in self.make_tables(height, width)
            )

    # what torch.compiler.assume_constant_result does, without its import of the whole compiler (seconds)
    _constant_tables._dynamo_marked_constant = True

    def start_as_identity(self):
        """Set the weights, if there are any, so that in eval mode the centre copy of the input passes unchanged."""


def convolve(conv, block, x):
    """``conv(block(x))``, in training without keeping the copies of a block that only copies.

    The convolution keeps its input for the gradient of its weights: k + 1 times x, which is kept anyway. Instead the
    block runs again in the backward pass. Values and gradients are the same to the bit.
    """
    y = block(x)
    if not _forgets(block, x):
        return conv(y)
    source, place, shape = x.detach(), y.data_ptr(), y.shape  # not y itself, which must go

    def pack(tensor):
        return None if tensor.data_ptr() == place and tensor.shape == shape else tensor

    def unpack(kept):
        with torch.no_grad():
            return block(source) if kept is None else kept

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        return conv(y)


def _forgets(block, x):
    if not getattr(block, "copies", False) or not block.training or torch.compiler.is_compiling():
        return False
    return x.device.type == "cpu" if block.save_memory is None else block.save_memory
