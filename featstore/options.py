"""Options, written down once: dataclass fields that are keyword arguments, flags and file keys.

A field that `option` makes carries its help text. `options_from` gives a command the flags of
a dataclass, `config_from` builds the dataclass from what was typed, `take_options` from keyword
arguments, and `with_options` puts the table of the fields into a docstring.
"""

from __future__ import annotations

import inspect
import reprlib
import sys
import textwrap
from collections.abc import Callable, Collection, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from featstore.errors import FeatstoreError, OptionError, did_you_mean

if TYPE_CHECKING:
    import click

_T = TypeVar("_T")
_Function = TypeVar("_Function", bound=Callable[..., Any])

#: Stands for the default of one encoder where another is given a value.
DEFAULT = "-"


@dataclass(frozen=True)
class _Option:
    """An option of a dataclass: what `option` states, and what the annotation does.

    `words` are the texts that it takes beside values of `type`; they are checked if they come
    from the annotation.
    """

    name: str
    default: Any
    help: str
    flag: str | None
    metavar: str | None
    none: str | None
    at_least: float | None
    above: float | None
    below: float | None
    words: tuple[str, ...]
    type: Any
    optional: bool
    checked: bool

    @property
    def shown_flag(self) -> str:
        """The flag as it is typed, or ``--a/--b`` of a switch with two."""
        return self.flag or "--" + self.name.replace("_", "-")

    def takes(self, value: Any) -> bool:
        """Return whether a value is one that the option takes, as far as it is checked."""
        if not self.checked or (isinstance(value, str) and value in self.words):
            return True
        if value is None:
            return self.optional
        number: Any = {int: Integral, float: Real}.get(self.type, ())
        return (
            isinstance(value, number)
            and not isinstance(value, bool)
            and (self.at_least is None or bool(value >= self.at_least))
            and (self.above is None or bool(value > self.above))
            and (self.below is None or bool(value < self.below))
        )

    @property
    def limits(self) -> str:
        """The limits of a number: ``at least 1``, ``above 0 and finite``; empty without any."""
        bounds = {"at least": self.at_least, "above": self.above, "below": self.below}
        limits = [f"{how} {bound:,}" for how, bound in bounds.items() if bound is not None]
        return " and ".join(limits).replace("below inf", "finite")


def option(
    default: Any = MISSING,
    *,
    help: str,  # noqa: A002 -- click's word for it
    flag: str | None = "",
    metavar: str | None = None,
    none: str | None = None,
    choices: tuple[str, ...] = (),
    at_least: float | None = None,
    above: float | None = None,
    below: float | None = None,
    needs: tuple[str, ...] = (),
) -> Any:
    """Return a dataclass field that is an option.

    Its annotation says what it takes: ``bool`` makes a switch, ``Literal["a", "b"]`` a choice,
    ``int | Literal["auto"] | None`` a number or a word, ``tuple[str, ...]`` several texts, parted
    by commas or given again.

    Parameters
    ----------
    default : optional
        Without one the option is required.
    help : str
        One or two sentences.
    flag : str or None
        The flag if it is not the field's name, or ``--a/--b`` of a switch with two; None for an
        option without one, which only Python can set.
    metavar : str, optional
        What stands for the value in the help of a command.
    none : str, optional
        The word for None on a command line, such as ``all``.
    choices : tuple of str
        The values that a command line takes, where the annotation is ``str``.
    at_least, above, below : number, optional
        The smallest number that is allowed, and bounds that it must not reach: ``below=inf`` is
        any finite one.
    needs : tuple of str
        Names of options without which this one has no effect; see `check_needs`.
    """
    about = {
        "help": help, "flag": flag, "metavar": metavar, "none": none,
        "at_least": at_least, "above": above, "below": below,
    }  # fmt: skip
    return field(default=default, metadata={"option": about, "choices": choices, "needs": needs})


@cache
def _options(cls: type) -> tuple[_Option, ...]:
    """Return the options of a dataclass, its own before those that it inherits, in order."""
    entries = [entry for entry in fields(cls) if "option" in entry.metadata]
    hints = hints_of(cls, [entry.name for entry in entries])
    found = []
    for entry in sorted(entries, key=lambda entry: entry.name not in cls.__annotations__):
        about, choices = entry.metadata["option"], entry.metadata["choices"]
        parts = _parts(hints[entry.name])
        literals = [] if choices else [part for part in parts if get_origin(part) is Literal]
        known = [word for part in literals for word in get_args(part)]
        types = [part for part in parts if get_origin(part) is not Literal and not choices]
        found.append(
            _Option(
                name=entry.name,
                default=entry.default,
                **about,
                words=(*choices, *known),
                type=get_origin(types[0]) or types[0] if types else None,
                optional=NoneType in get_args(hints[entry.name]),
                checked=bool(known)
                or any(about[bound] is not None for bound in ("at_least", "above", "below")),
            )
        )
    return tuple(found)


