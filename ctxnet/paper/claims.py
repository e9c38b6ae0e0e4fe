"""What the thesis concludes, tested on our records: a flat list of claims, and code that says which hold.

A claim is one or several parts, each a difference A − B of two rows that must lie on one side of a bound. It **holds** when
every part is shown, it **does not hold** when one part is shown to lie on the other side, and is **open** otherwise:

- A part with fewer than three seeds of either row is not tested and shows nothing. What a part's own interval says, which
  nothing corrects, is "for" or "against" the claim and no verdict; the claim alone has one.
- An open claim says why, and how many seeds of each row it would take: so many that a difference as large as the one found
  would be called in 80 % of cases, at the level that is left to one of all claims (Bonferroni). That is an order of
  magnitude, since what was found is itself uncertain.
- "Helps" and "hurts" have the bound 0. "Does not help" cannot be shown by a large p, which few seeds give for free. It is
  shown when the gain is *below a margin*, 0.5 points, with its whole interval: then what help there may be is too small to
  matter here. It is refuted when the gain is above that margin (a one-sided equivalence test; Schuirmann 1987).
- Tests are one-sided at 2.5 % and agree with the 95 % intervals shown. A claim that needs all of its m parts takes the
  largest p (no correction is due; Berger 1982); its refutation by any part takes m times the smallest. The smaller of the
  two, doubled, is the claim's p, which Holm's method corrects for the number of claims that can be tested.

- "Stays as it was" is shown when the difference lies within a margin on both sides, each side being a part.
- What a receptive field can reach follows from the wiring. Such a part is true or false, with p = 0 or 1, and leaves Holm's
  correction of the others as it is.

The parts of claims about "more" compare the ends of a range (k = 1 and 5): the thesis' own middle value is out of order.
"""

import contextlib
import itertools
import math
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ctxnet.models.variants import VARIANTS
from ctxnet.paper import results, statistics, words
from ctxnet.paper.results import MissingRecord, independent_runs, load_initial, load_profile

MARGIN = 0.5  # points of top-1; a smaller gain does not count as help
FILE = "tables/claims.csv"
OTHER_DATA = "These are other data than the thesis' own; its conclusions are not tested on them."
EARLY = 3  # blocks from the input: ResNet-50's first stage
SOON = 5  # of 16 blocks: where "after a few layers" ends
SAME = 2.0  # points of the image's side; a mean distance that differs by less is as it was
PLAIN = results.BASELINE
BEST = "resnet50_random_dilated8"
OTHER_RESNETS = [name for name, row in VARIANTS.items() if row.arch == 50 and row.thesis_top1 and name != BEST]
CHANGED = [name for name in (*OTHER_RESNETS, BEST) if name != PLAIN]
DISTANCES = {"early": lambda d: d[:EARLY].mean(), "every": lambda d: d.mean(), "last": lambda d: d[-1]}


@dataclass(frozen=True)
class Claim:
    """One conclusion of the thesis.

    Attributes:
        text: the claim in our words.
        section: of the thesis.
        test: how it is tested, for readers.
        pairs: (A, B) per part; B is "" where A has to do something by itself.
        side: "above" or "below": where every A − B has to lie with respect to ``bound``; "within": on both sides of it.
        bound: in points (percent of top-1, of the image's side, or of its pixels).
        quantity: "top1"; the mean distance of trained networks over the blocks that :data:`DISTANCES` names; or "seen": what
            the receptive field at block :data:`SOON` lacks of the whole image.
    """

    text: str
    section: str
    test: str
    pairs: tuple
    side: str = "above"
    bound: float = 0.0
    quantity: str = "top1"


