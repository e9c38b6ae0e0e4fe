"""A name typed wrong is answered with the right one."""

import random

import pytest
import torch
import torchvision

import ctxnet
from ctxnet.__main__ import build_parser
from ctxnet.data import imagenette
from ctxnet.models.resnet import ResNet
from ctxnet.naming import require_known
from ctxnet.pipeline import stages
from ctxnet.training import load_protocol

PARAMS = "params.yaml"
NET = torchvision.models.resnet18(weights=None)


def model(name):
    ctxnet.create_model(name, width=4)


def protocol(name):
    load_protocol(name, f"{stages.__file__.rsplit('/', 3)[0]}/{PARAMS}")


def layer(name):
    ctxnet.receptive_field(NET, name, input_size=(32, 32))


def block(name):
    ResNet(18, width=4, context="permutation", k=1, blocks=[name])


def context(name):
    ResNet(18, width=4, context=name)


def argument(name):
    ResNet(18, width=4, context="permutation", **{name: 1})


def stage(name):
    if stages.main([name, "quick"]) == 1:
        raise ValueError(stage.said())


def class_(name):
    require_known("class", name, imagenette.CLASSES.values())


TYPED = [
    (model, "resnet50_prem1", "resnet50_perm1"),
    (model, "resnet50perm3", "resnet50_perm3"),
    (model, "resnet50_perm5attn", "resnet50_perm5_attn"),
    (model, "resnet50_perm1_encoding", "resnet50_perm1_enc"),
    (model, "Resnet50", "resnet50"),
    (model, "resnet_50", "resnet50"),
    (model, "resnet50_random_dilated_8", "resnet50_random_dilated8"),
    (model, "resnet50_inserted_dilate4", "resnet50_inserted_dilated4"),
    (model, "hrnet18", "hrnet_w18"),
    (model, "convnext", "convnext_tiny"),
    (model, "vit_base_patch16", "vit_base_patch16_224"),
    (protocol, "quik", "quick"),
    (protocol, "smal", "small"),
    (protocol, "tesis", "thesis"),
    (protocol, "Thesis", "thesis"),
    (layer, "layer2.0.con1", "layer2.0.conv1"),
    (layer, "layer4_1", "layer4.1"),
    (layer, "Layer3", "layer3"),
    (layer, "layer1.0.bn", "layer1.0.bn1"),
    (layer, "maxpol", "maxpool"),
    (block, "layer5.0", "layer4.0"),
    (block, "layer2_0", "layer2.0"),
    (context, "permutations", "permutation"),
    (context, "atention", "attention"),
    (context, "random_dilatedconv", "random_dilated_conv"),
    (argument, "encodng", "encoding"),
    (stage, "reprot", "report"),
    (stage, "dta", "data"),
    (class_, "golfball", "golf ball"),
    (class_, "french horn", "French horn"),
]


def test_the_right_name_is_suggested(capsys, monkeypatch):
    monkeypatch.setattr("ctxnet.pipeline.notebook.die_with_parent", lambda: None)
    monkeypatch.setattr("signal.signal", lambda *a: None)
    monkeypatch.setattr(stage, "said", lambda: capsys.readouterr().err, raising=False)
    missed = []
    for use, typed, meant in TYPED:
        with pytest.raises(ValueError) as caught:
            use(typed)
        said = str(caught.value).strip()
        assert repr(typed) in said and "\n" not in said
        if f"'{meant}'" not in said:
            missed.append((typed, said))
    assert len(TYPED) == 30 and len(missed) <= 3, missed


def test_one_letter_dropped_doubled_or_swapped_in_any_row():
    """Every row, three accidents each: the row is among the three names offered."""
    chance, tried, found = random.Random(0), 0, 0
    for name in ctxnet.list_models():
        for accident in ("drop", "double", "swap"):
            i = chance.randrange(1, len(name) - 1)
            typed = {
                "drop": name[:i] + name[i + 1 :],
                "double": name[:i] + name[i] + name[i:],
                "swap": name[: i - 1] + name[i] + name[i - 1] + name[i + 1 :],
            }[accident]
            if typed in ctxnet.list_models():
                continue
            with pytest.raises(ValueError) as caught:
                require_known("model", typed, ctxnet.list_models())
            tried, found = tried + 1, found + (f"'{name}'" in str(caught.value))
    assert tried > 60 and found >= 0.9 * tried, (found, tried)


def test_the_command_line_answers_too(capsys):
    for words, meant in ((["trian"], "'train'"), (["measur"], "'measure'"), (["reprt"], "'report'")):
        with pytest.raises(SystemExit):
            build_parser().parse_args(words)
        assert meant in capsys.readouterr().err


def test_a_measured_layer_of_any_model():
    with pytest.raises(ValueError, match="did you mean 'blocks.0"):
        import timm

        net = timm.create_model("vit_tiny_patch16_224", img_size=32)
        ctxnet.effective_receptive_field(net, torch.zeros(1, 3, 32, 32), "block.0")
