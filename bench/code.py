"""The digest of the code that makes a result, so that changed code never passes for a rerun.

`code_digest` is of this project's own sources. What was registered from outside (a method, a
learner, a task of the user's own) adds `own_code`, and goes to other processes by `Own`.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

from bench.errors import ProtocolError
from featstore.errors import EngineError
from featstore.plugins import Registry, distributions, registry_of

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

#: What decides a number: everything of fitters, and these parts of bench.
BENCH_PARTS = (
    "corpus.py", "fits.py", "grid.py", "protocol.py", "scoring.py", "metrics",
    "tasks",
)  # fmt: skip


@cache
def code_digest() -> str:
    """Return 16 digits of the sha256 over the sources of fitters and of `BENCH_PARTS`."""
    import hashlib
    from importlib import resources

    bench = resources.files("bench")
    files = dict(_sources(resources.files("fitters"), "fitters"))
    for part in BENCH_PARTS:
        files.update(_sources(bench.joinpath(part), f"bench/{part}"))
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\0{len(files[name])}\0".encode())
        digest.update(files[name])
    return digest.hexdigest()[:16]


def _sources(place: Traversable, name: str) -> list[tuple[str, bytes]]:
    if place.is_dir():
        return [
            found
            for child in place.iterdir()
            if child.name not in ("__pycache__", "cli")
            for found in _sources(child, f"{name}/{child.name}")
        ]
    # Line ends differ between checkouts, and mean nothing.
    return [(name, place.read_bytes().replace(b"\r\n", b"\n"))] if name.endswith(".py") else []


#: Packages whose sources `code_digest` knows, or that decide no number.
_OURS = {"bench", "fitters", "featstore", "data_manifests", "headstock"}
_PLAIN = (str, int, float, bool, type(None))
_known: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


def own_code(
    method: str | None = None, learner: str | None = None, *, task: str | None = None
) -> str:
    """Return the digest of those of these that were registered from outside, or "".

    16 digits of a sha256 over the sources of the modules that define what is in the registry,
    what it makes and the classes that this inherits from, over their distributions' versions, and
    over plain settings (of a `Method`, a partial, a closure). It is taken once for an object: after
    a change, reload the module and register again, or begin a new process. What these modules
    import further is not looked at: raise the `version` that the registration takes.

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
            if name in registry and not registry.is_ours(name):
                yield kind, name, registry


def origin_of(method: str, learner: str | None, task: str) -> str:
    """Return the packages or files that a method, a learner and a task are from; "" for ours."""
    found = (registry.origin(name) for _, name, registry in _outside(method, learner, task))
    return ", ".join(dict.fromkeys(found))


def _digest_of(what: str, thing: Any) -> str:
    import hashlib

    if (known := _known.get(thing)) is not None:
        return known
    digest = hashlib.sha256()
    for part in dict.fromkeys(_parts_of(what, thing)):
        digest.update(f"{len(part)}\0{part}".encode())
    _known[thing] = digest.hexdigest()
    return _known[thing]


def _parts_of(what: str, thing: Any) -> Iterator[str]:
    """Yield the sources, versions and settings that decide what a registered thing does."""
    version = str(getattr(thing, "version", ""))
    yield version
    if is_dataclass(thing) and not isinstance(thing, type):
        for column in fields(thing):
            value = getattr(thing, column.name)
            if callable(value):
                yield from _callable_parts(what, value, version)
            # A title and a text decide no number.
            elif column.name not in ("title", "text", "metrics"):
                yield f"{column.name}={value!r}"
        # What makes an aligner may be a function.
        if hasattr(thing, "cls"):
            yield from _class_parts(what, thing.cls, version)
    else:
        yield from _callable_parts(what, thing, version)
        if not isinstance(thing, type):
            yield from _class_parts(what, type(thing()), version)


def _callable_parts(what: str, given: Any, version: str) -> Iterator[str]:
    if isinstance(given, functools.partial):
        yield from _settings(what, (*given.args, *sorted(given.keywords.items())), version)
        yield from _callable_parts(what, given.func, version)
    elif isinstance(given, type):
        yield from _class_parts(what, given, version)
    elif inspect.isfunction(given):
        yield from _source_parts(what, given, version)
        cells = [cell.cell_contents for cell in given.__closure__ or ()]
        yield from _settings(what, cells, version)
    else:
        yield from _class_parts(what, type(given), version)


