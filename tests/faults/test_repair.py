"""A kill at the file calls of a repair, and of what `init` finds: the next run completes it.

Repairs from the store itself and from a copy, and all other faults, are in the matrix.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from featstore.store import collect_garbage, verify_store
from tests.faults.conftest import EVERYTHING, KILLED
from tests.faults.trees import litter, tree


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
    for at in (
        range(1, len(calls) + 1) if EVERYTHING else sorted({*renames, *range(1, len(calls), 17)})
    ):
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


def _collected(root: Path) -> dict[str, bytes | None]:
    """Return the tree once no litter is left; a set that nobody finished is litter, too."""
    while collect_garbage(root, grace=-1):
        pass
    assert verify_store(root).problems == []
    assert litter(root) == []
    return tree(root)


def test_init_of_what_a_killed_extraction_began(faulty, memory, tmp_path):
    root = memory / "begun"
    report = faulty.run("once", root, fault={"mode": "none"})
    calls = [call.replace(str(root), "") for call in report["calls"]]
    expected = _collected(root)
    first = next(i for i, call in enumerate(calls, 1) if call.startswith("rename /log.json"))
    args = {"arguments": ["store", "init", str(root)], "messages": str(tmp_path / "messages")}
    for at in range(1, first + 1, 1 if EVERYTHING else 3):
        shutil.rmtree(root)
        assert faulty.run("once", root, fault={"mode": "before", "at": at})["code"] == KILLED
        assert faulty.run("command", root, args=args)["value"] == 0, calls[at - 1]
        assert verify_store(root).problems == []
        assert faulty.run("once", root)["value"] == "written"
        assert _collected(root) == expected, calls[at - 1]
