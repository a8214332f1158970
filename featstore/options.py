"""Options, written down once: dataclass fields that are keyword arguments, flags and settings.

A field that `option` makes carries its help text. `options_from` gives a command the flags of
a dataclass, `settings_from` reads ``-s NAME=VALUE``, `config_from` builds the dataclass from what
was typed, `take_options` from keyword arguments, and `with_options` puts the table of the fields
into a docstring.
"""

from __future__ import annotations

import inspect
import reprlib
import sys
import textwrap
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, SimpleNamespace
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from featstore.errors import FeatstoreError, OptionError, did_you_mean, unknown_name

_T = TypeVar("_T")
_Function = TypeVar("_Function", bound=Callable[..., Any])

#: How words may be typed -> how they are spelled here, the longer first.
_BRITISH = {"license": "licence", "centered": "centred", "center": "centre", "color": "colour",
            "alized": "alised", "alize": "alise"}  # fmt: skip


def british(word: str) -> str:
    """Return a flag, setting or choice as it is spelled here.

    Examples
    --------
    >>> british("center"), british("generalized"), british("size")
    ('centre', 'generalised', 'size')
    """
    for typed, own in _BRITISH.items():
        word = word.replace(typed, own)
    return word


#: How a switch is typed.
_SWITCH = {"yes": True, "no": False}


@dataclass(frozen=True)
class Option:
    """An option of a dataclass: what `option` states, and what the annotation does.

    `words` are the texts that it takes beside values of `type`, which for a list is that of its
    parts; they are checked if they come from the annotation.
    """

    name: str
    default: Any
    help: str = ""
    flag: str | None = "-s"
    metavar: str | None = None
    none: str | None = None
    at_least: float | None = None
    above: float | None = None
    below: float | None = None
    words: tuple[str, ...] = ()
    type: Any = None
    many: bool = False
    optional: bool = False
    checked: bool = False

    @property
    def shown_flag(self) -> str:
        """The flag as it is typed, ``--a/--b`` of a switch with two, or ``-s NAME``."""
        return (
            f"-s {self.setting}"
            if self.setting
            else self.flag or "--" + self.name.replace("_", "-")
        )

    @property
    def setting(self) -> str:
        """What a setting is called on a command line; empty: it is none."""
        first, _, name = (self.flag or "").partition(" ")
        return (name or self.name) if first == "-s" else ""

    def parse(self, text: str) -> Any:
        """Return the value of a text; of a list, of one of its parts.

        Raises
        ------
        ValueError
            Saying what was expected.
        """
        if self.none is not None and text == self.none:
            return None
        for word in (text, british(text)):
            if word in self.words:
                return word
        if self.type is bool and text in _SWITCH:
            return _SWITCH[text]
        if self.type in (int, float):
            with suppress(ValueError, OverflowError):
                number = self.type(text)
                if self.takes(number):
                    return number
        elif self.type is Path:
            return Path(text)
        elif self.type is not bool and not self.words:
            return text
        hint = did_you_mean(text, self.words)
        raise ValueError(f"expected {self.expected}; got {reprlib.repr(text)}.{hint}")

    @property
    def expected(self) -> str:
        """What it takes: ``a number above 0, or auto``."""
        words = [*self.words, *([self.none] if self.none else [])]
        if self.type is bool:
            words = [*_SWITCH]
        if self.type not in (int, float):
            return " or ".join(filter(None, [", ".join(words[:-1]), *words[-1:]])) or "a text"
        kind = "an integer" if self.type is int else "a number"
        kind += f" {self.limits}".replace(" at least", " of at least").rstrip()
        return kind + "".join(f", or {word}" for word in words)

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


#: What has settings -> these, by what they are called.
Owners = Mapping[str, Mapping[str, Option]]


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
        The flag if it is not the field's name, or ``--a/--b`` of a switch with two; ``-s`` of a
        setting, ``-s NAME`` where it is not called as the field; None for an option that only
        Python can set.
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
def options_of(cls: type) -> tuple[Option, ...]:
    """Return the options of a dataclass, its own before those that it inherits, in order."""
    entries = [entry for entry in fields(cls) if "option" in entry.metadata]
    hints = hints_of(cls, [entry.name for entry in entries])
    own = sorted(entries, key=lambda entry: entry.name not in cls.__annotations__)
    return tuple(record_of(entry, hints[entry.name]) for entry in own)


