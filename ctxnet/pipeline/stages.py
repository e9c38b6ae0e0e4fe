"""The stages of dvc.yaml that are no single notebook.

    python -m ctxnet.pipeline.stages data quick      # prepare the images, describe them in data/quick.json
    python -m ctxnet.pipeline.stages report quick    # run the chapters on the records, write the report
"""

import sys
from pathlib import Path

from ctxnet.files import write_csv, write_json
from ctxnet.naming import require_known
from ctxnet.pipeline.notebook import command, run_notebook


def data(protocol, root="."):
    """Prepare a protocol's images and write ``data/<protocol>.json``, which stands for them in the pipeline.

    The arrays are large and every machine can make them; the file is small, so it is committed, and a clone
    without images still knows that its records are up to date.

    Raises:
        ValueError: on an unknown protocol or a wrong setting, also among ``rows`` and ``protocol_names``.
    """
    from ctxnet.data import prepare_dataset
    from ctxnet.models import list_models
    from ctxnet.training import load_params, load_protocol

    path = Path(root) / "params.yaml"
    settings, params = load_protocol(protocol, path), load_params(path)
    for variant in params["rows"]:
        require_known("variant", variant, list_models())
    for name in params["protocol_names"]:
        require_known("protocol", name, params["protocols"])
    prepared = prepare_dataset(settings, params, root)
    summary = {
        "dataset": settings.dataset,
        "image_size": settings.image_size,
        "classes": list(prepared.classes),
        "train_images": len(prepared.train_ids),
        "valid_images": len(prepared.valid_ids),
        "manifest_hash": prepared.manifest_hash,
    }
    write_json(Path(root) / "data" / f"{protocol}.json", summary)


def report(protocol, root="."):
    """Run every chapter notebook on a protocol's records, then write metrics, history and the report page.

    The executed chapters are kept in ``results/<protocol>/notebook/``.
    """
    from ctxnet.report.html import build_report
    from ctxnet.training import load_protocol

    root = Path(root)
    load_protocol(protocol, root / "params.yaml")
    results = root / "results" / protocol
    for chapter in sorted((root / "notebooks").glob("*.ipynb")):
        print(f"{chapter.stem} …", flush=True)
        output = results.relative_to(root) / "notebook" / chapter.name
        run_notebook(chapter.relative_to(root), {"protocol": protocol, "save": True}, output, root)
    _summarise(protocol, root, results)
    build_report(protocol, root=root)


def _summarise(protocol, root, results):
    """``metrics.json``: top-1 of each variant; ``history.csv``: the same per epoch. Means over the seeds."""
    from ctxnet.report.records import load_history, load_records

    records = load_records(protocol, root)
    write_json(results / "metrics.json", records.groupby("variant")["top1"].mean().to_dict())
    histories = {
        variant: sum(load_history(protocol, variant, seed, root)["top1"] for seed in runs["seed"]) / len(runs)
        for variant, runs in records.groupby("variant")
    }
    epochs = range(max(map(len, histories.values()), default=0))
    write_csv(
        results / "history.csv",
        ["epoch", *histories],
        [[epoch, *(float(column[epoch]) for column in histories.values())] for epoch in epochs],
    )


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
