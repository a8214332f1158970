"""`featstore tag` stopped at every file call: the same command ends well, with the same bytes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from featstore.store import collect_garbage, verify_store
from tests.faults.conftest import Children
from tests.faults.test_every_call import KILLED
from tests.faults.trees import litter, tree


@pytest.mark.parametrize("mode", ["before", "after", "torn"])
def test_a_kill_at_each_call(faulty: Children, memory: Path, mode: str) -> None:
    made = memory / mode / "made"
    assert faulty.run("once", made)["code"] == 0
    whole = shutil.copytree(made, memory / mode / "whole")
    calls = faulty.run("tag", whole, fault={"mode": "none"})["calls"]
    assert sum(call.startswith("rename ") for call in calls) >= 1
    assert sum(call.startswith("link ") for call in calls) == 1
    for at in range(1, len(calls) + 1):
        root = shutil.copytree(made, memory / mode / str(at))
        where = f"{mode} {at}, {calls[at - 1]}"
        assert faulty.run("tag", root, fault={"mode": mode, "at": at})["code"] == KILLED, where
        report = faulty.run("tag", root)
        assert report["code"] == 0, f"{where}: {report}"
        assert tree(root) == tree(whole), where
        assert verify_store(root).problems == [], where
        collect_garbage(root, grace=0)
        assert litter(root) == [], where
        shutil.rmtree(root)
