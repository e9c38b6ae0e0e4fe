"""Small networks of the kinds on which the measures were wrong once, against brute force that believes nothing.

`moved` steps one pixel at a time, in double precision, and looks whether the feature changes.
"""

import copy
import io
import warnings

import pytest
import torch
import torch.nn.functional as F
import torch.utils.checkpoint as checkpointing
from torch import nn
from torch.nn.utils import parametrize, prune

import ctxnet
from ctxnet.measure import register_rule
from ctxnet.measure.receptive_field import Reach
from ctxnet.measure.rules import Mix


class Fn(nn.Module):
    def __init__(self, function, **buffers):
        super().__init__()
        self.function = function
        for name, value in buffers.items():
            self.register_buffer(name, value)

    def forward(self, x):
        return self.function(x, **dict(self.named_buffers()))


def conv(inputs=3, outputs=4, size=3, **kwargs):
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, **kwargs)


def moved(model, size, feature, draws=3, channels=3):
    model = copy.deepcopy(model).double().eval()
    seen = torch.zeros(size, dtype=torch.bool)
    places = torch.ones(size).nonzero().tolist()
    with torch.no_grad():
        for draw in range(draws):
            x = torch.randn(1, channels, *size, dtype=torch.double, generator=torch.Generator().manual_seed(draw))
            before = feature(model(x)).flatten()
            for place in places:
                y = x.clone()
                y[(0, slice(None), *place)] += 3.0
                seen[tuple(place)] |= bool(((feature(model(y)).flatten() - before).abs() > 1e-12).any())
    return seen


def tokens(x):
    return x.flatten(2).transpose(1, 2)


PATCH = nn.Conv2d(3, 8, 4, 4)
CAUSAL = torch.ones(16, 16, dtype=torch.bool).tril()
BAND = (torch.arange(16)[:, None] - torch.arange(16)).abs() < 3
ADDED = torch.zeros(16, 16).masked_fill(~BAND, -torch.inf)


def fused(x, **kwargs):
    y = tokens(x)[:, None].contiguous()  # one head: in other layouts PyTorch writes attention out
    return F.scaled_dot_product_attention(y, y, y, **kwargs)[:, 0]


