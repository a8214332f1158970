"""What rm, gc and init take along, leave alone and complete; their faults are in the matrix."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from featstore.store import collect_garbage, verify_store
from tests.faults.trees import litter, tree

EVERYTHING = os.environ.get("HEADSTOCK_FAULTS") == "all"


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
        assert faulty.run("once", root, fault={"mode": "before", "at": at})["code"] == -9
        assert faulty.run("command", root, args=args)["value"] == 0, calls[at - 1]
        assert verify_store(root).problems == []
        assert faulty.run("once", root)["value"] == "written"
        assert _collected(root) == expected, calls[at - 1]
