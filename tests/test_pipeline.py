"""The notebook runner, and the pipeline from images to tables, figures and pages on two rows at toy size."""

import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml

from ctxnet.models.variants import VARIANTS
from ctxnet.pipeline import stages
from ctxnet.pipeline.notebook import (
    NotebookError,
    check_parameters,
    declared_parameters,
    main,
    parse_value,
    run_notebook,
)
from ctxnet.training import load_params, load_protocol
from tests.toys import PLAIN

ROOT = Path(__file__).parents[1]
ROWS = ["resnet50", "resnet50_perm1"]
CHAPTERS = ["02_architectures", "04_experiments", "05_conclusion", "B_erf_visualizations"]
DECLARED = {"name": (str, "x"), "n": (int, 1), "rate": (float, 0.1), "flip": (bool, False), "of": (list, [1])}
ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
ENVIRONMENT.pop("CTXNET_DATA", None)


def write_notebook(path, parameters, *cells):
    code = [nbformat.v4.new_code_cell(source, id=f"cell-{i}") for i, source in enumerate(cells)]
    first = nbformat.v4.new_code_cell(parameters, id="parameters", metadata={"tags": ["parameters"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[first, *code]), path)
    return path


def wait_until(condition, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def gone(pid):
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return True


# Parameters


def test_declared_parameters(tmp_path):
    source = "name = 'x'\nn = -1  # an int\nrate: float = None\nmust: str"
    found = declared_parameters(write_notebook(tmp_path / "a.ipynb", source))
    assert list(found) == ["name", "n", "rate", "must"]
    assert found["n"] == (int, -1) and found["rate"] == (float, None) and found["must"][0] is str


@pytest.mark.parametrize("line", ["import os", "n = len('')", "n = None", "n: object = 1", "a, b = 1, 2", "n = ("])
def test_a_parameters_cell_holds_typed_literals_only(tmp_path, line):
    with pytest.raises(ValueError, match="parameters cell"):
        declared_parameters(write_notebook(tmp_path / "a.ipynb", line))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"nam": "x"}, "unknown parameter 'nam'; did you mean 'name'"),
        ({"name": 1}, "'name' must be str, not 1"),
        ({"n": True}, "'n' must be int, not True"),
        ({"n": 1.0}, "'n' must be int, not 1.0"),
        ({"rate": "0.1"}, "'rate' must be float"),
        ({"rate": float("nan")}, "finite literal"),
        ({"rate": float("inf")}, "finite literal"),
        ({"of": [object()]}, "finite literal"),
        ({"name": None}, "'name' must be str"),
    ],
)
def test_wrong_parameters_are_refused(given, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        check_parameters(DECLARED, given)


def test_missing_parameter(tmp_path):
    declared = declared_parameters(write_notebook(tmp_path / "a.ipynb", "must: str"))
    with pytest.raises(ValueError, match="missing parameter 'must'"):
        check_parameters(declared, {})


def test_types_are_kept():
    checked = check_parameters(DECLARED, {"rate": 1, "flip": True, "of": [1, "a"]})
    assert checked == {"rate": 1.0, "flip": True, "of": [1, "a"]} and type(checked["rate"]) is float


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [(str, "true", "true"), (str, "1e-05", "1e-05"), (str, "a=b", "a=b"), (bool, "true", True),
     (int, "-3", -3), (float, "1e-05", 1e-05), (float, "2", 2.0), (list, "[1, 'a']", [1, "a"])],
)  # fmt: skip
def test_words_are_read_as_the_declared_type(kind, text, value):
    assert parse_value("p", kind, text) == value


@pytest.mark.parametrize(("kind", "text"), [(bool, "1"), (int, "1.5"), (list, "1"), (list, "f()")])
def test_words_of_another_type_are_refused(kind, text):
    with pytest.raises(ValueError, match="'p' must be"):
        parse_value("p", kind, text)


