"""A visit to a GPU, rehearsed on this CPU from the packages it makes; and what can go wrong with packages and records."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import gpu_visit
from ctxnet.data.imagenette import CLASSES

ROOT, WNIDS = Path(__file__).parents[1], list(CLASSES)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root, noise = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for split, count in (("train", 2), ("val", 1)):
        for label in WNIDS:
            folder = root / split / label
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(noise.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(folder / f"{i:02d}.png")
    return root


@pytest.fixture(scope="module")
def rehearsed(pictures, tmp_path_factory):
    out = tmp_path_factory.mktemp("rehearsal")
    return out, *gpu_visit.rehearse(pictures, out, root=ROOT)


@pytest.mark.torture
def test_a_visit_is_rehearsed_from_its_packages(rehearsed):
    out, sizes, done, (new, same) = rehearsed
    log = (out / "home" / "log.txt").read_text()
    assert [each["status"] for each in done] == ["done"] * 6, log
    assert [each["step"] for each in done] == ["paths", "speed", *gpu_visit.PROTOCOLS]
    assert max(sizes.values()) < 60e6 and sizes["code.tar.xz"] > 1e5
    for protocol in gpu_visit.PROTOCOLS:  # every row once, though two processes shared out the plan
        found = sorted(path.parent.parent.name for path in out.glob(f"tree/results/{protocol}/runs/*/seed0/record.json"))
        assert found == ["resnet50", "resnet50_perm1"]
        assert not list((out / "tree").rglob("*.safetensors"))
    assert (out / "tree/results/benchmarks/training-cpu.md").is_file()
    assert new and not same and "loss" in log


@pytest.mark.torture
def test_taking_twice_changes_nothing_and_never_overwrites_a_record(rehearsed, tmp_path):
    home = rehearsed[0] / "home"
    new, _ = gpu_visit.take(home, root=tmp_path)
    assert gpu_visit.take(home, root=tmp_path) == (0, new)
    record = next(tmp_path.glob("results/fast/runs/*/seed0/record.json"))
    record.write_text("other")
    with pytest.raises(ValueError, match="record.json: is there already, with another content"):
        gpu_visit.take(home, root=tmp_path)
    assert record.read_text() == "other"


@pytest.mark.parametrize("harm", ["damaged", "missing"])
def test_a_package_that_is_damaged_or_missing_is_named_before_anything_is_done(pictures, tmp_path, harm):
    packages = tmp_path / "packages"
    gpu_visit.pack(pictures, packages, root=ROOT, site=False)
    if harm == "missing":
        (packages / "images-0.tar").unlink()
    else:
        (packages / "images-0.tar").write_bytes(b"other")
    with pytest.raises(ValueError, match=f"images-0.tar: {harm}"):
        gpu_visit.visit(packages, tmp_path / "home", minutes=1)


def test_images_are_split_so_that_every_package_can_travel(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_visit, "PART", 40_000)
    sizes = gpu_visit.pack(pictures, tmp_path / "out", root=ROOT, site=False)
    parts = sorted((tmp_path / "out").glob("images-*.tar"))
    assert len(parts) > 1 and len(sizes) == len(parts) + 2
    held = []
    for part in parts:
        with tarfile.open(part) as archive:
            held += archive.getnames()
    assert len(held) == len(set(held)) == 30
    about = json.loads((tmp_path / "out" / "packages.json").read_text())
    assert {name: each["bytes"] for name, each in about.items()} == sizes
    with pytest.raises(ValueError, match="no images in train"):
        gpu_visit.pack(tmp_path / "out", tmp_path / "other", root=ROOT, site=False)
