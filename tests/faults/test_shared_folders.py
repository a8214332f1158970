"""A store of a team: two users and their umasks, readers without rights, sealed files.

Where the tests run as the superuser the users are real ones; elsewhere one user plays both, with
two umasks.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from featstore.errors import StoreWriteError
from featstore.store import make_store, verify_store
from tests.damage import leave_staged
from tests.faults import scenarios
from tests.faults.conftest import READER, only_to_read
from tests.faults.trees import litter, tree

ROOT = hasattr(os, "getuid") and os.getuid() == 0
GROUP = 12_003

#: The careful one keeps everything to herself, the other lets the world read; a stranger reads.
ANNE: dict[str, Any] = {"umask": 0o077}
BERT: dict[str, Any] = {"umask": 0o022}
CARL: dict[str, Any] = {"umask": 0o022}
if ROOT:
    ANNE["user"] = {"uid": 12_001, "gid": GROUP}
    BERT["user"] = {"uid": 12_002, "gid": GROUP}
    CARL["user"] = {"uid": 12_004, "gid": 12_004}

superuser = pytest.mark.skipif(not ROOT, reason="only the superuser can be two users")


@pytest.fixture
def folder():
    """A folder of Anne's that others may look into, unlike pytest's."""
    path = Path(tempfile.mkdtemp())
    if ROOT:
        os.chown(path, ANNE["user"]["uid"], GROUP)
    path.chmod(0o755)
    yield path
    for found in [path, *(p for p in path.rglob("*") if p.is_dir())]:
        found.chmod(0o755)
    shutil.rmtree(path)


@pytest.fixture
def shared(children, folder):
    """An empty store that Anne made for the group."""
    report = children.run("init", folder / "store", **ANNE)
    assert report.get("value") is True, report
    return folder / "store"


def _done(report: dict[str, Any]) -> Any:
    assert report["code"] == 0, report
    return report["value"]


def _modes(root: Path) -> dict[str, str]:
    """Return what has not the mode that it should have in a shared store."""
    wrong = {}
    for path in [root, *root.rglob("*")]:
        facts = path.lstat()
        expected = 0o2775 if path.is_dir() else 0o444
        if stat.S_IMODE(facts.st_mode) != expected or (ROOT and facts.st_gid != GROUP):
            wrong[path.relative_to(root).as_posix()] = f"{facts.st_mode:o} {facts.st_gid}"
    return wrong


def test_two_users_write_by_turns(children, shared, trees):
    assert _done(children.run("once", shared, args={"dataset": "annes"}, **ANNE)) == "written"
    assert _done(children.run("once", shared, args={"dataset": "berts"}, **BERT)) == "written"
    assert _done(children.run("once", shared, args={"n": 7}, **ANNE)) == "written"
    assert _modes(shared) == {}
    # Bert extends what Anne began, and the other way round.
    assert _done(children.run("once", shared, args={"n": 11}, **BERT)) == "written"
    args = {"n": 11, "dataset": "berts"}
    assert _done(children.run("once", shared, args=args, **ANNE)) == "written"
    assert _modes(shared) == {}
    keys = _done(children.run("read", shared, **ANNE))
    assert [key.split("/")[0] for key in keys] == ["annes", "berts", "birds"]
    for reader in (BERT, CARL):
        assert _done(children.run("read", shared, **reader)) == keys
    birds = {name: data for name, data in tree(shared).items() if name.startswith("birds")}
    assert birds == {k: v for k, v in trees[11].items() if k.startswith("birds")}


@pytest.mark.parametrize(("first", "second"), [(ANNE, BERT), (BERT, ANNE)], ids=["AB", "BA"])
@pytest.mark.parametrize("n", [7, 11])
def test_one_resumes_what_the_other_left(children, shared, trees, first, second, n):
    if n == 11:
        _done(children.run("once", shared, args={"n": 7}, **second))
    # With an error, so that a block of an unfinished file is staged and journalled.
    report = children.run("give_up", shared, args={"n": n, "block": (3 if n == 7 else 5)}, **first)
    assert report["message"] == "given up"
    staged = next(shared.rglob(".staging/w*/data-*.bin"))
    if ROOT:
        assert staged.stat().st_uid == first["user"]["uid"]
    assert _done(children.run("once", shared, args={"n": n}, **second)) == "written"
    assert tree(shared) == trees[n]
    assert litter(shared) == []
    assert _modes(shared) == {}
    _done(children.run("read", shared, **first))


def test_one_follows_the_other_who_was_killed(children, shared, trees):
    for rest in (0, 1, 2):
        shutil.rmtree(shared)
        _done(children.run("init", shared, **ANNE))
        pid = children.start("once", shared, args={"n": 7, "nap": 0.3}, **ANNE)
        for _ in range(6000):
            if len(list(shared.rglob(("claim", "data-*.bin", "embedding/c/0/0")[rest]))) > 0:
                break
            time.sleep(0.005)
        os.kill(pid, signal.SIGKILL)
        assert children.wait(pid)["code"] == -signal.SIGKILL
        for claim in shared.rglob("claim"):
            # A kill in the moment after a file was begun leaves one that only Anne may read.
            for name in ("zarr.json.0badcafe.staged", "data-000000.bin")[: 1 + (rest == 0)]:
                begun = claim.with_name(name)
                if begun.exists():
                    continue
                begun.touch(mode=0o600)
                if ROOT:
                    os.chown(begun, ANNE["user"]["uid"], GROUP)
        assert _done(children.run("once", shared, args={"n": 7}, **BERT)) == "written"
        assert tree(shared) == trees[7]
        assert _modes(shared) == {}


def test_a_reader_needs_no_right_to_write(children, shared):
    _done(children.run("grow", shared, **ANNE))
    paths = [shared, *sorted(shared.rglob("*"))]
    for path in paths:
        path.chmod(stat.S_IMODE(path.lstat().st_mode) & ~0o222)
    before = {path: (path.lstat().st_mtime_ns, path.lstat().st_ino) for path in paths}
    assert len(_done(children.run("read", shared, **CARL))) == 2
    assert [shared, *sorted(shared.rglob("*"))] == paths
    assert {path: (path.lstat().st_mtime_ns, path.lstat().st_ino) for path in paths} == before
    # Extracting again needs no right either: there is nothing to do. Writing more is refused.
    report = children.run("once", shared, args={"n": 12}, **CARL)
    assert (report["code"], report["error"]) == (1, "StoreWriteError"), report
    assert "Permission denied. Get the permission" in report["message"]
    assert {path: (path.lstat().st_mtime_ns, path.lstat().st_ino) for path in paths} == before


@pytest.mark.parametrize("closed", [False, True])
def test_a_reader_is_told_what_is_finished_and_what_is_not(children, folder, closed):
    """Beside what killed writers left, though it be closed to all but them."""
    root = folder / "store"
    manifest = scenarios.pictures(folder / "manifest", "one", 9)
    made = _done(children.run("extract", root, args={"manifest": manifest}))
    assert (made["new"], made["reused"], made["failed"]) == (8, 0, 1)
    leave_staged(root)
    assert children.run("give_up", root, args={"n": 7, "block": 3})["message"] == "given up"
    (folder / "said").touch()
    (folder / "said").chmod(0o666)
    listed = {"arguments": ["ls", str(root)], "messages": str(folder / "said")}
    left = litter(root)
    with only_to_read(root):
        for staging in root.rglob(".staging") if closed else ():
            staging.chmod(0)
        told = _done(children.run("extract", root, args={"manifest": manifest}, **READER))
        assert told == made | {"new": 0, "reused": 8}
        assert _done(children.run("command", root, args=listed, **READER)) == 0
    assert litter(root) == left
    assert _done(children.run("extract", root, args={"manifest": manifest})) == told
    assert {name.split("/")[0] for name in litter(root)} == {"birds"}  # what was given up


def test_a_finished_set_is_sealed_and_can_still_be_mended(children, folder):
    root = folder / "store"
    _done(children.run("grow", root, **ANNE))
    files = [path for path in root.rglob("*") if path.is_file()]
    assert len(files) > 20
    assert [path for path in files if path.lstat().st_mode & 0o222] == []
    assert _done(children.run("maintain", root, **ANNE)) == "maintained"


def test_other_folders_are_not_taken_for_stores(tmp_path):
    from featstore.command_line import run_command
    from headstock.__main__ import cli

    (tmp_path / "thesis.tex").write_text("years of work")
    assert run_command(cli, "headstock", ["store", "init", str(tmp_path), "--shared"]) == 1
    assert stat.S_IMODE((tmp_path / "thesis.tex").stat().st_mode) & 0o200
    assert run_command(cli, "headstock", ["store", "init", str(tmp_path / "new"), "--shared"]) == 0
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o2775
    assert make_store(tmp_path / "new", shared=True) is False
    assert make_store(tmp_path / "private") is True
    with pytest.raises(StoreWriteError, match=r"not its group.s\. Open it by `find"):
        make_store(tmp_path / "private", shared=True)


@superuser
def test_what_may_not_be_read_stays_listed_and_is_told(children, shared):
    for user, dataset in ((ANNE, "annes"), (ANNE, "hers"), (BERT, "berts")):
        _done(children.run("once", shared, args={"dataset": dataset}, **user))
    listed = json.loads((shared / "log.json").read_bytes())["sets"]
    hidden = next(key for key in listed if key.startswith("annes/"))
    (shared / "annes").chmod(0o700)
    (shared / "hers" / "image").chmod(0o700)
    messages = shared.parent / "messages"
    messages.touch()
    messages.chmod(0o666)
    for user in (BERT, CARL):
        args = {"arguments": ["ls", str(shared)], "messages": str(messages)}
        report = children.run("command", shared, args=args, **user)
        assert report.get("value") == 4, (report, messages.read_text())
        args = {"arguments": ["show", str(shared), hidden], "messages": str(messages)}
        assert children.run("command", shared, args=args, **user)["value"] == 1
        assert "cannot be read: Permission denied" in messages.read_text()
    # Bert goes on writing: what he cannot see he does not take out.
    _done(children.run("once", shared, args={"dataset": "berts", "n": 11}, **BERT))
    now = json.loads((shared / "log.json").read_bytes())["sets"]
    assert now.keys() == listed.keys()
    assert {key for key in now if now[key] != listed[key]} == {
        key for key in now if key.startswith("berts/")
    }
    (shared / "annes").chmod(0o2775)
    (shared / "hers" / "image").chmod(0o2775)
    assert verify_store(shared).problems == []


@superuser
def test_rows_that_may_not_be_read_are_not_called_different(children, shared):
    _done(children.run("once", shared, **ANNE))
    data = next(shared.rglob("embedding/c/0/0"))
    data.chmod(0)
    ((path, what),) = _done(children.run("problems", shared, **BERT))
    assert path == data.relative_to(shared).as_posix()
    assert "Permission denied" in what
    assert "differ" not in what
