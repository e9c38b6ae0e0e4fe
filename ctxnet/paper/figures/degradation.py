"""Chapter 2's experiment: plain nets against ResNets of 20 and 56 layers (He et al., 2016, "Deep Residual Learning", §4.2).

The records are those of protocol ``degradation_full`` where there are any, else of ``degradation``; they are shown
unchanged.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from ctxnet.models.variants import VARIANTS
from ctxnet.paper import results, statistics, words
from ctxnet.paper.figures import figure
from ctxnet.paper.figures.style import BLUE, VERMILION, new_figure
from ctxnet.paper.results import TRAIN_TOP1, BadRecord, MissingRecord, load_history, load_records, make_command

PROTOCOLS = ("degradation_full", "degradation")
ROWS = ("plain20", "plain56", "resnet20", "resnet56")
_COLOURS = {"20": BLUE, "56": VERMILION}


def chosen(root="."):
    """The protocol to show: the first with a finished run of every row; None if there is none."""
    for protocol in PROTOCOLS:
        if set(ROWS) <= set(load_records(protocol, root)["variant"]):
            return protocol
    return None


def errors(protocol, row, root="."):
    """Training and validation error of one row per seed: float64 (seeds, epochs, 2), in percent.

    Training errors are those of the batches as they were seen in training, cropped and before the step.

    Raises:
        BadRecord: a run without training errors or with epochs that were not validated, or runs of different length.
    """
    records = load_records(protocol, root)
    found = []
    for seed in records.loc[records["variant"] == row, "seed"]:
        history = load_history(protocol, row, seed, root)
        if TRAIN_TOP1 not in history:
            raise BadRecord(f"{protocol}, {row} seed {seed}: no {TRAIN_TOP1} in its history; set train_top1: true")
        if history["top1"].isna().any():
            raise BadRecord(f"{protocol}, {row} seed {seed}: epochs without validation; set validate_every: 1")
        found.append(100 * (1 - history[[TRAIN_TOP1, "top1"]].to_numpy()))
    if len({len(one) for one in found}) > 1:
        raise BadRecord(f"{protocol}, {row}: its seeds have different numbers of epochs")
    return np.stack(found)


@figure(
    "2.9", rests_on=("degradation",), networks="plain-20/56 and ResNet-20/56, trained on Imagenette at 32 px",
    caption="Degradation: error on the training batches (dashed) and on the validation images (solid) of plain networks and "
    "of residual ones with the same convolutions, by epoch. Means over seeds, bands from the smallest to the largest.",
    alt="Two panels of error curves over the epochs, training dashed and validation solid. Plain: with 56 layers both stay "
    "above 70 percent, with 20 layers they fall to about 45. Residual: both depths fall, to about 40 and 35 percent.",
)  # fmt: skip
def curves(root="."):
    protocol = chosen(root)
    if protocol is None:
        raise MissingRecord(Path(root) / "results" / PROTOCOLS[-1], make_command(PROTOCOLS[-1]))
    fig = new_figure(height=2.9)
    axes = fig.subplots(1, 2, sharey=True)
    for ax, family, title in zip(axes, ("plain", "resnet"), ("plain", "residual"), strict=True):
        for depth, colour in _COLOURS.items():
            runs = errors(protocol, f"{family}{depth}", root)
            epochs = np.arange(1, runs.shape[1] + 1)
            for kind, style in enumerate(({"linestyle": "--", "linewidth": 1.0}, {"linewidth": 1.9})):
                what = f"{depth} layers, {('training', 'validation')[kind]}"
                ax.plot(epochs, runs[:, :, kind].mean(0), color=colour, label=what, **style)
                if len(runs) > 1:
                    low, high = runs[:, :, kind].min(0), runs[:, :, kind].max(0)
                    ax.fill_between(epochs, low, high, color=colour, alpha=0.15, linewidth=0)
        ax.set(title=title, xlabel="epoch", xlim=(1, runs.shape[1]))
    axes[0].set(ylabel="error, %", ylim=(0, 100))
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return fig


def table(root="."):
    """Errors after the last epoch as a DataFrame: ``network``, ``parameters`` (without classifier, as trained), ``seeds``,
    ``train_error`` and ``valid_error`` (percent, means over seeds), ``train_sd`` and ``valid_sd`` (NaN for one seed).

    Empty without records.
    """
    columns = ["network", "parameters", "seeds", "train_error", "train_sd", "valid_error", "valid_sd"]
    protocol = chosen(root)
    if protocol is None:
        return pd.DataFrame(columns=columns)
    parameters = load_records(protocol, root).groupby("variant")["parameters"].first()
    rows = []
    for row in ROWS:
        last = errors(protocol, row, root)[:, -1]
        each = [value for values in last.T for value in statistics.mean_sd(values)]
        rows.append([VARIANTS[row].label, int(parameters[row]), len(last), *each])
    return pd.DataFrame(rows, columns=columns)


def shown(root="."):
    """:func:`table` for reading, with what it shows; without records, the command that makes them."""
    protocol = chosen(root)
    if protocol is None:
        return words.Table([], [], caption=f"No records yet; `{make_command(PROTOCOLS[-1])}` makes them.")
    header = ["network", "parameters", "seeds", "training error %", "s.d.", "validation error %", "s.d."]
    lines = [
        [r.network, f"{r.parameters:,}", str(r.seeds)]
        + [words.or_dash(v, ".1f") for v in (r.train_error, r.train_sd, r.valid_error, r.valid_sd)]
        for r in table(root).itertuples()
    ]
    after = f"Protocol `{protocol}`. {_verdict(protocol, 'plain', root)} {_verdict(protocol, 'resnet', root)}"
    return words.Table(header, lines, range(1, len(header)), after=after, rests_on=("degradation",))


def _verdict(protocol, family, root):
    """What 56 layers do to the validation error of one family, tested as everywhere else."""
    deep, shallow = f"{family}56", f"{family}20"
    found = results.compare(deep, shallow, results.read_answers(protocol, ROWS, load_records(protocol, root), root))
    names = f"{VARIANTS[deep].label} against {VARIANTS[shallow].label}"
    text = f"{names}: {words.points(-found.difference, '+.1f')} points of validation error"
    if not found.testable:
        return f"{text}, too few seeds for a verdict."
    clear = "worse" if found.difference < 0 else "better"
    return f"{text} ({words.p_said(found.p)}): {clear if found.p <= statistics.LEVEL else 'not shown to differ'}."
