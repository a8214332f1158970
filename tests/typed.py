"""What tests type at the command line."""

from __future__ import annotations

from collections.abc import Iterator

import click

from featstore.command_line import run_command
from headstock.__main__ import cli


def headstock(*words: object) -> int:
    """Run a command of `headstock` in this process, and return its exit code."""
    return run_command(cli, "headstock", [str(word) for word in words])


def commands(
    command: click.Command = cli, path: tuple[str, ...] = ("headstock",)
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield the groups and commands that there are, each with its path."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=path[-1])
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from commands(below, (*path, name))
