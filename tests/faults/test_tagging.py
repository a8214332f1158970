"""`featstore tag` and `sign` stopped at every file call: again they end well, in the same bytes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from featstore.store import collect_garbage, verify_store
from tests.faults.conftest import Children
from tests.faults.test_every_call import KILLED
from tests.faults.trees import litter, tree


@pytest.mark.parametrize("mode", ["before", "after", "torn"])
@pytest.mark.parametrize("act", ["tag", "sign"])
def test_a_kill_at_each_call(faulty: Children, memory: Path, act: str, mode: str) -> None:
    folder = memory / act / mode
    made = folder / "made"
    assert faulty.run("once", made)["code"] == 0
    if act == "sign":
        pytest.importorskip("cryptography", reason="needs cryptography")
        from featstore.store.signature import make_key

        make_key(folder / "key.pem")
    whole = shutil.copytree(made, folder / "whole")
    report = faulty.run(act, whole, fault={"mode": "none"})
    assert report["code"] == 0, report
    calls = report["calls"]
    assert sum(call.startswith("rename ") for call in calls) >= 1
    assert sum(call.startswith("link ") for call in calls) == (act == "tag")
    for at in range(1, len(calls) + 1):
        root = shutil.copytree(made, folder / str(at))
        where = f"{mode} {at}, {calls[at - 1]}"
        assert faulty.run(act, root, fault={"mode": mode, "at": at})["code"] == KILLED, where
        report = faulty.run(act, root)
        assert report["code"] == 0, f"{where}: {report}"
        assert own(root) == own(whole), where
        shutil.rmtree(root / "headstock", ignore_errors=True)
        assert verify_store(root).problems == [], where
        collect_garbage(root, grace=0)
        assert litter(root) == [], where
        shutil.rmtree(root)


def own(root: Path) -> dict[str, bytes | None]:
    """Return what a store holds, without the memory of signatures that lies there for once."""
    return {name: data for name, data in tree(root).items() if not name.startswith("headstock")}
