"""What a protocol's networks are before any training: their cost, and the share of their weights that is blind."""

import dataclasses
from pathlib import Path

import torch

from .. import provenance
from ..atlas.measures import multiply_adds
from ..files import remove_partials
from ..locking import one_writer
from ..measure import unseen_weights
from ..models import count_parameters
from ..records import reusable, wiring_folder, write_record
from .protocol import load_params, load_protocol, rows_of
from .run import network
from .seeds import parse_seeds

DRAWS = (0, 1, 2)  # random offsets decide which weights lie outside of a map
SETTINGS = ("image_size", "width", "scale_offsets")  # of a protocol: what the wiring of a row depends on
IMAGES = 2  # of noise: all that changes from one to the other is the image


def measure_wiring(protocol, path="params.yaml", *, root=".", progress=False):
    """Measure every row of a protocol into ``results/<protocol>/wiring/``, once per setting and version of the code.

    Per row the record holds ``parameters`` (without the classifier), ``multiply_adds`` of one image and ``blind``: the share
    of the weights of convolutions that see nothing but padding (:func:`ctxnet.measure.unseen_weights`), 0 … 1, one for each
    seed in ``draws``.

    The code is known by what it gives for the first of these draws, which is all that a second call computes.

    Args:
        protocol: its name in the settings file ``path``, relative to ``root``.
        progress: print each row that is measured.

    Returns:
        Path of the folder.

    Raises:
        ValueError: for an unknown protocol, with the near ones.
    """
    root = Path(root)
    settings, params = load_protocol(protocol, root / path), load_params(root / path)
    folder = wiring_folder(protocol, root)
    names = list(rows_of(settings, params))
    said = {key: getattr(settings, key) for key in SETTINGS} | {"draws": list(DRAWS), "rows": names}
    with one_writer(folder):
        remove_partials(folder)
        key = {"settings": said, "trace": {name: _row(settings, name, DRAWS[:1]) for name in names}}
        if reusable(folder, key):
            return folder
        rows = {}
        for name, first in key["trace"].items():
            rows[name] = first | {"blind": first["blind"] + _row(settings, name, DRAWS[1:])["blind"]}
            if progress:
                print(f"{name:32}{100 * sum(rows[name]['blind']) / len(DRAWS):6.1f} % blind", flush=True)
        write_record(folder, {"protocol": protocol, **key, "rows": rows}, {}, provenance.collect(root=root))
    return folder


def _row(settings, name, draws=DRAWS):
    """What the record says of one row, for some of the draws."""
    # A block that starts as its shortcut would show the layers behind it nothing.
    settings = dataclasses.replace(settings, zero_init=False)
    size, classes = settings.image_size, 10  # the classifier is no convolution and is not counted
    images = torch.randn(IMAGES, 3, size, size, generator=torch.Generator().manual_seed(0))
    models = [network(settings, name, parse_seeds(draw), num_classes=classes) for draw in draws]
    return {
        "parameters": count_parameters(models[0]),
        "multiply_adds": multiply_adds(models[0], images[:1]),
        "blind": [round(_blind(model, images), 6) for model in models],
    }


def _blind(model, images):
    try:
        return unseen_weights(model, images).share
    except ValueError:  # no convolution, so none that is blind
        return 0.0
