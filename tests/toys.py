"""Settings that toy runs start from: fixed here, so that a change of `quick` in params.yaml moves no test and no trace."""

import pytest
import torch

WITH_BF16 = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this processor has no bfloat16 arithmetic"
)

PLAIN = {
    "dataset": "probe", "image_size": 64, "width": 16, "epochs": 2, "batch_size": 32, "learning_rate": 0.02, "momentum": 0.9,
    "weight_decay": 1e-4, "decay_epochs": [1], "decay_factor": 0.1, "max_rotate": 0.0, "min_crop": 1.0, "flip": False,
    "seeds": [0], "workers": 0, "device": "cpu", "profile_images": 10,
}  # fmt: skip
