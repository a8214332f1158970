"""What a run reads, images, names, captions and pairs of a store, and how it splits images.

Class ids of two label sets never agree, so names decide. A class is *seen* if one of its names
is one of the head's. Names are the bare ones (template ``none``, variants ``name`` and ``lemmas``
where there are such), cut at commas ("plant, flora, plant life" is three), without case, leading
article, underscore, hyphen and double blank. Words are not stemmed, and "a kind of" is not
followed: "golden retriever" is seen, "dog" is not, where the head has only the breed.

Views are a set of their own (``headstock extract --augment``), so that none of them is ever an
image that is scored.

Storage ends here: splits, fits and tasks see ids and rows.

Splits of our own are of classes, so that no class name, and no description shared by several
images, is on both sides; but for few-shot learners, which are taught the classes that they are
tested on. The manifest's own split is taken as it is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from bench.errors import ProtocolError
from bench.metrics.ranks import different_rows
from bench.options import Generalised, ZeroShot
from bench.runs import Run
from featstore.errors import listed
from featstore.store.pairs import EmbeddingsView
from featstore.store.store import FeatureStore
from featstore.store.tables import join_ids
from fitters.jobs import HeadTexts
from fitters.kept import kept
from fitters.pairs import place_in_class
from fitters.sources import unit_or_zero

_VARIANTS = ("name", "lemmas")
_BARE = "none"


def seen_classes(
    names: pl.DataFrame, head_names: pl.DataFrame, classes: NDArray[Any]
) -> NDArray[np.bool_]:
    """Return for every class whether the head's label set has it, shape (c,).

    Parameters
    ----------
    names, head_names : DataFrame
        Items of kind class_name, of the dataset and of the head.
    classes : array of str, shape (c,)
        class_id of classes of the dataset.
    """
    known = set[str]().union(*class_name_forms(head_names).values())
    ids = set(head_names["class_id"].drop_nulls())
    own = class_name_forms(names)
    return np.array([c in ids or not known.isdisjoint(own.get(str(c), ())) for c in classes], bool)


def class_name_forms(items: pl.DataFrame) -> dict[str, set[str]]:
    """Return the names of every class, as they are compared."""
    bare = items
    for column, wanted in (("template_id", [_BARE]), ("variant", list(_VARIANTS))):
        kept = bare.filter(pl.col(column).is_in(wanted))
        bare = kept if kept.height else bare
    forms: dict[str, set[str]] = {}
    for class_id, text in bare.select("class_id", "text").drop_nulls().iter_rows():
        forms.setdefault(class_id, set()).update(_forms(text))
    return forms


def _forms(text: str) -> set[str]:
    parts = (re.sub(r"[\s_-]+", " ", part).strip().casefold() for part in text.split(","))
    return {re.sub(r"^(?:an?|the|some) ", "", part).rstrip(".!?") for part in parts} - {""}


VIEW_ID = "view_id"


class ImageViews:
    """The views of a set of images by the id of their image.

    Parameters
    ----------
    view : EmbeddingsView
        Items with ``view_id`` and, as their parent, the image.

    Raises
    ------
    ProtocolError
        If the set holds no views.
    """

    def __init__(self, view: EmbeddingsView) -> None:
        if VIEW_ID not in view.items.columns or view.items["parent_id"].null_count():
            raise ProtocolError(
                f"{view.key} holds no augmented views of images. Make them with `headstock extract "
                "DATASET --kind image --augment 10`, and name that set."
            )
        self._view = view
        parents = view.items["parent_id"].to_numpy().astype(str)
        order = np.lexsort((view.items[VIEW_ID].to_numpy(), parents))
        ids, starts, counts = np.unique(parents[order], return_index=True, return_counts=True)
        self._rows = {
            name: order[start : start + count]
            for name, start, count in zip(
                ids.tolist(), starts.tolist(), counts.tolist(), strict=True
            )
        }

    def of(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """Return the raw views of these images, in the order of their numbers: (n, v, d).

        Raises
        ------
        ProtocolError
            If an image has none, or another number of them than the others.
        """
        rows = [self._rows.get(str(image), np.empty(0, dtype=np.int64)) for image in images]
        counts = {len(own) for own in rows}
        if len(counts) != 1 or counts == {0}:
            least = min(range(len(rows)), key=lambda place: len(rows[place]))
            raise ProtocolError(
                f"{self._view.key} has {min(counts)} to {max(counts)} views an image (fewest: "
                f"{str(images[least])!r}); every shot needs equally many. Extract the views of all "
                "images."
            )
        raw = self._view.take(np.concatenate(rows)).numpy()
        return raw.reshape(len(images), counts.pop(), raw.shape[1])


def places_of(wanted: NDArray[Any], known: NDArray[Any]) -> NDArray[np.int64]:
    """Return where each name stands among the known ones, -1 where it does not."""
    place = {name: row for row, name in enumerate(known.tolist())}
    return np.array([place.get(name, -1) for name in wanted.tolist()], dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Items:
    """n embeddings and what they are.

    Attributes
    ----------
    ids : array of str, shape (n,)
        item_id of each row.
    classes : array of str, shape (n,)
        class_id of each row.
    rows : float32 array of shape (n, d)
        As stored: neither centred nor normalised. Class texts are of unit length.
    parents : array of str, shape (n,), optional
        parent_id of each row: the image that a caption belongs to.
    parts : array of str, shape (n,), optional
        Of images their split in the manifest, "" where it has none; of prompts their template.
    """

    ids: NDArray[Any]
    classes: NDArray[Any]
    rows: NDArray[np.float32]
    parents: NDArray[Any] | None = None
    parts: NDArray[Any] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def places_of(self, classes: NDArray[Any]) -> NDArray[np.int64]:
        """Return the positions of these classes, each of which has one row."""
        return places_of(classes, self.classes)

    def take(self, index: NDArray[Any]) -> Items:
        """Return these rows (positions or a mask)."""
        columns: dict[str, Any] = {own.name: getattr(self, own.name) for own in fields(self)}
        return Items(**{name: own[index] for name, own in columns.items() if own is not None})

    def equal_classes(self) -> list[list[str]]:
        """Return the classes whose rows are equal, group by group."""
        firsts, which = _different_rows(self)
        sizes = np.bincount(which, minlength=len(firsts))
        groups = np.flatnonzero(sizes > 1).tolist()
        return [self.classes[which == group].tolist() for group in groups]

    @property
    def different(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The u different rows, in the order of their first, and which of them each row is."""
        firsts, which = _different_rows(self)
        return self.rows if len(firsts) == len(self) else self.rows[firsts], which