CLAIMS = [
    Claim(
        "Every method widens the context", "1.1, 5",
        "trained networks, mean distance over all blocks, points of the image's side: every changed ResNet above the plain",
        tuple((name, PLAIN) for name in CHANGED), quantity="every",
    ),
    Claim(
        "The receptive field soon covers the whole image", "5",
        f"full size, points of the image that block {SOON} of 16 does not see: none, in every changed ResNet of the thesis",
        tuple((name, "") for name in CHANGED), quantity="seen",
    ),
    Claim(
        "Context grows early: mean distance rises with the number of permutations", "4.3, 5",
        f"trained networks, mean over blocks 1–{EARLY}, points of the image's side: 1 above none, 5 above 1",
        (("resnet50_perm1", PLAIN), ("resnet50_perm5", "resnet50_perm1")), quantity="early",
    ),
    *(
        Claim(f"More permutations are worse{what}", f"{section}, 5", "5 below 1",
              ((f"resnet50_perm5{end}", f"resnet50_perm1{end}"),), "below")
        for what, section, end in (("", "4.3", ""), (", with encoding", "4.5", "_enc"), (", with attention", "4.6", "_attn"))
    ),
    Claim(
        "A permutation in stages 3–4 only helps", "4.4, 5", "above plain ResNet-50",
        (("resnet50_perm1_stages34", PLAIN),),
    ),
    Claim(
        "The encoding does not help", "4.5", f"gain over the same row without it below {MARGIN} points, k = 1, 3 and 5",
        tuple((f"resnet50_perm{k}_enc", f"resnet50_perm{k}") for k in (1, 3, 5)), "below", MARGIN,
    ),
    Claim(
        "The encoding leaves the mean distance as it was", "4.5",
        f"trained networks, over all blocks, within {SAME:g} points of the image's side, k = 1, 3 and 5",
        tuple((f"resnet50_perm{k}_enc", f"resnet50_perm{k}") for k in (1, 3, 5)), "within", SAME, "every",
    ),
    Claim(
        "Attention looks further with more permutations", "4.6",
        "trained networks, mean distance over all blocks: 5 above 1",
        (("resnet50_perm5_attn", "resnet50_perm1_attn"),), quantity="every",
    ),
    Claim(
        "Attention spreads less than concatenation", "4.6",
        "trained networks, mean distance over all blocks, below the same row without attention, k = 1, 3 and 5",
        tuple((f"resnet50_perm{k}_attn", f"resnet50_perm{k}") for k in (1, 3, 5)), "below", quantity="every",
    ),
    Claim(
        "Attention does not help", "4.6", f"gain over plain ResNet-50 below {MARGIN} points, k = 1, 3 and 5",
        tuple((f"resnet50_perm{k}_attn", PLAIN) for k in (1, 3, 5)), "below", MARGIN,
    ),
    Claim(
        "Encoding or attention in stages 3–4 only does not help", "5", f"gain over plain ResNet-50 below {MARGIN} points",
        tuple((f"resnet50_perm1_stages34_{how}", PLAIN) for how in ("enc", "attn")), "below", MARGIN,
    ),
    Claim(
        "Dilating the 3×3 itself hurts", "4.7, 5", "below plain ResNet-50",
        (("resnet50_dilated4", PLAIN),), "below",
    ),
    Claim(
        "An inserted dilated convolution with d = 4 helps a little", "4.7, 5", "above plain ResNet-50",
        (("resnet50_inserted_dilated4", PLAIN),),
    ),
    Claim(
        "An inserted dilated convolution with d = 8 hurts", "4.7", "below plain ResNet-50",
        (("resnet50_inserted_dilated8", PLAIN),), "below",
    ),
    Claim(
        "Random dilated with d = 8 is the best of all", "4.7, 5", "above every other ResNet of the thesis",
        tuple((BEST, name) for name in OTHER_RESNETS),
    ),
    Claim(
        "Random dilated: d = 16 is worse than d = 8", "4.7", "16 below 8", (("resnet50_random_dilated16", BEST),), "below",
    ),
    Claim(
        "No change to ResNet-50 raises accuracy noticeably", "1.1, 5",
        f"gain over plain ResNet-50 below {MARGIN} points, every ResNet of the thesis",
        tuple((name, PLAIN) for name in CHANGED), "below", MARGIN,
    ),
    Claim(
        "HRNet and ConvNeXt use more context than ResNet-50", "4.8, 5",
        "trained networks, mean distance of the last map, points of the image's side: above",
        tuple((name, PLAIN) for name in ("hrnet_w18", "convnext_tiny")), quantity="last",
    ),
    Claim(
        "ConvNeXt > HRNet > ResNet-50 > ViT", "4.8, 5", "each above the next",
        (("convnext_tiny", "hrnet_w18"), ("hrnet_w18", PLAIN), (PLAIN, "vit_base_patch16_224")),
    ),
]  # fmt: skip