KEYS, VALUES = torch.randn(2, 1, 5, 2, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("heads", [(), (1,)])  # without a dimension of heads it is written out, with one fused
def test_a_query_counts_with_all_of_its_features(heads):
    """Features of one token from two pixels: the weights of attention depend on both, so that every output does."""
    apart = Fn(lambda x: torch.cat([x[:, :1], x[:, 1:2].roll(2, 3)], 1))
    k, v = (t.unflatten(0, (-1, *heads)) for t in (KEYS, VALUES))

    def query(x, k, v):
        y = F.scaled_dot_product_attention(tokens(x).contiguous().unflatten(0, (-1, *heads)), k, v)
        return y.flatten(0, -3)[..., :1]

    attend = Fn(query, k=k, v=v)
    net = nn.Sequential(apart, attend)
    mask, exact = ctxnet.receptive_field(net, "1", (4, 6), (1, 3), return_exact=True)
    assert exact and torch.equal(mask, moved(net, (4, 6), lambda y: y[:, 6 + 3])) and int(mask.sum()) == 2


@pytest.mark.parametrize("shut, sure", [(-1000.0, True), (-100.0, False)])
def test_a_mask_that_is_nearly_shut_is_a_bound(shut, sure):
    net = nn.Sequential(conv(size=1), Fn(lambda x, mask: fused(x, attn_mask=mask), mask=torch.where(BAND, 0.0, shut)))
    mask, exact = ctxnet.receptive_field(net, "1", (4, 4), (2, 1), return_exact=True)
    assert exact == sure and not (moved(net, (4, 4), lambda y: y[:, 9]) & ~mask).any()


def test_a_query_whose_keys_are_all_shut_sees_all_of_them():
    shut = torch.where(BAND, 0.0, -1000.0).index_fill(0, torch.tensor([9]), -1000.0)
    net = nn.Sequential(conv(size=1), Fn(lambda x, mask: fused(x, attn_mask=mask), mask=shut))
    assert ctxnet.receptive_field(net, "1", (4, 4), (2, 1)).all()
    assert moved(net, (4, 4), lambda y: y[:, 9]).all()


def test_places_that_the_image_decides_are_a_bound():
    net = nn.Sequential(conv(), Fn(lambda x: x.gather(3, (x > 0).long())))
    mask, exact = ctxnet.receptive_field(net, "1", (5, 6), (2, 4), layout="NCHW", return_exact=True)
    reached = moved(net, (5, 6), lambda y: y[:, :, 2, 4])
    assert not exact and not (reached & ~mask).any() and reached[2, 0]


@pytest.mark.parametrize("whole", [torch.mean, torch.sum, torch.Tensor.amax, torch.std, torch.Tensor.norm, torch.logsumexp])
def test_one_number_of_the_whole_map(whole):
    number = (lambda x: whole(x, (0, 1, 2, 3))) if whole is torch.logsumexp else whole
    net = nn.Sequential(conv(), Fn(lambda x: x * torch.sigmoid(0.1 * number(x))))
    assert ctxnet.receptive_field(net, "1", (7, 9), (3, 4)).all()


def by_hand(shut):
    def attend(x, **buffers):
        y = tokens(x)
        return shut(y @ y.transpose(1, 2) / 3, **buffers).softmax(-1) @ y

    return attend


MASKS = {
    "causal": Fn(lambda x: fused(x, is_causal=True)),
    "boolean": Fn(lambda x, mask: fused(x, attn_mask=mask), mask=BAND),
    "additive": Fn(lambda x, mask: fused(x, attn_mask=mask.to(x.dtype)), mask=ADDED),
    "masked_fill": Fn(by_hand(lambda s, mask: s.masked_fill(~mask, -torch.inf)), mask=CAUSAL),
    "large": Fn(by_hand(lambda s, mask: s.masked_fill(~mask, -1e9)), mask=CAUSAL),
    "where": Fn(by_hand(lambda s, mask: torch.where(mask, s, -torch.inf)), mask=BAND),
    "added": Fn(by_hand(lambda s, bias: s + bias.to(s.dtype)), bias=ADDED),
    "times": Fn(lambda x, mask: (tokens(x) @ tokens(x).transpose(1, 2)).softmax(-1) * mask @ tokens(x), mask=BAND.float()),
    "constant": Fn(lambda x, mask: mask.to(x.dtype) @ tokens(x), mask=CAUSAL.float()),
}


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("position", [(0, 0), (1, 2), (3, 3)])
def test_masks_shut_off_what_they_shut_off(name, position):
    net = nn.Sequential(PATCH, MASKS[name])
    found, exact = ctxnet.receptive_field(net, "1", (16, 16), position, return_exact=True)
    right = moved(net, (16, 16), lambda y: y[:, position[0] * 4 + position[1]])
    assert exact and torch.equal(found, right)


def test_a_mask_that_only_weakens_is_a_bound():
    net = nn.Sequential(PATCH, Fn(by_hand(lambda s, mask: s + torch.where(mask, 0.0, -100.0)), mask=CAUSAL))
    found, exact = ctxnet.receptive_field(net, "1", (16, 16), (0, 0), return_exact=True)
    assert not exact and found.all()


def test_a_mask_that_depends_on_the_image_is_a_bound_and_warns():
    net = nn.Sequential(PATCH, Fn(lambda x: tokens(x).gather(1, tokens(x).argsort(1))))
    with pytest.warns(UserWarning, match=r"layer '1' is an upper bound: layer '1' calls aten.gather"):
        found = ctxnet.receptive_field(net, "1", (16, 16), (0, 0), layout="NLC")
    assert found.all()


def masked_kernel(mask):
    class Masked(nn.Conv2d):
        def forward(self, x):
            return F.conv2d(x, self.weight * self.mask, self.bias, padding=2)

    made = Masked(3, 4, 5, padding=2)
    made.register_buffer("mask", mask)
    return made


class Times(nn.Module):
    def __init__(self, mask):
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight):
        return weight * self.mask