def record_of(entry: Field[Any], hint: Any) -> Option:
    """Return what a field and its annotation state; a field without `option` states little."""
    about = entry.metadata.get("option", {})
    choices, parts = entry.metadata.get("choices", ()), _parts(hint)
    literals = [] if choices else [part for part in parts if get_origin(part) is Literal]
    known = [word for part in literals for word in get_args(part)]
    types = [part for part in parts if get_origin(part) is not Literal and not choices]
    many = bool(types) and get_origin(types[0]) is tuple
    bounds = [about.get(bound) for bound in ("at_least", "above", "below")]
    return Option(
        name=entry.name,
        default=entry.default,
        **about,
        words=(*choices, *known),
        type=(get_args(types[0])[0] if many else types[0]) if types else None,
        many=many,
        optional=NoneType in get_args(hint),
        checked=not many and (bool(known) or any(bound is not None for bound in bounds)),
    )


def settings_of(*classes: type) -> dict[str, Option]:
    """Return the settings of dataclasses, by what they are called on a command line."""
    return {one.setting: one for cls in classes for one in options_of(cls) if one.setting}


def plain_settings(cls: type) -> dict[str, Option]:
    """Return every field of a dataclass of plain values as a setting, by its name."""
    entries = fields(cls)
    hints = hints_of(cls, [entry.name for entry in entries])
    return {entry.name: record_of(entry, hints[entry.name]) for entry in entries}


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
    for one in options_of(cls):
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
    for one in (one for cls in classes for one in options_of(cls) if one.name not in own):
        types = [] if one.type is None else ["tuple" if one.many else one.type.__name__]
        takes = [*types, *map(repr, one.words), *(["None"] if one.optional else [])]
        default = "" if one.default is MISSING else f", default {one.default!r}"
        lines.append(f"{one.name} : {' or '.join(takes)}{default}")
        lines += textwrap.wrap(one.help, 96, initial_indent="    ", subsequent_indent="    ")
    target.__doc__ = inspect.cleandoc(target.__doc__).replace("{options}", "\n".join(lines))


def check_needs(given: Mapping[str, Any], *classes: type) -> None:
    """Refuse an option that was given and has no effect without others.

    Parameters
    ----------
    given : mapping
        The parameters of a command, by name.
    *classes : dataclasses

    Raises
    ------
    click.UsageError
    """
    flags = {one.name: one.shown_flag for cls in classes for one in options_of(cls)}
    for entry in (entry for cls in classes for entry in fields(cls)):
        needs = entry.metadata.get("needs", ())
        lost = [name for name in needs if given.get(name) in (None, ())]
        if lost and given.get(entry.name, entry.default) != entry.default:
            missing = " and ".join(flags.get(name, f"--{name}") for name in lost)
            raise _usage(
                f"{flags[entry.name]} has no effect without {missing}. Add {missing}, or remove it."
            )


def option_names(cls: type) -> list[str]:
    """Return the names of the options of a dataclass, in order."""
    return [one.name for one in options_of(cls)]


def options_from(
    cls: type, *names: str, several: bool = False, inferred: Collection[str] = ()
) -> Callable[[_Function], _Function]:
    """Return a decorator that gives a click command the flags of a dataclass.

    Parameters
    ----------
    cls : dataclass
    *names : str
        Of the fields; without any, all that have a flag.
    several : bool
        Every flag takes a list, and has no default: what is typed makes a tuple.
    inferred : collection of str
        Fields without a default that the command takes from elsewhere where they are left out.
    """

    def decorate(function: _Function) -> _Function:
        import click

        for one in reversed(options_of(cls)):
            if one.flag is None or one.setting or (names and one.name not in names):
                continue
            needed = one.default is MISSING and one.name not in inferred
            more: dict[str, Any] = {"required": needed and not several}
            if one.type is bool:
                more |= {
                    "is_flag": True,
                    "default": one.default,
                    "show_default": "/" in one.shown_flag,
                }
            else:
                many = several or one.many
                more |= {"multiple": many, "metavar": _metavar(one)}
                more |= {"callback": typed(one, several=many)}
                more |= {"type": click.Path() if one.type is Path else click.STRING}
                if not several and one.default not in (MISSING, None, ()):
                    more |= {"default": one.default, "show_default": one.default != ""}
            function = click.option(one.shown_flag, one.name, help=one.help, **more)(function)
        return function

    return decorate


