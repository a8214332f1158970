"""One task: its sets, and runs for every combination of what is listed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import product
from math import prod
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from bench.errors import ProtocolError
from bench.runs import (
    CLASS_MEANS,
    FIT_SETTINGS,
    IDENTITY,
    Protocol,
    Run,
    has_setting,
)
from featstore.options import option
from fitters.methods import method_named, methods_with

if TYPE_CHECKING:
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
    head: tuple[str, ...] = option(
        (),
        help="Use this head set; it needs --head-names. Several heads of the same classes are "
        "fitted as one, each on the images of its own encoder; the first is of the encoder "
        "of --images [default: the only one].",
        metavar="KEYS",
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
        from fitters.inventory import beside_fields, set_fields
        from fitters.jobs import images_beside

        if bool(self.head) != bool(self.head_names):
            raise ProtocolError(
                "A head needs the names of its classes: give `head=` and `head_names=`, or neither."
            )
        named = {own.name: getattr(self, own.name) for own in fields(self)}
        heads, layers, captions = (
            [
                store.info(key.strip())
                for key in (given.split(",") if isinstance(given, str) else given)
                if key
            ]
            for given in (named.pop("head"), named.pop("layers"), named.pop("captions"))
        )
        sets = {role.removesuffix("s"): store.info(key) for role, key in named.items() if key}
        if heads:
            sets["head"] = heads[0]
        images = store.view(self.images)
        others = [images_beside(store, images, head.commit.space_id) for head in heads[1:]]
        found = set_fields(**sets) | beside_fields(
            heads[1:], [store.info(view.key) for view in others]
        )
        found |= caption_fields(store, images, captions)
        if layers:
            found["layer_sets"] = tuple(str(info.key) for info in layers)
            found["layer_revisions"] = tuple(info.commit.revision_id for info in layers)
        return found


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
    from fitters.inventory import pinned, set_fields
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
        n = prod(map(len, own.values()))
        if n > MOST_RUNS:
            raise ProtocolError(
                f"The lists make {n:,} combinations of method {method}; at most {MOST_RUNS:,} are "
                "planned. List fewer values."
            )
        for values in product(*own.values()):
            changes = dict(zip(own, values, strict=True)) | {"method": method}
            if skip:
                changes = _without_idle(changes)
                protocol = _protocol_of(changes)
                elsewhere = bool(changes.get("pairs_from"))
                if protocol is None or not has_meaning(method, protocol, elsewhere=elsewhere):
                    continue
                if not protocol.is_mixed:
                    changes = {n: value for n, value in changes.items() if n not in OF_MIXED}
            run = make(**changes)
            idle = "mix" in changes and run.fit.mix != "auto" and not run.protocol.is_mixed
            runs.append(run.changed(mix=1.0) if idle else run)
    return list(dict.fromkeys(runs))


#: Combinations of lists that are planned for a method at most: they are held in memory.
MOST_RUNS = 200_000


def _protocol_of(changes: Mapping[str, Any]) -> Protocol | None:
    """Return what is trained on and scored; None where real pairs are counted in two ways."""
    if changes.get("n_pairs") and changes.get("pairs_per_class"):
        return None
    return Protocol(**{name: changes[name] for name in _COUNTED if name in changes})


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
