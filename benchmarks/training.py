"""Training, images per second: our Learner, a bare loop on our loader, fastai and timm as they come and as tuned.

    python -m benchmarks.training [--device cuda --width 64 --size 224 --precision bf16 --graph] [--rows resnet50 …]

The first row is a tiny network, where what a loop costs besides computing shows. fastai: ``Learner`` as it comes, with
its Recorder, accuracy and SGD, on ``ImageDataLoaders``. timm: ``create_loader`` and ``create_optimizer_v2`` in the
order of its train.py. Both decode their JPEG files in every epoch, which is how they are used. "Tuned" is what a careful
user makes of them: files made smaller once (half as large again as the input), channels-last, torch's fused optimiser,
the same precision as ours. Precision is that of all cases but "float32" (ours, in float32) and "fastai"; with ``--graph``
ours and the bare loop replay CUDA graphs. Roofline: see ``benchmarks.roofline``.
"""

import argparse
import dataclasses
import tempfile
from pathlib import Path

import torch
from torch import nn

import ctxnet
from benchmarks.common import interleaved, peak_memory, report
from benchmarks.loaders import AUGMENTATION, fastai_loaders, write_images
from benchmarks.roofline import device_limits, step_limit
from ctxnet.data import imagenette, loaders
from ctxnet.training import load_protocol
from ctxnet.training.graphs import record_graphs
from ctxnet.training.learner import build_learner, fit_epoch

OTHERS = ("float32", "fastai", "fastai tuned", "timm", "timm tuned")
TINY, ROWS = "tiny", ("resnet50", "resnet50_perm5", "resnet50_random_dilated8")


def network(name, *, width, size):
    if name != TINY:
        return ctxnet.create_model(name, num_classes=2, width=width, input_size=size)
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)]
    return nn.Sequential(*layers)


