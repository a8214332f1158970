"""Options that the commands on results share."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from featstore.cli.options import KEY
from featstore.command_line import StoreType
from featstore.errors import FeatstoreError
from featstore.options import parts_of

if TYPE_CHECKING:
    from bench.runs import Leaf
    from bench.tables import Table

_Function = TypeVar("_Function", bound=Callable[..., Any])


results_argument = click.argument("results", type=click.Path(path_type=Path, file_okay=False))

out_option = click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Write results to this folder; finished runs in it are kept.",
)

suite_option = click.option(
    "--suite", default=None, help="Read the results of this suite, if the folder holds several."
)

jobs_option = click.option(
    "--jobs",
    type=click.IntRange(1, 10_000),
    default=1,
    show_default=True,
    help="Compute in this many processes, each with one thread. Results do not depend on it.",
)

engine_option = click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help="Compute in processes of this machine, or on Ray: here, or on the cluster that "
    "RAY_ADDRESS names.",
)

device_option = click.option(
    "--device",
    default="cpu",
    show_default=True,
    help="Train methods and learn prompts on this device, named as in torch, or auto. It enters "
    "no id.",
)

dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Print what would be run, and run nothing."
)

form_option = click.option(
    "--format",
    "form",
    type=click.Choice(["table", "md", "csv", "json", "latex"]),
    default="table",
    show_default=True,
    help="Print a plain table, Markdown, CSV (unrounded), JSON or LaTeX (booktabs).",
)


class Values(click.ParamType):  # type: ignore[type-arg]  # not generic before click 8.3
    """Values of a field of a run, by comma: each makes runs of its own.

    Parameters
    ----------
    leaf : Leaf
        Of `bench.runs.LEAVES`. Of a field that holds several words, the list is one value.
    several : bool
        Whether more than one value is taken.
    """

    def __init__(self, leaf: Leaf, *, several: bool = True) -> None:
        self._leaf = leaf
        self.several = several
        self._types = leaf.types
        self._words = [word for word in leaf.types if isinstance(word, str)]
        # Where "auto" is the default, None is another choice.
        self._all = [] if leaf.default is None or not leaf.optional else ["all"]
        number = ["N"] if int in leaf.types else ["NUMBER"] if float in leaf.types else []
        self.name = "|".join([*self._words, *self._all, *number]) or "NAMES"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Any, ...]:
        """Return the values; anything else is a usage error."""
        if isinstance(value, tuple):
            return value
        words = words_of(str(value))
        if not words and self._leaf.default != ():
            self.fail(f"expected {self.name}, got nothing.", param, ctx)
        if tuple in self._types:
            return (tuple(words),)
        if len(words) > 1 and not self.several:
            self.fail(f"takes one value of {self.name}; got {len(words):,}.", param, ctx)
        if len(words) > _MOST_VALUES:
            what = f"takes at most {_MOST_VALUES:,} values; got {len(words):,}."
            self.fail(what, param, ctx)
        return tuple(dict.fromkeys(self._value(word, param, ctx) for word in words))

    def typed(self, values: tuple[Any, ...]) -> str:
        """Return values as they are typed."""
        (first, *_) = values
        words = first if isinstance(first, tuple) else values
        return ",".join("all" if word is None else str(word) for word in words)

    def _value(self, word: str, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if word in self._all:
            return None
        if word in self._words or str in self._types:
            return word
        for kind in (int, float):
            if kind in self._types and len(word) <= _LONGEST:
                with suppress(ValueError):
                    return self._checked(kind(word), param, ctx)
        shown = word if len(word) <= _LONGEST else f"{word[:_LONGEST]}\N{HORIZONTAL ELLIPSIS}"
        return self.fail(f"expected {self.name}, got {shown!r}.", param, ctx)

    def _checked(
        self, number: float, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return a number that is in the range of the field."""
        try:
            self._leaf.check(number)
        except FeatstoreError as err:
            self.fail(str(err), param, ctx)
        return number


#: No number that means something is typed in more characters than this.
_LONGEST = 40

#: Values that one option takes at most.
_MOST_VALUES = 10_000


def words_of(text: str) -> list[str]:
    """Return the words of a list that commas or blanks part."""
    return text.replace(",", " ").split()


