"""A script for its own mount namespace: fit on a small disk until it is full, make room, fit again.

Run as ``unshare -m python -m tests.fitters.full_disk MOUNTPOINT``. Prints one line an amount of
free space: the free kibibytes, then what was said, or "fitted".
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

from featstore.command_line import run_command
from headstock.__main__ import cli
from tests.fitters.toy_store import HEAD, NAMES, X, Y, write_toy_store


def main(mountpoint: Path) -> None:
    """Fill, fail, make room, fit again, compare; for disks with more and more room."""
    store = mountpoint.with_name("store")
    write_toy_store(store)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mountpoint)], check=True)
    os.environ["XDG_CACHE_HOME"] = str(mountpoint / "cache")
    root, filler = mountpoint / "aligners", mountpoint / "filler"
    words = ["fit", "ridge", "--store", str(store), "--images", X, "--captions", Y, "--head", HEAD,
             "--head-names", NAMES, "-s", "criterion=error", "-o", str(root / "a")]  # fmt: skip

    def fit() -> str:
        said = io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            code = run_command(cli, "headstock", words)
        return "fitted" if code == 0 else f"{code} {said.getvalue().splitlines()[-1]}"

    assert fit() == "fitted"
    whole = {path.name: path.read_bytes() for path in (root / "a").iterdir()}
    for free in range(0, 60, 4):
        shutil.rmtree(root)
        shutil.rmtree(mountpoint / "cache", ignore_errors=True)
        room = shutil.disk_usage(mountpoint).free
        filler.write_bytes(bytes(room - free * 1024))
        print(free, fit())
        filler.unlink()
        assert fit() == "fitted", free
        assert {path.name: path.read_bytes() for path in (root / "a").iterdir()} == whole, free
        assert [path.name for path in root.iterdir()] == ["a"], free


if __name__ == "__main__":
    main(Path(sys.argv[1]))