@kept
def _different_rows(items: Items) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return positions alone: they are small, and are kept however large the rows are."""
    return different_rows(items.rows)


#: Cosine from which two images are one picture, where images spread evenly. Its errors of both
#: kinds stand in docs/ref/controls.md.
TWIN = 0.999

# Axes that near rows are looked for along. They only shorten distances, so that none is missed; at
# 100,000 rows the search took 0.4 s along 5, 0.7 s along 6.
_AXES = 5
# Rows that the axes are taken from, at most about: of 4,096 columns that takes a tenth of a second,
# of all their products 20 s.
_SAMPLE = 250
# Pairs whose rows are compared at once.
_AT_ONCE = 1_000


@kept
def pictures_of(images: Items) -> NDArray[np.int64]:
    """Return which picture each image is of, shape (n,): equal and nearly equal rows are of one."""
    rows, which = images.different
    return nearly_equal(rows)[which]


def nearly_equal(rows: NDArray[np.floating[Any]], bound: float = TWIN) -> NDArray[np.int64]:
    """Return a number for every row that nearly equal rows share, shape (n,).

    Two unit rows are nearly equal where their squared distance is at most 1 - `bound` of what it is
    on average. Of rows without a common direction, this is a cosine of `bound` or more; where all
    have one, as in a network with random weights, distances are as small as they spread. What is
    nearly equal to one and the same row is joined.
    """
    unit = unit_or_zero(np.asarray(rows, np.float32))
    centred = unit - unit.mean(axis=0)
    radius = math.sqrt(
        2.0 * (1.0 - bound) * float(np.einsum("nd,nd->", centred, centred)) / len(unit)
    )
    sample = centred[:: max(1, len(unit) // _SAMPLE)]
    axes = np.linalg.svd(sample, full_matrices=False)[2][:_AXES].T
    one, other = cKDTree(centred @ axes).query_pairs(1.001 * radius, output_type="ndarray").T
    near = [
        np.linalg.norm(unit[one[at : at + _AT_ONCE]] - unit[other[at : at + _AT_ONCE]], axis=1)
        <= radius
        for at in range(0, len(one), _AT_ONCE)
    ]
    is_near = np.concatenate([np.zeros(0, bool), *near])
    joined = coo_array((is_near[is_near], (one[is_near], other[is_near])), (len(unit),) * 2)
    return connected_components(joined, directed=False)[1].astype(np.int64)


@dataclass(frozen=True, eq=False)
class Head:
    """c classes of a classification head with the text of their names.

    Attributes
    ----------
    weight : float32 array of shape (c, p)
    bias : float32 array of shape (c,)
    texts : float32 array of shape (c, q)
        One unit-length text row per class.
    groups : array of shape (c,)
        Classes that share their text share a group: leaving out one must leave out all.
    classes : array of str, shape (c,)
        class_id of each row.
    asked : float32 array of shape (c, q), optional
        The texts in the form in which names are asked for, where it is another.
    in_gallery : bool array of shape (c,), optional
        Whether one of the class's names is one of the images' classes.
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    texts: NDArray[np.float32]
    groups: NDArray[Any]
    classes: NDArray[Any]
    asked: NDArray[np.float32] | None = None
    in_gallery: NDArray[np.bool_] | None = None