@pytest.mark.parametrize("kind", ["forward", "parametrized", "pruned", "grouped"])
def test_zeros_in_a_kernel_that_no_training_can_change_are_wiring(kind):
    mask = torch.ones(5, 5)
    mask[2, 2:] = mask[3:] = 0
    net = masked_kernel(mask)
    if kind == "parametrized":
        net = nn.Conv2d(3, 4, 5, padding=2)
        parametrize.register_parametrization(net, "weight", Times(mask))
    if kind == "pruned":
        net = nn.Conv2d(3, 4, 5, padding=2)
        prune.custom_from_mask(net, "weight", mask.expand(4, 3, 5, 5))
    if kind == "grouped":
        net = nn.Sequential(conv(3, 4, 1), Fn(lambda x, w: F.conv2d(x, w, padding=2, groups=2), w=mask.expand(2, 2, 5, 5)))
    net = nn.Sequential(net)
    found, exact = ctxnet.receptive_field(net, "0", (12, 12), (6, 6), return_exact=True)
    assert exact and int(found.sum()) == 12
    if kind != "pruned":  # whose weight, kept from the last forward, cannot be copied by the reference
        assert torch.equal(found, moved(net, (12, 12), lambda y: y[:, :, 6, 6]))


def test_windows_over_nothing_but_padding_see_nothing():
    net = nn.Sequential(nn.ZeroPad2d(3), nn.Conv2d(3, 4, 3))
    for position, pixels in (((0, 0), 0), ((1, 1), 1), ((11, 5), 0), ((5, 5), 9)):
        assert int(ctxnet.receptive_field(net, "1", (8, 8), position).sum()) == pixels


def test_a_layer_is_what_it_gave_although_a_later_one_writes_into_it():
    net = nn.Sequential(conv(), Fn(lambda x: x.add_(x.roll(4, 3))))
    found = ctxnet.context_profile(net, torch.randn(1, 3, 12, 12), ["0", "1"])
    assert [int(mask.sum()) for mask in found.rf] == [9, 18]


def test_a_learned_zero_is_no_wiring():
    net = nn.Sequential(conv())
    nn.init.zeros_(net[0].weight)
    assert int(ctxnet.receptive_field(net, "0", (12, 12), (6, 6)).sum()) == 9


RESIZES = {
    f"{mode}{' antialiased' * aa} {size}": Fn(
        lambda x, mode=mode, size=size, aa=aa, ac=ac: F.interpolate(x, size=size, mode=mode, antialias=aa, **ac)
    )
    for mode, aa, ac in (
        ("bilinear", True, {}), ("bicubic", True, {}), ("bilinear", False, {"align_corners": False}),
        ("bilinear", False, {"align_corners": True}), ("bicubic", False, {}), ("area", False, {}),
        ("nearest-exact", False, {}),
    )
    for size in ((8, 8), (5, 9), (30, 20))
}  # fmt: skip


@pytest.mark.parametrize("name", RESIZES)
def test_interpolations_read_the_taps_that_they_read(name):
    net = nn.Sequential(RESIZES[name], conv(3, 4, 1))
    for position in ((0, 0), (3, 4)):
        found = ctxnet.receptive_field(net, "1", (16, 12), position)
        assert torch.equal(found, moved(net, (16, 12), lambda y, p=position: y[:, :, p[0], p[1]]))


@pytest.mark.parametrize("name", RESIZES)
def test_interpolations_of_nothing_but_zeros_are_zero(name):
    """Divided by what depends on the image they stay zero, so that none of that reaches them."""
    net = nn.Sequential(Fn(lambda x: x.tril()), RESIZES[name], Fn(lambda x: x / (2 + x.norm(dim=3, keepdim=True))))
    for position in ((1, 4), (3, 3)):
        found = ctxnet.receptive_field(net, "2", (16, 12), position)
        assert torch.equal(found, moved(net, (16, 12), lambda y, p=position: y[:, :, p[0], p[1]]))


