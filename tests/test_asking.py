"""Models of several inputs and outputs, and layers that run several times, against one changed pixel at a time."""

from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import ctxnet

Result = namedtuple("Result", "features depth")


@dataclass
class Answer:
    nothing: object
    logits: torch.Tensor


class Pair(nn.Module):
    """An image and a depth map; their shared layer runs three times."""

    def __init__(self, kind=dict):
        super().__init__()
        self.image, self.depth = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(1, 4, 5, padding=2)
        self.shared = nn.Conv2d(4, 4, 3, padding=1)
        self.kind = kind

    def forward(self, image, depth, keep=None):
        y, z = self.shared(self.image(image)), self.shared(self.depth(depth))
        both = self.shared(y * z if keep is None else torch.where(keep, y, z))
        if self.kind is dict:
            return {"image": y, "more": [z, both]}
        return Result(both, z) if self.kind is Result else Answer(None, both)


IMAGE, DEPTH = torch.rand(2, 3, 14, 14), torch.rand(2, 1, 14, 14)
BOTH = {"inputs": (IMAGE, DEPTH)}
NAMED = {"inputs": {"depth": DEPTH, "image": IMAGE}}


@pytest.mark.parametrize(
    "kind, layer, asked, side",
    [
        (dict, "shared", BOTH, 7),
        (dict, "shared", {**BOTH, "of": 1}, 9),
        (dict, "shared", {**NAMED, "of": "image", "call": 0}, 5),
        (dict, "shared", {**NAMED, "call": 1}, 7),
        (dict, "shared", {**NAMED, "call": -1, "of": "depth"}, 9),
        (dict, "", BOTH, 5),
        (dict, "", {**BOTH, "output": ("more", 1)}, 7),
        (dict, "", {**BOTH, "output": ("more", 0), "of": 1}, 7),
        (Result, "", {**BOTH, "output": "depth", "of": 1}, 7),
        (Result, "", {**BOTH, "output": -2}, 7),
        (Answer, "", BOTH, 7),
        (Answer, "", {**BOTH, "output": "logits"}, 7),
    ],
)
def test_which_input_which_output_which_run(kind, layer, asked, side):
    model = Pair(kind)
    mask = ctxnet.receptive_field(model, layer, **asked)
    assert mask.sum() == side**2
    assert not ctxnet.check_receptive_field(model, layer, pixels=None, **asked)
    erf = ctxnet.effective_receptive_field(model, None, layer, **asked)
    assert torch.equal(erf > 0, mask)
    assert torch.allclose(ctxnet.effective_receptive_field(model, None, layer, batch_size=1, **asked), erf)
    assert torch.equal(ctxnet.context_profile(model, None, [layer], **asked).rf[0], mask)


def test_images_stand_in_for_those_of_the_inputs():
    model, others = Pair(), torch.rand(2, 3, 14, 14)
    found = ctxnet.effective_receptive_field(model, others, "shared", **BOTH)
    assert torch.equal(found, ctxnet.effective_receptive_field(model, None, "shared", inputs=(others, DEPTH)))


def test_a_mask_among_the_inputs_is_wiring():
    keep = torch.zeros(1, 4, 14, 14, dtype=torch.bool)
    keep[..., :7] = True
    mask = ctxnet.receptive_field(Pair(Result), "", (14, 14), (7, 3), inputs=(IMAGE[:1], DEPTH[:1], keep))
    assert mask[:, :7].any() and mask.sum() == 7 * 7
    mask = ctxnet.receptive_field(Pair(Result), "", (14, 14), (7, 11), inputs=(IMAGE[:1], DEPTH[:1], keep))
    assert not mask.any()


def test_no_zero_of_another_input_is_wiring():
    assert ctxnet.receptive_field(Pair(Result), "", inputs=(IMAGE, 0 * DEPTH)).sum() == 7 * 7


class Listed(nn.Module):
    """As detectors do: a list of images (C, H, W) without a batch."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, images):
        return self.conv(torch.stack(images))


def test_a_list_of_images_without_a_batch():
    assert ctxnet.receptive_field(Listed(), "conv", inputs=([torch.rand(3, 8, 8)],)).sum() == 9
    assert ctxnet.receptive_field(Listed(), "conv", inputs=([torch.rand(3, 8, 8)],), of=(0, 0)).sum() == 9


@pytest.mark.parametrize(
    "layer, asked, message",
    [
        ("", {"of": 1}, "of=1 says which of inputs= is asked about"),
        ("", {**BOTH, "of": "depht"}, "of='depht' is not among the inputs; those that can be asked about: 0, 1"),
        ("", {"inputs": 5}, "inputs is a int"),
        ("", {"inputs": (torch.ones(2, 3),)}, "hold no tensor of floating point with three or more"),
        ("", {"inputs": (IMAGE,)}, "does not take these inputs: .*'depth'"),
        ("", {**BOTH, "output": "imag"}, "unknown part of the output of layer '' 'imag'; did you mean 'image'"),
        ("shared", {**BOTH, "output": "imag"}, "layer 'shared' gives a Tensor, which has no parts"),
        ("shared", {**BOTH, "call": 3}, "layer 'shared' runs 3 times in one forward pass, 0 … 2"),
        ("shared", {**BOTH, "call": 1.0}, "call=1.0 is no whole number"),
        ("", {**BOTH, "output": "more", "of": 0}, "the output of layer '' does not depend on the image"),
    ],
)
def test_bad_questions(layer, asked, message):
    with pytest.raises(ValueError, match=message) as error:
        ctxnet.receptive_field(Pair(), layer, **asked)
    assert "\n" not in str(error.value)
