"""What a child of the fault matrix does: make a world, type a command, look at what it left."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import shlex
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from featstore.command_line import run_command
from featstore.store import collect_garbage, verify_store
from headstock.__main__ import cli
from tests.faults.worlds import WORLDS

#: Seconds after which a command hangs, on a machine that does other things too.
PATIENCE = 300

#: Files that hold recorded times: of a run of an extraction, of a session, the log beside a store.
_RECORDS = re.compile(r"(^|/)(runs|sessions)/[^/]+\.json$|(^|/)sessions$|\.extract\.jsonl$")

#: How verify ends what it says of what the same command completes.
_UNDER_WAY = "when the same command is typed again"

#: Columns of results that hold times.
_TIMES = ("fit_seconds", "score_seconds", "learner_seconds", "finished_at")


def build(root: Path, *, world: str) -> None:
    """Make a world."""
    WORLDS[world](root)


def typed(root: Path, *, line: str, messages: str) -> int:
    """Type a command in the folder `root`, with a cache of its own there; return its exit code.

    What it says on standard error goes to the file `messages`.
    """
    handle = os.open(messages, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 2)
    os.close(handle)
    os.chdir(root)
    os.environ["XDG_CACHE_HOME"] = str(root / "cache")
    signal.alarm(PATIENCE)
    return run_command(cli, "headstock", shlex.split(line)[1:])


def again(
    root: Path, *, line: str, messages: str, stores: list[str], done: str, after: str
) -> dict[str, Any]:
    """Look at what a fault left, type the same command again, and look at what that leaves.

    Returns
    -------
    dict
        ``damage``: what verify said first. ``code``: exit code of the command; 0 too if it said
        `done` and left what is ``tree`` in the end. ``problems`` and ``tree``: of `settle`.
    """
    found = verified(root, stores=stores)
    code = typed(root, line=line, messages=messages)
    before = tree(root) if code == 2 and done and done in Path(messages).read_text() else None
    if after:
        typed(root, line=after, messages=messages)
    settled = settle(root, stores=stores)
    return {"damage": found, "code": 0 if before == settled["tree"] else code, **settled}


def verified(root: Path, *, stores: list[str]) -> list[str]:
    """Return what verify says of these stores, but for what it says is under way."""
    return [line for line in _problems(root, stores) if not line.endswith(_UNDER_WAY)]


def _problems(root: Path, stores: list[str]) -> Iterator[str]:
    for name in stores:
        if (root / name / "log.json").exists():
            for problem in verify_store(root / name).problems:
                yield f"verify: {name}/{problem.path} {problem.what}"


def settle(root: Path, *, stores: list[str]) -> dict[str, Any]:
    """Collect garbage of any age, verify, and return the problems and all that is there."""
    for name in stores:
        if (root / name / "log.json").exists():
            # What one pass sets free is found by the next.
            while collect_garbage(root / name, grace=0):
                pass
    return {"problems": list(_problems(root, stores)), "tree": tree(root)}


def tree(root: Path) -> dict[str, str]:
    """Return every name below `root` with its mode and a digest of its content but for times."""
    found = {}
    for folder, inside, names in os.walk(root):
        for name in [*inside, *names]:
            path = Path(folder, name)
            where = path.relative_to(root).as_posix()
            if not _RECORDS.search(where):
                facts = path.lstat()
                kind = stat.filemode(facts.st_mode)
                whole = _digest(path) if stat.S_ISREG(facts.st_mode) else ""
                found[where] = f"{kind} {whole}".strip()
    return found


def _digest(path: Path) -> str:
    data = path.read_bytes()
    if path.suffix == ".parquet":
        with contextlib.suppress(Exception):
            frame = pl.read_parquet(io.BytesIO(data))
            if set(_TIMES) <= set(frame.columns):
                data = frame.drop(_TIMES).serialize()
    return hashlib.sha256(data).hexdigest()[:16]
