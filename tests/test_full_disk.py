"""A fit and a sweep on a disk that is really full: what is said, and the same command with room.

As a script it is what the test starts in a mount namespace of its own.
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
import pytest

ROOT = Path(__file__).parents[1]

#: What is typed in the store of the smoke suite, in a folder on that disk, and what is said there.
_SETS = (
    "--store {store} --images smoke/image --head smokehead/head_weight "
    "--head-names smokehead/class_name"
)
COMMANDS = {
    f"fit ridge {_SETS} -s criterion=error -o {{out}}/a": (
        "headstock: error: {out}/a cannot be written: ", "Free space, and run the same command",
    ),
    f"eval task zero_shot {_SETS} --names smoke/class_name -o {{out}} --n-pairs 0,8 -s penalty=1 "
    "-s mix=1 --source none,head --method ridge --eval held-out": (
        "headstock: error: Cannot write {out}/", "Free space, then run the same command",
    ),
}  # fmt: skip

#: Kibibytes that are free.
FREE = (0, 4, 8, 24, 300)


@pytest.mark.skipif(
    not hasattr(os, "getuid")
    or os.getuid() != 0
    or shutil.which("unshare") is None
    or subprocess.run(["unshare", "-m", "true"], check=False, capture_output=True).returncode != 0,
    reason="only the superuser can mount a small disk",
)
def test_a_command_on_a_full_disk_names_file_and_remedy(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    done = subprocess.run(
        ["unshare", "-m", sys.executable, "-m", "tests.test_full_disk", str(tmp_path / "disk")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def _type(words: str) -> tuple[int, str]:
    """Type a command; return its exit code and what it said last on standard error."""
    from tests.typed import headstock

    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        code = headstock(*words.split())
    return code, (said.getvalue().splitlines() or [""])[-1]


def _contents(out: Path) -> dict[str, object]:
    """Return what was made: rows without recorded times, bytes of an alignment, no session."""
    times = ("fit_seconds", "score_seconds", "learner_seconds", "finished_at")
    return {
        str(path.relative_to(out)): pl.read_parquet(path).drop(times, strict=False).rows()
        if path.suffix == ".parquet"
        else path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and "sessions" not in path.parts
    }


def main(disk: Path) -> None:
    """Fill, fail, make room, complete, compare; with more and more room."""
    from bench.suites.demo import create_smoke_store

    store, out, filler = disk.with_name("store"), disk / "out", disk / "filler"
    create_smoke_store(store)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=True)
    os.environ["XDG_CACHE_HOME"] = str(disk / "cache")
    for line, (begins, remedy) in COMMANDS.items():
        words, full = line.format(store=store, out=out), 0
        assert _type(words)[0] == 0
        whole = _contents(out)
        for kib in FREE:
            shutil.rmtree(out)
            shutil.rmtree(disk / "cache", ignore_errors=True)
            filler.write_bytes(bytes(shutil.disk_usage(disk).free - kib * 1024))
            code, said = _type(words)
            assert [*out.rglob("*.staged")] == [], kib
            filler.unlink()
            if code:
                full += 1
                assert said.startswith(begins.format(out=out)), said
                assert f"No space left on device. {remedy} again" in said, said
            assert _type(words)[0] == 0, kib
            assert _contents(out) == whole, kib
        assert (full >= 2, code) == (True, 0), full
        shutil.rmtree(out)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
