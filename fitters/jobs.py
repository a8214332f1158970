"""A fit as one asks for it, on sets of a store.

Everything below this file works on arrays. What is read is joined by id, checked to lie in the
spaces it claims, and named in the alignment's facts, so that it can refuse other spaces later.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from featstore.errors import MisalignedItemsError, lookup
from featstore.parallel import Workers
from featstore.store.store import FeatureStore
from featstore.store.view import EmbeddingsView, PairedView
from fitters.alignment import Alignment
from fitters.choice import Criterion, Open
from fitters.errors import SettingError, ZeroRowError
from fitters.from_store import MomentsRequest, moment_sources, pairs_of, training_sources
from fitters.methods import TRAINING, Method, method_named
from fitters.moments.accumulation import Precision
from fitters.moments.transform import SideTransform
from fitters.pairs import Pairs
from fitters.prototypes import CONTROLS, Duplicates, covariance_patterns, resolve_duplicates
from fitters.recipe import TrainingOptions, fit_alignment, fit_from_moments, fit_trained, needs_rows
from fitters.select.ranking import Metric
from fitters.trained.base import OnEpoch

#: Variants and templates of class names, unless others are asked for.
VARIANTS, TEMPLATES = ("name",), ("none", "photo")


@dataclass(frozen=True)
class FitRequest:
    """What ``fitters fit`` is asked for.

    Attributes
    ----------
    method : str
        One of `fitters.recipe.METHODS`.
    x : str
        Image set: its space is the one that is aligned, and the unlabelled images of `split`
        give the mean that images are centred by.
    y, split, n_pairs : str, str, int or None
        Caption set for real pairs, the split they come from, and how many images (all if None).
        Without `y` no real pair is used.
    head, names : str
        Head set and class-name set for prototypes; both or neither.
    source : str
        ``head``, or a control: ``random``, ``random-cov``, ``shuffled``.
    variants, templates : sequence of str
        Which class texts are averaged.
    duplicates : str
        What is done with classes that share a name; see `fitters.prototypes.DUPLICATES`.
    rows : str
        ``weights``: the head's rows; ``patterns``: Cov(f) w, with the covariance of the unlabelled
        images; ``bias``: [w, b], and [f, 1] for images.
    penalty, mix, gamma : float or "auto"
    n_components : int, "auto" or None
    rank, scale, top_k, power, legacy
        Settings of single methods; see `fitters.recipe.fit_alignment`.
    criterion : str
        How settings are chosen: ``cosine``, ``rank`` or ``error``; see
        `fitters.recipe.fit_alignment`.
    validation : str
        What cross-validation over real pairs scores by; see `fitters.recipe.fit_alignment`.
    precision : str
        Of the products, where a fit on real pairs is made from their moments.
    cached : bool
        Whether such moments may be taken from the user's cache, and are kept there.
    epochs, batch_size, learning_rate, share, sequential, patience
        Of the trained methods; see `fitters.recipe.TrainingOptions`.
    centred : bool or None
        Whether rows are centred; None: as the method's source has it.
    seed : int
        Draws the subset of images, the folds, the control and what a training draws.
    """

    method: str
    x: str
    y: str | None = None
    split: str = "train"
    n_pairs: int | None = None
    head: str | None = None
    names: str | None = None
    source: str = "head"
    variants: Sequence[str] = VARIANTS
    templates: Sequence[str] = TEMPLATES
    duplicates: Duplicates = "keep"
    rows: Literal["weights", "patterns", "bias"] = "weights"
    penalty: float | Literal["auto"] = "auto"
    mix: float | Literal["auto"] = "auto"
    gamma: float | Literal["auto"] = "auto"
    n_components: int | Literal["auto"] | None = "auto"
    rank: int | None = None
    scale: bool = False
    top_k: int | Literal["auto"] | None = None
    power: float | Literal["auto"] | None = None
    legacy: bool = False
    criterion: Criterion = "cosine"
    validation: Metric = "mrr"
    precision: Precision = "float32"
    cached: bool = True
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    share: float | None = None
    sequential: bool = False
    patience: int | None = None
    centred: bool | None = None
    seed: int = 0

    def training(self, checkpoint: Path | None, on_epoch: OnEpoch | None) -> TrainingOptions:
        """Return the options of a training."""
        same = {name: getattr(self, name) for name in TRAINING}
        return TrainingOptions(**same, checkpoint=checkpoint, on_epoch=on_epoch)


KINDS = {"x": "image", "y": "caption", "head": "head_weight", "names": "class_name"}
"""The kind of set that each option takes."""


def check_kinds(request: FitRequest, *, raw: bool) -> None:
    """Raise SettingError if an option names a set of another kind than it takes."""
    for option, kind in KINDS.items():
        key = getattr(request, option)
        # Text-to-Concept pairs images with the same images, seen by another encoder.
        expected = "image" if raw and option == "y" else kind
        found = None if key is None else [*key.split("/"), "", ""][1]
        if found not in (None, "", expected):
            msg = (
                f"--{option} takes a set of kind {expected}, such as dataset/{expected}/encoder; "
                f"{key} is of kind {found}."
            )
            raise SettingError(msg)


def fit_from_store(
    store: FeatureStore,
    request: FitRequest,
    *,
    checkpoint: Path | None = None,
    on_epoch: OnEpoch | None = None,
    workers: Workers | None = None,
) -> Alignment:
    """Fit an alignment from the sets that `request` names.

    `checkpoint` and `on_epoch` are of the trained methods; see `TrainingOptions`. `workers` are of
    fits that need the moments of real pairs and no more: who accumulates them.

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
    if (request.head is None) != (request.names is None):
        msg = "A head needs the names of its classes: give --head and --names, or neither."
        raise SettingError(msg)
    if request.head is None and request.y is None:
        msg = "There is nothing to fit on: give --head and --names, --y for real pairs, or both."
        raise SettingError(msg)
    if request.n_pairs is not None and request.n_pairs < 1:
        msg = f"n_pairs counts images and must be at least 1. Got {request.n_pairs}."
        raise SettingError(msg)
    spec = method_named(request.method)
    if spec.raw and request.head is not None:
        msg = (
            f"{request.method} is fitted on images that both encoders have seen: leave --head out."
        )
        raise SettingError(msg)
    check_kinds(request, raw=spec.raw)
    subset_rng, choice_rng, control_rng = np.random.default_rng(request.seed).spawn(3)
    images = store.view(request.x)
    pool = images.where(split=request.split)
    used: dict[str, EmbeddingsView] = {"images": pool}
    paired: PairedView[EmbeddingsView] | None = None
    prototypes = bias = None
    texts: EmbeddingsView | None = None
    if request.y is not None:
        paired = _real_pairs(store, request, pool, subset_rng, raw=spec.raw)
        texts = paired.y
        used["captions"] = texts
        if len(paired) < 2 and request.head is None and not spec.raw:
            msg = "One pair is its own mean, and has no direction about it. Give more, or a head."
            raise SettingError(msg)
    if request.head is not None and request.names is not None:
        prototypes, bias, names, head = _prototypes(store, request, images, pool, spec)
        if texts is not None:
            texts.require_same_space(names, what="Captions and class names")
        texts = names
        used |= {"head": head, "names": names}
        if request.source != "head":
            prototypes = _control(request.source)(prototypes, control_rng)
    assert texts is not None
    options = request.training(checkpoint, on_epoch)
    with _zero_rows_by_name(used):
        alignment = _fit(
            request, spec, used, pool, paired, prototypes, bias, options, choice_rng, workers
        )
    if alignment.x.mean is not None:
        alignment.facts["image_centre"] = f"unlabelled {request.split} images"
    asked = {key: list(value) if isinstance(value, tuple) else value
             for key, value in request.__dict__.items() if key != "cached"}  # fmt: skip
    alignment.facts.update(
        {
            "x_space_id": images.space_id,
            "y_space_id": texts.space_id,
            "x_encoder": images.encoder,
            "y_encoder": texts.encoder,
            "request": asked,
            "fitted_on": {
                role: {"set": view.key, "rows": len(view), "fingerprint": view.fingerprint}
                for role, view in used.items()
            },
        }
    )
    return alignment


