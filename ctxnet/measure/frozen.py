"""Cheap backward passes through a network in eval mode whose weights are frozen.

The gradient of one feature is zero outside its receptive field, which in the early layers is a small part of the map;
and batch normalisation with fixed statistics is one multiplication per channel. Autograd knows neither. Here both are
told to it while a model runs: convolutions pass back the part of the gradient that is not zero, and nothing is summed
for weights that want no gradient. The results are those of autograd up to rounding.
"""

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode


class FrozenWeights(TorchFunctionMode):
    """Within it, 2D convolutions and batch normalisations with frozen weights get the backward passes of this module."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        form = _FORMS.get(func)
        return (form or func)(*args, **(kwargs or {}))


def _conv2d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    frozen = not weight.requires_grad and not (bias is not None and bias.requires_grad)
    if isinstance(padding, str) or input.ndim != 4 or not (frozen and input.requires_grad):
        return torch.conv2d(input, weight, bias, stride, padding, dilation, groups)
    settings = *(_pair(value) for value in (stride, padding, dilation)), groups
    output = _Conv2d.apply(input, weight, bias, *settings)
    output._made_from = (input, weight, settings, output._version)  # for a normalisation that follows at once
    return output


def _batch_norm(input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
    given = [t for t in (weight, bias) if t is not None]
    if training or running_mean is None or running_var is None or any(t.requires_grad for t in given):
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    scale = (running_var + eps).rsqrt()
    scale = scale if weight is None else scale * weight
    shift = -running_mean * scale
    shift = shift if bias is None else shift + bias
    shape = (1, -1) + (1,) * (input.ndim - 2)
    made_from = getattr(input, "_made_from", None)
    if made_from is not None and made_from[-1] == input._version:
        return _Scaled.apply(made_from[0], input.detach(), made_from[1], scale.view(shape), shift.view(shape), made_from[2])
    return torch.addcmul(shift.view(shape), input, scale.view(shape))


_FORMS = {torch.conv2d: _conv2d, F.batch_norm: _batch_norm}


def _pair(value):
    return (value, value) if isinstance(value, int) else tuple(value) * (2 // len(value))


class _Conv2d(torch.autograd.Function):
    """``torch.conv2d`` that convolves back only the box of its output in which the gradient is not zero."""

    @staticmethod
    def forward(ctx, x, weight, bias, stride, padding, dilation, groups):
        ctx.save_for_backward(weight)
        ctx.size, ctx.layout, ctx.settings = x.shape, _layout(x), (stride, padding, dilation, groups)
        return torch.conv2d(x, weight, bias, stride, padding, dilation, groups)

    @staticmethod
    def backward(ctx, gradient):
        return _input_gradient(ctx, gradient, *ctx.saved_tensors, *ctx.settings), None, None, None, None, None, None


class _Scaled(torch.autograd.Function):
    """A convolution's output times ``scale`` plus ``shift``, per channel; backwards one convolution with scaled weights."""

    @staticmethod
    def forward(ctx, x, output, weight, scale, shift, settings):
        ctx.save_for_backward(weight * scale.view(-1, 1, 1, 1))
        ctx.size, ctx.layout, ctx.settings = x.shape, _layout(x), settings
        return torch.addcmul(shift, output, scale)

    @staticmethod
    def backward(ctx, gradient):
        return _input_gradient(ctx, gradient, *ctx.saved_tensors, *ctx.settings), None, None, None, None, None


def _input_gradient(ctx, gradient, weight, stride, padding, dilation, groups):
    spans = _box(gradient)
    if spans == _whole(gradient):
        return _convolve_back(gradient, weight, ctx.size, ctx.layout, stride, padding, dilation, groups)
    out = _empty(ctx.size, gradient, ctx.layout).zero_()
    if None in spans:
        return out
    (top, bottom), (left, right) = spans
    part = gradient[:, :, top:bottom, left:right].contiguous(memory_format=ctx.layout)
    height, rows, rows_in = _window(*spans[0], ctx.size[2], weight.shape[2], stride[0], padding[0], dilation[0])
    width, columns, columns_in = _window(*spans[1], ctx.size[3], weight.shape[3], stride[1], padding[1], dilation[1])
    seen = _convolve_back(part, weight, (*ctx.size[:2], height, width), ctx.layout, stride, (0, 0), dilation, groups)
    out[:, :, rows_in, columns_in] = seen[:, :, rows, columns]
    return out


def _convolve_back(gradient, weight, size, layout, stride, padding, dilation, groups):
    """What ``torch.nn.grad.conv2d_input`` gives, in the layout of the input, which spares copies to and fro."""
    input = _empty(size, gradient, layout)  # its values do not matter to its gradient
    wanted = [True, False, False]
    return torch.ops.aten.convolution_backward(
        gradient, input, weight, None, stride, padding, dilation, False, [0, 0], groups, wanted
    )[0]


def _empty(size, like, layout):
    return torch.empty(size, dtype=like.dtype, device=like.device, memory_format=layout)


def _layout(x):
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def _whole(gradient):
    return [(0, size) for size in gradient.shape[2:]]


def _box(gradient):
    """(first, last + 1) of the rows and of the columns in which (N, C, H, W) is not zero everywhere; None without any."""
    borders = (gradient.select(axis, end) for axis in (2, 3) for end in (0, -1))
    if gradient.device.type != "cpu" or all(border.any() for border in borders):
        # Mostly so after some layers, and much cheaper to see than what follows; a GPU would have to be waited for.
        return _whole(gradient)
    mask = (gradient.amax((0, 1)) != 0) | (gradient.amin((0, 1)) != 0)  # so NaN counts too
    return [_span(mask.any(axis)) for axis in (1, 0)]


def _span(mask):
    """(first, last + 1) of the true entries of a 1D mask; None without any."""
    found = mask.nonzero()
    return (int(found[0]), int(found[-1]) + 1) if len(found) else None


def _window(start, stop, size, kernel, stride, padding, dilation):
    """What outputs ``start`` … ``stop`` − 1 see along one axis: its length, its part inside the map, where that lies."""
    first = start * stride - padding
    length = (stop - 1 - start) * stride + dilation * (kernel - 1) + 1
    begin = max(0, -first)
    end = max(begin, min(length, size - first))  # nothing where they see padding alone
    return length, slice(begin, end), slice(first + begin, first + end)
