"""CONTRIBUTING.md keeps its word: a block, a row, a protocol, a chapter and a rule, each by the lines it states."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

ROOT = Path(__file__).parents[1]
BLOCK = '''"""The opposite place: every feature is added to the one on the other side of the map, by our own operator."""

import torch

from ctxnet.blocks.base import ContextBlock
from ctxnet.measure.rules import elementwise, rule


@torch.library.custom_op("my_library::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return 2 * x


@twice.register_fake
def _(x):
    return torch.empty_like(x)


twice.register_autograd(lambda context, gradient: 2 * gradient)


RULE


class Opposite(ContextBlock):
    context = "opposite"

    def __init__(self, channels, *, seed=0, layer=""):
        super().__init__(channels)

    def forward(self, x):
        return x + twice(x.flip(2, 3))
'''
RULE = 'rule("my_library::twice")(elementwise)'
ROW = '    "resnet50_opposite": Variant("the opposite place", 50, "4.1", args={"context": "opposite"}),\n'
PROTOCOL = """  mine:
    <<: *small
    dataset: data/my_birds
    note: Birds only.
"""
ROWS = "  mine: [resnet50, resnet50_opposite]\n"


def chapter():
    parameters = 'protocol = "mine"\nsave = False\nroot = "."'
    drawing = (
        "from ctxnet.paper.figures import figure, show, style\n\n"
        '@figure("D.1", caption="Nothing, in `D.1`.", alt="An empty pair of axes, for the test of the chapters.")\n'
        "def nothing():\n    fig = style.new_figure()\n    fig.subplots()\n    return fig\n\nassert nothing\n"
        'show("D.1", protocol, root, save=save)'
    )
    table = 'from ctxnet.paper import words\nwords.table("4.1", protocol, root)'
    cells = [new_markdown_cell("# C Birds\n\nAbout birds."), new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    return new_notebook(cells=[*cells, new_code_cell(drawing), new_code_cell(table)])


def insert(path, after, text):
    """Put ``text`` after the one line that starts with ``after``."""
    found = path.read_text()
    assert len(re.findall(f"^{after}", found, re.M)) == 1
    path.write_text(re.sub(f"^({after}.*\n)", lambda match: match[1] + text, found, flags=re.M))


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A copy with one of each added, in which everything has been built."""
    root = tmp_path_factory.mktemp("extended")
    for name in ("ctxnet", "tests", "params.yaml", "dvc.yaml"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, root / name)
    (root / "notebooks").mkdir()
    shutil.copy(ROOT / "notebooks/05_conclusion.ipynb", root / "notebooks")
    (root / "ctxnet/blocks/opposite.py").write_text(BLOCK.replace("RULE", RULE))
    insert(root / "ctxnet/models/variants.py", "VARIANTS = {", ROW)
    insert(root / "params.yaml", "protocols:", "")
    text = (root / "params.yaml").read_text()
    (root / "params.yaml").write_text(text.replace("\n  fast: &fast\n", f"\n{PROTOCOL}  fast: &fast\n", 1))
    insert(root / "params.yaml", "own_rows:", ROWS)
    nbformat.write(chapter(), root / "notebooks/C_birds.ipynb")
    code = (
        "import sys; sys.path.insert(0, 'tests')\nfrom pathlib import Path\nimport test_report\n"
        "test_report.REPO = Path('.')\n"
        "test_report.shutil.copy = lambda *names: None\n"
        "rows = ['resnet50', 'resnet50_opposite']\n"
        "test_report.fabricate(Path('.'), rows, protocol='mine', seeds=(0, 1, 2), measured=False)\n"
        "import ctxnet\n"
        "model = ctxnet.create_model('resnet50_opposite', width=4, input_size=32)\n"
        "print(*(ctxnet.receptive_field(model, 'layer1.0', (32, 32), position=(1, 1)).nonzero().T.tolist()))\n"
        "import torch\n"
        "print(ctxnet.context_profile(model.eval(), torch.randn(1, 3, 32, 32), ['layer1.0']).exact)\n"
        "from ctxnet.pipeline.stages import report, site\nreport('mine')\nprint(site('mine'))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return root, done.stdout.splitlines()


def test_each_takes_the_lines_that_are_promised():
    assert len(ROW.splitlines()) == len(RULE.splitlines()) == 1 and len((PROTOCOL + ROWS).splitlines()) <= 5
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for what in ("| a context block | one file |", "| a row | one line |", "| a protocol | at most 5 lines |",
                 "| a chapter | one notebook |", "| a rule for an operator | one call |",
                 "| a figure | one function |"):  # fmt: skip
        assert what in text


def test_block_and_rule_are_measured_exactly(extended):
    _, printed = extended
    rows, columns = (eval(part) for part in re.findall(r"\[[^\]]*\]", printed[0]))
    seen = set(zip(rows, columns, strict=True))
    assert (4, 4) in seen and (24, 24) in seen and (4, 24) not in seen  # itself, and the opposite of position (1, 1) of 8×8
    assert printed[1] == "[True]"


def test_row_and_protocol_are_in_tables_cards_and_pages(extended):
    root, _ = extended
    results = root / "results/mine"
    for path in (results / "tables/table_4_1.md", root / "site/index.html", root / "site/C_birds.html"):
        assert "the opposite place" in path.read_text() and "90.42" not in path.read_text(), path
    assert "resnet50_opposite" in (root / "results/dvc/metrics/mine.json").read_text()
    assert "thesis %" not in (results / "tables/table_4_1.md").read_text()
    assert {path.stem for path in (results / "cards").iterdir()} == {"resnet50", "resnet50_opposite"}
    card = (results / "cards/resnet50_opposite.md").read_text()
    assert "my\\_birds" in card and "90.42" not in card and "Table 4.1" in card
    assert "Birds only." in (root / "site/index.html").read_text()
    assert (root / "site/cards/resnet50_opposite.html").exists()
    assert not (results / "tables/claims.csv").exists()


def test_chapter_and_figure_are_in_the_menu_and_on_their_page(extended):
    root, _ = extended
    assert '<a href="C_birds.html">C Birds</a>' in (root / "site/index.html").read_text()
    page = (root / "site/C_birds.html").read_text()
    assert 'id="figure-D-1"' in page and "Nothing, in <code>D.1</code>." in page and 'id="table-4-1"' in page
    assert (root / "site/figures/figure_D_1.svg").exists() and (root / "results/mine/figures/figure_D_1.svg").exists()
