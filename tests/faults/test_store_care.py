"""What rm, gc and init take along, leave alone and complete; their faults are in the matrix."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from featstore.store import collect_garbage, verify_store
from tests.faults.trees import litter, tree

EVERYTHING = os.environ.get("HEADSTOCK_FAULTS") == "all"


@pytest.fixture(scope="module")
def world(children, memory):
    """A store with sets to remove and litter to collect."""
    report = children.run("untidy", memory / "untidy")
    assert report["code"] == 0, report
    return memory / "untidy"


def _collected(root: Path) -> dict[str, bytes | None]:
    """Return the tree once no litter is left; a set that nobody finished is litter, too."""
    while collect_garbage(root, grace=-1):
        pass
    assert verify_store(root).problems == []
    assert litter(root) == []
    return tree(root)


def test_gc_leaves_the_staged_file_of_a_living_writer(children, world, tmp_path):
    root = tmp_path / "store"
    shutil.copytree(world, root)
    _collected(root)  # no gc that writes the log: it would wait for the writer to go on
    before = (root / "log.json").read_text()
    (root / ".log.json.0badcafe.staged").write_bytes(b"{")
    pid = children.start("hold_log", root)
    _until_stopped(pid)
    (staged,) = (path for path in root.glob(".log.json.*") if "0badcafe" not in path.name)
    # The lock says that its writer lives, whatever the age of its file.
    os.utime(staged, (0, 0))
    collected = {one.path for one in collect_garbage(root, grace=-1)}
    assert ".log.json.0badcafe.staged" in collected
    assert staged.name not in collected
    os.kill(pid, signal.SIGCONT)
    report = children.wait(pid)
    assert (report["code"], report["value"] != before) == (0, True), report
    # One whose writer was killed goes.
    pid = children.start("hold_log", root)
    _until_stopped(pid)
    (staged,) = root.glob(".log.json.*")
    os.kill(pid, signal.SIGKILL)
    children.wait(pid)
    assert [one.path for one in collect_garbage(root, grace=-1)] == [staged.name]


def _until_stopped(pid: int) -> None:
    while Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "T":
        time.sleep(0.01)


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
