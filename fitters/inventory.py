"""Sets of a store that fit together: images, a head of their model, texts of one encoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, TypeAlias

from featstore.errors import listed
from featstore.store.store import FeatureStore, SetInfo
from fitters.errors import SettingError

#: A variant of a class's name, and the template around it.
Text: TypeAlias = tuple[str, str]


def beside_fields(heads: Sequence[SetInfo], images: Sequence[SetInfo]) -> dict[str, Any]:
    """Return the fields of a run that name further heads, and images by their encoders."""
    named = {"more_heads": heads, "more_images": images}
    return {name: tuple(map(pinned, sets)) for name, sets in named.items()} if heads else {}


def pinned(info: SetInfo) -> str:
    """Return what names a set in its revision: ``key@revision``."""
    return f"{info.key}@{info.commit.revision_id}"


def set_fields(**sets: SetInfo | None) -> dict[str, str]:
    """Return the fields of a run that name sets and their revisions, by role (image, name …).

    A set that is None is left out.
    """
    found = {}
    for role, info in sets.items():
        if info is not None:
            found[f"{role}_set"] = str(info.key)
            found[f"{role}_revision"] = info.commit.revision_id
    return found


@dataclass(frozen=True)
class Fit:
    """Sets that fit together: images, the head of their model, and texts of one encoder.

    `text` are class names or captions of the images' dataset; `caption` are captions beside names.
    """

    image: SetInfo
    text: SetInfo | None = None
    head: SetInfo | None = None
    head_name: SetInfo | None = None
    caption: SetInfo | None = None

    def fields(self) -> dict[str, str]:
        """Return the fields of a run that name these sets and their revisions."""
        captions = self.text is not None and self.text.key.kind == "caption"
        own = {"image": self.image, "caption": self.caption, "head": self.head}
        own |= {"head_name": self.head_name, "caption" if captions else "name": self.text}
        return set_fields(**own)

    @property
    def roles(self) -> dict[str, str]:
        """The keys of these sets by the names that a fit on a store has for them."""
        captions = self.caption or self.text
        sets = {"images": self.image, "captions": captions, "head": self.head,
                "head_names": self.head_name}  # fmt: skip
        return {role: str(info.key) for role, info in sets.items() if info is not None}


class Inventory:
    """The sets of a store by dataset and kind.

    Parameters
    ----------
    store : FeatureStore
    limit : int, optional
        Images kept of every set.
    """

    def __init__(self, store: FeatureStore, limit: int | None = None) -> None:
        self.store, self.limit = store, limit
        self._sets = store.sets()
        self._texts: dict[str, frozenset[Text]] = {}

    def of(self, dataset: str, kind: str) -> list[SetInfo]:
        """Return the sets of a dataset and kind, one an encoder."""
        return [i for i in self._sets if (i.key.dataset, i.key.kind) == (dataset, kind)]

    def splits(self, info: SetInfo) -> set[str]:
        """Return the splits that the items of a set name."""
        column = self.store.view(str(info.key)).items.get_column("split", default=None)
        return set() if column is None else set(column.drop_nulls())

    def only(self, kind: str, option: str) -> str:
        """Return the only dataset with a kind of sets; `option` names one of several."""
        found = self.datasets(kind)
        if len(found) == 1:
            return found[0]
        several = f"several datasets of kind {kind}: {listed(found, shown=8)}"
        raise SettingError(
            f"{self.store.address} has {several if found else f'no {kind} set'}. Name one with "
            f"{option}, or extract it."
        )

    def n_train(self, info: SetInfo, splits: Sequence[str]) -> int:
        """Return how many of the images that are kept of a set may be trained on."""
        items = self.store.view(str(info.key)).items
        return int(items.head(self.limit or items.height)["split"].is_in(splits).sum())

    def n_classes(self, info: SetInfo) -> int:
        """Return how many classes the items of a set are of."""
        return int(self.store.view(str(info.key)).items["class_id"].n_unique())

    def texts(self, info: SetInfo, wanted: tuple[Text, ...], prefix: str = "") -> dict[str, Any]:
        """Return the fields of a run that choose the first wanted text which a set of names has.

        Parameters
        ----------
        prefix : str
            Of the fields: "head_" or "pair_".

        Returns
        -------
        dict
            Empty if the set has none of them: the run takes what it usually does.
        """
        key = str(info.key)
        if key not in self._texts:
            rows = self.store.view(key).items.select("variant", "template_id").unique()
            self._texts[key] = frozenset(rows.iter_rows())
        for variant, template in wanted:
            if (variant, template) in self._texts[key]:
                return {f"{prefix}variants": (variant,), f"{prefix}templates": (template,)}
        return {}

    def datasets(self, kind: str) -> list[str]:
        """Return the datasets and label sets that have a set of a kind, sorted."""
        return sorted({info.key.dataset for info in self._sets if info.key.kind == kind})

    def with_heads(
        self, dataset: str, kind: str, label_sets: Sequence[str] | None = None
    ) -> Iterator[Fit]:
        """Yield images with texts of `kind` and every head of the store that fits both.

        A head fits images of its own space, and texts where the names of its classes are in
        their space.
        """
        for image, text in product(self.of(dataset, "image"), self.of(dataset, kind)):
            spaces = image.commit.space_id, text.commit.space_id
            for head, names in self.heads_and_names(label_sets):
                if (head.commit.space_id, names.commit.space_id) == spaces:
                    yield Fit(image, text, head, names)

    def pairs(self, dataset: str, kind: str) -> Iterator[Fit]:
        """Yield images and texts of the two towers of one model, such as CLIP's."""
        for image, text in product(self.of(dataset, "image"), self.of(dataset, kind)):
            pair = image.attributes["space"].get("pair")
            if pair is not None and text.attributes["space"].get("pair") == pair:
                yield Fit(image, text)

    def heads_and_names(
        self, label_sets: Sequence[str] | None = None
    ) -> Iterator[tuple[SetInfo, SetInfo]]:
        """Yield every head, or those of some label sets, with every set of names of its classes."""
        for label_set in self.datasets("head_weight") if label_sets is None else label_sets:
            yield from product(self.of(label_set, "head_weight"), self.of(label_set, "class_name"))

    def in_space(self, kind: str, space_id: str, *datasets: str) -> SetInfo | None:
        """Return a set of a kind in a space, of the first of these datasets that has one."""
        sets = (info for dataset in datasets for info in self.of(dataset, kind))
        return next((info for info in sets if info.commit.space_id == space_id), None)


