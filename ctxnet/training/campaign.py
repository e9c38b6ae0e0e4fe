"""A campaign: the next unfinished runs of a protocol, in order of importance, inside a box of time.

Seed 0 of every row comes first, then the other seeds; within a seed, rows go by ``campaign.order`` of params.yaml.
Needs no papermill, DVC or network, so that it can be carried to a machine with a GPU for a few minutes.
"""

import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from ..locking import Busy
from ..naming import require_known
from ..records import changes, read_provenance, read_record, records_of, run_folder
from ..tensors import load_tensors
from .clock import deadline
from .progress import Progress
from .protocol import identity, load_params, rows_of, seeds_of
from .run import require_device, run
from .seeds import parse_seeds
from .task import TASKS


@dataclass(frozen=True)
class Job:
    """One run: what, how far it is, and how long the rest should take.

    Attributes:
        variant, seed: which run.
        epochs: epochs done.
        of: epochs of the protocol.
        minutes: estimate for the rest; 0.0 when finished, None when nothing is known.
        basis: what the estimate stands on: "measured" (this row under this protocol), "scaled" (another row of it,
            scaled by the rows' cost elsewhere), "assumed" (params.yaml), "" (nothing).
    """

    variant: str
    seed: int
    epochs: int
    of: int
    minutes: float | None
    basis: str


def plan(protocol, *, root=".", rows=None, seeds=None):
    """All runs of a protocol in order of importance, finished ones included.

    Args:
        protocol: from ``load_protocol``.
        rows: only these; None: all of the protocol.
        seeds: only these; None: those of the protocol and of ``more_seeds``.

    Returns:
        List of :class:`Job`.

    Raises:
        ValueError: for a row that params.yaml does not give this protocol, with the near names.
    """
    root = Path(root)
    params = load_params(root / "params.yaml")
    known = rows_of(protocol, params)
    for row in rows or ():
        require_known("row", row, known)
    order = [row for row in params["campaign"]["order"] if row in known]
    order += [row for row in known if row not in order]
    chosen = [row for row in order if rows is None or row in rows]
    wanted = {row: seeds_of(protocol, row, params) if seeds is None else seeds for row in chosen}
    every = sorted({seed for some in wanted.values() for seed in some}, key=_first_seed_first)
    jobs = [(row, seed) for seed in every for row in chosen if seed in wanted[row]]
    cost = _costs(protocol, params, root)
    return [_job(protocol, row, seed, root, cost) for row, seed in jobs]


def campaign(protocol, *, root=".", rows=None, seeds=None, max_minutes=None, progress=True):
    """Run what :func:`plan` lists until it is done or the time is up.

    A run that fails (a loss that is no number, say) is reported and the next one begun; it is tried again by the
    next campaign. A run that another process works on is left to it, so campaigns can share out a plan between them.

    Returns:
        (finished, failed): number of runs finished here, and {(variant, seed): message}.

    Raises:
        RuntimeError: if the device is missing.
    """
    require_device(protocol)
    until, failed = deadline(max_minutes), {}
    jobs = plan(protocol, root=root, rows=rows, seeds=seeds)
    with _threads(protocol.threads), Progress(protocol, [job for job in jobs if job.minutes != 0], root=root) as shown:
        for job in unfinished(jobs, protocol, root=root, until=until, skip=shown.end):
            shown.begin(job)
            try:
                result = run(
                    protocol, job.variant, job.seed, root=root, max_minutes=minutes_left(until), progress=progress,
                    watch=shown.watch(job),
                )  # fmt: skip
            except Busy:
                shown.end(job)
                continue
            except (ValueError, RuntimeError, FloatingPointError) as error:
                failed[job.variant, job.seed] = str(error)
                shown.end(job, failed=True, text=f"{job.variant} seed {job.seed}: failed: {error}")
                continue
            if result.status == "paused":
                break
            shown.end(job, finished=True, text=outcome(result.record))
    return shown.finished, failed


