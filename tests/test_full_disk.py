"""A fit and a sweep on a disk that is really full: what is said, and the same command with room."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]


@pytest.mark.skipif(
    not hasattr(os, "getuid")
    or os.getuid() != 0
    or shutil.which("unshare") is None
    or subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode != 0,
    reason="only the superuser can mount a small disk",
)
@pytest.mark.parametrize(
    ("which", "begins", "remedy"),
    [
        ("fit", "headstock: error: {}/a cannot be written: ", "Free space, and run the same"),
        ("sweep", "headstock: error: Cannot write {}/", "Free space, then run the same"),
    ],
)
def test_a_command_on_a_full_disk_names_file_and_remedy(tmp_path, which, begins, remedy):
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(
        ["unshare", "-m", sys.executable, "-m", "tests.full_disk", str(disk), which],
        cwd=REPOSITORY, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [line.split(" ", 2) for line in done.stdout.splitlines()]
    assert lines[-1][1] == "0"
    full = [said for _, code, said in lines if code == "1"]
    assert len(full) >= 4
    for said in full:
        assert said.startswith(begins.format(disk / "out"))
        assert f"No space left on device. {remedy} command again" in said