def _fit(
    request: FitRequest,
    spec: Method,
    used: Mapping[str, EmbeddingsView],
    pool: EmbeddingsView,
    paired: PairedView[EmbeddingsView] | None,
    prototypes: Pairs | None,
    bias: npt.NDArray[np.float32] | None,
    options: TrainingOptions,
    rng: np.random.Generator,
    workers: Workers | None,
) -> Alignment:
    """Fit from moments where they are enough, else from rows."""
    open_ = Open(request.penalty, request.mix, request.n_components)
    mixed = prototypes is not None
    wide = request.rows == "bias" or (spec.head_bias and bias is not None)
    by_rows = needs_rows(spec, open_, request.criterion, mixed=mixed) or wide
    if workers is not None and workers.elsewhere and (paired is None or by_rows):
        msg = (
            "Ray accumulates the moments of real pairs, and this fit "
            f"{'has no real pair' if paired is None else 'looks at their rows'}. Leave it out; or "
            "give --y and every setting, or --criterion error."
        )
        raise SettingError(msg)
    if paired is not None and not by_rows:
        wanted = MomentsRequest(
            pool,
            paired,
            prototypes,
            _name_facts(request, used),
            request.precision,
            request.seed,
            spec.raw,
        )
        sources, from_cache = moment_sources(wanted, cached=request.cached, workers=workers)
        alignment = fit_from_moments(
            request.method,
            sources,
            penalty=request.penalty,
            mix=request.mix,
            n_components=None if request.n_components == "auto" else request.n_components,
            rank=request.rank,
            scale=request.scale,
            legacy=request.legacy,
        )
        alignment.facts["moments"] = {"precision": request.precision, "from_cache": from_cache}
    elif paired is not None and spec.fitted_on == "training":
        column = bias if wide else None
        centre = spec.centred if request.centred is None else request.centred
        to_train = training_sources(pool, paired, prototypes, column, centre=centre)
        alignment = fit_trained(request.method, to_train, options, legacy=request.legacy, rng=rng)
    else:
        mean = None
        if not spec.raw and spec.fitted_on != "head":
            batches = pool.batches(reuse=True)
            mean = SideTransform.fit(batches, label="images", homogeneous=wide).mean
        alignment = fit_alignment(
            request.method,
            prototypes=prototypes,
            real=None if paired is None else pairs_of(paired),
            image_mean=mean,
            bias=bias,
            penalty=request.penalty,
            mix=request.mix,
            gamma=request.gamma,
            n_components=request.n_components,
            rank=request.rank,
            scale=request.scale,
            top_k=request.top_k,
            power=request.power,
            legacy=request.legacy,
            bias_column=wide,
            criterion=request.criterion,
            validation=request.validation,
            centre=request.centred,
            training=options,
            rng=rng,
        )
    return alignment


