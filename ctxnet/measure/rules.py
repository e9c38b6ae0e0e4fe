"""Which input elements can reach which output elements, one rule per class of ATen call.

A rule gives, for every input of a call that depends on the image, a chain of *steps*. A step works on tensors with
one leading dimension of its own, followed by the dimensions of the value, where size 1 stands for "the same all along
this dimension" (so that a mask that is equal for all channels costs one channel). Each step has two directions:

``back(mask)``  bool (layers, ...): which elements of the step's input can reach the marked elements of its output;
``forward(place)``  float64 (n + 1, ...) for an image of n dimensions: coordinates (row and column) and *cost* of each
    element. The coordinates say where in the image it sits by the arithmetic of strides and paddings. Where paths meet,
    the cheapest says where the result sits (equally cheap ones are averaged): a skip connection costs nothing, a k×k
    window k−1 per side, a mixture over places as much as they lie apart. Cost is infinite for what sits nowhere, such as
    padding or a class token.

Learned weights do not matter: one that is zero reaches as much as any other. Zeros that are wired do: masks, kernels with
zeros in a buffer, taps of an interpolation (see ``Trace.wired`` and ``Trace.known``).
"""

import math

import torch

from ctxnet.measure.known import FAINT, NEARLY, SHUT
from ctxnet.naming import require_known

RULES = {}
_NO_TAP = 1e-9  # an interpolation's weight that is there by rounding alone
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
    inputs, exact = function(call)
    if index is None and isinstance(trace_value := node.meta["val"], torch.Tensor) and trace_value.is_floating_point():
        known = trace.known(node)
        if known is not None and not bool(known.isnan().all()):
            inputs = [(source, [*steps, Keep(known.isnan() | (known == FAINT))]) for source, steps in inputs]
    return inputs, exact


def unknown(call, why="no rule says what it can reach; ctxnet.measure.register_rule adds one"):
    path = call.trace.path(call.node)
    kind = f" ({why})"
    return NotImplementedError(f"layer {path!r} calls {call.name.replace('::', '.')}, which cannot be followed{kind}")


