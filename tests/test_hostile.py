"""Files made to run code when they are read: weights, arrays, settings, notebooks. None of it may run."""

import pickle
import re
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import ctxnet
from ctxnet import provenance
from ctxnet.data.prepared import load_prepared
from ctxnet.measure import ContextProfile
from ctxnet.naming import unknown_name
from ctxnet.pipeline.notebook import declared_parameters, run_notebook
from ctxnet.records import load_profile
from ctxnet.tensors import load_tensors, read_weights, save_tensors
from ctxnet.training import load_params, read_record
from ctxnet.training.run import _stored_key

ROOT = Path(__file__).parents[1]


class Payload:
    """Touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def sign(tmp_path):
    """The file that must not appear; first, a proof that the payload works."""
    path = tmp_path / "code was run"
    pickle.loads(pickle.dumps(Payload(path)))
    assert path.exists()
    path.unlink()
    return path


def write_pickle(path, payload):
    path.write_bytes(pickle.dumps({"weight": payload}))


def write_legacy(path, payload):
    torch.save({"weight": torch.zeros(2), "extra": payload}, path, _use_new_zipfile_serialization=False)


def write_zip(path, payload):
    torch.save({"weight": torch.zeros(2), "extra": payload}, path)


def write_other_zip(path, payload):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(payload))
        archive.writestr("archive/version", "3")


def write_module(path, payload):
    torch.save(torch.nn.Linear(2, 2), path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".bin"])
@pytest.mark.parametrize("write", [write_pickle, write_legacy, write_zip, write_other_zip, write_module])
def test_weights(tmp_path, sign, write, suffix):
    path = tmp_path / f"weights{suffix}"
    write(path, Payload(sign))
    readers = [read_weights, lambda p: ctxnet.create_model("resnet18", width=4, pretrained=p), load_tensors]
    for read in readers:
        with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
            read(path)
        assert "\n" not in str(caught.value) and not sign.exists()


def test_good_weights_of_every_format_are_read(tmp_path):
    from safetensors.torch import save_file

    state = {"weight": torch.arange(3.0)}
    torch.save(state, tmp_path / "a.pth")
    torch.save(state, tmp_path / "b.pth", _use_new_zipfile_serialization=False)
    save_file(state, tmp_path / "c.safetensors")
    for path in sorted(tmp_path.iterdir()):
        assert torch.equal(read_weights(path)["weight"], state["weight"]), path


def test_arrays(tmp_path, sign):
    payload = np.array([Payload(sign)], dtype=object)
    np.savez(tmp_path / "context.npz", layers=payload, size=payload, erf=payload, about=payload, rf=payload)
    for load in (ContextProfile.load, load_profile):
        with pytest.raises(ValueError, match="context.npz: not a context profile"):
            load(tmp_path / "context.npz")
    folder = tmp_path / "set"
    folder.mkdir()
    np.save(folder / "train_images.npy", payload)
    np.save(folder / "valid_images.npy", payload)
    (folder / "manifest.json").write_text("{}")
    with pytest.raises((ValueError, FileNotFoundError)):
        load_prepared(folder)
    assert not sign.exists()


def test_settings(tmp_path, sign):
    path = tmp_path / "params.yaml"
    for tag in ("object/apply:os.system", "object/new:os.system", "name:os.system", "object/apply:pathlib.Path.touch"):
        path.write_text(f"protocols: !!python/{tag} ['{sign}']\n")
        with pytest.raises(ValueError, match="params.yaml: not valid YAML") as caught:
            load_params(path)
        assert "\n" not in str(caught.value) and not sign.exists()


@pytest.mark.parametrize("text", ["", "null", "[]", "{", '{"sha256": 1}', "[" * 100_000, '{"files": {"../../x": "0"}}'])
def test_records(tmp_path, text):
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(ValueError, match="record.json: damaged"):
        read_record(tmp_path)


def test_parameters_of_a_notebook_cannot_carry_code(tmp_path, sign, monkeypatch):
    import nbformat

    def notebook(cell):
        cells = [nbformat.v4.new_code_cell(cell, metadata={"tags": ["parameters"]})]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "a.ipynb")

    monkeypatch.setattr("ctxnet.pipeline.notebook._execute", lambda *a: pytest.fail("started a kernel"))
    touch = f"__import__('pathlib').Path({str(sign)!r}).touch()"
    notebook("n = 1\nname = 'x'")
    near = [
        ({f"n = 1; {touch} #": 1}, "unknown parameter"),
        ({"nmae": "y"}, "did you mean 'name'"),
        ({"n": touch}, "must be int"),
        ({"n": 1.5}, "must be int"),
        ({"name": Payload(sign)}, "must be str"),
    ]
    for parameters, message in near:
        with pytest.raises(ValueError, match=message):
            run_notebook("a.ipynb", parameters, root=tmp_path)
    for cell in (f"n = {touch}", f"n = 1\n{touch}", f"n: {touch} = 1", f"n = [0 for _ in ({touch},)]"):
        notebook(cell)
        with pytest.raises(ValueError, match="parameters cell"):
            declared_parameters(tmp_path / "a.ipynb")
    assert not sign.exists()


def test_no_load_path_trusts_a_pickle():
    """What would unpickle, by name, in every line of code of the repository."""
    trusting = r"weights_only\s*=\s*False|allow_pickle\s*=\s*True|pickle\.load|joblib|\bexec\("
    trusting += r"|yaml\.(unsafe_|full_)?load\(|UnsafeLoader|FullLoader|yaml\.Loader"
    files = [*ROOT.glob("ctxnet/**/*.py"), *ROOT.glob("notebooks/**/*.ipynb"), *ROOT.glob("benchmarks/*.py")]
    assert len(files) > 40
    for path in files:
        text = path.read_text()
        assert not re.search(trusting, text), path
        for call in re.findall(r"torch\.load\(.*", text):
            assert "weights_only=True" in call, path
        for call in re.findall(r"np\.load\(.*", text):
            assert "allow_pickle=False" in call, path


NO_COMMITS = ["--output=precious.txt", "-h", "HEAD", "main", "0" * 41, "A" * 40, None, 3, ["a"], "0" * 40 + "\n"]


@pytest.mark.parametrize("commit", NO_COMMITS)
def test_what_a_record_calls_its_commit_is_no_option(tmp_path, commit):
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org"]
    (tmp_path / "precious.txt").write_text("mine")
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], cwd=tmp_path, check=True)
    assert provenance.subject(commit, tmp_path) is None
    assert (tmp_path / "precious.txt").read_text() == "mine"
    head = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=tmp_path, text=True).strip()
    assert provenance.subject(head, tmp_path) == "first"


def test_a_line_for_an_unknown_name_stays_short():
    many = [f"{number:x}" * 3 for number in range(5000)]
    assert len(str(unknown_name("timm model", "ÿÿÿÿÿÿÿÿÿÿÿ", many))) < 1000
    assert len(str(unknown_name("model", "x" * 10**5, many))) < 1000


def test_a_checkpoint_that_says_no_settings_is_named(tmp_path):
    for name, state in (("checkpoint", {"history": []}), ("weights", ["config"]), ("checkpoint", None)):
        folder = tmp_path / f"{name}{type(state).__name__}"
        save_tensors(folder / f"{name}.safetensors", {"a": torch.zeros(1)}, state)
        with pytest.raises(ValueError, match=f"{name}.safetensors: no record of a run") as caught:
            _stored_key(folder)
        assert "\n" not in str(caught.value)
