"""Context blocks against their textbook formulation, forward and backward, with the 1×1 convolution behind them.

    python -m benchmarks.blocks [--device cuda] [--batch 8]

Textbook: index every permuted copy, concatenate, convolve (NCHW, as one would write it down). Convolution alone: on a
tensor that is concatenated already, the least that any form of the block can take. Summed over the 16 blocks of
ResNet-50 at 224 px.
"""

import argparse

import torch
import torch.nn.functional as F

from benchmarks.common import interleaved, report, saved_bytes
from ctxnet.blocks import RandomDilatedConcat, SpatialPermutation
from ctxnet.blocks.positions import permutations

STAGES = ((64, 56, 3), (128, 28, 4), (256, 14, 6), (512, 7, 3))  # channels, side, blocks


def textbook_permutation(k, side, device):
    order = torch.from_numpy(permutations(k, side, side, layer="x")).to(device)

    def call(x):
        flat = x.flatten(2)
        return torch.cat([x, *(flat[:, :, index].view_as(x) for index in order)], 1)

    return call


def textbook_shifts(block):
    def call(x):
        d, (height, width) = block.d, x.shape[2:]
        padded = F.pad(x, (d, d, d, d))
        return torch.cat([padded[:, :, d - y : d - y + height, d - x_ : d - x_ + width] for y, x_ in block.shifts], 1)

    return call


def cases(name, channels, side, device):
    """(our block, textbook callable) of one row at one stage."""
    if name.startswith("perm"):
        k = int(name[-1])
        return SpatialPermutation(channels, k=k, layer="x"), textbook_permutation(k, side, device)
    block = RandomDilatedConcat(channels, k=8, d=8, layer="x")
    return block, textbook_shifts(block)


def measure(name, *, batch, repeats, device):
    """{case: (seconds, saved bytes)}, summed over the 16 blocks."""
    sums = {}
    for channels, side, count in STAGES:
        block, book = cases(name, channels, side, device)
        x = torch.randn(batch, channels, side, side, device=device)
        last = x.to(memory_format=torch.channels_last)
        weight = torch.randn(4 * channels, block.out_channels, 1, 1, device=device)
        forms = {
            "ours": (block, last),
            "textbook": (book, x),
            "textbook, channels last": (book, last),
            "convolution alone": (lambda given: given, block(last).detach()),
        }
        calls = {}
        for case, (form, given) in forms.items():
            layout = torch.contiguous_format if case == "textbook" else torch.channels_last
            given, w = given.clone().requires_grad_(), weight.to(memory_format=layout, copy=True).requires_grad_()

            def forward(form=form, given=given, w=w):
                return F.conv2d(form(given), w)

            calls[case] = (forward, torch.randn_like(forward()))
        seconds = interleaved(
            {case: (lambda f=f, g=g: f().backward(g)) for case, (f, g) in calls.items()}, repeats=repeats, device=device
        )
        for case, (forward, _) in calls.items():
            before = sums.get(case, (0, 0))
            sums[case] = before[0] + count * seconds[case], before[1] + count * saved_bytes(forward)
    return sums


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    rows = []
    for name in ("perm1", "perm3", "perm5", "random_dilated8"):
        sums = measure(name, batch=args.batch, repeats=args.repeats, device=args.device)
        (ours, kept), (book, book_kept) = sums["ours"], sums["textbook"]
        last, least = sums["textbook, channels last"][0], sums["convolution alone"][0]
        rows.append([name, 1000 * book, 1000 * ours, ours / book, least / book, ours / last, kept / book_kept])
    header = ["block", "textbook ms", "ours ms", "time ratio", "convolution alone ÷ textbook"]
    header += ["ratio to channels-last textbook", "saved memory ratio"]
    notes = [f"Batch {args.batch}, float32, forward and backward, medians of {args.repeats}."]
    report("blocks", header, rows, device=args.device, notes=notes)


if __name__ == "__main__":
    main()