def hints_of(cls: type, names: Collection[str]) -> dict[str, Any]:
    """Return what the annotations of these fields of a dataclass name.

    Others are not looked at: what they name need not be imported.
    """
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        own = {k: v for k, v in vars(base).get("__annotations__", {}).items() if k in names}
        where = vars(sys.modules[base.__module__])
        found |= get_type_hints(SimpleNamespace(__annotations__=own), where)
    return found


def _parts(hint: Any) -> list[Any]:
    """Return the members of a union without None."""
    members = () if get_origin(hint) in (Literal, tuple) else get_args(hint)
    return [one for one in members if one is not NoneType] or [hint]


def check_values(config: Any, error: type[FeatstoreError], *, of: str) -> None:
    """Refuse a number that is too small and a word that an option does not know.

    Parameters
    ----------
    config : dataclass instance
    error : type
        What is raised.
    of : str
        What has the options, for the message: ``an extraction``.
    """
    cls: Any = type(config)
    for one in _options(cls):
        value = getattr(config, one.name)
        if not one.takes(value):
            allowed = " or ".join(filter(None, [one.limits, *map(repr, one.words)]))
            raise error(f"The '{one.name}' of {of} must be {allowed}; got {reprlib.repr(value)}.")


def take_options(options: Mapping[str, Any], *classes: type, of: str) -> list[dict[str, Any]]:
    """Share keyword arguments out among the dataclasses whose fields they are.

    Parameters
    ----------
    options : mapping
        Name -> value.
    *classes : dataclasses
        A name that several have goes to the first.
    of : str
        Name of the function, for the message.

    Returns
    -------
    list of dict
        One a class: names and values of its fields.

    Raises
    ------
    OptionError
        If no class has a field of a name.
    """
    names = [{entry.name for entry in fields(cls)} for cls in classes]
    found: list[dict[str, Any]] = [{} for _ in classes]
    for name, value in options.items():
        for own, taken in zip(names, found, strict=True):
            if name in own:
                taken[name] = value
                break
        else:
            known = sorted(name for cls in classes for name in option_names(cls))
            msg = f"{of} has no option {name!r}. Options: {', '.join(known)}."
            raise OptionError(msg + did_you_mean(name, known))
    return found


def config_from(cls: type[_T], given: Mapping[str, Any], **more: Any) -> _T:
    """Build a dataclass from the parameters of a command, and `more` fields beside them."""
    return cls(**{entry.name: given[entry.name] for entry in fields(cls) if entry.name in given}  # type: ignore[arg-type]
               | more)  # fmt: skip


def with_options(cls: type[_T]) -> type[_T]:
    """Put the table of a dataclass's options where its docstring says ``{options}``."""
    document(cls, cls)
    return cls


def document(target: Any, *classes: type) -> None:
    """Put the table of the options of `classes` where a docstring says ``{options}``.

    Parameters
    ----------
    target : class or function
        A function's own parameters are left out of the table.
    *classes : dataclasses
    """
    if target.__doc__ is None:  # python -OO
        return
    own = () if isinstance(target, type) else inspect.signature(target).parameters
    lines = []
    for one in (one for cls in classes for one in _options(cls) if one.name not in own):
        types = [] if one.type is None else [one.type.__name__]
        takes = [*types, *map(repr, one.words), *(["None"] if one.optional else [])]
        default = "" if one.default is MISSING else f", default {one.default!r}"
        lines.append(f"{one.name} : {' or '.join(takes)}{default}")
        lines += textwrap.wrap(one.help, 96, initial_indent="    ", subsequent_indent="    ")
    target.__doc__ = inspect.cleandoc(target.__doc__).replace("{options}", "\n".join(lines))


