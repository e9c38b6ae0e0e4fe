"""Kills at random moments of everything that takes long: the next call makes good, nothing differs, nobody lives on."""

import functools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
import yaml

from ctxnet.training import load_params
from tests.toys import PLAIN

ROOT = Path(__file__).parents[1]
KILLS = 10
pytestmark = pytest.mark.torture
TRAIN = ["ctxnet", "train", "--protocol", "quick", "--variant", "plain20", "--quiet"]
COMMANDS = {
    "prepare": ["ctxnet.pipeline.stages", "data", "quick"],
    "train": TRAIN,
    "campaign": ["ctxnet", "campaign", "--protocol", "quick", "--rows", "plain20", "resnet20", "--quiet"],
    "dvc": ["dvc", "repro", "--quiet"],
    "site": ["ctxnet", "site", "--protocol", "quick", "--no-pdf"],
}
STAGES = """
stages:
  data:
    cmd: exec python -m ctxnet.pipeline.stages data quick
    params: [probe]
    outs: [data/quick.json: {cache: false, persist: true}]
  train:
    cmd: exec python -m ctxnet train --protocol quick --variant plain20 --quiet
    deps: [data/quick.json]
    outs: [results/quick/runs/plain20: {cache: false, persist: true}]
"""


def make_project(folder):
    params = load_params(ROOT / "params.yaml")
    params["probe"] |= {"train_images": 600, "valid_images": 100, "distance": 12}
    small = {"image_size": 32, "width": 8, "epochs": 4, "decay_epochs": [3], "profile_images": 1}
    params["protocols"]["quick"] = PLAIN | small
    params["own_rows"]["quick"] = ["plain20", "resnet20"]
    folder.mkdir()
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    (folder / "dvc.yaml").write_text(STAGES)
    (folder / "notebooks").mkdir()
    cells = [nbformat.v4.new_markdown_cell("# 1 One\n\nText."), nbformat.v4.new_code_cell("print(protocol)")]
    declared = nbformat.v4.new_code_cell('protocol = "quick"\nsave = False', metadata={"tags": ["parameters"]})
    notebook = nbformat.v4.new_notebook(cells=[declared, *cells])
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell{number}"
    nbformat.write(notebook, folder / "notebooks/01.ipynb")
    return folder


@functools.cache
def template(kind, base):
    """What every attempt begins with: nothing made; for the site a finished run; for dvc a repository of its own."""
    root = make_project(base / f"template-{kind}")
    if kind == "site":
        assert start(TRAIN, root).wait() == 0
    if kind == "dvc":
        subprocess.run(["git", "init", "-q"], cwd=root, check=True)
        assert start(["dvc", "init", "-q"], root).wait() == 0
    return root


def environment():
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": path, "DVC_NO_ANALYTICS": "1"}


def start(words, root):
    with open(root.with_name(f"{root.name}.stderr"), "wb") as errors:  # a pipe would be held open by who lives on
        return subprocess.Popen(
            [sys.executable, "-m", *words], cwd=root, env=environment(), stdout=subprocess.DEVNULL, stderr=errors
        )


def said(root):
    return root.with_name(f"{root.name}.stderr").read_text()


def outcome(root):
    """All results and data but for locks, what differs between machines and times, and what only this process knows."""
    passing = {"provenance.json", "source.json", "weights.safetensors", "params.yaml", "dvc.lock"}
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name not in passing and path.suffix not in (".lock", ".pid") and path.name != ".lock"
        and path.relative_to(root).parts[0] not in (".dvc", ".git")
    }  # fmt: skip


def alive(root):
    """Processes that work in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if Path(os.readlink(process / "cwd")).is_relative_to(root):
                found.append(process.name)
        except OSError:
            continue
    return found


def orphans(root, seconds=5):
    """Those that still live so long after a kill; a kernel needs a moment to notice."""
    until = time.monotonic() + seconds
    while (found := alive(root)) and time.monotonic() < until:
        time.sleep(0.05)
    for process in found:
        os.kill(int(process), signal.SIGKILL)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kind", COMMANDS)
def test_kills_leave_nothing_wrong(tmp_path, kind):
    chance, kills, finished, left, lines = random.Random(kind), 0, 0, [], ""
    first = template(kind, tmp_path)
    whole = shutil.copytree(first, tmp_path / "whole")
    started = time.monotonic()
    assert start(COMMANDS[kind], whole).wait() == 0, said(whole)
    seconds = time.monotonic() - started
    root = shutil.copytree(first, tmp_path / "killed")
    while kills < KILLS:
        process = start(COMMANDS[kind], root)
        try:
            process.wait(chance.uniform(0.1, 1.0) * seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
        left += orphans(root)
        lines += said(root)
        assert process.returncode in (0, -signal.SIGKILL), said(root)
        if process.returncode == 0:  # came to its end before: begin anew
            finished += 1
            assert outcome(root) == outcome(whole)
            shutil.rmtree(root)
            shutil.copytree(first, root)
    process = start(COMMANDS[kind], root)
    assert process.wait() == 0 and outcome(root) == outcome(whole), said(root)
    lines += said(root)
    known = {"whole", "killed", first.name} | {f"{name}.stderr" for name in ("whole", "killed", first.name)}
    outside = sorted(path.name for path in tmp_path.iterdir() if path.name not in known)
    tracebacks = lines.count("Traceback")
    print(f"{kind}: {kills} kills, {finished + 1} finished, 0 wrong results, {tracebacks} tracebacks, {len(left)} orphans, "
          f"{len(outside)} files outside")  # fmt: skip
    assert not tracebacks and not left and not outside
