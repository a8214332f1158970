"""The tests see a broken line: the table of mutants, ten of them, and what judges them.

``make mutants`` judges all.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.house import PACKAGES
from tests.mutants.run import ROOT, Mutant, Tree, stale
from tests.mutants.table import MUTANTS, QUICK

ALL = [mutant for mutants in MUTANTS.values() for mutant in mutants]

#: Of a small project: a function, and a test that sees one half of what it does.
CODE = "def clipped(value):\n    return max(0, min(9, value))\n"
TESTS = """
import pytest
from package import code

def test_nothing_is_below_0():
    assert code.clipped(-3) == 0

@pytest.fixture
def large():
    return 1 / code.clipped(4)

def test_with_a_fixture(large):
    assert large == 0.25
"""


def test_at_least_eighty_lines_of_every_package_are_named_as_they_stand() -> None:
    assert stale(ALL) == []
    assert len(ALL) >= 80
    assert len({(mutant.file, mutant.text, mutant.broken) for mutant in ALL}) == len(ALL)
    assert {mutant.file.partition("/")[0] for mutant in ALL} == set(PACKAGES)
    assert all(mutant.guards.endswith(".") and mutant.tests for mutant in ALL)
    assert all(mutant.text != mutant.broken for mutant in ALL)


def test_ten_are_judged_here() -> None:
    assert len(QUICK) == 10
    assert len({area for area, own in MUTANTS.items() if {*own} & {*QUICK}}) >= 6


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    tree = Tree(tmp_path_factory.mktemp("mutants") / "tree")
    with tree.serving():
        yield tree
    shutil.rmtree(tree.folder)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", QUICK, ids=lambda mutant: mutant.name)
def test_a_broken_line_is_seen(tree: Tree, mutant: Mutant) -> None:
    """That these tests pass where the line is whole, this very run of the tests shows."""
    verdict = tree.judge(mutant)
    assert verdict.outcome == "killed", verdict.said


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    """A copy of the small project."""
    source = tmp_path_factory.mktemp("small") / "source"
    shutil.copytree(ROOT / "tests" / "mutants", source / "tests" / "mutants")
    (source / "package").mkdir()
    (source / "package" / "__init__.py").touch()
    (source / "package" / "code.py").write_text(CODE)
    (source / "test_code.py").write_text(TESTS)
    (source / "pytest.ini").write_text("[pytest]\n")
    tree = Tree(source.parent / "tree", source)
    with tree.serving():
        yield tree