def run_options(
    *parts: str,
    without: Sequence[str] = (),
    defaults: Mapping[str, Sequence[Any]] | None = None,
    several: bool = True,
) -> Callable[[_Function], _Function]:
    """Give a command a flag for every field of these parts of a run; `lists_of` reads them.

    Parameters
    ----------
    *parts : str
        "data", "protocol" or "fit".
    without : sequence of str
        Fields that the command has no flag for.
    defaults : mapping, optional
        Values of a field that the command takes, where it is not given.
    several : bool
        Whether a flag takes several values, each of which makes runs.
    """

    def decorate(function: _Function) -> _Function:
        for leaf in reversed(run_leaves(*parts, without=without)):
            about = leaf.metadata.get("option", {})
            flag = about.get("flag") or f"--{leaf.name.replace('_', '-')}"
            values = Values(leaf, several=several)
            more: dict[str, Any] = {"type": values, "metavar": values.name}
            if leaf.types == (bool,):
                more = {"is_flag": True, "default": None}
            own = leaf.default if isinstance(leaf.default, tuple) else (leaf.default,)
            shown = [str(v) for v in (defaults or {}).get(leaf.name, own) if v is not None]
            text = about["help"]
            if shown and leaf.types != (bool,):
                text += f" [default: {','.join(shown)}]"
            function = click.option(flag, leaf.name, help=text, **more)(function)
        return function

    return decorate


def print_form(table: Table, form: str) -> None:
    """Print a table of results in the form that `form_option` names."""
    if form == "table":
        table.plain.show()
    else:
        click.echo(table.text(form), nl=False)


def set_options(function: _Function) -> _Function:
    """Give a command a flag for each of `bench.suites.single.SetNames`."""
    from bench.suites.single import SetNames

    for own in reversed(fields(SetNames)):
        more: dict[str, Any] = {"default": "", "show_default": False}
        if isinstance(own.default, tuple):
            more = {"multiple": True, "callback": parts_of}
        function = click.option(
            f"--{own.name.replace('_', '-')}", metavar="KEY", type=KEY,
            required=own.default is MISSING, help=own.metadata["option"]["help"], **more,
        )(function)  # fmt: skip
    return function


def run_leaves(*parts: str, without: Sequence[str] = ()) -> list[Leaf]:
    """Return the fields of these parts of a run that a command line sets."""
    from bench.runs import LEAVES

    return [
        leaf
        for leaf in LEAVES
        if leaf.path[0] in parts and leaf.name not in without
        and (leaf.path[0] == "fit" or "option" in leaf.metadata)
    ]  # fmt: skip


def values_of(name: str, *, several: bool = True, task: str | None = None) -> Values:
    """Return the type of an option whose values are those of a field of a run, or of a task."""
    from bench.options import TASKS
    from bench.runs import LEAVES, leaves_of

    leaves = LEAVES if task is None else leaves_of(TASKS[task].options)
    return Values(next(leaf for leaf in leaves if leaf.name == name), several=several)


def lists_of(given: dict[str, Any], *parts: str) -> dict[str, tuple[Any, ...]]:
    """Take the options of `run_options` out of a command's own; return those that were given."""
    taken = {leaf.name: given.pop(leaf.name) for leaf in run_leaves(*parts) if leaf.name in given}
    return {
        name: value if isinstance(value, tuple) else (value,)
        for name, value in taken.items()
        if value is not None
    }


def recorded_command() -> str:
    """Return the command line that does this again, without a path or an address.

    The store is STORE, the results are OUT; of other options a value that may be a path is the name
    of its option, too. An environment that has a store counts as given: another may have another.
    """
    context = click.get_current_context()
    words = context.command_path.split()
    given = click.core.ParameterSource.COMMANDLINE, click.core.ParameterSource.ENVIRONMENT
    for option in context.command.params:
        name = option.name or ""
        value = context.params.get(name, context.meta.get(name))
        if context.get_parameter_source(name) not in given or value is None:
            continue
        if name in ("as_json", "dry_run"):
            continue
        flag = [] if isinstance(option, click.Argument) else [max(option.opts, key=len)]
        if isinstance(option.type, Values):
            value = option.type.typed(value)
        if value is False:
            words += option.secondary_opts[:1]
            continue
        for one in value if isinstance(value, tuple) else (value,):
            words += flag if one is True else [*flag, _recorded(option, str(one))]
    return shlex.join(words)


def _recorded(option: click.Parameter, value: str) -> str:
    """Return what is recorded of a value: itself, or a name where it may be a path."""
    is_place = isinstance(option.type, click.Path | StoreType)
    # Names of sets have slashes, too, and neither begin with one nor hold a drive or a scheme.
    shape = _KEY if option.type is KEY else _WORDS
    return (option.name or "").upper() if is_place or not shape.fullmatch(value) else value


_WORDS = re.compile(r"[\w.,:@=+ -]*")
_KEY = re.compile(r"[\w.+@-]+(/[\w.:+@-]+){0,2}")


def seeds_option(default: str) -> Callable[[_Function], _Function]:
    """Return the option ``--seeds``."""
    return click.option(
        "--seeds",
        default=default,
        show_default=True,
        help="Run with each of these random seeds, such as 0-4 or 0,2,5.",
    )
