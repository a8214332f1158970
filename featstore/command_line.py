"""How commands answer: data on stdout, errors as one line on stderr, exit codes.

Exit codes: 0 done, 1 an error, 2 wrong usage (names that are unknown or ambiguous among it), 3
finished with skipped items, 4 verification failed, 5 a gate is missed.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from featstore.errors import (
    AddressError,
    FeatstoreError,
    UnknownName,
    did_you_mean,
    needs_extra,
    unknown_name,
)
from featstore.options import Owners, british, setting_lines
from featstore.terminal import TextTable, bad, json_text, say, visible_output

_Function = TypeVar("_Function", bound=Callable[..., Any])

EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_SKIPPED = 3
EXIT_VERIFY = 4
EXIT_GATE = 5


def _use(ctx: click.Context, _: click.Parameter, places: tuple[str, ...]) -> tuple[str, ...]:
    """Load plugins, before any name is looked at; to complete a line runs nobody's code."""
    if places and not ctx.resilient_parsing:
        from featstore.plugins import use_plugins

        use_plugins(places)
    ctx.meta["plugins"] = places
    return places


#: The option of every command.
plugin_option = click.Option(
    ["--plugin", "plugins"], type=click.Path(), multiple=True, metavar="MODULE|FILE.py",
    is_eager=True, expose_value=False, callback=_use, envvar="HEADSTOCK_PLUGINS", show_envvar=True,
    help="Load this module or file, which registers methods, tasks, encoders or other things of "
         "your own; repeatable.",
)  # fmt: skip


