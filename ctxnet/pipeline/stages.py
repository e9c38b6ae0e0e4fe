"""The stages of dvc.yaml that are no single notebook.

    python -m ctxnet.pipeline.stages data quick      # prepare the images, describe them in data/quick.json
    python -m ctxnet.pipeline.stages train quick     # train every row, two at a time
    python -m ctxnet.pipeline.stages report quick    # run the chapters on the records, write the report

:func:`site` is for the command line: what it writes is no result, so no stage stands for it.
"""

import contextlib
import math
import multiprocessing
import multiprocessing.connection
import shutil
import signal
import sys
from collections import deque
from functools import partial
from pathlib import Path

from ctxnet.files import remove_partials, write_csv, write_json, write_sealed
from ctxnet.locking import one_writer
from ctxnet.naming import require_known
from ctxnet.pipeline.notebook import command, read_executed, run_notebook
from ctxnet.process import die_with_parent

AT_ONCE = 2  # rows of small networks that are trained side by side, and chapters: one of them cannot use more cores


def data(protocol, root="."):
    """Prepare a protocol's images and write ``data/<protocol>.json``, which stands for them in the pipeline.

    The arrays are large and every machine can make them; the file is small, so it is committed, and a clone
    without images still knows that its records are up to date.

    Raises:
        ValueError: on an unknown protocol or a wrong setting, also among ``rows`` and ``protocol_names``.
    """
    from ctxnet.data import prepare_dataset
    from ctxnet.training import load_params, load_protocol

    path = Path(root) / "params.yaml"
    settings, params = load_protocol(protocol, path), load_params(path)
    prepared = prepare_dataset(settings, params, root)
    summary = {
        "dataset": settings.dataset,
        "image_size": settings.image_size,
        "classes": list(prepared.classes),
        "train_images": len(prepared.train_ids),
        "valid_images": len(prepared.valid_ids),
        "manifest_hash": prepared.manifest_hash,
    }
    write_sealed(Path(root) / "data" / f"{protocol}.json", summary)


def train(protocol, root="."):
    """Train every row and seed of a protocol, :data:`AT_ONCE` rows side by side, each by its share of the cores.

    Finished runs are kept and stopped ones go on, as in a campaign. The processes end with this one, however it ends.

    Raises:
        ValueError: on an unknown protocol or a wrong setting.
        RuntimeError: runs failed, after all others have been made; or a process died, of too little memory, say.
    """
    from ctxnet.training import load_protocol, plan

    settings = load_protocol(protocol, Path(root) / "params.yaml")
    rows = dict.fromkeys(job.variant for job in plan(settings, root=root))
    failed = [name for names in _side_by_side(partial(_train_row, settings, root), rows) for name in names]
    if failed:
        raise RuntimeError(f"{len(failed)} runs failed: {', '.join(failed)}")


