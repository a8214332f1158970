"""Programs in processes of their own, forked from one that has imported what they share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_SERVER = """
import contextlib, importlib, io, json, os, sys, traceback
for name in sys.argv[1:]:
    importlib.import_module(name)
there = set(sys.modules)
for request in sys.stdin:
    program, words, hidden = json.loads(request)
    if child := os.fork():
        os.waitpid(child, 0)
        continue
    sys.modules |= dict.fromkeys(hidden)
    sys.argv, code, said = ["-c", *words], 0, io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            exec(program, {"__name__": "__main__"})
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            code = 1
            traceback.print_exc()
    modules = sorted(set(sys.modules) - there)
    print(json.dumps({"code": code, "said": said.getvalue(), "modules": modules}), flush=True)
    os._exit(0)
"""


@dataclass(frozen=True)
class Ended:
    """How a program ended, what it said, and the modules that it imported."""

    code: int
    said: str
    modules: list[str]


class Programs:
    """Runs Python programs one after another, each in a fork of a process that has some modules."""

    def __init__(self, *modules: str) -> None:
        path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
        self._server: Any = subprocess.Popen(
            [sys.executable, "-c", _SERVER, *modules], text=True,
            env=os.environ | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1"},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def run(self, program: str, words: Sequence[str] = (), *, hidden: Sequence[str] = ()) -> Ended:
        """Run a program with these arguments, for which the hidden packages are not installed."""
        self._server.stdin.write(json.dumps([program, words, hidden]) + "\n")
        self._server.stdin.flush()
        return Ended(**json.loads(self._server.stdout.readline()))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self._server.communicate()
