"""What a network sees from everywhere: the records of the explorer."""

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from torch.nn import functional

from ctxnet.data import normalise
from ctxnet.data.photograph import photograph
from ctxnet.measure import profile_lattice
from ctxnet.training import load_measure, load_params, measure_lattice, read_record
from ctxnet.training.context import initial_network, shown_layers
from ctxnet.training.lattice import COLUMNS

CELLS = 16


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    from pathlib import Path

    root = tmp_path_factory.mktemp("lattice")
    params = load_params(Path(__file__).parents[1] / "params.yaml")
    params["measure"] |= {"image_size": 64, "width": 4, "images": 2}
    params["lattice"] = {"places": 3, "cells": CELLS}
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    return root


@pytest.fixture(scope="module", params=["resnet50_perm1", "fcn32_resnet50"])
def measured(request, project):
    return request.param, measure_lattice(request.param, root=project, progress=False)


def test_every_tile_is_its_profile(measured, project):
    variant, folder = measured
    sprite = np.asarray(Image.open(folder / "maps.png"))
    places = pd.read_csv(folder / "places.csv")
    model, _ = initial_network(variant, load_measure(project / "params.yaml"))
    layers = shown_layers(model, variant)
    assert len(layers) == (5 if variant.startswith("fcn32") else 16) and read_record(folder)["layers"] == layers
    assert sprite.shape == (len(layers) * CELLS, 9 * CELLS) and tuple(places) == COLUMNS and len(places) == len(layers) * 9
    profiles = [profile for _, profile in profile_lattice(model, normalise(photograph(64)[None]), 3, layers)]
    for line in places.itertuples():
        profile, block = profiles[line.place], line.block
        box = line.box_top, line.box_left, line.box_side
        rf, erf = profile.rf[block], profile.erf[block].double()
        inside = torch.zeros_like(rf)
        inside[box[0] : box[0] + box[2], box[1] : box[1] + box[2]] = True
        assert inside.sum() == box[2] ** 2 and not (rf & ~inside).any()  # a square in the image, around all of it
        assert line.distance == pytest.approx(float(profile.distance[block]), abs=0.006)
        assert line.rf_share == pytest.approx(float(rf.double().mean()), abs=1e-5)
        tile = sprite[block * CELLS : (block + 1) * CELLS, line.place * CELLS : (line.place + 1) * CELLS]
        cut = (m[box[0] : box[0] + box[2], box[1] : box[1] + box[2]].double() for m in (rf, erf))
        share, weight = (functional.adaptive_avg_pool2d(m[None], CELLS)[0].numpy() for m in cut)
        assert (tile % 16 == np.ceil(15 * share)).all()
        relative = weight / weight.max()
        assert ((tile // 16 > 0) == (relative > 1e-3)).all() and (tile // 16)[relative == 1].min() == 15
        step = tile[tile >= 16] // 16
        assert (np.abs(15 * (1 + np.log10(relative[tile >= 16]) / 3) - step + 0.5) <= 0.5 + 1e-6).all()


def test_it_is_measured_once_and_again_when_settings_change(measured, project, capsys):
    variant, folder = measured
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert measure_lattice(variant, root=project, progress=False) == folder
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert read_record(folder)["settings"]["places"] == 3
    (folder / "places.csv").write_text("block\n")
    measure_lattice(variant, root=project, progress=False)  # damaged: set aside and made again
    said = capsys.readouterr().out
    assert "places.csv: damaged" in said and "superseded" in said and len(said.splitlines()) == 1
    equal = {path.name: path.read_bytes() == before[path.name] for path in folder.iterdir() if path.name in before}
    assert equal["maps.png"] and equal["places.csv"] and equal["record.json"]


def test_the_photograph_is_one_square_of_any_size():
    assert photograph(64).shape == (64, 64, 3) and photograph(64).dtype == np.uint8 and photograph(224).std() > 40
    with pytest.raises(ValueError, match="size=0"):
        photograph(0)