@dataclass(frozen=True, eq=False)
class Corpus:
    """Everything that the runs over one choice of sets read.

    Attributes
    ----------
    images : Items
    names : Items
        One text row per class; none if the run names no set of them.
    captions : Items, optional
        Captions of these images, in the order of their images.
    head : Head, optional
    prompts : Items, optional
        Every prompt of every class by itself, if the run scores single prompts; not normalised.
    seen : array of bool, shape (c,), optional
        Of the names: whether the head's label set has the class. See `bench.corpus`.
    one_model : bool
        Whether images and texts are of the two towers of one model, in one space.
    views : ImageViews, optional
        Augmented views of the images, if the run names a set of them.
    layers : dict of str to float32 arrays of shape (n, …)
        Rows of the same images in the other sets that a run searches, by their keys.
    pair_names : Items, optional
        What the training images of a class are paired with, one text a class, where that is
        another text than its name in `names`.
    pairs : Corpus, optional
        Images of another data set with their captions or names, if real pairs are made of those.
    """

    images: Items
    names: Items
    captions: Items | None = None
    head: Head | None = None
    prompts: Items | None = None
    seen: NDArray[np.bool_] | None = None
    one_model: bool = False
    views: ImageViews | None = None
    pair_names: Items | None = None
    layers: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    pairs: Corpus | None = None

    def head_for(self, what: str) -> Head:
        """Return the head; `what` needs it.

        Raises
        ------
        ProtocolError
            If there is none.
        """
        if self.head is None:
            raise ProtocolError(
                f"{what} needs a head and the names of its classes, and the run names none. Give "
                "it both (`head=` and `head_names=`); `headstock extract --kind head_weight` makes "
                "a head."
            )
        return self.head

    def names_for(self, what: str) -> Items:
        """Return the names of the images' classes; `what` says who lacks them.

        Raises
        ------
        ProtocolError
            If there are none.
        """
        if not len(self.names):
            raise ProtocolError(
                f"{what}. Give it their set (`names=`); real pairs can also be of captions, or of "
                "the class names of another data set (`captions=`)."
            )
        return self.names

    @property
    def trained_on(self) -> Corpus:
        """What the training images of a split are images of: this corpus, or that of `pairs`."""
        return self if self.pairs is None else self.pairs


