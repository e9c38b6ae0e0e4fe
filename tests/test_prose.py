"""No number in prose without a source: README and chapters are read again, and every measured number is looked up.

A number counts as sourced where a marker renders it (README), where a check of the same chapter states it, where it is a
result that the thesis printed, or a setting that goes with its unit: 64 px is an image's side, 64 points are nobody's.
What stands in “ ” is somebody else's. Questions may suppose any number; their answers may not.
"""

import ast
import functools
import itertools
import re
from pathlib import Path

import nbformat
import pytest

from ctxnet.models.variants import VARIANTS
from ctxnet.paper import results, words
from ctxnet.training import load_params

ROOT = Path(__file__).parents[1]
CHAPTERS = sorted((ROOT / "notebooks").glob("*.ipynb"))
UNIT = r"(?:%|(?:points?|px|pixels?|M|million|billion|seeds?|minutes?|images|times|epochs|tokens|weights|networks)\b)"
QUANTITY = re.compile(rf"(?<![\w.§−–-])[−+±]?(\d[\d,]*(?:\.\d+)?)(?:[ \u00a0]({UNIT})|(%))")
SIDES = ("image_size", "distance", "dose", "mark")
SHARES = ("held_out", "label_smoothing", "drop_rate", "drop_path", "min_crop")
COUNTS = ("train_images", "valid_images", "images", "profile_images", "summed_images", "batch_size")
SETTINGS = {"px": SIDES, "pixel": SIDES, "epoch": ("epochs", "decay_epochs", "warmup_epochs"), "image": COUNTS, "%": SHARES}
SCALES = {"%": (1, 100), "point": (1, 100), "M": (1, 1e-6), "million": (1, 1e-6), "billion": (1, 1e-9)}
LISTS = {"Abbreviations"}  # sections with nothing to think about
SMALL = 12  # a whole number up to here counts what stands beside it


def plain(text):
    """Prose without code, formulas, links' addresses and what a marker renders."""
    for pattern in (r"```.*?```", r"`[^`]*`", r"\$\$.*?\$\$", r"\$[^$]*\$", r"<!-- table.*?<!-- end -->",
                    r"<!-- [\w]+: [\w-]+ -->.*?<!-- end -->", r"\]\([^)]*\)", r"“[^”]*”",
                    r"\*\*Question\.\*\*.*?(?=\n<details>)"):  # fmt: skip
        text = re.sub(pattern, " ", text, flags=re.S)
    return text


def quantities(text):
    """(number, unit) of everything with a unit in a piece of prose, as written; the unit without its plural's s."""
    return [(found[1], (found[2] or found[3]).removesuffix("s")) for found in QUANTITY.finditer(plain(text))]


def constants(code):
    """Numbers that a chapter's checks state: those in cells that assert something."""
    tree = ast.parse(re.sub("(?m)^[%!].*$", "", code))
    if not any(isinstance(node, ast.Assert) for node in ast.walk(tree)):
        return set()
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and type(node.value) in (int, float)}


def numbers_in(settings, keys):
    """The numbers that stand under one of these keys, at any depth."""
    found = set()
    for key, value in settings.items():
        if isinstance(value, dict):
            found |= numbers_in(value, keys)
        elif key in keys:
            found |= {number for number in (value if isinstance(value, list) else [value]) if type(number) in (int, float)}
    return found


def known_everywhere():
    """What the thesis printed: accuracies, parameters, differences to its ResNet-50; sizes of Imagenette, ImageNet."""
    top1 = [row.thesis_top1 for row in VARIANTS.values() if row.thesis_top1]
    printed = {row.thesis_params for row in VARIANTS.values() if row.thesis_params} | set(top1)
    printed |= {abs(value - VARIANTS[results.BASELINE].thesis_top1) for value in top1}
    return printed | {results.IMAGENETTE, 9469, 2, 1000}


@functools.cache
def settings_with(unit):
    """Numbers of ``params.yaml`` that may stand before a unit."""
    return numbers_in(load_params(ROOT / "params.yaml"), SETTINGS.get(unit, ()))


def unsourced(text, known):
    found = []
    for number, unit in quantities(text):
        value = float(number.replace(",", ""))
        digits = len(number.partition(".")[2])
        whole = not digits and value <= SMALL
        sources = itertools.product(known | settings_with(unit), SCALES.get(unit, (1,)))
        same = (round(abs(v) * scale, digits) == value for v, scale in sources)
        found += [] if whole or any(same) else [number]
    return found


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_numbers_of_a_chapter_are_checked_in_it(path):
    cells = nbformat.read(path, 4).cells
    known = known_everywhere().union(*(constants(cell.source) for cell in cells if cell.cell_type == "code"))
    prose = [(cell.id, unsourced(cell.source, known)) for cell in cells if cell.cell_type == "markdown"]
    assert not [(cell, numbers) for cell, numbers in prose if numbers], "check these numbers in a cell, or render them"


def test_numbers_of_the_readme_are_rendered_or_settings():
    assert not unsourced((ROOT / "README.md").read_text(), known_everywhere())


def test_a_made_up_number_is_found():
    assert unsourced("It gains 47.3 points, or 512 seeds.", {0.5, 47}) == ["47.3", "512"]
    assert unsourced("64 px of 64 points, 3,000 images in 3,000 px, 90 % or 0.9 px", set()) == ["64", "3,000", "0.9"]
    assert not unsourced("It gains 47.3 points (`99 %`), $12\\,\\%$; <!-- seeds: small -->513 seeds<!-- end -->", {0.473})
    assert not unsourced("**Question.** If it gains 45.5 points?\n\n<details><summary>Answer</summary>Then so.", set())


def test_what_the_readme_says_of_records_is_what_they_say(tmp_path):
    text = (ROOT / "README.md").read_text()
    emptied = re.sub(r"(<!-- (?!table)\w+: [\w-]+ -->)[^<]*", r"\g<1>", text)
    assert emptied != text and set(re.findall(r"<!-- (\w+): [\w-]+ -->", text)) >= {*words.SAID}
    (tmp_path / "README.md").write_text(emptied)
    words.write_overview(tmp_path / "README.md", "small", ROOT)
    assert (tmp_path / "README.md").read_text() == text, "renew it: python -m ctxnet report --readme README.md …"


def silent_sections(texts):
    """Headings of sections, such as "4.9 …", in which nothing is asked; what is below them counts as theirs."""
    asked = {}
    for line in "\n".join(texts).splitlines():
        if heading := re.match(r"## (.+)", line):
            section = heading[1]
            asked[section] = 0
        elif asked:
            asked[section] += line.startswith("**Question.**")
    return [section for section, questions in asked.items() if not questions and section not in LISTS]


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_every_section_asks_something(path):
    assert not silent_sections(cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "markdown")


def test_a_section_without_a_question_is_found():
    texts = ["## 1.1 Asked\n### Below", "**Question.** Why?", "## A.2 Not asked\ntext", "## Nor here", "## Abbreviations"]
    assert silent_sections(texts) == ["A.2 Not asked", "Nor here"]


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_says_what_it_costs_and_asks_something(path):
    cells = nbformat.read(path, 4).cells
    assert any(f'words.cost("{path.stem}"' in cell.source for cell in cells[:6])
    asked = [cell.source for cell in cells if cell.source.startswith("**Question.**")]
    assert asked and all("<details><summary>Answer</summary>\n\n" in text and text.endswith("</details>") for text in asked)