def bare(model, optimizer, batches, *, device, bf16):
    """One epoch the way one writes it down; the loss is read once, at its end."""
    loss_function, total = nn.CrossEntropyLoss(), 0.0
    model.train()
    for x, y in batches:
        x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            output = model(x)
        loss = loss_function(output.float(), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        total = total + loss.detach()
    return float(total)


def timm_loader(folder, *, size, batch, workers, device):
    from timm.data import create_dataset, create_loader

    return create_loader(
        create_dataset("", root=folder / "train"), (3, size, size), batch, is_training=True, scale=(0.35, 1.0),
        color_jitter=0, num_workers=workers, device=torch.device(device), use_prefetcher=device == "cuda",
        persistent_workers=False,
    )  # fmt: skip


def fastai_learners(folder, small, name, args):
    """fastai's Learner as it comes, and as a careful user sets it up: callables that train one epoch."""
    from functools import partial

    from fastai.callback.channelslast import ChannelsLast
    from fastai.callback.core import Callback
    from fastai.vision.all import SGD, Learner, OptimWrapper, accuracy

    class Autocast(Callback):  # fastai's MixedPrecision knows CUDA alone
        def before_batch(self):
            self.context = torch.autocast(args.device, torch.bfloat16, enabled=args.precision == "bf16")
            self.context.__enter__()

        def after_pred(self):
            self.context.__exit__(None, None, None)
            self.learn.pred = self.pred.float()

    def learner(files, **chosen):
        dls = fastai_loaders(files, size=args.size, batch=args.batch, workers=args.workers, device=args.device)
        made = Learner(dls, network(name, width=args.width, size=args.size), metrics=accuracy, **chosen)

        def fit():
            with made.no_bar(), made.no_logging():
                made.fit(1, 0.01)

        return fit

    fused = partial(OptimWrapper, opt=torch.optim.SGD, momentum=0.9, weight_decay=1e-4, fused=True)
    return learner(folder, opt_func=SGD), learner(small, opt_func=fused, cbs=[ChannelsLast(), Autocast()])


def cases(name, prepared, folder, small, args, protocol):
    """{case: callable that trains one epoch}, each with its own copy of the network."""
    from timm.optim import create_optimizer_v2

    device, bf16 = args.device, args.precision == "bf16"
    common = {"image_size": args.size, "batch_size": args.batch, "workers": 0, "seed": 0, **AUGMENTATION}
    resident = "cuda" if device == "cuda" else None

    def model():
        made = network(name, width=args.width, size=args.size)
        return made.to(device, memory_format=torch.channels_last)

    dls = loaders(prepared, resident=resident, **common)
    dls.to(torch.device(device))
    ours = build_learner(model(), dls, protocol)
    exact_dls = loaders(prepared, resident=resident, **common)
    exact_dls.to(torch.device(device))
    exact = build_learner(model(), exact_dls, dataclasses.replace(protocol, precision="float32", cuda_graph=False))
    plain, plain_dls = model(), loaders(prepared, resident=resident, **common)
    plain_dls.to(torch.device(device))
    if protocol.cuda_graph:
        record_graphs(plain, batch_size=args.batch, image_size=args.size, bf16=bf16)
    sgd = torch.optim.SGD(plain.parameters(), 0.01, momentum=0.9, weight_decay=1e-4, fused=True)
    fastai, fastai_tuned = fastai_learners(folder, small, name, args)

    def timm(files, **chosen):
        made = model()
        batches = timm_loader(files, size=args.size, batch=args.batch, workers=args.workers, device=device)
        optimizer = create_optimizer_v2(made, "momentum", lr=0.01, weight_decay=1e-4, momentum=0.9, **chosen)
        return lambda: bare(made, optimizer, batches, device=device, bf16=bf16)

    return {
        "ours": lambda: fit_epoch(ours, 0, 0.01),
        "float32": lambda: fit_epoch(exact, 0, 0.01),
        "bare": lambda: bare(plain, sgd, plain_dls.train, device=device, bf16=bf16),
        "fastai": fastai,
        "fastai tuned": fastai_tuned,
        "timm": timm(folder),
        "timm tuned": timm(small, fused=True),
    }


def roofline(name, args, limits):
    """Images per second that no training of this network on this device can exceed."""
    model = network(name, width=args.width, size=args.size).to(args.device, memory_format=torch.channels_last)
    images = torch.randn(args.batch, 3, args.size, args.size, device=args.device)
    labels = torch.zeros(args.batch, dtype=torch.long, device=args.device)
    return args.batch / step_limit(model, images, labels, limits, bf16=args.precision == "bf16")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--images", type=int, default=640)
    parser.add_argument("--workers", type=int, default=0, help="of fastai's and timm's loaders")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--precision", choices=["float32", "bf16"], default="float32")
    parser.add_argument("--graph", action="store_true", help="replay CUDA graphs (no effect on a CPU)")
    parser.add_argument("--rows", nargs="*", default=[TINY, *ROWS])
    args = parser.parse_args()
    protocol = load_protocol("small", Path(__file__).parents[1] / "params.yaml")
    protocol = dataclasses.replace(
        protocol, device=args.device, image_size=args.size, batch_size=args.batch, precision=args.precision,
        cuda_graph=args.graph and args.device == "cuda",
    )  # fmt: skip
    rows, limits = [], device_limits(args.device, bf16=args.precision == "bf16")
    with tempfile.TemporaryDirectory() as scratch:
        folder = write_images(Path(scratch) / "pictures", args.images)
        small = write_images(Path(scratch) / "small", args.images, side=3 * args.size // 2)
        prepared = imagenette.prepare(folder, Path(scratch) / "set", args.size, dataset="noise", progress=False)
        for name in args.rows:
            calls = cases(name, prepared, folder, small, args, protocol)
            seconds = interleaved(calls, repeats=args.repeats, device=args.device)
            rates = {case: args.images / value for case, value in seconds.items()}
            ratios = [seconds["ours"] / seconds["bare"], *(rates["ours"] / rates[case] for case in OTHERS)]
            bound = roofline(name, args, limits)
            rows.append([name, *(round(rates[case]) for case in calls), *ratios, round(bound), rates["ours"] / bound])
    header = ["row", *(f"{case} img/s" for case in calls), "time ÷ bare", *(f"÷ {case}" for case in OTHERS)]
    header += ["roofline img/s", "share of it"]
    notes = [
        f"{args.size} px, width {args.width}, batch {args.batch}, {args.precision}{', CUDA graphs' * protocol.cuda_graph}, "
        f"{args.workers} processes for fastai's and timm's loaders, medians of {args.repeats} epochs of {args.images} "
        "images. Ours validates 20 images besides. Peak memory "
        f"{peak_memory(args.device):.1f} GiB. Roofline: {limits[0] / 1e9:.3g} GB/s and {limits[1] / 1e12:.3g} Tflop/s, as "
        "measured here."
    ]
    report("training", header, rows, device=args.device, notes=notes)


if __name__ == "__main__":
    main()