def read_corpus(store: FeatureStore, run: Run) -> Corpus:
    """Read the sets that a run names.

    Raises
    ------
    ProtocolError
        If the store has another revision of a set than the run, images lack a class, the image
        set is one of views, or a layer lacks an image.
    featstore.errors.UnknownSetError, featstore.errors.MisalignedItemsError
        If a set is missing, or the head belongs to another model than the images.
    """
    data, limit = run.data, run.protocol.limit
    image_view = _view(store, data.image_set, data.image_revision)
    if VIEW_ID in image_view.items.columns:
        raise ProtocolError(
            f"{data.image_set} holds augmented views, which are not scored. Name the set of "
            "the images themselves, and the views beside it (of few_shot: -s views=KEY)."
        )
    views = None
    if data.view_set:
        view_rows = _view(store, data.view_set, data.view_revision)
        image_view.require_same_space(view_rows, what="Images and their views")
        views = ImageViews(view_rows)
    if limit is not None:
        image_view = image_view.take(np.arange(min(limit, len(image_view))))
    images = _items(image_view, classes_needed=bool(data.name_set))
    layers = {
        key: _layer(_view(store, key, revision), images)
        for key, revision in zip(data.layer_sets, data.layer_revisions, strict=True)
    }
    none = np.empty(0, dtype=np.str_)
    names = Items(none, none, np.empty((0, 0), dtype=np.float32))
    prompts = captions = head = seen = None
    pair_names = None
    texts: list[EmbeddingsView] = []
    if data.name_set:
        name_view = _view(store, data.name_set, data.name_revision)
        texts.append(name_view)
        names = _names(name_view, run, images, (data.variants, data.templates))
        if data.pair_texts != (data.variants, data.templates):
            pair_names = _names(name_view, run, images, data.pair_texts)
        if needs_prompts(run):
            chosen = name_view.where(variant=list(data.variants), template_id=list(data.templates))
            prompts = _items(chosen)
            prompts = prompts.take(np.isin(prompts.classes, names.classes))
    if data.caption_set:
        caption_view = _view(store, data.caption_set, data.caption_revision)
        texts.append(caption_view)
        captions = _captions(caption_view, run, image_view, images)
    if data.head_set:
        head_view = _view(store, data.head_set, data.head_revision)
        image_view.require_same_space(head_view, what="A head and the images it is used on")
        head_names = _view(store, data.head_name_set, data.head_name_revision)
        for view in texts[:1]:
            view.require_same_space(head_names, what="Names of the head's classes and other texts")
        texts.append(head_names)
        head = _head(head_view, head_names, run)
        if data.name_set:
            seen = seen_classes(name_view.items, head_names.items, names.classes)
            both = seen_classes(head_names.items, name_view.items, head.classes)
            head = replace(head, in_gallery=both)
    keys = [
        data.image_set,
        *([data.name_set] if data.name_set else [data.caption_set]),
    ]
    one_model = _one_model([store.info(key).attributes["space"] for key in keys if key])
    pairs = _other_pairs(store, run, image_view, texts) if data.pairs_from else None
    return Corpus(
        images, names, captions, head, prompts, seen, one_model, views, pair_names, layers, pairs,
    )  # fmt: skip


