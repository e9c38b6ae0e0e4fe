"""Campaigns on Ray: the records of one process bit for bit, whatever is killed; nothing twice, nothing left running."""

import dataclasses
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from ctxnet.locking import one_writer
from ctxnet.records import read_provenance, read_record
from ctxnet.training import campaign, load_params, load_protocol, run, status
from tests.toys import PLAIN

ray = pytest.importorskip("ray", reason="the extra `scale` is not installed")
pytest.importorskip("grpc", reason="the extra `scale` is not installed")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")

ROOT = Path(__file__).parents[1]
ROWS, EPOCHS = ["plain20", "resnet20"], 5
RECORD = ("context.npz", "history.csv", "predictions.bin", "record.json")


def make_project(folder, **changes):
    """Two rows and two seeds at toy size."""
    params = load_params(ROOT / "params.yaml")
    params["probe"] |= {"train_images": 320, "valid_images": 40, "distance": 12}
    params["own_rows"], params["more_seeds"] = {"quick": ROWS}, {}
    params["protocols"]["quick"] = PLAIN | {
        "image_size": 32, "width": 4, "epochs": EPOCHS, "decay_epochs": [3], "profile_images": 1, "seeds": [0, 1], **changes,
    }  # fmt: skip
    folder.mkdir(exist_ok=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    return load_protocol("quick", folder / "params.yaml")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The files of a campaign that nobody disturbed, one run after the other in this process."""
    root = tmp_path_factory.mktemp("whole")
    assert campaign(make_project(root, threads=1), root=root, progress=False) == (4, {})
    return records(root)


def records(root):
    """Every record's files by their path, and the list of images."""
    paths = [path for path in (root / "results").rglob("*") if path.name in RECORD or path.parent.name == "images"]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def words(root, *more):
    return [sys.executable, "-m", "ctxnet", "campaign", "--protocol", "quick", "--root", str(root), "--params",
            str(root / "params.yaml"), *more]  # fmt: skip


def environment(**more):
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **more}


def started(root, *more):
    """A campaign in a session of its own, with the name of its processes."""
    mark = f"CTXNET_TEST_MARK={root.name}-{random.SystemRandom().randrange(10**9)}"
    env = environment(**dict([mark.split("=")]))
    with open(root / "stderr.txt", "wb") as errors:
        process = subprocess.Popen(words(root, *more), cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=errors,
                                   start_new_session=True)  # fmt: skip
    return process, mark.encode()


def marked(mark):
    """Processes that were started with a mark in their environment, zombies not counted: {pid: command}."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            alive = (place / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
            if alive and mark in (place / "environ").read_bytes().split(b"\0"):
                found[int(place.name)] = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:80]
        except OSError:
            continue
    return found


def wait_for(true, seconds=120):
    until = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.05)
    return found


def runs_on_their_way(protocol, root):
    return [run for found in status(protocol, root=root) for run in found["running"] if 0 < run[2] < EPOCHS]


@pytest.mark.torture  # those that kill workers compare the same records
def test_two_at_once_make_the_records_of_one_after_the_other(tmp_path, whole):
    make_project(tmp_path)
    before = set(Path("/tmp").glob("ctxnet-ray-*"))
    process, mark = started(tmp_path, "--at-once", "2", "--quiet")
    assert process.wait(300) == 0, (tmp_path / "stderr.txt").read_text()
    assert records(tmp_path) == whole
    folders = [path.parent for path in (tmp_path / "results").rglob("record.json")]
    assert all(read_provenance(folder)["threads"] == 1 for folder in folders)
    assert all((folder / "weights.safetensors").exists() for folder in folders)
    check_in(tmp_path)
    wait_for(lambda: not marked(mark), 20)
    assert set(Path("/tmp").glob("ctxnet-ray-*")) <= before and not list(tmp_path.rglob(".campaigns"))


STAGES = """
stages:
  train:
    matrix: {row: [plain20, resnet20]}
    cmd: exec python -W ignore -m ctxnet campaign --protocol quick --quiet --rows ${item.row}
    params: [protocols.quick]
    outs:
      - results/quick/runs/${item.row}: {cache: false, persist: true}
