"""Context blocks against their textbook formulation, forward and backward, with the 1×1 convolution behind them.

    python -m benchmarks.blocks [--device cuda] [--batch 8]

Textbook: index every permuted copy, concatenate (or weigh), convolve (NCHW, as one would write it down). Convolution
alone: on what the block hands on, the least that any form of it can take. Memory: what stays after a ReLU, the block
and the convolution until the backward pass. Summed over the 16 blocks of ResNet-50 at 224 px.
"""

import argparse
from functools import partial

import torch
import torch.nn.functional as F

from benchmarks.common import interleaved, kept_bytes, report
from ctxnet.blocks import PermutationAttention, RandomDilatedConcat, SpatialPermutation
from ctxnet.blocks.base import convolve
from ctxnet.blocks.positions import permutations

STAGES = ((64, 56, 3), (128, 28, 4), (256, 14, 6), (512, 7, 3))  # channels, side, blocks
ROWS = ("perm1", "perm3", "perm5", "perm1_attn", "perm3_attn", "perm5_attn", "random_dilated8")


def textbook_permutation(k, side, device):
    order = torch.from_numpy(permutations(k, side, side, layer="x")).to(device)

    def call(x):
        flat = x.flatten(2)
        return torch.cat([x, *(flat[:, :, index].view_as(x) for index in order)], 1)

    return call


def textbook_attention(block, side, device):
    concatenate = textbook_permutation(block.k, side, device)
    *_, encoding = block.make_tables(side, side)
    code = torch.from_numpy(encoding).float().to(device).mT.unflatten(2, (side, side))  # (copies, C, H, W)

    def call(x):
        copies = concatenate(x).unflatten(1, code.shape[:2]) + code
        weights = (copies * copies[:, :1]).sum(2, keepdim=True).softmax(1)
        return (weights * copies).sum(1)

    return call


def textbook_shifts(block):
    def call(x):
        d, (height, width) = block.d, x.shape[2:]
        padded = F.pad(x, (d, d, d, d))
        return torch.cat([padded[:, :, d - y : d - y + height, d - x_ : d - x_ + width] for y, x_ in block.shifts], 1)

    return call


def cases(name, channels, side, device):
    """(our block, textbook callable) of one row at one stage."""
    if name.endswith("_attn"):
        block = PermutationAttention(channels, k=int(name[4]), layer="x")
        return block, textbook_attention(block, side, device)
    if name.startswith("perm"):
        k = int(name[4])
        return SpatialPermutation(channels, k=k, layer="x"), textbook_permutation(k, side, device)
    block = RandomDilatedConcat(channels, k=8, d=8, layer="x")
    return block, textbook_shifts(block)


def measure(name, *, batch, repeats, device):
    """{case: (seconds, kept bytes)}, summed over the 16 blocks."""
    sums = {}
    for channels, side, count in STAGES:
        block, book = cases(name, channels, side, device)
        x = torch.randn(batch, channels, side, side, device=device)
        last = x.to(memory_format=torch.channels_last)
        weight = torch.randn(4 * channels, block.out_channels, 1, 1, device=device)
        forms = {
            "ours": (partial(convolve, block=block), last),
            "textbook": (lambda conv, x, book=book: conv(book(x)), x),
            "textbook, channels last": (lambda conv, x, book=book: conv(book(x)), last),
            "convolution alone": (lambda conv, x: conv(x), block(last).detach()),
        }
        calls = {}
        for case, (form, given) in forms.items():
            layout = torch.contiguous_format if case == "textbook" else torch.channels_last
            given, w = given.clone().requires_grad_(), weight.to(memory_format=layout, copy=True).requires_grad_()

            def forward(before=lambda x: x, form=form, given=given, w=w):
                return form(lambda y: F.conv2d(y, w), x=before(given))

            calls[case] = (forward, torch.randn_like(forward()))
        seconds = interleaved(
            {case: (lambda f=f, g=g: f().backward(g)) for case, (f, g) in calls.items()}, repeats=repeats, device=device
        )
        for case, (forward, _) in calls.items():
            before, kept = sums.get(case, (0, 0)), kept_bytes(partial(forward, F.relu), device=device)
            sums[case] = before[0] + count * seconds[case], before[1] + count * kept
    return sums


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    rows = []
    for name in ROWS:
        sums = measure(name, batch=args.batch, repeats=args.repeats, device=args.device)
        (ours, kept), (book, book_kept) = sums["ours"], sums["textbook"]
        last, least = sums["textbook, channels last"][0], sums["convolution alone"][0]
        rows.append([name, 1000 * book, 1000 * ours, ours / book, least / book, ours / last, kept / book_kept])
    header = ["block", "textbook ms", "ours ms", "time ratio", "convolution alone ÷ textbook"]
    header += ["ratio to channels-last textbook", "memory ratio"]
    notes = [f"Batch {args.batch}, float32, forward and backward, medians of {args.repeats}."]
    report("blocks", header, rows, device=args.device, notes=notes)


if __name__ == "__main__":
    main()