COLUMNS = ["claim", "section", "test", "verdict", "reason", "needed", "p", "p_holm", "parts", "parts_tested"]
PART_COLUMNS = ["claim", "a", "b", "side", "bound", "quantity", "thesis", "thesis_noise", "ours", "low", "high", "p_for"]
PART_COLUMNS += ["seeds_a", "seeds_b", "n", "reading", "needed"]


def parts(protocol, root="."):
    """Every part of every claim as a DataFrame with :data:`PART_COLUMNS`.

    ``thesis``, ``ours``, ``low`` and ``high`` are A − B in points (of the image's side for mean distances, of its pixels for
    "seen"), ``thesis_noise`` half the 95 % interval that the thesis' accuracies have by its 3,925 images alone, ``p_for``
    the one-sided p of the part, ``n`` the images. ``reading``, of the uncorrected interval: "for", "against", "not clear",
    "too few seeds" or "no record yet". ``needed``: seeds of each row, see the module; infinite where no number would do.
    """
    records = independent_runs(protocol, root)
    wanted = {name for claim in CLAIMS for pair in claim.pairs for name in pair if name}
    answers, rows = results.read_answers(protocol, wanted, records, root), []
    profiles = {name: _trained_distances(protocol, name, records, root) for name in answers}
    for claim in CLAIMS:
        sides = {"within": [("above", -claim.bound), ("below", claim.bound)]}.get(claim.side, [(claim.side, claim.bound)])
        for (a, b), (side, bound) in itertools.product(claim.pairs, sides):
            row = {"claim": claim.text, "a": a, "b": b, "side": side, "bound": bound, "quantity": claim.quantity}
            row |= {f"seeds_{key}": len(answers[name][1]) if name in answers else 0 for key, name in (("a", a), ("b", b))}
            row["reading"] = "no record yet"
            if claim.quantity == "seen":
                row |= _seen(a, root)
            elif claim.quantity == "top1":
                row |= _thesis(a, b)
                if a in answers and b in answers:
                    row |= {"n": len(answers[a][0])} | _part(results.compare(a, b, answers), side, bound)
            elif a in answers and b in answers:
                each = [list(map(DISTANCES[claim.quantity], profiles[name])) for name in (a, b)]
                row |= _part(statistics.compare_values(*each), side, bound)
            rows.append(row)
    return pd.DataFrame(rows, columns=PART_COLUMNS)


def evaluate(frame):
    """The verdict on every claim, from what :func:`parts` gave: a DataFrame with :data:`COLUMNS`, in the order of
    :data:`CLAIMS`; ``verdict`` is "holds", "does not hold" or "open", ``reason`` says why it is open, and ``needed`` how
    many seeds of each row would settle it, NaN where that is unknown or settled."""
    rows = []
    for claim in CLAIMS:
        mine = frame[frame["claim"] == claim.text]
        tested = mine["p_for"].dropna()
        whole = len(tested) == len(mine)
        p_for = tested.max() if whole else 1.0
        p_against = min(1.0, len(tested) * (1 - tested).min()) if len(tested) else 1.0
        row = {"claim": claim.text, "section": claim.section, "test": claim.test, "parts": len(mine)}
        row |= {"parts_tested": len(tested), "for": p_for < p_against, "none": (mine["seeds_a"] == 0).all()}
        row["p"] = min(1.0, 2 * min(p_for, p_against)) if len(tested) else math.nan
        rows.append(row | {"needed": _needed(mine) if whole else math.nan})
    found = pd.DataFrame(rows)
    found["p_holm"] = statistics.holm(found["p"])
    clear = found["p_holm"] <= statistics.LEVEL
    found["verdict"] = found["for"].map({True: "holds", False: "does not hold"}).where(clear, "open")
    found["needed"] = found["needed"].where(~clear)
    found["reason"] = [_reason(row) for row in found.to_dict("records")]
    return found[COLUMNS]


def _trained_distances(protocol, variant, records, root):
    """Mean distances of a row's trained networks over the blocks, one array per seed, as shares of the image's side."""
    seeds = records.loc[records["variant"] == variant, "seed"]
    return [_shares(load_profile(protocol, variant, seed, root)) for seed in seeds]