class CommandGroup(click.Group):
    """A click group whose unknown commands come with a suggestion, imported when used.

    Each command has the option ``--plugin``.

    Parameters
    ----------
    lazy : dict
        Name of a command -> ``module:attribute``, so that ``--help`` of one command does
        not import the libraries of another.
    """

    def __init__(self, *args: Any, lazy: dict[str, str] | None = None, **kwargs: Any) -> None:
        settings = {"help_option_names": ["-h", "--help"], "token_normalize_func": british}
        kwargs.setdefault("context_settings", settings)
        super().__init__(*args, **kwargs)
        self.epilog = pasteable(self.epilog) if self.epilog else None
        self.lazy = lazy or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, sorted."""
        return sorted({*super().list_commands(ctx), *self.lazy})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, importing its module if need be."""
        command = super().get_command(ctx, cmd_name)
        if cmd_name in self.lazy:
            command = resolve_name(self.lazy[cmd_name])
        if not isinstance(command, click.Group | None) and plugin_option not in command.params:
            command = copy(command)
            command.params = [*command.params, plugin_option]
        if command is not None and command.epilog:
            command.epilog = pasteable(command.epilog)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Resolve a command; an unknown one is a usage error with a suggestion."""
        name = args[0] if args else ""
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            known, by = self.list_commands(ctx), f"{ctx.command_path} --help"
            said = unknown_name("command", name, known, listed_by=by)
            raise click.UsageError(_elsewhere(ctx, name) or said, ctx)
        return super().resolve_command(ctx, args)


def _elsewhere(ctx: click.Context, name: str) -> str:
    """Return where a command of this name stands in the program, in a sentence, or ""."""
    root = ctx.find_root()
    groups = {root.info_name: root.command}
    if isinstance(root.command, click.Group):
        groups |= {f"{root.info_name} {one}": group for one, group in root.command.commands.items()}
    for path, group in groups.items():
        if isinstance(group, click.Group) and name in group.list_commands(ctx):
            return f"`{ctx.command_path}` has no command {name!r}. Did you mean '{path} {name}'?"
    return ""


#: Columns of a help.
COLUMNS = 80

#: A blank at which a line of an example is not broken: before the value of an option, in quotes.
_KEPT = re.compile(r"(?<=\s)(-{1,2}[\w-]+) (?=[^\s-])|\"[^\"]*\"|'[^']*'")


def pasteable(epilog: str) -> str:
    r"""Return the examples below a help as lines that fit it and can be pasted.

    A longer line goes on behind a backslash, as in a shell, at the next option. Lines that begin
    with two blanks are commands; a single one may follow "Example:".

    Examples
    --------
    >>> print(pasteable("Example: headstock ls build/demo/store"))
    \b
    Example:
      headstock ls build/demo/store
    """
    text = re.sub(r"^(?:\b\n)?(Example[^:\n]*:) (?=\S)", r"\1\n  ", epilog)
    lines = re.sub(r" *\\\n\s*", " ", text.removeprefix("\b\n")).splitlines()
    return "\b\n" + "\n".join(_broken(line) if line.startswith("  ") else line for line in lines)


def _broken(command: str) -> str:
    whole = _KEPT.sub(lambda found: found[0].replace(" ", "\0"), command.strip())
    lines = textwrap.wrap(
        whole, COLUMNS - 4, initial_indent="  ", subsequent_indent=" " * 6,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    return " \\\n".join(lines).replace("\0", " ")


class SectionedCommand(click.Command):
    """A command of many options: its help has them in sections, what is used every day first.

    Parameters
    ----------
    sections : dict
        Heading -> flags below it, in their order; the rest follow as "More options".
    named : tuple of (str, str), optional
        Heading and registry ("module:name") of what its argument may name: they end a help that
        names nothing.
    settings : callable, optional
        What the command line names -> its settings, by what has them: the command then has the
        option ``-s``, and its help ends in what that takes. It is given the parameters, in a help
        as they were typed.
    """

    def __init__(
        self,
        *args: Any,
        sections: dict[str, str],
        named: tuple[str, str] | None = None,
        settings: Callable[[Mapping[str, Any]], Owners] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.sections = {title: flags.split() for title, flags in sections.items()}
        self.named, self.settings = named, settings

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse a line, which is kept: a help is printed before its arguments are looked at."""
        ctx.meta["line"] = [*args]
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options of each section, and the settings of what was named."""
        options = {
            flag: option
            for option in self.get_params(ctx)
            if isinstance(option, click.Option)
            for flag in option.opts
        }
        placed = [options[flag] for flags in self.sections.values() for flag in flags]
        rest = [
            option.opts[0] for option in dict.fromkeys(options.values()) if option not in placed
        ]
        for title, flags in (*self.sections.items(), ("More options", rest)):
            records = [options[flag].get_help_record(ctx) for flag in flags]
            with formatter.section(title):
                formatter.write_dl([record for record in records if record])
        owners = {} if self.settings is None else self.settings(self._typed(ctx))
        for owner, own in owners.items():
            with formatter.section(f"Settings of {owner} (-s)"):
                formatter.write_dl(setting_lines(own) or [("none", "")])
        if self.named is not None and not owners:
            title, registry = self.named
            with formatter.section(title):
                formatter.write_dl(resolve_name(registry).known())

    def _typed(self, ctx: click.Context) -> dict[str, Any]:
        """Return the parameters of the line as they were typed, as far as it can be parsed."""
        before, ctx.resilient_parsing = ctx.resilient_parsing, True
        try:
            found = self.make_parser(ctx).parse_args([*ctx.meta.get("line", ())])[0]
            return {name: value for name, value in found.items() if isinstance(value, str | list)}
        finally:
            ctx.resilient_parsing = before


def setting_option(text: str) -> Callable[[_Function], _Function]:
    """Return the option ``-s NAME=VALUE``, with its help; `take_settings` reads it."""
    return click.option(
        "-s", "--setting", "words", multiple=True, metavar="NAME=VALUE",
        help=f"{text}; repeatable.",
    )  # fmt: skip


#: Where a store lies: a folder, or the address of a remote one.
StorePlace = Path | str


class Choice(click.Choice[str]):
    """One of several words; the message on another names the closest."""

    def get_invalid_choice_message(self, value: Any, ctx: click.Context | None) -> str:
        """Return what is said of a word that is none of them."""
        return super().get_invalid_choice_message(value, ctx) + did_you_mean(value, self.choices)


class StoreType(click.ParamType):  # type: ignore[type-arg]  # not generic before click 8.3
    """A command's store: a path, or an address such as ``s3://team/features``.

    Parameters
    ----------
    writes : bool
        The command works on a folder of this machine: an address is wrong usage.
    """

    name = "store"

    def __init__(self, *, writes: bool = False) -> None:
        self._writes = writes

    def shell_complete(
        self, _ctx: click.Context, _param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Let the shell complete folders."""
        return [CompletionItem(incomplete, type="dir")]

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> StorePlace:
        """Return an address as it was typed, anything else as a path."""
        from featstore.durable import local_folder

        if isinstance(value, Path) or "://" not in value:
            path = Path(value)
            if self._writes and "@" in path.name and not path.exists():
                self.fail(f"{value} is not there. A store at a tag (STORE@TAG) is only read.")
            return path
        try:
            return local_folder(value)  # of a file:// address, too
        except AddressError:
            if self._writes:
                self.fail(
                    f"{value} is an address, but this command works on a folder of this machine. "
                    "Copy the sets with `headstock store pull` and `headstock store push`.",
                    param, ctx,
                )  # fmt: skip
        return str(value)


