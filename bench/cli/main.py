"""Options that the commands on results share."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from featstore.cli.options import KEY, command_words, prompt_fields, prompts_option
from featstore.command_line import Choice, StoreType
from featstore.options import Owners, option, parts_of, plain_settings, settings_of

if TYPE_CHECKING:
    from bench.tables import Table

_Function = TypeVar("_Function", bound=Callable[..., Any])


results_argument = click.argument("results", type=click.Path(path_type=Path, file_okay=False))

out_option = click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write results to this folder; finished runs in it are kept [default: results/NAME, of "
    "the suite or task].",
)

suite_option = click.option(
    "--suite", metavar="NAME", help="Read the results of this suite, if the folder holds several."
)

dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Print what would be run, and run nothing."
)

form_option = click.option(
    "--format",
    "form",
    type=Choice(["table", "md", "csv", "json", "latex"]),
    metavar="NAME",
    default="table",
    show_default=True,
    help="Print a plain table, Markdown, CSV (unrounded), JSON or LaTeX (booktabs).",
)


@dataclass(frozen=True)
class Machines:
    """Where runs are computed."""

    jobs: int = option(
        1,
        help="Compute in this many processes, each with one thread. Results do not depend on it.",
        at_least=1,
        below=10_001,
    )
    engine: Literal["local", "ray"] = option(
        "local",
        help="Compute in processes of this machine, or on Ray: here, or on the cluster that "
        "RAY_ADDRESS names.",
    )
    device: str = option(
        "cpu",
        help="Train methods and learn prompts on this device, named as in torch, or auto. It "
        "enters no id.",
    )


@dataclass(frozen=True)
class TextChoice:
    """Texts that training images are paired with, as a command line says them."""

    pair_prompts: tuple[str, ...] = option(
        (),
        help="Pair training images with these texts of classes, such as description:d000 "
        "[default: --prompts].",
        metavar="PROMPTS",
        flag="-s",
    )


def run_settings(methods: Iterable[str] | None, task: str | None = None) -> Owners:
    """Return what ``-s`` sets of runs: of methods (None: all that there are), of a task, of any.

    Without a name ("") it is of no one task; with None a suite decides about its runs.
    """
    from bench.options import TASKS
    from bench.runs import IDENTITY, Data, Protocol
    from bench.suites import SetNames
    from fitters.methods import METHODS, method_named

    of_task = {} if not task else {task: plain_settings(TASKS[task].options)}
    names = list(METHODS if methods is None else methods)
    of_methods = {name: {} if name == IDENTITY else method_named(name).settings for name in names}
    of_runs = settings_of(Data, *([Protocol, SetNames, TextChoice] if task is not None else []))
    return {**of_task, **of_methods, "a run": {} if task is None else of_runs}


def names_option(flag: str, name: str, text: str) -> Callable[[_Function], _Function]:
    """Return an option that takes names, parted by commas or given again; None without any."""
    return click.option(flag, name, multiple=True, metavar="NAMES", callback=_names, help=text)


def _names(
    ctx: click.Context, parameter: click.Parameter, given: tuple[str, ...]
) -> tuple[str, ...] | None:
    return tuple(dict.fromkeys(parts_of(ctx, parameter, given))) or None


def text_options(function: _Function) -> _Function:
    """Add ``--prompts`` and ``--head-prompts``; `texts_of` reads them."""
    function = prompts_option(
        "--head-prompts",
        "Fit on these texts of the head's classes; auto chooses them on the head [default: "
        "--prompts, and the definition where there is one].",
    )(function)
    return prompts_option(
        "--prompts",
        "Score these texts of the images' classes: VARIANT[,…][:TEMPLATE[,…]] [default: "
        "name:none,photo].",
    )(function)


def texts_of(given: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
    """Take the options of `text_options` out of a command's own, as lists of fields of runs."""
    own = prompt_fields(given.pop("prompts")) | prompt_fields(given.pop("head_prompts"), "head_")
    return {name: (words,) for name, words in own.items()}


def print_form(table: Table, form: str) -> None:
    """Print a table of results in the form that `form_option` names."""
    if form == "table":
        table.plain.show()
    else:
        click.echo(table.text(form), nl=False)


def recorded_command() -> str:
    """Return the command line that does this again, without a path or an address.

    The store is STORE, the results are OUT; of other options a value that may be a path is the name
    of its option, too. An environment that has a store counts as given: another may have another.
    """
    return shlex.join(command_words(_recorded))


def _recorded(option: click.Parameter, value: str) -> str:
    """Return what is recorded of a value: itself, or a name where it may be a path."""
    is_place = isinstance(option.type, click.Path | StoreType)
    # Names of sets have slashes, too, and neither begin with one nor hold a drive or a scheme.
    has_key = option.type is KEY or option.name == "words"
    words = re.split(r"[=,]", value) if has_key else [value]
    fits = all((_KEY if has_key else _WORDS).fullmatch(word) or not word for word in words)
    return (option.name or "").upper() if is_place or not fits else value


_WORDS = re.compile(r"[\w.,:@=+ -]*")
_KEY = re.compile(r"[\w.+@-]+(/[\w.:+@-]+){0,2}")
