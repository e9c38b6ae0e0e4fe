"""Chapter 9: what context is worth to a network that answers for every pixel. From the records of protocol ``dense``.

Neighbouring frames of a drive show nearly the same, so that 233 frames are far fewer independent ones. Wherever the choice
of frames counts, *blocks* are drawn: stretches of :data:`BLOCK` frames, a second apart, within each drive for itself.
"""

import functools
import math
from pathlib import Path

import numpy as np
import pandas as pd

from ctxnet.data.camvid import CLASSES
from ctxnet.models.segmentation import SEGMENTERS
from ctxnet.models.variants import VARIANTS
from ctxnet.paper import results, statistics, studies, words
from ctxnet.paper.contrasts import family
from ctxnet.paper.results import BASELINE
from ctxnet.records import class_iou, read_counts, read_provenance, records_of

PROTOCOL = "dense"
SEARCHES = ("dense_search_005", "dense_search_010", "dense_search_020")
COMMAND = f"python -m ctxnet campaign --protocol {PROTOCOL}"
BLOCK = 15  # frames of a drive drawn together; of the test frames one a second is labelled
DRAWS, SEED = 2000, 0
HEADS = {"fcn32": "FCN-32s", "fpn": "sum of stages", "deeplabv3": "DeepLabv3", "unet": "U-Net", "hrnetv2": "HRNetV2"}
AGAINST = ("difference", "difference_low", "difference_high")  # to the plain network
ROW_COLUMNS = ["row", "network", "n", "interval_over", "low", "high", "mean_iou", "pixel_accuracy", "parameters", "minutes",
               "sd", *AGAINST]  # fmt: skip
PERMUTED = {BASELINE: f"{BASELINE}_perm1", f"starved_{BASELINE}": "starved_perm1"}  # backbone: with a permutation
EFFECT = ("difference", "low", "high")
FILES = {name: f"tables/dense_{name}.csv" for name in ("contrasts", "rows", "classes", "effects", "dose")}
CONTRAST_COLUMNS = [name for name in studies.CONTRAST_COLUMNS if name not in ("kind", "most")]


def label(row):
    """A row in words: head, and what its backbone is."""
    head, backbone = SEGMENTERS[row]
    name = VARIANTS[backbone].label
    return HEADS[head] if backbone in ("resnet50", "hrnet_w18") else f"{HEADS[head]}, {name}"


def planned(root=".", name=PROTOCOL):
    """(rows by head, seeds) that a protocol is to train; no rows where its own are not stated."""
    rows, seeds = studies.planned(name, root, SEGMENTERS)
    return sorted(rows, key=lambda row: list(HEADS).index(SEGMENTERS[row][0])), seeds


def runs(root="."):
    """The planned runs that are there, as a DataFrame: ``row``, ``seed``, ``mean_iou``, ``pixel_accuracy`` (percent),
    ``parameters``, ``minutes`` of training, ``record`` and ``counts`` (3, frames, classes), ``frames`` (names)."""
    return _runs(str(root), tuple(map(tuple, planned(root))), results.stamp_of([PROTOCOL], root)).copy()


@functools.lru_cache(maxsize=4)
def _runs(root, plan, stamp):  # stamp: all records, so that new ones are read; what it holds is not to be changed
    (rows, seeds), found = plan, []
    with results.readable():
        for folder, record in records_of(PROTOCOL, root):
            if record["variant"] not in rows or record["seed"] not in seeds:
                continue
            frames, counts = read_counts(folder)
            line = {"row": record["variant"], "seed": record["seed"], "parameters": record["parameters"]}
            line |= {key: 100 * record[key] for key in ("mean_iou", "pixel_accuracy")}
            spent = read_provenance(folder).get("training_seconds")
            line |= {"minutes": math.nan if spent is None else spent / 60}
            found.append(line | {"record": record, "counts": counts, "frames": tuple(frames)})
    columns = ["row", "seed", "parameters", "mean_iou", "pixel_accuracy", "minutes", "record", "counts", "frames"]
    frame = studies.in_order(found, columns, rows)
    if frame["frames"].nunique() > 1:
        raise results.BadRecord(f"results/{PROTOCOL}: runs on different frames cannot be compared; make them again")
    return frame


def blocks(names, length=BLOCK):
    """Frames that are drawn together, by drive: [[indices of a block, …] for each drive].

    A drive is what stands before the underscore of a name, and its frames are in the order of their names. Blocks are of
    equal length but for one frame.
    """
    drives = {}
    for index in sorted(range(len(names)), key=names.__getitem__):
        drives.setdefault(names[index].split("/")[-1].rpartition("_")[0], []).append(index)
    return [np.array_split(each, max(1, round(len(each) / length))) for each in drives.values()]


