"""The package as others install it: a wheel, in an environment that has torch, numpy and safetensors and nothing else."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
EXAMPLE = re.search(r"\*\*Measure your own model\.\*\*.*?```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)[1]
ENVIRONMENT = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")} | {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built by the backend that pyproject.toml names, from what git would carry."""
    root = tmp_path_factory.mktemp("source")
    listed = subprocess.check_output(["git", "ls-files", "-co", "--exclude-standard", "-z", "ctxnet"], cwd=ROOT, text=True)
    for name in ["pyproject.toml", "README.md", "LICENSE", *filter(None, listed.split("\0"))]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, root / name)
    code = "from setuptools.build_meta import build_wheel; build_wheel('dist')"
    (root / "dist").mkdir()
    subprocess.run([sys.executable, "-c", code], cwd=root, env=ENVIRONMENT, check=True, capture_output=True)
    (built,) = (root / "dist").glob("*.whl")
    return built


def core():
    """The distributions that `pip install ctxnet` would bring, by name, as they are installed here."""
    found, todo = {}, ["torch", "numpy", "safetensors"]
    while todo:
        name = todo.pop()
        try:
            found[name] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:  # for another platform
            continue
        asked = [Requirement(text) for text in found[name].requires or ()]
        todo += [r.name for r in asked if r.name not in found and (r.marker is None or r.marker.evaluate({"extra": ""}))]
    return found


@pytest.fixture(scope="module")
def bare(wheel, tmp_path_factory):
    """The Python of an environment with the wheel and links to the core's packages: what is installed here beside them is
    not there."""
    root = tmp_path_factory.mktemp("bare")
    venv.create(root, with_pip=False, symlinks=True)
    (packages,) = root.glob("lib/python*/site-packages")
    for distribution in core().values():
        for part in {Path(str(file)).parts[0] for file in distribution.files if Path(str(file)).parts[0] != ".."}:
            place = Path(distribution.locate_file(part))
            if place.exists() and part != "__pycache__" and not (packages / part).exists():
                (packages / part).symlink_to(place)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    return root / "bin" / "python"


def call(python, *words):
    return subprocess.run([python, *words], cwd=python.parent, env=ENVIRONMENT, capture_output=True, text=True)


def test_the_wheel_holds_the_package_and_nothing_beside_it(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names, metadata = archive.namelist(), archive.read(next(n for n in archive.namelist() if n.endswith("METADATA")))
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"ctxnet"}
    assert {"ctxnet/py.typed", "ctxnet/paper/book/pages/base.html.j2", "ctxnet/paper/book/static/site.css"} <= set(names)
    needed = [line for line in metadata.decode().splitlines() if line.startswith("Requires-Dist") and "extra ==" not in line]
    assert sorted(re.split(r"[ >=]+", line)[1] for line in needed) == ["numpy", "safetensors", "torch"]
    assert not re.search(r"Requires-Dist.*<", metadata.decode())  # no upper pins


def test_the_measuring_example_runs_with_the_core_alone(bare):
    """In half the pixels and with one image instead of ten, for speed."""
    code = EXAMPLE.replace("(256, 256)", "(128, 128)").replace("10, 3, 256, 256", "1, 3, 128, 128")
    assert code.count("128") == 6 and "256" not in code
    others = ("fastai", "timm", "torchvision", "matplotlib", "pandas", "yaml")
    code += f"\nfrom importlib.util import find_spec\nprint([name for name in {others} if find_spec(name)])\n"
    done = call(bare, "-c", code)
    assert done.returncode == 0, done.stderr
    *measured, beside = done.stdout.splitlines()
    assert beside == "[]" and len(measured) == 16 and all(re.fullmatch(r"layer\d\.\d +[\d.]+ px", line) for line in measured)


@pytest.mark.parametrize(("words", "extra"), [
    (["train", "--protocol", "quick", "--variant", "resnet50"], "train"),
    (["compare", "resnet50", "resnet18"], "paper"), (["site"], "paper"), (["atlas", "--list"], "timm"),
])  # fmt: skip
def test_a_command_says_in_one_line_which_extra_it_lacks(bare, words, extra):
    done = call(bare, "-m", "ctxnet", *words)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr
    assert re.search(rf"pip install 'ctxnet\[[a-z,]*{extra}[a-z,]*\]'", done.stderr), done.stderr


@pytest.mark.torture
@pytest.mark.skipif(shutil.which("uv") is None, reason="uv is not installed")
@pytest.mark.parametrize("torch", ["torch==2.6.0", "torch"])
def test_the_wheel_installs_and_measures_with_the_oldest_and_the_newest_torch(wheel, tmp_path, torch):
    """Takes gigabytes and a package index."""
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run(["uv", "venv", "-q", "--python", sys.executable, tmp_path / "venv"], check=True)
    subprocess.run(["uv", "pip", "install", "-q", "--python", python, wheel, torch], check=True)
    done = call(python, "-c", EXAMPLE)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 16, done.stderr
    assert call(python.with_name("ctxnet"), "--help").returncode == 0
