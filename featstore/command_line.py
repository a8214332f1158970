"""How commands answer: data on stdout, errors as one line on stderr, exit codes.

Exit codes: 0 done, 1 an error, 2 wrong usage, 3 finished with skipped items, 4 verification
failed.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from featstore.errors import FeatstoreError, needs_extra, unknown_name

EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_SKIPPED = 3
EXIT_VERIFY = 4


class CommandGroup(click.Group):
    """A click group whose unknown commands come with a suggestion, imported when used.

    Parameters
    ----------
    lazy : dict
        Name of a command -> ``module:attribute``, so that ``--help`` of one command does
        not import the libraries of another.
    """

    def __init__(self, *args: Any, lazy: dict[str, str] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = lazy or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, sorted."""
        return sorted({*super().list_commands(ctx), *self.lazy})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, importing its module if need be."""
        if cmd_name not in self.lazy:
            return super().get_command(ctx, cmd_name)
        from importlib import import_module

        module, attribute = self.lazy[cmd_name].split(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Resolve a command; an unknown one is a usage error with a suggestion."""
        name = args[0] if args else ""
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            known, by = self.list_commands(ctx), f"{ctx.command_path} --help"
            raise click.UsageError(unknown_name("command", name, known, listed_by=by), ctx)
        return super().resolve_command(ctx, args)


#: Where a store lies: a folder, or the address of a remote one.
StorePlace = Path | str


class StoreType(click.ParamType):  # type: ignore[type-arg]  # not generic before click 8.3
    """A command's store: a path, or an address such as ``s3://team/features``."""

    name = "store"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> StorePlace:
        """Return an address as it was typed, anything else as a path."""
        del param, ctx
        return value if isinstance(value, Path) or "://" in value else Path(value)


def run_command(group: click.Command, name: str, args: list[str] | None = None) -> int:
    """Run a command line and return its exit code; every error is one line on stderr."""
    try:
        with needs_extra(f"This `{name}` command"):
            result = group.main(args=args, prog_name=name, standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as err:
        click.echo(err.ctx.get_help() if err.ctx else "", err=True)
        return EXIT_USAGE
    except click.UsageError as err:
        where = err.ctx.command_path if err.ctx else name
        _complain(name, f"{err.format_message()} See `{where} --help`.")
        return EXIT_USAGE
    except click.ClickException as err:
        _complain(name, err.format_message())
        return err.exit_code
    except click.exceptions.Exit as err:
        return err.exit_code
    except click.Abort:
        _complain(name, "Interrupted.")
        return 130
    except FeatstoreError as err:
        notes = " ".join(getattr(err, "__notes__", []))
        _complain(name, f"{err} {notes}".strip())
        return EXIT_ERROR
    except BrokenPipeError:
        # Whoever read has gone; what is left in the buffer must not raise at exit.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_ERROR
    except OSError as err:
        _complain(name, f"{err.strerror or err}: {err.filename or 'standard output'}.")
        return EXIT_ERROR
    except UnicodeEncodeError as err:
        _complain(name, f"An argument or text is not valid Unicode ({err.reason}).")
        return EXIT_ERROR
    return result if isinstance(result, int) else 0


def entry_point(group: click.Command, name: str) -> Callable[[], None]:
    """Return the function that a console script calls."""

    def main() -> None:
        sys.exit(run_command(group, name))

    return main


def print_json(value: Any) -> None:
    """Print `value` as JSON on stdout."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def _complain(name: str, message: str) -> None:
    """Print an error as one line."""
    click.echo(f"{name}: error: {' '.join(message.split())}", err=True)