def _settings(what: str, values: Iterable[Any], version: str) -> Iterator[str]:
    for value in values:
        if isinstance(value, (tuple, list)):
            yield from _settings(what, value, version)
        elif isinstance(value, _PLAIN):
            yield repr(value)
        elif callable(value):
            yield from _callable_parts(what, value, version)


def _class_parts(what: str, cls: type, version: str) -> Iterator[str]:
    for each in cls.__mro__:
        yield from _source_parts(what, each, version)


def _source_parts(what: str, defined: Any, version: str) -> Iterator[str]:
    """Yield the source of the module that defines a class or a function, and its version."""
    from importlib import metadata

    name = str(defined.__module__)
    top = name.partition(".")[0]
    if top in _OURS or (top in sys.stdlib_module_names and top != "__main__"):
        return
    released = [metadata.version(found) for found in distributions().get(top, ())]
    yield from released
    module = sys.modules.get(name)
    # A notebook's cells are a module without a file: there the definition alone is taken.
    whole = isinstance(module, ModuleType) and getattr(module, "__file__", None)
    try:
        if whole:
            yield inspect.getsource(module)  # type: ignore[arg-type]
        else:
            yield from _cell_parts(defined)
    except (OSError, TypeError) as err:
        if not (version or released):
            raise ProtocolError(
                f"The source of {what} ({defined.__qualname__} of {name}) cannot be read, so that "
                "its results could not be distinguished from those of a changed one. Define it in "
                "a file, or register it with a version=… of your own that you raise with each "
                "change."
            ) from err


def _cell_parts(defined: Any) -> Iterator[str]:
    """Yield the source of a definition in a notebook.

    Python reads the source of a class from a file: without one, the sources of its functions and
    its plain attributes are taken.
    """
    if not isinstance(defined, type):
        yield inspect.getsource(defined)
        return
    for name, value in sorted(vars(defined).items()):
        value = getattr(value, "__func__", getattr(value, "fget", value))
        if inspect.isfunction(value):
            yield inspect.getsource(value)
        elif isinstance(value, _PLAIN) and name not in ("__module__", "__firstlineno__"):
            yield f"{name}={value!r}"


@dataclass(frozen=True)
class Own:
    """Methods, learners and tasks that are registered by hand, on their way to another process.

    Those of installed packages and of ``--plugin`` are found there.

    Attributes
    ----------
    things : tuple of (str, str, str, bytes)
        Kind, name, origin and pickle. Pickled apart from the task, so that one that a worker
        cannot read is an error that says so, not a dead worker.
    """

    things: tuple[tuple[str, str, str, bytes], ...] = ()

    @classmethod
    def of(cls, names: Iterable[tuple[str, str | None, str]]) -> Own:
        """Return those among triples of a method, a learner and a task.

        Raises
        ------
        EngineError
            If one cannot be pickled.
        """
        import pickle

        found = {}
        for triple in dict.fromkeys(names):
            for kind, name, registry in _outside(*triple):
                if not registry.travels(name):
                    continue
                try:
                    pickled = pickle.dumps(registry[name])
                    found[kind, name] = (kind, name, registry.origin(name), pickled)
                except (pickle.PicklingError, AttributeError, TypeError) as err:
                    raise EngineError(
                        f"The {kind} {name!r} cannot be sent to other processes ({err}). {_HOW}"
                    ) from err
        return cls(tuple(found.values()))

    def install(self) -> None:
        """Register them in this process.

        Raises
        ------
        EngineError
            If one cannot be read here.
        """
        import pickle

        for kind, name, origin, pickled in self.things:
            try:
                # Written by this program's own parent a moment ago.
                thing = pickle.loads(pickled)  # noqa: S301
            except Exception as err:
                raise EngineError(
                    f"A worker cannot read the {kind} {name!r} ({err}). {_HOW}"
                ) from err
            registry_of(kind).put(name, thing, origin)


_HOW = "Define it at the top of a module that workers can import, without lambdas; or use jobs=1."