def drawn_blocks(names, draws=DRAWS, seed=SEED):
    """How often each frame is in a draw of blocks, within each drive with replacement: int array (draws, frames)."""
    rng, weights = np.random.default_rng(seed), np.zeros((draws, len(names)), dtype=np.int64)
    for drive in blocks(names):
        # n − 1 of n blocks: the variance of a mean of so few is then unbiased (Rao and Wu, 1988)
        times = rng.multinomial(max(len(drive) - 1, 1), np.full(len(drive), 1 / len(drive)), draws)
        for block, column in zip(drive, times.T, strict=True):
            weights[:, block] = column[:, None]
    return weights


def resampled(frame, draws=DRAWS, seed=SEED):
    """IoU of each row in percent, mean over its runs, for draws of blocks: {row: array (draws, 1 + classes)}, the mean over
    the classes first; the same draws for all.

    Of frames as :func:`runs` gives them.
    """
    if frame.empty:
        return {}
    names, found = frame["frames"].iloc[0], {}
    for row, mine in frame.groupby("row"):
        each = [_drawn(counts.astype(np.int64).tobytes(), names, draws, seed) for counts in mine["counts"]]
        found[row] = 100 * np.mean(each, axis=0)
    return found


@functools.lru_cache(maxsize=256)
def _drawn(counts, names, draws, seed):
    """:func:`_scores` of one run, its int64 counts as bytes, for draws of blocks; every table of the chapter asks again."""
    counts = np.frombuffer(counts, dtype=np.int64).reshape(3, len(names), -1)
    return _scores(np.einsum("df,pfc->pdc", drawn_blocks(names, draws, seed), counts))


def _scores(sums):
    """IoU of sums (3, …, classes): (…, 1 + classes), first the mean over the classes that occur."""
    iou = class_iou(sums[..., None, :])
    return np.concatenate([np.nanmean(iou, axis=-1, keepdims=True), iou], axis=-1)


def count_blocks(frame):
    return sum(map(len, blocks(frame["frames"].iloc[0]))) if len(frame) else 2


def interval(values, over_blocks, count):
    """(low, high, kind) of a row: values by seed, and the variance that the choice of blocks adds.

    Student's t with Satterthwaite's degrees of freedom; of one seed over blocks alone, and said so.
    """
    parts, counts = [over_blocks], [count]
    if len(values) > 1:
        parts, counts = [over_blocks, np.var(values, ddof=1) / len(values)], [count, len(values)]
    error, degrees = statistics.standard_error(parts, counts)
    half = float(statistics.half_width(error, degrees))
    return np.mean(values) - half, np.mean(values) + half, "frames" if len(values) < 2 else "seeds and frames"


def differences(row, other, frame, draws):
    """IoU of ``row`` less that of ``other`` in points, with 95 % intervals over seeds and blocks: array (1 + classes, 3) of
    estimate, low and high, for the mean over the classes and for each class.

    Both are judged by the same frames, so that what a draw of blocks does to both alike cancels out.

    Args:
        frame, draws: as :func:`runs` and :func:`resampled` give them.

    Returns:
        NaN where one of them has no run; no interval (NaN) of fewer than two seeds.
    """
    values = [100 * np.array([_scores(counts.sum(1)) for counts in frame.loc[frame["row"] == name, "counts"]])
              for name in (row, other)]  # fmt: skip
    if not all(map(len, values)):
        return np.full((1 + len(CLASSES), 3), math.nan)
    estimate, half = values[0].mean(0) - values[1].mean(0), np.full(1 + len(CLASSES), math.nan)
    if min(map(len, values)) > 1:
        parts = [np.nanvar(draws[row] - draws[other], axis=0), *(each.var(0, ddof=1) / len(each) for each in values)]
        error, degrees = statistics.standard_error(parts, [count_blocks(frame), *map(len, values)])
        half = statistics.half_width(error, degrees)
    return np.stack([estimate, estimate - half, estimate + half], axis=-1)


# ---- numbers ----------------------------------------------------------------------------------------------------------


def hypotheses(root="."):
    """Those of :data:`PROTOCOL`, in the order in which they stand in the file."""
    return studies.hypotheses(PROTOCOL, root)