def initial_distances(root="."):
    """k -> mean distance over the early blocks at initialisation, full size, of k = 0, 1, 3 and 5 permutations, as far as
    measured; of one draw of the permutations each, so a description and no test."""
    found = {}
    for k in (0, 1, 3, 5):
        with contextlib.suppress(MissingRecord):
            found[k] = DISTANCES["early"](_shares(load_initial(f"resnet50_perm{k}" if k else PLAIN, root)))
    return found


def caption(protocol, root="."):
    """How to read :func:`table`, as one paragraph."""
    text = (
        f"What the thesis concludes, tested on the records of protocol `{protocol}`: A − B in points, with a 95 % interval "
        f"over seeds and images where both rows have {statistics.MIN_SEEDS} seeds, otherwise without; seeds of A/B. Thesis: "
        "one run each, ~ where the difference is within the noise of its 3,925 images alone. p is Holm's, over the claims "
        "that can be tested; seeds it would take: for 80 % power at the difference found. "
        f"“Does not help” holds where the gain is shown to be below {MARGIN} points."
    )
    first = initial_distances(root)
    if len(first) > 1:
        text += f" For comparison, mean distance over blocks 1–{EARLY} of the full-size networks at initialisation: "
        text += ", ".join(f"{100 * share:.0f} % of the side for k = {k}" for k, share in first.items()) + "."
    return text


def table(protocol, root="."):
    """The claims as a :class:`ctxnet.paper.words.Table`, each with its parts."""
    if not results.has_thesis_numbers(results.settings_of(protocol, root)):
        return words.Table([], [], caption=OTHER_DATA)
    found = parts(protocol, root)
    header = ["what the thesis concludes", "§", "Δ thesis", f"Δ {protocol}, 95 %", "seeds", "p", "verdict"]
    rows = []
    for row in evaluate(found).to_dict("records"):
        mine = found[found["claim"] == row["claim"]].drop_duplicates(["a", "b"]).to_dict("records")
        thesis, ours, seeds = ("<br>".join(each) for each in zip(*map(_part_cells, _telling(mine)), strict=True))
        claim = f"{row['claim']}<br><small>{row['test']}</small>".replace(" = ", "\u00a0=\u00a0")
        verdict = f"**{row['verdict']}**" + (f": {row['reason']}" if row["reason"] else "")
        rows.append([claim, row["section"], thesis, ours, seeds, words.p_text(row["p_holm"]), verdict])
    shown = tuple(sorted({name for claim in CLAIMS for pair in claim.pairs for name in pair if name}))
    after = _about_blind(protocol, shown, root)
    return words.Table(header, rows, (2, 3, 4, 5), caption=caption(protocol, root), after=after, shows=shown, file=FILE)


def _about_blind(protocol, shown, root):
    """Of which of the rows ``shown`` a claim says something about zero padding; "" where of none, or nobody measured it."""
    wiring = results.load_wiring(protocol, root)
    shares = {name: results.blind_share(row)[0] for name, row in wiring.items() if name in shown}
    named = [f"{VARIANTS[name].label} ({100 * share:.0f} %)" for name, share in shares.items() if share > results.BLIND]
    if not named:
        return ""
    return (
        f"At this size more than {100 * results.BLIND:.0f} % of the weights see nothing but padding in {', '.join(named)}: "
        "claims about these rows are in part claims about zero padding."
    )


def summary(protocol, root="."):
    """How many claims hold, do not and are open, by name, as Markdown."""
    if not results.has_thesis_numbers(results.settings_of(protocol, root)):
        return OTHER_DATA
    found = evaluate(parts(protocol, root))
    lines = []
    for verdict, what in (("holds", "hold"), ("does not hold", "do not hold"), ("open", "are open")):
        names = list(found.loc[found["verdict"] == verdict, "claim"])
        lines.append(f"- **{len(names)} of {len(found)} {what}**" + (f": {'; '.join(names)}." if names else "."))
    return "\n".join(lines)


def write_claims(protocol, root=".", home=None):
    """Write ``claims.csv`` (a line per part, with the claim's verdict) beside the tables, as :func:`words.write_tables`.

    Returns:
        Its path, or None for data of one's own, on which the thesis says nothing.
    """
    if not results.has_thesis_numbers(results.settings_of(protocol, root)):
        return None
    found = parts(protocol, root)
    verdicts = evaluate(found).set_index("claim")[["p_holm", "verdict", "reason"]].add_prefix("claim_")
    home = Path(home or Path(root) / "results" / protocol)
    words.write_frames(home, {FILE: found.join(verdicts, on="claim")})
    return home / FILE


