"""Blocks of chapter 6: half of the channels look elsewhere, coherently or not; starved networks; weights by layer."""

import numpy as np
import pytest
import torch

import ctxnet
from ctxnet.blocks import BLOCKS
from ctxnet.blocks.half import HalfMean, HalfPermutation, HalfShift, IdentityCopy
from ctxnet.blocks.positions import cycle, tile_offset

TILES = (2, 4, 8, 0)


def around(distance, size):
    distance = np.abs(distance)
    return np.minimum(distance, size - distance)


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("size", [(8, 8), (16, 16), (6, 10), (1, 1), (2, 3)])
def test_rings_stay_in_their_tiles_and_nobody_shows_itself(tile, size):
    height, width = size
    order = cycle(tile, height, width, seed=3, layer="a")
    assert sorted(order) == list(range(height * width))
    here, there = np.divmod(np.arange(height * width), width), np.divmod(order, width)
    if tile:
        assert all((a // tile == b // tile).all() for a, b in zip(here, there, strict=True))
    alone = [(tile and height % tile == 1 or height == 1) and (tile and width % tile == 1 or width == 1)]
    assert (order == np.arange(len(order))).sum() <= sum(map(bool, alone))


@pytest.mark.parametrize("tile", TILES)
def test_coherent_and_incoherent_look_equally_far(tile):
    """Mean distance around the border over many draws, on a map of 16: the same within the error of the draws."""
    size, shifts, rings = 16, [], []
    positions = np.stack(np.divmod(np.arange(size * size), size))
    for seed in range(400):
        offset = tile_offset(tile, size, size, seed=seed)
        shifts.append(np.hypot(*around(np.array(offset), size)))
        if seed < 40:
            moved = np.stack(np.divmod(cycle(tile, size, size, seed=seed), size)) - positions
            rings.append(np.hypot(*around(moved, size)).mean())
    error = np.std(shifts) / np.sqrt(len(shifts)) + np.std(rings) / np.sqrt(len(rings))
    assert abs(np.mean(shifts) - np.mean(rings)) < 3 * error and np.min(shifts) > 0
    expected = {2: 1.14, 4: 2.1, 8: 4.2, 0: 6.1}[tile]
    assert np.mean(rings) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("tile", TILES)
def test_a_shift_shows_the_same_neighbour_everywhere(tile):
    x = torch.randn(2, 6, 8, 8)
    block = HalfShift(6, tile=tile, seed=1, layer="b")
    rows, columns = block.offset(8, 8)
    y = block(x)
    for p, q in ((0, 0), (3, 5), (7, 7)):
        assert torch.equal(y[:, :3, p, q], x[:, :3, (p + rows) % 8, (q + columns) % 8])
    assert torch.equal(y[:, 3:], x[:, 3:]) and (rows, columns) != (0, 0)


def test_a_permutation_shows_its_ring_and_its_gradient_is_the_inverse():
    x = torch.randn(2, 6, 4, 4, dtype=torch.double, requires_grad=True)
    block = HalfPermutation(6, tile=2, seed=1, layer="b")
    order = torch.from_numpy(cycle(2, 4, 4, seed=1, layer="b"))
    y = block(x)
    assert torch.equal(y[:, :3].flatten(2), x[:, :3].flatten(2)[:, :, order]) and torch.equal(y[:, 3:], x[:, 3:])
    assert torch.autograd.gradcheck(block, (x,))


def test_redrawn_rings_differ_at_every_step_and_are_fixed_in_eval_mode():
    x, block = torch.arange(64.0).view(1, 1, 8, 8).repeat(1, 2, 1, 1), HalfPermutation(2, redraw=True, seed=1)
    first, second = block(x), block(x)
    assert not torch.equal(first, second) and not (first[0, 0] == x[0, 0]).any()
    torch.manual_seed(5)
    third = block(x)
    torch.manual_seed(5)
    assert torch.equal(block(x), third)
    block.eval()
    assert torch.equal(block(x), block(x)) and torch.equal(block(x), HalfPermutation(2, seed=1)(x))


def test_mean_and_identity_copy():
    x = torch.randn(2, 4, 3, 5)
    y = HalfMean(4)(x)
    assert torch.allclose(y[:, :2], x[:, :2].mean((2, 3), keepdim=True).expand(2, 2, 3, 5))
    assert torch.equal(y[:, 2:], x[:, 2:])
    assert torch.equal(IdentityCopy(4)(x), torch.cat([x, x], 1))


@pytest.mark.parametrize("name", ["half_shift", "half_permutation", "half_mean"])
def test_odd_channels_have_no_halves(name):
    with pytest.raises(ValueError, match="channels=5 has no halves; nearest valid value: channels=6"):
        BLOCKS[name](5)


@pytest.mark.parametrize("name", ["half_shift", "half_permutation", "half_mean", "identity_copy"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_blocks_keep_precision_and_memory_format(name, dtype):
    x = torch.randn(2, 4, 6, 8).to(dtype).to(memory_format=torch.channels_last)
    y = BLOCKS[name](4)(x)
    assert y.dtype == dtype and y.shape[2:] == x.shape[2:] and y.is_contiguous(memory_format=torch.channels_last)


def test_average_lets_every_pixel_of_a_starved_network_count():
    averaged = ctxnet.create_model("starved_resnet50", width=8, input_size=64).eval()
    strided = ctxnet.create_model("resnet50", spatial=1, width=8, input_size=64).eval()
    assert ctxnet.receptive_field(averaged, "avgpool", input_size=(64, 64)).all()
    assert ctxnet.receptive_field(strided, "avgpool", input_size=(64, 64)).float().mean() < 0.08
    assert ctxnet.receptive_field(averaged, "layer4.2", input_size=(64, 64)).float().mean() < 0.4


def test_cells_have_as_many_parameters():
    counts = {name: ctxnet.count_parameters(ctxnet.create_model(name, width=8)) for name in ctxnet.list_models("starved_*")}
    wide = {"starved_identity", "starved_perm1"}
    assert len({count for name, count in counts.items() if name not in wide}) == 1
    assert len({counts[name] for name in wide}) == 1


def test_networks_share_weights_by_layer_where_shapes_agree():
    plain = ctxnet.create_model("resnet50", width=8, init_seed=3, draw_seed=1).state_dict()
    starved = ctxnet.create_model("starved_shift1", width=8, init_seed=3, draw_seed=9).state_dict()
    other = ctxnet.create_model("resnet50", width=8, init_seed=4, draw_seed=1).state_dict()
    same = [name for name in plain if plain[name].shape == starved[name].shape]
    assert all(torch.equal(plain[name], starved[name]) for name in same)
    assert len(same) == len(plain) - 16 and not torch.equal(plain["fc.weight"], other["fc.weight"])


def test_draw_and_weights_have_seeds_of_their_own():
    one, two, three = (
        ctxnet.create_model("starved_shiftmap", width=8, init_seed=i, draw_seed=d) for i, d in ((1, 1), (1, 2), (2, 1))
    )
    offsets = [[m.offset(16, 16) for m in net.modules() if isinstance(m, HalfShift)] for net in (one, two, three)]
    assert offsets[0] == offsets[2] != offsets[1]
    assert torch.equal(one.conv1.weight, two.conv1.weight) and not torch.equal(one.conv1.weight, three.conv1.weight)


def test_zero_init_makes_a_block_its_shortcut():
    model = ctxnet.create_model("resnet18", width=8, zero_init=True).eval()
    x = torch.rand(1, 8, 8, 8)
    assert torch.equal(model.layer1[0](x), x)


def test_offsets_scale_with_the_map():
    scaled = [
        ctxnet.create_model(name, width=8, input_size=128, offset_scale=128 / 224)
        for name in ("resnet50_dilated4", "resnet50_inserted_dilated8", "resnet50_random_dilated16")
    ]
    assert scaled[0].layer1[0].conv2.dilation == (2, 2)
    assert (scaled[1].layer1[0].context.d, scaled[2].layer1[0].context.d) == (5, 9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spatial": 2}, "spatial=2 is not 1 or 3; nearest valid value: 3"),
        ({"spatial": 1, "dilation": 4}, "dilation=4 needs a 3×3 convolution, and spatial=1 has none"),
        ({"downsample": "averge"}, "did you mean 'average'"),
        ({"offset_scale": 0.0}, "must lie in"),
        ({"context": "half_permutation", "tile": 2, "redraw": True}, "only whole maps are drawn anew"),
        ({"context": "half_shift", "tile": -1}, "tile=-1 must be an integer"),
    ],
)
def test_what_makes_no_sense_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        ctxnet.create_model("resnet50", width=8, **change)
