"""The digest of the code that makes a result, so that changed code never passes for a rerun.

`code_digest` is of the syntax of this project's own modules, without their wording. What was
registered from outside (a method, a learner, a task of the user's own) adds `own_code`.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import fields, is_dataclass
from functools import cache
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from bench.errors import ProtocolError
from bench.syntax import imported_by, meaning_of
from featstore.plugins import Registry, distributions, registry_of

#: Registries name the modules of these packages, and import them when they are used.
_NAMED_IN_REGISTRIES = ("bench/metrics", "bench/tasks", "fitters")

#: What these do decides no number: they read commands, choose runs and show results.
_WITHOUT_NUMBERS = ("bench.report", "bench.suites", "headstock")


@cache
def code_digest() -> str:
    """Return 16 digits of a sha256 over the code that reading, fitting and scoring reach."""
    return _digest_and_modules("bench.execution")[0]


@cache
def analysis_digest() -> str:
    """Return 16 digits of a sha256 over the code that a claim about numbers reaches."""
    return _digest_and_modules("bench.confirmatory")[0]


def _digest_and_modules(first: str, root: Path | None = None) -> tuple[str, list[str]]:
    """Return the digest of a module and of all of this project that it reaches by imports.

    Digested is the syntax of each without its wording (`bench.syntax.meaning_of`). Imports within
    functions count, and all modules of `_NAMED_IN_REGISTRIES`; command lines and `_WITHOUT_NUMBERS`
    are left out.

    Parameters
    ----------
    first : str
        Where to begin.
    root : Path, optional
        The folder of the packages; by default of those that run.

    Returns
    -------
    digest : str
        16 digits of a sha256.
    modules : list of str
        What it is of, sorted.
    """
    import hashlib

    folder = Path(__file__).parents[1] if root is None else root
    meanings: dict[str, str] = {}
    waiting = [first]
    for package in _NAMED_IN_REGISTRIES:
        paths = (folder / package).rglob("*.py")
        waiting.extend(_module_of(path.relative_to(folder)) for path in paths)
    while waiting:
        module = waiting.pop()
        source_path = _source_of(module, folder)
        if module in meanings or source_path is None:
            continue
        source = source_path.read_text(encoding="utf-8")
        meanings[module] = meaning_of(source)
        is_package = source_path.name == "__init__.py"
        package = module if is_package else module.rpartition(".")[0]
        # Importing a module runs its packages, too.
        waiting += [package, *imported_by(source, package)]
    digest = hashlib.sha256()
    for module in sorted(meanings):
        digest.update(f"{module}\0{meanings[module]}\0".encode())
    return digest.hexdigest()[:16], sorted(meanings)


def _module_of(path: Path) -> str:
    """Return the name of the module in a file of the packages' folder."""
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def _source_of(module: str, folder: Path) -> Path | None:
    """Return the file of a module of this project that decides numbers, or None."""
    parts = module.split(".")
    is_without_numbers = f"{module}.".startswith(tuple(f"{one}." for one in _WITHOUT_NUMBERS))
    if parts[0] not in _OURS or "cli" in parts or is_without_numbers:
        return None
    path = folder.joinpath(*parts)
    for candidate in (path / "__init__.py", path.with_suffix(".py")):
        if candidate.is_file():
            return candidate
    return None


#: Packages whose sources `code_digest` knows, or that decide no number.
_OURS = {"bench", "fitters", "featstore", "data_manifests", "headstock"}
_PLAIN = (str, int, float, complex, bool, bytes, type(None))
_read: dict[str, tuple[Any, str, list[str]]] = {}
"""Module → its loading, source and imports when first looked at: until it is loaded again."""