def find_fits(
    store: FeatureStore, *, dataset: str | None = None, label_set: str | None = None
) -> list[Fit]:
    """Return the sets of every image and text encoder of a store that fit a head together.

    Parameters
    ----------
    store : FeatureStore
    dataset : str, optional
        Has images, class names and perhaps captions; if left out, the only one with images.
    label_set : str, optional
        Has head weights and class names; if left out, the only one with head weights.

    Raises
    ------
    SettingError
        If sets are missing, with the commands that make them.
    """
    have = Inventory(store)
    dataset = dataset or have.only("image", "`dataset=`")
    label_set = label_set or have.only("head_weight", "`label_set=`")
    fits = [
        replace(fit, caption=have.in_space("caption", fit.text.commit.space_id, dataset))
        for fit in have.with_heads(dataset, "class_name", [label_set])
        if fit.text is not None
    ]
    if not fits:
        raise SettingError(_lacking(have, dataset, label_set))
    return fits


def find_sets(
    store: FeatureStore, *, dataset: str | None = None, label_set: str | None = None
) -> Fit:
    """Return the only sets that fit together.

    With a head, where the store has one or a label set is named; else images with their names and
    captions.

    Raises
    ------
    SettingError
        If sets are missing, or several fit.
    """
    have = Inventory(store)
    if label_set or have.datasets("head_weight"):
        fits = find_fits(store, dataset=dataset, label_set=label_set)
    else:
        dataset = dataset or have.only("image", "`dataset=`")
        texts: Iterator[Any] = (
            have.of(dataset, kind) or [None] for kind in ("class_name", "caption")
        )
        every = product(have.of(dataset, "image"), *texts)
        fits = [Fit(image, text, caption=caption) for image, text, caption in every]
    if len(fits) == 1:
        return fits[0]
    names = (" with ".join(fit.fields()[f"{role}_set"] for role in ("image", "name", "caption")
                           if f"{role}_set" in fit.fields()) for fit in fits)  # fmt: skip
    raise SettingError(
        f"{store.address} has several sets that fit together: {listed(names, shown=8)}. Name the "
        "sets, or run a suite, which takes all of them."
    )


def _lacking(have: Inventory, dataset: str, label_set: str) -> str:
    """Return what a store lacks, and what makes it."""
    wanted = (dataset, "image"), (dataset, "class_name"), (label_set, "head_weight"), (
        label_set, "class_name"
    )  # fmt: skip
    lost = [f"{name}/{kind}" for name, kind in wanted if not have.of(name, kind)]
    images = have.datasets("image")
    more = ""
    if images and dataset not in images:
        more = f" For images that the store has, give `dataset=`: {listed(images, shown=8)}."
    return (
        f"{have.store.address} has {f'no {listed(lost)}' if lost else 'no sets'} that fit the "
        "others. Extract what is missing from the manifests (`headstock data build` or `make`), "
        f"images and head by one encoder, all names by another.{more}"
    )
