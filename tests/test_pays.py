"""Blocks of chapter 8: each against its definition, where it looks, how it starts, what it costs; its protocols."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import ctxnet
from ctxnet.blocks import BLOCKS
from ctxnet.blocks.positions import offsets, permutations
from ctxnet.paper import pays
from ctxnet.paper.contrasts import load_hypotheses
from ctxnet.training import load_params, load_protocol, plan, rows_of
from ctxnet.training.protocol import identity
from ctxnet.training.run import network
from ctxnet.training.seeds import parse_seeds

ROOT = Path(__file__).parents[1]
PARAMS = load_params(ROOT / "params.yaml")
ROWS = [row for row in PARAMS["own_rows"]["pays128"] if row not in ("resnet50", "starved_shift1")]
C, H, W = 12, 5, 7
CONTEXT = {  # block: its arguments here, beside the seed and the layer where it has them
    "global_context": {}, "depthwise": {}, "squeeze_excitation": {}, "channel_attention": {}, "shift": {},
    "spatial_shuffle": {"share": 0.25}, "gated_permutation": {}, "partial_permutation": {},
    "depthwise_random": {"k": 5, "d": 2},
}  # fmt: skip
FROM_ZERO = ["global_context", "depthwise", "gated_permutation", "depthwise_random"]
DRAWN = ["spatial_shuffle", "gated_permutation", "partial_permutation", "depthwise_random"]


def make(name, *, seed=3, channels=C, trained=True):
    """A block in double precision; ``trained``: its weights are random, also those that start at zero."""
    drawn = {"seed": seed, "layer": "layer1.0"} if name in DRAWN else {}
    block = BLOCKS[name](channels, **CONTEXT[name], **drawn).double()
    generator = torch.Generator().manual_seed(0)
    if trained:
        for parameter in block.parameters():
            nn.init.normal_(parameter, std=0.5, generator=generator)
    return block


def sample():
    return torch.randn(2, C, H, W, dtype=torch.double, generator=torch.Generator().manual_seed(1), requires_grad=True)


# ---- definitions, written with loops over places -----------------------------------------------------------------------


def everywhere(value):
    """``value(n, row, column) -> (C,)`` at every place."""
    rows = [[[value(n, r, c) for c in range(W)] for r in range(H)] for n in range(2)]
    return torch.stack([torch.stack([torch.stack(row, -1) for row in rows], -2) for rows in rows])


def at(x, n, r, c):
    return x[n, :, r, c] if 0 <= r < H and 0 <= c < W else torch.zeros_like(x[n, :, 0, 0])


def global_context(block, x):
    scores = torch.einsum("nchw,c->nhw", x, block.weigh.weight[0, :, 0, 0]) + block.weigh.bias
    share = scores.exp() / scores.exp().sum((1, 2), keepdim=True)
    mean = torch.einsum("nhw,nchw->nc", share, x)
    hidden = mean @ block.reduce.weight.T + block.reduce.bias
    centred = hidden - hidden.mean(1, keepdim=True)
    hidden = centred / (centred.square().mean(1, keepdim=True) + block.norm.eps).sqrt() * block.norm.weight + block.norm.bias
    added = hidden.clamp(min=0) @ block.weight.T + block.bias
    return everywhere(lambda n, r, c: x[n, :, r, c] + added[n])


def depthwise(block, x):
    reach = range(-3, 4)
    return everywhere(lambda n, r, c: x[n, :, r, c] + sum(
        block.weight[:, 0, i + 3, j + 3] * at(x, n, r + i, c + j) for i in reach for j in reach))  # fmt: skip


def squeeze_excitation(block, x):
    mean = x.sum((2, 3)) / (H * W)
    hidden = (mean @ block.reduce.weight.T + block.reduce.bias).clamp(min=0)
    gate = 1 / (1 + (-(hidden @ block.expand.weight.T + block.expand.bias)).exp())
    return everywhere(lambda n, r, c: x[n, :, r, c] * gate[n])


def channel_attention(block, x):
    mean, taps = x.sum((2, 3)) / (H * W), block.conv.weight[0, 0]
    wide = F.pad(mean, (len(taps) // 2, len(taps) // 2))
    gate = 1 / (1 + (-sum(tap * wide[:, i : i + C] for i, tap in enumerate(taps))).exp())
    return everywhere(lambda n, r, c: x[n, :, r, c] * gate[n])


def shift(block, x):
    groups, nine = [], [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]
    for offset in nine:
        groups += [offset] * (1 if offset != (0, 0) else C - 8)
    return everywhere(
        lambda n, r, c: torch.stack([at(x, n, r + i, c + j)[channel] for channel, (i, j) in enumerate(groups)])
    )


def order():
    return permutations(1, H, W, seed=3, layer="layer1.0")[0]


def permuted(x, n, r, c):
    place = int(order()[r * W + c])
    return x[n, :, place // W, place % W]


def partial_permutation(block, x):
    return everywhere(lambda n, r, c: torch.cat([permuted(x, n, r, c)[:3], x[n, 3:, r, c]]))


def gated_permutation(block, x):
    return everywhere(lambda n, r, c: x[n, :, r, c] + block.gate * permuted(x, n, r, c))


def shuffled_from():
    """[channel, row, column, (channel, row, column)] of the three channels that are shuffled."""
    index = permutations(1, 3 * H, W, seed=3, layer="layer1.0")[0]
    return np.stack([index // (H * W), index // W % H, index % W], -1).reshape(3, H, W, 3)


def spatial_shuffle(block, x):
    there = shuffled_from()
    return everywhere(lambda n, r, c: torch.cat(
        [torch.stack([x[n, i, j, k] for i, j, k in there[:, r, c].tolist()]), x[n, 3:, r, c]]))  # fmt: skip


def depthwise_random(block, x):
    chosen = offsets(5, 2, seed=3, layer="layer1.0").tolist()
    return everywhere(lambda n, r, c: x[n, :, r, c] + sum(
        block.weight[i, :, 0, 0] * x[n, :, (r + j) % H, (c + k) % W] for i, (j, k) in enumerate(chosen)))  # fmt: skip


DEFINITIONS = {name: globals()[name] for name in CONTEXT}


@pytest.mark.parametrize("name", CONTEXT)
def test_block_equals_its_definition(name):
    block, x = make(name), sample()
    found, expected = block(x), DEFINITIONS[name](block, x)
    assert torch.allclose(found, expected, rtol=0, atol=1e-10)
    weights = torch.randn(found.shape, dtype=torch.double, generator=torch.Generator().manual_seed(2))
    wanted = [x, *block.parameters()]
    ours, theirs = (torch.autograd.grad((y * weights).sum(), wanted) for y in (found, expected))
    assert all(torch.allclose(a, b, rtol=0, atol=1e-9) for a, b in zip(ours, theirs, strict=True))


# ---- where they look ---------------------------------------------------------------------------------------------------


def claimed(name, row, column):
    """Places that the block's docstring says it sees from one place: bool (H, W)."""
    rows, columns = np.mgrid[:H, :W]
    far = np.maximum(abs(rows - row), abs(columns - column))
    here = far == 0
    if name in ("global_context", "squeeze_excitation", "channel_attention"):
        return far >= 0
    if name in ("depthwise", "shift"):
        return far <= (3 if name == "depthwise" else 1)
    if name == "depthwise_random":
        seen = [((row + j) % H, (column + k) % W) for j, k in offsets(5, 2, seed=3, layer="layer1.0").tolist()]
    elif name == "spatial_shuffle":
        seen = shuffled_from()[:, row, column, 1:].tolist()
    else:
        seen = [divmod(int(order()[row * W + column]), W)]
    for place in seen:
        here[tuple(place)] = True
    return here