"""


def check_in(root):
    """DVC takes what came back, one row a stage, and nothing is trained again."""

    def dvc(*words):
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        env = environment(DVC_NO_ANALYTICS="1", PATH=path)
        return subprocess.run([sys.executable, "-m", "dvc", *words], cwd=root, env=env, capture_output=True, text=True)

    def times():
        return {path: path.stat().st_mtime_ns for path in (root / "results").rglob("*.*") if path.name != ".lock"}

    (root / "dvc.yaml").write_text(STAGES)
    before = times()
    assert dvc("init", "-q", "--no-scm").returncode == 0
    done = dvc("repro")
    assert done.returncode == 0, done.stdout + done.stderr
    assert times() == before and len(yaml.safe_load((root / "dvc.lock").read_text())["stages"]) == 2


@pytest.mark.torture
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_running_and_the_next_goes_on(tmp_path, whole, kind):
    protocol, before = make_project(tmp_path), set(Path("/tmp").glob("ctxnet-ray-*"))
    process, mark = started(tmp_path, "--at-once", "2", "--quiet")
    wait_for(lambda: runs_on_their_way(protocol, tmp_path))
    runs = [pid for pid, command in marked(mark).items() if command.startswith("ray::") and "20 seed" in command]
    assert runs
    try:
        for pid in runs:  # asking takes longer than such a run
            os.kill(pid, signal.SIGSTOP)
        told = subprocess.run(words(tmp_path, "--status"), cwd=ROOT, env=environment(), capture_output=True, text=True)
    finally:
        for pid in runs:
            os.kill(pid, signal.SIGCONT)
    assert re.search(r"a campaign since .* of 4 runs finished", told.stdout), told
    assert re.search(r"(plain|resnet)20 +[01] +\d/5", told.stdout)
    process.send_signal(kind)
    assert process.wait(60) == (1 if kind == signal.SIGINT else -signal.SIGKILL)
    line = "ctxnet: interrupted; the same command goes on from its last checkpoint\n"
    assert (tmp_path / "stderr.txt").read_text() == (line if kind == signal.SIGINT else "")
    try:
        wait_for(lambda: not marked(mark), 30)
        wait_for(lambda: set(Path("/tmp").glob("ctxnet-ray-*")) <= before, 10)
    finally:
        for pid in marked(mark):
            os.kill(pid, signal.SIGKILL)
    told = subprocess.run(words(tmp_path, "--status"), cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert told.stdout.startswith("0 campaigns on their way")
    finished = len(list(tmp_path.rglob("record.json")))
    assert campaign(protocol, root=tmp_path, progress=False) == (4 - finished, {})
    assert records(tmp_path) == whole


@pytest.mark.torture
def test_from_outside_of_a_cluster(tmp_path, whole):
    """Ray's client, as from a laptop: nothing is shared, and Ray asks for the token that it made.

    Before the cluster below is up: beside another one on the same machine the client's server did not start.
    """
    make_project(tmp_path)
    with socket.socket() as free, socket.socket() as other:
        free.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        port, outside = free.getsockname()[1], other.getsockname()[1]
    scratch = f"/tmp/ctxnet-outside-{os.getpid()}"  # the path of a socket has at most 107 bytes
    command = [f"{Path(sys.executable).parent}/ray", "start", "--head", "--block", "--num-cpus", "2", "--port", str(port),
               "--ray-client-server-port", str(outside), "--include-dashboard", "false", "--temp-dir", scratch,
               "--min-worker-port", "0", "--max-worker-port", "0"]  # fmt: skip
    env = environment(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="a" * 64, RAY_USAGE_STATS_ENABLED="0")
    head = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_for(lambda: socket.socket().connect_ex(("127.0.0.1", outside)) == 0, 60)
        address = words(tmp_path, "--address", f"ray://127.0.0.1:{outside}", "--quiet")
        no_token = environment(RAY_AUTH_MODE="disabled")
        shut_out = subprocess.run(address, cwd=ROOT, env=no_token, capture_output=True, text=True)
        assert shut_out.returncode == 1 and "RAY_AUTH_TOKEN" in shut_out.stderr and shut_out.stderr.count("\n") == 1
        done = subprocess.run(address, cwd=ROOT, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert records(tmp_path) == whole
    finally:
        head.terminate()
        head.wait(60)
        shutil.rmtree(scratch, ignore_errors=True)


# ---- a cluster of two machines, on this one ----------------------------------------------------------------------------


class Machines:
    """A head that runs nothing, and machines with one CPU each."""

    def __init__(self):
        from ray.cluster_utils import Cluster

        from ctxnet.scale.cluster import QUIET

        os.environ.update(QUIET | {"OMP_NUM_THREADS": "1"})
        quick = {"health_check_initial_delay_ms": 500, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
        head = {"num_cpus": 0, "include_dashboard": False, "_system_config": quick}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.nodes = []
        for _ in range(2):
            self.add()

    @property
    def address(self):
        return self.cluster.address

    def add(self, wait=True, **more):
        self.nodes.append(self.cluster.add_node(wait=wait, num_cpus=1, **more))
        return self.nodes[-1]

    def remove(self, node):
        self.nodes.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)

    def workers(self, name="20 seed"):
        """Processes of runs: ray calls them by the task's name."""
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            try:
                line = (place / "cmdline").read_bytes()
                if line.startswith(b"ray::") and name.encode() in line:
                    found.append(int(place.name))
            except OSError:
                continue
        return found


