"""Context profiles: one forward pass and one backward pass per block, against one of each per block.

    python -m benchmarks.measures [--device cuda] [--images 10]

Naive: for every block run the whole network anew, call ``backward`` on the feature and read the images' gradient;
"frozen" does so without gradients of the weights, which nobody needs here.
"""

import argparse

import torch

import ctxnet
from benchmarks.common import interleaved, peak_memory, report
from ctxnet.measure import residual_blocks
from ctxnet.measure.effective import AGGREGATES, summed_erf
from ctxnet.measure.receptive_field import Reach


def naive_profile(model, images, layers, *, frozen=False):
    """{layer: map (H, W), sum 1}, the way it is written down."""
    maps, modules = {}, dict(model.named_modules())
    model.requires_grad_(not frozen)
    for layer in layers:
        kept = []
        handle = modules[layer].register_forward_hook(lambda module, args, output, kept=kept: kept.append(output.clone()))
        batch = images.clone().requires_grad_()
        model(batch)
        handle.remove()
        height, width = kept[0].shape[2:]
        kept[0][:, :, height // 2, width // 2].sum().backward()
        total = AGGREGATES["abs_sum"](batch.grad).mean(0)
        maps[layer] = total / total.sum()
        model.zero_grad()
    return maps


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--models", nargs="*", default=["resnet50", "resnet50_perm3"])
    args = parser.parse_args()
    torch.manual_seed(0)
    images = torch.randn(args.images, 3, 224, 224, device=args.device)
    rows = []
    for name in args.models:
        model = ctxnet.create_model(name).to(args.device).eval()
        layers = residual_blocks(model)
        profile = ctxnet.context_profile(model, images)
        naive = naive_profile(model, images, layers)
        error = max((profile.erf[i] - naive[layer].cpu()).abs().sum().item() for i, layer in enumerate(layers))
        calls = {
            "naive": lambda m=model, names=layers: naive_profile(m, images, names),
            "frozen": lambda m=model, names=layers: naive_profile(m, images, names, frozen=True),
            "profile": lambda m=model: ctxnet.context_profile(m, images),
            "structure": lambda m=model, names=layers: Reach(m, names, tuple(images.shape[1:])),
            "summed": lambda m=model: summed_erf(m, images[:1]),
            "forward": lambda m=model: _forward(m, images),
        }
        seconds = interleaved(calls, repeats=args.repeats, device=args.device, warmup=0)
        rows.append([name, *(seconds[key] for key in calls), seconds["profile"] / seconds["naive"],
                     seconds["profile"] / seconds["frozen"], error])  # fmt: skip
    header = ["model", "naive s", "frozen naive s", "profile s", "of it structure s", "summed, 1 image s", "one forward s"]
    notes = [
        f"{args.images} images of 224 px, 16 blocks, medians of {args.repeats}; summed: over 49 positions. Difference: L1 "
        f"between two maps of sum 1, the largest over the blocks. Peak memory {peak_memory(args.device):.1f} GiB."
    ]
    report("measures", [*header, "ratio", "ratio to frozen", "difference"], rows, device=args.device, notes=notes)


@torch.no_grad()
def _forward(model, images):
    model(images)


if __name__ == "__main__":
    main()
