"""The server of the fault tests with the commands of fitters loaded: see tests/faults/server.py."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import fitters.cli.apply
import fitters.cli.fit
import fitters.cli.show
import fitters.from_store
import fitters.trained.training  # noqa: F401
from featstore.command_line import run_command
from fitters.cli import cli
from tests.faults import scenarios, server


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
    scenarios.run_fitters = run_fitters  # type: ignore[attr-defined]
    server.main()