def store_option(
    text: str, *, required: bool = True, writes: bool = False
) -> Callable[[_Function], _Function]:
    """Return the option ``--store``, which the variable HEADSTOCK_STORE may give, with its help."""
    return click.option(
        "--store", required=required, type=StoreType(writes=writes), metavar="STORE", help=text,
        envvar="HEADSTOCK_STORE", show_envvar=True,
    )  # fmt: skip


def signed_options(function: _Function) -> _Function:
    """Add what a store must be signed by (``--trusted-key``), and its lowest number."""
    function = click.option(
        "--at-least", type=int, default=0, metavar="N",
        help="Refuse a signature whose number is below N.",
    )(function)  # fmt: skip
    return click.option(
        "--trusted-key", "key", metavar="PUBLIC",
        help="Refuse a store not signed by this public key: 64 hex digits.",
    )(function)  # fmt: skip


def check_signed_options(key: str | None, at_least: int) -> None:
    """Raise a usage error if there is a lowest number of a signature, but no key."""
    if at_least and key is None:
        raise usage_error("--at-least counts signatures: give --trusted-key, too.")


def usage_error(message: str) -> click.UsageError:
    """Return an error of the command line that runs, to be raised."""
    return click.UsageError(message, click.get_current_context())


#: The option of every command that reports.
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print the answer as one JSON document."
)


@visible_output()
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
        said = re.sub(r"(?<![.?])$", ".", err.format_message())  # click ends some without one
        _complain(name, f"{said} See `{where} --help`.")
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
        _complain(name, f"{err} {' '.join(getattr(err, '__notes__', []))}".strip())
        is_name = isinstance(err, KeyError) or any(isinstance(a, UnknownName) for a in err.args)
        return EXIT_USAGE if is_name else EXIT_ERROR
    except BrokenPipeError:
        # The reader has gone; what is left in the buffer must not raise at exit.
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


def print_json(value: Any) -> None:
    """Print `value` as JSON on stdout."""
    click.echo(json_text(value))


def answer(document: Any, *parts: str | Sequence[str] | TextTable, as_json: bool) -> None:
    """Print what a command has found: one JSON document on stdout, or lines and tables.

    Parameters
    ----------
    document : object
        All of it, for programs.
    *parts
        The same for people: a line, the texts of a line (`featstore.terminal.say`), or a table.
    as_json : bool
    """
    if as_json:
        print_json(document)
        return
    for part in parts:
        if isinstance(part, TextTable):
            part.show()
        else:
            say(*([part] if isinstance(part, str) else part))


def completed(registry: str) -> Callable[..., list[CompletionItem]]:
    """Return what completes a parameter of click by the names in a registry, "module:name"."""

    def complete(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[Any]:
        return [
            CompletionItem(name) for name in resolve_name(registry) if name.startswith(incomplete)
        ]

    return complete


def name_argument(
    name: str, registry: str, *, suffix: str | None = None
) -> Callable[[_Function], _Function]:
    """Return an argument that is a name in a registry, "module:name"; another is wrong usage.

    With a `suffix` a file that ends so may be given instead.
    """

    def check(ctx: click.Context, _: click.Parameter, given: str) -> str:
        if suffix and given.endswith(suffix):
            return given
        names = resolve_name(registry)
        given = given if given in names else british(given)
        if given not in names:
            by = f"{ctx.command_path} --help"
            raise click.UsageError(unknown_name(name, given, names, listed_by=by), ctx)
        return given

    return click.argument(name, shell_complete=completed(registry), callback=check)


def print_listed(rows: Sequence[dict[str, str]], *, as_json: bool) -> None:
    """Print what registries list (`featstore.plugins.Registry.listed`): a line a thing, or JSON."""
    cells = [[row[key] for key in ("name", "kind", "package", "text")] for row in rows]
    answer(rows, TextTable(("NAME", "KIND", "PACKAGE", ""), cells), as_json=as_json)


def count(n: int, what: str) -> str:
    """Return how many there are of something.

    Examples
    --------
    >>> count(1, "set"), count(1200, "row")
    ('1 set', '1,200 rows')
    """
    return f"{n:,} {what}{'' if n == 1 else 's'}"


_KEYWORD = re.compile(r"`([a-z_]+)=([^`]*)`")


def _complain(name: str, message: str) -> None:
    """Print an error as one line; of a keyword in it, as `name=value`, the flag is printed."""
    message = _KEYWORD.sub(lambda m: f"--{m[1].replace('_', '-')} {m[2]}".rstrip(), message)
    say(f"{name}: ", bad("error:"), f" {' '.join(message.split())}", err=True)