@pytest.fixture(scope="module")
def machines():
    made = Machines()
    yield made
    made.cluster.shutdown()


def on_ray(*args, **words):
    from ctxnet.scale.campaign import campaign_on_ray

    return campaign_on_ray(*args, progress=False, **words)


ON_RAY = """
import sys
from pathlib import Path
from ctxnet.scale.campaign import campaign_on_ray
from ctxnet.training import load_protocol
root, address, shared = sys.argv[1:]
protocol = load_protocol("quick", Path(root) / "params.yaml")
done = campaign_on_ray(protocol, root=root, address=address, shared={"True": True, "False": False}[shared], progress=False)
assert done == (4, {}), done
"""


def kill_at_random(machines, protocol, root, process, todo, chance):
    """Kill workers and machines at random moments while a campaign lasts, each while a run has a checkpoint to go on from.

    Takes what it has done off the end of the list ``todo`` and returns it.
    """
    kills = []
    while todo and process.poll() is None:
        time.sleep(chance.uniform(0.0, 0.3))
        found = machines.workers()
        if not runs_on_their_way(protocol, root) or not found:
            continue
        if todo[-1] == "worker":
            try:
                os.kill(chance.choice(found), signal.SIGKILL)
            except ProcessLookupError:
                continue
        else:
            machines.remove(chance.choice(machines.nodes))
            machines.add(wait=False)
        kills.append(todo.pop())
    return kills


def disturbed(machines, root, workers, nodes, shared, seed):
    """Campaigns with so many kills; new ones begin until all have happened. Yields the root of each."""
    chance, todo = random.Random(seed), ["worker"] * workers + ["node"] * nodes
    chance.shuffle(todo)
    for number in range(workers + nodes):
        place = root / str(number)
        protocol = make_project(place)
        command = [sys.executable, "-W", "ignore", "-c", ON_RAY, str(place), machines.address, str(shared)]
        process = subprocess.Popen(command, cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True)
        kills = kill_at_random(machines, protocol, place, process, todo, chance)
        _, errors = process.communicate(timeout=500)
        assert process.returncode == 0, errors
        yield place, kills
        if not todo:
            return


def check_kills(machines, root, whole, workers, nodes, shared, seed=0):
    kills, resumed, campaigns = [], 0, 0
    for place, some in disturbed(machines, root, workers, nodes, shared, seed):
        assert records(place) == whole
        folders = [path.parent for path in place.rglob("record.json")]
        resumed += sum(len(read_provenance(folder)["load"]) > 2 for folder in folders)
        kills, campaigns = kills + some, campaigns + 1
    lost = f"{kills.count('worker')} workers and {kills.count('node')} machines killed in {campaigns} campaigns of 4 runs"
    print(f"shared={shared}: {lost}; {resumed} runs went on from a checkpoint; every record equals the undisturbed one")
    assert (kills.count("worker"), kills.count("node")) == (workers, nodes) and resumed


@pytest.mark.torture
def test_a_lost_worker_and_a_lost_machine_change_nothing(tmp_path, whole, machines):
    """The checkpoint travels through Ray: no folder is shared."""
    check_kills(machines, tmp_path, whole, 1, 1, shared=False)


@pytest.mark.torture
@pytest.mark.parametrize("shared", [True, False])
def test_ten_lost_workers_and_three_lost_machines_change_nothing(tmp_path, whole, machines, shared):
    check_kills(machines, tmp_path, whole, 10, 3, shared=shared, seed=7)


@pytest.mark.torture
def test_campaigns_share_out_a_plan(tmp_path, whole, machines):
    """One on the cluster, one in this process, and a run that somebody else works on all the while."""
    protocol = make_project(tmp_path)
    other, _ = started(tmp_path, "--address", machines.address, "--at-once", "1", "--quiet")
    wait_for(lambda: status(protocol, root=tmp_path) and status(protocol, root=tmp_path)[0]["running"])
    with one_writer(tmp_path / "results/quick/runs/resnet20/seed1"):
        here, failed = campaign(protocol, root=tmp_path, progress=False)
        assert other.wait(200) == 0, (tmp_path / "stderr.txt").read_text()
    assert not failed and 1 <= here <= 2 and len(list(tmp_path.rglob("record.json"))) == 3
    assert campaign(protocol, root=tmp_path, progress=False) == (1, {})
    assert records(tmp_path) == whole