def test_the_command_line_refuses_in_one_line(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("ctxnet.pipeline.notebook.die_with_parent", lambda: None)
    monkeypatch.setattr("ctxnet.pipeline.notebook.run_notebook", lambda *a: pytest.fail("started a kernel"))
    monkeypatch.setattr(signal, "signal", lambda *a: None)
    for words, message in [
        (["notebooks/runs/train.ipynb", "--varaint", "resnet50"], "did you mean '--variant'"),
        (["notebooks/runs/train.ipynb", "--variant"], "--variant needs a value"),
        (["notebooks/runs/train.ipynb", "variant=resnet50"], "unknown parameter"),
        (["notebooks/runs/trian.ipynb"], "no notebook"),
    ]:
        assert main(words) == 1
        assert message in capsys.readouterr().err


# Execution


def test_equal_runs_give_equal_bytes_and_text_stays_text(tmp_path, capsys):
    hostile = "'\"\\\n\"); raise SystemExit #{x}"
    path = write_notebook(
        tmp_path / "a.ipynb",
        "text = 'x'\nrate = 0.1",
        "import sys\nprint(ascii(text), rate)\nprint('bar', file=sys.stderr)\nobject()",
        "import matplotlib.pyplot as plt\nplt.plot([1, 2]);",
        "import ipywidgets\nipywidgets.IntSlider()",
    )
    for name in ("one", "two"):
        run_notebook("a.ipynb", {"text": hostile, "rate": 1e-05}, f"out/{name}.ipynb", root=tmp_path)
    shown = capsys.readouterr()
    assert ascii(hostile) + " 1e-05" in shown.out and shown.err == "bar\nbar\n"
    first, second = ((tmp_path / "out" / f"{name}.ipynb").read_bytes() for name in ("one", "two"))
    assert first == second
    notebook = nbformat.reads(first, as_version=4)
    nbformat.validate(notebook)
    assert set(notebook.metadata) == {"kernelspec", "language_info", "sha256"}
    injected = notebook.cells[1]
    assert injected.metadata.tags == ["injected-parameters"]
    assert [ast.literal_eval(line.value) for line in ast.parse(injected.source).body] == [hostile, 1e-05]
    assert not nbformat.read(path, as_version=4).cells[1].outputs  # the source stays as it was


def test_a_failing_cell(tmp_path):
    cells = "raise ValueError('no \\x1b[31msuch\\x1b[0m thing')", "open('later', 'w')"
    write_notebook(tmp_path / "a.ipynb", "n = 1", *cells)
    message = r"a.ipynb, code cell 2: ValueError: no such thing \(traceback: .*out.ipynb"
    with pytest.raises(NotebookError, match=message):
        run_notebook("a.ipynb", output="out.ipynb", root=tmp_path)
    assert "Traceback" in (tmp_path / "out.ipynb").read_text() and not (tmp_path / "later").exists()


def test_a_kernel_that_dies(tmp_path):
    write_notebook(tmp_path / "a.ipynb", "n = 1", "import os\nos.kill(os.getpid(), 9)")
    with pytest.raises(NotebookError, match="the kernel died"):
        run_notebook("a.ipynb", root=tmp_path)


def test_a_kernel_that_has_done_its_work_is_not_interrupted(tmp_path, monkeypatch):
    """It would say so on stderr, now and then, where `dvc repro` shows it as an error."""
    interrupted = []

    async def note(manager):
        interrupted.append(manager)

    monkeypatch.setattr("jupyter_client.AsyncKernelManager._async_interrupt_kernel", note)
    run_notebook(write_notebook(tmp_path / "a.ipynb", "n = 1", "n"), root=tmp_path)
    assert not interrupted


@pytest.fixture
def sleeper(tmp_path):
    """A repository with one stage, whose notebook says the number of its process and then sleeps."""
    write_notebook(
        tmp_path / "a.ipynb",
        "seconds = 100",
        "import os, pathlib, time\npathlib.Path('pid.part').write_text(str(os.getpid()))\n"
        "os.replace('pid.part', 'pid')\nfor _ in range(seconds * 10): time.sleep(0.1)",
    )
    (tmp_path / "dvc.yaml").write_text("stages: {a: {cmd: exec python -m ctxnet.pipeline.notebook a.ipynb}}")
    shutil.copytree(ROOT / ".dvc", tmp_path / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache"))
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    return tmp_path


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_killed_dvc_leaves_no_kernel(sleeper):
    environment = {**ENVIRONMENT, "SHELL": "/bin/sh"}
    with subprocess.Popen(["dvc", "repro", "-q"], cwd=sleeper, env=environment) as dvc:
        try:
            wait_until((sleeper / "pid").exists)
            kernel = int((sleeper / "pid").read_text())
            assert not gone(kernel)
        finally:
            dvc.send_signal(signal.SIGKILL)
    wait_until(lambda: gone(kernel), seconds=30)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.torture
def test_killed_dvc_started_again_at_once_has_one_writer(sleeper):
    """Killed three times, each time started again in the same moment: never do two kernels write."""
    write_notebook(
        sleeper / "a.ipynb",
        "seconds = 100",
        "import fcntl, os, pathlib, time\nwriter = open('writer', 'w')\n"
        "try:\n    fcntl.flock(writer, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "except OSError:\n    pathlib.Path('two writers').touch()\n"
        "with open('starts', 'a') as log: log.write(f'{os.getpid()}\\n')\n"
        "for _ in range(seconds * 10): time.sleep(0.1)",
    )
    command = "exec python -m ctxnet.pipeline.notebook a.ipynb --output out/a.ipynb"
    (sleeper / "dvc.yaml").write_text(f"stages: {{a: {{cmd: {command}}}}}")

    def starts():
        return (sleeper / "starts").read_text().split() if (sleeper / "starts").exists() else []

    for number in range(1, 4):
        end = time.monotonic() + 120
        while len(starts()) < number:  # refused while the old one is dying: the user types it again
            assert time.monotonic() < end, "never started again"
            process = subprocess.Popen(["dvc", "repro", "-q"], cwd=sleeper, env=ENVIRONMENT, stderr=subprocess.PIPE)
            wait_until(lambda p=process, n=number: p.poll() is not None or len(starts()) >= n)
        process.kill()
        process.wait()
        process.stderr.close()
    wait_until(lambda: all(gone(int(pid)) for pid in starts()), seconds=30)
    assert len(set(starts())) == 3 and not (sleeper / "two writers").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_ctrl_c(sleeper):
    command = [sys.executable, "-m", "ctxnet.pipeline.notebook", "a.ipynb"]
    # A test run in the background of a shell inherits an ignored SIGINT; a person's terminal does not.
    listening = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    with subprocess.Popen(command, cwd=sleeper, stderr=subprocess.PIPE, text=True, **listening) as runner:
        try:
            wait_until((sleeper / "pid").exists)
        finally:
            runner.send_signal(signal.SIGINT)
        assert runner.wait(30) == 130 and runner.stderr.read() == "interrupted\n"
    wait_until(lambda: gone(int((sleeper / "pid").read_text())), seconds=30)


# The pipeline


def dvc(root, *words, check=True):
    done = subprocess.run(["dvc", *words], cwd=root, env=ENVIRONMENT, capture_output=True, text=True)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def stale_stages(root):
    return set(json.loads(dvc(root, "status", "--json", "--with-deps", "report@quick")))


def edit_params(root, change):
    params = yaml.safe_load((root / "params.yaml").read_text())
    change(params)
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


def toy(params):
    small = {"width": 4, "image_size": 32, "epochs": 1, "decay_epochs": [], "profile_images": 2}
    params["protocols"]["quick"] = PLAIN | small
    params |= {"rows": list(ROWS), "own_rows": {"quick": list(ROWS)}, "protocol_names": ["quick"]}
    params["probe"] |= {"train_images": 64, "valid_images": 40, "distance": 12}
    params["measure"] |= {"width": 4, "images": 2}


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """The working tree as git would carry it, with toy settings and a few chapters; nbval runs them all."""
    root = tmp_path_factory.mktemp("pipeline") / "ctxnet"
    command = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
    listed = subprocess.check_output(command, cwd=ROOT, text=True)
    for name in filter(None, listed.split("\0")):
        left_out = re.fullmatch(r"notebooks/\w+\.ipynb", name) and Path(name).stem not in CHAPTERS
        if (ROOT / name).is_file() and not left_out and not name.startswith(("results/", "dvc.lock", "data/")):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    edit_params(root, toy)
    return root


@pytest.fixture(scope="module")
def built(clone):
    dvc(clone, "repro", "report@quick")
    return clone


def test_builds_everything(built):
    results = built / "results" / "quick"
    for row in ROWS:
        record = json.loads((results / "runs" / row / "seed0" / "record.json").read_text())
        assert 0 <= record["top1"] <= 1 and record["n"] == 40 and record["variant"] == row
        assert (built / "results" / "measure" / row / "context.npz").is_file()
    shown = {number.replace(".", "_") for row in ROWS for number in VARIANTS[row].tables}
    assert {f"table_{number}.md" for number in shown} <= {p.name for p in (results / "tables").iterdir()}
    drawn = [p.stem for p in (results / "figures").iterdir()]
    wanted = {f"figure_4_{i}" for i in range(1, 15)} | {f"figure_B_{i}" for i in range(1, 5)}
    assert wanted <= set(drawn) and len(drawn) == len(set(drawn)) >= 28  # one file each
    assert set(json.loads((built / "results" / "dvc" / "metrics" / "quick.json").read_text())) == set(ROWS)
    for kind, header, count in (("curves", "row,epoch,top1", 1), ("distances", "row,block,distance", 16)):
        first, *lines = (built / "results" / "dvc" / kind / "quick.csv").read_text().splitlines()
        assert first == header and [line.split(",")[0] for line in lines] == sorted(ROWS * count)
    assert sorted(path.stem for path in (results / "cards").iterdir()) == sorted(ROWS)


def test_the_site_shows_what_was_built(built):
    command = [sys.executable, "-m", "ctxnet", "site", "--protocol", "quick", "--no-pdf"]
    done = subprocess.run(command, cwd=built, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.stdout.strip() == "site/index.html", done.stderr  # no chapter is executed again
    pages = {path.stem for path in (built / "site").glob("*.html")}
    assert pages >= {path.stem for path in (built / "notebooks").glob("*.ipynb")}
    assert {path.stem for path in (built / "site" / "cards").iterdir()} == set(ROWS)
    assert "Table 4.1" in (built / "site" / "04_experiments.html").read_text()


def test_a_second_time_does_nothing(built):
    before = (built / "dvc.lock").read_bytes()
    assert "Running stage" not in dvc(built, "repro", "report@quick")
    assert (built / "dvc.lock").read_bytes() == before


def test_metrics_and_plots_tell_what_is_there_and_miss_nothing_else(built):
    for words in (("metrics", "show"), ("plots", "show", "-o", "dvc_plots")):
        done = subprocess.run(["dvc", *words], cwd=built, env=ENVIRONMENT, capture_output=True, text=True)
        assert done.returncode == 0 and done.stderr == "", done.stderr
        assert words[0] == "plots" or "results/dvc/metrics/quick.json" in done.stdout
    page = (built / "dvc_plots" / "index.html").read_text()
    assert all(f"results/dvc/{kind}/quick.csv" in page for kind in ("curves", "distances"))


def test_the_lock_does_not_depend_on_how_a_machine_rounds(built):
    """`quick` is made on every machine: its part of the lock holds nothing of what it computed."""
    lock = yaml.safe_load((built / "dvc.lock").read_text())["stages"]
    outs = [out for name, stage in lock.items() if "@quick" in name for out in stage["outs"]]
    assert {out["path"] for out in outs if out.get("nfiles") != 0} == {"data/quick.json"}
    assert len(outs) == 5  # the images' description, runs, tables, figures, cards


@pytest.mark.parametrize(
    ("change", "stale"),
    [
        (lambda p: p["measure"].update(seed=1), {f"measure@{row}" for row in ROWS}),
        (lambda p: p["probe"].update(valid_seed=3), {"data@quick"}),
        (lambda p: p["protocols"]["small"].update(epochs=2), set()),
        (lambda p: p["imagenette"].update(source="elsewhere"), set()),
        (
            lambda p: p["protocols"]["quick"].update(epochs=2),
            {"train_at_once@quick", "report@quick"},
        ),
    ],
)
def test_a_setting_makes_stale_what_depends_on_it(built, change, stale):
    kept = (built / "params.yaml").read_text()
    try:
        edit_params(built, change)
        assert stale_stages(built) == stale
    finally:
        (built / "params.yaml").write_text(kept)


@pytest.fixture(scope="module")
def committed(built):
    """What was built, with the results of `quick` in git as those of the other protocols are."""
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org"]
    ignored = (built / ".gitignore").read_text()
    for line in ("/results/quick/", "/results/dvc/*/quick.*", "/data/quick.json"):
        assert line in ignored
        ignored = ignored.replace(line, "")
    (built / ".gitignore").write_text(ignored)
    subprocess.run([*git, "add", "-A"], cwd=built, check=True)
    subprocess.run([*git, "commit", "-qm", "results"], cwd=built, check=True)
    return built


def test_a_clone_with_committed_results_is_up_to_date(committed, tmp_path):
    listed = subprocess.check_output(["git", "ls-files", "results"], cwd=committed, text=True)
    assert "record.json" in listed and "safetensors" not in listed
    subprocess.run(["git", "clone", "-q", str(committed), str(tmp_path / "clone")], check=True)
    assert stale_stages(tmp_path / "clone") == set()


def test_a_change_of_what_a_protocol_takes_over_makes_it_stale(built):
    """dvc reads YAML's merge keys as this package does, and remembers values, not lines."""
    kept = (built / "params.yaml").read_text()
    try:
        params = yaml.safe_load(kept)
        parent, child = params["protocols"]["quick"], params["protocols"]["quick"] | {"note": "Mine."}
        params["protocols"] = {"base": parent, "quick": "CHILD"}
        params |= {"own_rows": {"quick": list(ROWS)}, "more_seeds": {"quick": {}}}
        params.pop("campaign")
        text = yaml.safe_dump(params, sort_keys=False, default_flow_style=False)
        text = text.replace("  base:\n", "  base: &base\n").replace("  quick: CHILD", "  quick: {<<: *base}")
        assert child["note"] not in text
        (built / "params.yaml").write_text(text)
        command = ["dvc", "status", "--json", "report@quick", "train_at_once@quick"]
        told = subprocess.run(command, cwd=built, env=ENVIRONMENT, capture_output=True, text=True)
        assert json.loads(told.stdout) == {}, told.stdout + told.stderr
        (built / "params.yaml").write_text(re.sub(r"(&base\n(?:    .*\n)*?    epochs:) 1", r"\1 2", text))
        assert load_protocol("quick", built / "params.yaml").epochs == 2
        told = subprocess.run(command, cwd=built, env=ENVIRONMENT, capture_output=True, text=True)
        assert set(json.loads(told.stdout)) == {"report@quick", "train_at_once@quick"}
    finally:
        (built / "params.yaml").write_text(kept)


def test_protocols_for_a_gpu_are_apart_and_every_stage_is_known_to_the_settings():
    params = load_params(ROOT / "params.yaml")
    here, gpu = (yaml.safe_load((ROOT / name).read_text()) for name in ("dvc.yaml", "gpu/dvc.yaml"))
    lists = [{k: v for part in text["vars"] for k, v in part.items()} for text in (here, gpu)]
    ours = [*lists[0]["at_once"], *lists[0]["on_rows"], *lists[0]["on_own_rows"]]
    assert set(ours) == set(lists[0]["data"]) >= set(params["protocol_names"]) and len(set(ours)) == len(ours)
    assert all(params["protocols"][name]["device"] == "cpu" for name in ours)
    assert {name for name, each in params["protocols"].items() if each["device"] == "cuda"} == set(lists[1]["trained"])
    assert all((name in params.get("own_rows", {})) == (name not in lists[0]["on_rows"]) for name in ours)
    assert all(params["protocols"][name]["dataset"] == group for name, group in lists[0]["data"].items())


def test_the_committed_lock_knows_the_present_code_and_records():
    """Else a clone trains again, or asks for photographs that it has not got."""
    told = json.loads(dvc(ROOT, "status", "--json", "dvc.yaml"))
    stale = [name for name, reasons in told.items() if "@quick" not in name or any("command" in str(r) for r in reasons)]
    for name, reasons in told.items():  # results of quick need not be there
        changed = {path for r in reasons if isinstance(r, dict) for path in r.get("changed deps", {})}
        stale += [name] if any(not path.startswith(("results/quick", "data/quick")) for path in changed) else []
    assert not stale, f"{stale[:3]} …: after a change that computes the same, run `make lock` and commit dvc.lock"


@pytest.mark.torture
def test_an_experiment_with_another_setting(committed, tmp_path):
    """`dvc exp run -S` trains, reports and complains of nothing."""
    root = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(committed), str(root)], check=True)
    command = ["dvc", "exp", "run", "-S", "protocols.quick.learning_rate=0.01", "report@quick"]
    done = subprocess.run(command, cwd=root, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0 and not re.search("warning|failed|error", done.stderr, re.I), done.stdout + done.stderr
    assert load_protocol("quick", root / "params.yaml").learning_rate == 0.01
    record = json.loads((root / "results/quick/runs/resnet50/seed0/record.json").read_text())
    assert record["config"]["learning_rate"] == 0.01


def test_the_run_notebooks_stand_alone(built):
    """nbval starts them in their own folder with their own defaults, as a reader in JupyterLab does."""
    command = [sys.executable, "-m", "pytest", "-q", "--nbval-lax", "--nbval-current-env", "notebooks/runs"]
    done = subprocess.run(command, cwd=built, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("protocol", "change", "message"),
    [
        ("quik", lambda p: None, "protocol 'quik'; did you mean 'quick'"),
        ("quick", lambda p: p["protocols"]["quick"].update(epoch=1), "'epoch'; did you mean 'epochs'"),
        ("quick", lambda p: p["protocols"]["quick"].update(epochs="1"), "epochs='1' must be of type int"),
        ("quick", lambda p: p["rows"].append("resnet50_prm1"), "'resnet50_prm1'; did you mean 'resnet50_perm1'"),
        ("quick", lambda p: p["protocol_names"].append("quik"), "protocol 'quik'; did you mean 'quick'"),
    ],
)
def test_typos_are_refused_with_the_near_name(tmp_path, protocol, change, message):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    edit_params(tmp_path, toy)
    edit_params(tmp_path, change)
    with pytest.raises(ValueError, match=message):
        stages.data(protocol, root=tmp_path)


SCALE_ONLY = {"ray", "grpcio", "msgpack", "protobuf"}  # what the extra `scale` adds; the paper does without


def test_conda_gets_the_versions_of_the_lock():
    lock = tomllib.loads((ROOT / "uv.lock").read_text())
    locked = {(p["name"], p["version"]) for p in lock["package"] if p["name"] not in {"ctxnet", *SCALE_ONLY}}
    wanted = re.split(r"\n(?=\S)", (ROOT / "requirements.txt").read_text())
    assert {tuple(line.split()[0].split("==")) for line in wanted} == locked, "run `make requirements.txt`"
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert dependencies[-1] == {"pip": ["-r requirements.txt"]}


def test_everything_is_installed_by_hash():
    lock = tomllib.loads((ROOT / "uv.lock").read_text())
    for package in (p for p in lock["package"] if p["name"] != "ctxnet"):
        files = [*package.get("wheels", []), *([package["sdist"]] if "sdist" in package else [])]
        assert files and all(re.fullmatch("sha256:[0-9a-f]{64}", file["hash"]) for file in files), package["name"]
    wanted = re.split(r"\n(?=\S)", (ROOT / "requirements.txt").read_text())
    assert all("--hash=sha256:" in line for line in wanted)
    assert "sync --frozen" in (ROOT / "Makefile").read_text()