def check_needs(cls: type, given: Mapping[str, Any]) -> None:
    """Refuse an option that was given and has no effect without others.

    Parameters
    ----------
    cls : dataclass
    given : mapping
        The parameters of a command, by name.

    Raises
    ------
    click.UsageError
    """
    import click

    flags = {one.name: one.shown_flag for one in _options(cls)}
    for entry in fields(cls):
        needs = entry.metadata.get("needs", ())
        lost = [name for name in needs if given.get(name) in (None, ())]
        if lost and given[entry.name] != entry.default:
            missing = " and ".join(flags.get(name, f"--{name}") for name in lost)
            raise click.UsageError(
                f"{flags[entry.name]} has no effect without {missing}. Add {missing}, or remove "
                "it.",
                click.get_current_context(),
            )


def option_names(cls: type) -> list[str]:
    """Return the names of the options of a dataclass, in order."""
    return [one.name for one in _options(cls)]


def options_from(cls: type, *, each: bool = False) -> Callable[[_Function], _Function]:
    """Return a decorator that gives a click command the flags of a dataclass.

    Parameters
    ----------
    cls : dataclass
    each : bool
        The command takes several such objects: every flag but a switch may be repeated, once an
        object, and ``-`` stands for the default.
    """

    def decorate(function: _Function) -> _Function:
        import click

        for one in reversed([one for one in _options(cls) if one.flag is not None]):
            more: dict[str, Any] = {"required": one.default is MISSING, "metavar": one.metavar}
            if one.type is bool:
                more |= {
                    "is_flag": True,
                    "default": one.default,
                    "show_default": "/" in one.shown_flag,
                }
            elif one.type is tuple and each:
                more |= {"multiple": True, "metavar": "NAME[,NAME…]"}
            elif one.type is tuple:
                more |= {"multiple": True, "metavar": "NAME[,NAME…]", "callback": parts_of}
                more |= {"default": one.default or None, "show_default": bool(one.default)}
            elif each:
                more |= {"multiple": True, "type": _type(one, DEFAULT)}
            else:
                more["type"] = _type(one)
                if one.default is not MISSING and one.default is not None:
                    more |= {"default": one.default, "show_default": True}
            function = click.option(one.shown_flag, one.name, help=one.help, **more)(function)
        return function

    return decorate


def _type(one: _Option, *more: str) -> Any:
    """Return the click type of an option that takes `more` words."""
    import click

    words = (*one.words, *more, *([one.none] if one.none else []))
    # click's ranges take nan, which no comparison refuses.
    if one.type in (int, float) and (words or one.limits):
        return _number_or(one, words)
    if one.words:
        return click.Choice(words)
    plain: dict[Any, Any] = {int: click.INT, float: click.FLOAT, Path: click.Path(path_type=Path)}
    return plain.get(one.type, click.STRING)


def _number_or(one: _Option, words: tuple[str, ...]) -> Any:
    """Return the click type of a number within the limits of an option, or one of `words`."""
    import click

    plain = "INTEGER" if one.type is int else "FLOAT"
    bounds = {">=": one.at_least, ">": one.above}
    low = "".join(f"{sign}{bound:g}" for sign, bound in bounds.items() if bound is not None)

    class NumberOr(click.ParamType):  # type: ignore[type-arg]  # not generic before click 8.3
        name = (
            "|".join(["N", *(word for word in words if word != DEFAULT)]) if words else plain + low
        )

        def convert(
            self, value: Any, param: click.Parameter | None, ctx: click.Context | None
        ) -> float | str | None:
            if value in words:
                return None if value == one.none else str(value)
            try:
                number = one.type(value)
                # A file has types: neither true nor 1.5 is an integer.
                same = isinstance(value, str) or (type(value) is not bool and number == value)
            except (TypeError, ValueError, OverflowError):
                same = False
            if not same or not one.takes(number):
                kind = "an integer" if one.type is int else "a number"
                kind += f" {one.limits}".replace(" at least", " of at least").rstrip()
                expected = " or ".join([kind, *map(repr, words)])
                self.fail(f"Expected {expected}, got {reprlib.repr(value)}.", param, ctx)
            return number  # type: ignore[no-any-return]

    return NumberOr()


def parts_of(ctx: Any, parameter: Any, given: tuple[str, ...]) -> tuple[str, ...]:
    """Return the parts of ``--locale en,fr --locale de``; the callback of a repeated option."""
    import click

    parts = tuple(part.strip() for value in given for part in value.split(","))
    if not all(parts):
        raise click.BadParameter(f"{','.join(given)!r} has an empty part.", ctx, parameter)
    return parts


def file_key(parameter: click.Parameter) -> str:
    """Return the key by which a file sets a parameter: its flag, with underscores."""
    return max(parameter.opts, key=len).lstrip("-").replace("-", "_")
