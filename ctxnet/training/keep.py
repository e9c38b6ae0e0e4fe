"""From a finished run to a trained network that comes with the package."""

from pathlib import Path

import torch

from ..data import loaders, prepare_dataset
from ..models.trained import halved, single, write_trained
from ..records import read_provenance, read_record, run_folder
from ..tensors import load_tensors
from .protocol import load_params
from .run import network_arguments, train_command
from .seeds import parse_seeds
from .task import TASKS


def keep(protocol, variant, seed, *, root="."):
    """Keep the weights of a finished run in half precision, with the accuracy that they have left, measured here.

    Returns:
        (path of the file, what it says of itself), see :func:`ctxnet.models.trained.read_trained`.

    Raises:
        FileNotFoundError: the run has no record, or this machine not its weights.
        ValueError: half precision cannot hold them, or they are no classifier's.
    """
    if protocol.task != "classification":
        raise ValueError(f"protocol {protocol.name}: task {protocol.task!r}; only those of 'classification' are kept")
    root = Path(root)
    folder = run_folder(protocol.name, variant, seed, root)
    record, weights = read_record(folder), folder / "weights.safetensors"
    command = train_command(protocol, variant, seed)
    if record is None:
        raise FileNotFoundError(f"{folder}: no finished run; {command}")
    if not weights.is_file():
        raise FileNotFoundError(f"{weights}: only the machine that trained keeps it; empty the folder, then {command}")
    prepared = prepare_dataset(protocol, load_params(root / "params.yaml"), root)
    chosen = network_arguments(protocol, variant, parse_seeds(seed), num_classes=len(prepared.classes))
    chosen.pop("zero_init", None)  # of the first step alone
    source, state = read_provenance(folder), halved(load_tensors(weights)[0])
    about = {
        "network": chosen, "classes": list(prepared.classes), "protocol": protocol.name, "seed": record["seed"],
        "record": source["record"], "commit": source.get("commit"), "top1": record["top1"],
        "top1_half": _top1(protocol, variant, chosen, state, prepared), "n": record["n"],
    }  # fmt: skip
    return write_trained(variant, state, about), about


def _top1(protocol, variant, chosen, state, prepared):
    """Share of the validation images that the network gets right in single precision from such weights."""
    model = TASKS[protocol.task].create(variant, protocol, **chosen).eval()
    model.load_state_dict(single(state))
    dls = loaders(
        prepared, image_size=protocol.image_size, batch_size=protocol.batch_size, min_crop=1.0, max_rotate=0.0, flip=False,
        workers=0, seed=0,
    )  # fmt: skip
    with torch.no_grad():
        right = [(model(images).argmax(1) == labels).double() for images, labels in dls.valid]
    return float(torch.cat(right).mean())
