"""Rows train under the thesis' protocol: 224 px, its rates, its augmentation. A GPU must not be the first to try."""

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from ctxnet.records import read_context, read_predictions
from ctxnet.training import load_params, load_protocol, read_record, run
from ctxnet.training.context import SUMMED

ROOT = Path(__file__).parents[1]
ROWS = load_params(ROOT / "params.yaml")["rows"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """64 + 16 images of 224 px, and the thesis' protocol for two epochs of them."""
    from PIL import Image

    root, noise = tmp_path_factory.mktemp("thesis"), np.random.default_rng(0)
    for split, count in (("train", 32), ("val", 8)):
        for label in ("a", "b"):
            (root / "pictures" / split / label).mkdir(parents=True)
            for i in range(count):
                coarse = noise.integers(0, 256, (14, 14, 3), dtype=np.uint8)
                image = Image.fromarray(coarse).resize((224, 224), Image.Resampling.BICUBIC)
                image.save(root / "pictures" / split / label / f"{i:02d}.png")
    params = load_params(ROOT / "params.yaml")
    params["protocols"]["thesis"] |= {"dataset": "pictures", "epochs": 2, "decay_epochs": [1], "profile_images": 1,
                                      "device": "cpu"}  # fmt: skip
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    return root


# The block with the most of its own; the others take the same way through the training, and are torture.
TRIED = {"resnet50_perm5_attn"}


@pytest.mark.parametrize("width", [4, pytest.param(64, marks=pytest.mark.torture)])
@pytest.mark.parametrize("variant", [row if row in TRIED else pytest.param(row, marks=pytest.mark.torture) for row in ROWS])
def test_two_epochs_at_224_px_resume_and_leave_a_complete_record(pictures, variant, width):
    protocol = load_protocol("thesis", pictures / "params.yaml")
    protocol = dataclasses.replace(protocol, name=f"width{width}", width=width)
    paused = run(protocol, variant, root=pictures, progress=False, max_minutes=1e-9)
    assert paused.status == "paused"
    folder = run(protocol, variant, root=pictures, progress=False).folder
    record = read_record(folder)
    assert record["epochs"] == 2 and record["n"] == 16 and record["config"]["image_size"] == 224
    with open(folder / "history.csv") as handle:
        assert [row["learning_rate"] for row in csv.DictReader(handle)] == ["0.1", "0.010000000000000002"]
    assert len(read_predictions(folder)[0]) == 16
    profile, _ = read_context(folder)
    assert profile.rf.shape[1:] == (224, 224) and profile.rf.shape[0] == len(profile.layers)
    assert (profile.summed is not None) == (variant in SUMMED)
    provenance = json.loads((folder / "provenance.json").read_text())
    assert provenance["images_per_second"] > 0 and provenance["device"]
    assert (folder / "weights.safetensors").exists() and not (folder / "checkpoint.safetensors").exists()
