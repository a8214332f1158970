"""A script for its own mount namespace: a command of bench on a disk that fills up.

Run as ``unshare -m python -m tests.bench.full_disk MOUNTPOINT STORE``. Prints one line for each
amount of free space: the free kibibytes, the exit code, and what was said last.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl

from featstore.command_line import run_command
from headstock.__main__ import cli

#: Columns that are recorded times.
TIMES = ("fit_seconds", "score_seconds", "learner_seconds", "finished_at")


def run(words: list[str]) -> tuple[int, str]:
    """Run a command of bench; return its exit code and what it said on standard error."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        code = run_command(cli, "headstock", words)
    return code, said.getvalue()


def tables(out: Path) -> dict[str, list[tuple[object, ...]]]:
    """Return the rows of every table, without recorded times."""
    return {
        str(path.relative_to(out)): pl.read_parquet(path).drop(TIMES, strict=False).rows()
        for path in sorted(out.rglob("*.parquet"))
    }


def main(mountpoint: Path, store: str) -> None:
    """Fill, fail, make room, complete, compare; for disks with more and more room."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mountpoint)]
    subprocess.run(mount, check=True)
    out, filler = mountpoint / "results", mountpoint / "filler"
    words = (
        f"eval sweep --store {store} -o {out} --n-pairs 0,8 --seeds 0 -s penalty=1 -s mix=1".split()
    )
    words += ["--source", "none,head"]
    assert run(words)[0] == 0
    whole = tables(out)
    shutil.rmtree(out)
    for free in range(0, 120, 12):
        room = shutil.disk_usage(mountpoint).free
        filler.write_bytes(bytes(room - free * 1024))
        code, said = run(words)
        litter = [str(path) for path in mountpoint.rglob("*.staged")]
        assert litter == [], free
        filler.unlink()
        assert run(words)[0] == 0, free
        assert tables(out) == whole, free
        assert len(list((out / "sessions").iterdir())) >= 1, free
        shutil.rmtree(out)
        print(free, code, said.splitlines()[-1])


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
