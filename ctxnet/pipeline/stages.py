"""The stages of dvc.yaml that are no single notebook.

    python -m ctxnet.pipeline.stages data quick      # prepare the images, describe them in data/quick.json
    python -m ctxnet.pipeline.stages report quick    # run the chapters on the records, write the report

:func:`site` is for the command line: what it writes is no result, so no stage stands for it.
"""

import math
import shutil
import sys
from pathlib import Path

from ctxnet.files import write_csv, write_json, write_sealed
from ctxnet.naming import require_known
from ctxnet.pipeline.notebook import command, read_executed, run_notebook


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


def report(protocol, root="."):
    """Run every chapter notebook on a protocol's records, and write figures, tables, model cards, metrics and curves.

    The executed chapters are kept in ``results/<protocol>/notebook/``; :func:`site` makes pages of them.
    """
    from ctxnet.paper import coherence
    from ctxnet.paper.cards import write_cards
    from ctxnet.paper.claims import write_claims
    from ctxnet.paper.words import write_tables
    from ctxnet.training import load_protocol

    root = Path(root)
    load_protocol(protocol, root / "params.yaml")
    for made in ("tables", "figures", "cards"):  # what is no longer made must not stay
        shutil.rmtree(root / "results" / protocol / made, ignore_errors=True)
    for chapter in sorted((root / "notebooks").glob("*.ipynb")):
        _execute(chapter, protocol, root, save=True)
    _summarise(protocol, root)
    write_tables(protocol, root)
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
    for chapter in sorted((root / "notebooks").glob("*.ipynb")):
        output = root / "results" / protocol / "notebook" / chapter.name
        if not _is_executed(output) or output.stat().st_mtime < max(newest, chapter.stat().st_mtime):
            _execute(chapter, protocol, root, save=False)
    return build_site(protocol, root / out, root, pdf=pdf)


def _is_executed(path):
    try:
        return bool(read_executed(path))
    except (FileNotFoundError, ValueError):
        return False


def _execute(chapter, protocol, root, *, save):
    print(f"{chapter.stem} …", flush=True)
    output = Path("results") / protocol / "notebook" / chapter.name
    run_notebook(chapter.relative_to(root), {"protocol": protocol, "save": save}, output, root)


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
    stages = {"data": data, "report": report}

    def work(words):
        if len(words) != 2:
            raise ValueError("usage: python -m ctxnet.pipeline.stages data|report PROTOCOL")
        stages[require_known("stage", words[0], stages)](words[1])

    return command(work, arguments)


if __name__ == "__main__":
    sys.exit(main())