@pytest.mark.parametrize("place", [(0, 0), (2, 3), (4, 6)])
@pytest.mark.parametrize("name", CONTEXT)
def test_measured_receptive_field_is_the_one_claimed(name, place):
    """Also of a block that starts at zero, since learned zeros are no wiring; and as gradients have it in a trained one."""
    expected = torch.from_numpy(claimed(name, *place))
    for trained in (False, True):
        model = nn.Sequential()
        model.add_module("enter", nn.Conv2d(3, C, 1, dtype=torch.double))
        model.add_module("block", make(name, trained=trained))
        found = ctxnet.receptive_field(model.eval(), "block", input_size=(H, W), position=place)
        assert torch.equal(found.cpu(), expected)
    x = sample()
    (gradient,) = torch.autograd.grad(make(name)(x)[0, :, place[0], place[1]].square().sum(), x)
    assert torch.equal(gradient[0].abs().sum(0) > 0, expected) and not gradient[1].any()


# ---- how they start, what they keep --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FROM_ZERO)
def test_what_starts_at_zero_starts_as_the_identity(name):
    fresh, x = make(name, trained=False), sample()
    assert torch.equal(fresh(x), x)
    trained = make(name)
    assert not torch.equal(trained(x), x)
    trained.start_as_identity()
    assert torch.equal(trained(x), x)
    assert any(g.any() for g in torch.autograd.grad(fresh(x).square().sum(), list(fresh.parameters())))  # it can leave zero


