"""Real disks that are full, real limits on files, and one line on the command line."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.faults.conftest import REPOSITORY, Children
from tests.faults.trees import check_readable, litter, tree
from tests.featstore.remote.conftest import make_store
from tests.featstore.remote.static import static_server

can_mount = pytest.mark.skipif(
    not hasattr(os, "getuid")
    or os.getuid() != 0
    or shutil.which("unshare") is None
    or subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode != 0,
    reason="only the superuser can mount a small disk",
)


@can_mount
def test_the_cache_of_remote_stores_on_a_small_disk(tmp_path: Path) -> None:
    folder = make_store(tmp_path / "store")
    disk = tmp_path / "disk"
    disk.mkdir()
    with static_server(folder) as (host, port):
        address = f"http://{host}:{port}"
        done = subprocess.run(
            ["unshare", "-m", sys.executable, "-m", "tests.faults.full_cache", str(disk),
             str(folder), address],
            cwd=REPOSITORY, env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            check=False, capture_output=True, text=True,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    messages = [line.split(" ", 1)[1] for line in done.stdout.splitlines()]
    full = [message for message in messages if message != "read"]
    assert len(full) >= 10
    assert "read" in messages
    for message in full:
        assert message.startswith(f"The cache {disk / 'cache' / 'headstock' / 'remote'} cannot be")
        assert "No space left on device. Free space on its disk" in message


@can_mount
def test_a_small_disk_fills_up_at_every_stage(tmp_path: Path) -> None:
    done = subprocess.run(
        ["unshare", "-m", sys.executable, "-m", "tests.faults.full_tmpfs", str(tmp_path)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    messages = [line.split(" ", 1)[1] for line in done.stdout.splitlines()]
    assert len(messages) == 20
    full = [message for message in messages if message != "written"]
    assert len(full) >= 10
    assert "written" in messages
    for message in full:
        assert "No space left on device. Free space, then run the same command again" in message
        assert str(tmp_path / "store") in message


@pytest.mark.parametrize("limit", [0, 100, 300, 16_384, 40_000, 65_000, 65_560])
def test_a_limit_on_the_size_of_files(children: Children, store: Path, limit: int) -> None:
    whole = store.with_name("whole")
    assert children.run("grow", whole)["code"] == 0
    report = children.run("grow", store, file_size=limit)
    assert (report["code"], report["error"]) == (1, "StoreWriteError"), report
    assert "File too large. Raise the limit on the size of files (`ulimit -f`)" in report["message"]
    check_readable(store, f"limit {limit}")
    assert children.run("grow", store)["code"] == 0
    assert tree(store) == tree(whole)
    assert litter(store) == []


@pytest.fixture
def arguments(tmp_path: Path, memory: Path) -> list[str]:
    """Arguments of `featstore import`, which needs no model."""
    np.save(tmp_path / "rows.npy", np.arange(60, dtype=np.float32).reshape(10, 6))
    ids = pl.DataFrame({"item_id": [f"birds/{i}" for i in range(10)]})
    ids.write_csv(tmp_path / "items.csv")
    return [
        "import", str(tmp_path / "rows.npy"), "--items", str(tmp_path / "items.csv"),
        "--dataset", "birds", "--kind", "image", "--encoder", "their:vit",
        "--store", str(memory / "imported"),
    ]  # fmt: skip


def test_every_failing_call_is_one_line_of_the_command(
    faulty: Children, tmp_path: Path, memory: Path, arguments: list[str]
) -> None:
    store = memory / "imported"
    messages = tmp_path / "messages"
    args = {"arguments": arguments, "messages": str(messages)}
    report = faulty.run("command", store, args=args, fault={"mode": "none"})
    assert report["value"] == 0
    whole, calls = tree(store), report["calls"]
    shutil.rmtree(store)
    failed = 0
    everything = os.environ.get("HEADSTOCK_FAULTS") == "all"
    for at in range(1, len(calls) + 1, 1 if everything else 3):
        where = f"call {at}, {calls[at - 1]}"
        fault = {"mode": "fail", "at": at, "errno": errno.EIO}
        report = faulty.run("command", store, args=args, fault=fault)
        said = messages.read_text()
        assert report["code"] == 0, f"{where}: {report}"
        assert report["value"] in (0, 1), f"{where}: {said}"
        if report["value"] == 1:
            failed += 1
            assert said.startswith("featstore: error: Cannot write"), f"{where}: {said}"
            assert "Input/output error" in said, f"{where}: {said}"
            assert said.count("\n") == 1, f"{where}: {said}"
            assert str(store) in said, f"{where}: {said}"
            report = faulty.run("command", store, args=args)
            again = messages.read_text()
            # The import of a set that was published says that it is there.
            assert report["value"] == 0 or "is finished" in again, f"{where}: {again}"
        assert tree(store) == whole, where
        shutil.rmtree(store)
    assert failed > 0.8 * len(calls) / (1 if everything else 3)
