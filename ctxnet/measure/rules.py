"""Which input elements can reach which output elements, one rule per class of ATen call.

A rule gives, for every input of a call that depends on the image, a chain of *steps*. A step works on tensors with
one leading dimension of its own, followed by the dimensions of the value, where size 1 stands for "the same all along
this dimension" (so that a mask that is equal for all channels costs one channel). Each step has two directions:

``back(mask)``  bool (layers, ...): which elements of the step's input can reach the marked elements of its output;
``forward(place)``  float64 (3, ...): row, column and *cost* of each element. Row and column say where in the image it
    sits by the arithmetic of strides and paddings. Where paths meet, the cheapest says where the result sits (equally
    cheap ones are averaged): a skip connection costs nothing, a k×k window k−1 per side, a mixture over places as much
    as they lie apart. Cost is infinite for what sits nowhere, such as padding or a class token.

Weights do not matter: a zero weight reaches as much as any other.
"""

import math

import torch

RULES = {}
_JITTER = 1e-3  # cost of an irregular selection, so that the unshuffled copy decides where a mixture sits


class Call:
    """One node of a trace seen from its rule: arguments by their schema's names, shapes, constants."""

    def __init__(self, trace, node, index=None):
        self.trace, self.node, self.index = trace, node, index
        names = [a.name for a in node.target._schema.arguments]
        self.args = {a.name: a.default_value for a in node.target._schema.arguments if a.has_default_value()}
        self.args |= dict(zip(names, node.args, strict=False)) | node.kwargs
        self.name = node.target._schema.name

    def __getitem__(self, name):
        return self.args[name]

    @property
    def shape(self):
        value = self.node.meta["val"]
        return tuple((value if self.index is None else value[self.index]).shape)

    def live(self, value):
        return isinstance(value, torch.fx.Node) and value in self.trace.live

    @property
    def inputs(self):
        """Live tensor arguments, each once."""
        return [n for n in self.node.all_input_nodes if n in self.trace.live]

    def dims(self, name, ndim):
        """Sorted non-negative dimensions from an argument that is an int, a list, empty or None (both: all)."""
        value = self[name]
        value = [value] if isinstance(value, int) else value or range(ndim)
        return tuple(sorted(d % ndim for d in value))


def relations(trace, node, index=None):
    """``([(input node, steps), ...], exact)`` for output ``index`` of a node.

    Raises:
        NotImplementedError: naming the layer and the call when there is no rule for it.
    """
    call = Call(trace, node, index)
    function = RULES.get(call.name)
    if function is None and torch.Tag.pointwise in node.target.tags:
        function = elementwise
    if function is None:
        raise unknown(call)
    return function(call)


def unknown(call, why="no rule says what it can reach"):
    path = call.trace.path(call.node)
    kind = f" ({why})"
    return NotImplementedError(f"layer {path!r} calls {call.name.replace('::', '.')}, which cannot be followed{kind}")


def rule(names):
    """Decorator: the rule for the ATen calls of these names, separated by blanks."""

    def register(function):
        RULES.update({name if "::" in name else f"aten::{name}": function for name in names.split()})
        return function

    return register


# ---------------------------------------------------------------------------------------------------- helpers


def compact(tensor):
    """Shrink every dimension but the first to size 1 where the tensor is the same all along it."""
    for dim in range(1, tensor.ndim):
        if tensor.shape[dim] > 1:
            first = tensor.narrow(dim, 0, 1)
            if bool((tensor == first).all()):
                tensor = first
    return tensor


def fit(mask, shape):
    """Undo broadcasting: reduce a mask over a call's output to an input of ``shape``."""
    while mask.ndim - 1 > len(shape):
        mask = mask.any(1)
    dims = [d + 1 for d, size in enumerate(shape) if size == 1 and mask.shape[d + 1] > 1]
    return mask.any(dims, keepdim=True) if dims else mask


def mix(place, dims):
    """Where mixtures over ``dims`` (counted with the leading one) sit; those dimensions get size 1."""
    dims = [d for d in dims if place.shape[d] > 1]
    if not dims:
        return place
    position, cost = place[:2], place[2:]
    least = cost.amin(dims, keepdim=True)
    weight = (cost <= least + 1e-9).to(place.dtype)
    mean = (position * weight).sum(dims, keepdim=True) / weight.sum(dims, keepdim=True)
    apart = ((position - mean).abs() * weight).amax(dims, keepdim=True).sum(0, keepdim=True)
    return torch.cat([mean, least + apart])


