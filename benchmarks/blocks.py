"""Context blocks against their textbook formulation, forward and backward, with the 1×1 convolution behind them.

    python -m benchmarks.blocks [--device cuda] [--batch 8]

Textbook: index every permuted copy, concatenate, convolve (NCHW, as one would write it down). Summed over the
16 blocks of ResNet-50 at 224 px.
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
    """Seconds and saved bytes, ours and textbook, summed over the 16 blocks."""
    ours_s = book_s = last_s = 0.0
    ours_b = book_b = 0
    for channels, side, count in STAGES:
        block, book = cases(name, channels, side, device)
        x = torch.randn(batch, channels, side, side, device=device)
        inputs = {"ours": x.to(memory_format=torch.channels_last), "textbook": x, "textbook, channels last": x}
        inputs["textbook, channels last"] = inputs["ours"]
        weight = torch.randn(4 * channels, block.out_channels, 1, 1, device=device, requires_grad=True)
        calls = {}
        for case, given in inputs.items():
            given = given.clone().requires_grad_()
            form = block if case == "ours" else book
            last = case != "textbook"
            w = weight.detach().to(memory_format=torch.channels_last if last else torch.contiguous_format).requires_grad_()

            def forward(form=form, given=given, w=w):
                return F.conv2d(form(given), w)

            gradient = torch.randn_like(forward())
            calls[case] = (forward, gradient)
        seconds = interleaved(
            {case: (lambda f=f, g=g: f().backward(g)) for case, (f, g) in calls.items()}, repeats=repeats, device=device
        )
        ours_s, book_s = ours_s + count * seconds["ours"], book_s + count * seconds["textbook"]
        last_s += count * seconds["textbook, channels last"]
        ours_b += count * saved_bytes(calls["ours"][0])
        book_b += count * saved_bytes(calls["textbook"][0])
    return ours_s, book_s, last_s, ours_b, book_b


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    rows = []
    for name in ("perm1", "perm3", "perm5", "random_dilated8"):
        ours, book, last, kept, book_kept = measure(name, batch=args.batch, repeats=args.repeats, device=args.device)
        rows.append([name, 1000 * book, 1000 * ours, ours / book, ours / last, kept / book_kept])
    header = ["block", "textbook ms", "ours ms", "time ratio", "ratio to channels-last textbook", "saved memory ratio"]
    notes = [f"Batch {args.batch}, float32, forward and backward, medians of {args.repeats}."]
    report("blocks", header, rows, device=args.device, notes=notes)


if __name__ == "__main__":
    main()