def _other_pairs(
    store: FeatureStore, run: Run, images: EmbeddingsView, texts: list[EmbeddingsView]
) -> Corpus:
    """Return the images and texts of another data set that the real pairs of a run are made of."""
    data, what = run.data, "Real pairs and what is scored"
    at, of_texts = (_pinned(store, key) for key in data.pairs_from)
    images.require_same_space(at, what=what)
    for view in texts[:1]:
        view.require_same_space(of_texts, what=what)
    role, (variants, templates) = "caption" if data.captioned else "name", data.pair_texts
    own = Run.of(
        suite="", task="retrieval", image_set=at.key, image_revision=at.revision_id,
        variants=variants, templates=templates, locales=data.locales, limit=run.protocol.limit,
        **{f"{role}_set": of_texts.key, f"{role}_revision": of_texts.revision_id},
    )  # fmt: skip
    return read_corpus(store, own)


def _layer(view: EmbeddingsView, images: Items) -> NDArray[np.float32]:
    """Return the rows of these images in another set, in their order."""
    own, places = join_ids(images.ids, view.items["item_id"])
    if len(own) < len(images):
        lost = np.setdiff1d(images.ids, images.ids[own])
        raise ProtocolError(
            f"{len(lost):,} images have no row in {view.key} (first: {str(lost[0])!r}). "
            "Layers are compared on the same images: extract them from the same manifest."
        )
    return view.take(places).numpy()


def needs_prompts(run: Run) -> bool:
    """Whether a run scores single prompts."""
    options = run.task_options
    return isinstance(options, ZeroShot | Generalised) and options.prompts != "mean"


def _one_model(spaces: list[dict[str, Any]]) -> bool:
    """Whether an image and a text space are one: the towers of one pair, or the same space."""
    if len(spaces) != 2:
        return False
    image, text = spaces
    pair = image.get("pair")
    return image == text or (pair is not None and pair == text.get("pair"))


def _names(
    view: EmbeddingsView, run: Run, images: Items, texts: tuple[tuple[str, ...], tuple[str, ...]]
) -> Items:
    variants, templates = texts
    names = _items(view.class_texts(variants=variants, templates=templates))
    if run.protocol.limit is not None:
        names = names.take(np.isin(names.classes, images.classes))
    lost = np.setdiff1d(images.classes, names.classes)
    if len(lost):
        raise ProtocolError(
            f"{len(lost):,} classes of {run.data.image_set} have no text in {run.data.name_set} "
            f"(first: {str(lost[0])!r}). Extract the class names again from the same manifest."
        )
    return names


def _pinned(store: FeatureStore, at: str) -> EmbeddingsView:
    """Return the view of a ``key@revision``."""
    key, _, revision = at.rpartition("@")
    return _view(store, key, revision)


def _view(store: FeatureStore, key: str, revision: str) -> EmbeddingsView:
    view = store.view(key)
    if view.revision_id != revision:
        raise ProtocolError(
            f"{key} is at revision {view.revision_id[:8]} in the store; the run was planned for "
            f"{revision[:8]}. Plan the suite again."
        )
    return view


def _items(view: EmbeddingsView, *, classes_needed: bool = True) -> Items:
    table = view.items
    ids = table["item_id"].to_numpy().astype(str)
    classes = ids
    missing = table["class_id"].null_count()
    if not missing:
        classes = table["class_id"].to_numpy().astype(str)
    elif classes_needed:
        raise ProtocolError(
            f"{missing:,} of {len(view):,} items of {view.key} have no class_id, which splits and "
            "zero-shot evaluation need. Give them one in the manifest."
        )
    parents = None if table["parent_id"].null_count() else table["parent_id"].to_numpy()
    kind = table["kind"][0] if table.height else ""
    part = {"image": "split", "class_name": "template_id"}.get(kind)
    return Items(
        ids=ids,
        classes=classes,
        rows=view.numpy(),
        parents=None if parents is None else parents.astype(str),
        parts=None if part is None else table[part].fill_null("").to_numpy().astype(str),
    )


