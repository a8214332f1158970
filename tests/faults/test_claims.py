"""Many processes and one store: nothing is lost, nobody writes over another."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from featstore.errors import ClaimLostError, StoreWriteError
from featstore.store import lock, read_log, verify_store
from featstore.store.lock import LOCK, claim_set, deciding
from tests.damage import flip
from tests.faults import scenarios, steps
from tests.faults.conftest import EVERYTHING
from tests.faults.trees import check_readable, litter, tree

PROCESSES = 16

KEY = steps.key_of_kind(Path("store"), "image")


def _until(condition: Callable[[], object]) -> None:
    """Wait for something that is bound to happen."""
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.01)
    pytest.fail("waited for a minute in vain")


def _is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"


def _claims(root: Path) -> list[str]:
    return sorted(path.parent.name for path in root.glob("*/*/*/.staging/w*/claim"))


def test_sixteen_processes_write_sixteen_sets(children, store):
    names = [f"set{i:02d}" for i in range(PROCESSES)]
    pids = [children.start("once", store, args={"dataset": name}) for name in names]
    assert [children.wait(pid)["code"] for pid in pids] == [0] * PROCESSES
    assert sorted(key.split("/")[0] for key in read_log(store).sets) == names
    check_readable(store, "sixteen sets")
    assert litter(store) == []


def test_a_store_that_three_write_is_verified_all_the_while(children, store, tmp_path):
    """Its sets come, grow and go; what is damaged is told each time, and nothing else."""
    scenarios.write(store, 7)
    damaged = KEY.directory(store) / "embedding" / "c" / "0" / "0"
    stop = tmp_path / "stop"
    writers = [
        children.start("write_and_remove", store, args={"dataset": name, "stop": str(stop)})
        for name in ("one", "two", "three")
    ]
    end = time.monotonic() + (120 if EVERYTHING else 4)
    while time.monotonic() < end:
        assert verify_store(store).problems == []
    flip(damaged)
    expected = [damaged.relative_to(store).as_posix()]
    for _ in range(200 if EVERYTHING else 10):
        assert [problem.path for problem in verify_store(store).problems] == expected
    stop.touch()
    assert [children.wait(pid)["code"] for pid in writers] == [0] * 3


def test_sixteen_processes_want_the_same_set(children, store, trees):
    args = {"n": scenarios.SIZES[0], "wait": 60, "nap": 0.01}
    pids = [children.start("once", store, args=args) for _ in range(PROCESSES)]
    reports = [children.wait(pid) for pid in pids]
    assert [report["error"] for report in reports if "error" in report] == []
    assert sorted(str(report.get("value")) for report in reports) == [
        *["reused"] * (PROCESSES - 1),
        "written",
    ], reports
    assert tree(store) == trees[scenarios.SIZES[0]]
    assert litter(store) == []


@pytest.mark.parametrize("look_of_removal", [1, 2, 3, 4])
def test_a_lock_that_is_removed_while_it_is_looked_at_is_no_error(
    tmp_path, monkeypatch, look_of_removal
):
    """Whoever had it removes it with the folder, at any moment."""
    looked, look = [0], Path.stat

    def stat(self: Path, **options: Any) -> os.stat_result:
        if self.name == LOCK:
            looked[0] += 1
            if looked[0] == look_of_removal:
                self.unlink(missing_ok=True)
        return look(self, **options)

    monkeypatch.setattr(Path, "stat", stat)
    with deciding(tmp_path) as held:
        monkeypatch.undo()
        assert held == (tmp_path / LOCK).exists()


def test_who_waits_for_a_lock_is_told_once_for_whom(tmp_path, monkeypatch):
    holder = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    reading, writing = os.pipe()
    lines: list[str] = []

    def release() -> None:
        with os.fdopen(reading) as messages:
            lines.append(messages.readline())
            os.close(holder)
            lines.extend(messages)

    holding = threading.Thread(target=release)
    holding.start()
    monkeypatch.setattr(time, "sleep", lambda _: None)
    with os.fdopen(writing, "w", buffering=1) as messages:
        monkeypatch.setattr(sys, "stderr", messages)
        with lock.folder_lock(tmp_path) as locked:
            assert locked
        monkeypatch.undo()
    holding.join()
    (line,) = lines
    assert f"lock of {tmp_path}, which process {os.getpid()} (`{sys.orig_argv[0]} " in line


def test_a_lock_that_another_made_meanwhile_is_left_alone(tmp_path, monkeypatch):
    staging = tmp_path / "staging"  # gone while it is looked into, and made again by another

    def gone(path: Path, _flags: int) -> int:
        staging.mkdir()
        path.touch()
        raise FileNotFoundError(path)

    monkeypatch.setattr(lock, "open_descriptor", gone)
    with deciding(staging) as held:
        assert not held
    assert (staging / LOCK).exists()


@pytest.mark.parametrize(
    ("where", "when"),
    [("block", "while the next"), ("data", "after the next"), ("finish", "while the next"),
     ("data", "while a third")],
)  # fmt: skip
def test_a_stopped_writer_cannot_publish(children, store, trees, where, when):
    """Its machine lost its lock, as a laptop does whose lid was closed."""
    first = children.start("stop_before", store, args={"where": where, "n": 7})
    _until(lambda: _is_stopped(first))
    before = _claims(store)
    slow = {"n": 7, "wait": 60, "nap": 0.3 if when == "while the next" else 0}
    following, n = children.start("once", store, args=slow), 7
    if when == "while the next":
        _until(lambda: _claims(store) not in ([], before))
    else:
        report = children.wait(following)
        assert report["value"] == "written", report
    if when == "while a third":
        n = 11
        following = children.start("once", store, args={"n": n, "nap": 0.3})
        _until(lambda: _claims(store))
    published = tree(store) if when == "after the next" else None
    os.kill(first, signal.SIGCONT)
    report = children.wait(first)
    assert (report["code"], report.get("error")) == (1, "ClaimLostError"), report
    assert "Run the same command again" in report["message"]
    if published is not None:
        assert tree(store) == published
    else:
        report = children.wait(following)
        assert report.get("value") == "written", report
    assert tree(store) == trees[n]
    check_readable(store, f"stopped before {where}, resumed {when}")


def test_a_foreign_claim_is_respected_while_its_lock_holds_and_continued_on_a_copy(store):
    folder = KEY.directory(store) / ".staging" / "w000003-0123abcd"
    folder.mkdir(parents=True)
    record = {"pid": 7, "host": "elsewhere", "boot": "another", "folder": folder.name}
    (folder / "claim").write_text(json.dumps(record))
    (folder / "data-000000.bin").write_bytes(b"staged")
    inode = (folder / "data-000000.bin").stat().st_ino
    with (folder / "claim").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(StoreWriteError, match="written by process 7 on elsewhere"):
            claim_set(KEY.directory(store), KEY, wait=0.3)
    claim = claim_set(KEY.directory(store), KEY)
    assert not folder.exists()
    assert claim.folder.name.startswith("w000004-")
    # The other may still hold the file open: the successor goes on with a copy.
    assert (claim.folder / "data-000000.bin").read_bytes() == b"staged"
    assert (claim.folder / "data-000000.bin").stat().st_ino != inode
    claim.finish()
    assert list(KEY.directory(store).iterdir()) == []


def test_without_locks_a_writer_that_ended_is_named_and_its_rows_are_taken(tmp_path, monkeypatch):
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks")

    monkeypatch.setattr(fcntl, "flock", refuse)
    directory = KEY.directory(tmp_path)
    first = claim_set(directory, KEY)
    (first.folder / "journal.jsonl").write_text("rows")
    first.release()
    with pytest.raises(StoreWriteError, match="its rows are kept") as caught:
        claim_set(directory, KEY)
    Path(re.search(r"remove (\S+);", str(caught.value))[1]).unlink()
    assert (claim_set(directory, KEY).folder / "journal.jsonl").read_text() == "rows"
    with pytest.raises(ClaimLostError):
        first.check()
