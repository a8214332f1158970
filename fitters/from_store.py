"""What a fit takes of a store: which sets fit together, and their training pairs and moments.

Sets fit together if a head is of the images' model, and all texts are of one encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import permutations, product
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from featstore.errors import AmbiguousSetError, MisalignedItemsError, UnknownSetError, listed
from featstore.parallel import Run, Workers
from featstore.store.log import match_names
from featstore.store.pairs import EmbeddingsView, PairedView
from featstore.store.store import FeatureStore, SetInfo
from fitters.aligners import Projection
from fitters.alignment import Alignment
from fitters.errors import SettingError
from fitters.moments import (
    BLOCK_ROWS,
    Folds,
    Moments,
    accumulate_part,
    merge_pooled,
    moments_of,
    part_slices,
    pilot_shifts,
)
from fitters.pairs import Matrix, Pairs, Rows
from fitters.select import folds_by_group
from fitters.settings import FitRequest, MomentsPrecision
from fitters.sources import SideTransform, Sources, Sums, mean_of, prepare, row_norms, sum_rows

#: A variant of a class's name, and the template around it.
Text: TypeAlias = tuple[str, str]


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


#: The texts that images are paired with or named by, and the kind of their sets.
_TEXT_KINDS = {"captions": "caption", "names": "class_name"}


def texts_beside(store: FeatureStore, images: str | None) -> list[str]:
    """Return which texts, "captions" and "names", a store has of the data sets of some images."""
    datasets = {info.key.dataset for info in sets_named(store, images, "image")}
    kinds = {info.key.kind for info in store.sets() if info.key.dataset in datasets}
    return [role for role, kind in _TEXT_KINDS.items() if kind in kinds]


def sets_of_fit(
    store: FeatureStore, named: Mapping[str, str | None], n_pairs: int | str | None = None
) -> dict[str, str]:
    """Return the keys of the sets of a fit: those named, and what they leave one answer for.

    Real pairs are used where their texts are named, where `n_pairs` asks for some, and where
    nothing is named and the store has no head. A head is used where it is named, or its names are,
    and where there are no real pairs.

    Parameters
    ----------
    store : FeatureStore
    named : mapping
        Role (images, captions, names, head, head_names) to a part of a key, or to None.
    n_pairs : int or "all", optional
        How many real pairs are asked for; 0 leaves out texts that are named.

    Returns
    -------
    dict of str to str
        Role to key, of the roles that the fit has.

    Raises
    ------
    SettingError
        If both captions and names are named.
    featstore.errors.UnknownSetError, featstore.errors.AmbiguousSetError
        If no set, or several, could be meant.
    """
    images, head, head_names = (named.get(role) for role in ("images", "head", "head_names"))
    texts = {role: named[role] for role in _TEXT_KINDS if named.get(role) and n_pairs != 0}
    if len(texts) > 1:
        raise SettingError(
            "`captions=` and `names=` are both texts of the same real pairs. Give one of them."
        )
    has_head = any(info.key.kind == "head_weight" for info in store.sets())
    is_bare = not (head or head_names or has_head) and n_pairs is None
    if not texts and (n_pairs or is_bare):
        beside = texts_beside(store, images)
        if not beside:
            raise UnknownSetError(
                f"Real pairs need texts, and {store.address} has neither captions nor class names "
                "of these images. Give `names=` of another data set, or a head by `head=`."
            )
        texts = {beside[0]: None}
    if head_names or not texts:
        head = head or ""
    return sets_that_fit(store, images, texts, head, head_names)


def sets_that_fit(
    store: FeatureStore,
    images: str | None,
    texts: Mapping[str, str | None],
    head: str | None,
    head_names: str | None,
) -> dict[str, str]:
    """Return the keys of the only images, texts, head and names of its classes that fit.

    Parameters
    ----------
    store : FeatureStore
    images, head_names : str, optional
        Parts of keys; without one, any set of the kind.
    texts : mapping
        What texts are for, "names" or "captions", to a part of a key, or to None.
    head : str, optional
        Part of a key, empty for any; None where no head is read.

    Raises
    ------
    featstore.errors.UnknownSetError, featstore.errors.AmbiguousSetError
        If no set of a kind fits, or several.
    """
    of_images = sets_named(store, images, "image")
    in_words = {role: sets_named(store, part, _TEXT_KINDS[role]) for role, part in texts.items()}
    for sets in in_words.values():
        of_images = narrowed(of_images, sets, "dataset")
    heads = []
    if head is not None:
        heads = sets_named(store, head, "head_weight")
        of_images = narrowed(of_images, heads, "space")
        heads = narrowed(heads, of_images, "space")
    in_words = {role: narrowed(sets, of_images, "dataset") for role, sets in in_words.items()}
    if head is not None:
        of_classes = sets_named(store, head_names, "class_name")
        in_words["head_names"] = narrowed(of_classes, heads, "dataset")
    for role, other in permutations(in_words, 2):
        in_words[role] = narrowed(in_words[role], in_words[other], "space")
    candidates = {"images": of_images}
    if head is not None:
        candidates["head"] = heads
    candidates |= in_words
    return {role: only_key(store, role, sets) for role, sets in candidates.items()}


def sets_named(store: FeatureStore, name: str | None, kind: str) -> list[SetInfo]:
    """Return the sets of a kind of which a name is a part: all of the kind without a name.

    Raises
    ------
    featstore.errors.UnknownSetError, featstore.errors.AmbiguousSetError
        If none of the kind fits the name, and not one of another kind.
    """
    sets = {str(info.key): info for info in store.sets() if info.key.kind == kind}
    if not name:
        return list(sets.values())
    return [sets[key] for key in match_names(name, sets)] or [store.info(name)]


def narrowed(
    sets: Sequence[SetInfo], others: Sequence[SetInfo], by: Literal["dataset", "space"]
) -> list[SetInfo]:
    """Return the sets with a dataset or a space of others; all where that leaves none."""
    shared = {_FACTS[by](info) for info in others}
    return [info for info in sets if _FACTS[by](info) in shared] or list(sets)


_FACTS: dict[str, Callable[[SetInfo], str]] = {
    "dataset": lambda info: info.key.dataset,
    "space": lambda info: info.commit.space_id,
}


def only_key(store: FeatureStore, role: str, sets: Sequence[SetInfo]) -> str:
    """Return the key of the only set, without its digits where it is the only one without them.

    Raises
    ------
    featstore.errors.UnknownSetError, featstore.errors.AmbiguousSetError
        If there is none, or several.
    """
    shorts = [key.rpartition("-")[0] for key in store]
    names = [str(info.key) for info in sets]
    names = [n if shorts.count(n.rpartition("-")[0]) > 1 else n.rpartition("-")[0] for n in names]
    if not names:
        raise UnknownSetError(
            f"`{role}=` is missing: no set of {store.address} fits. Extract one, or name another."
        )
    if len(names) > 1:
        raise AmbiguousSetError(
            f"`{role}=` is not clear: several sets could be meant: {listed(names, shown=8)}. Name "
            "one."
        )
    return names[0]


N_FOLDS = 4

#: Of a Ray that is started for moments: parts that are early wait there before they go to disk.
OBJECT_STORE_BYTES = 500_000_000


def moment_sources(
    request: FitRequest,
    pool: EmbeddingsView,
    paired: PairedView[EmbeddingsView],
    prototypes: Pairs | None = None,
    *,
    raw: bool = False,
    workers: Workers | None = None,
) -> Sources[Folds]:
    """Return the moments of the transformed pairs: first the means, then the rows about them.

    Who accumulates them is this process unless `workers` says otherwise; with as many threads the
    bits are the same.

    Parameters
    ----------
    request : FitRequest
        Its `moments` is the precision, its `seed` draws the folds.
    pool : EmbeddingsView
        Unlabelled images, whose mean centres the images.
    paired : PairedView
        The real pairs.
    prototypes : Pairs, optional
        Small, and in memory.
    raw : bool
        Take the rows as they are: no unit length, no centring.

    Raises
    ------
    EngineError
        If Ray is asked for and not installed, or gave a worker up.
    """
    image, text = SideTransform.identity("images"), SideTransform.identity("texts")
    whose, of_head, transforms = ("none", "none"), None, None
    with (workers or Workers()).connected() as run:
        if not raw:
            image = _centred(pool, np.ones(len(pool)), "images", run)
            whose = "given mean", "real texts" if prototypes is None else "class texts"
            if prototypes is None:
                text = _centred(paired.y, paired.weight, "texts", run)
            else:
                sources = prepare(prototypes, None, image.mean)
                assert sources.prototypes is not None
                of_head, text = Folds([moments_of(sources.prototypes)]), sources.text
            transforms = image, text
        # As numbers, in the order of their labels: sorting a million texts takes longer than all.
        groups = np.unique(paired.groups, return_inverse=True)[1]
        n_folds = min(N_FOLDS, int(groups.max()) + 1)
        folds = np.zeros(len(paired), dtype=np.int64)
        if n_folds >= 2:
            folds = folds_by_group(groups, n_folds, np.random.default_rng(request.seed))
        x, y, _ = next(iter(_prepared(paired.take(slice(BLOCK_ROWS)), transforms)))
        shifts = pilot_shifts(x, y)
        tasks = (
            _Part(paired.take(rows), transforms, folds[rows], n_folds, shifts, request.moments)
            for rows in part_slices(len(paired))
        )
        found = reduce(
            lambda total, part: Folds(map(merge_pooled, total, part)),
            map(Folds, run(_moments_of, tasks, ordered=True)),
        )
    return Sources(of_head, found, image, text, *whose)


@dataclass(frozen=True, eq=False)
class _Part:
    """Some of the pairs, as a task: a view that is pickled is the numbers of its rows."""

    pairs: PairedView[EmbeddingsView]
    transforms: tuple[SideTransform, SideTransform] | None
    folds: npt.NDArray[np.int64]
    n_folds: int
    shifts: tuple[Matrix, Matrix]
    precision: MomentsPrecision


def _moments_of(part: _Part) -> list[Moments]:
    return accumulate_part(
        _prepared(part.pairs, part.transforms), part.folds, n_folds=part.n_folds,
        shifts=part.shifts, precision=part.precision,
    )  # fmt: skip


def _prepared(
    pairs: PairedView[EmbeddingsView], transforms: tuple[SideTransform, SideTransform] | None
) -> Iterator[tuple[Rows, Rows, npt.NDArray[np.float64]]]:
    for x, y, weight in pairs.batches(N_FOLDS * BLOCK_ROWS, reuse=True):
        if transforms is None:
            row_norms(x, what="images")
            row_norms(y, what="their counterparts")
            yield x, y, weight
        else:
            image, text = transforms
            yield image.apply(x), text.apply(y), weight


def _centred(
    view: EmbeddingsView, weight: npt.NDArray[np.float64], label: str, run: Run
) -> SideTransform:
    """Return the transform that centres on the weighted mean of a view's unit rows."""
    tasks = ((view[rows], weight[rows], label) for rows in part_slices(len(view)))
    return SideTransform(mean=mean_of(run(_sum_of, tasks, ordered=True), label=label), label=label)