def contrasts(root="."):
    """The hypotheses as a DataFrame with :data:`CONTRAST_COLUMNS`, see :func:`ctxnet.paper.studies.contrast_line`; points of
    mean IoU."""
    frame = runs(root)
    draws, count = resampled(frame), count_blocks(frame)

    def shared(hypothesis):
        if not all(row in draws for row in hypothesis.cells):
            return 0.0, 2
        return float(sum(weight * draws[row][:, 0] for row, weight in hypothesis.cells.items()).var()), count

    values = {row: list(each["mean_iou"]) for row, each in frame.groupby("row")}
    found = family(hypotheses(root), {PROTOCOL: values}, shared)
    lines = [studies.contrast_line(one, p_holm, len(found), formula) for one, p_holm in found]
    return pd.DataFrame(lines, columns=CONTRAST_COLUMNS)


def formula(cells):
    """Weights of a contrast as text."""
    parts = [f"{'+' if weight > 0 else '−'} {abs(weight):g}·{row}" for row, weight in cells.items()]
    return " ".join(parts).removeprefix("+ ").replace("1·", "")


def rows(root="."):
    """Every planned row: ``row``, ``network``, ``n``, ``mean_iou``, ``low``, ``high``, ``interval_over``, ``sd``,
    ``pixel_accuracy``, ``parameters``, ``minutes``; ``difference`` to plain ResNet-50 with the same head and its interval,
    see :func:`differences`. Percent and points, NaN without a run."""
    frame, (names, _) = runs(root), planned(root)
    draws, count = resampled(frame), count_blocks(frame)
    lines = []
    for name in names:
        mine = frame[frame["row"] == name]
        line = {"row": name, "network": label(name), "n": len(mine), "interval_over": "", "low": math.nan, "high": math.nan}
        if len(mine):
            over = interval(mine["mean_iou"], draws[name][:, 0].var(), count)
            line["low"], line["high"], line["interval_over"] = over
        line |= {key: mine[key].mean() for key in ("mean_iou", "pixel_accuracy", "parameters", "minutes")}
        plain = f"{SEGMENTERS[name][0]}_{BASELINE}"
        against = (math.nan,) * 3 if name == plain else differences(name, plain, frame, draws)[0]
        line |= dict(zip(AGAINST, against, strict=True))
        lines.append(line | {"sd": mine["mean_iou"].std()})
    return pd.DataFrame(lines, columns=ROW_COLUMNS)


def classes(root="."):
    """IoU of each class in percent, mean over the runs that are there: ``row``, ``network``, ``n`` and the classes."""
    lines = []
    for name, mine in runs(root).groupby("row", sort=False):
        iou = np.array([record["iou"] for record in mine["record"]], dtype=float)
        line = {"row": name, "network": label(name), "n": len(mine)}
        lines.append(line | dict(zip(CLASSES, 100 * iou.mean(0), strict=True)))
    return pd.DataFrame(lines, columns=["row", "network", "n", *CLASSES])


def effects(root="."):
    """What one permutation in every block changes, by head, on plain and on starved ResNet-50: ``row`` (with it), ``other``
    (without), ``n`` (runs of the row with fewer), ``class`` ("all": mean over classes), ``difference``, ``low``, ``high``;
    see :func:`differences`. Pairs without a run left out."""
    frame, lines = runs(root), []
    draws, counts = resampled(frame), frame["row"].value_counts()
    for head in HEADS:
        for base, permuted in PERMUTED.items():
            other, row = f"{head}_{base}", f"{head}_{permuted}"
            if {row, other} <= set(draws):
                about = {"row": row, "other": other, "n": int(min(counts[row], counts[other]))}
                found = zip(("all", *CLASSES), differences(row, other, frame, draws), strict=True)
                lines += [about | {"class": one} | dict(zip(EFFECT, numbers, strict=True)) for one, numbers in found]
    return pd.DataFrame(lines, columns=["row", "other", "n", "class", *EFFECT])


def dose(root="."):
    """What a pixel needs to see: ``row``, ``network``, ``class`` ("all": mean over classes), ``side`` of the visible square
    in px (0: the whole image), ``right`` (percent of the pixels asked for), ``distance`` (px, of the class' score)."""
    lines = []
    for name, mine in runs(root).groupby("row", sort=False):
        records = [record for record in mine["record"] if "dose" in record]
        if not records:
            continue
        sides = [int(side) for side in records[0]["dose"]["side"]]
        right = np.array([[r["dose"][one] for one in CLASSES] for r in records], dtype=float).mean(0)
        looks = np.array([r["class_distance"] for r in records], dtype=float).mean(0)
        for one, values, distance in [("all", right.mean(0), looks.mean()), *zip(CLASSES, right, looks, strict=True)]:
            about = {"row": name, "network": label(name), "class": one, "distance": distance}
            lines += [about | {"side": side, "right": 100 * v} for side, v in zip(sides, values, strict=True)]
    return pd.DataFrame(lines, columns=["row", "network", "class", "side", "right", "distance"])


