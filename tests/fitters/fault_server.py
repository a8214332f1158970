"""The server of the fault tests with the commands of fitters loaded: see tests/faults/server.py."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

from featstore.command_line import run_command
from fitters.cli import cli
from tests.faults import scenarios, server

#: What the commands import when they run; the last, what the first optimiser of torch does.
LOADED = (
    "fitters.cli.apply", "fitters.cli.fit", "fitters.cli.show", "fitters.from_store",
    "fitters.trained.training", "torch._dynamo",
)  # fmt: skip


def run_fitters(root: Path, *, lines: list[list[str]], messages: str) -> list[int]:
    """Run commands of fitters with the user's cache below `root`; stop at the first that fails.

    What they say on standard error goes to a file.
    """
    os.environ["XDG_CACHE_HOME"] = str(root / "cache")
    codes: list[Any] = []
    with Path(messages).open("w") as sys.stderr:
        for arguments in lines:
            codes.append(run_command(cli, "fitters", arguments))
            if codes[-1] != 0:
                break
    return codes


if __name__ == "__main__":
    for name in LOADED:
        importlib.import_module(name)
    scenarios.run_fitters = run_fitters  # type: ignore[attr-defined]
    server.main()
