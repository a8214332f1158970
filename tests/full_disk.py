"""A script for its own mount namespace: a fit, or a sweep, on a disk that fills up.

Run as ``unshare -m python -m tests.full_disk MOUNTPOINT fit|sweep``. Prints one line for each
amount of free space: the free kibibytes, the exit code, and what was said last.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl

from bench.suites.demo import create_smoke_store
from featstore.command_line import run_command
from headstock.__main__ import cli
from tests.fitters.toy_store import HEAD, NAMES, X, Y, write_toy_store

#: Columns that are recorded times.
TIMES = ("fit_seconds", "score_seconds", "learner_seconds", "finished_at")


def run(words: list[str]) -> tuple[int, str]:
    """Run a command; return its exit code and what it said last on standard error."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        code = run_command(cli, "headstock", words)
    return code, (said.getvalue().splitlines() or [""])[-1]


def contents(out: Path) -> dict[str, object]:
    """Return what was made: rows without recorded times, bytes of an alignment, no session."""
    return {
        str(path.relative_to(out)): pl.read_parquet(path).drop(TIMES, strict=False).rows()
        if path.suffix == ".parquet"
        else path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and "sessions" not in path.parts
    }


def main(mountpoint: Path, which: str) -> None:
    """Fill, fail, make room, complete, compare; for disks with more and more room."""
    store, out, filler = mountpoint.with_name("store"), mountpoint / "out", mountpoint / "filler"
    if which == "fit":
        write_toy_store(store)
        free = range(0, 60, 4)
        words = f"fit ridge --store {store} --images {X} --captions {Y} --head {HEAD} "
        words += f"--head-names {NAMES} -s criterion=error -o {out / 'a'}"
    else:
        create_smoke_store(store)
        free = range(0, 120, 12)
        words = f"eval task zero_shot --store {store} -o {out} --n-pairs 0,8 -s penalty=1 "
        words += "-s mix=1 --source none,head --method ridge --eval held-out"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mountpoint)], check=True)
    os.environ["XDG_CACHE_HOME"] = str(mountpoint / "cache")
    assert run(words.split())[0] == 0
    whole = contents(out)
    assert whole
    for kib in free:
        shutil.rmtree(out)
        shutil.rmtree(mountpoint / "cache", ignore_errors=True)
        room = shutil.disk_usage(mountpoint).free
        filler.write_bytes(bytes(room - kib * 1024))
        code, said = run(words.split())
        assert [str(path) for path in out.rglob("*.staged")] == [], kib
        filler.unlink()
        assert run(words.split())[0] == 0, kib
        assert contents(out) == whole, kib
        assert which == "fit" or any((out / "sessions").iterdir()), kib
        print(kib, code, said)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