def union(places):
    """Where a result of several inputs sits: with the cheapest; without any, nowhere."""
    if not places:
        return torch.tensor([0.0, 0.0, math.inf], dtype=torch.float64)
    ndim = max(p.ndim for p in places)
    places = [p.reshape(3, *[1] * (ndim - p.ndim), *p.shape[1:]) for p in places]
    return mix(torch.stack(torch.broadcast_tensors(*places), 1), [1])[:, 0] if len(places) > 1 else places[0]


# ------------------------------------------------------------------------------------------------------ steps


class Mix:
    """An output depends on the whole input along ``dims``; elementwise along the others."""

    def __init__(self, dims=(), squeeze=False, cost=0.0):
        self.dims, self.squeeze, self.cost = [d + 1 for d in sorted(dims)], squeeze, cost

    def back(self, mask):
        if self.squeeze:
            for dim in self.dims:
                mask = mask.unsqueeze(dim)
        return mask.any(self.dims, keepdim=True) if self.dims else mask

    def forward(self, place):
        place = mix(place, self.dims)
        if self.cost:
            place = torch.cat([place[:2], place[2:] + self.cost])
        return place.squeeze(self.dims) if self.squeeze and self.dims else place


class Whole:
    """Every output depends on every input element."""

    def __init__(self, shape):
        self.ndim = len(shape)

    def back(self, mask):
        return mask.reshape(len(mask), -1).any(1).reshape(-1, *[1] * self.ndim)

    def forward(self, place):
        return mix(place, range(1, place.ndim)).reshape(3)