def _metavar(one: Option) -> str:
    """Return what stands for a value in a help."""
    number = {int: ["N"], float: ["X"]}.get(one.type, [])
    words = [*number, *one.words, *([one.none] if one.none else [])]
    plain = "PATH" if one.type is Path else "NAMES" if one.many else "NAME"
    return one.metavar or "|".join(words) or plain


def typed(one: Option, *, several: bool) -> Callable[..., Any]:
    """Return the callback of a click option: what was typed, as values of an option."""
    import click

    def convert(ctx: Any, parameter: Any, given: Any) -> Any:
        if not several and not isinstance(given, str):
            return given  # a default
        try:
            if not several:
                return one.parse(given)
            return tuple(dict.fromkeys(map(one.parse, parts_of(ctx, parameter, given))))
        except ValueError as err:
            raise click.BadParameter(str(err), ctx, parameter) from err

    return convert


def parts_of(ctx: Any, parameter: Any, given: tuple[str, ...]) -> tuple[str, ...]:
    """Return the parts of ``--locale en,fr --locale de``; the callback of a repeated option."""
    import click

    parts = tuple(part.strip() for value in given for part in value.split(","))
    if not all(parts):
        raise click.BadParameter(f"{','.join(given)!r} has an empty part.", ctx, parameter)
    return parts


def settings_from(
    words: Iterable[str],
    owners: Owners,
    *,
    runs: bool = False,
    having: Callable[[str], Iterable[str]] = lambda _: (),
) -> dict[str, dict[str, Any]]:
    """Share ``NAME=VALUE`` out among what has settings of these names.

    ``OWNER.NAME=VALUE`` is for one of them.

    Parameters
    ----------
    words : iterable of str
    owners : mapping
        Name of what has settings -> these, by what they are called.
    runs : bool
        Each value makes a run: a comma parts values, and a setting given again has more of them.
    having : callable
        Name of a setting -> what else has it, for the message.

    Returns
    -------
    dict
        Of each owner the values by field: with `runs` a tuple of them.

    Raises
    ------
    click.UsageError
        If nothing has a setting, it is given twice, or its value is not one that it takes.
    """
    found: dict[str, dict[str, Any]] = {owner: {} for owner in owners}
    for word in words:
        typed, equals, text = word.partition("=")
        whose, _, name = typed.rpartition(".")
        if whose and whose not in owners:
            raise _usage(unknown_name("owner", whose, owners, where=f"in -s {word}"))
        name = name.replace("-", "_")
        name = name if any(name in has for has in owners.values()) else british(name)
        takers = [own for own, has in owners.items() if name in has and whose in ("", own)]
        if not takers:
            asked = [whose] if whose else [*owners]
            known = [other for own in asked for other in owners[own]]
            said = unknown_name("setting", name, known, where=f"of {', '.join(asked)}")
            others = ", ".join(having(name))
            raise _usage(said + (f" These have it: {others}." if others else ""))
        for own in takers:
            one, values = owners[own][name], found[own]
            new = _parsed(one, f"{name} of {own}", text if equals else None, split=runs)
            if runs or one.many:
                new = (*values.get(one.name, ()), *([new] if runs and one.many else new))
                values[one.name] = tuple(dict.fromkeys(new))
            elif one.name in values:
                raise _usage(f"The setting {name} of {own} is given twice. Once.")
            else:
                (values[one.name],) = new
    return found


def _parsed(one: Option, of: str, text: str | None, *, split: bool) -> tuple[Any, ...]:
    """Return the values that are typed of a setting: one, but of a list or where they are split."""
    if text is None and one.type is not bool:
        raise _usage(f"The setting {of} has no value. Write {of.split(' ')[0]}=VALUE.")
    text = "yes" if text is None else text
    parts = [part.strip() for part in text.split(",")] if split or one.many else [text]
    try:
        return tuple(map(one.parse, parts))
    except ValueError as err:
        raise _usage(f"{of}: {err}") from err


def _usage(message: str) -> Exception:
    import click

    return click.UsageError(message, click.get_current_context(silent=True))


def setting_lines(records: Mapping[str, Option]) -> list[tuple[str, str]]:
    """Return a line a setting for a help: how it is typed, and its sentence with its default."""
    lines = []
    for name, one in records.items():
        own = () if one.default in (None, MISSING, "", False) else one.default
        shown = ",".join(map(str, own if isinstance(own, tuple) else [own]))
        default = f" [default: {shown}]" if shown and "[default:" not in one.help else ""
        value = "yes|no" if one.type is bool else _metavar(one)
        lines.append((f"{name}={value}", one.help + default))
    return lines
