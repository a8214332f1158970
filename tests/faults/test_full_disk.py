"""Real disks that are full, and real limits on files."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.faults.conftest import REPOSITORY
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
def test_the_cache_of_remote_stores_on_a_small_disk(tmp_path):
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


@pytest.mark.parametrize("limit", [0, 100, 300, 16_384, 40_000, 65_000, 65_560])
def test_a_limit_on_the_size_of_files(children, store, limit):
    whole = store.with_name("whole")
    assert children.run("grow", whole)["code"] == 0
    report = children.run("grow", store, file_size=limit)
    assert (report["code"], report["error"]) == (1, "StoreWriteError"), report
    assert "File too large. Raise the limit on the size of files (`ulimit -f`)" in report["message"]
    check_readable(store, f"limit {limit}")
    assert children.run("grow", store)["code"] == 0
    assert tree(store) == tree(whole)
    assert litter(store) == []