def _train_row(settings, root, row):
    """Train a row, in a process of its own; returns the names of runs that failed."""
    import torch

    from ctxnet.training import campaign

    torch.set_num_threads(max(1, multiprocessing.cpu_count() // AT_ONCE))
    return [f"{row} seed {seed}" for row, seed in campaign(settings, root=root, rows=[row], progress=False)[1]]


def _side_by_side(work, items):
    """[work(item), …] as they come, :data:`AT_ONCE` at a time, in processes that end with this one, however it ends.

    Raises:
        RuntimeError: a process died. Whatever ``work`` raises; what the others were doing is broken off.
    """
    context, waiting, workers, found = multiprocessing.get_context("spawn"), deque(items), {}, []
    try:
        for _ in range(min(AT_ONCE, len(waiting))):
            ours, theirs = context.Pipe()
            worker = context.Process(target=_serve, args=(work, theirs))
            worker.start()
            theirs.close()
            workers[ours] = worker
            ours.send(waiting.popleft())
        while workers:
            for connection in multiprocessing.connection.wait(list(workers)):
                try:
                    result, error = connection.recv()
                except EOFError:
                    workers[connection].join()
                    code = workers[connection].exitcode
                    raise RuntimeError(f"a process died (exit {code}); the same command goes on from here") from None
                if error:
                    raise error
                found.append(result)
                if waiting:
                    connection.send(waiting.popleft())
                else:
                    workers.pop(connection)
                    connection.close()  # so that it ends
    finally:
        for worker in workers.values():
            worker.terminate()
    return found


def _serve(work, connection):
    """Answer with (work(item), None) or (None, error) until nobody asks any more."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the parent's to answer
    with contextlib.suppress(EOFError):
        while True:
            item = connection.recv()
            try:
                answer = work(item), None
            except (ValueError, RuntimeError, OSError) as error:
                answer = None, error
            connection.send(answer)


def report(protocol, root="."):
    """Run every chapter notebook on a protocol's records, and write figures, tables, model cards, metrics and curves.

    The executed chapters are kept in ``results/<protocol>/notebook/``; :func:`site` makes pages of them.
    """
    from ctxnet.paper import coherence
    from ctxnet.paper.cards import write_cards
    from ctxnet.paper.claims import write_claims
    from ctxnet.paper.probe import write_probe
    from ctxnet.paper.words import write_tables
    from ctxnet.training import load_protocol

    root = Path(root)
    load_protocol(protocol, root / "params.yaml")
    for made in ("tables", "figures", "cards"):  # what is no longer made must not stay
        shutil.rmtree(root / "results" / protocol / made, ignore_errors=True)
    _execute(sorted((root / "notebooks").glob("*.ipynb")), protocol, root, save=True)
    _summarise(protocol, root)
    write_tables(protocol, root)
    write_probe(protocol, root)
    write_claims(protocol, root)
    if protocol == coherence.PROTOCOL:
        coherence.write_coherence(root)
    write_cards(protocol, root)


def site(protocol, out="site", root=".", *, pdf=False):
    """Build the pages of a protocol's results; returns the path of its first page.

    Chapters are executed if they have not been since the notebooks, the code or the records changed, or are damaged.

    Raises:
        ValueError, FileNotFoundError, RuntimeError: as :func:`ctxnet.paper.book.build_site`.
    """
    from ctxnet.paper.book import build_site
    from ctxnet.training import load_protocol

    root = Path(root)
    load_protocol(protocol, root / "params.yaml")
    sources = [path for kind in ("ctxnet/**/*.py", "results/*/**/record.json") for path in root.glob(kind)]
    newest = max((path.stat().st_mtime for path in sources), default=0)
    stale = []
    for chapter in sorted((root / "notebooks").glob("*.ipynb")):
        output = root / "results" / protocol / "notebook" / chapter.name
        if not _is_executed(output) or output.stat().st_mtime < max(newest, chapter.stat().st_mtime):
            stale.append(chapter)
    if stale:  # else nothing is written, and nobody who writes is in the way
        _execute(stale, protocol, root, save=False)
    return build_site(protocol, root / out, root, pdf=pdf)


def _is_executed(path):
    try:
        return bool(read_executed(path))
    except (FileNotFoundError, ValueError):
        return False


def _execute(chapters, protocol, root, *, save):
    """Run chapters, :data:`AT_ONCE` side by side: a kernel starts, and draws, on one core."""
    folder = Path("results") / protocol / "notebook"
    with one_writer(root / folder):
        remove_partials(root / folder)
        _side_by_side(partial(_execute_one, protocol, root, folder, save), chapters)


def _execute_one(protocol, root, folder, save, chapter):
    print(f"{chapter.stem} …", flush=True)
    parameters = {"protocol": protocol, "save": save}
    run_notebook(chapter.relative_to(root), parameters, folder / chapter.name, root, held=True)


def _summarise(protocol, root):
    """What ``dvc metrics show`` and ``dvc plots show`` read, in ``results/dvc/``: top-1 of each row, the same per epoch, and
    mean distance per block of the trained networks in percent of the side. Means over the seeds; a line for every value."""
    from ctxnet.paper.results import load_history, load_profile, load_records

    records = load_records(protocol, root)
    top1, curves, distances = {}, [], []
    for variant, runs in records.groupby("variant", sort=False):
        top1[variant] = runs["top1"].mean()
        histories = [load_history(protocol, variant, seed, root)["top1"] for seed in runs["seed"]]
        curves += _lines(variant, sum(histories) / len(histories), start=0)
        profiles = [load_profile(protocol, variant, seed, root) for seed in runs["seed"]]
        mean = sum(100 * profile.distance / profile.rf.shape[-1] for profile in profiles) / len(profiles)
        distances += _lines(variant, mean.numpy().round(3), start=1)
    shown = root / "results" / "dvc"
    write_json(shown / "metrics" / f"{protocol}.json", top1)
    write_csv(shown / "curves" / f"{protocol}.csv", ["row", "epoch", "top1"], curves)
    write_csv(shown / "distances" / f"{protocol}.csv", ["row", "block", "distance"], distances)


def _lines(variant, values, *, start):
    """[variant, number, value] of every value; an epoch without validation has none."""
    return [[variant, i, value] for i, value in enumerate(values.tolist(), start) if not math.isnan(value)]


def main(arguments=None):
    """Run the stage that the command line names; returns the exit status."""
    stages = {"data": data, "train": train, "report": report}

    def work(words):
        if len(words) != 2:
            raise ValueError("usage: python -m ctxnet.pipeline.stages data|train|report PROTOCOL")
        stages[require_known("stage", words[0], stages)](words[1])

    return command(work, arguments)


if __name__ == "__main__":
    sys.exit(main())
