"""Writing that survives kills, full disks and read-only folders; files that vouch for themselves."""

import errno
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch

from ctxnet.files import atomic_path, built_folder, read_sealed, remove_partials, write_bytes, write_json, write_sealed
from ctxnet.locking import one_writer
from ctxnet.tensors import load_tensors, read_weights, save_tensors

ROOT = Path(__file__).parents[1]
FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(["torch", "ctxnet.tensors"])


def _save_for_ever(path):
    number = 0
    while True:
        number += 1
        save_tensors(path, {"a": torch.full((300_000,), float(number)), "b": torch.full((9,), number)}, {"number": number})


@pytest.mark.parametrize("kills", [10, pytest.param(100, marks=pytest.mark.torture)])
def test_a_kill_inside_a_save_leaves_the_old_file_or_the_new_one(tmp_path, kills):
    path, last, chance = tmp_path / "c.safetensors", 0, random.Random(0)
    save_tensors(path, {"a": torch.zeros(1), "b": torch.zeros(1)}, {"number": 0})
    partials = 0
    for _ in range(kills):
        process = FORK.Process(target=_save_for_ever, args=(path,))
        before = path.stat().st_mtime_ns
        process.start()
        while path.stat().st_mtime_ns == before:
            time.sleep(0.001)
        time.sleep(chance.random() * 0.05)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        tensors, state = load_tensors(path)
        assert state["number"] >= 1 and (tensors["a"] == state["number"]).all() and (tensors["b"] == state["number"]).all()
        last = state["number"]
        partials += len(list(tmp_path.iterdir())) - 1
        remove_partials(tmp_path)
        assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert last and partials, "no kill met a save; the test shows nothing"


