"""A kill at the file calls of a repair: nothing else is damaged, and the next run completes it.

Repairs from the store itself and from a copy are in the matrix.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from featstore.store import collect_garbage, verify_store
from tests.faults import scenarios
from tests.faults.test_every_call import EVERYTHING, KILLED
from tests.faults.trees import litter, tree


@pytest.fixture(scope="module")
def whole(faulty, memory):
    """A set in two revisions, and a head."""
    root = memory / "whole"
    assert faulty.run("grow", root, fault={"mode": "none"})["code"] == 0
    return root


@pytest.fixture(scope="module")
def damaged(whole, memory):
    """The same with a bad block, one of its rows failed, and without golden vectors."""
    root = memory / "damaged"
    shutil.copytree(whole, root)
    scenarios.damage(root)
    return root


def _wrong(root: Path) -> set[str]:
    return {problem.path for problem in verify_store(root).problems}


@pytest.mark.parametrize("way", ["same bits", "other bits"])
def test_a_kill_at_the_calls_of_a_repair(faulty, whole, damaged, memory, way):
    request: dict[str, Any] = {} if way == "same bits" else {"bits": 1.5}
    before = _wrong(damaged)
    assert len(before) == 2
    first = memory / "repaired"
    shutil.copytree(damaged, first)
    report = faulty.run("repair", first, fault={"mode": "none"}, args=request)
    assert report["code"] == 0, report
    assert _wrong(first) == set()
    collect_garbage(first, grace=-1)  # the item table of a revision that was replaced
    calls, after = report["calls"], tree(first)
    assert (after == tree(whole)) == (way != "other bits")
    renames = [i for i, call in enumerate(calls, 1) if call.startswith("rename ")]
    sample = (
        range(1, len(calls) + 1) if EVERYTHING else sorted({*renames, *range(1, len(calls), 17)})
    )
    for at in sample:
        where = f"killed at call {at} of {len(calls)}, {calls[at - 1]}"
        root = memory / f"repair-{at}"
        shutil.copytree(damaged, root)
        report = faulty.run("repair", root, fault={"mode": "before", "at": at}, args=request)
        assert report["code"] == KILLED, where
        assert _wrong(root) <= before, where
        report = faulty.run("repair", root, fault={"mode": "none"}, args=request)
        assert report["code"] == 0, f"again after {where}: {report}"
        assert _wrong(root) == set(), where
        collect_garbage(root, grace=-1)
        assert tree(root) == after, where
        assert litter(root) == [], where
        shutil.rmtree(root)
    shutil.rmtree(first)
