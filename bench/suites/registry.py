"""The suites by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from bench.errors import UnknownSuiteError
from bench.suites.single import OF_MIXED, Lists, check_settings, combinations
from featstore.errors import lookup
from featstore.plugins import Registry, first_line

if TYPE_CHECKING:
    import polars as pl

    from bench.runs import Run
    from bench.suites.paper import Experiment, Lacking
    from featstore.store.store import FeatureStore


@dataclass(frozen=True)
class Suite:
    """A suite.

    Attributes
    ----------
    runs : callable
        Plans the runs on a store (a `FeatureStore`); its keywords are ``limit``, the number of
        images kept, ``methods`` and ``sources``, and what it `takes` beside them.
    summary : str
        One line.
    create_store : callable, optional
        Makes the store that the suite brings with it.
    lacking : callable, optional
        Lists what a store lacks of it, with commands that call the store by a name, or by its own.
    outline : callable, optional
        Lists what the suite answers in order, each with how it stands with what is lacking.
    takes : tuple of str
        Options of `headstock eval run` that only some suites have.
    tables : mapping
        Further tables by name, each made of a results folder and rows of it.
    """

    runs: Callable[..., list[Run]]
    summary: str
    create_store: Callable[[Path], None] | None = None
    lacking: Callable[[FeatureStore, str | None], list[Lacking]] | None = None
    outline: Callable[[Sequence[Lacking]], list[tuple[Experiment, str]]] | None = None
    takes: tuple[str, ...] = ()
    tables: Mapping[str, Callable[[Path, pl.DataFrame], pl.DataFrame]] = field(default_factory=dict)


def _late(place: str) -> Callable[..., Any]:
    """Return the function "module:name" of `bench`, imported when it is called."""

    def call(*args: Any, **kwargs: Any) -> Any:
        from pkgutil import resolve_name

        return resolve_name(f"bench.{place}")(*args, **kwargs)

    return call


_BUILT_IN: dict[str, Suite] = {
    "demo": Suite(
        _late("suites.demo:demo_runs"),
        "Rank all 517 names, alone and with real pairs, beside controls.",
        takes=("dataset", "label_set"),
    ),
    "controls": Suite(
        _late("suites.controls:control_runs"),
        "Run more controls of the head and of real pairs, some in doses.",
        takes=("dataset", "label_set"),
        tables={"doses": _late("doses:dose_table")},
    ),
    "smoke": Suite(
        _late("suites.demo:smoke_runs"),
        "Run a small demo on a synthetic store in seconds, without --store.",
        _late("suites.demo:create_smoke_store"),
    ),
    "paper": Suite(
        _late("suites.paper:paper_runs"),
        "Run the paper's experiments whose sets are in the store.",
        lacking=_late("suites.paper:lacking"),
        outline=_late("suites.paper:outline"),
        tables={"published": lambda _, rows: _late("suites.published:published_table")(rows)},
    ),
    "few-shot": Suite(
        _late("suites.few_shot:few_shot_runs"),
        "Compare few-shot learners with 1 to 16 shots, in ten draws.",
        takes=("dataset", "label_set", "shots", "learners"),
        tables={"learners": _late("suites.few_shot:few_shot_table")},
    ),
}


def _as_suite(_: str, thing: Any, **about: Any) -> Suite:
    suite = thing if isinstance(thing, Suite) else Suite(thing, first_line(thing))
    if not callable(suite.runs):
        raise TypeError(f"expected a Suite, or a function that plans its runs; got {thing!r}.")
    return replace(suite, **about)


SUITES: Registry[Suite] = Registry("suite", _BUILT_IN, accept=_as_suite)
"""The suites.

A suite of one's own (``register("suite", NAME)``, an entry point of ``headstock.suites``) is a
`Suite`, or the function that plans its runs (`Suite.runs`). Its source enters no id of a run: what
decides a number is in the run.
"""


def suite_named(name: str) -> Suite:
    """Return the suite called `name`.

    Raises
    ------
    UnknownSuiteError
        If there is none; the message lists those that exist.
    """
    return lookup(SUITES, name, what="suite", error=UnknownSuiteError)


def suite_runs(
    name: str,
    store: FeatureStore,
    *,
    lists: Lists | None = None,
    of_methods: Mapping[str, Lists] = MappingProxyType({}),
    **options: Any,
) -> list[Run]:
    """Return the runs of a suite on a store.

    Parameters
    ----------
    name : str
    store : FeatureStore
    lists, of_methods : mapping, optional
        As of `with_lists`.
    **options
        ``limit``, ``methods``, ``sources``, and what the suite `takes` beside them.

    Raises
    ------
    UnknownSuiteError
        If there is no suite of this name.
    ProtocolError
        If the store lacks what it needs, or as of `with_lists`.
    """
    return with_lists(suite_named(name).runs(store, **options), lists or {}, of_methods)


def with_lists(
    runs: Sequence[Run], lists: Lists, of_methods: Mapping[str, Lists] = MappingProxyType({})
) -> list[Run]:
    """Return the runs of a suite with other prompts and settings than its own.

    Parameters
    ----------
    runs : sequence of Run
    lists : mapping
        Name of a field of a run → its values, each of which makes a run: settings of the fit, for
        the methods that have them, and variants and templates, of heads for runs with a head.
    of_methods : mapping
        Method → settings of it alone.

    Raises
    ------
    ProtocolError
        If no method of the suite has a setting, or a run contradicts itself.
    """
    methods = dict.fromkeys(run.fit.method for run in runs)
    check_settings({*lists, *(name for own in of_methods.values() for name in own)}, methods)
    made: list[Run] = []
    for run in runs:
        head = bool(run.data.head_set)
        mixed = run.protocol.is_mixed
        own = {
            name: values
            for name, values in (*lists.items(), *of_methods.get(run.fit.method, {}).items())
            if (head or not name.startswith("head_")) and (mixed or name not in OF_MIXED)
        }
        made += combinations(run.changed, own | {"method": (run.fit.method,)})
    return list(dict.fromkeys(made))