@pytest.mark.parametrize("row", [row for row in ROWS if row.endswith(("_gc", "_dw7", "_gated_perm", "_dw_random"))])
def test_a_network_of_blocks_from_zero_starts_as_plain_resnet(row):
    """Through the network's own initialisation and its drawing of weights layer by layer, which must not fill the zeros."""
    x = torch.randn(2, 3, 64, 64)
    made = [ctxnet.create_model(name, width=8, input_size=64, init_seed=4).eval() for name in (row, "resnet50")]
    assert torch.equal(made[0](x), made[1](x))


@pytest.mark.parametrize("name", CONTEXT)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_precision_and_memory_format_stay(name, dtype):
    x = torch.randn(2, C, H, W).to(dtype).to(memory_format=torch.channels_last)
    y = make(name).to(dtype)(x)
    assert y.dtype == dtype and y.shape == x.shape and y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", DRAWN)
def test_positions_are_those_of_the_seed_and_come_back_with_it(name):
    """They are derived from (seed, layer, size), as everywhere in this package, and so are no part of a state dict."""
    x, block = sample(), make(name)
    again, other = make(name, trained=False), make(name, seed=4, trained=False)
    for reloaded in (again, other):
        reloaded.load_state_dict(block.state_dict())
    assert torch.equal(again(x), block(x)) and not torch.equal(other(x), block(x))
    assert not list(block.buffers())
    small = x[:, :, :4, :3]  # another size, another draw, and the first one comes back
    assert block(small).shape == small.shape and torch.equal(again(x), block(x))


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("global_context", {"ratio": 0}, "ratio=0 must be an integer ≥ 1; nearest valid value: ratio=1"),
        ("squeeze_excitation", {"ratio": 1.5}, "ratio=1.5 must be an integer"),
        ("depthwise", {"size": 4}, "size=4 has no middle; nearest valid value: size=5"),
        ("partial_permutation", {"share": 0}, "share=0 must lie in"),
        ("spatial_shuffle", {"share": 1.5}, r"share=1.5 must lie in \(0, 1\]; nearest valid value: share=1.0"),
        ("depthwise_random", {"k": 9, "d": 1}, "nearest valid value: k=8"),
    ],
)
def test_bad_arguments_name_the_nearest_valid_value(name, args, message):
    with pytest.raises(ValueError, match=message) as error:
        BLOCKS[name](16, **args)
    assert "\n" not in str(error.value)


def test_too_few_channels_for_nine_groups_take_one_offset_each():
    x = torch.randn(1, 4, 6, 7)
    y = BLOCKS["shift"](4)(x)
    for channel, (i, j) in enumerate([(-1, -1), (-1, 0), (-1, 1), (0, -1)]):
        assert torch.equal(y[0, channel, 2:4, 2:5], x[0, channel, 2 + i : 4 + i, 2 + j : 5 + j])


# ---- rows and protocols --------------------------------------------------------------------------------------------------


def elements(*shapes, out_shape, **_):
    return 2 * math.prod(out_shape)


def multiplications(model, size):
    """Of one image: convolutions, matrix products, and every element-wise product."""
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.mul: elements})
    with torch.no_grad(), counter:
        model(torch.zeros(1, 3, size, size))
    return counter.get_total_flops() / 2


def test_multiplications_are_counted_as_by_hand():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), BLOCKS["gated_permutation"](8))
    assert multiplications(model, 10) == 10 * 10 * (3 * 8 * 9 + 8)


