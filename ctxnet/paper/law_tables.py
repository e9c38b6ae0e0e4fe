"""Chapter 10 in words and tables, from the numbers of :mod:`ctxnet.paper.law`."""

from collections import Counter

import numpy as np

from ctxnet.atlas.accuracies import ADDRESS, TRAININGS, read_accuracies
from ctxnet.paper import law
from ctxnet.paper.figures.law import ACCURACIES, COMMAND, label
from ctxnet.paper.words import Table, filled, minus, or_dash, plain

_KINDS = {
    "waiting": "wait for their turn",
    "measures": "were refused by the measures, which say why",
    "memory": "need too much memory",
    "time": "are too slow",
    "died": "gave no answer, for their process died",
}


def status(root="."):
    """One paragraph: how many of how many were measured, and what became of the others."""
    done, others = law.measured(root)
    if not done and not others:
        return f"No network of timm has been measured yet; `{COMMAND}` does it."
    kinds = Counter(row["refused"] for row in others.values())
    within = len(done) + sum(count for kind, count in kinds.items() if kind != "large")
    probes = sum(row["check"]["probes"] for row in done.values())
    wrong = sorted(name for name, row in done.items() if row["check"]["wrong"])
    bound = sum(not row["exact"] for row in done.values())
    seconds = sum(row["made"]["seconds"] for row in done.values())
    text = f"**{len(done)} of {within}** architectures of timm within the limit of parameters are measured"
    text += f" ({100 * len(done) / within:.1f} %)" if within else ""
    text += f"; {kinds['large']} are larger." if kinds["large"] else "."
    rest = Counter(_KINDS.get(row["refused"], "failed in the network itself or in a library")
                   for row in others.values() if row["refused"] != "large")  # fmt: skip
    reasons = [f"{count} {reason}" for reason, count in sorted(rest.items())]
    text += f" Of the others {'; '.join(reasons)}." if reasons else ""
    text += f" {probes:,} probes of the networks themselves found "
    named = f"the receptive field wrong in {len(wrong)}: {', '.join(map(plain, wrong))}."
    text += named if wrong else "no receptive field wrong."
    text += f" {bound} networks have upper bounds somewhere, and say so."
    text += f" They took {seconds / 3600:.1f} hours, one after the other, beside other work."
    return text


def refused(root=".", most=40):
    """Networks within the limit that were not measured, each with its reason; a :class:`Table`."""
    others = {name: row for name, row in law.measured(root)[1].items() if row["refused"] not in ("large", "waiting")}
    shown = list(others.items())[:most]
    rows = [[f"`{name}`", plain(row["family"]), plain(row["why"].partition("; ")[0])] for name, row in shown]
    after = f"{len(others) - most} more are in `results/timm/networks.jsonl`." if len(others) > most else ""
    return Table(["network", "family", "why not"], rows, after=after, rests_on=("timm",))


def sample_text(root="."):
    """What is compared: networks, families, the split, and whose accuracies these are."""
    plan, sample = law.plan_and_sample(root)
    if not sample.names:
        return f"No published accuracies are at hand: `{ACCURACIES}` fetches them. All else on this page stands without."
    parts = law.split(sample, plan)
    explored, back = (f"{len(part.names)} networks of {len(set(part.families))} families" for part in parts)
    return (
        f"{len(sample.names)} networks have both. Explored: {explored}; kept back: {back}. The accuracies are "
        f"[timm's own]({ADDRESS}), one set of weights per architecture, kept in `results/timm/accuracies.jsonl`."
    )


def effects(root="."):
    """The hypotheses on both parts of the sample; a :class:`Table`, empty without accuracies."""
    plan, sample = law.plan_and_sample(root)
    lines = [
        vars(law.effect(part, hypothesis, plan)) | {"label": label(hypothesis).replace("\n", " "), "part": name}
        for hypothesis in plan.hypotheses.values() if sample.names
        for name, part in law.parts(root)
    ]  # fmt: skip
    header, rows = filled({
        "hypothesis": "{label}", "part": "{part}", "networks": "{networks}", "families": "{families}",
        "effect, points": "{points:+.2f} ({low:.2f} … {high:.2f})", "within families": "{within:+.2f}",
        "rank correlation": "{rho:+.2f} ({rho_low:.2f} … {rho_high:.2f})",
        "the same, partial": "{partial:+.2f} ({partial_low:.2f} … {partial_high:.2f})",
        "verdict": lambda line: f"**{line['verdict']}**" if line["part"] == "kept back" else "",
    }, lines)  # fmt: skip
    caption = "Effects in points of top-1 at 80 %, rank correlations, with 95 % intervals of a bootstrap over families."
    if any("(–" in cell for line in rows for cell in line):
        caption += (
            " A dash for an interval: more than one in twenty of the bootstrap's samples say nothing, because the property "
            "does not vary in the families they drew."
        )
    return Table(header, rows, numbers=range(2, 8), number="10.1", caption=caption, rests_on=("timm",))