def register_rule(call, function):
    """Say what an operator can reach that this package has no rule for.

    Args:
        call: such as ``torch.ops.aten.x`` or ``torch.ops.mylib.myop.default``.
        function: of a :class:`Call`; returns ``([(input node, steps), ...], exact)``, see the top of this module, or a
            name of a rule that is there, such as "relu", to treat it alike.

    Raises:
        TypeError: for anything that is no operator.
        ValueError: for the name of no rule.
    """
    packet = getattr(call, "overloadpacket", call)
    if not hasattr(packet, "_qualified_op_name"):
        raise TypeError(f"{call!r} is no operator such as torch.ops.aten.relu")
    if isinstance(function, str):
        function = RULES[require_known("rule", f"aten::{function}", RULES)]
    RULES[packet._qualified_op_name] = function


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
            first, middle = tensor.narrow(dim, 0, 1), tensor.narrow(dim, tensor.shape[dim] // 2, 1)
            if bool((middle == first).all()) and bool((tensor == first).all()):  # mostly the first tells already
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
    position, cost = place[:-1], place[-1:]
    least = cost.amin(dims, keepdim=True)
    weight = (cost <= least + 1e-9).to(place.dtype)
    mean = (position * weight).sum(dims, keepdim=True) / weight.sum(dims, keepdim=True)
    apart = ((position - mean).abs() * weight).amax(dims, keepdim=True).sum(0, keepdim=True)
    return torch.cat([mean, least + apart])


def union(places, n=2):
    """Where a result of several inputs sits: with the cheapest; without any, nowhere in an image of n dimensions."""
    if not places:
        return torch.tensor([0.0] * n + [math.inf], dtype=torch.float64)
    ndim = max(p.ndim for p in places)
    places = [p.reshape(len(p), *[1] * (ndim - p.ndim), *p.shape[1:]) for p in places]
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
            place = torch.cat([place[:-1], place[-1:] + self.cost])
        return place.squeeze(self.dims) if self.squeeze and self.dims else place


class Whole:
    """Every output depends on every input element."""

    def __init__(self, shape):
        self.ndim = len(shape)

    def back(self, mask):
        return mask.reshape(len(mask), -1).any(1).reshape(-1, *[1] * self.ndim)

    def forward(self, place):
        return mix(place, range(1, place.ndim)).reshape(len(place))


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
        position, cost = place[:-1], place[-1:]
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
        return torch.cat([position.expand(len(position), *shape), (cost + self.cost).expand(1, *shape)])


class Pick:
    """Output i along ``dim`` is input ``source[i]``, or a constant or another input where that is negative."""

    joins = False  # whether the dimension goes on where the source is negative, as with padding

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
            place = torch.cat([place[:-1] * known, torch.where(known, place[-1:] + self.cost, math.inf)])
        elif self.cost:
            place = torch.cat([place[:-1], place[-1:] + self.cost])
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

    def __init__(self, run, number, shapes, out_shape, cost=0.0, keeps=False):
        self.keeps = keeps  # whether every dimension of the result comes from the same one of the input
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
        n = len(place) - 1
        place = place.expand(n + 1, *self.shape).flatten(1)
        nowhere = torch.tensor([[0.0]] * n + [[math.inf]], dtype=place.dtype)
        place = torch.cat([nowhere, place + torch.tensor([[0.0]] * n + [[self.cost]])], 1)[:, self.source]
        return compact(place.reshape(n + 1, *self.out_shape))


class Keep:
    """Elements where ``mask`` is false are constants and reach nothing."""

    def __init__(self, mask):
        self.mask = compact(mask[None])

    def back(self, mask):
        return mask & self.mask

    def forward(self, place):
        return place


class Expand:
    """The input shows everywhere along dimensions of size 1 behind its own."""

    def __init__(self, shape, out_shape):
        self.shape, self.out_shape = shape, out_shape

    def back(self, mask):
        mask = mask.flatten(len(self.shape) + 1) if len(self.out_shape) > len(self.shape) else mask
        return mask.any(-1) if len(self.out_shape) > len(self.shape) else mask

    def forward(self, place):
        return place.reshape(*place.shape, *[1] * (len(self.out_shape) - len(self.shape)))


class Linear:
    """Any call that is linear in its input and whose coefficients do not depend on the image."""

    def __init__(self, run, shape, out_shape):
        self.run, self.shape, self.out_shape = run, shape, out_shape

    def back(self, mask):
        rows = []
        for row in mask.expand(-1, *self.out_shape):
            x = torch.zeros(self.shape, dtype=torch.float64, requires_grad=True)
            weights = torch.rand(self.out_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.5
            with torch.enable_grad():
                (reached,) = torch.autograd.grad(self.run(x), x, row * weights)
            rows.append(reached.abs() > _NO_TAP)
        return compact(torch.stack(rows))

    def forward(self, place):
        place = place.expand(len(place), *self.shape)
        share = self.run(torch.ones(self.shape, dtype=torch.float64))
        position = [self.run(p) / torch.where(share.abs() > _NO_TAP, share, 1) for p in place[:-1]]
        return compact(torch.stack([*position, torch.where(share.abs() > _NO_TAP, _JITTER, math.inf).double()]))


class Folded(Linear):
    """Linear, and the last two dimensions of its output are those of the image."""


class Forget:
    """Nothing changes but that dimension ``dim`` of the result is another one than the input's (see ``layout``)."""

    def __init__(self, dim):
        self.dim = dim

    def back(self, mask):
        return mask

    def forward(self, place):
        return place


class Contract:
    """A factor of a matrix product whose other factor has zeros: ``pattern`` is true where that one has none.

    Args:
        pattern: bool (…, I, K) of the first factor, or (…, K, J) of the second.
        second: whether this step is about the second factor.
    """

    def __init__(self, pattern, second, ndim):
        self.pattern, self.second = pattern.float(), second
        self.mix = Mix([ndim - (2 if second else 1)], cost=_JITTER if second else 0.0)

    def back(self, mask):
        shape = list(mask.shape)
        shape[-2 if self.second else -1] = self.pattern.shape[-2 if self.second else -1]
        mask = mask.expand(shape).float()
        transposed = self.pattern.transpose(-1, -2)
        return (transposed @ mask if self.second else mask @ transposed) > 0

    def forward(self, place):
        return self.mix.forward(place)


class Kernel:
    """A convolution whose kernel has zeros that are wired: ``run`` is the call with a kernel of zeros and ones."""

    def __init__(self, run, shape, out_shape, steps):
        self.run, self.shape, self.out_shape, self.steps = run, shape, out_shape, steps

    def back(self, mask):
        mask = mask.expand(-1, *self.out_shape).flatten(0, 1).float()
        x = torch.zeros(len(mask), *self.shape[1:], requires_grad=True)
        with torch.enable_grad():
            (reached,) = torch.autograd.grad(self.run(x), x, mask)
        return compact((reached > 0.5).unflatten(0, (-1, self.shape[0])))

    def forward(self, place):
        for step in self.steps:
            place = step.forward(place)
        return place


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
    fourier = "_fft" in call.name  # whose real and imaginary parts have zeros of their own: a bound
    keep = call.args.get("keepdim", fourier)
    return [(node, [Mix(call.dims("dim", ndim), squeeze=not keep)])], not fourier


@rule("_softmax _log_softmax softmax log_softmax _safe_softmax renorm")
def along_one(call):
    node = call["self"]
    return [(node, [Mix(call.dims("dim", node.meta["val"].ndim))])], True


@rule("cumsum cumprod cummax cummin logcumsumexp")
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
    # What is normalised stays where it is, however far its statistics reach.
    result = [(node, steps), (node, [Mix()])] if call.live(node) else []
    for name in ("weight", "bias"):  # along the channels, which the step's chain does not treat
        if call.live(call.args.get(name)):
            raise unknown(call, f"its {name} depends on the image")
    return result, True


@rule("mm bmm matmul addmm baddbmm linear")
def product(call):
    first = call.args.get("mat1", call.args.get("batch1", call.args.get("input", call.args.get("self"))))
    second = call.args.get("mat2", call.args.get("batch2", call.args.get("weight", call.args.get("other"))))
    result, exact = [], True
    if call.name in ("aten::addmm", "aten::baddbmm") and call.live(call["self"]):
        result.append((call["self"], [Mix()]))
    if call.live(first):
        pattern, exact = _nonzero(call, second)
        if pattern is not None and call.name == "aten::linear":
            pattern = pattern.transpose(-1, -2)
        ndim = first.meta["val"].ndim
        steps = [Mix([ndim - 1]) if pattern is None else Contract(pattern, False, ndim)]
        result.append((first, [*steps, Forget(ndim - 1)] if call.live(second) else steps))
    if call.live(second):
        if call.name == "aten::linear" or second.meta["val"].ndim < 2:
            raise unknown(call, "its second factor depends on the image")
        # In q·kᵀ and in attention·v, the first factor says whose row the result is.
        pattern, also_exact = _nonzero(call, first)
        ndim, exact = second.meta["val"].ndim, exact and also_exact
        steps = [Mix([ndim - 2], cost=_JITTER) if pattern is None else Contract(pattern, True, ndim)]
        result.append((second, [*steps, Forget(ndim - 2)] if call.live(first) else steps))
    return result, exact


def _nonzero(call, factor):
    """(bool pattern of a factor that may be other than zero, or None where all may; whether none is nearly zero)."""
    if not call.live(factor):
        pattern = call.trace.wired(factor)
        return (None if bool(pattern.all()) else pattern), True
    known = call.trace.known(factor)
    if known is None:
        return None, True
    pattern = known != 0
    return (None if bool(pattern.all()) else pattern), not bool((known == FAINT).any())


@rule("mv")
def matrix_vector(call):
    if call.live(call["self"]):
        if call.live(call["vec"]):
            raise unknown(call, "both of its factors depend on the image")
        pattern, _ = _nonzero(call, call["vec"])
        step = Mix([1]) if pattern is None else Contract(pattern[:, None], False, 2)
        rows = call.shape[0]
        return [(call["self"], [step, Reshape((rows, 1), (rows,))])], True
    pattern, _ = _nonzero(call, call["self"])
    rows, size = call["self"].meta["val"].shape
    step = Mix([0], cost=_JITTER) if pattern is None else Contract(pattern, True, 2)
    return [(call["vec"], [Reshape((size,), (size, 1)), step, Reshape((rows, 1), (rows,))])], True


@rule(
    "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention "
    "_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention "
    "_scaled_dot_product_fused_attention_overrideable _scaled_dot_product_attention_math "
    "_scaled_dot_product_attention_math_for_mps scaled_dot_product_attention"
)
def attention(call):
    """Every query sees every key that no mask shuts off."""
    if call.index not in (None, 0):
        raise unknown(call, "its statistics are used directly")
    query, key = call["query"].meta["val"].shape, call["key"].meta["val"].shape
    allowed, exact = _allowed(call, query, key)
    result = []
    for name in ("query", "key", "value"):
        node = call[name]
        if not call.live(node):
            continue
        shape = node.meta["val"].shape
        ndim, steps = len(shape), []
        if name != "value":
            steps.append(Mix([ndim - 1]))
        if name != "query":
            steps.append(Mix([ndim - 2], cost=_JITTER) if allowed is None else Contract(allowed, True, ndim))
            heads, out = shape[-3], call.shape[-3]
            if heads not in (1, out):  # grouped queries: a group shares a key
                steps.insert(0, Pick(ndim - 3, torch.arange(out) // (out // heads), heads))
            steps.append(Forget(ndim - 2))
        result.append((node, steps))
    bias = call.args.get("attn_mask", call.args.get("attn_bias"))
    if call.live(bias):
        result.append((bias, [Mix([bias.meta["val"].ndim - 1])]))
    return result, exact


def _allowed(call, query, key):
    """(bool (…, queries, keys): which keys a query sees, or None for all; whether that is exact)."""
    bias, exact, allowed = call.args.get("attn_mask", call.args.get("attn_bias")), True, None
    if bool(call.args.get("is_causal")):
        allowed = torch.ones(query[-2], key[-2], dtype=torch.bool).tril()
    if bias is not None:
        value = call.trace.known(bias) if call.live(bias) else call.trace.value(bias)
        if value is not None and value.dtype == torch.bool:
            allowed = value
        elif value is not None:
            exact = not bool(((value <= NEARLY) & (value > SHUT)).any())
            allowed = ~(value <= SHUT)
    if allowed is None or bool(allowed.all()):
        return None, exact
    allowed = allowed.expand(*allowed.shape[:-2], query[-2], key[-2])
    return allowed | ~allowed.any(-1, keepdim=True), exact


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
    steps = [Channels(call["groups"], inputs[1], outputs[1]), Window(reaches, centers, cost)]
    pattern = call.trace.wired(weight)
    if bool(pattern.all()):
        return [(node, steps)], True
    args = dict(call.args) | {"weight": pattern.float(), "bias": None}
    name = "input" if "input" in args else "self"

    def run(x):
        return call.node.target(**args | {name: x})

    return [(node, [Kernel(run, tuple(inputs), tuple(outputs), steps)])], True


@rule(
    "max_pool2d_with_indices max_pool2d max_pool3d_with_indices max_pool3d max_pool1d avg_pool1d avg_pool2d "
    "avg_pool3d mkldnn_max_pool2d lp_pool2d"
)
def pooling(call):
    node = call["self"]
    n = int(next(c for c in call.name if c.isdigit()))
    kernel = _spread(call["kernel_size"], n)
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
    n = int(next(c for c in call.name if c.isdigit()))
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
    """Interpolation, probed with unit impulses along one dimension at a time for the samples that each output reads."""
    node = call["self"] if "self" in call.args else call["input"]
    sizes, outs = tuple(node.meta["val"].shape[2:]), call.shape[2:]
    n = len(outs)
    if call.name.endswith("_aa") and 1 in outs and max(outs) > 1:
        raise unknown(call, "on a map one wide PyTorch's antialiasing reads the first rows everywhere")
    corners = bool(call.args.get("align_corners"))
    scale_names = [name for name in ("scales", "scales_d", "scales_h", "scales_w") if name in call.args]
    reaches, centers = [], []
    for i, (size, out) in enumerate(zip(sizes, outs, strict=True)):
        # One impulse an image, the same along the other dimensions; those have some size, since antialiasing kernels
        # read other samples on a map that is one wide.
        probe = torch.eye(size, dtype=torch.float64).reshape(size, 1, *[size if j == i else 1 for j in range(n)])
        probe = probe.expand(size, 1, *[size if j == i else 4 for j in range(n)]).contiguous()
        args = dict(call.args)
        args["self" if "self" in args else "input"] = probe
        args["output_size"] = [out if j == i else 4 for j in range(n)]
        for j, name in enumerate(scale_names):
            args[name] = args[name] if j == i else None
        if "scale_factors" in args:
            args["scale_factors"] = None
        taps = call.node.target(**args)[:, 0].movedim(i + 1, 1).reshape(size, out, -1)[..., 0]
        reaches.append((taps.abs() > _NO_TAP).T)
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
    "replication_pad3d repeat tile unfold pixel_shuffle pixel_unshuffle channel_shuffle diagonal "
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
    kind = call.name.split("::")[1]
    keeps = kind in _KEEPING or (kind in ("index", "_unsafe_index") and _one_by_one(call))
    return [(node, [Move(run, i, shapes, call.shape, cost, keeps)]) for i, node in enumerate(sources)], True


def _one_by_one(call):
    """Whether each index of an indexing call runs along the dimension that it picks from."""
    indices = [(d, call.trace.value(i).shape) for d, i in enumerate(call["indices"]) if i is not None]
    first, count = indices[0][0], len(indices)
    if [d for d, _ in indices] != list(range(first, first + count)):
        return False
    shapes = [[1] * (count - len(shape)) + list(shape) for _, shape in indices]
    return all(len(shape) == count and math.prod(shape) == shape[i] for i, shape in enumerate(shapes))


_KEEPING = frozenset((
    "unfold", "unfold_copy",
    "roll", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d", "replication_pad1d",
    "replication_pad2d", "replication_pad3d", "repeat", "tile", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle",
    "tril", "triu", "masked_fill", "where", "slice_scatter", "select_scatter", "index_put", "repeat_interleave", "scatter",
    "index_copy", "index_fill", "native_channel_shuffle", "diagonal_scatter", "gather", "take_along_dim",
))  # fmt: skip


@rule("im2col")
def unfolding(call):
    """Windows of (…, C, H, W) as columns: copies on the grid of the windows, whose two dimensions are then flattened."""
    node = call["self"]
    shape = tuple(node.meta["val"].shape)
    windows = (*call.shape[:-1], *_grid_of_windows(call, shape[-2:]))
    move = Move(lambda ids: call.node.target(ids[0], *call.node.args[1:]).reshape(windows), 0, [shape], windows, keeps=True)
    return [(node, [move, Reshape(windows, call.shape)])], True


@rule("col2im")
def folding(call):
    """Windows put back where they came from, added where they overlap."""
    node = call["self"]
    shape = tuple(node.meta["val"].shape)
    windows = (*shape[:-1], *_grid_of_windows(call, call["output_size"]))
    rest = call.node.args[1:]
    step = Folded(lambda x: call.node.target(x.flatten(-2), *rest), windows, call.shape)
    return [(node, [Reshape(shape, windows), step])], True


def _grid_of_windows(call, sizes):
    kernel, dilation, padding, stride = (call[name] for name in ("kernel_size", "dilation", "padding", "stride"))
    return [(sizes[d] + 2 * padding[d] - dilation[d] * (kernel[d] - 1) - 1) // stride[d] + 1 for d in range(2)]


@rule("grid_sampler_2d grid_sampler_3d scatter_add index_add")
def linear(call):
    """Sums of elements with constant coefficients: of windows that are put back, of samples at constant places."""
    deciding = [call.args.get(name) for name in ("index", "indices", "grid")]
    if any(call.live(d) for d in deciding):
        if call.name.startswith("aten::grid_sampler"):
            raise unknown(call, "where it samples depends on the image")
        return [(node, [Whole(node.meta["val"].shape)]) for node in call.inputs], False
    sources, result = call.inputs, []
    for node in sources:

        def run(x, node=node):
            if node is call.args.get("src"):  # of which no more than the index's size is read
                x = x[tuple(slice(size) for size in call.trace.value(call["index"]).shape)]

            def substitute(other):
                if other is node:
                    return x
                value = call.trace.value(other)
                if any(other is d for d in deciding):
                    return value.double() if value.is_floating_point() else value
                return torch.zeros_like(value, dtype=torch.float64)

            args, kwargs = torch.fx.node.map_arg((call.node.args, call.node.kwargs), substitute)
            return call.node.target(*args, **kwargs)

        result.append((node, [Linear(run, tuple(node.meta["val"].shape), call.shape)]))
    return result, True


@rule("view_as_real view_as_real_copy")
def as_real(call):
    shape = tuple(call["self"].meta["val"].shape)
    return [(call["self"], [Expand(shape, (*shape, 2))])], True


@rule("view_as_complex view_as_complex_copy")
def as_complex(call):
    return [(call["self"], [Mix([call["self"].meta["val"].ndim - 1], squeeze=True)])], True


@rule("torchvision::deform_conv2d")
def deformable(call):
    """At constant offsets a linear call. Offsets from the image may point anywhere: a bound, and their own value counts."""
    node, parts = call["input"], [call[name] for name in ("offset", "mask") if call.live(call[name])]
    shape, groups = tuple(node.meta["val"].shape), call["groups"]
    if parts:
        result = [(part, [Mix([1])]) for part in parts]
        if call.live(node):
            result.append((node, [Mix([2, 3]), Channels(groups, shape[1], call.shape[1])]))
        return result, False
    offset, kernel = call.trace.value(call["offset"]).double(), call.trace.wired(call["weight"]).double()
    mask, bias = call.trace.value(call["mask"]).double(), torch.zeros(call.shape[1], dtype=torch.float64)
    rest = call.node.args[5:]

    def run(x):
        return call.node.target(x, kernel, offset, mask, bias, *rest)

    return [(node, [Linear(run, shape, call.shape)])], not call.trace.learned(call["offset"])


@rule("scatter_reduce")
def scattering(call):
    """Sums, products, extremes of what is sent to the same place: as ``scatter_add``, which reaches the same."""
    index, dim = call["index"], call["dim"]
    if call.live(index):
        return [(node, [Whole(node.meta["val"].shape)]) for node in call.inputs], False
    index, result = call.trace.value(index), []
    if call.live(call["self"]):
        kept = torch.ones(call.shape, dtype=torch.bool)
        result.append((call["self"], [Mix() if call["include_self"] else Keep(kept.scatter(dim, index, False))]))
    if call.live(call["src"]):
        shape = tuple(call["src"].meta["val"].shape)

        def run(x):
            read = x[tuple(slice(size) for size in index.shape)]
            return torch.zeros(call.shape, dtype=x.dtype).scatter_add(dim, index, read)

        result.append((call["src"], [Linear(run, shape, call.shape)]))
    return result, True


@rule("max_unpool2d max_unpool3d")
def unpooling(call):
    """Maxima put back where they were: a choice by value, within the pooling's windows where those are known."""
    n, pool = len(call["output_size"]), _pool_of(call["indices"])
    if not call.live(call["indices"]):
        return linear(call)
    if pool is None:
        dims = range(len(call.shape) - n, len(call.shape))
        return [(node, [Mix(dims)]) for node in call.inputs], False
    kernel = _spread(pool, n)
    sizes = call["indices"].meta["val"].shape[-n:]
    windows = [torch.arange(out)[:, None] // k == torch.arange(size) for out, k, size in
               zip(call.shape[-n:], kernel, sizes, strict=True)]  # fmt: skip
    centers = [(torch.arange(out, dtype=torch.float64) + 0.5) / k - 0.5 for out, k in
               zip(call.shape[-n:], kernel, strict=True)]  # fmt: skip
    return [(node, [Window(windows, centers, 0.0)]) for node in call.inputs], False


def _pool_of(node):
    """The window of the max pooling whose indices these are, where windows neither overlap nor leave gaps; else None."""
    pool = node.args[0] if getattr(node.target, "__name__", "") == "getitem" else None
    schema = getattr(getattr(pool, "target", None), "_schema", None)
    if schema is None or not schema.name.startswith("aten::max_pool"):
        return None
    given = dict(zip([a.name for a in schema.arguments], pool.args, strict=False)) | dict(pool.kwargs)
    kernel, stride = given["kernel_size"], given.get("stride") or given["kernel_size"]
    plain = not any(_spread(given.get("padding", 0), 0)) and set(_spread(given.get("dilation", 1), 0)) == {1}
    return kernel if list(stride) == list(kernel) and plain else None


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
    joins = True

    def __init__(self, dim, left, size, out):
        source = torch.arange(out) - left
        super().__init__(dim, torch.where(source < size, source, -1).clamp(min=-1), size)
        self.left, self.out = left, out

    def forward(self, place):
        if place.shape[self.dim] == 1:
            return place
        steps = place[:-1].diff(dim=self.dim)
        if bool((steps.amin(self.dim) < -1e-6).logical_and(steps.amax(self.dim) > 1e-6).any()):
            return super().forward(place)  # tokens of a flattened map: what is put in front of them sits nowhere
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