@contextlib.contextmanager
def _zero_rows_by_name(used: Mapping[str, EmbeddingsView]) -> Iterator[None]:
    """Name the items in an error about rows without direction: a row number says nothing here."""
    try:
        yield
    except ZeroRowError as err:
        for view in used.values():
            rows, start = [], 0
            for batch in view.batches(reuse=True):
                rows.append(start + np.flatnonzero(~batch.any(axis=1)))
                start += len(batch)
            bad = np.unique(view.items["item_id"].gather(np.concatenate(rows)).to_numpy())
            if len(bad):
                listed = ", ".join(map(repr, bad[:5].tolist())) + (", …" if len(bad) > 5 else "")
                msg = (
                    f"{len(bad):,} items of {view.key} have an embedding of zeros, which has no "
                    f"direction: {listed}. Extract them again, or leave them out of the manifest."
                )
                raise ZeroRowError(msg) from err
        raise


def _name_facts(request: FitRequest, used: Mapping[str, EmbeddingsView]) -> dict[str, Any]:
    """Return what decides the prototypes, for the key of their moments."""
    if request.head is None:
        return {}
    facts: dict[str, Any] = {role: used[role].fingerprint for role in ("head", "names")}
    facts |= {"source": request.source, "duplicates": request.duplicates, "rows": request.rows}
    return facts if request.source == "head" else {**facts, "seed": request.seed}