@pytest.mark.torture
def test_a_box_of_time_failures_and_records_of_other_settings(tmp_path, whole, machines, monkeypatch):
    protocol = make_project(tmp_path)
    failing = dataclasses.replace(protocol, learning_rate=1e30)
    chosen = {"address": machines.address, "root": tmp_path, "rows": ["plain20"], "shared": False}
    finished, failed = on_ray(failing, **chosen, seeds=[0])
    assert finished == 0 and "lower learning_rate" in failed["plain20", 0]
    # An earlier run under other settings, finished, is set aside; one of these settings is taken up where it stopped.
    other = dataclasses.replace(protocol, momentum=0.5)
    run(other, "plain20", 0, root=tmp_path, progress=False)
    with monkeypatch.context() as patched:
        # The time is over when Ray is ready: the run begins all the same, and pauses after an epoch.
        patched.setattr(sys.modules["ctxnet.training.campaign"], "_epoch_minutes", lambda job: -1e9)
        assert on_ray(protocol, **chosen, seeds=[0], max_minutes=1e-3) == (0, {})
    stopped = tmp_path / "results/quick/runs/plain20/seed0/checkpoint.safetensors"
    assert stopped.exists() and len(list((tmp_path / "results/quick/superseded").iterdir())) == 1
    assert on_ray(protocol, **chosen) == (2, {}) and not stopped.exists()
    assert len(read_provenance(stopped.parent)["load"]) > 2
    made = {name: data for name, data in records(tmp_path).items() if "superseded" not in name}
    assert made == {name: whole[name] for name in made} and len(made) == 9
    assert on_ray(protocol, **chosen) == (0, {})  # nothing twice


@pytest.mark.torture
def test_a_worker_with_other_versions_is_refused_by_name(tmp_path, machines):
    false = tmp_path / "packages" / "numpy-0.9.9.dist-info"
    false.mkdir(parents=True)
    (false / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 0.9.9\n")
    protocol = make_project(tmp_path / "project")
    node = machines.add(env_vars={"PYTHONPATH": f"{false.parent}{os.pathsep}{ROOT}"})
    try:
        with pytest.raises(RuntimeError, match=r"worker [\d.]+: numpy 0.9.9 instead of \d.*; install there what is here"):
            on_ray(protocol, address=machines.address, root=tmp_path / "project")
    finally:
        machines.remove(node)
    assert not (tmp_path / "project/results/quick/runs").exists()


# ---- what needs no Ray that runs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["closed", "silent", "auto", "nowhere", "no port"])
def test_an_address_that_answers_nothing_gives_one_line_in_time(monkeypatch, capsys, tmp_path, kind):
    from ctxnet.__main__ import main

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if kind == "silent":  # takes calls and says nothing
            listener.listen()
        known = {"auto": "auto", "nowhere": "auto", "no port": "ray://somewhere"}
        address = known.get(kind, f"127.0.0.1:{listener.getsockname()[1]}")
        monkeypatch.setenv("RAY_ADDRESS", "auto" if kind == "nowhere" else f"127.0.0.1:{listener.getsockname()[1]}")
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        begun = time.monotonic()
        with pytest.raises(SystemExit) as ended:
            main(["campaign", "--protocol", "quick", "--root", str(tmp_path), "--address", address])
    assert time.monotonic() - begun < 20
    text = {"nowhere": "no Ray runs on this machine", "no port": "nearest valid value: ray://somewhere:10001"}
    assert text.get(kind, f"nothing answers at {address}") in str(ended.value) and "\n" not in str(ended.value)


def test_without_the_extra_runs_go_one_after_the_other_and_say_so(tmp_path):
    make_project(tmp_path, epochs=1, decay_epochs=[])
    code = "import sys; sys.modules['ray'] = None; from ctxnet.__main__ import main; main(sys.argv[1:])"

    def call(*more):
        command = [sys.executable, "-W", "ignore", "-c", code, *words(tmp_path, *more)[3:]]
        return subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)

    done = call("--address", "auto")
    assert done.returncode == 1 and "pip install 'ctxnet[scale]'" in done.stderr and len(done.stderr.splitlines()) == 1
    done = call("--at-once", "2", "--quiet", "--rows", "plain20", "--seeds", "0")
    assert done.returncode == 0 and len(done.stderr.splitlines()) == 1, done.stderr
    assert "pip install 'ctxnet[scale]'; until then runs go one after the other" in done.stderr
    assert read_record(tmp_path / "results/quick/runs/plain20/seed0")["epochs"] == 1


def test_a_campaign_that_died_is_not_shown(tmp_path):
    protocol = make_project(tmp_path)
    left = tmp_path / "results/quick/.campaigns/0123.json"
    left.parent.mkdir(parents=True)
    left.write_text(json.dumps({"started": 0.0}))
    assert status(protocol, root=tmp_path) == [] and not left.exists()
