"""A fit as one asks for it, on sets of a store.

Everything below this file works on arrays. What is read is joined by id, checked to lie in the
spaces it claims, and named in the alignment's facts, so that it can refuse other spaces later.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt
import polars as pl

from featstore.errors import MisalignedItemsError, lookup
from featstore.matrices import Rows, matrix, vector
from featstore.parallel import Workers
from featstore.prompts import BARE, DEFINITION
from featstore.store.pairs import EmbeddingsView, PairedView
from featstore.store.store import FeatureStore, open_store
from featstore.store.tables import join_ids
from fitters.alignment import Alignment, OnStage
from fitters.alignment import fit as fit_arrays
from fitters.errors import SettingError, ZeroRowError, check_names
from fitters.from_store import Inventory, moment_sources, sets_of_fit
from fitters.methods import method_named, needs_rows, registered
from fitters.pairs import Pairs, Prototypes
from fitters.prototypes import CONTROLS
from fitters.select.left_out import choose_on_prototypes
from fitters.settings import (
    CHOSEN,
    SPLIT,
    TRAINING,
    FitConfig,
    FitRequest,
    FitSettings,
    OnEpoch,
)
from fitters.solvers import most_informative
from fitters.sources import SideTransform, Sources, prepare

KINDS = {
    "x": ("image",), "y": ("caption", "class_name"), "head": ("head_weight",),
    "names": ("class_name",),
}  # fmt: skip
"""The kinds of set that each option takes."""


_KEYWORDS = {"x": "images", "y": "captions", "names": "head_names"}


def check_kinds(request: FitRequest, *, raw: bool) -> None:
    """Raise SettingError if an option names a set of another kind than it takes."""
    for name, kinds in KINDS.items():
        given = getattr(request, name)
        # Text-to-Concept pairs images with the same images, seen by another encoder.
        expected = ("image",) if raw and name == "y" else kinds
        # A part of a key may be anything.
        found = (given or "").split("/")[1:2] if (given or "").count("/") == 2 else []
        if not set(found) <= set(expected):
            raise SettingError(
                f"`{_KEYWORDS.get(name, name)}=` takes a set of kind "
                f"{' or '.join(expected)}, such as dataset/{expected[0]}/encoder; {given} is of "
                f"kind {found[0]}."
            )


def fit(
    method: Any,
    data: Any = None,
    texts: Rows | None = None,
    *,
    prototypes: Prototypes | None = None,
    groups: Any = None,
    bias: Rows | None = None,
    seed: int = 0,
    **settings: Unpack[FitSettings],
) -> Alignment:
    """Fit an alignment on arrays, or on the sets of a store.

    Parameters
    ----------
    method : str, FitConfig, class, function or aligner
        As of `headstock.evaluate`.
    data : Rows of shape (n, p), Pairs, PairedView, tuple, store, or None
        Raw image embeddings; with `texts`, real pairs, and without, unlabelled images whose mean
        centres the images. Or the pairs themselves, (images, texts) among them; or a store, open or
        by its place. None: `prototypes` alone. Whatever their dtype, a method gets rows that were
        prepared in float64.
    texts : Rows of shape (n, q), optional
        Raw text embeddings, row i of image i.
    prototypes : Pairs, PairedView or tuple, optional
        Rows of a classification head and the texts of its classes, raw, and their names: the
        `groups` of pairs, or (rows, texts, names).
    groups : array_like of shape (n,), optional
        Images or descriptions of the real pairs, which no choice may split.
    bias : array_like of shape (c,), optional
        The head's bias, for methods that read it.
    seed : int
        Draws folds, subsets and trainings.
    **settings
        Those of `fitters.FitConfig`: penalty, mix, … and of a training: epochs, … Of a store also
        the sets, by as much of their keys as fits one (images, captions, names, head, head_names,
        or ``dataset`` and ``label_set``), and n_pairs, split, source, variants, … Sets that are
        left out are those that ``headstock fit`` takes; `fitters.from_store.sets_of_fit` says
        which. ``n_pairs`` is a number or "all". The fact ``unused_pairs`` says which real pairs a
        fit without them could have had.

    Returns
    -------
    Alignment
        Fitted: `project_x` and `project_y` take raw embeddings.

    Raises
    ------
    FeatstoreError
        What `fitters.alignment.fit` and `fit_from_store` raise.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> images = rng.standard_normal((50, 8))
    >>> alignment = fit("ridge", images, images[:, :4], penalty=0.1)
    >>> alignment.project_x(images).shape
    (50, 8)
    """
    config = method if isinstance(method, FitConfig) else FitConfig(registered(method))
    if not isinstance(seed, int | np.integer) or seed < 0:
        raise SettingError(f"seed must be a whole number from 0; got {seed!r}.")
    given = dict[str, Any](settings)
    if isinstance(data, FeatureStore | str | Path):
        if any(one is not None for one in (texts, prototypes, groups, bias)):
            raise SettingError(
                "A store has texts, prototypes, groups and bias of its own. Name its sets (images, "
                "captions, head, head_names), or pass arrays without a store."
            )
        store = data if isinstance(data, FeatureStore) else open_store(data)
        return fit_from_store(store, _request(store, config, given, seed))
    real, image_mean = Pairs.given(data, texts, groups), None
    if real is None and data is not None:
        image_mean = SideTransform.fit([matrix(data, "data")], label="images").mean
    head = None if prototypes is None else Pairs.of(prototypes, "prototypes")
    return fit_arrays(
        config, prototypes=head, real=real, image_mean=image_mean,
        bias=None if bias is None else vector(bias, "bias"), rng=np.random.default_rng(seed),
        **given,
    )  # fmt: skip


def _request(
    store: FeatureStore, config: FitConfig, given: dict[str, Any], seed: int
) -> FitRequest:
    """Return what ``headstock fit`` would be asked for."""
    named = {role: given.pop(role, None) for role in ROLES}
    dataset, label_set = given.pop("dataset", None), given.pop("label_set", None)
    if dataset and not named["images"]:
        named["images"] = f"{dataset}/image"
    if label_set and not named["head"]:
        named["head"] = f"{label_set}/head_weight"
    n_pairs = given.pop("n_pairs", None)
    sets = {ROLES[role]: key for role, key in sets_of_fit(store, named, n_pairs).items()}
    if n_pairs not in (None, 0, "all"):
        given["n_pairs"] = n_pairs
    trained = {name: given.pop(name) for name in TRAINING if name in given}
    if trained:
        given["training"] = replace(given.get("training", config.training), **trained)
    check_names(
        given, [own.name for own in fields(FitRequest)],
        what="setting", error=SettingError, where="of a fit"
    )  # fmt: skip
    return FitRequest(**vars(config) | {"seed": seed} | sets | given)


#: The set of each role -> what a request calls it; of captions and names, captions are the texts.
ROLES = {
    "images": "x", "names": "y", "captions": "y", "head": "head", "head_names": "names",
}  # fmt: skip


def fit_from_store(
    store: FeatureStore,
    request: FitRequest,
    *,
    on_epoch: OnEpoch | None = None,
    on_stage: OnStage | None = None,
    workers: Workers | None = None,
) -> Alignment:
    """Fit an alignment from the sets that `request` names.

    Parameters
    ----------
    store : FeatureStore
    request : FitRequest
    on_epoch : callable, optional
        Of the trained methods; see `fitters.settings.TrainingOptions`.
    on_stage : callable, optional
        Is given what is done next: "reading pairs", "choosing penalty and mix", "fitting".
    workers : Workers, optional
        Accumulate the moments of real pairs, in fits that need no more of them.

    Raises
    ------
    SettingError
        If the request contradicts itself, or asks for more images than the split has; or for Ray,
        where the fit looks at the rows.
    EngineError
        If Ray is asked for and not installed, or gave a worker up.
    featstore.errors.MisalignedItemsError
        If the head belongs to another model than the images, or texts to different encoders.
    featstore.errors.EmptySelectionError, featstore.errors.UnknownSetError,
    featstore.errors.IncompleteEmbeddingsError
        If a set or a split is missing, or its extraction has not finished.
    """
    check_request(request)
    request = replace(request, training=replace(request.training, on_epoch=on_epoch))
    subset_rng, choice_rng, control_rng = np.random.default_rng(request.seed).spawn(3)
    if on_stage is not None:
        on_stage("reading pairs")
    read = _read(store, request, subset_rng, control_rng)
    with _zero_rows_by_name(read.used):
        data, facts = _prepared(request, read, workers)
        alignment = fit_arrays(request, data, rng=choice_rng, on_stage=on_stage)
    alignment.facts |= facts
    if alignment.x.mean is not None:
        alignment.facts["image_centre"] = read.centre
    images, texts = read.pool, read.texts
    if read.head_texts is not None:
        alignment.facts["head_texts"] = read.head_texts.facts
    if request.y is None and method_named(request.method).fitted_on != "head":
        alignment.facts |= _unused_pairs(store, request, texts.space_id)
    alignment.facts.update(
        {
            "x_space_id": images.space_id,
            "y_space_id": texts.space_id,
            "x_encoder": images.encoder,
            "y_encoder": texts.encoder,
            "request": request.facts,
            "fitted_on": {
                role: {"set": view.key, "rows": len(view), "fingerprint": view.fingerprint}
                for role, view in read.used.items()
            },
        }
    )
    return alignment


def _unused_pairs(store: FeatureStore, request: FitRequest, space_id: str) -> dict[str, Any]:
    """Return, as a fact, the real pairs that a fit on a head alone could have beside it."""
    images = store.view(request.x)
    pool = images.items.filter(pl.col("split") == request.split)
    if images.items["split"].null_count() == len(images):
        pool = images.items
    inventory = Inventory(store)
    for kind, owner, owned in (
        ("caption", "item_id", "parent_id"),
        ("class_name", "class_id", "class_id"),
    ):
        texts = inventory.in_space(kind, space_id, images.key.split("/")[0])
        if texts is None or owner not in pool.columns:
            continue
        ids = store.view(str(texts.key)).items[owned]
        # A fit takes all images of a split, or draws from all of them.
        if not pool.is_empty() and pool[owner].is_in(ids.implode()).all():
            return {"unused_pairs": {"texts": str(texts.key), "images": pool.height}}
    return {}


def suggest(store: FeatureStore, request: FitRequest, n: int) -> list[dict[str, Any]]:
    """Return the n images whose captions would help a fit most, best first; nothing is fitted.

    Parameters
    ----------
    store : FeatureStore
    request : FitRequest
        Its head and real pairs are what is known; its method and settings do not matter. The
        candidates are the images of its split that are in no real pair.
    n : int

    Returns
    -------
    list of dict
        item_id; left, the share of the error expected without more pairs that remains with this
        image and those above it; cosine, the largest with a row of the head or of a real pair.

    Raises
    ------
    SettingError
        If n is not from 1 to the number of candidates; and as `fit_from_store`.
    """
    check_request(request)
    subset_rng, _, control_rng = np.random.default_rng(request.seed).spawn(3)  # as a fit draws
    read = _read(store, request, subset_rng, control_rng)
    rows = read.pool.numpy()
    data = prepare(read.prototypes, read.real, SideTransform.fit([rows], label="images").mean)
    ids, paired = read.pool.items["item_id"], read.paired
    free = np.arange(len(ids))
    if paired is not None:
        free = np.flatnonzero(~ids.is_in(paired.x.items["item_id"].to_list()).to_numpy())
    images, known = data.image.apply(rows)[free], np.vstack([one.x for one in data.given])
    chosen, left = most_informative(images, known, n)
    most = (images[chosen] @ known.T).max(axis=1)
    return [
        {"item_id": ids[int(free[row])], "left": float(share), "cosine": float(cosine)}
        for row, share, cosine in zip(chosen, left, most, strict=True)
    ]


def check_request(request: FitRequest) -> None:
    """Raise SettingError if a request contradicts itself; no store is read."""
    if bool(request.head) != bool(request.names):
        raise SettingError(
            "A head needs the names of its classes: give `head=` and `head_names=`, or neither."
        )
    if not request.head and request.y is None:
        raise SettingError(
            "There is nothing to fit on: give `head=` and `head_names=`, `captions=` for real "
            "pairs, or both."
        )
    spec = method_named(request.method)
    raw = spec.rows.texts == "raw"
    if raw and request.head:
        raise SettingError(
            f"{request.method} is fitted on images that both encoders have seen: leave `head=` out."
        )
    check_kinds(request, raw=raw)
    # Of both sources, a method that reads a head takes the head alone.
    real = request.y is not None and spec.fitted_on != "head"
    spec.check(request, prototypes=bool(request.head), real=real)


@dataclass(frozen=True, eq=False)
class _Read:
    """The views that a request names, joined.

    Attributes
    ----------
    used : dict of str to EmbeddingsView
        By role: images, captions, head, names.
    pool : EmbeddingsView
        Unlabelled images.
    centre : str
        What the mean of the images is of, for the facts of the fit.
    texts : EmbeddingsView
        Whose space the texts lie in.
    paired : PairedView, optional
        The real pairs.
    prototypes : Pairs, optional
    bias : ndarray, optional
        Of the head.
    head_texts : HeadTexts, optional
        What the head is fitted on.
    """

    used: dict[str, EmbeddingsView]
    pool: EmbeddingsView
    centre: str
    texts: EmbeddingsView
    paired: PairedView[EmbeddingsView] | None
    prototypes: Pairs | None
    bias: npt.NDArray[np.float32] | None
    head_texts: HeadTexts | None = None

    @property
    def real(self) -> Pairs | None:
        """The real pairs in memory."""
        return None if self.paired is None else Pairs.of(self.paired)


def _read(
    store: FeatureStore,
    request: FitRequest,
    subset_rng: np.random.Generator,
    control_rng: np.random.Generator,
) -> _Read:
    """Return what a request reads."""
    spec = method_named(request.method)
    images = store.view(request.x)
    pool, centre = _pool(images, request)
    used: dict[str, EmbeddingsView] = {"images": pool}
    paired: PairedView[EmbeddingsView] | None = None
    prototypes = bias = None
    texts: EmbeddingsView | None = None
    if request.y is not None:
        raw = spec.rows.texts == "raw"
        paired = _real_pairs(store, request, pool, subset_rng, raw=raw)
        texts = paired.y
        used["captions"] = texts
        if len(paired) < 2 and not request.head and not raw:
            raise SettingError(
                "One pair is its own mean, and has no direction about it. Give more, or a head."
            )
    of_head = None
    if request.head and request.names is not None:
        head = store.view(request.head)
        images.require_same_space(head, what="A head and the images it is used on")
        of_head = HeadTexts.of(
            head, store.view(request.names), asked=(request.variants, request.templates),
            variants=request.head_variants, templates=request.head_templates,
            rng=np.random.default_rng(request.seed),
        )  # fmt: skip
        prototypes, names = of_head.pairs, of_head.paired.y
        bias = of_head.paired.x.bias
        if texts is not None:
            texts.require_same_space(names, what="Captions and class names")
        texts = names
        used |= {"head": of_head.paired.x, "names": names}
        if request.source != "head":
            control = lookup(CONTROLS, request.source, what="control", error=SettingError)
            prototypes = control(prototypes, control_rng)
    assert texts is not None
    return _Read(used, pool, centre, texts, paired, prototypes, bias, of_head)


def _pool(images: EmbeddingsView, request: FitRequest) -> tuple[EmbeddingsView, str]:
    """Return the images of the split, and what their mean is of.

    A fit on a head alone wants the images for their mean only: where none is in the default split,
    it takes all that are not in ``test``, or all, and the facts say so. So does a fit of images
    that are in no split at all.
    """
    splits = images.items["split"]
    unsplit = request.y is None or splits.null_count() == len(splits)
    if unsplit and request.split == SPLIT and SPLIT not in splits:
        test, why = splits.to_numpy() == "test", f"as none is in the split {SPLIT}"
        if test.all() or not test.any():
            return images, f"all unlabelled images, {why}"
        return images.take(np.flatnonzero(~test)), f"unlabelled images that are not in test, {why}"
    return images.where(split=request.split), f"unlabelled {request.split} images"


def _prepared(
    request: FitRequest, read: _Read, workers: Workers | None
) -> tuple[Sources[Any], dict[str, Any]]:
    """Return what is fitted on, moments where they are enough, and what is recorded of them."""
    spec, pool, paired = method_named(request.method), read.pool, read.paired
    how = spec.rows.centred(request.centre)
    wide = how.head_bias and read.bias is not None
    by_rows = needs_rows(request, mixed=read.prototypes is not None) or wide
    if workers is not None and workers.elsewhere and (paired is None or by_rows):
        raise SettingError(
            "Workers accumulate the moments of real pairs, and this fit "
            f"{'has no real pair' if paired is None else 'looks at their rows'}. Leave `engine=` "
            "and `jobs=` out; or give `captions=` and every setting, or criterion=error."
        )
    if paired is not None and not by_rows:
        # Of fewer pairs than columns, what float32 rounds is as large as what a small penalty adds.
        if len(paired) <= max(paired.x.dim, paired.y.dim):
            request = replace(request, moments="float64")
        moments = moment_sources(
            request, pool, paired, read.prototypes, raw=how.texts == "raw", workers=workers
        )
        return moments, {"moments": {"precision": request.moments}}
    mean = None
    if how.images == "centred" or wide:
        mean = SideTransform.fit(pool.batches(reuse=True), label="images", homogeneous=wide).mean
    return spec.sources(
        request, prototypes=read.prototypes, real=read.real, image_mean=mean, bias=read.bias
    ), {}


@contextlib.contextmanager
def _zero_rows_by_name(used: Mapping[str, EmbeddingsView]) -> Iterator[None]:
    """Name the items in an error about rows without direction: a row number says nothing here."""
    try:
        yield
    except ZeroRowError as err:
        for view in used.values():
            zero = np.concatenate([~batch.any(axis=1) for batch in view.batches(reuse=True)])
            bad = np.unique(view.items["item_id"].filter(zero).to_numpy())
            if len(bad):
                listed = ", ".join(map(repr, bad[:5].tolist())) + (", …" if len(bad) > 5 else "")
                raise ZeroRowError(
                    f"{len(bad):,} items of {view.key} have an embedding of zeros, which has no "
                    f"direction: {listed}. Extract them again, or leave them out of the manifest."
                ) from err
        raise


@dataclass(frozen=True, eq=False)
class HeadTexts:
    """The rows of a head, each with the text of its class.

    Attributes
    ----------
    paired : PairedView
        Rows of the head, and the texts that are fitted on.
    pairs : Pairs
        The same as arrays. `groups` are the names: classes that share one must be left out
        together. `asked` are the texts in the form in which names are asked for, if another.
    variants : tuple of str
        Of the texts that are fitted on.
    scores : dict of str to float
        Criterion of every text that there was to choose from, by its variants.
    """

    paired: PairedView[EmbeddingsView]
    pairs: Pairs
    variants: tuple[str, ...]
    scores: dict[str, float]

    @property
    def facts(self) -> dict[str, Any]:
        """What an alignment records of it."""
        return {"variants": list(self.variants), **({"scores": self.scores} if self.scores else {})}

    @classmethod
    def of(
        cls,
        head: EmbeddingsView,
        names: EmbeddingsView,
        *,
        asked: tuple[Sequence[str], Sequence[str]],
        variants: Sequence[str] = (),
        templates: Sequence[str] = (),
        rng: np.random.Generator | None = None,
    ) -> HeadTexts:
        """Pair a head with the texts of its classes.

        Parameters
        ----------
        head, names : EmbeddingsView
            Of kinds head_weight and class_name.
        asked : tuple of variants and templates
            The form in which names are asked for, where `names` has it.
        variants : sequence of str
            None: those of `asked`, and the definition where there is one. ``auto``: of names,
            lemmas and definitions, alone and each with the definition, those whose left-out
            classes, asked for by their names, lie nearest to their rows of the head
            (`fitters.select.left_out.choose_on_prototypes`). No image takes part.
        templates : sequence of str
            None: those of `asked`.
        rng : numpy.random.Generator, optional
            Draws landmarks for that choice, where a head is large.

        Raises
        ------
        featstore.errors.MisalignedItemsError
            If a class of the head has no name among `names`.
        featstore.errors.EmptySelectionError
            If `names` has none of a variant or a template.
        """
        there, under = (set(names.items[c].drop_nulls()) for c in ("variant", "template_id"))
        templates = tuple(templates) or tuple(asked[1])
        form = None
        if set(asked[0]) <= there and set(asked[1]) <= under:
            form = cls._paired(head, names, *asked)
        if tuple(variants) == (CHOSEN,):
            alone = [(name,) for name in ("name", "lemmas", DEFINITION) if name in there]
            both = [(*one, DEFINITION) for one in alone if one != (DEFINITION,)]
            tried = [cls._made(head, names, form, own, templates)
                     for own in (*alone, *(both if DEFINITION in there else ()))]  # fmt: skip
            scores = {",".join(text.variants): text._left_out(rng) for text in tried}
            best = max(tried, key=lambda text: scores[",".join(text.variants)])
            return replace(best, scores=scores)
        if not variants:
            more = DEFINITION in there and DEFINITION not in asked[0]
            variants = (*asked[0], DEFINITION) if more else tuple(asked[0])
        return cls._made(head, names, form, tuple(variants), templates)

    @classmethod
    def _made(
        cls,
        head: EmbeddingsView,
        names: EmbeddingsView,
        form: PairedView[EmbeddingsView] | None,
        variants: tuple[str, ...],
        templates: Sequence[str],
    ) -> HeadTexts:
        if variants == (DEFINITION,):
            templates = (BARE,)
        paired = cls._paired(head, names, variants, templates)
        x, y = paired.numpy()
        called = paired if form is None else form
        groups = called.y.items["text"].str.to_lowercase().to_numpy().astype(str)
        asked = None if form is None else form.numpy()[1]
        if asked is not None and np.array_equal(asked, y):
            asked = None
        return cls(paired, Pairs(x, y, groups, asked=asked), variants, {})

    @staticmethod
    def _paired(
        head: EmbeddingsView,
        names: EmbeddingsView,
        variants: Sequence[str],
        templates: Sequence[str],
    ) -> PairedView[EmbeddingsView]:
        texts = names.class_texts(variants=variants, templates=templates)
        paired = head.pair_by("class_id", texts)
        if paired.missing_x:
            raise MisalignedItemsError(
                f"{len(paired.missing_x):,} rows of {head.key} have no class name in {names.key} "
                f"(first: {paired.missing_x[0]!r}). Extract the names of the head's own label set."
            )
        return paired

    def _left_out(self, rng: np.random.Generator | None) -> float:
        """Return the best mean cosine of left-out predictions, by kernel ridge."""
        prepared = prepare(self.pairs, None, None).prototypes
        assert prepared is not None
        return choose_on_prototypes(prepared, rng=rng or np.random.default_rng(0)).score


def _real_pairs(
    store: FeatureStore,
    request: FitRequest,
    pool: EmbeddingsView,
    rng: np.random.Generator,
    *,
    raw: bool,
) -> PairedView[EmbeddingsView]:
    """Return K images with their texts, or with themselves as another encoder sees them.

    Class names are the texts of images without captions: one text a class, for all its images.
    """
    others = store.view(str(request.y))
    by_class = store.info(str(request.y)).key.kind == "class_name"
    if request.n_pairs is not None:
        if request.n_pairs > len(pool):
            raise SettingError(
                f"n_pairs is {request.n_pairs:,}; {len(pool):,} images of {pool.key} can be "
                "paired. Ask for fewer, or leave n_pairs out."
            )
        pool = pool.take(np.sort(rng.permutation(len(pool))[: request.n_pairs]))
    if by_class:
        paired = pool.pair_by(
            "class_id", others.class_texts(variants=request.variants, templates=request.templates)
        )
    else:
        paired = pair_images(pool, others) if raw else pool.pair_by("parent_id", others)
    if paired.missing_x:
        what = "counterpart" if raw else "class name" if by_class else "caption"
        raise MisalignedItemsError(
            f"{len(paired.missing_x):,} of {len(pool):,} images of {pool.key} have no {what} in "
            f"{others.key} (first: {paired.missing_x[0]!r}). Extract them again."
        )
    return paired


def images_beside(store: FeatureStore, view: EmbeddingsView, space_id: str) -> EmbeddingsView:
    """Return the images of a view's dataset in a space.

    Raises
    ------
    SettingError
        If the store has none, or several.
    """
    dataset = view.key.split("/")[0]
    found = [info for info in store.sets() if info.commit.space_id == space_id]
    images = [info for info in found if (info.key.dataset, info.key.kind) == (dataset, "image")]
    if len(images) != 1:
        have = ", ".join(str(info.key) for info in images) or "none"
        encoder = found[0].encoder if found else "their encoder"
        raise SettingError(
            f"One set of images of {dataset} in space {space_id[:8]} ({encoder}) is needed; "
            f"{store.address} has {have}. Extract them, or leave the captions of that dataset out."
        )
    return store.view(str(images[0].key))


def pair_images(x: EmbeddingsView, y: EmbeddingsView) -> PairedView[EmbeddingsView]:
    """Return the images of x with the same images in y, by item_id."""
    ids = x.items["item_id"]
    x_rows, y_rows = join_ids(ids, y.items["item_id"])
    missing = tuple(np.delete(ids.to_numpy(), x_rows).tolist())
    return PairedView(x.take(x_rows), y.take(y_rows), np.ones(len(x_rows)), "item_id", missing)
