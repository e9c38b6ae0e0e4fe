"""Chapter 10 in words and tables, from the numbers of :mod:`ctxnet.paper.law`."""

from collections import Counter

import numpy as np

from ctxnet.atlas.accuracies import ADDRESS, TRAININGS, read_accuracies
from ctxnet.paper import law
from ctxnet.paper.figures.law import ACCURACIES, COMMAND, label
from ctxnet.paper.words import Table, minus, or_dash, plain

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
    rest = Counter()
    for kind in kinds.keys() - {"large"}:
        rest[_KINDS.get(kind, "failed in the network itself or in a library")] += kinds[kind]
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
    rows = []
    for hypothesis in plan.hypotheses.values() if sample.names else ():
        for name, part in law.parts(root):
            found = law.effect(part, hypothesis, plan)
            rows.append([
                label(hypothesis).replace("\n", " "), name, str(found.networks), str(found.families),
                _interval(found.points, found.low, found.high, ".2f"), or_dash(found.within, "+.2f"),
                _interval(found.rho, found.rho_low, found.rho_high, ".2f"),
                _interval(found.partial, found.partial_low, found.partial_high, ".2f"),
                f"**{found.verdict}**" if name == "kept back" else "",
            ])  # fmt: skip
    header = ["hypothesis", "part", "networks", "families", "effect, points", "within families", "rank correlation",
              "the same, partial", "verdict"]  # fmt: skip
    caption = "Effects in points of top-1 at 80 %, rank correlations, with 95 % intervals of a bootstrap over families."
    if any("(–" in cell for line in rows for cell in line):
        caption += (
            " A dash for an interval: more than one in twenty of the bootstrap's samples say nothing, because the property "
            "does not vary in the families they drew."
        )
    return Table(header, rows, numbers=range(2, 8), number="10.1", caption=caption, rests_on=("timm",))


def _interval(value, low, high, form):
    return f"{or_dash(value, '+' + form)} ({or_dash(low, form)} … {or_dash(high, form)})"


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
    place, tags, rows = {n: i for i, n in enumerate(sample.names)}, read_accuracies(root), []

    def line(kind, name, points):
        i, context = place[name], sample.context
        rows.append([kind, f"`{name}`", plain(tags[name]["tag"]), f"{sample.parameters[i] / 1e6:.1f}",
                     or_dash(100 * context["distance_share"][i], ".1f"), or_dash(100 * context["third"][i], ".0f"),
                     f"{100 * sample.top1[i]:.1f}", points])  # fmt: skip

    for name, _, _ in law.little_context(sample):
        line("much with little", name, "")
    above, below = law.outliers(sample, plan.hypotheses["distance"])
    for kind, found in (("above the model", above), ("below the model", below)):
        for name, points in found:
            line(kind, name, minus(f"{points:+.1f}"))
    header = ["", "network", "weights", "parameters, M", "mean distance, %", "within a third, %", "top-1, %", "to the model"]
    caption = "The most accurate of the tenth of networks with the least mean distance, and those furthest from the model."
    return Table(header, rows, numbers=range(3, 8), number="10.2", caption=caption, rests_on=("timm",))


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
    rows = []
    for kind, names in kinds.items():
        part = sample.part(np.isin(sample.names, names))
        if names:
            plain_training = np.mean(part.training == TRAININGS.index("in1k"))
            numbers = [np.median(part.parameters) / 1e6, np.median(part.test_size), 100 * np.mean(part.context["covers"])]
            shown = [f"{value:.{digits}f}" for value, digits in zip(numbers, (1, 0, 0), strict=True)]
            rows.append([kind, str(len(names)), *shown, f"{100 * plain_training:.0f}"])
    header = ["", "networks", "parameters, M", "test size, px", "RF covers the image, %", "ImageNet-1k alone, %"]
    caption = "The networks of Table 10.2 beside all that are compared: medians, and shares of the networks."
    return Table(header, rows, numbers=range(1, 6), number="10.3", caption=caption, rests_on=("timm",))