def _part(found, side, bound):
    row = {"ours": 100 * found.difference, "low": 100 * found.low, "high": 100 * found.high, "reading": "too few seeds"}
    if found.testable:
        above = found.p_above(bound / 100)
        row["p_for"] = above if side == "above" else 1 - above
        half = statistics.LEVEL / 2
        row["reading"] = "for" if row["p_for"] <= half else "against" if row["p_for"] >= 1 - half else "not clear"
        scatter = found.sd_a**2, found.sd_b**2, found.variance_images
        effect, level = found.difference - bound / 100, statistics.LEVEL / len(CLAIMS)
        row["needed"] = statistics.seeds_needed(effect, *scatter, level=level)
    return row


def _needed(mine):
    """Seeds that would settle a claim the way its tested parts point; all of them have to be shown for it, one against."""
    against = mine.loc[mine["p_for"] > 0.5, "needed"]
    return float(against.min() if len(against) else mine["needed"].max())


def _seen(name, root):
    """Whether the receptive field at block :data:`SOON` is the whole image, and what it lacks: certain, so p is 0 or 1."""
    try:
        lacks = 100 * (float(load_initial(name, root).rf[SOON - 1].double().mean()) - 1)
    except MissingRecord:
        return {}
    return {"ours": lacks, "low": lacks, "high": lacks, "p_for": float(lacks < 0), "reading": "against" if lacks else "for"}


def _thesis(a, b):
    if not (VARIANTS[a].thesis_top1 and VARIANTS[b].thesis_top1):
        return {}
    top1s = [VARIANTS[name].thesis_top1 / 100 for name in (a, b)]
    noise = statistics.Z95 * math.sqrt(sum(t * (1 - t) for t in top1s) / results.IMAGENETTE)
    return {"thesis": round(100 * (top1s[0] - top1s[1]), 2), "thesis_noise": 100 * noise}


def _reason(row):
    """Why a claim is open."""
    if row["verdict"] != "open":
        return ""
    if row["parts_tested"] < row["parts"]:
        some = f" for {row['parts'] - row['parts_tested']} of {row['parts']} comparisons" if row["parts_tested"] else ""
        return f"too few seeds{some}" + (": no run of these rows in this protocol" if row["none"] else "")
    more = "" if row["needed"] <= statistics.MOST_SEEDS else ", or more images,"
    return f"not clear with these seeds; it would take {words.how_many(row['needed'])} seeds{more} of each row"


def _telling(mine):
    """The parts that a cell has room for: all of a few; else the tested ones, or the closest, and how many more."""
    if len(mine) <= 3:
        return mine
    tested = [row for row in mine if not words.unknown(row["p_for"])]
    closest = [row for row in mine if not words.unknown(row["ours"])] or mine
    shown = sorted(tested, key=lambda row: -row["p_for"])[:3] or sorted(closest, key=lambda row: row["ours"])[:1]
    return [row | {"named": True} for row in shown]


def _part_cells(row):
    """(thesis, ours, seeds) of one part."""
    thesis, ours = "–", "–"
    if not words.unknown(row["thesis"]):
        thesis = words.minus(f"{row['thesis']:+.2f}") + ("\u00a0~" if abs(row["thesis"]) <= row["thesis_noise"] else "")
    if not words.unknown(row["ours"]):
        ours = f"{round(row['ours'], 1) + 0.0:+.1f}"  # no −0.0
        if not words.unknown(row["p_for"]) and row["b"]:
            ours += f"\u00a0[{row['low']:+.1f},\u00a0{row['high']:+.1f}]"
    if row.get("named"):
        of_a = row["b"] in ("", PLAIN)
        label = VARIANTS[row["a" if of_a else "b"]].label.replace(" = ", "=")
        ours = f"{label}: {ours}" if of_a else f"{ours} to {label}"
    return thesis, words.minus(ours), f"{row['seeds_a']}/{row['seeds_b']}" if row["b"] else "–"


def _shares(profile):
    return profile.distance.double().numpy() / profile.rf.shape[-1]
