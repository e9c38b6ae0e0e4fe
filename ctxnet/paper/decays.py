"""What steps of the learning rate cost in few epochs: ResNet-50 under them, beside a linear decay.

The linear decay is that of protocol ``pays``, which has the settings of ``context`` and the most runs of ResNet-50 under
them. Nothing about steps was written down beforehand: exploratory.
"""

import math

import pandas as pd

from ctxnet.paper import results, words

ROW = "resnet50"
LINEAR = "pays"
PROTOCOLS = {
    LINEAR: "linear, to zero",
    "context_steps": "÷ 10 at 30, 60 and 90 % of the epochs, the thesis' steps",
    "context_late_steps": "÷ 5 at 60, 80 and 95 %",
}
FILE = "tables/decays.csv"
COLUMNS = ["protocol", "decay", "n", "planned", "top1", "low", "high", "interval_over", "train_loss"]
COLUMNS += ["difference", "difference_low", "difference_high"]


def decays(root="."):
    """A row for each of :data:`PROTOCOLS` as a DataFrame with :data:`COLUMNS`; percent, points, NaN without a run.

    ``low``/``high``: 95 % over seeds and images, or over images alone of a single seed, as ``interval_over`` says.
    ``train_loss``: of the last epoch, nats, mean over the seeds. ``difference``: to the linear decay, with its 95 % interval
    over seeds and images (:mod:`ctxnet.paper.statistics`) from three seeds of both on.
    """
    lines, answers = [], {}
    for protocol, decay in PROTOCOLS.items():
        seeds, runs = results.settings_of(protocol, root).seeds, results.replicates(protocol, root)
        runs = runs[(runs["variant"] == ROW) & runs["seed"].isin(seeds)]
        if len(runs):
            answers[protocol] = results.replicate_answers(protocol, [ROW], runs, root)[ROW]
        (line,) = results.means(protocol, [ROW], runs, root)
        line |= {"protocol": protocol, "decay": decay, "planned": len(seeds), "train_loss": runs["train_loss"].mean()}
        if protocol != LINEAR and {protocol, LINEAR} <= answers.keys():
            test = results.compare(protocol, LINEAR, answers)
            line |= {"difference": 100 * test.difference}
            line |= {f"difference_{end}": 100 * getattr(test, end) for end in ("low", "high")}
        lines.append({key: line.get(key, math.nan) for key in COLUMNS})
    return pd.DataFrame(lines, columns=COLUMNS)


def table(root="."):
    """:func:`decays` as a :class:`ctxnet.paper.words.Table`."""
    frame = decays(root)
    columns = {
        "learning rate falls": "{decay}", "n": "{n} of {planned}", "top-1 %": "{top1:.2f}",
        "95 % interval": lambda line: words.interval(line, ".2f"), "training loss": "{train_loss:.3f}",
        "difference, points": lambda line: words.or_dash(line["difference"], "+.2f"),
        "its 95 % interval": lambda line: words.between(line["difference_low"], line["difference_high"]),
    }  # fmt: skip
    settings = results.settings_of(LINEAR, root)
    caption = (
        f"ResNet-50 at {settings.image_size} px in {settings.epochs} epochs, by how the learning rate falls; all else is as "
        f"in `context`, but that steps are warmed up in whole epochs (seeds of the linear decay: those of `{LINEAR}`). "
        "Top-1, training loss of the last epoch, and the difference to the linear decay; intervals over seeds and images, "
        "not corrected. Exploratory."
        f"{words.one_seed(frame)}"
    )
    header, rows = words.filled(columns, frame.to_dict("records"))
    missing = [results.make_command(name) for name in frame.loc[frame["n"] < frame["planned"], "protocol"]]
    after = f"Runs are missing; make them with `{' && '.join(missing)}`." if missing else ""
    return words.Table(header, rows, range(1, len(header)), "6.4", caption, after, rests_on=tuple(PROTOCOLS), file=FILE)
