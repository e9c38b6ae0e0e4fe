"""Appendix C's trained comparison: label smoothing and stochastic depth where images are few (protocols ``few*``)."""

from ctxnet.paper import results, statistics, words
from ctxnet.paper.results import load_records, read_answers

ROW = "resnet20"
PLAIN = "few"
PROTOCOLS = {
    PLAIN: "neither", "few_smoothed": "label smoothing, ε = 0.1",
    "few_depth": "stochastic depth, the last branch survives in one half",
}  # fmt: skip


def load_right(root="."):
    """protocol -> (image ids, bool (seeds, images)) of those that have a run."""
    every = {name: read_answers(name, [ROW], load_records(name, root), root) for name in PROTOCOLS}
    return {name: answers[ROW] for name, answers in every.items() if ROW in answers}


def differences(found, root="."):
    """protocol -> (Comparison to the plain one, p after Holm's correction), each once all of its seeds are there.

    Args:
        found: as :func:`load_right` gives it.
    """
    whole = {name for name in found if len(found[name][1]) == len(results.settings_of(name, root).seeds)}
    others = [name for name in PROTOCOLS if name != PLAIN and {name, PLAIN} <= whole]
    tests = {name: results.compare(name, PLAIN, found) for name in others}
    corrected = statistics.holm([test.p for test in tests.values()])
    return {name: (tests[name], p) for name, p in zip(tests, corrected, strict=True)}


def table(root="."):
    """Accuracy of each recipe, and its difference to the plain one with an interval over seeds and images."""
    found = load_right(root)
    tests, lines = differences(found, root), []
    for name, label in PROTOCOLS.items():
        if name not in found:
            lines.append([label, f"`{results.make_command(name)}`", "", "", "", ""])
            continue
        right = found[name][1]
        mean, deviation = statistics.mean_sd(right.mean(1))
        cells = [str(len(right)), f"{100 * mean:.1f}", words.points(deviation, ".1f"), "", ""]
        if name in tests:
            test, p = tests[name]
            interval = f"{words.points(test.low, '+.1f')} … {words.points(test.high, '+.1f')}"
            cells[3:] = [f"{words.points(test.difference, '+.1f')} ({interval})", words.p_text(p)]
        lines.append([label, *cells])
    header = ["in training", "seeds", "right %", "s.d.", "difference (95 %)", "p, Holm"]
    return words.Table(header, lines, range(1, len(header)), rests_on=tuple(PROTOCOLS))
