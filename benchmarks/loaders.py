"""Images per second of the loaders, with the same augmentation: ours, resident images, fastai's ImageDataLoaders.

    python -m benchmarks.loaders [--device cuda] [--size 64]

On as many JPEG files of 224 px as asked for, made of noise and gradients; decoding them is part of fastai's epoch, as
it is in every epoch of training with it. Ours were decoded once before (the time is in a column of its own).
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.common import interleaved, report
from ctxnet.data import imagenette, loaders

AUGMENTATION = {"min_crop": 0.35, "max_rotate": 10.0, "flip": True}


def write_images(folder, count, *, side=224):
    noise = np.random.default_rng(0)
    for split, n in (("train", count), ("val", 20)):
        for i in range(n):
            path = folder / split / "ab"[i % 2] / f"{i:05d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            coarse = Image.fromarray(noise.integers(0, 256, (28, 28, 3), dtype=np.uint8))
            picture = coarse.resize((224, 224), Image.Resampling.BICUBIC)
            picture.resize((side, side), Image.Resampling.BICUBIC).save(path, quality=90)
    return folder


def fastai_loaders(folder, *, size, batch, workers, device):
    from fastai.vision.all import Flip, ImageDataLoaders, Normalize, RandomResizedCrop, Rotate, imagenet_stats

    return ImageDataLoaders.from_folder(
        folder, train="train", valid="val", bs=batch, num_workers=workers, device=torch.device(device),
        item_tfms=RandomResizedCrop(size, min_scale=0.35),
        batch_tfms=[Flip(), Rotate(max_deg=10), Normalize.from_stats(*imagenet_stats)],
    )  # fmt: skip


def epoch(loader):
    for x, _ in loader:
        x.sum()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", type=int, nargs="*", default=[64, 224])
    parser.add_argument("--images", type=int, default=640)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--workers", type=int, default=0, help="of fastai's loader")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = write_images(Path(scratch) / "pictures", args.images)
        for size in args.size:
            started = time.perf_counter()
            prepared = imagenette.prepare(folder, Path(scratch) / f"set-{size}", size, dataset="noise", progress=False)
            seconds = {"decode": time.perf_counter() - started}
            common = {"image_size": size, "batch_size": args.batch, "workers": 0, "seed": 0, **AUGMENTATION}
            ours = loaders(prepared, **common)
            ours.to(torch.device(args.device))
            there = loaders(prepared, resident=args.device, **common)
            theirs = fastai_loaders(folder, size=size, batch=args.batch, workers=args.workers, device=args.device)
            cases = {
                "ours": lambda dls=ours: epoch(dls.train),
                "resident": lambda dls=there: epoch(dls.train),
                "fastai": lambda dls=theirs: epoch(dls.train),
            }
            seconds |= interleaved(cases, repeats=args.repeats, device=args.device)
            rates = {name: args.images / value for name, value in seconds.items()}
            rows.append([f"{size} px", *(round(rates[name]) for name in ("decode", "fastai", "ours", "resident")),
                         rates["ours"] / rates["fastai"], rates["resident"] / rates["fastai"]])  # fmt: skip
    header = ["size", *(f"{case} img/s" for case in ("decode once,", "fastai", "ours", "resident"))]
    header += ["ours ÷ fastai", "resident ÷ fastai"]
    notes = [f"Batch {args.batch}, {args.workers} processes for fastai's loader, none for ours, medians of {args.repeats}."]
    report("loaders", header, rows, device=args.device, notes=notes)


if __name__ == "__main__":
    main()
