"""What tests type at the command line."""

from __future__ import annotations

from featstore.command_line import run_command
from headstock.__main__ import cli


def headstock(*words: object) -> int:
    """Run a command of `headstock` in this process, and return its exit code."""
    return run_command(cli, "headstock", [str(word) for word in words])