def _sum_of(task: tuple[EmbeddingsView, npt.NDArray[np.float64], str]) -> Sums:
    view, weight, label = task
    batches = ((rows, weight[number * BLOCK_ROWS :][: len(rows)])
               for number, rows in enumerate(view.batches(BLOCK_ROWS, reuse=True)))  # fmt: skip
    return sum_rows(batches, label=label)


def project_view(alignment: Alignment, view: EmbeddingsView) -> Projection:
    """Return the rows of a view in the shared space: (n, r), float32, dense or CSR.

    The side is decided by the view's space_id.

    Raises
    ------
    featstore.errors.MisalignedItemsError
        If the view lies in neither of the two spaces that the alignment was fitted on.
    """
    side = side_of(alignment, view.space_id, what=view.key)
    rows = view.numpy()
    return alignment.project_x(rows) if side == "x" else alignment.project_y(rows)


def side_of(alignment: Alignment, space_id: str, *, what: str) -> Literal["x", "y"]:
    """Return which side of an alignment takes embeddings of this space."""
    if space_id == alignment.facts.get("x_space_id"):
        return "x"
    if space_id == alignment.facts.get("y_space_id"):
        return "y"
    facts = alignment.facts
    known = [(facts.get(f"{side}_encoder"), facts.get(f"{side}_space_id")) for side in "xy"]
    spaces = " and ".join(f"{encoder} ({str(space)[:8]})" for encoder, space in known)
    raise MisalignedItemsError(
        f"{what} lies in space {space_id[:8]}; the alignment was fitted on {spaces}. Embeddings "
        "of another model, checkpoint or preprocessing cannot be projected with it."
    )


def embed_texts(
    alignment: Alignment, texts: Sequence[str], *, weights: str | None, encoder: str | None = None
) -> Projection:
    """Encode texts with the alignment's own text encoder and project them: (n, r), float32.

    Raises
    ------
    featstore.errors.MisalignedItemsError
        If the encoder, with these weights, is not the one that the alignment was fitted on.
    """
    from featstore.encoders.base import encode_texts
    from featstore.encoders.registry import open_encoder
    from featstore.identity import space_id

    opened = open_encoder(encoder or str(alignment.facts["y_encoder"]), weights=weights)
    if side_of(alignment, space_id(opened.space), what=opened.name) != "y":
        raise MisalignedItemsError(
            f"{opened.name} encodes images; texts go through {alignment.facts['y_encoder']}."
        )
    return alignment.project_y(encode_texts(opened, texts))
