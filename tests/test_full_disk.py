"""A full disk: whatever writes to it ends with one line that names the file, and leaves no half of one."""

import shutil
import subprocess
import sys

import pytest
from test_kills import TRAIN, environment, make_project, start

WORDS = {
    "prepare": ["ctxnet.pipeline.stages", "data", "quick"],
    "train": TRAIN,
    "campaign": ["ctxnet", "campaign", "--protocol", "quick", "--rows", "resnet20", "--quiet"],
    "measure": ["ctxnet", "measure", "--variant", "plain20"],
    "atlas": ["ctxnet", "atlas", "lenet5", "--quiet"],
    "report": ["ctxnet", "report", "--protocol", "quick"],
    "site": ["ctxnet", "site", "--protocol", "quick", "--no-pdf"],
}
ROOM = {"prepare": (0, 1900), "train": (0, 2180), "campaign": (0,), "report": (0, 12), "site": (0, 60)}  # KiB that are free
SCRIPT = """
mount -t tmpfs -o size=40m none disk || exit 77
cp -r whole/. disk; cd disk
head -c $(( ($(df --output=avail -B1024 . | tail -1) - $1) * 1024 )) /dev/zero > ballast; shift
"$@" > /dev/null; status=$?
find . -name '*.partial' -not -empty >&2
exit $status
"""


@pytest.mark.torture
@pytest.mark.parametrize("kind", WORDS)
def test_a_full_disk_is_named_and_leaves_no_half(tmp_path, kind):
    if not shutil.which("unshare") or sys.platform != "linux":
        pytest.skip("no disk can be mounted here")
    whole, count = make_project(tmp_path / "whole"), 0
    if kind not in ("prepare", "train"):
        assert start(TRAIN, whole).wait() == 0
    (tmp_path / "disk").mkdir()
    for room in ROOM.get(kind, (0, 4)):
        words = ["unshare", "-rm", "bash", "-c", SCRIPT, "bash", str(room), sys.executable, "-m", *WORDS[kind]]
        done = subprocess.run(words, cwd=tmp_path, env=environment(), capture_output=True, text=True)
        if done.returncode == 77:
            pytest.skip(f"may not mount here: {done.stderr.strip()}")
        lines = [line for line in done.stderr.splitlines() if "Warning" not in line]
        assert done.returncode == 1 and "No space left on device: '" in lines[-1], done.stderr
        assert "Traceback" not in done.stderr and ".partial" not in "".join(lines[:-1])
        count += 1
    print(f"{kind}: {count} full disks, each named in one line, 0 tracebacks, 0 halves of files")
