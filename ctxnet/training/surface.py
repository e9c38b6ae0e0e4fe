"""The training loss around trained weights, over two random directions (Li et al., 2018, arXiv:1712.09913)."""

import itertools
import tempfile
import time
from pathlib import Path

import torch
from torch.nn import functional
from tqdm.auto import tqdm

from .. import provenance
from ..data import normalise, prepare_dataset
from ..files import remove_partials
from ..locking import one_writer
from ..models import list_models
from ..naming import require_known
from ..records import encode_csv, reusable, run_folder, write_record
from ..tensors import load_tensors
from .protocol import identity, load_params, load_protocol
from .run import network, run
from .seeds import parse_seeds

PROTOCOL = "surface"
SIDE = 21  # points per axis, odd, so that the weights themselves are one of them
REACH = 1.0  # of either axis, in lengths of the weights
IMAGES = 128  # of the training set, in its order
SEED = 0  # of weights, order and directions
COLUMNS = ("a", "b", "loss")


def measure_surface(variant, path="params.yaml", *, root=".", progress=True):
    """Train a network under protocol ``surface`` and record the loss around its weights, once per setting.

    ``results/surface/maps/<variant>/surface.csv`` holds L(θ + a·d₁ + b·d₂) for a and b from -1 to 1, line by line: the mean
    cross-entropy in nats of :data:`IMAGES` training images, with normalisation as it is in use. Each of the two directions
    is normal noise, scaled filter by filter to the norm of the filter that it changes; biases and normalisation stay, as in
    the paper's own code. The record says how the network does at its weights: ``loss`` on these images, ``train_accuracy``
    (of them, 0 … 1) and ``top1`` (of the validation images, 0 … 1).

    Args:
        variant: a name from :func:`ctxnet.list_models`. Plain and residual networks of one depth get the same noise.

    Returns:
        Path of the folder.

    Raises:
        ValueError: on wrong names or settings, before any work.
    """
    from .trace import run_trace

    root = Path(root)
    protocol = load_protocol(PROTOCOL, root / path)
    require_known("variant", variant, list_models())
    folder = root / "results" / PROTOCOL / "maps" / variant
    prepared = prepare_dataset(protocol, load_params(root / path), root, progress=progress)
    asked = {"side": SIDE, "reach": REACH, "loss_images": IMAGES}
    key = {
        "settings": identity(protocol, variant, SEED, prepared.manifest_hash) | asked,
        "trace": run_trace(protocol, variant),
    }
    with one_writer(folder):
        remove_partials(folder)
        if reusable(folder, key):
            return folder
        started = time.perf_counter()
        model, top1 = _trained(protocol, variant, prepared, root, progress)
        images, labels = normalise(prepared.train_images[:IMAGES]), torch.as_tensor(prepared.train_labels[:IMAGES]).long()
        with torch.no_grad():
            accuracy = (model(images).argmax(1) == labels).double().mean().item()
        lines = surface(model, images, labels, side=SIDE, progress=progress)
        loss = next(loss for a, b, loss in lines if a == b == 0)
        record = {"variant": variant, "loss": loss, "train_accuracy": accuracy, "top1": top1, **key}
        source = provenance.collect(prepared.manifest_hash, root=root, device="cpu")
        source |= {"wall_seconds": round(time.perf_counter() - started, 1)}
        write_record(folder, record, {"surface.csv": encode_csv(COLUMNS, lines)}, source)
    return folder


def _trained(protocol, variant, prepared, root, progress):
    """The network after its last epoch, in eval mode, and its validation accuracy. The run itself is not kept."""
    with tempfile.TemporaryDirectory() as scratch:
        done = run(protocol, variant, SEED, root=root, results=scratch, prepared=prepared, progress=progress)
        weights, _ = load_tensors(run_folder(PROTOCOL, variant, SEED, scratch) / "weights.safetensors")
        model = network(protocol, variant, parse_seeds(SEED), num_classes=len(prepared.classes)).eval()
        model.load_state_dict(weights)
        return model, done.record["top1"]


@torch.no_grad()
def surface(model, images, labels, *, side=SIDE, reach=REACH, seed=SEED, progress=False):
    """The loss of a classifier around its weights.

    Args:
        model: in eval mode; its weights are as before afterwards.
        images: float (N, 3, H, W); labels: int64 (N,).
        side: points per axis; reach: largest step along either direction; seed: of the directions.

    Returns:
        List of (a, b, loss), a outermost, both from -reach to reach.
    """
    weights = [p for p in model.parameters() if p.ndim > 1]
    start = [weight.clone() for weight in weights]
    draws = torch.Generator().manual_seed(seed)
    first, second = ([_like(weight, draws) for weight in weights] for _ in range(2))
    steps, found = [reach * (2 * step - side + 1) / (side - 1) for step in range(side)], []  # the middle one is 0 exactly
    try:
        for a, b in tqdm(list(itertools.product(steps, steps)), unit="point", disable=not progress, mininterval=2.0):
            for weight, there, one, other in zip(weights, start, first, second, strict=True):
                weight.copy_(there + a * one + b * other)
            found.append([a, b, functional.cross_entropy(model(images), labels).item()])
    finally:
        for weight, there in zip(weights, start, strict=True):
            weight.copy_(there)
    return found


def _like(weight, draws):
    """Normal noise with, filter by filter, the norm of the weight."""
    noise = torch.randn(weight.shape, generator=draws)
    rows = noise.flatten(1).norm(dim=1, keepdim=True).clamp(min=1e-12)
    return (noise.flatten(1) / rows * weight.flatten(1).norm(dim=1, keepdim=True)).view_as(weight)