LAYOUTS = {
    "transposed": (lambda x: x.transpose(2, 3), (10, 6), lambda y: y[:, :, 10, 6]),
    "channels last": (lambda x: x.permute(0, 2, 3, 1), (5, 8), lambda y: y[:, 5, 8]),
    "transposed, channels last": (lambda x: x.permute(0, 3, 2, 1), (8, 5), lambda y: y[:, 8, 5]),
    "rotated": (lambda x: x.rot90(1, (2, 3)), (10, 6), lambda y: y[:, :, 10, 6]),
    "no channels": (lambda x: x.mean(1), (5, 8), lambda y: y[:, 5, 8]),
    "no batch": (lambda x: x.squeeze(0), (5, 8), lambda y: y[:, 5, 8]),
    "tokens": (tokens, (5, 8), lambda y: y[:, 5 * 20 + 8]),
    "channels, tokens": (lambda x: x.flatten(2), (5, 8), lambda y: y[:, :, 5 * 20 + 8]),
    "columns first": (lambda x: x.transpose(2, 3).flatten(2), (8, 5), lambda y: y[:, :, 8 * 12 + 5]),
    "square transposed": (lambda x: x[..., :12].transpose(2, 3), (9, 5), lambda y: y[:, :, 9, 5]),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_are_followed(name):
    change, position, feature = LAYOUTS[name]
    net = nn.Sequential(conv(), Fn(change))
    assert torch.equal(ctxnet.receptive_field(net, "1", (12, 20), position), moved(net, (12, 20), feature))


def test_parts_of_one_image_in_the_batch_are_refused():
    net = nn.Sequential(conv(), Fn(lambda x: torch.cat([x[..., :8], x[..., 8:]])))
    with pytest.raises(ValueError, match="layer '1' .* several parts of one image in its batch dimension.*layout="):
        ctxnet.receptive_field(net, "1", (8, 16))


def test_an_open_layout_is_refused_and_can_be_given():
    net = nn.Sequential(conv(), Fn(lambda x, w: w @ tokens(x), w=torch.rand(7, 64)))
    with pytest.raises(ValueError, match="layer '1' gives a tensor of 1×7×4, .*say what its dimensions are with layout="):
        ctxnet.receptive_field(net, "1", (8, 8))
    assert ctxnet.receptive_field(net, "1", (8, 8), layout="NLC").all()
    with pytest.raises(ValueError, match="layout='NCHW' does not fit the 3 dimensions"):
        ctxnet.receptive_field(net, "1", (8, 8), layout="NCHW")


class Keeps(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.lazy, self.calls = nn.Conv2d(3, 4, 3), nn.LazyConv2d(5, 1), 0
        self.register_buffer("ema", torch.zeros(4))
        self.register_buffer("table", torch.arange(3.0))

    def forward(self, x):
        self.last = [self.conv(x)]
        self.ema = 0.9 * self.ema + 0.1 * self.last[0].mean((0, 2, 3))
        self.table.add_(1)
        self.calls += 1
        torch.rand(1)
        return self.lazy(self.last[0])


class Overwrites(nn.Module):
    """Writes into what its last forward pass has left, which is no leaf of a graph."""

    def __init__(self):
        super().__init__()
        self.conv, self.last = conv(), None

    def forward(self, x):
        if self.last is not None:
            self.last.data.zero_()
        self.last = self.conv(x)
        return self.last * 1


def test_what_a_model_has_kept_of_its_own_forward_is_not_written_to():
    net = Overwrites()
    net(torch.randn(1, 3, 8, 8))
    before = net.last.detach().clone()
    ctxnet.receptive_field(net, "conv", (8, 8))
    assert torch.equal(net.last.detach(), before) and before.any()


def snapshot(model):
    return {
        "state": {k: (v.clone(), v.requires_grad) if not isinstance(v, nn.UninitializedParameter) else "lazy"
                  for k, v in model.state_dict(keep_vars=True).items()},
        "attributes": {n: sorted(vars(m)) for n, m in model.named_modules()},
        "modes": [m.training for m in model.modules()],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
        "calls": getattr(model, "calls", None),
        "grads": [p.grad is None for p in model.parameters()],
        "random": torch.get_rng_state(),
    }  # fmt: skip


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_alone(fails):
    net = Keeps().train()
    before = snapshot(net)
    layer = "nowhere" if fails else "conv"
    for call in (
        lambda: ctxnet.receptive_field(net, layer, (12, 12)),
        lambda: ctxnet.effective_receptive_field(net, torch.randn(2, 3, 12, 12), layer),
        lambda: ctxnet.context_profile(net, torch.randn(2, 3, 12, 12), [layer]),
        lambda: ctxnet.check_receptive_field(net, layer, (12, 12), pixels=6),
    ):
        state = torch.get_rng_state()
        if fails:
            with pytest.raises(ValueError, match="nowhere"):
                call()
        else:
            call()
        before["random"] = before["random"] if fails else torch.get_rng_state()
        if fails:
            torch.set_rng_state(state)
        assert same({**snapshot(net), "random": 0}, {**before, "random": 0})
    assert tuple(net(torch.randn(1, 3, 12, 12)).shape) == (1, 5, 10, 10)  # the lazy layer finds its own channels
    ctxnet.receptive_field(net, "conv", (12, 12))
    torch.save(net.state_dict(), io.BytesIO())
    net(torch.randn(1, 3, 12, 12))
    assert net.calls == 2


def test_random_numbers_go_on_as_if_nothing_had_been_measured():
    net = Keeps()
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    ctxnet.receptive_field(net, "conv", (12, 12))
    assert torch.equal(torch.rand(4), expected)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(reentrant):
    class Saves(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.out = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1)

        def forward(self, x):
            return self.out(checkpointing.checkpoint(self.first, x, use_reentrant=reentrant))

    erf = ctxnet.effective_receptive_field(Saves(), torch.randn(1, 3, 16, 16), "out")
    assert int((erf > 0).sum()) == 9 and int(ctxnet.receptive_field(Saves(), "out", (16, 16)).sum()) == 9


def test_wrapped_models_have_their_own_names():
    net = nn.Sequential(conv(), nn.ReLU())
    for wrapped in (torch.compile(net), nn.DataParallel(net), torch.compile(nn.DataParallel(net))):
        assert int(ctxnet.receptive_field(wrapped, "1", (12, 12), (6, 6)).sum()) == 9


def test_nothing_behind_the_layer_runs():
    def fails(x):
        raise RuntimeError("not asked for")

    net = nn.Sequential(conv(), nn.ReLU(), Fn(fails))
    assert int(ctxnet.receptive_field(net, "1", (12, 12), (6, 6)).sum()) == 9
    assert int((ctxnet.effective_receptive_field(net, torch.rand(1, 3, 12, 12), "1", (6, 6)) > 0).sum()) <= 9


def test_what_is_no_plain_model_is_refused_in_one_line():
    net = nn.Sequential(conv(), nn.ReLU()).eval()
    cases = [
        (torch.jit.trace(net, torch.rand(1, 3, 8, 8)), ValueError, "TorchScript"),
        (lambda x: x, TypeError, "not an nn.Module"),
    ]
    for model, kind, message in cases:
        with pytest.raises(kind, match=message) as error:
            ctxnet.receptive_field(model, "0", (8, 8))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "last", [nn.LayerNorm(16), nn.Softmax(-1), nn.Sequential(nn.LayerNorm(16), nn.Dropout())],
    ids=["norm", "softmax", "dropout"],
)  # fmt: skip
def test_rounding_is_no_effective_receptive_field(last):
    net = nn.Sequential(nn.Conv2d(3, 16, 4, 4), Fn(lambda x: x.permute(0, 2, 3, 1)), last)
    with pytest.raises(ValueError, match="normalisation whose channels add up to a constant"):
        ctxnet.effective_receptive_field(net, torch.randn(2, 3, 16, 16), "2")


def test_a_learned_norm_has_an_effective_receptive_field():
    net = nn.Sequential(nn.Conv2d(3, 16, 4, 4), Fn(lambda x: x.permute(0, 2, 3, 1)), nn.LayerNorm(16))
    nn.init.uniform_(net[2].weight, 0.5, 1.5)
    assert float(ctxnet.effective_receptive_field(net, torch.randn(2, 3, 16, 16), "2").sum()) == pytest.approx(1)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_images_must_be_numbers(value):
    with pytest.raises(ValueError, match="not finite"):
        ctxnet.context_profile(nn.Sequential(conv()), torch.full((1, 3, 8, 8), value), ["0"])


def test_signals_and_volumes():
    tcn = nn.Sequential(*(nn.Conv1d(2, 2, 3, padding=2**i, dilation=2**i) for i in range(4)))
    assert int(ctxnet.receptive_field(tcn, "3", (2, 64)).sum()) == 1 + 2 * (1 + 2 + 4 + 8)
    volume = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.MaxPool3d(2), nn.Conv3d(4, 4, (3, 1, 1), padding=(1, 0, 0)))
    found = ctxnet.context_profile(volume, torch.randn(2, 1, 12, 10, 14), ["0", "2"])
    assert [int(rf.sum()) for rf in found.rf] == [27, 8 * 4 * 4] and found.center[1].tolist() == [6.5, 4.5, 6.5]
    assert float(found.erf[1].sum()) == pytest.approx(1) and found.distance[1] > found.distance[0]


