"""Operators that are calls of their own kind: recurrent layers, deformable convolutions, unpooling, sending to places."""

import time

import pytest
import torch
import torch.nn.functional as F
from test_measure_kinds import Fn, conv, moved
from torch import nn
from torchvision.ops import DeformConv2d

import ctxnet


class Rows(nn.Module):
    """A recurrent layer over the columns of a map, whose rows and channels are its features."""

    def __init__(self, kind, rows=7, **kwargs):
        super().__init__()
        self.conv, self.rnn = conv(), kind(4 * rows, 6, **kwargs)
        self.first = self.rnn.batch_first

    def forward(self, x):
        y = self.conv(x).flatten(1, 2)
        y = y.transpose(1, 2) if self.first else y.permute(2, 0, 1)
        y = self.rnn(y)[0]
        return y if self.first else y.transpose(0, 1)


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
@pytest.mark.parametrize("both, layers, first", [(False, 1, True), (False, 2, False), (True, 1, False), (True, 2, True)])
def test_recurrent_layers_over_columns(kind, both, layers, first):
    net = Rows(kind, bidirectional=both, num_layers=layers, batch_first=first)
    for column in (0, 4, 8):
        mask, exact = ctxnet.receptive_field(net, "", (7, 9), (0, column), return_exact=True)
        assert exact
        assert torch.equal(mask, moved(net, (7, 9), lambda y, column=column: y[:, column]))


@pytest.mark.parametrize("half", [slice(0, 6), slice(6, 12)])
def test_one_direction_of_two_sees_one_side(half):
    net = nn.Sequential(Rows(nn.GRU, bidirectional=True, batch_first=True), Fn(lambda y: y[..., half]))
    mask = ctxnet.receptive_field(net, "1", (7, 9), (0, 3))
    assert torch.equal(mask, moved(net, (7, 9), lambda y: y[:, 3]))
    assert not mask.all()


def test_the_last_state_sees_everything():
    class Last(Rows):
        def forward(self, x):
            return self.rnn(self.conv(x).flatten(1, 2).transpose(1, 2))[1][0]

    assert ctxnet.receptive_field(Last(nn.GRU, batch_first=True), "", (7, 9), layout="NC").all()


def test_a_long_sequence_is_one_step():
    net, start = Rows(nn.GRU, rows=4, batch_first=True), time.process_time()
    mask = ctxnet.receptive_field(net, "", (4, 576), (0, 300))
    assert mask[:, :302].all() and not mask[:, 302:].any()
    assert time.process_time() - start < 20  # 10,000 calls took minutes


class Deformed(nn.Module):
    def __init__(self, constant):
        super().__init__()
        self.deformed = DeformConv2d(3, 4, 3, padding=1)
        if constant:
            self.register_buffer("given", torch.linspace(-2, 2, 18 * 81).reshape(1, 18, 9, 9))
        else:
            self.offsets = nn.Conv2d(3, 18, 1)

    def forward(self, x):
        return self.deformed(x, self.given if hasattr(self, "given") else self.offsets(x))


@pytest.mark.parametrize("position", [(0, 0), (4, 4), (8, 3)])
def test_deformable_convolutions(position):
    mask, exact = ctxnet.receptive_field(Deformed(True), "", (9, 9), position, return_exact=True)
    assert exact
    assert torch.equal(mask, moved(Deformed(True), (9, 9), lambda y: y[(0, slice(None), *position)]))
    mask, exact = ctxnet.receptive_field(Deformed(False), "", (9, 9), position, return_exact=True)
    assert mask.all() and not exact


BACK = torch.arange(9).flip(0)
OPERATORS = {
    "scatter_reduce": lambda x: torch.zeros_like(x).scatter_reduce(3, BACK.expand_as(x), x, "sum"),
    "over itself": lambda x: x.scatter_reduce(3, BACK[:3].expand(1, 4, 9, 3), x, "amax", include_self=False),
    "index_add": lambda x: x.index_add(2, torch.tensor([3, 4, 5]), x[:, :, :3]),
    "padded gate": lambda x: F.pad(x, [1, 1, 1, 1]) * F.adaptive_avg_pool2d(x, 1).sigmoid(),
}


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("position", [(0, 0), (4, 4), (3, 8)])
def test_sent_to_places(name, position):
    net = nn.Sequential(conv(), Fn(OPERATORS[name]))
    mask = ctxnet.receptive_field(net, "1", (9, 9), position)
    assert torch.equal(mask, moved(net, (9, 9), lambda y: y[(0, slice(None), *position)]))


def unpooled(x, between=lambda y: y):
    values, indices = F.max_pool2d(x, 2, return_indices=True)
    return F.max_unpool2d(between(values), indices, 2)


@pytest.mark.parametrize("whole, pixels", [(False, 16), (True, 100)])
def test_unpooling_is_a_bound(whole, pixels):
    net = nn.Sequential(conv(), Fn(lambda x: unpooled(x, lambda y: y * y.mean((2, 3), keepdim=True) if whole else y)))
    mask, exact = ctxnet.receptive_field(net, "1", (10, 10), (4, 5), return_exact=True)
    right = moved(net, (10, 10), lambda y: y[0, :, 4, 5])
    assert not exact and mask.sum() == pixels and not (right & ~mask).any()


@pytest.mark.parametrize(
    "function, reason",
    [
        (lambda x: x * float(x.mean()), "decides by values"),
        (lambda x: x if x.sum() > 0 else -x, "decides by values"),
        (lambda x: torch.from_numpy(x.detach().numpy()), "leaves PyTorch"),
    ],
)
def test_what_no_graph_describes_is_refused_in_words(function, reason):
    with pytest.raises(NotImplementedError, match=f"layer .1. cannot be followed: it {reason}") as error:
        ctxnet.receptive_field(nn.Sequential(conv(), Fn(function)), "1", (9, 9))
    assert "\n" not in str(error.value) and "trac" not in str(error.value)
