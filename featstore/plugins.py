"""Plugins: methods, tasks, encoders and more of other packages, of a file, or of a notebook.

What there is of a kind stands in a `Registry`: what comes with Headstock, what installed packages
declare as entry points, what the modules and files of ``--plugin`` register, and what a program
registers itself. An entry point is imported when its thing is used, not before.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Callable, ItemsView, Iterable, Iterator, Mapping, ValuesView
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from inspect import getdoc
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from featstore.errors import PluginError, lookup
from featstore.identity import sha256_hex
from featstore.terminal import Card, Shown

if TYPE_CHECKING:
    from importlib import metadata

Thing = TypeVar("Thing")
F = TypeVar("F")

#: Kind -> where its registry is. Looked up by name: it lies in a layer above this one.
KINDS = {
    "aligner": "fitters.methods:METHODS",
    "learner": "fitters.few_shot:LEARNERS",
    "task": "bench.options:TASKS",
    "encoder": "featstore.encoders.registry:FAMILIES",
    "source": "featstore.sources.making:SOURCES",
    "place": "featstore.address:PLACES",
    "dataset": "featstore.datasets:DATASETS",
    "suite": "bench.suites:SUITES",
}

#: Modules and files that this process and those that it starts load, parted as PATH is.
ENVIRONMENT = "HEADSTOCK_PLUGINS"

#: What can be typed in a list by comma, and be part of a file's name.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}")


@dataclass
class _Given:
    """A thing, or the entry point that leads to it.

    Attributes
    ----------
    origin : str
        The distribution and its version, the file or module, or "notebook"; empty of Headstock's.
    found_anywhere : bool
        Whether other processes find it by themselves.
    """

    thing: Any
    origin: str = ""
    found_anywhere: bool = True
    entry: metadata.EntryPoint | None = None


class Registry(Shown, Mapping[str, Thing], Generic[Thing]):
    """The things of a kind by name: those of Headstock first, then those from outside.

    Names are known without an import; looking one up imports what its entry point names. A thing
    that cannot be imported, or is not of its kind, is a `PluginError` where it is looked up, and a
    warning where all are walked.

    Parameters
    ----------
    kind : str
        Key of `KINDS`; the entry points are of the group ``headstock.<kind>s``.
    built_in : mapping
        What comes with Headstock.
    accept : callable, optional
        Is given the name, the thing and what is said of it by keyword, and returns what the
        registry holds, or raises TypeError or ValueError if it is not of the kind.
    reserved : callable, optional
        Returns names that Headstock uses elsewhere. It is asked when something is added.
    """

    def __init__(
        self,
        kind: str,
        built_in: Mapping[str, Thing],
        *,
        accept: Callable[..., Any] | None = None,
        reserved: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        self.kind = kind
        self.group = f"headstock.{kind}s"
        self.built_in = dict(built_in)
        self._accept = accept
        self._reserved = reserved
        self._things = {name: _Given(thing) for name, thing in built_in.items()}
        self._complete = False
        self._lock = threading.RLock()

    def add(
        self,
        name: str,
        thing: Any,
        *,
        origin: str,
        found_anywhere: bool = False,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        """Add a thing from outside; the same name may be added again. See `register` for `about`.

        Raises
        ------
        PluginError
            If the name is one of Headstock's or cannot be typed in a list, or the thing is not of
            the kind.
        """
        self._check_name(name, origin)
        accepted = self._accepted(name, thing, origin, about or {})
        names = self._names()
        before = names.get(name)
        # The entry point of a module that registers what it declares.
        declared = before is not None and before.found_anywhere and before.origin == origin
        names[name] = _Given(accepted, origin, found_anywhere or declared)

    def origin(self, name: str) -> str:
        """Return where a thing is from: "" for Headstock's own, or "package 1.2", or a file."""
        given = self._names().get(name)
        return given.origin if given else ""

    def travels(self, name: str) -> bool:
        """Return whether the thing of this name is in this process alone."""
        given = self._names().get(name)
        return given is not None and not given.found_anywhere

    def known(self) -> list[tuple[str, str]]:
        """Return names and texts of what is here without a search of the installed packages."""
        return [(name, self.about(name)) for name in self._things]

    def about(self, name: str) -> str:
        """Return one line on a thing: its text, or its summary, or the first of its docstring.

        Of an entry point that was not used yet it is where it is from: nothing is imported.
        """
        thing = self._found(name).thing
        text = getattr(thing, "text", "") or getattr(thing, "summary", "")
        return str(text) or (first_line(thing) if callable(thing) else "") or self.origin(name)

    def listed(self) -> list[dict[str, str]]:
        """Return name, kind, package and one line of all things, without an import."""
        ours = KINDS[self.kind].partition(".")[0]
        return [
            {
                "name": name,
                "kind": self.kind,
                "package": self.origin(name) or ours,
                "text": self.about(name),
            }
            for name in self
        ]

    def __getitem__(self, name: str) -> Thing:
        given = self._found(name)
        if given.entry is not None:
            try:
                made = given.entry.load()
            except Exception as err:  # the module is anyone's, and so is what it raises
                raise PluginError(
                    f"{self._called(name)} cannot be imported ({err!r}): entry point "
                    f"{given.entry.value} of {given.origin}. Repair or remove that package."
                ) from err
            if self._things[name] is not given:  # its module has registered it, with what it says
                return self[name]
            given.thing, given.entry = self._accepted(name, made, given.origin, {}), None
        accepted: Thing = given.thing
        return accepted

    def __delitem__(self, name: str) -> None:
        del self._names()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._names()))

    def __len__(self) -> int:
        return len(self._names())

    def __contains__(self, name: object) -> bool:
        return name in self._things or name in self._names()

    def items(self) -> ItemsView[str, Thing]:
        """Return the names and things that can be used; of others there is a warning."""
        found = {}
        for name in self:
            try:
                found[name] = self[name]
            except PluginError as err:
                _warn("%s", err)
        return found.items()

    def values(self) -> ValuesView[Thing]:
        """Return the things of `items`."""
        return dict(self.items()).values()

    def _card(self) -> Card:
        rows = [(one["name"], one["package"], one["text"]) for one in self.listed()]
        columns = ("name", "package", "what it is")
        return Card(
            f"Registry of {len(self)} {self.kind}s", {"names": ", ".join(self)}, columns, rows
        )

    def _found(self, name: str) -> _Given:
        """Return what has a name; for Headstock's own no installed package is looked at."""
        return self._things[name] if name in self._things else self._names()[name]

    def _names(self) -> dict[str, _Given]:
        """Return what there is, after the entry points and plugins were asked for once."""
        with self._lock:
            if not self._complete:
                self._complete = True
                declared = _entry_points().select(group=self.group)
                # Whatever order the installed packages are in.
                for entry in sorted(declared, key=lambda one: (one.name, one.value)):
                    self._declare(entry)
                load_plugins()
        return self._things

    def _declare(self, entry: metadata.EntryPoint) -> None:
        dist = entry.dist
        origin = entry.value if dist is None else f"{dist.name} {dist.version}"
        try:
            self._check_name(entry.name, origin)
        except PluginError as err:
            _warn("%s", err)
            return
        if entry.name in self._things:
            _warn(
                "%s is declared by %s, too: the one of %s is left out.",
                self._called(entry.name), self.origin(entry.name), origin,
            )  # fmt: skip
            return
        self._things[entry.name] = _Given(None, origin, found_anywhere=True, entry=entry)

    def _called(self, name: str) -> str:
        return f"The {self.kind} {name!r}"

    def _check_name(self, name: str, origin: str) -> None:
        if name in self.built_in or name in self._reserved():
            raise PluginError(
                f"{self._called(name)} of {origin} is left out: {name!r} is a name of Headstock. "
                "Give it another."
            )
        if not _NAME.fullmatch(name):
            raise PluginError(
                f"{self._called(name)} of {origin} is left out: a name is up to 64 letters, digits "
                "and . _ + -, and begins with a letter or digit."
            )

    def _accepted(self, name: str, thing: Any, origin: str, about: Mapping[str, Any]) -> Any:
        try:
            return thing if self._accept is None else self._accept(name, thing, **about)
        except Exception as err:  # what anyone's function raises, too
            raise PluginError(f"{self._called(name)} of {origin} cannot be used: {err}") from err


