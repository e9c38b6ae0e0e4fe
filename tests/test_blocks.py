"""Blocks against their textbook formulation, in float64, forward and backward."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from benchmarks.common import kept_bytes
from ctxnet.blocks import (
    InsertedDilatedConv,
    PermutationAttention,
    RandomDilatedConcat,
    RandomDilatedConv,
    SpatialPermutation,
)
from ctxnet.blocks.base import convolve
from ctxnet.blocks.encoding import relative_encoding
from ctxnet.blocks.positions import offsets, permutations, relative_positions


def sample(n=2, c=8, h=5, w=7):
    return torch.randn(n, c, h, w, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)


def textbook_copies(x, k, *, encoding=False, seed=0, layer=""):
    n, c, h, w = x.shape
    order = permutations(k, h, w, seed=seed, layer=layer)
    copies = []
    for index in order:
        copy = x.flatten(2)[:, :, torch.from_numpy(index)].view(n, c, h, w)
        if encoding:
            code = relative_encoding(relative_positions(index[None], w), c)[0]
            copy = copy + torch.from_numpy(code).T.reshape(1, c, h, w)
        copies.append(copy)
    return copies


def textbook_shift(x, dy, dx):
    y = torch.zeros_like(x)
    for r in range(x.shape[2]):
        for c in range(x.shape[3]):
            if 0 <= r - dy < x.shape[2] and 0 <= c - dx < x.shape[3]:
                y[:, :, r, c] = x[:, :, r - dy, c - dx]
    return y


def assert_same(function, reference, x, tolerance=1e-12):
    got, expected = function(x), reference(x)
    weights = torch.randn(expected.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(1))
    (got_grad,) = torch.autograd.grad((got * weights).sum(), x)
    (expected_grad,) = torch.autograd.grad((expected * weights).sum(), x)
    assert (got - expected).abs().max() <= tolerance
    assert (got_grad - expected_grad).abs().max() <= tolerance


@pytest.mark.parametrize("k", [0, 1, 3, 5])
@pytest.mark.parametrize("encoding", [False, True])
def test_permutation_equals_concatenation(k, encoding):
    block = SpatialPermutation(8, k=k, encoding=encoding, seed=3, layer="layer1.0")
    assert_same(
        block, lambda x: torch.cat([x, *textbook_copies(x, k, encoding=encoding, seed=3, layer="layer1.0")], 1), sample()
    )


@pytest.mark.parametrize("k", [1, 3])
def test_gather_and_gemm_equal_concatenate_and_convolve(k):
    weight = torch.randn(16, 8 * (k + 1), 1, 1, dtype=torch.float64)
    block = SpatialPermutation(8, k=k)
    assert_same(
        lambda x: F.conv2d(block(x), weight),
        lambda x: F.conv2d(torch.cat([x, *textbook_copies(x, k)], 1), weight),
        sample(),
        tolerance=1e-12 * 8 * (k + 1),
    )


@pytest.mark.parametrize("k", [0, 1, 3])
def test_attention_equals_its_definition(k):
    def reference(x):
        code = relative_encoding(np.zeros((2, 1)), x.shape[1])[0]
        here = x + torch.from_numpy(code)[None, :, None, None]
        copies = torch.stack([here, *textbook_copies(x, k, encoding=True)])
        scores = (copies * here).sum(2, keepdim=True)
        return (scores.softmax(0) * copies).sum(0)

    assert_same(PermutationAttention(8, k=k), reference, sample())


@pytest.mark.parametrize("d", [1, 3, 30])
def test_random_dilated_equals_shifted_copies(d):
    chosen = offsets(8, d)
    assert_same(
        RandomDilatedConcat(8, k=8, d=d),
        lambda x: torch.cat([x, *(textbook_shift(x, dy, dx) for dy, dx in chosen)], 1), sample(),
    )


def test_random_dilated_convolution_is_a_sparse_dense_convolution():
    d, c = 3, 4
    block = RandomDilatedConv(c, k=8, d=d).double()
    dense = torch.zeros(c, c, 2 * d + 1, 2 * d + 1, dtype=torch.float64)
    taps = block.conv.weight.view(c, 9, c)
    for i, (dy, dx) in enumerate(block.shift.shifts):
        dense[:, :, d - dy, d - dx] = taps[:, i].detach()
    assert_same(lambda x: block.conv(block.shift(x)), lambda x: F.conv2d(x, dense, padding=d), sample(c=c))


def saved_bytes(call):
    """Bytes of the distinct tensors that autograd keeps for the backward pass of ``call()``."""
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = call()
    return sum(kept.values()) - kept.get(result.untyped_storage().data_ptr(), 0)


def test_attention_keeps_no_copies():
    """The copies would be k + 1 times x; what else is kept grows by an index and a weight per copy and position."""
    x = torch.randn(4, 256, 7, 7).requires_grad_()
    size = x.nbytes
    assert saved_bytes(lambda: PermutationAttention(256, k=1)(x)) < 2 * size  # with x and its encodings
    block, few = PermutationAttention(256, k=5), PermutationAttention(256, k=1)
    tables = sum(table.nbytes for table in block.tables(x)) - sum(table.nbytes for table in few.tables(x))
    assert saved_bytes(lambda: block(x)) - saved_bytes(lambda: few(x)) - tables == 4 * 7 * 7 * 4 * 4


@pytest.mark.parametrize(
    "block", [SpatialPermutation(8, k=3), SpatialPermutation(8, k=1, encoding=True), RandomDilatedConcat(8, k=3, d=2)]
)
def test_copies_are_not_kept_for_the_convolution_behind_them(block):
    made = {}
    for block.save_memory in (False, True, None):
        torch.manual_seed(0)
        conv = torch.nn.Conv2d(block.out_channels, 32, 1, bias=False).to(memory_format=torch.channels_last)
        before = sample(4, 8, 16, 16).detach().float().to(memory_format=torch.channels_last).requires_grad_()
        kept = kept_bytes(lambda conv=conv, x=before: convolve(conv, block, x.relu()), device="cpu")
        y = convolve(conv, block, before.relu())
        y.square().mean().backward()
        made[block.save_memory] = kept, y, before.grad, conv.weight.grad
    (much, *plain), (less, *frugal), (least, *default) = made.values()
    x = before.nbytes
    assert much >= x + block.out_channels // 8 * x and less < much - (block.out_channels // 8 - 0.1) * x
    assert least == less  # on a CPU
    for one, two, three in zip(plain, frugal, default, strict=True):
        assert torch.equal(one, two) and torch.equal(one, three)
    block.eval()
    assert torch.equal(convolve(conv, block, before.relu()), plain[0])


def test_gradients_pass_gradcheck():
    x = sample(1, 4, 2, 3)
    for block in (SpatialPermutation(4, k=2, encoding=True), PermutationAttention(4, k=2), RandomDilatedConcat(4, k=3, d=2)):
        assert torch.autograd.gradcheck(block, x)
        assert torch.autograd.gradgradcheck(block, x)


@pytest.mark.parametrize("block", [InsertedDilatedConv(8, d=2), RandomDilatedConv(8, k=8, d=2)])
def test_inserted_layers_can_start_as_identity(block):
    block.eval().start_as_identity()
    x = sample().float().relu()
    assert torch.allclose(block(x), x, atol=1e-6)


def test_positions_are_fixed_distinct_and_in_range():
    order = permutations(4, 6, 5, seed=1, layer="layer2.0")
    assert (np.sort(order, axis=1) == np.arange(30)).all()
    assert (order == permutations(4, 6, 5, seed=1, layer="layer2.0")).all()
    assert len({tuple(row) for row in order}) == 4
    for other in (permutations(4, 6, 5, seed=2, layer="layer2.0"), permutations(4, 6, 5, seed=1, layer="layer2.1")):
        assert (order != other).any()
    chosen = offsets(24, 2)
    assert len({tuple(o) for o in chosen}) == 24 and abs(chosen).max() == 2 and (chosen != 0).any(axis=1).all()


def test_positions_are_the_same_on_every_machine():
    assert permutations(1, 3, 3, seed=0, layer="layer1.0").tolist() == PERMUTATION
    assert offsets(3, 8, seed=0, layer="layer1.0").tolist() == OFFSETS


PERMUTATION = [[3, 1, 4, 2, 7, 0, 8, 5, 6]]
OFFSETS = [[-6, -1], [5, 8], [7, 5]]


def test_relative_encoding_follows_its_formula():
    code = relative_encoding(np.array([[3], [-2]]), 8)[0]
    f = [1.0, 10000.0 ** (-4 / 8)]
    expected = [*np.sin(3 * np.array(f)), *np.cos(3 * np.array(f)), *np.sin(-2 * np.array(f)), *np.cos(-2 * np.array(f))]
    assert np.allclose(code, expected, atol=1e-15)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SpatialPermutation(8, k=-1), "k=0"),
        (lambda: SpatialPermutation(8, k=1.5), "k=0"),
        (lambda: SpatialPermutation(6, k=1, encoding=True), "8"),
        (lambda: PermutationAttention(2, k=1), "4"),
        (lambda: InsertedDilatedConv(8, d=0), "d=1"),
        (lambda: RandomDilatedConcat(8, k=9, d=1), "k=8"),
        (lambda: RandomDilatedConcat(8, k=2, d=-3), "d=1"),
    ],
)
def test_bad_arguments_name_the_nearest_valid_value(make, message):
    with pytest.raises(ValueError, match=f"nearest valid value: {message}") as caught:
        make()
    assert "\n" not in str(caught.value)
