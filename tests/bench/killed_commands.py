"""Kill a command of bench at its file calls, type it again, and compare what it leaves.

A script, for a process that has loaded tests/faults/shim.c (LD_PRELOAD): it loads the libraries
once and forks for each attempt. Its arguments are a folder, which of the kills to make (every nth)
and the words of the command, in which OUT is the folder that the attempt writes into. It prints
JSON: how many file calls there are, how many attempts were made, and what went wrong.
"""

from __future__ import annotations

import ctypes
import io
import json
import os
import pickle
import shutil
import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import polars as pl

from bench.cli.main import cli
from featstore.command_line import run_command

MODES = {"before": 1, "after": 2, "torn": 3}
TIMES = ("fit_seconds", "score_seconds", "finished_at")


def attempt(words: list[str], out: Path, fault: str = "", at: int = 0) -> tuple[int, list[str]]:
    """Run a command in a child; return its exit code (negative: a signal) and its file calls."""
    said, trace = out.parent / "said", out.parent / "trace"
    child = os.fork()
    if child == 0:
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        os.dup2(2, 1)
        shim = ctypes.CDLL(os.environ["LD_PRELOAD"])
        shim.faults_arm(os.fsencode(out), MODES.get(fault, 0), at, 0)
        code = run_command(cli, "bench", [word.replace("OUT", str(out)) for word in words])
        shim.faults_trace.restype = ctypes.c_char_p
        calls = shim.faults_trace()
        shim.faults_arm(b"", 0, 0, 0)
        trace.write_bytes(calls)
        os._exit(code)
    _, status = os.waitpid(child, 0)
    calls = trace.read_text().splitlines() if trace.exists() else []
    return os.waitstatus_to_exitcode(status), calls


def content(out: Path) -> dict[str, Any]:
    """Return what each file holds, as a child reads it: threads of polars outlive no fork."""
    held = out.parent / "held"
    child = os.fork()
    if child == 0:
        held.write_bytes(pickle.dumps(_content(out)))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    found: dict[str, Any] = pickle.loads(held.read_bytes())
    return found


def _content(out: Path) -> dict[str, Any]:
    """Return what each file holds, without recorded times; of a session its command."""
    found: dict[str, Any] = {}
    for path in sorted(out.rglob("*")):
        name, data = str(path.relative_to(out)), path.read_bytes() if path.is_file() else None
        if data is None or "/store/" in f"/{name}":
            continue
        if name.startswith("sessions/") and path.suffix == ".json":
            found["session"] = json.loads(data)["command"]
        elif path.suffix == ".parquet":
            table = pl.read_parquet(io.BytesIO(data))
            found[name] = table.drop(TIMES, strict=False).rows()
        else:
            found[name] = data
    return found


def main(folder: Path, every: int, words: list[str]) -> None:
    """Make the attempts and print what went wrong."""
    out = folder / "out"
    code, calls = attempt(words, out)
    assert code == 0, (folder / "said").read_text()
    whole, wrong, n = content(out), [], 0
    shutil.rmtree(out)
    for fault in MODES:
        # Different faults take different calls.
        for at in range(1 + 3 * MODES[fault] % every, len(calls) + 1, every):
            n += 1
            where = f"{fault} call {at}: {calls[at - 1]}"
            code, _ = attempt(words, out, fault, at)
            if code != -signal.SIGKILL:
                wrong.append(f"{where}: exit {code}, not killed")
            code, _ = attempt(words, out)
            left = content(out)
            if code:
                wrong.append(f"{where}: again exit {code}: {(folder / 'said').read_text()[-300:]}")
            elif left != whole:
                names = {name for name in left | whole if left.get(name) != whole.get(name)}
                wrong.append(f"{where}: again another {sorted(names)[:5]}")
            shutil.rmtree(out, ignore_errors=True)
    print(json.dumps({"calls": len(calls), "attempts": n, "wrong": wrong}))


if __name__ == "__main__":
    for module in ("bench.execution", "bench.report.page", "bench.suites.registry"):
        import_module(module)
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
