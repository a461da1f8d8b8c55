"""Plain words: names and docstrings that a reader understands without the line above them (CONTRIBUTING.md)."""

import ast
import re

import pytest

from tests.support.files import ROOT

PRODUCT = sorted(
    path
    for package in ("schemas", "services", "trainers", "eval", "pipelines")
    for path in (ROOT / package).rglob("*.py")
)
# A docstring begins with a verb or a noun: these words lean on the line above, or make a riddle of it.
LEANING = re.compile(r"(Of|That of|Those|These|It|As|What|Which|How|Whether|None:|See)\b")
PRIVATE_CONSTANT = re.compile(r"_?(MOST|LEAST|LONGEST|SHORTEST|DEEPEST|FEWEST|LARGEST|WIDEST)_")
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def names_set(node):
    return {name.id for name in ast.walk(node) if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)}


def faults_of(source):
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, DOCUMENTED):
            docstring = ast.get_docstring(node) or ""
            if LEANING.match(docstring):
                yield f"a docstring begins with {docstring[:40]!r}"
            if "so it is" in docstring:
                yield "`Raises:` names no condition"
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and re.search(
            r"(^|_)told(_|$)", node.name.lower()
        ):
            yield f"the name {node.name} says nothing"
        if isinstance(node, ast.Assign | ast.AnnAssign):
            yield from (f"{name}: say MAX_ or MIN_" for name in names_set(node) if PRIVATE_CONSTANT.match(name))


def test_the_rules_find_what_they_are_for():
    function = 'def told_of():\n    """Of one.\n\n    Raises:\n        X: so it is.\n    """'
    faults = list(faults_of(f'"""What is here."""\n_MOST_ROWS = 3\n{function}'))
    assert len(faults) == 5
    assert list(faults_of('"""Rows of a run."""\nMAX_ROWS = 3\ndef read():\n    """Reads rows."""')) == []


@pytest.mark.parametrize("path", PRODUCT, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_and_docstrings_are_plain(path):
    assert list(faults_of(path.read_text(encoding="utf-8"))) == []