def test_a_rule_of_ones_own():
    @torch.library.custom_op("ctxnet_tests::mirror", mutates_args=())
    def mirror(x: torch.Tensor) -> torch.Tensor:
        return x.flip(3).clone()

    mirror.register_fake(torch.empty_like)
    net = nn.Sequential(conv(), Fn(lambda x: torch.ops.ctxnet_tests.mirror(x)))
    with pytest.raises(NotImplementedError, match="layer '1' calls ctxnet_tests.mirror.*ctxnet.measure.register_rule"):
        ctxnet.receptive_field(net, "1", (8, 8))
    register_rule(torch.ops.ctxnet_tests.mirror, lambda call: ([(call["x"], [Mix([3])])], False))
    found, exact = ctxnet.receptive_field(net, "1", (8, 8), (4, 4), return_exact=True)
    assert int(found.sum()) == 3 * 8 and not exact


def test_the_check_does_not_believe_the_rules(monkeypatch):
    net = nn.Sequential(conv(), nn.ReLU(), conv(4, 4))
    assert not ctxnet.check_receptive_field(net, "2", (12, 12), pixels=None)
    monkeypatch.setattr(Reach, "masks", lambda self, positions: {"2": (torch.eye(12).bool(), True)})
    found = ctxnet.check_receptive_field(net, "2", (12, 12), pixels=None)
    assert {(d.row, d.col) for d in found if d.reached} and any(not d.reached for d in found)
    # Of a bound, what lies outside is as wrong, and what lies inside without being reached is none.
    monkeypatch.setattr(Reach, "masks", lambda self, positions: {"2": (torch.eye(12).bool(), False)})
    bound = ctxnet.check_receptive_field(net, "2", (12, 12), pixels=None)
    assert bound and bound == [d for d in found if d.reached]


def test_an_effective_field_outside_of_the_field_is_an_error(monkeypatch):
    net = nn.Sequential(conv())
    monkeypatch.setattr(Reach, "masks", lambda self, positions: {"0": (torch.zeros(12, 12).bool(), True)})
    with pytest.raises(RuntimeError, match="layer '0': 100.0% of the effective receptive field lies outside"):
        ctxnet.effective_receptive_field(net, torch.randn(1, 3, 12, 12), "0")


def test_exact_fields_give_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ctxnet.receptive_field(nn.Sequential(conv()), "0", (8, 8))