def verdicts(root="."):
    """One sentence per hypothesis, from the families kept back."""
    plan, sample = law.plan_and_sample(root)
    if not sample.names:
        return ""
    if not law.is_finished(plan, root):
        return (
            "**No verdict yet.** The families kept back are looked at once, when the run is done; until then there is what "
            "the families explored say, over the networks measured so far, the smallest first."
        )
    _, back = law.split(sample, plan)
    lines = []
    for hypothesis in plan.hypotheses.values():
        found = law.effect(back, hypothesis, plan)
        if law.alike(back, hypothesis):
            lines.append(f"- *{hypothesis.text}* **{found.verdict.capitalize()}**: it cannot be told, for all "
                         f"{found.networks} networks of the {found.families} families are alike in this.")  # fmt: skip
            continue
        interval = f"{or_dash(found.low_all, '.2f')} … {or_dash(found.high_all, '.2f')}"
        lines.append(f"- *{hypothesis.text}* **{found.verdict.capitalize()}**: {or_dash(found.points, '+.2f')} points "
                     f"({interval}, corrected) in {found.networks} networks of {found.families} families.")  # fmt: skip
    return "\n".join(lines)


def _shown(root):
    """Plan, and the networks that may be looked at one by one: all, once the families kept back have been tested."""
    plan, sample = law.plan_and_sample(root)
    return plan, sample if law.is_finished(plan, root) or not sample.names else law.parts(root)[0][1]


def outliers(root="."):
    """Who reaches much with little context, and who departs most from the model; a :class:`Table`."""
    plan, sample = _shown(root)
    if not sample.names:
        return Table([], [])
    above, below = law.outliers(sample, plan.hypotheses["distance"])
    chosen = [("much with little", name, "") for name, *_ in law.little_context(sample)]
    chosen += [("above the model", name, minus(f"{points:+.1f}")) for name, points in above]
    chosen += [("below the model", name, minus(f"{points:+.1f}")) for name, points in below]
    tags, lines = read_accuracies(root), []
    for kind, name, points in chosen:
        i = sample.names.index(name)
        shares = {key: 100 * sample.context[key][i] for key in ("distance_share", "third")}
        about = {"kind": kind, "name": name, "tag": plain(tags[name]["tag"]), "points": points}
        lines.append(about | shares | {"parameters": sample.parameters[i] / 1e6, "top1": 100 * sample.top1[i]})
    cells = filled({
        "": "{kind}", "network": "`{name}`", "weights": "{tag}", "parameters, M": "{parameters:.1f}",
        "mean distance, %": "{distance_share:.1f}", "within a third, %": "{third:.0f}", "top-1, %": "{top1:.1f}",
        "to the model": "{points}",
    }, lines)  # fmt: skip
    caption = "The most accurate of the tenth of networks with the least mean distance, and those furthest from the model."
    return Table(*cells, numbers=range(3, 8), number="10.2", caption=caption, rests_on=("timm",))


def looked_at(root="."):
    """What the networks of :func:`outliers` have in common, a line each kind; a :class:`Table`, empty without accuracies."""
    plan, sample = _shown(root)
    if not sample.names:
        return Table([], [])
    above, below = law.outliers(sample, plan.hypotheses["distance"])
    kinds = {
        "Much with little": [name for name, *_ in law.little_context(sample)],
        "Above the model": [name for name, _ in above],
        "Below the model": [name for name, _ in below],
        "All": sample.names,
    }
    lines = []
    for kind, names in kinds.items():
        part = sample.part(np.isin(sample.names, names))
        if names:
            about = {"kind": kind, "count": len(names), "px": np.median(part.test_size)}
            shares = {"covered": 100 * np.mean(part.context["covers"])}
            shares["alone"] = 100 * np.mean(part.training == TRAININGS.index("in1k"))
            lines.append(about | shares | {"parameters": np.median(part.parameters) / 1e6})
    cells = filled({
        "": "{kind}", "networks": "{count}", "parameters, M": "{parameters:.1f}", "test size, px": "{px:.0f}",
        "RF covers the image, %": "{covered:.0f}", "ImageNet-1k alone, %": "{alone:.0f}",
    }, lines)  # fmt: skip
    caption = "The networks of Table 10.2 beside all that are compared: medians, and shares of the networks."
    return Table(*cells, numbers=range(1, 6), number="10.3", caption=caption, rests_on=("timm",))
