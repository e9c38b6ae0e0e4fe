"""From a name on the command line to a network: rows of the atlas, timm's, torchvision's, and models in files."""

import importlib.machinery
import importlib.util
import inspect
import re
import sys
from functools import partial
from pathlib import Path

from torch import nn

from ..extras import require
from ..files import stable_hash
from ..naming import require_known, unknown_name
from .rows import ROWS, Row, timm_model, torchvision_model

PREFIXES = ("timm:", "torchvision:")


def find_row(name):
    """The :class:`ctxnet.atlas.rows.Row` behind a name.

    A name is looked up among the rows of the atlas, then in timm, then in torchvision. ``timm:resnet50`` and
    ``torchvision:resnet50`` skip what comes first. ``path/to/file.py:function`` is a model of your own: **the code in
    that file is run**, and ``function()`` has to give an ``nn.Module``.

    Raises:
        ValueError: for an unknown name, with the near ones; a function that is not in its file.
        FileNotFoundError: for a file that is not there.
    """
    if name in ROWS:
        return ROWS[name]
    if ".py:" in name or name.endswith(".py"):
        return _file_row(name)
    require("timm", user=f"find_row({name!r})")
    import timm

    if name.startswith("timm:"):
        return _timm_row(require_known("timm model", name.removeprefix("timm:"), timm.list_models()))
    if name.startswith("torchvision:"):
        return _torchvision_row(require_known("torchvision model", name.removeprefix("torchvision:"), _torchvision_names()))
    if timm.is_model(name):
        return _timm_row(name)
    if name in _torchvision_names():
        return _torchvision_row(name)
    error = unknown_name("model", name, [*ROWS, *timm.list_models(), *_torchvision_names()])
    raise error if "did you mean" in str(error) else unknown_name("model", name, ROWS)


def folder_name(name, weights=""):
    """The folder of a name's record: ``path/to/file.py:function`` becomes ``file.function-<digest>``; weights are appended.

    The digest is of the full name, so that no two names share a folder: ``one/model.py:make`` and
    ``two/model.py:make`` do not, nor do names that differ only in what the name of a folder cannot hold. ``timm:`` and
    ``torchvision:`` stay in it, with a dot.
    """
    said, short = f"{name}+{weights}" if weights else name, name
    if ".py:" in name:
        path, _, function = name.rpartition(":")
        short = f"{Path(path).stem}.{function}"
    if weights:
        short = f"{short}+{Path(weights).stem if weights.startswith('file:') else weights}"
    short = re.sub(r"[^\w.+-]+", ".", short)
    plain = short == said or (short == said.replace(":", ".", 1) and name.startswith(PREFIXES))
    return short if plain else f"{short[:100]}-{stable_hash(said)[:8]}"


def _timm_row(name):
    import timm

    config = timm.get_pretrained_cfg(name)
    size = config.input_size[-1] if config is not None else 224
    return Row(name, "", partial(timm_model, name), size, "timm")


def _torchvision_names():
    """Whether it is a segmentation net, by name. Detection, video and quantised nets take other inputs than one batch."""
    from torchvision import models

    plain, segmentation = models.list_models(module=models), models.list_models(module=models.segmentation)
    return dict.fromkeys(plain, False) | dict.fromkeys(segmentation, True)


def _torchvision_row(name):
    segmentation = _torchvision_names()[name]
    build = partial(torchvision_model, name, segmentation=segmentation)
    layers = r"backbone\..*\d\.\d+|classifier\.[04]" if segmentation and "resnet" in name else ""
    return Row(name, "", build, 299 if name == "inception_v3" else 224, "torchvision", layers)


def _file_row(name):
    path, _, function = name.rpartition(":")
    if not path:
        raise ValueError(f"{name}: which function in it gives the model? Write {name}:function")
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    module = _run_file(Path(path))
    functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
    require_known(f"function in {path}", function, functions)
    return Row(function, "", partial(_from_function, name, getattr(module, function)), 224, path, downloads=False)


class _SourceLoader(importlib.machinery.SourceFileLoader):
    def get_code(self, fullname):
        """Compile anew: Python takes an old __pycache__ for a file that was edited within a second to the same size."""
        return self.source_to_code(self.get_data(self.path), self.path)


def _run_file(path):
    """Run a Python file as a module of its own; the folder it lies in can be imported from meanwhile."""
    name = f"ctxnet_atlas_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path, loader=_SourceLoader(name, str(path)))
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickling look their module up there
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"{path}: running it failed: {type(error).__name__}: {error}".splitlines()[0]) from error
    finally:
        sys.path.pop(0)
    return module


def _from_function(name, function, pretrained=False):
    model = function()
    if not isinstance(model, nn.Module):
        what = "a class" if inspect.isclass(model) else f"a {type(model).__name__}"
        raise ValueError(f"{name}() gave {what}, not an nn.Module")
    return model