def _captions(view: EmbeddingsView, run: Run, image_view: EmbeddingsView, images: Items) -> Items:
    if run.data.locales:
        view = view.where(variant=list(run.data.locales))
    if view.items["parent_id"].null_count():
        raise ProtocolError(
            f"Items of {view.key} have no parent_id: nothing says which image they describe."
        )
    pairs = image_view.pair_by("parent_id", view)
    table = pairs.y.items
    # A caption is of the class of its image, whatever its own row says.
    return Items(
        ids=table["item_id"].to_numpy().astype(str),
        classes=images.classes[np.searchsorted(image_view.rows, pairs.x.rows)],
        rows=pairs.y.numpy(),
        parents=table["parent_id"].to_numpy().astype(str),
    )


def _head(head: EmbeddingsView, names: EmbeddingsView, run: Run) -> Head:
    data = run.data
    texts = HeadTexts.of(
        head, names, asked=(data.variants, data.templates),
        variants=data.head_variants, templates=data.head_templates,
    )  # fmt: skip
    weight, bias = texts.pairs.x, texts.paired.x.bias
    return Head(
        weight=weight,
        bias=np.zeros(len(weight), np.float32) if bias is None else bias.astype(np.float32),
        texts=texts.pairs.y,
        groups=texts.pairs.row_groups,
        classes=texts.paired.x.items["class_id"].to_numpy().astype(str),
        asked=texts.pairs.asked,
    )


#: What is drawn by the seed of a run, each from numbers of its own: the split into classes, the
#: order in which its subsets grow, a control, validation folds, what a diagnostic samples or
#: permutes, and the order in which subsets of a head's classes grow.
Purpose = Literal["split", "subset", "control", "choice", "sample", "size"]
_STREAMS = {"split": 1, "subset": 2, "control": 3, "choice": 4, "sample": 5, "size": 7}


@dataclass(frozen=True, eq=False)
class Split:
    """Rows of the image table on each side.

    Attributes
    ----------
    train : int64 array
        Images of training classes, in the order in which subsets grow: K images are the
        first K, so that the subsets of one seed are nested.
    test : int64 array
        Images that are scored, in item order.
    n_left_out : int
        Images that would be of `train`, if the same picture were not scored under another id.
    """

    train: NDArray[np.int64]
    test: NDArray[np.int64]
    n_left_out: int = 0

    def apart(self, pictures: NDArray[np.int64]) -> Split:
        """Return the split without training images whose picture is scored, too.

        `pictures` says which picture each image is of. Without such images it is this split.
        """
        is_scored = np.isin(pictures[self.train], pictures[self.test])
        if not is_scored.any():
            return self
        return Split(self.train[~is_scored], self.test, int(is_scored.sum()))


def stream(purpose: Purpose, seed: int) -> np.random.Generator:
    """Return the generator that draws for one purpose by the seed of a run."""
    return np.random.default_rng([seed, _STREAMS[purpose]])


def held_out_split(classes: NDArray[Any], *, seed: int, train_fraction: float = 0.6) -> Split:
    """Split the images by their class.

    Parameters
    ----------
    classes : array of shape (n,)
        Class id of every image.
    seed : int
    train_fraction : float
        Share of the distinct classes whose images are for training.

    Raises
    ------
    ProtocolError
        If one side would have no class.
    """
    names, codes = np.unique(np.asarray(classes), return_inverse=True)
    n_train = round(train_fraction * len(names))
    if not 0 < n_train < len(names):
        raise ProtocolError(
            f"A split of {len(names):,} classes at {train_fraction:.0%} leaves one side empty. "
            "Use images of more classes (a larger `limit=`) or another fraction."
        )
    order = stream("split", seed).permutation(len(names))
    in_train = np.zeros(len(names), dtype=bool)
    in_train[order[:n_train]] = True
    train = np.flatnonzero(in_train[codes])
    train = train[stream("subset", seed).permutation(len(train))]
    return Split(train=train, test=np.flatnonzero(~in_train[codes]))


