"""A sweep on a disk that is really full: the message, and the same command when there is room."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.skipif(
    not hasattr(os, "getuid")
    or os.getuid() != 0
    or shutil.which("unshare") is None
    or subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode != 0,
    reason="only the superuser can mount a small disk",
)
def test_a_sweep_on_a_disk_that_fills_up(smoke_store, tmp_path):
    script = ["-m", "tests.bench.full_disk", str(tmp_path), str(smoke_store)]
    done = subprocess.run(
        ["unshare", "-m", sys.executable, *script], cwd=REPOSITORY, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [line.split(" ", 2) for line in done.stdout.splitlines()]
    full = [said for _, code, said in lines if code == "1"]
    assert len(full) >= 4
    assert lines[-1][1] == "0"
    for said in full:
        assert said.startswith(f"headstock: error: Cannot write {tmp_path / 'results'}/")
        assert "No space left on device. Free space, then run the same command again" in said
