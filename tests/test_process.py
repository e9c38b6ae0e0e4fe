"""How processes end: with their parent from the first moment on, and quietly however often Ctrl-C is pressed."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ctxnet.process import command_name

ROOT = Path(__file__).parents[1]
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a thread polls")


@pytest.mark.parametrize(
    "words, name",
    [
        ("python -m ctxnet train", "ctxnet"),
        ("python -X dev -m ctxnet.pipeline.stages data quick", "ctxnet.pipeline.stages"),
        ("python -m pytest tests", ""),
        ("python -m", ""),
        ("python -c pass", ""),
        ("python -m ctxnetx", ""),
    ],
)
def test_only_our_own_commands_are_tied(words, name):
    assert command_name(words.split()) == name


def stage_of(parent):
    """The stage that a parent has started, by the system's list of processes."""
    listed = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    return int(listed[0]) if listed else None


def killed_parent(tmp_path, words, seconds, **environment):
    """Kill the parent of a command after so many seconds from the command's start; whether the command ended with it."""
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-m', *{words!r}])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=environment, **quiet)
    deadline = time.monotonic() + 20
    while (stage := stage_of(parent)) is None and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(seconds)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{stage}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    os.kill(stage, signal.SIGKILL)
    return False


STAGES = [["ctxnet.pipeline.stages", "data", "quick"], ["ctxnet", "measure", "--variant", "resnet50"]]


@LINUX
@pytest.mark.parametrize("words", STAGES)
@pytest.mark.parametrize("seconds", [0.4, 1.2])
def test_a_stage_ends_with_a_parent_that_is_killed_while_it_imports(tmp_path, words, seconds):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    assert killed_parent(tmp_path, words, seconds, DVC_STAGE="measure@resnet50")
    assert not (tmp_path / "results").exists()


@LINUX
def test_a_command_of_a_person_outlives_its_shell(tmp_path):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    environment = {key: value for key, value in os.environ.items() if key != "DVC_STAGE"}
    code = "import ctypes; n = ctypes.c_int(); ctypes.CDLL(None).prctl(2, ctypes.byref(n)); print(n.value)"
    script = f"import sys; sys.orig_argv = ['python', '-m', 'ctxnet', 'train']; import ctxnet.process; {code}"
    words = [sys.executable, "-c", script]
    for extra, signum in (({}, 0), ({"DVC_STAGE": "train"}, signal.SIGTERM)):
        done = subprocess.run(words, env={**environment, **extra, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
        assert int(done.stdout) == signum, done.stderr


INTERRUPTED = """
import sys, time
from pathlib import Path
sys.argv = ["ctxnet"]
import ctxnet.__main__ as command

def work(args):
    try:
        print("ready", flush=True)
        time.sleep(30)
    finally:
        time.sleep(0.3)
        Path("tidy").touch()

class Parser:
    function = staticmethod(work)

    def parse_args(self, argv):
        return self

command.build_parser = Parser
command.main()
"""


def test_two_ctrl_c_in_a_row_are_one(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert errors == "ctxnet: interrupted; the same command goes on from its last checkpoint\n"
    assert process.returncode == 1 and (tmp_path / "tidy").exists()


@pytest.mark.parametrize("seconds", [0.3, 0.9])
def test_ctrl_c_while_it_imports_leaves_no_traceback(tmp_path, seconds):
    process = subprocess.Popen(
        [sys.executable, "-m", "ctxnet", "list"], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    assert "Traceback" not in process.communicate(timeout=60)[1]


@LINUX
@pytest.mark.torture
def test_no_orphans(tmp_path):
    chance, orphans = random.Random(0), 0
    shutil.copy(ROOT / "params.yaml", tmp_path)
    for _ in range(20):
        orphans += not killed_parent(tmp_path, chance.choice(STAGES), chance.uniform(0.15, 4), DVC_STAGE="x")
    print(f"20 parents killed: {orphans} orphans")
    assert orphans == 0