def own_code(
    method: str | None = None, learner: str | None = None, *, task: str | None = None
) -> str:
    """Return the digest of those of these that were registered from outside, or "".

    16 digits of a sha256 over the sources of the modules that define what is in the registry,
    what it makes and the classes that this inherits from, over their distributions' versions, and
    over settings (of a `Method`, a partial, a closure). Modules that these import are followed, if
    they are of the same distribution or of none; so are, in a notebook, the functions, classes and
    plain values or arrays that a function names. A module's source is read once: after a change,
    reload it and register again, or begin a new process. What else decides a result (other
    distributions, files) is not looked at: raise the `version` that the registration takes.

    Raises
    ------
    ProtocolError
        If a source cannot be read and no version replaces it.
    """
    import hashlib

    digests = [
        _digest_of(f"{kind} {name!r}", registry[name])
        for kind, name, registry in _outside(method, learner, task)
    ]
    return hashlib.sha256("".join(digests).encode()).hexdigest()[:16] if digests else ""


#: The digests of what is not Headstock's own, in the field `code` of a run.
OWN_CODE = r"[+.].*"


def whole_code(code: str, method: str, learner: str | None, task: str) -> str:
    """Return the field `code` of a run.

    Of a method or a learner that was registered from outside, "+" and the digest of its own
    (`own_code`) follow the digest of Headstock, and of a task "." and its own.
    """
    of_fit, of_task = own_code(method, learner), own_code(task=task)
    ours = re.sub(OWN_CODE, "", code)
    return ours + (f"+{of_fit}" if of_fit else "") + (f".{of_task}" if of_task else "")


def _outside(*names: str | None) -> Iterator[tuple[str, str, Registry[Any]]]:
    """Yield kind, name and registry of what the package did not put under these names.

    They are those of a method, a learner and a task. A registry is looked up if there is a name
    for it: that of the learners loads all of them.
    """
    for kind, name in zip(("aligner", "learner", "task"), names, strict=True):
        if name is not None:
            registry = registry_of(kind)
            if name in registry and name not in registry.built_in:
                yield kind, name, registry


def only_here(method: str, learner: str | None, task: str) -> list[str]:
    """Return which of a method, a learner and a task other processes do not find by themselves."""
    found = _outside(method, learner, task)
    return [f"{kind} {name!r}" for kind, name, registry in found if registry.travels(name)]


def origin_of(method: str, learner: str | None, task: str) -> str:
    """Return the packages or files that a method, a learner and a task are from; "" for ours."""
    found = (registry.origin(name) for _, name, registry in _outside(method, learner, task))
    return ", ".join(dict.fromkeys(found))


def _digest_of(what: str, thing: Any) -> str:
    import hashlib

    parts = _Parts(what, str(getattr(thing, "version", "")))
    parts.of_registered(thing)
    digest = hashlib.sha256()
    for part in parts.found:
        digest.update(f"{len(part)}\0{part}".encode())
    return digest.hexdigest()