# ---- in words ---------------------------------------------------------------------------------------------------------


def status(root="."):
    """How many of the planned runs are there, and how to make the others: one paragraph of Markdown."""
    done, after = len(runs(root)), "; what needs them is open"
    return studies.progress(f"Protocol `{PROTOCOL}`", done, *planned(root), COMMAND, after=after)


def search_table(root="."):
    """Mean IoU on the validation frames by learning rate, of the networks that settings were searched for with."""
    (names, _), lines = planned(root, SEARCHES[0]), []
    for protocol in SEARCHES:
        found = {record["variant"]: record for _, record in records_of(protocol, root)}
        cells = [words.or_dash(100 * found[name]["mean_iou"], ".1f") if name in found else "not run" for name in names]
        lines.append([f"{results.settings_of(protocol, root).learning_rate:g}", *cells])
    epochs = results.settings_of(SEARCHES[0], root).epochs
    caption = f"Mean IoU in percent on the validation frames after {epochs} epochs, one seed, by learning rate."
    return words.Table(["rate", *map(label, names)], lines, range(1 + len(names)), "9.1", caption)


def contrast_table(root="."):
    """:func:`contrasts` as a :class:`ctxnet.paper.words.Table`."""
    frame = contrasts(root)
    caption = (
        f"The {len(frame)} contrasts written down before their runs, in points of mean IoU on the test frames: estimate, "
        "95 % interval over seeds and blocks of time, p after Holm's correction for all of them, of the contrary where "
        "that is what was shown. A contrast is open until every row it speaks of has all of its seeds."
    )
    return _table("9.2", "contrasts", studies.contrast_columns("row"), frame, caption, range(1, 6))


def story(root="."):
    """What became of the contrasts that were tested, see :func:`ctxnet.paper.studies.story`, :func:`gaps` and
    :func:`answer`."""
    return f"{studies.story(contrasts(root), 'row')}\n\n{gaps(root)} {answer(root)}".rstrip()


def gaps(root="."):
    """How far the heads lie above FCN-32s, all on plain ResNet-50, and whether there is a gap to close, in words."""
    frame = runs(root)
    draws, plain = resampled(frame), f"fcn32_{BASELINE}"
    others = [row for row in (f"{head}_{BASELINE}" for head in HEADS) if row in draws and row != plain]
    found = {label(row): differences(row, plain, frame, draws)[0] for row in others} if plain in draws else {}
    found = {name: numbers for name, numbers in found.items() if not math.isnan(numbers[1])}
    if not found:
        return ""
    said = [f"{name} {_points(*numbers)}" for name, numbers in found.items()]
    text = f"Heads on plain ResNet-50 against {label(plain)}, in points with 95 % intervals, exploratory: {', '.join(said)}."
    none = [name for name, (_, low, _) in found.items() if low <= 0]
    return text + (f" Not shown to lie above it, so that there may be no gap to close: {', '.join(none)}." if none else "")


def answer(root="."):
    """What a permutation changes over all heads, and what a backbone without 3×3 convolutions costs them: two sentences;
    of those that have an interval, "" without any."""
    found, table = effects(root).query("`class` == 'all' and low == low"), rows(root).set_index("row")
    if found.empty:
        return ""
    above, below = (
        ", ".join(map(label, found.loc[chosen, "other"])) or "none" for chosen in (found["low"] > 0, found["high"] < 0)
    )
    ends = words.between(found["difference"].min(), found["difference"].max(), "+.1f")
    text = f"Exploratory as well: one permutation changes the mean IoU of {len(found)} networks by {ends} points; its whole "
    text += f"interval lies above zero for {above}, below zero for {below}."
    starved = {HEADS[head]: f"{head}_starved_{BASELINE}" for head in HEADS}
    starved = {name: table.loc[row, list(AGAINST)] for name, row in starved.items() if row in table.index}
    parts = [f"{name} {_points(*line)}" for name, line in starved.items() if not math.isnan(line.iloc[1])]
    after = f" Without 3×3 convolutions in the backbone, against the same head on plain ResNet-50: {', '.join(parts)}."
    return text + (after if parts else "")


