"""A fit on a disk that is really full: the message, and the same command when there is room."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.skipif(
    not hasattr(os, "getuid") or os.getuid() != 0 or shutil.which("unshare") is None
    or subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode != 0,
    reason="only the superuser can mount a small disk",
)  # fmt: skip
def test_a_fit_on_a_full_disk_names_file_and_remedy(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(
        ["unshare", "-m", sys.executable, "-m", "tests.fitters.full_disk", str(disk)],
        cwd=REPOSITORY, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = [line.split(" ", 1)[1] for line in done.stdout.splitlines()]
    full = {message for message in said if message != "fitted"}
    where = f"1 headstock: error: {disk}/aligners/a cannot be written"
    assert full == {
        f"{where}: No space left on device. Free space, and run the same command again."
    }
    assert "fitted" in said