def _warn(text: str, *values: Any) -> None:
    # Here, because a help that warns of nothing needs no logging.
    import logging

    logging.getLogger(__name__).warning(text, *values)


def first_line(made: Any) -> str:
    """Return the first line of what a thing says of itself; of a partial, what it is of."""
    while isinstance(made, partial):
        made = made.func
    return (getdoc(made) or "").partition("\n")[0]


@cache
def registry_of(kind: str) -> Registry[Any]:
    """Return the registry of a kind.

    Raises
    ------
    PluginError
        If there is no such kind.
    """
    from pkgutil import resolve_name

    place = lookup(KINDS, kind, what="kind", where="of plugin", error=PluginError)
    found: Registry[Any] = resolve_name(place)
    return found


@overload
def register(kind: str, name: str, **about: Any) -> Callable[[F], F]: ...
@overload
def register(kind: str, name: str, thing: F, **about: Any) -> F: ...
def register(kind: str, name: str, thing: Any = None, **about: Any) -> Any:
    """Add a thing of one's own under a name; without the thing, decorate what follows.

    Parameters
    ----------
    kind : str
        "aligner", "learner", "task", "encoder", "source", "dataset" or "suite"; the registry of
        each says what its things are (`KINDS`).
    name : str
        Up to 64 letters, digits and ``. _ + -``; none of Headstock's own. It may be registered
        again, with what was changed.
    thing : object, optional
    **about
        What is known of it: fields of the `fitters.methods.Method` of an aligner (``title``,
        ``text`` ...), the `bench.options.Task` of a task (``metrics`` ...), the `Family` of an
        encoder (``kinds``, ``takes``), the `Source` (``options``) or the `Suite` (``tables`` ...).

    Returns
    -------
    object
        The thing as it was given; without one, the decorator.

    Raises
    ------
    PluginError
        If there is no such kind, the name is taken, or the thing is not of the kind.

    Examples
    --------
    >>> @register("aligner", "same-axes")
    ... def same_axes(x, y):
    ...     "Compare column i of the images with column i of the texts."
    ...     r = min(x.shape[1], y.shape[1])
    ...     return np.eye(x.shape[1], r), np.eye(y.shape[1], r)
    """
    origin = origin_in(sys._getframe(1).f_globals)
    found_anywhere = bool(_loading)

    def add(given: Any) -> Any:
        registry_of(kind).add(
            name, given, origin=origin, found_anywhere=found_anywhere, about=about
        )
        return given

    return add if thing is None else add(thing)


