"""The tests see a broken line: the table of mutants, ten of them, and what judges them.

``make mutants`` judges all.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.house import PACKAGES
from tests.mutants.run import Mutant, Tree, stale
from tests.mutants.table import JUDGED, MUTANTS

# Some of the tests that must see a broken line need them.
for package in ("PIL", "ml_dtypes"):
    pytest.importorskip(package)

ALL = [mutant for mutants in MUTANTS.values() for mutant in mutants]


def test_at_least_eighty_lines_of_every_package_are_named_as_they_stand() -> None:
    assert stale(ALL) == []
    assert len(ALL) >= 80
    assert len({(mutant.file, mutant.text, mutant.broken) for mutant in ALL}) == len(ALL)
    assert {mutant.file.partition("/")[0] for mutant in ALL} == set(PACKAGES)
    assert all(mutant.guards.endswith(".") and mutant.tests for mutant in ALL)
    assert all(mutant.text != mutant.broken for mutant in ALL)


def test_ten_are_judged_here() -> None:
    assert len(JUDGED) == 10
    assert len({area for area, own in MUTANTS.items() if {*own} & {*JUDGED}}) >= 6


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    tree = Tree(tmp_path_factory.mktemp("mutants") / "tree")
    with tree.serving():
        yield tree
    shutil.rmtree(tree.folder)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", JUDGED, ids=lambda mutant: mutant.name)
def test_a_broken_line_is_seen(tree: Tree, mutant: Mutant) -> None:
    """That these tests pass where the line is whole, this very run of the tests shows."""
    verdict = tree.judge(mutant)
    assert verdict.outcome == "killed", verdict.said


@pytest.mark.slow
def test_a_line_that_means_the_same_survives(tree: Tree) -> None:
    (mutant,) = (one for one in ALL if "self.space_id != other" in one.text)
    here, there = "self.space_id", "other.space_id"
    same = replace(mutant, broken=mutant.text.replace(f"{here} != {there}", f"{there} != {here}"))
    assert tree.judge(same).outcome == "survived"