def _fill(path, size, limit):
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        save_tensors(path, {"a": torch.ones(size // 4)}, {})
    except OSError as error:
        path.with_name("message").write_text(f"{error.errno} {error}")


def test_a_file_that_grows_too_large_leaves_the_old_one(tmp_path):
    path = tmp_path / "c.safetensors"
    save_tensors(path, {"a": torch.zeros(5)}, {})
    before = path.read_bytes()
    process = FORK.Process(target=_fill, args=(path, 2**20, 2**16))
    process.start()
    process.join()
    message = (tmp_path / "message").read_text()
    assert message.startswith(f"{errno.EFBIG} ") and str(path) in message and "\n" not in message
    assert path.read_bytes() == before and sorted(p.name for p in tmp_path.iterdir()) == [path.name, "message"]


def mounted(tmp_path, options, script):
    """Run a script beside a small file system of its own mounted at ``disk``; returns what it printed."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "script.py").write_text(textwrap.dedent(script))
    shell = f"mount -t tmpfs -o {options} none disk && exec {sys.executable} script.py"
    command = ["unshare", "--mount", "--map-root-user", "--user", "sh", "-c", shell]
    if not shutil.which("unshare"):
        pytest.skip("needs unshare")
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    if done.returncode in (1, 32) and "Traceback" not in done.stderr:
        pytest.skip(f"may not mount here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_full_disk_leaves_the_old_file_and_names_errno_and_path(tmp_path):
    script = """
        import os
        from ctxnet.files import write_bytes
        write_bytes("disk/a", b"old")
        try:
            write_bytes("disk/a", bytes(2**20))
        except OSError as error:
            print(error.errno, error)
        print(open("disk/a").read(), os.listdir("disk"))
    """
    message, after = mounted(tmp_path, "size=128k", script)
    assert message == f"{errno.ENOSPC} [Errno {errno.ENOSPC}] No space left on device: 'disk/a'"
    assert after == "old ['a']"


def test_a_read_only_folder_is_refused_with_errno_and_path(tmp_path):
    script = """
        import os
        from ctxnet.files import write_bytes
        try:
            write_bytes("disk/folder/a", b"new")
        except OSError as error:
            print(error.errno, error)
        try:
            write_bytes("disk/a", b"new")
        except OSError as error:
            print(error.errno, error)
    """
    deeper, here = mounted(tmp_path, "ro,size=64k", script)
    assert deeper.startswith(f"{errno.EROFS} ") and "'disk/folder'" in deeper
    assert here == f"{errno.EROFS} [Errno {errno.EROFS}] Read-only file system: 'disk/a'"


def test_ctrl_c_and_errors_inside_a_write_leave_nothing(tmp_path):
    write_bytes(tmp_path / "a", b"old")
    for error in (KeyboardInterrupt, ValueError, SystemExit):
        with pytest.raises(error), atomic_path(tmp_path / "a") as partial:
            partial.write_bytes(b"half")
            raise error
    assert (tmp_path / "a").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_not_a_number_is_no_json(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert not list(tmp_path.iterdir())


def flips(data, count, chance):
    """``count`` copies of ``data`` with one bit turned, and the numbers of those bits."""
    for bit in chance.sample(range(8 * len(data)), min(count, 8 * len(data))):
        bad = bytearray(data)
        bad[bit // 8] ^= 1 << bit % 8
        yield bytes(bad), bit


@pytest.mark.parametrize(("count", "cuts"), [(200, 60), pytest.param(5000, 500, marks=pytest.mark.torture)])
@pytest.mark.parametrize("kind", ["checkpoint", "record"])
def test_every_flipped_bit_and_every_cut_is_found(tmp_path, kind, count, cuts):
    path, chance = tmp_path / kind, random.Random(1)
    if kind == "checkpoint":
        tensors = {"w": torch.randn(30, 7), "n": torch.arange(5), "h": torch.ones(3).half()}
        save_tensors(path, tensors, {"epoch": 3, "rate": 1e-05})
        read = load_tensors
    else:
        value = {"top1": 0.5, "rate": 1e-05, "name": "Štefko", "files": {"a": "00ff"}, "none": None, "list": [1, 2]}
        write_sealed(path, value)
        read = read_sealed
    good, expected = path.read_bytes(), str(read(path))
    cut = [(good[:length], length) for length in chance.sample(range(len(good)), min(cuts, len(good)))]
    for bad, what in [*flips(good, count, chance), *cut]:
        path.write_bytes(bad)
        with pytest.raises(ValueError, match=f"{kind}: damaged .*git checkout -- .*run the same command again") as caught:
            read(path)
        assert "\n" not in str(caught.value), what
    path.write_bytes(good)
    assert str(read(path)) == expected


def test_weights_of_ours_are_checked_wherever_they_are_read(tmp_path):
    path, chance = tmp_path / "weights.safetensors", random.Random(2)
    save_tensors(path, {"w": torch.randn(30, 7)}, {"epoch": 3})
    good = path.read_bytes()
    assert read_weights(path)["w"].shape == (30, 7)
    for bad, bit in flips(good, 200, chance):
        path.write_bytes(bad)
        with pytest.raises(ValueError, match="weights.safetensors: damaged"):
            print(bit, read_weights(path))


def test_one_writer_and_its_lock_dies_with_it(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", "import time\nfrom ctxnet.locking import one_writer\n"
         "with one_writer('run'): print('mine', flush=True); time.sleep(60)"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout.readline() == "mine\n"
    with pytest.raises(RuntimeError, match="run: another process is writing"), one_writer(tmp_path / "run"):
        pytest.fail("two writers")
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with one_writer(tmp_path / "run"):
        pass


def test_a_sealed_file_is_canonical(tmp_path):
    write_sealed(tmp_path / "a", {"b": 1, "a": 2})
    value = json.loads((tmp_path / "a").read_text())
    (tmp_path / "a").write_text(json.dumps(value))  # the same value, other bytes: edited by hand
    with pytest.raises(ValueError, match="damaged record"):
        read_sealed(tmp_path / "a")


def _build(folder, *names):
    with built_folder(folder, "mark.json") as beside:
        for name in names:
            write_bytes(beside / name, name.encode())


def test_a_folder_is_swapped_whole_and_only_its_own_files_go(tmp_path):
    folder = tmp_path / "site"
    _build(folder, "a.html", "static/b.css")
    with pytest.raises(KeyboardInterrupt), built_folder(folder, "mark.json") as beside:
        write_bytes(beside / "c.html", b"half")
        assert (folder / "a.html").exists()  # the old one is there until the new one is whole
        raise KeyboardInterrupt
    assert sorted(p.name for p in folder.rglob("*")) == ["a.html", "b.css", "mark.json", "static"]
    _build(folder, "c.html")
    assert sorted(p.name for p in folder.rglob("*")) == ["c.html", "mark.json"]
    (folder / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="site: holds 'mine.txt', which was not made here"):
        _build(folder, "d.html")
    assert sorted(p.name for p in folder.rglob("*")) == ["c.html", "mark.json", "mine.txt"]
    assert [p.name for p in tmp_path.iterdir()] == ["site"]


@pytest.mark.parametrize("mark", ["{}", "", '{"files": ["precious.txt", "mark.json"]}', '{"files": ["../outside"]}'])
def test_a_foreign_folder_with_a_mark_of_that_name_is_left_alone(tmp_path, mark):
    (tmp_path / "outside").write_text("mine")
    (tmp_path / "site").mkdir()
    (tmp_path / "site/precious.txt").write_text("mine")
    (tmp_path / "site/mark.json").write_text(mark)
    with pytest.raises(ValueError, match="which was not made here"):
        _build(tmp_path / "site", "a.html")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["mark.json", "outside", "precious.txt", "site"]


def test_what_a_killed_build_left_is_put_right(tmp_path):
    folder, old = tmp_path / "site", tmp_path / ".site.old"
    _build(folder, "a.html")
    folder.rename(old)  # killed between the two renames
    (tmp_path / ".site.partial").mkdir()
    write_sealed(tmp_path / ".site.partial/mark.json", {"files": None})
    write_bytes(tmp_path / ".site.partial/half.html", b"half")
    with pytest.raises(ValueError), built_folder(folder, "mark.json"):
        assert (folder / "a.html").exists()
        raise ValueError
    _build(folder, "b.html")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["b.html", "mark.json", "site"]


def test_a_link_is_not_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "site").symlink_to(tmp_path / "real")
    with pytest.raises(ValueError, match="is no folder"):
        _build(tmp_path / "site", "a.html")


def test_no_message_advises_to_delete_a_result():
    for path in (ROOT / "ctxnet").rglob("*.py"):
        for line in path.read_text("utf-8").splitlines():
            assert not ("delete" in line and "run the same command" in line), f"{path}: {line}"


def test_a_checkout_on_windows_has_the_bytes_that_were_sealed(tmp_path):
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "core.autocrlf=true"]
    shutil.copy(ROOT / ".gitattributes", tmp_path)
    write_sealed(tmp_path / "results/record.json", {"a": 1})
    (tmp_path / "table.csv").write_bytes(b"a,b\n")
    before = [(tmp_path / name).read_bytes() for name in ("results/record.json", "table.csv")]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "a"]):
        subprocess.run([*git, *words], cwd=tmp_path, check=True)
    clone = [*git, "clone", "-q", "--config", "core.autocrlf=true", str(tmp_path), str(tmp_path / "clone")]
    subprocess.run(clone, check=True)
    assert [(tmp_path / "clone" / name).read_bytes() for name in ("results/record.json", "table.csv")] == before
    read_sealed(tmp_path / "clone/results/record.json")