#: What was loaded, and what is being loaded.
_loaded: set[str] = set()
_loading: list[str] = []


def use_plugins(places: Iterable[str | Path]) -> None:
    """Load modules and files that register things, here and in every process that this one starts.

    Parameters
    ----------
    places : iterable of str or Path
        Names of modules, and paths of files that end in .py.

    Raises
    ------
    PluginError
        If one cannot be loaded.
    """
    given = [*filter(None, os.environ.get(ENVIRONMENT, "").split(os.pathsep)), *map(str, places)]
    # A worker may have another working directory.
    whole = (str(Path(place).resolve()) if _is_file(place) else place for place in given)
    os.environ[ENVIRONMENT] = os.pathsep.join(dict.fromkeys(whole))
    load_plugins()


def load_plugins() -> None:
    """Load what `ENVIRONMENT` names, unless this process has done so.

    Raises
    ------
    PluginError
        If one cannot be loaded.
    """
    for place in os.environ.get(ENVIRONMENT, "").split(os.pathsep):
        if place and place not in _loaded:
            _loaded.add(place)
            _loading.append(place)
            try:
                _load_file(Path(place)) if _is_file(place) else import_module(place)
            except Exception as err:  # the module is anyone's, and so is what it raises
                _loaded.discard(place)
                if isinstance(err, PluginError):
                    raise
                raise PluginError(
                    f"The plugin {place} cannot be loaded: {err!r}. Repair it, or leave out "
                    f"--plugin (or {ENVIRONMENT})."
                ) from err
            finally:
                _loading.pop()


def _is_file(place: str) -> bool:
    return place.endswith(".py") or os.sep in place


def _load_file(file: Path) -> None:
    """Load a file under a name that is the same in every process, so that pickles find it."""
    from importlib.util import module_from_spec, spec_from_file_location

    stem = re.sub(r"\W", "_", file.stem)
    name = f"headstock_plugin_{stem}_{sha256_hex(bytes(file))[:8]}"
    spec = spec_from_file_location(name, file)
    if spec is None or spec.loader is None or not file.is_file():
        raise PluginError(f"There is no plugin {file}: --plugin takes a module or a file.py.")
    module = module_from_spec(spec)
    # Modules beside it can be imported, and shadow no other.
    sys.path.append(str(file.parent))
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def origin_in(module: Mapping[str, Any]) -> str:
    """Return what the names of a module are of: its distribution, or its file, or a notebook."""
    from importlib import metadata

    released = distributions().get(str(module.get("__name__")).partition(".")[0], [])
    if released:
        return f"{released[0]} {metadata.version(released[0])}"
    file = module.get("__file__")
    return Path(file).name if file else "notebook"


@cache
def distributions() -> dict[str, list[str]]:
    """Return the distributions that have a top-level module, by its name."""
    from importlib import metadata

    return {top: sorted(set(names)) for top, names in metadata.packages_distributions().items()}


@cache
def _entry_points() -> Any:
    from importlib import metadata

    return metadata.entry_points()
