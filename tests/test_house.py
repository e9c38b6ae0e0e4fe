"""Which way imports point, and how long a function of the paper may be."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BELOW = ("blocks", "models", "measure", "data", "records", "training", "atlas")
LONGEST = 60  # lines of a function
MEASURING = {"context_profile", "effective_receptive_field", "profile_lattice", "receptive_field", "summed_erf"}


def imported(tree):
    """Full names of everything that a module imports from ctxnet, relative imports by their last part."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module or ''}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("folder", BELOW)
def test_nothing_below_knows_the_paper(folder):
    for path in (ROOT / "ctxnet" / folder).rglob("*.py"):
        assert not [name for name in imported(ast.parse(path.read_text())) if "paper" in name.split(".")], path


def test_the_paper_never_measures():
    for path in (ROOT / "ctxnet/paper").rglob("*.py"):
        assert not {name.rpartition(".")[2] for name in imported(ast.parse(path.read_text()))} & MEASURING, path


@pytest.mark.parametrize("folder", ["paper", "atlas"])
def test_a_function_has_sixty_lines_at_most(folder):
    for path in (ROOT / "ctxnet" / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno - node.lineno < LONGEST, f"{path}: {node.name}"


def test_every_figure_is_registered_by_the_decorator_alone():
    for path in (ROOT / "ctxnet/paper").rglob("*.py"):
        assert path.name == "__init__.py" or "FIGURES[" not in path.read_text(), path
