"""A fault at each file call in turn: the store stays whole, and the next run completes it.

The layer is `shim.c`. A default run kills at every rename of one whole history (a set in two
revisions, a head between them), and takes a fixed sample of the other calls and faults;
``HEADSTOCK_FAULTS=all`` takes every call for every fault (some minutes).
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterable
from dataclasses import dataclass

import pytest

from tests.faults.conftest import EVERYTHING, KILLED, PLAIN_USER
from tests.faults.trees import check_readable, litter, tree


@dataclass(frozen=True)
class History:
    """The undisturbed run: its file calls in order, and the tree that it leaves."""

    calls: list[str]
    tree: dict[str, bytes | None]


@pytest.fixture(scope="module")
def history(faulty, memory):
    root = memory / "whole"
    report = faulty.run("grow", root, fault={"mode": "none"}, **PLAIN_USER)
    assert report["code"] == 0, report
    return History([call.replace(str(root), "") for call in report["calls"]], tree(root))


@pytest.fixture(params=["before", "after", "torn", "short", "EIO", "full"])
def fault(request):
    return str(request.param)


def _numbers(history: History, fault: str) -> list[int]:
    """Return the calls that get this fault, counted from 1."""
    numbers = range(1, len(history.calls) + 1)
    if EVERYTHING:
        return list(numbers)
    if fault == "before":
        renames = [i for i in numbers if history.calls[i - 1].startswith("rename ")]
        return sorted({*renames, *numbers[::17]})
    # Different faults take different calls; the step is prime to the rhythm of the writer.
    return list(numbers[(sum(map(ord, fault)) % 31 + 1) :: 31])


def test_the_layer_sees_every_file_that_is_published(history):
    renamed = {call.split()[1].lstrip("/") for call in history.calls if call.startswith("rename ")}
    files = {name for name, data in history.tree.items() if data is not None}
    assert files <= renamed
    assert sum(call.startswith("fsync ") for call in history.calls) >= 2 * len(files)


def _walk(calls: Iterable[str], unsynced: set[str], where: str = "") -> int:
    """Check the order of file calls and return how often a log that lists a commit was renamed.

    What a power cut may take is in `unsynced`: files with new bytes, and folders with new names,
    that no fsync has followed. Folders are fsynced together, right before the log or a row of the
    journal relies on them.
    """
    published, records = 0, set[str]()
    # Where a killed writer put data: rows of blocks, which are staged, do not rely on it.
    placed = {path for path in unsynced if "/embedding" in path}
    for call in calls:
        what, _, path = call.partition(" ")
        folder, _, name = path.rpartition("/")
        lost = f"{where}: {call}: {sorted(unsynced)}"
        if what in ("fsync", "unlink", "rmdir"):
            unsynced.discard(path)
        elif what == "write" and name == "journal.jsonl":
            assert _relied_on(unsynced - placed, folder) == set(), lost
        elif what == "write" and not name.startswith((".claim.", ".journal.")):
            unsynced.add(path)  # a claim, and a journal without rows, may be lost
        elif what == "mkdir":
            unsynced.add(folder)
        elif what == "rename" and name != "claim":
            if name == "log.json":
                lasting = {path for path in unsynced if "/.staging" not in path}
                assert not any(_relied_on(lasting, record) for record in records), lost
                published += bool(records)
                records.clear()
            if "/revisions/" in path:
                records.add(folder)
            unsynced.add(folder)
    return published


def _relied_on(unsynced: set[str], folder: str) -> set[str]:
    """Return what a row of the journal, or a commit, of the set of this folder relies on."""
    parts = folder.split("/")[:4]
    above = {"/".join(parts[:i]) for i in range(1, 4)}
    return {path for path in unsynced if path in above or path.startswith("/".join(parts))}


def test_no_log_is_written_before_all_that_it_names_is_durable(history):
    unsynced: set[str] = set()
    assert (_walk(history.calls, unsynced), unsynced) == (3, set())


def test_rows_that_are_copied_are_durable_before_what_says_how_many_there_are(faulty, memory):
    root = memory / "copied"
    report = faulty.run("copies", root, fault={"mode": "none"}, **PLAIN_USER)
    assert report["code"] == 0, report
    unsynced: set[str] = set()
    calls = [call.replace(str(root), "") for call in report["calls"]]
    assert (_walk(calls, unsynced), unsynced) == (2, set())


def test_the_numbers_are_the_same_in_every_run(faulty, history, store):
    report = faulty.run("grow", store, fault={"mode": "none"})
    assert [call.split()[0] for call in report["calls"]] == [
        call.split()[0] for call in history.calls
    ]
    assert tree(store) == history.tree
    # And again: nothing is written but a claim that is given back.
    report = faulty.run("grow", store, fault={"mode": "none"})
    assert report["code"] == 0
    assert all("/.staging/" in call for call in report["calls"] if call.startswith("rename "))
    assert tree(store) == history.tree


def test_a_fault_at_each_call(faulty, history, fault, memory):
    request: dict[str, object] = {
        "EIO": {"mode": "fail", "errno": errno.EIO},
        "full": {"mode": "fail_from", "errno": errno.ENOSPC},
    }.get(fault, {"mode": fault})
    failed = 0
    for at in _numbers(history, fault):
        where = f"{fault} at call {at} of {len(history.calls)}, {history.calls[at - 1]}"
        root = memory / str(at)
        report = faulty.run("grow", root, fault={**request, "at": at}, **PLAIN_USER)
        if fault in ("before", "after", "torn"):
            assert report["code"] == KILLED, f"{where}: {report}"
        elif report["code"] != 0:
            assert (report["code"], report["error"]) == (1, "StoreWriteError"), f"{where}: {report}"
            assert str(root) in report["message"], where
            assert "\n" not in report["message"], where
            assert fault != "short", where
            failed += 1
        check_readable(root, where)
        report = faulty.run("grow", root, fault={"mode": "none"}, **PLAIN_USER)
        assert report["code"] == 0, f"again after {where}: {report}"
        assert tree(root) == history.tree, where
        assert litter(root) == [], where
        if fault in ("before", "after"):
            unsynced: set[str] = set()
            _walk(history.calls[: at - (fault == "before")], unsynced)
            # Staged bytes of a killed writer are used only if they have their hash.
            unsynced = {path for path in unsynced if "/.staging/" not in path}
            _walk([call.replace(str(root), "") for call in report["calls"]], unsynced, where)
        shutil.rmtree(root)
    if fault in ("EIO", "full"):
        # What only tidies up may fail in silence: unlinking, and modes that were right already.
        assert failed >= 0.7 * len(_numbers(history, fault))


def test_a_failed_fsync_is_not_forgotten(faulty, history, store):
    # The kernel reports a lost page once. Whoever asks again is told that all is well: so the
    # rows of that fsync must not be journalled by the writer's last act.
    data = [
        i for i, call in enumerate(history.calls, 1)
        if call.startswith("fsync ") and call.endswith("data-000000.bin") and "/image/" in call
    ]  # fmt: skip
    report = faulty.run("grow", store, fault={"mode": "fail", "at": data[0], "errno": errno.EIO})
    assert report["code"] == 1
    journals = list(store.rglob("journal.jsonl"))
    assert not any(b'"block"' in path.read_bytes() for path in journals)


@pytest.mark.parametrize("limit", [0, 300, 16_384, 65_000, 65_560])
def test_a_limit_on_the_size_of_files(children, history, store, limit):
    report = children.run("grow", store, file_size=limit)
    assert (report["code"], report["error"]) == (1, "StoreWriteError"), report
    assert "File too large. Raise the limit on the size of files (`ulimit -f`)" in report["message"]
    check_readable(store, f"limit {limit}")
    assert children.run("grow", store)["code"] == 0
    assert tree(store) == history.tree
    assert litter(store) == []