class _Parts:
    """The sources, versions and settings that decide what a registered thing does.

    Attributes
    ----------
    found : dict of str to None
        In the order in which they were come upon.
    """

    def __init__(self, what: str, version: str) -> None:
        self.what, self.version = what, version
        self.found: dict[str, None] = {version: None}
        self._seen: dict[Any, Any] = {}  # by identity or name; what is kept keeps its identity

    def of_registered(self, thing: Any) -> None:
        if not is_dataclass(thing) or isinstance(thing, type):
            self.of_value(thing)
            if not isinstance(thing, type):
                self.of_value(type(thing()))
            return
        for column in fields(thing):
            value = getattr(thing, column.name)
            if callable(value):
                self.of_value(value)
            # A title and a text decide no number.
            elif column.name not in ("title", "text", "metrics"):
                self.found[f"{column.name}={value!r}"] = None
        # What makes an aligner may be a function.
        if hasattr(thing, "cls"):
            self.of_value(thing.cls)

    def of_value(self, value: Any) -> None:
        """Add what decides what a value does; an object of another distribution adds its class."""
        # Not above: the help of `headstock eval run` reads this file, and imports click alone.
        from numpy import ndarray

        from fitters.kept import digest_of

        if isinstance(value, _PLAIN):
            self.found[repr(value)] = None
            return
        if id(value) in self._seen:
            return
        self._seen[id(value)] = value
        if isinstance(value, ModuleType):
            self._module(value.__name__, "")
        elif isinstance(value, ndarray):
            self.found[digest_of(value).hex()] = None
        elif isinstance(value, (tuple, list, set, frozenset)):
            each = sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value
            self._all(each)
        elif isinstance(value, dict):
            self._all(chain.from_iterable(value.items()))
        elif isinstance(value, functools.partial):
            self._all((*value.args, *sorted(value.keywords.items()), value.func))
        elif isinstance(value, type):
            for base in value.__mro__:
                self._definition(base)
        elif inspect.isfunction(value):
            self._definition(value)
            self._all(cell.cell_contents for cell in value.__closure__ or ())
            self._all((value.__defaults__, value.__kwdefaults__))
        else:
            self.of_value(type(value))
            if is_dataclass(value) or _is_local(type(value).__module__, ""):
                self.of_value(getattr(value, "__dict__", None))

    def _all(self, values: Iterable[Any]) -> None:
        for value in values:
            self.of_value(value)

    def _definition(self, defined: Any) -> None:
        """Add the source of the module that defines a class or a function, and its version."""
        from importlib import metadata

        name = str(defined.__module__)
        top = name.partition(".")[0]
        if _is_known(top):
            return
        released = [metadata.version(found) for found in distributions().get(top, ())]
        self.found |= dict.fromkeys(released)
        try:
            # A notebook's cells are a module without a file: there the definition alone is taken.
            if getattr(sys.modules.get(name), "__file__", None):
                self._module(name, top)
            else:
                self._cell(defined)
        except (OSError, TypeError) as err:
            if not (self.version or released):
                raise ProtocolError(
                    f"The source of {self.what} ({defined.__qualname__} of {name}) cannot be read, "
                    "so that its results could not be distinguished from those of a changed one. "
                    "Define it in a file, or register it with a version=… of your own that you "
                    "raise with each change."
                ) from err

    def _cell(self, defined: Any) -> None:
        """Add the source of a definition in a notebook, and what it names there.

        Python reads the source of a class from a file: without one, the sources of its functions
        and its plain attributes are taken.
        """
        if not isinstance(defined, type):
            self.found[inspect.getsource(defined)] = None
            for name in sorted(_names_in(defined.__code__)):
                if name in defined.__globals__:
                    self.of_value(defined.__globals__[name])
            return
        for name, value in sorted(vars(defined).items()):
            value = getattr(value, "__func__", getattr(value, "fget", value))
            if inspect.isfunction(value):
                self.of_value(value)
            elif isinstance(value, _PLAIN) and name not in ("__module__", "__firstlineno__"):
                self.found[f"{name}={value!r}"] = None

    def _module(self, name: str, top: str) -> None:
        """Add the source of a module and of those that it imports from `top` or no distribution."""
        if name in self._seen or not _is_local(name, top):
            return
        self._seen[name] = name
        source, imported = _read_module(name)
        if source.strip():  # of an empty file, Python says that it has none, or not
            self.found[source] = None
        for other in imported:
            # A name in a module, or a module that is compiled.
            with suppress(OSError, TypeError, ImportError, ValueError):
                self._module(other, top)


def _is_known(top: str) -> bool:
    return top in _OURS or (top in sys.stdlib_module_names and top != "__main__")


def _is_local(name: str, top: str) -> bool:
    """Return whether a module is of the distribution of the package `top`, or of none."""
    own = name.partition(".")[0]
    return not _is_known(own) and (own == top or not distributions().get(own))


def _names_in(code: CodeType) -> set[str]:
    """Return the names that a function and those within it look up."""
    inner = [const for const in code.co_consts if isinstance(const, CodeType)]
    return {*code.co_names}.union(*map(_names_in, inner))


def _read_module(name: str) -> tuple[str, list[str]]:
    """Return the source of a module, and the names of the modules that it may import."""
    module = sys.modules.get(name)
    spec: Any = getattr(module, "__spec__", None) or (None if module else find_spec(name))
    key = spec or module
    if key is None:
        raise ImportError(name)
    if name not in _read or _read[name][0] is not key:
        source = spec.loader.get_source(name) if module is None else inspect.getsource(module)
        package = name if spec and spec.submodule_search_locations else name.rpartition(".")[0]
        _read[name] = key, source, sorted(imported_by(source, package))
    return _read[name][1:]