def pair_head(
    head: EmbeddingsView,
    names: EmbeddingsView,
    *,
    variants: Sequence[str],
    templates: Sequence[str],
) -> PairedView[EmbeddingsView]:
    """Return each row of a head with the one text of its class.

    Raises
    ------
    featstore.errors.MisalignedItemsError
        If a class of the head has no name among `names`.
    """
    paired = head.pair_by("class_id", names.class_texts(variants=variants, templates=templates))
    if paired.missing_x:
        msg = (
            f"{len(paired.missing_x):,} rows of {head.key} have no class name in {names.key} "
            f"(first: {paired.missing_x[0]!r}). Extract the names of the head's own label set."
        )
        raise MisalignedItemsError(msg)
    return paired


def name_groups(paired: PairedView[EmbeddingsView]) -> npt.NDArray[Any]:
    """Return the name of each class: classes that share it must be left out together."""
    return paired.y.items["text"].str.to_lowercase().to_numpy().astype(str)


def _real_pairs(
    store: FeatureStore,
    request: FitRequest,
    pool: EmbeddingsView,
    rng: np.random.Generator,
    *,
    raw: bool,
) -> PairedView[EmbeddingsView]:
    """Return K images with their captions, or with themselves as another encoder sees them."""
    others = store.view(str(request.y))
    if request.n_pairs is not None:
        if request.n_pairs > len(pool):
            msg = (
                f"n_pairs is {request.n_pairs:,}; split {request.split!r} of {pool.key} has "
                f"{len(pool):,} images. Ask for fewer, or leave n_pairs out."
            )
            raise SettingError(msg)
        pool = pool.take(np.sort(rng.permutation(len(pool))[: request.n_pairs]))
    paired = pair_images(pool, others) if raw else pool.pair_by("parent_id", others)
    if paired.missing_x:
        what = "counterpart" if raw else "caption"
        msg = (
            f"{len(paired.missing_x):,} of {len(pool):,} images of {pool.key} have no {what} in "
            f"{others.key} (first: {paired.missing_x[0]!r}). Extract them again."
        )
        raise MisalignedItemsError(msg)
    return paired


def pair_images(x: EmbeddingsView, y: EmbeddingsView) -> PairedView[EmbeddingsView]:
    """Return the images of x with the same images in y, by item_id."""
    place = {item: row for row, item in enumerate(y.items["item_id"].to_list())}
    ids = x.items["item_id"].to_list()
    found = np.array([item in place for item in ids], dtype=bool)
    rows = np.array([place[item] for item in ids if item in place], dtype=np.int64)
    missing = tuple(item for item in ids if item not in place)
    both = x.take(np.flatnonzero(found)), y.take(rows)
    return PairedView(*both, np.ones(len(rows)), "item_id", missing)


def _prototypes(
    store: FeatureStore,
    request: FitRequest,
    images: EmbeddingsView,
    pool: EmbeddingsView,
    spec: Method,
) -> tuple[Pairs, npt.NDArray[np.float32] | None, EmbeddingsView, EmbeddingsView]:
    """Return head rows with class texts, the bias, and the views of both."""
    head = store.view(str(request.head))
    images.require_same_space(head, what="A head and the images it is used on")
    names = store.view(str(request.names))
    paired = pair_head(head, names, variants=request.variants, templates=request.templates)
    x, y = paired.numpy()
    pairs, bias = Pairs(x, y, name_groups(paired)), paired.x.bias
    if request.duplicates != "keep":
        of_own = request.rows == "bias" or spec.head_bias or spec.fitted_on == "head"
        if bias is not None and of_own:
            msg = "A class's bias goes with its own row: use --duplicates keep here."
            raise SettingError(msg)
        pairs = resolve_duplicates(pairs, request.duplicates)
    if request.rows == "patterns":
        pairs = covariance_patterns(pairs, pool.numpy())
    return pairs, bias, paired.y, paired.x


def _control(source: str) -> Any:
    known: Mapping[str, Any] = {"head": None, **CONTROLS}
    return lookup(known, source, what="pair source", error=SettingError)
