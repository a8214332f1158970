"""Suites: Python functions that return the runs of a question.

``demo`` is the protocol on the demo's store; ``smoke`` is a shrunken form of it on a small
synthetic store that it makes itself; ``controls`` has more controls, in doses; ``paper`` is the
experiments of the head-recycling paper, each as soon as its sets are in the store; ``few-shot`` is
the few-shot learners on the datasets of a store. Runs of one task are planned by what is typed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from bench.errors import ProtocolError, UnknownSuiteError
from bench.runs import CLASS_MEANS, FIT_SETTINGS, IDENTITY, Protocol, Run, has_setting
from featstore.errors import lookup
from featstore.options import option
from featstore.plugins import Registry, first_line
from fitters.methods import method_named, methods_with

if TYPE_CHECKING:
    import polars as pl

    from bench.runs import Run
    from bench.suites.paper import Experiment, Lacking
    from featstore.store.pairs import EmbeddingsView
    from featstore.store.store import FeatureStore, SetInfo


#: The suite that runs of one task say they are of.
SUITE = "task"

#: Values of a field of a run, by its name.
Lists = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class SetNames:
    """The sets of a task, as `FeatureStore.info` takes them; empty where it needs none."""

    images: str = option(
        help="Score this image set [default: the only one that fits the rest].", metavar="KEY"
    )
    names: str = option(
        "",
        help="Take the names of the images' classes from this set [default: the only one].",
        metavar="KEY",
    )
    captions: tuple[str, ...] = option(
        (),
        help="Take the captions of the images from this caption set. Captions or class names of "
        "another data set are real pairs with its images: fit on those, score --images.",
        metavar="KEYS",
    )
    head: str = option(
        "",
        help="Use this head set; it needs --head-names [default: the only one].",
        metavar="KEY",
    )
    head_names: str = option(
        "",
        help="Take the names of the head's classes from this set [default: the only one of the "
        "names' encoder].",
        metavar="KEY",
    )
    views: str = option(
        "", help="Use this set of augmented views of the images (few_shot).", flag="-s"
    )
    layers: tuple[str, ...] = option(
        (),
        help="Search these further sets of the same images, separated by commas, as layers "
        "(neighbours).",
        flag="-s",
    )

    def fields(self, store: FeatureStore) -> dict[str, Any]:
        """Return the fields of a run that name these sets and their revisions.

        Raises
        ------
        ProtocolError
            If a head is named without the names of its classes or the other way round.
        featstore.errors.UnknownSetError, featstore.errors.AmbiguousSetError
            If a set is not in the store, or several fit.
        """
        from fitters.from_store import set_fields

        if bool(self.head) != bool(self.head_names):
            raise ProtocolError(
                "A head needs the names of its classes: give `head=` and `head_names=`, or neither."
            )
        named = {own.name: getattr(self, own.name) for own in fields(self)}
        layers, captions = (
            [
                store.info(key.strip())
                for key in (given.split(",") if isinstance(given, str) else given)
                if key
            ]
            for given in (named.pop("layers"), named.pop("captions"))
        )
        sets = {role.removesuffix("s"): store.info(key) for role, key in named.items() if key}
        found = set_fields(**sets) | caption_fields(store, store.view(self.images), captions)
        if layers:
            found["layer_sets"] = tuple(str(info.key) for info in layers)
            found["layer_revisions"] = tuple(info.commit.revision_id for info in layers)
        return found


#: Tasks that score names of classes.
_BY_NAME = frozenset({"zero_shot", "generalised", "few_shot"})


def sets_of_tasks(
    store: FeatureStore, named: Mapping[str, Any], tasks: Collection[str], *, reads_head: bool
) -> dict[str, Any]:
    """Return the sets of tasks by role: those named, and what they leave one answer for.

    Parameters
    ----------
    store : FeatureStore
    named : mapping
        Fields of `SetNames` to parts of keys; empty or missing where nothing is named.
    tasks : collection of str
        Whose texts are looked for, where the store has them.
    reads_head : bool
        Whether a head is looked for where none is named.

    Raises
    ------
    featstore.errors.UnknownSetError, featstore.errors.AmbiguousSetError
        If a set is left out, and there is none or several.
    """
    from fitters.from_store import sets_that_fit, texts_beside

    images, head, head_names = (named.get(role) for role in ("images", "head", "head_names"))
    there = texts_beside(store, images)
    texts: dict[str, str | None] = {}
    if named.get("names") or ("names" in there and not _BY_NAME.isdisjoint(tasks)):
        texts["names"] = named.get("names")
    if "captions" in there and "retrieval" in tasks and not named.get("captions"):
        texts["captions"] = None
    if not head:
        head = "" if reads_head or head_names else None
    sets: dict[str, Any] = dict(sets_that_fit(store, images, texts, head, head_names))
    if "captions" in sets:
        sets["captions"] = (sets["captions"],)
    return sets


def caption_fields(
    store: FeatureStore, images: EmbeddingsView, captions: Sequence[SetInfo]
) -> dict[str, Any]:
    """Return the fields of a run that name captions of images, and pairs of another data set.

    Raises
    ------
    ProtocolError
        If a set is neither, or there are two of one kind.
    fitters.errors.SettingError
        If the store lacks the images of that data set in the space of these.
    """
    from fitters.from_store import pinned, set_fields
    from fitters.jobs import images_beside

    of_images: dict[str, Any] = {}
    others: dict[str, Any] = {}
    for info in captions:
        own = info.key.dataset == images.key.split("/")[0]
        if not own and info.key.kind in ("caption", "class_name") and not others:
            at = images_beside(store, store.view(str(info.key)), images.space_id)
            others = {"pairs_from": (f"{at.key}@{at.revision_id}", pinned(info))}
        elif own and info.key.kind == "caption" and not of_images:
            of_images = set_fields(caption=info)
        else:
            raise ProtocolError(
                f"`captions=` takes one caption set of the images ({images.key}) and one of "
                f"captions or class names of another data set; {info.key} is not what is left."
            )
    return of_images | others


def combinations(
    make: Callable[..., Run],
    lists: Lists,
    of_methods: Mapping[str, Lists] = MappingProxyType({}),
    *,
    skip: bool | None = None,
) -> list[Run]:
    """Return the runs that have one of the listed values in every field.

    Combinations without a meaning are left out: source "none" without real pairs, controls of
    ConSE, a head for a method that reads none, real pairs that are counted in two ways. A method
    gets the settings that it has. Without prototypes or without real pairs a mixing weight
    and training in two stages have no effect: such a cell is one run.

    Parameters
    ----------
    make : callable
        `Run.of` with what is fixed, or `Run.changed` of a run.
    lists : mapping
        Name of a field of a run → its values; method among them.
    of_methods : mapping
        Method → further lists, for it alone.
    skip : bool, optional
        Whether combinations without a meaning are left out; None: where several are listed.

    Raises
    ------
    ProtocolError
        If a run contradicts itself.
    """
    from bench.suites.demo import has_meaning

    if skip is None:
        skip = any(len(lists.get(name, ())) > 1 for name in ("method", *_COUNTED))
    runs = []
    for method in lists["method"]:
        own = {
            name: values
            for name, values in lists.items()
            if name not in FIT_SETTINGS or has_setting(method, name)
        } | dict(of_methods.get(method, {}))
        for values in product(*own.values()):
            changes = dict(zip(own, values, strict=True)) | {"method": method}
            if skip:
                changes = _without_idle(changes)
                if changes.get("n_pairs") and changes.get("pairs_per_class"):
                    continue  # real pairs are counted in one way
                protocol = Protocol(**{n: changes[n] for n in _COUNTED if n in changes})
                if not has_meaning(method, protocol, elsewhere=bool(changes.get("pairs_from"))):
                    continue
                if not protocol.is_mixed:
                    changes = {n: value for n, value in changes.items() if n not in OF_MIXED}
            run = make(**changes)
            idle = "mix" in changes and run.fit.mix != "auto" and not run.protocol.is_mixed
            runs.append(run.changed(mix=1.0) if idle else run)
    return list(dict.fromkeys(runs))


#: Fields that choose classes of a head, and those that only one source has.
_OF_HEAD = ("head_size", "head_by", "leave_seen")


def _without_idle(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a combination without what has no effect on its source of prototypes."""
    source = changes.get("source", "none")
    idle = {"clusters"} if source != "shuffled-within" else set()
    if source in ("none", CLASS_MEANS):
        idle.update(_OF_HEAD)
    elif not changes.get("head_size"):
        idle.add("head_by")
    return {name: value for name, value in changes.items() if name not in idle}


_COUNTED = ("eval", "source", "n_pairs", "pairs_per_class")

#: Settings of a training on prototypes and real pairs together; others are without them.
OF_MIXED = ("sequential",)


def check_settings(names: Collection[str], methods: Collection[str]) -> None:
    """Refuse an unknown method, and a setting that none of the methods has; nothing without one.

    Raises
    ------
    ProtocolError, fitters.errors.UnknownMethodError
    """
    for method in methods:
        if method != IDENTITY:
            method_named(method)
    for name in names:
        if (
            methods
            and name in FIT_SETTINGS
            and not any(has_setting(method, name) for method in methods)
        ):
            raise ProtocolError(
                f"No method that is to be run ({', '.join(methods)}) has a setting {name!r}; these "
                f"have: {', '.join(methods_with(name))}. Leave it out."
            )


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
        _late("suites.demo:control_runs"),
        "Run more controls of the head and of real pairs, some in doses.",
        takes=("dataset", "label_set"),
        tables={"doses": _late("suites.demo:dose_table")},
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
        tables={"published": lambda _, rows: _late("reproduction:published_table")(rows)},
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
