"""Do the tests hold the measures? Changes one line at a time and runs the tests that should notice.

    python -m benchmarks.mutations [--only RULES] [--first 10]

Every change is applied to a copy of the repository in a temporary folder, so that nothing here is touched. A change is
killed when a test fails, and survives when all pass; "stale" says that its old text is no longer in the file.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import pytest
import timm  # noqa: F401  loaded once, for all children
import torch
import torchvision  # noqa: F401

ROOT = Path(__file__).parents[1]
# Fastest first: most changes die at the first of them.
TESTS = [
    "tests/test_measure_kinds.py", "tests/test_measure_operators.py", "tests/test_asking.py", "tests/test_signals.py",
    "tests/test_fuzzing.py", "tests/test_receptive_field.py", "tests/test_between.py",
]  # fmt: skip
SECONDS = 600

RULES, GRAPH, FIELD = "ctxnet/measure/rules.py", "ctxnet/measure/graph.py", "ctxnet/measure/receptive_field.py"
BETWEEN, GRIDS, LOCAL = "ctxnet/measure/between.py", "ctxnet/measure/grids.py", "ctxnet/measure/local.py"
SHARE, COPY = "ctxnet/measure/share.py", "ctxnet/measure/isolation.py"

# (file, old text, new text); the first place counts where the old text occurs several times.
CHANGES = [
    # Windows: which inputs an output reads, and where it sits.
    (RULES, "(offset >= 0) & (offset <=", "(offset > 0) & (offset <="),
    (RULES, "(offset <= (kernel - 1) * dilation)", "(offset < (kernel - 1) * dilation)"),
    (RULES, "& (offset % dilation == 0)", ""),
    (RULES, "(torch.arange(outputs) * stride - padding)", "(torch.arange(outputs) * stride + padding)"),
    (
        RULES,
        "reach = _taps(size, out, k, stride, padding, dilation).T",
        "reach = _taps(size, out, k, stride, 0, dilation).T",
    ),
    (RULES, "* stride + (k - 1) * dilation / 2 - padding", "* stride - padding"),
    (RULES, "+ padding - (k - 1) * dilation / 2) / stride", "+ padding) / stride"),
    (RULES, "* s + (k - 1) * d / 2 - p", "* s + k * d / 2 - p"),
    (FIELD, "[int(self.index[position])]", "[int(self.index[position]) + 1]"),
    (RULES, 'Channels(call["groups"], inputs[1], outputs[1])', "Channels(1, inputs[1], outputs[1])"),
    (RULES, "first = torch.arange(out) * size // out", "first = -(-(torch.arange(out) * size) // out)"),
    (RULES, "end = -(-(torch.arange(1, out + 1) * size) // out)", "end = torch.arange(1, out + 1) * size // out"),
    (RULES, "centers.append((first + end - 1).double() / 2)", "centers.append(first.double())"),
    (RULES, "(at + 0.5) * size / out - 0.5", "at * size / out"),
    (RULES, "at * (size - 1) / max(out - 1, 1) if corners", "at * size / max(out, 1) if corners"),
    # Steps back.
    (RULES, "self._split(mask).any(3).repeat_interleave(self.inputs // self.groups, 2)", "mask.any(2, keepdim=True)"),
    (
        RULES,
        "mask = mask.expand(shape).movedim(self.dim, -1)[..., self.known]",
        "mask = mask.expand(shape).movedim(self.dim, -1)",
    ),
    (
        RULES,
        "result.index_add_(-1, self.source[self.known], mask.float())",
        "result.index_add_(-1, self.source.clamp(min=0), mask.float())",
    ),
    (RULES, "return mask.permute(self.inverse)", "return mask.permute(self.order)"),
    (RULES, "result[row, self.source[element]] = True", "result[row, self.source[element] - 1] = True"),
    (
        RULES,
        "return mask.any(dims, keepdim=True) if dims else mask",
        "return mask[(slice(None), *[slice(1)] * (mask.ndim - 1))] if dims else mask",
    ),
    (RULES, "if bool((tensor == first).all()):", "if bool((tensor == first).any()):"),
    # Rules: dimensions that are mixed, and what is exact.
    (
        RULES,
        "return [(node, [Mix()]) for node in call.inputs], True",
        "return [(node, [Mix()]) for node in call.inputs], False",
    ),
    (RULES, "for part in (half, half + len(half))]", "for part in (half, half)]"),
    (RULES, "squeeze=not keep)])], False", "squeeze=not keep)])], True"),
    (RULES, "return [(node, [Whole((1,) * ndim)])], True", "return [(node, [Mix()])], True"),
    (RULES, "torch.ones(size, size).tril().bool()", "torch.ones(size, size).triu().bool()"),
    (RULES, "torch.ones(size, size).tril().bool()", "torch.ones(size, size).bool()"),
    (RULES, 'Mix(range(ndim - len(call["normalized_shape"]), ndim))', "Mix([ndim - 1])"),
    (RULES, "[Mix(range(2, len(shape))), Channels(groups, shape[1], shape[1])]", "[Mix(range(2, len(shape)))]"),
    (RULES, "[Mix(range(2, len(shape))), Channels(groups, shape[1], shape[1])]", "[Channels(groups, shape[1], shape[1])]"),
    (RULES, "Mix([0, *range(2, ndim)] if uses_batch else ())", "Mix([0, *range(2, ndim)])"),
    (RULES, "Mix([0, *range(2, ndim)] if uses_batch else ())", "Mix(())"),
    (RULES, "steps = [Mix([ndim - 1]) if pattern is None", "steps = [Mix([ndim - 2]) if pattern is None"),
    (RULES, "Mix([ndim - 2], cost=_JITTER) if pattern is None", "Mix([ndim - 1], cost=_JITTER) if pattern is None"),
    (RULES, 'if name != "value":', "if False:"),
    (RULES, "if allowed is None else Contract(allowed, True, ndim)", "if True else Contract(allowed, True, ndim)"),
    (RULES, "if heads not in (1, out):", "if False:"),
    (RULES, "query[-2], key[-2], dtype=torch.bool).tril()", "query[-2], key[-2], dtype=torch.bool).triu()"),
    (RULES, "exact = not bool(((value <= NEARLY) & (value > SHUT)).any())", "pass"),
    (RULES, "return allowed | ~allowed.any(-1, keepdim=True), exact", "return allowed, exact"),
    (
        RULES,
        'return elementwise(call)\n        return [(node, [Whole(node.meta["val"].shape)]) for node in call.inputs], False',
        "return elementwise(call)\n        return [(node, [Mix()]) for node in call.inputs], False",
    ),
    (RULES, "start += shape[dim]", "start += 0"),
    (RULES, "source[number] = 0", "source[0] = 0"),
    (RULES, "source = torch.arange(out) - left", "source = torch.arange(out)"),
    (RULES, "torch.where(source < size, source, -1).clamp(min=-1)", "source.clamp(0, size - 1)"),
    # The walk, the places, the layouts.
    (FIELD, "masks[source] = masks[source] | reached if source in masks else reached", "masks[source] = reached"),
    (FIELD, "exact &= ~touched", "pass"),
    (FIELD, "tuple(size // 2 for size in self.size)", "tuple((size - 1) // 2 for size in self.size)"),
    (FIELD, "min(fitting, key=lambda m: m.cost)", "max(fitting, key=lambda m: m.cost)"),
    (FIELD, "return output[self._where(position)]", "return output[self._where(position[::-1])]"),
    (FIELD, "if moved != inside and (exact or moved):", "if moved != inside and exact:"),
    (GRAPH, "found[layer] = output.clone()", "found[layer] = output"),
    (COPY, "memo[id(tensor)] = tensor.detach().clone()", "memo[id(tensor)] = tensor"),
    (COPY, "made = copy.copy(parameter) if", "return parameter\n    made = copy.copy(parameter) if"),
    # Fields between layers, grids, tiles, local fields, shares.
    (BETWEEN, "masks[source] = masks[source] | reached if source in masks else reached", "masks[source] = reached"),
    (BETWEEN, "exact &= all_exact", "pass"),
    (GRIDS, "place * stride - box[0]", "place * stride + box[0]"),
    (
        GRIDS,
        "after[dim] = max(after[dim], end - own - step[dim])",
        "after[dim] = max(after[dim], end - own - 2 * step[dim])",
    ),
    (GRIDS, "if moved != boxes:", "if False:"),
    (LOCAL, "return [Mix()] if _varying(place) and not _varying(after) else steps", "return steps"),
    (LOCAL, "> channels else None", "> 0 else None"),
    (SHARE, "distance <= r", "distance < r"),
]


def copied(folder):
    keep = shutil.ignore_patterns("__pycache__", ".*", "results", "site", "data", "notebooks")
    shutil.copytree(ROOT, folder, ignore=keep, dirs_exist_ok=True)


def tried(folder, file, old, new, tests):
    """"killed", "survived" or "stale", and what the tests said."""
    path = Path(folder) / file
    text = path.read_text()
    if old not in text:
        return "stale", ""
    path.write_text(text.replace(old, new, 1))
    said = Path(folder) / "said.txt"
    child = os.fork()  # with the large libraries loaded, which takes longer than most tests
    if not child:
        _run(folder, said, ["-x", "-q", "-p", "no:cacheprovider", "-m", "not torture", *tests])
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    path.write_text(text)
    lines = said.read_text().strip().splitlines()
    short = next((line for line in lines if line.startswith(("FAILED", "ERROR"))), lines[-1] if lines else "")
    return "killed" if code else "survived", short


def _run(folder, said, arguments):
    try:
        with open(said, "w") as out:
            os.dup2(out.fileno(), 1)
            os.dup2(out.fileno(), 2)
        signal.alarm(SECONDS)
        os.chdir(folder)
        sys.path[:] = [str(folder), *(p for p in sys.path if Path(p or ".").resolve() != ROOT)]
        sys.dont_write_bytecode = True
        code = int(pytest.main(arguments))
        sys.stdout.flush()
    except BaseException:  # noqa: BLE001
        code = 1
    os._exit(code)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="changes of files whose path contains this")
    parser.add_argument("--numbers", type=int, nargs="*", help="changes by number, from 0")
    options = parser.parse_args()
    torch.set_num_threads(1)
    assert "ctxnet" not in sys.modules
    counts = {"killed": 0, "survived": 0, "stale": 0}
    with tempfile.TemporaryDirectory() as folder:
        copied(folder)
        if tried(folder, *(RULES, "", ""), TESTS)[0] != "survived":
            sys.exit("the tests fail without any change; mend that first")
        for number, (file, old, new) in enumerate(CHANGES):
            if options.only not in file or (options.numbers and number not in options.numbers):
                continue
            start = time.time()
            verdict, said = tried(folder, file, old, new, TESTS)
            counts[verdict] += 1
            took = f"{time.time() - start:.0f} s"
            print(f"{number:3} {verdict:8} {took:>6} {Path(file).name}: {old!r} -> {new!r}  {said[:90]}", flush=True)
    print(f"{counts['killed']} of {sum(counts.values())} killed, {counts['survived']} survived, {counts['stale']} stale")
    return int(counts["survived"] + counts["stale"] > 0)


if __name__ == "__main__":
    sys.exit(main())
