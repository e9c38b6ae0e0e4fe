import getpass
import json
import platform
import subprocess

from ctxnet import provenance


def test_says_what_made_a_result_and_nothing_about_who(tmp_path):
    found = provenance.collect("abc", root=tmp_path, device="cpu")
    assert set(found) == {"commit", "dirty", "data_manifest", "versions", "device", "cores", "threads"}
    assert found["data_manifest"] == "abc" and found["device"]
    assert found["cores"] >= 1 and found["threads"] >= 1
    assert set(found["versions"]) == {"python", *provenance.PACKAGES} and all(found["versions"].values())
    text = json.dumps(found)
    assert str(tmp_path) not in text and platform.node() not in text
    assert getpass.getuser() not in [found["device"], *found["versions"].values()]


def test_commit_and_dirty(tmp_path):
    def git(*arguments):
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", *arguments]
        return subprocess.check_output(command, cwd=tmp_path, text=True).strip()

    def state():
        found = provenance.collect(root=tmp_path / "results")
        return found["commit"], found["dirty"]

    (tmp_path / "results").mkdir()
    assert state() == (None, None)  # outside of a repository
    git("init", "-q")
    (tmp_path / "code.py").write_text("1")
    (tmp_path / "results" / "a.json").write_text("1")
    git("add", "-A")
    git("commit", "-qm", "x")
    commit = git("rev-parse", "HEAD")
    assert state() == (commit, False)
    (tmp_path / "results" / "a.json").write_text("2")
    assert state() == (commit, False)  # what runs write is no change of the code
    (tmp_path / "code.py").write_text("2")
    assert state() == (commit, True)
