"""Context profiles against what a careful user writes: one forward pass, one gradient per block, frozen weights.

    python -m benchmarks.measures [--device cuda] [--images 10]

The profile finds the exact receptive fields as well; what that takes has a column of its own. Ratios are of CPU time where
there is no GPU, since another process on the machine would change the clock's.
"""

import argparse
import time

import torch

import ctxnet
from benchmarks.common import interleaved, peak_memory, report
from ctxnet.measure import residual_blocks
from ctxnet.measure.effective import AGGREGATES, summed_erf
from ctxnet.measure.receptive_field import Reach


def careful_profile(model, images, layers):
    """{layer: map (H, W), sum 1} by one forward pass with hooks and one ``autograd.grad`` per layer; weights are frozen."""
    maps, modules, kept = {}, dict(model.named_modules()), {}
    model.requires_grad_(False)

    def keep(layer):
        return modules[layer].register_forward_hook(lambda module, args, output: kept.__setitem__(layer, output.clone()))

    handles, batch = [keep(layer) for layer in layers], images.clone().requires_grad_()
    model(batch)
    for handle in handles:
        handle.remove()
    for layer in layers:
        height, width = kept[layer].shape[2:]
        feature = kept[layer][:, :, height // 2, width // 2].sum()
        (gradient,) = torch.autograd.grad(feature, batch, retain_graph=True)
        total = AGGREGATES["abs_sum"](gradient).mean(0)
        maps[layer] = total / total.sum()
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
        careful = careful_profile(model, images, layers)
        error = max((profile.erf[i] - careful[layer].cpu()).abs().sum().item() for i, layer in enumerate(layers))
        calls = {
            "careful": lambda m=model, names=layers: careful_profile(m, images, names),
            "profile": lambda m=model: ctxnet.context_profile(m, images),
            "structure": lambda m=model, names=layers: Reach(m, names, tuple(images.shape[1:])),
            "summed": lambda m=model: summed_erf(m, images[:1]),
            "forward": lambda m=model: _forward(m, images),
        }
        clock = time.perf_counter if args.device == "cuda" else time.process_time
        seconds = interleaved(calls, repeats=args.repeats, device=args.device, warmup=0, clock=clock)
        rows.append([name, *(seconds[key] for key in calls), seconds["profile"] / seconds["careful"], error])
    header = ["model", "careful s", "profile s", "of it structure s", "summed, 1 image s", "one forward s"]
    notes = [
        f"{args.images} images of 224 px, 16 blocks, medians of {args.repeats}; CPU time, on a GPU the clock. "
        "Difference: L1 between two maps of sum 1, the largest over the blocks. "
        f"Peak memory {peak_memory(args.device):.1f} GiB."
    ]
    report("measures", [*header, "ratio", "difference"], rows, device=args.device, notes=notes)


@torch.no_grad()
def _forward(model, images):
    model(images)


if __name__ == "__main__":
    main()
