"""Settings that toy runs start from: fixed here, so that a change of `quick` in params.yaml moves no test and no trace; what
several tests are marked with."""

import pytest
import torch

from ctxnet.models.variants import VARIANTS

WITH_BF16 = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this processor has no bfloat16 arithmetic"
)

PLAIN = {
    "dataset": "probe", "image_size": 64, "width": 16, "epochs": 2, "batch_size": 32, "learning_rate": 0.02, "momentum": 0.9,
    "weight_decay": 1e-4, "decay_epochs": [1], "decay_factor": 0.1, "max_rotate": 0.0, "min_crop": 1.0, "flip": False,
    "seeds": [0], "workers": 0, "device": "cpu", "profile_images": 10,
}  # fmt: skip


def rest_is_torture(rows):
    """Rows as parameters of a test: the first of all that run the same lines; the others, which differ from it in a number
    or in where a block is, for `make torture` alone."""
    first = {}
    for row in rows:
        args = VARIANTS[row].args
        lines = (args.get("context"), args.get("encoding"), args.get("redraw"), "tile" in args) if args else row
        first.setdefault(lines, row)
    return [row if row in first.values() else pytest.param(row, marks=pytest.mark.torture) for row in rows]