class Channels:
    """Mix dimension 1 within each of ``groups``; ``inputs`` channels become ``outputs``."""

    def __init__(self, groups, inputs, outputs):
        self.groups, self.inputs, self.outputs = groups, inputs, outputs

    def _split(self, tensor):
        return tensor.unflatten(2, (self.groups, -1))

    def back(self, mask):
        if mask.shape[2] == 1 or self.groups == 1:
            return mask.any(2, keepdim=True)
        return self._split(mask).any(3).repeat_interleave(self.inputs // self.groups, 2)

    def forward(self, place):
        if place.shape[2] == 1 or self.groups == 1:
            return mix(place, [2])
        return mix(self._split(place), [3]).squeeze(3).repeat_interleave(self.outputs // self.groups, 2)


class Window:
    """Windows over the last dimensions: per dimension a bool matrix (outputs, inputs) and each output's centre."""

    def __init__(self, reaches, centers, cost):
        self.reaches, self.centers, self.cost = reaches, centers, cost

    def back(self, mask):
        for index, reach in enumerate(reversed(self.reaches)):
            if reach.shape[0] == reach.shape[1] and bool((reach == torch.eye(len(reach))).all()):
                continue
            dim = mask.ndim - 1 - index
            shape = list(mask.shape)
            shape[dim] = reach.shape[0]
            mask = (mask.expand(shape).movedim(dim, -1).float() @ reach.float() > 0).movedim(-1, dim)
        return mask

    def forward(self, place):
        position, cost = place[:2], place[2:]
        for index, (reach, center) in enumerate(zip(reversed(self.reaches), reversed(self.centers), strict=True)):
            dim, size = place.ndim - 1 - index, reach.shape[1]
            if place.shape[dim] == 1 < size:
                continue  # the same all along, so wherever it is read
            low = center.floor().clamp(0, max(size - 2, 0)).long()
            high = (low + 1).clamp(max=size - 1)
            part = (center - low).reshape(-1, *[1] * index)  # beyond 0…1 at the border: padding extends the lines
            first = position.index_select(dim, low)
            position = first + part * (position.index_select(dim, high) - first)
            cost = cost.index_select(dim, center.round().clamp(0, size - 1).long())
        shape = torch.broadcast_shapes(position.shape[1:], cost.shape[1:])
        return torch.cat([position.expand(2, *shape), (cost + self.cost).expand(1, *shape)])


class Pick:
    """Output i along ``dim`` is input ``source[i]``, or a constant where that is negative."""

    def __init__(self, dim, source, size, squeeze=False, cost=0.0):
        self.dim, self.source, self.size, self.squeeze, self.cost = dim + 1, source, size, squeeze, cost
        self.known = self.source >= 0

    def back(self, mask):
        if self.squeeze:
            mask = mask.unsqueeze(self.dim)
        shape = list(mask.shape)
        shape[self.dim] = len(self.source)
        mask = mask.expand(shape).movedim(self.dim, -1)[..., self.known]
        result = torch.zeros(*mask.shape[:-1], self.size)
        result.index_add_(-1, self.source[self.known], mask.float())
        return compact((result > 0).movedim(-1, self.dim))

    def forward(self, place):
        if place.shape[self.dim] > 1 or not bool(self.known.all()):
            shape = list(place.shape)
            shape[self.dim] = self.size
            place = place.expand(shape).index_select(self.dim, self.source.clamp(min=0))
            known = self.known.reshape(-1, *[1] * (place.ndim - 1 - self.dim))
            place = torch.cat([place[:2] * known, torch.where(known, place[2:] + self.cost, math.inf)])
        elif self.cost:
            place = torch.cat([place[:2], place[2:] + self.cost])
        return place.squeeze(self.dim) if self.squeeze else place


class Reshape:
    def __init__(self, before, after):
        self.before, self.after = before, after

    def back(self, mask):
        return compact(mask.expand(-1, *self.after).reshape(-1, *self.before))

    def forward(self, place):
        return compact(place.expand(-1, *self.before).reshape(-1, *self.after))


class Permute:
    def __init__(self, order):
        self.order = [0, *(d + 1 for d in order)]
        self.inverse = sorted(range(len(self.order)), key=self.order.__getitem__)

    def back(self, mask):
        return mask.permute(self.inverse)

    def forward(self, place):
        return place.permute(self.order)


class Move:
    """Any call that only copies elements: running it on element numbers (0: a constant) says where each came from."""

    def __init__(self, run, number, shapes, out_shape, cost=0.0):
        offset = 1 + sum(math.prod(s) for s in shapes[:number])
        self.shape, self.out_shape, self.cost = shapes[number], out_shape, cost
        size = math.prod(self.shape)
        ids = [torch.zeros(s, dtype=torch.float64) for s in shapes]
        ids[number] = torch.arange(1, 1 + size, dtype=torch.float64).reshape(self.shape)
        self.offset, self.size = offset, size
        self.source = run(ids).long().flatten()

    def back(self, mask):
        mask = mask.expand(-1, *self.out_shape).flatten(1)
        result = torch.zeros(len(mask), self.size + 1, dtype=torch.bool)
        row, element = mask.nonzero(as_tuple=True)
        result[row, self.source[element]] = True
        return compact(result[:, 1:].reshape(-1, *self.shape))

    def forward(self, place):
        place = place.expand(3, *self.shape).flatten(1)
        nowhere = torch.tensor([[0.0], [0.0], [math.inf]], dtype=place.dtype)
        place = torch.cat([nowhere, place + torch.tensor([[0.0], [0.0], [self.cost]])], 1)[:, self.source]
        return compact(place.reshape(3, *self.out_shape))


# ------------------------------------------------------------------------------------------------------ rules


@rule(
    "clone alias detach _to_copy lift_fresh lift_fresh_copy contiguous dropout polar _conj _conj_physical complex "
    "hardswish leaky_relu prelu _prelu_kernel rrelu_with_noise rrelu_with_noise_functional log_sigmoid_forward "
    "bernoulli"
)
def elementwise(call):
    return [(node, [Mix()]) for node in call.inputs], True


@rule("copy fill")
def overwriting(call):
    node = call.args.get("src", call.args.get("value"))
    return [(node, [Mix()])] if call.live(node) else [], True


@rule("glu")
def gated(call):
    node = call["self"]
    shape = node.meta["val"].shape
    dim = call["dim"] % len(shape)
    half = torch.arange(shape[dim] // 2)
    return [(node, [Pick(dim, part, shape[dim])]) for part in (half, half + len(half))], True


@rule("native_dropout sort topk kthvalue median nanmedian mode argsort argmax argmin")
def selection(call):
    """A choice by value: which element it is cannot be told without the values, so all of them could be."""
    if call.name == "aten::native_dropout":
        return elementwise(call)
    node, ndim = call["self"], call["self"].meta["val"].ndim
    if call.args.get("dim") is None:
        return [(node, [Whole((1,) * ndim)])], False
    keep = call.name in ("aten::sort", "aten::topk", "aten::argsort") or bool(call.args.get("keepdim"))
    return [(node, [Mix(call.dims("dim", ndim), squeeze=not keep)])], False


@rule(
    "mean sum amax amin max min prod var std var_mean std_mean logsumexp all any norm linalg_vector_norm nansum "
    "aminmax _fft_r2c _fft_c2c _fft_c2r"
)
def reduction(call):
    node = call.args.get("self", call.args.get("x"))
    ndim = node.meta["val"].ndim
    if "other" in call.args:  # the two-tensor forms of max and min
        return elementwise(call)
    if "dim" not in call.args:
        return [(node, [Whole((1,) * ndim)])], True
    keep = call.args.get("keepdim", "_fft" in call.name)
    return [(node, [Mix(call.dims("dim", ndim), squeeze=not keep)])], True


@rule("_softmax _log_softmax softmax log_softmax _safe_softmax logcumsumexp renorm")
def along_one(call):
    node = call["self"]
    return [(node, [Mix(call.dims("dim", node.meta["val"].ndim))])], True


@rule("cumsum cumprod cummax cummin")
def cumulative(call):
    node = call["self"]
    shape = tuple(node.meta["val"].shape)
    dim = call["dim"] % len(shape)
    last = len(shape) - 1
    order = [d for d in range(last + 1) if d != dim] + [dim]
    size = shape[dim]
    window = Window([torch.ones(size, size).tril().bool()], [torch.arange(size, dtype=torch.float64)], size)
    back = sorted(range(last + 1), key=order.__getitem__)
    return [(node, [Permute(order), window, Permute(back)])], True


@rule("native_layer_norm layer_norm rms_norm _fused_rms_norm")
def layer_norm(call):
    node = call["input"]
    ndim = node.meta["val"].ndim
    return _normalised(call, node, [Mix(range(ndim - len(call["normalized_shape"]), ndim))])


@rule("native_group_norm group_norm")
def group_norm(call):
    node = call["input"]
    shape = node.meta["val"].shape
    groups = call.args.get("group", call.args.get("num_groups"))
    return _normalised(call, node, [Mix(range(2, len(shape))), Channels(groups, shape[1], shape[1])])


@rule(
    "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm "
    "_native_batch_norm_legit_functional batch_norm miopen_batch_norm _batch_norm_no_update "
    "_batch_norm_with_update"
)
def batch_norm(call):
    node = call["input"]
    ndim = node.meta["val"].ndim
    uses_batch = call.args.get("training", "no_" not in call.name)
    return _normalised(call, node, [Mix([0, *range(2, ndim)] if uses_batch else ())])


def _normalised(call, node, steps):
    if call.index not in (None, 0):
        raise unknown(call, "its statistics are used directly")
    result = [(node, steps)] if call.live(node) else []
    for name in ("weight", "bias"):  # along the channels, which the step's chain does not treat
        if call.live(call.args.get(name)):
            raise unknown(call, f"its {name} depends on the image")
    return result, True


@rule("mm bmm matmul addmm baddbmm linear")
def product(call):
    first = call.args.get("mat1", call.args.get("batch1", call.args.get("input", call.args.get("self"))))
    second = call.args.get("mat2", call.args.get("batch2", call.args.get("weight", call.args.get("other"))))
    result = []
    if call.name in ("aten::addmm", "aten::baddbmm") and call.live(call["self"]):
        result.append((call["self"], [Mix()]))
    if call.live(first):
        result.append((first, [Mix([first.meta["val"].ndim - 1])]))
    if call.live(second):
        if call.name == "aten::linear" or second.meta["val"].ndim < 2:
            raise unknown(call, "its second factor depends on the image")
        # In q·kᵀ and in attention·v, the first factor says whose row the result is.
        result.append((second, [Mix([second.meta["val"].ndim - 2], cost=_JITTER)]))
    return result, True


@rule("mv")
def matrix_vector(call):
    if call.live(call["vec"]):
        raise unknown(call, "its vector depends on the image")
    return [(call["self"], [Mix([1], squeeze=True)])], True


@rule(
    "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention "
    "_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention "
    "_scaled_dot_product_fused_attention_overrideable _scaled_dot_product_attention_math "
    "_scaled_dot_product_attention_math_for_mps scaled_dot_product_attention"
)
def attention(call):
    """Every query sees every key. A hard mask is left out of account, so that the result is then an upper bound."""
    if call.index not in (None, 0):
        raise unknown(call, "its statistics are used directly")
    result = []
    for name, dims in (("query", (-1,)), ("key", (-2, -1)), ("value", (-2,))):
        node = call[name]
        if call.live(node):
            ndim = node.meta["val"].ndim
            steps = [Mix([d % ndim for d in dims], cost=0.0 if name == "query" else _JITTER)]
            heads, out = node.meta["val"].shape[-3], call.shape[-3]
            if heads not in (1, out):  # grouped queries: whole groups share a key
                steps.insert(0, Mix([ndim - 3]))
            result.append((node, steps))
    bias = call.args.get("attn_mask", call.args.get("attn_bias"))
    if call.live(bias):
        result.append((bias, [Mix([bias.meta["val"].ndim - 1])]))
    masked = bool(call.args.get("is_causal"))
    if bias is not None and not call.live(bias):
        value = call.trace.value(bias)
        masked |= bool((~value).any() if value.dtype == torch.bool else torch.isinf(value).any())
    return result, not masked


@rule("convolution _convolution conv2d conv1d conv3d cudnn_convolution mkldnn_convolution convolution_overrideable")
def convolution(call):
    node, weight = call["input"] if "input" in call.args else call["self"], call["weight"]
    if call.live(weight):
        raise unknown(call, "its weights depend on the image")
    inputs, outputs = node.meta["val"].shape, call.shape
    kernel = weight.meta["val"].shape[2:]
    n, transposed = len(kernel), bool(call.args.get("transposed"))
    each = [_spread(call[name], n) for name in ("stride", "padding", "dilation")]
    reaches, centers, cost = [], [], 0
    for i, (k, stride, padding, dilation) in enumerate(zip(kernel, *each, strict=True)):
        size, out = inputs[2 + i], outputs[2 + i]
        if transposed:
            reach = _taps(size, out, k, stride, padding, dilation).T
            center = (torch.arange(out, dtype=torch.float64) + padding - (k - 1) * dilation / 2) / stride
        else:
            reach = _taps(out, size, k, stride, padding, dilation)
            center = torch.arange(out, dtype=torch.float64) * stride + (k - 1) * dilation / 2 - padding
        reaches.append(reach)
        centers.append(center)
        cost += (k - 1) * dilation
    return [(node, [Channels(call["groups"], inputs[1], outputs[1]), Window(reaches, centers, cost)])], True


@rule(
    "max_pool2d_with_indices max_pool2d max_pool3d_with_indices max_pool3d max_pool1d avg_pool1d avg_pool2d "
    "avg_pool3d mkldnn_max_pool2d lp_pool2d"
)
def pooling(call):
    node = call["self"]
    n = len(_spread(call["kernel_size"], None))
    if call.index == 1:
        raise unknown(call, "the indices of its maxima are used")
    kernel = _spread(call["kernel_size"], n)
    n = len(kernel)
    stride = _spread(call["stride"] or call["kernel_size"], n)
    padding, dilation = _spread(call["padding"], n), _spread(call.args.get("dilation", 1), n)
    sizes, outs = node.meta["val"].shape[-n:], call.shape[-n:]
    reaches = [_taps(o, s, *rest) for o, s, *rest in zip(outs, sizes, kernel, stride, padding, dilation, strict=True)]
    centers = [
        torch.arange(o, dtype=torch.float64) * s + (k - 1) * d / 2 - p
        for o, k, s, p, d in zip(outs, kernel, stride, padding, dilation, strict=True)
    ]
    return [(node, [Window(reaches, centers, sum(d * (k - 1) for d, k in zip(dilation, kernel, strict=True)))])], True


@rule(
    "_adaptive_avg_pool2d adaptive_avg_pool2d adaptive_max_pool2d adaptive_avg_pool1d adaptive_max_pool1d "
    "_adaptive_avg_pool3d adaptive_max_pool3d"
)
def adaptive_pooling(call):
    node = call["self"]
    n = len(_spread(call["output_size"], None))
    reaches, centers, cost = [], [], 0
    for size, out in zip(node.meta["val"].shape[-n:], call.shape[-n:], strict=True):
        first = torch.arange(out) * size // out
        end = -(-(torch.arange(1, out + 1) * size) // out)
        at = torch.arange(size)
        reaches.append((at >= first[:, None]) & (at < end[:, None]))
        centers.append((first + end - 1).double() / 2)
        cost += math.ceil(size / out) - 1
    return [(node, [Window(reaches, centers, cost)])], True


@rule(
    "upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d "
    "_upsample_nearest_exact3d upsample_linear1d upsample_bilinear2d upsample_trilinear3d upsample_bicubic2d "
    "_upsample_bilinear2d_aa _upsample_bicubic2d_aa"
)
def resize(call):
    """Interpolation, probed with NaN along one dimension at a time for the samples that each output reads."""
    node = call["self"] if "self" in call.args else call["input"]
    sizes, outs = tuple(node.meta["val"].shape[2:]), call.shape[2:]
    n = len(outs)
    corners = bool(call.args.get("align_corners"))
    scale_names = [name for name in ("scales", "scales_d", "scales_h", "scales_w") if name in call.args]
    reaches, centers = [], []
    for i, (size, out) in enumerate(zip(sizes, outs, strict=True)):
        probe = torch.zeros(size, size).fill_diagonal_(math.nan)
        probe = probe.reshape(1, size, *[size if j == i else 1 for j in range(n)])
        args = dict(call.args)
        args["self" if "self" in args else "input"] = probe
        args["output_size"] = [out if j == i else 1 for j in range(n)]
        for j, name in enumerate(scale_names):
            args[name] = args[name] if j == i else None
        if "scale_factors" in args:
            args["scale_factors"] = None
        reaches.append(call.node.target(**args).isnan().reshape(size, out).T)
        at = torch.arange(out, dtype=torch.float64)
        centers.append(at * (size - 1) / max(out - 1, 1) if corners else (at + 0.5) * size / out - 0.5)
    return [(node, [Window(reaches, centers, sum(s > 1 for s in sizes))])], True


@rule(
    "view _unsafe_view reshape _reshape_alias squeeze unsqueeze flatten unflatten view_copy _reshape_copy "
    "unsqueeze_copy squeeze_copy"
)
def reshaping(call):
    node = call["self"]
    return [(node, [Reshape(tuple(node.meta["val"].shape), call.shape)])], True


@rule("expand expand_copy broadcast_to")
def expansion(call):
    return [(call["self"], [Mix()])], True


@rule("permute transpose t permute_copy transpose_copy t_copy numpy_T movedim")
def permutation(call):
    node = call["self"]
    sizes = torch.empty(tuple(range(2, 2 + node.meta["val"].ndim)), device="meta")  # every dimension tells its number
    args = [sizes if a is node else a for a in call.node.args]
    return [(node, [Permute([s - 2 for s in call.node.target(*args, **call.node.kwargs).shape])])], True


@rule(
    "slice select narrow index_select flip split split_with_sizes chunk unbind tensor_split unsafe_split "
    "unsafe_chunk unsafe_split_with_sizes slice_copy select_copy"
)
def picking(call):
    """Copies along one dimension: running the call on 0, 1, 2, … along it gives the sources."""
    node = call["self"]
    if call.live(call.args.get("index")):
        return [(node, [Whole(node.meta["val"].shape)]), (call["index"], [Whole((1,))])], False
    shape = node.meta["val"].shape
    key = "dims" if "dims" in call.args else "dim"
    dims = [call[key]] if isinstance(call[key], int) else call[key]
    steps = []
    for dim in dims:
        dim %= len(shape)
        args = dict(call.args)
        args["self"], args[key] = torch.arange(shape[dim]), 0 if key == "dim" else [0]
        if isinstance(args.get("index"), torch.fx.Node):
            args["index"] = call.trace.value(args["index"])
        source = call.node.target(**args)
        source = source[call.index] if call.index is not None else source
        irregular = source.ndim and len(source) > 1 and bool((source.diff() != source[1] - source[0]).any())
        squeeze = source.ndim == 0
        steps.append(Pick(dim, source.reshape(-1), shape[dim], squeeze, _JITTER * bool(irregular)))
    return [(node, steps)], True


@rule("cat concat")
def concatenation(call):
    dim, start, result = call["dim"] % len(call.shape), 0, []
    for node in call["tensors"]:
        shape = node.meta["val"].shape
        if len(shape) != len(call.shape):  # the empty one that cat lets pass
            continue
        if call.live(node):
            source = torch.full((call.shape[dim],), -1)
            source[start : start + shape[dim]] = torch.arange(shape[dim])
            result.append((node, [Pick(dim, source, shape[dim])]))
        start += shape[dim]
    return result, True


@rule("stack")
def stacking(call):
    """As a concatenation along a new dimension, so that what is alike along the others stays in one element."""
    result, tensors = [], call["tensors"]
    dim = call["dim"] % len(call.shape)
    for number, node in enumerate(tensors):
        if call.live(node):
            source = torch.full((len(tensors),), -1)
            source[number] = 0
            before = tuple(node.meta["val"].shape)
            result.append((node, [Reshape(before, (*before[:dim], 1, *before[dim:])), Pick(dim, source, 1)]))
    return result, True


@rule(
    "roll constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d "
    "replication_pad3d repeat tile im2col unfold pixel_shuffle pixel_unshuffle channel_shuffle diagonal "
    "tril triu masked_fill where slice_scatter select_scatter index _unsafe_index gather index_put take "
    "repeat_interleave rot90 as_strided scatter index_copy index_fill native_channel_shuffle take_along_dim "
    "diagonal_scatter unfold_copy"
)
def moving(call):
    """Copies of any other kind, by :class:`Move`. What decides about the copies must not depend on the image."""
    deciding = [call.args.get(name) for name in ("index", "indices", "mask", "condition", "repeats")]
    deciding = [d for group in deciding for d in (group if isinstance(group, (list, tuple)) else [group])]
    if any(call.live(d) for d in deciding):
        if call.name in ("aten::where", "aten::masked_fill"):  # either side, and whatever decides
            return elementwise(call)
        return [(node, [Whole(node.meta["val"].shape)]) for node in call.inputs], False
    if call.args.get("accumulate"):
        raise unknown(call, "it adds to places given by indices")
    if call.name == "aten::constant_pad_nd":
        return _constant_pad(call)
    fixed = {id(d) for d in deciding if d is not None}
    sources = call.inputs
    shapes = [tuple(node.meta["val"].shape) for node in sources]

    def run(ids):
        ids = dict(zip(sources, ids, strict=True))

        def substitute(node):
            if node in ids:
                return ids[node]
            value = call.trace.value(node)
            return value if id(node) in fixed else torch.zeros_like(value, dtype=torch.float64)

        args, kwargs = torch.fx.node.map_arg((call.node.args, call.node.kwargs), substitute)
        names = [a.name for a in call.node.target._schema.arguments]
        bound = dict(zip(names, args, strict=False)) | kwargs
        if isinstance(bound.get("value"), (int, float)):
            bound["value"] = 0  # the constant that masked_fill or scatter writes
        if call.name == "aten::as_strided" and sources[0].meta["val"].stride() != ids[sources[0]].stride():
            raise unknown(call, "its input is not contiguous")
        result = call.node.target(**bound)
        return result if call.index is None else result[call.index]

    cost = _JITTER if call.name.split("::")[1] in ("index", "_unsafe_index", "gather", "take", "roll") else 0.0
    return [(node, [Move(run, i, shapes, call.shape, cost)]) for i, node in enumerate(sources)], True


def _constant_pad(call):
    """Padding keeps the lattice of positions going, so that a window over the border has its centre where it should."""
    node = call["self"]
    shape, pads = node.meta["val"].shape, call["pad"]
    steps = []
    for i in range(len(pads) // 2):
        dim, left = len(shape) - 1 - i, pads[2 * i]
        if left or pads[2 * i + 1]:
            steps.append(_Padded(dim, left, shape[dim], call.shape[dim]))
    return [(node, steps or [Mix()])], True


class _Padded(Pick):
    def __init__(self, dim, left, size, out):
        source = torch.arange(out) - left
        super().__init__(dim, torch.where(source < size, source, -1).clamp(min=-1), size)
        self.left, self.out = left, out

    def forward(self, place):
        if place.shape[self.dim] == 1:
            return place
        at = torch.arange(self.out, dtype=torch.float64) - self.left
        order = place.movedim(self.dim, -1)
        window = Window([torch.ones(self.out, self.size)], [at], 0.0)
        return window.forward(order).movedim(-1, self.dim)


def _spread(value, n):
    """A list with one entry per dimension."""
    value = [value] if isinstance(value, int) else list(value)
    return value * n if n and len(value) == 1 else value


def _taps(outputs, inputs, kernel, stride, padding, dilation):
    """Bool (outputs, inputs): output o reads inputs o·stride − padding + t·dilation, 0 ≤ t < kernel."""
    offset = torch.arange(inputs) - (torch.arange(outputs) * stride - padding)[:, None]
    return (offset >= 0) & (offset <= (kernel - 1) * dilation) & (offset % dilation == 0)