def manifest_split(splits: NDArray[Any], *, seed: int, train: Sequence[str]) -> Split:
    """Return the manifest's own split: ``test`` is scored, `train` may be trained on.

    The seed draws the order in which subsets of the training images grow.

    Raises
    ------
    ProtocolError
        If no image is of split ``test``, or `train` names it.
    """
    if "test" in train:
        raise ProtocolError("The split 'test' is scored: name others to train on (train_splits).")
    splits = np.asarray(splits)
    test = np.flatnonzero(splits == "test")
    if not len(test):
        known = listed(sorted({str(name) for name in splits} - {""}), shown=8)
        raise ProtocolError(
            f"No image is of split 'test' (splits: {known}). Give the manifest one, or use eval "
            "'held-out' or 'in-class'."
        )
    return Split(_order(np.isin(splits, list(train)), seed), test)


def order_of_pairs(splits: NDArray[Any], *, seed: int, train: Sequence[str]) -> NDArray[np.int64]:
    """Return the images of a data set that real pairs are made of, in the order of subsets.

    Those of the splits `train`; all where the manifest has no split.

    Raises
    ------
    ProtocolError
        If none is of these splits.
    """
    known = sorted({str(name) for name in splits} - {""})
    order = _order(np.isin(splits, list(train) if known else [""]), seed)
    if not len(order):
        raise ProtocolError(
            f"No image of the real pairs' data set is of the splits {listed(train)} (it has "
            f"{listed(known, shown=8)}). Name some of these in train_splits."
        )
    return order


def _order(of_pool: NDArray[np.bool_], seed: int) -> NDArray[np.int64]:
    """Return the rows of a pool in the order of a seed, in which subsets grow."""
    pool = np.flatnonzero(of_pool)
    return pool[stream("subset", seed).permutation(len(pool))]


def in_class_split(classes: NDArray[Any], *, seed: int, train_fraction: float = 0.6) -> Split:
    """Split the images of every class: both sides know all classes that have two images.

    A class of one image is for training only.
    """
    classes = np.asarray(classes)
    order = stream("split", seed).permutation(len(classes))
    _, codes, counts = np.unique(classes, return_inverse=True, return_counts=True)
    wanted = np.clip(np.round(train_fraction * counts).astype(np.int64), 1, None)
    wanted = np.where(counts > 1, np.minimum(wanted, counts - 1), wanted)
    chosen = order[place_in_class(codes[order]) < wanted[codes[order]]]
    in_train = np.zeros(len(classes), dtype=bool)
    in_train[chosen] = True
    return Split(train=chosen, test=np.flatnonzero(~in_train))


#: Evaluations in which every seed splits the images anew, and scores others.
FRESH_SPLITS = {"held-out": held_out_split, "in-class": in_class_split}


def first_per_class(
    order: NDArray[np.int64], classes: NDArray[Any], n: int, *, after: int = 0
) -> NDArray[np.int64]:
    """Return `n` images of every class, the first in `order` that follow its first `after`.

    Fewer of a class that has no more. For one order, the shots of few are among those of many.
    """
    place = place_in_class(classes[order])
    return order[(place >= after) & (place < after + n)]


def first_pairs(split: Split, n_pairs: int | Literal["all"]) -> NDArray[np.int64]:
    """Return the training images of a run: the first `n_pairs` of the seed's order.

    Raises
    ------
    ProtocolError
        If there are fewer.
    """
    if n_pairs == "all":
        return split.train
    if n_pairs > len(split.train):
        raise ProtocolError(
            f"The run asks for {n_pairs:,} real pairs; its split has {len(split.train):,} "
            'training images. Ask for fewer, or for "all".'
        )
    return split.train[:n_pairs]