@pytest.mark.parametrize("protocol", ["pays", "pays128"])
def test_blocks_cost_a_tenth_of_the_parameters_and_15_percent_of_the_multiplications_at_most(protocol):
    settings = load_protocol(protocol, ROOT / "params.yaml")
    cost = {}
    for row in ["resnet50", *ROWS, "starved_shift1"]:
        model = network(settings, row, parse_seeds(0), num_classes=10).eval()
        cost[row] = ctxnet.count_parameters(model), multiplications(model, settings.image_size)
    plain = cost["resnet50"]
    shares = {row: [each / whole for each, whole in zip(found, plain, strict=True)] for row, found in cost.items()}
    assert all(shares[row][0] <= 1.10 and shares[row][1] <= 1.15 for row in ROWS), shares
    assert shares["resnet50_shift"] == shares["resnet50_ssconv"] == shares["resnet50_partial_perm"] == [1.0, 1.0]
    assert shares["starved_shift1"][0] < 0.6 and shares["starved_shift1"][1] < 0.7, shares
    print(protocol, {row: [round(100 * share - 100, 1) for share in found] for row, found in shares.items()})


@pytest.mark.parametrize("row", [*ROWS, "starved_shift1"])
def test_a_row_trains_a_step_and_comes_back_from_its_weights(row, tmp_path):
    settings = load_protocol("pays", ROOT / "params.yaml")
    model = network(settings, row, parse_seeds(200), num_classes=10)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    x, labels = torch.randn(4, 3, 64, 64), torch.tensor([0, 1, 2, 3])
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters() if ".context." in name}
    F.cross_entropy(model(x), labels).backward()
    optimiser.step()
    optimiser.zero_grad()
    F.cross_entropy(model(x), labels).backward()  # the last gammas stand at zero: the blocks move from the second step on
    optimiser.step()
    after = dict(model.named_parameters())
    assert not before or any(not torch.equal(after[name], value) for name, value in before.items())
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    again = network(settings, row, parse_seeds(200), num_classes=10)
    again.load_state_dict(torch.load(tmp_path / "weights.pth", weights_only=True))
    assert torch.equal(again.eval()(x), model.eval()(x))


def test_the_protocols_are_context_and_small128_with_fresh_seeds():
    for name, parent in (("pays", "context"), ("pays128", "small128"), ("pays_float32", "pays")):
        ours, theirs = (load_protocol(each, ROOT / "params.yaml") for each in (name, parent))
        if name == pays.FLOAT32:  # those of pays, and their seeds, in the other precision
            assert dataclasses.replace(ours, name=parent, precision="bf16") == theirs and ours.precision == "float32"
            continue
        assert dataclasses.replace(ours, name=parent, seeds=theirs.seeds, maps=theirs.maps) == theirs
        assert identity(ours, "resnet50", 0, "") == identity(theirs, "resnet50", 0, "")
        assert len(ours.seeds) >= 8 and not set(ours.seeds) & {*theirs.seeds, 7, 8}
    used = {parse_seeds(s).seed for rows in PARAMS["more_seeds"].values() for seeds in rows.values() for s in seeds}
    assert not set(load_protocol("pays", ROOT / "params.yaml").seeds) & used


def test_a_campaign_takes_the_plain_network_and_the_pilots_best_blocks_first(tmp_path):
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    jobs = plan(load_protocol("pays128", tmp_path / "params.yaml"), root=tmp_path)
    assert [job.variant for job in jobs[:4]] == ["resnet50", "resnet50_gc", "resnet50_dw7", "resnet50_dw_random"]
    assert len(jobs) == 8 * len(PARAMS["own_rows"]["pays128"])


@pytest.mark.parametrize("protocol", pays.PROTOCOLS)
def test_every_block_has_a_hypothesis_that_was_written_before_its_runs(protocol):
    settings = load_protocol(protocol, ROOT / "params.yaml")
    found = [each for each in load_hypotheses(ROOT / "hypotheses.yaml") if each.protocol == protocol]
    assert {row for each in found for row in each.cells} == set(rows_of(settings, PARAMS))
    for row in set(ROWS) & set(rows_of(settings, PARAMS)):
        (one,) = (each for each in found if row in each.cells)
        assert one.cells == {row: 1, "resnet50": -1} and one.kind == "greater" and "1.0 point" in one.text
    assert {each.replicates for each in found} == {len(settings.seeds)}
