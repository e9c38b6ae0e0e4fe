"""What measuring all of timm has found in the measures: the smallest network that shows it."""

import torch
import torch.nn.functional as F
from torch import nn

from ctxnet import receptive_field


class Tokens(nn.Module):
    """A patch embedding of 4 px and a class token in front, then one block."""

    def __init__(self, block):
        super().__init__()
        self.patch = nn.Conv2d(3, 4, 4, stride=4)
        self.token = nn.Parameter(torch.zeros(1, 1, 4))
        self.block = block

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        return self.block(torch.cat([self.token.expand(len(x), -1, -1), x], dim=1))


class Padded(nn.Module):
    """timm's CoaT (``FactorAttnConvRelPosEnc``): what is said of the image's tokens gets a zero for the class token."""

    def forward(self, x):
        return x + F.pad(2 * x[:, 1:], (0, 0, 1, 0, 0, 0))


def test_tokens_that_are_padded_for_the_class_token():
    assert int(receptive_field(Tokens(Padded()).eval(), "block", (32, 32)).sum()) == 16


def test_a_class_token_before_tokens_that_see_everything():
    model = Tokens(nn.Identity())
    model.patch = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, stride=2), nn.GroupNorm(2, 4), nn.Conv2d(4, 4, 4, stride=4))
    assert receptive_field(model.eval(), "block", (64, 64)).all()