def _table(number, name, columns, frame, caption, numbers=None, after=""):
    """Columns as for :func:`words.filled`, of the lines of a DataFrame."""
    cells, numbers = words.filled(columns, frame.to_dict("records")), numbers or range(1, len(columns))
    return words.Table(*cells, numbers, number, caption, after, rests_on=(PROTOCOL,), file=FILES[name])


def row_table(root="."):
    """:func:`rows` as a :class:`ctxnet.paper.words.Table`."""
    frame, seeds = rows(root), len(planned(root)[1])
    seen = frame[frame["n"] > 0]
    columns = {
        "network": "{network}", "n": f"{{n}} of {seeds}", "mean IoU %": "{mean_iou:.1f}", "95 % interval": words.interval,
        "− plain (95 %)": lambda line: _points(*(line[key] for key in AGAINST)),
        "s.d.": "{sd:.2f}", "pixel accuracy %": "{pixel_accuracy:.1f}",
        "params M": lambda line: words.or_dash(line["parameters"] / 1e6, ".2f"), "minutes": "{minutes:.1f}",
    }  # fmt: skip
    caption = (
        "Every row on the 233 test frames. Mean IoU over the eleven classes, void left out; − plain: points above plain "
        "ResNet-50 with the same head, exploratory and not corrected for their number; s.d. over seeds; parameters without "
        "classifier; minutes of training, which depend on what else the machine does. †: one seed, over frames "
        "alone."
    )
    after = words.without_runs(len(frame) - len(seen), len(frame), COMMAND)
    return _table("9.3", "rows", columns, seen, caption, after=after)


def _points(estimate, low, high):
    """A difference with its interval where it has one, in text: "+1.2 (+0.3 to +2.1)"."""
    text = words.or_dash(estimate, "+.1f")
    return text if math.isnan(low) else f"{text} ({words.between(low, high, '+.1f')})"


def class_table(root="."):
    """:func:`classes` as a :class:`ctxnet.paper.words.Table`."""
    caption = "IoU of each class in percent on the test frames, mean over the seeds; rows without a run left out."
    return _table("9.4", "classes", BY_CLASS, classes(root), caption)


BY_CLASS = {"network": "{network}"} | {one: f"{{{one}:.1f}}" for one in CLASSES}


def effect_table(root="."):
    """:func:`effects` as a :class:`ctxnet.paper.words.Table`."""
    frame, lines = effects(root), []
    for (other, count), mine in frame.groupby(["other", "n"], sort=False):
        (_, whole), *classes = mine.set_index("class")[list(EFFECT)].iterrows()
        lines.append({"network": label(other), "n": count, "mean": _points(*whole)})
        lines[-1] |= {one: words.or_dash(found.difference, "+.1f") + ("∗" if found.low > 0 or found.high < 0 else "")
                      for one, found in classes}  # fmt: skip
    columns = {"without it": "{network}", "n": "{n}", "mean (95 %)": "{mean}"} | {one: f"{{{one}}}" for one in CLASSES}
    caption = (
        "What one permutation in every block changes, in points of IoU: mean over the classes with its 95 % interval over "
        f"seeds and blocks of time, then each class. ∗: the interval of a class leaves zero out. Exploratory, and not "
        f"corrected for {len(lines) * len(CLASSES)} differences, of which one in twenty would have the sign by luck alone."
    )
    return _table("9.5", "effects", columns, pd.DataFrame(lines), caption)


def distance_table(root="."):
    """How far the score of a class looks from a pixel of that class, from :func:`dose`, as a table."""
    found = dose(root).drop_duplicates(["network", "class"])
    found = found.set_index(["network", "class"])["distance"].unstack(sort=False).reset_index()
    caption = (
        "Mean distance in px of the effective receptive field of a class' score at a pixel of the class, mean over the "
        "seeds. Each class is measured at one position, that where it is found most often, and these differ between classes."
    )
    return _table("9.6", "dose", BY_CLASS, found, caption)


def write_dense(root=".", home=None):
    """Write what the tables show with :func:`words.write_frames`, into ``results/dense`` unless ``home`` is given."""
    made = {"contrasts": contrasts, "rows": rows, "classes": classes, "effects": effects, "dose": dose}
    home = home or Path(root) / "results" / PROTOCOL
    return words.write_frames(home, {FILES[name]: make(root) for name, make in made.items()})
