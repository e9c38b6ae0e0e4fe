"""What holds for every notebook as it lies in git. That they run is nbval's and the pipeline's business."""

import ast
import re
from pathlib import Path

import nbformat
import pytest

from ctxnet.pipeline.notebook import declared_parameters

FOLDER = Path(__file__).parents[1] / "notebooks"
CHAPTERS = [
    "01_introduction",
    "02_architectures",
    "03_method",
    "04_experiments",
    "05_conclusion",
    "10_law",
    "A_atlas",
    "B_erf_visualizations",
]
NOTEBOOKS = [*CHAPTERS, "runs/measure", "runs/train"]


@pytest.fixture(params=NOTEBOOKS)
def path(request):
    return FOLDER / f"{request.param}.ipynb"


def test_the_folder_holds_these_and_no_other():
    found = {p.relative_to(FOLDER).with_suffix("").as_posix() for p in FOLDER.rglob("*.ipynb")}
    assert {name for name in found if ".ipynb_checkpoints" not in name} == set(NOTEBOOKS)


def test_valid_stripped_and_plain(path):
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
    ids = [cell.id for cell in notebook.cells]
    assert len(ids) == len(set(ids)) and max(map(len, ids)) <= 24
    for cell in notebook.cells:
        assert set(cell.metadata) <= {"tags"}, cell.id
        if cell.cell_type == "code":
            assert not cell.outputs and cell.execution_count is None, f"{cell.id}: strip the outputs"


def test_starts_with_a_title_and_checks_something(path):
    cells = nbformat.read(path, as_version=4).cells
    assert cells[0].cell_type == "markdown" and cells[0].source.startswith("# ")
    code = [ast.parse(re.sub("(?m)^%.*$", "", cell.source)) for cell in cells if cell.cell_type == "code"]
    assert any(isinstance(node, ast.Assert) for cell in code for node in ast.walk(cell)), "no assert in it"


def test_parameters(path):
    declared = declared_parameters(path)
    assert declared.get("root", (str, "."))[0] is str
    if path.stem in CHAPTERS:
        assert declared["protocol"][0] is str and declared["save"] == (bool, False)