def unfinished(jobs, protocol, *, root, until, skip):
    """Of ``jobs``, one after the other, those that are not finished when it is their turn, while the time lasts.

    Args:
        until: from :func:`ctxnet.training.clock.deadline`.
        skip: called with a job that was to be done when the plan was made and has been finished by another process since.
    """
    for job in jobs:
        if is_finished(protocol, job, root):
            if job.minutes != 0:
                skip(job)
            continue
        left = minutes_left(until)
        if left is not None and left < _epoch_minutes(job):
            print(f"{left:.1f} minutes left: not enough for an epoch of {job.variant}; the same command goes on from here")
            return
        yield job


def is_finished(protocol, job, root="."):
    """Whether a job's run has a record, made under these settings and by code that computes the same."""
    return _finished(protocol, job.variant, job.seed, root, code=True)


def minutes_left(until):
    """Until a :func:`ctxnet.training.clock.deadline`; None for None."""
    return None if until is None else (until - time.perf_counter()) / 60


def outcome(record):
    """A finished run in one line."""
    task = TASKS[record["config"].get("task", "classification")]
    return f"{record['variant']} seed {record['seed']}: {task.title} {record[task.score]:.2%}"


@contextmanager
def _threads(count):
    """As many threads of torch as a run of this protocol has beside others too; 0: as many as there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _first_seed_first(seed):
    number = parse_seeds(seed).seed
    return number != 0, number, str(seed)


def _epoch_minutes(job):
    """What one more epoch needs, or nearly nothing when nobody knows."""
    return 0.05 if job.minutes is None else job.minutes / max(job.of - job.epochs, 1)


def _job(protocol, row, seed, root, cost):
    if _finished(protocol, row, seed, root):
        return Job(row, seed, protocol.epochs, protocol.epochs, 0.0, "measured")
    done, (seconds, basis) = _epochs(protocol, row, seed, root), cost(row)
    minutes = None if seconds is None else seconds * (protocol.epochs - done) / protocol.epochs / 60
    return Job(row, seed, done, protocol.epochs, minutes, basis)


def _finished(protocol, row, seed, root, *, code=False):
    """Whether a run has a record under these settings; with ``code`` also: made by code that computes the same."""
    record = read_record(run_folder(protocol.name, row, seed, root))
    if record is None or not _same(record, protocol, row, seed):
        return False
    if not code:
        return True
    from .trace import run_trace

    return not changes(_key(record), {"settings": record["config"], "trace": run_trace(protocol, row)})


def _epochs(protocol, row, seed, root):
    """Epochs that an unfinished run can go on from."""
    done = 0
    for path in run_folder(protocol.name, row, seed, root).glob("*.safetensors"):
        with suppress(FileNotFoundError):  # another process has finished the run meanwhile
            state = load_tensors(path)[1]
            done = max(done, len(state["history"]) if _same(state, protocol, row, seed) else 0)
    return done


def _key(state):
    return {"settings": state["config"], "trace": state.get("trace")}


def _same(state, protocol, row, seed):
    """Whether something was made under these settings, on whatever data it names."""
    return state["config"] == identity(protocol, row, seed, state["config"].get("data"))


def _costs(protocol, params, root):
    """row → (seconds of a whole run or None, basis)."""
    here, elsewhere = _measured(root, protocol.name), {}
    for name in params["protocols"]:
        elsewhere = elsewhere or ({} if name == protocol.name else _measured(root, name))
    assumed = params["campaign"]["assumed_minutes"].get(protocol.name)

    def cost(row):
        if row in here:
            return here[row], "measured"
        anchors = [other for other in here if other in elsewhere]
        if anchors and row in elsewhere:
            return here[anchors[0]] * elsewhere[row] / elsewhere[anchors[0]], "scaled"
        if assumed is not None:
            ratio = elsewhere[row] / elsewhere["resnet50"] if {row, "resnet50"} <= elsewhere.keys() else 1
            return 60 * assumed * ratio, "assumed"
        return None, ""

    return cost


def _measured(root, protocol):
    """{row: seconds of its fastest finished run, the one least disturbed} from the provenance of a protocol's records."""
    seconds = {}
    for folder, _ in records_of(protocol, root):
        row, spent = folder.parent.name, read_provenance(folder).get("wall_seconds")
        if spent is not None:
            seconds[row] = min(spent, seconds.get(row, spent))
    return seconds
