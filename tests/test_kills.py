"""Thirty kills at random moments of preparing, training and campaigns: the next call makes good, and nothing differs."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from ctxnet.training import load_params

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.torture
COMMANDS = {
    "prepare": ["ctxnet.pipeline.stages", "data", "quick"],
    "train": ["ctxnet", "train", "--protocol", "quick", "--variant", "plain20", "--quiet"],
    "campaign": ["ctxnet", "campaign", "--protocol", "quick", "--rows", "plain20", "resnet20", "--quiet"],
}


def make_project(folder):
    params = load_params(ROOT / "params.yaml")
    params["probe"] |= {"train_images": 600, "valid_images": 100, "distance": 12}
    params["protocols"]["quick"] |= {"image_size": 32, "width": 8, "epochs": 4, "decay_epochs": [3], "profile_images": 1}
    params["own_rows"]["quick"] = ["plain20", "resnet20"]
    folder.mkdir()
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    return folder


def start(words, root):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-m", *words], cwd=root, env=environment, **streams)


def outcome(root):
    """All results and data but for locks, what differs between machines and times, and what only this process knows."""
    passing = {"provenance.json", "source.json", "weights.safetensors", "params.yaml"}
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name not in passing and path.suffix not in (".lock", ".pid") and path.name != ".lock"
    }


@pytest.mark.parametrize("kind", COMMANDS)
def test_ten_kills_leave_nothing_wrong(tmp_path, kind):
    chance, kills, tracebacks = random.Random(kind), 0, 0
    whole = make_project(tmp_path / "whole")
    started = time.monotonic()
    process = start(COMMANDS[kind], whole)
    assert not process.communicate()[1] and process.returncode == 0
    seconds = time.monotonic() - started
    root = make_project(tmp_path / "killed")
    while kills < 10:
        process = start(COMMANDS[kind], root)
        time.sleep(chance.uniform(0.5, 1.0) * seconds)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        tracebacks += "Traceback" in process.communicate()[1]
        if process.returncode == 0:  # came to its end before: begin anew
            assert outcome(root) == outcome(whole)
            shutil.rmtree(root)
            make_project(root)
    process = start(COMMANDS[kind], root)
    tracebacks += "Traceback" in process.communicate()[1]
    assert process.returncode == 0 and outcome(root) == outcome(whole)
    strangers = sorted(path.name for path in tmp_path.iterdir() if path.name not in ("whole", "killed"))
    print(f"{kind}: {kills} kills, 0 wrong results, {tracebacks} tracebacks, {len(strangers)} files outside")
    assert not tracebacks and not strangers
