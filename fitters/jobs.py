"""A fit as one asks for it, on sets of a store.

Everything below this file works on arrays. What is read is joined by id, checked to lie in the
spaces it claims, and named in the alignment's facts, so that it can refuse other spaces later.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from featstore.errors import MisalignedItemsError, lookup
from featstore.options import option
from featstore.parallel import Workers
from featstore.store.store import FeatureStore
from featstore.store.view import EmbeddingsView, PairedView, join_ids
from fitters.alignment import Alignment, OnStage
from fitters.errors import SettingError, ZeroRowError
from fitters.from_store import MomentsRequest, moment_sources, pairs_of, training_sources
from fitters.methods import TRAINING, FitConfig, Method, method_named, needs_rows
from fitters.moments.accumulation import Precision
from fitters.moments.transform import SideTransform
from fitters.pairs import Pairs
from fitters.prototypes import (
    CONTROLS,
    Duplicates,
    adapted_prototypes,
    covariance_patterns,
    resolve_duplicates,
)
from fitters.recipe import fit
from fitters.select.grid import MOST
from fitters.sources import Sources
from fitters.trained.base import OnEpoch

#: Variants and templates of class names, unless others are asked for.
VARIANTS, TEMPLATES = ("name",), ("none", "photo")

#: The split of the images if none is named.
SPLIT = "train"


@dataclass(frozen=True, kw_only=True)
class FitRequest(FitConfig):
    """What ``fitters fit`` is asked for: the settings of a fit, and the sets that it reads.

    Attributes
    ----------
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
        images; ``adapted``: moved towards these images (`fitters.prototypes.adapted_prototypes`);
        ``bias``: [w, b], and [f, 1] for images.
    precision : str
        Of the products, where a fit on real pairs is made from their moments.
    cached : bool
        Whether such moments may be taken from the user's cache, and are kept there.
    seed : int
        Draws the subset of images, the folds, the control and what a training draws.
    """

    x: str = option(
        help="Image set, dataset/image/encoder; or with --dataset its encoder.", metavar="KEY"
    )
    y: str | None = option(
        None,
        help="Caption set, for real pairs; or with --dataset its encoder.",
        metavar="KEY",
    )
    split: str = option(
        SPLIT,
        help="Split of the images. A fit on a head alone takes all images where none is in the "
        "split train.",
        metavar="NAME",
    )
    n_pairs: int | None = option(
        None,
        help="Number of captioned images to fit on [default: all].",
        at_least=1,
        below=MOST,
        needs=("y",),
    )
    head: str | None = option(
        None, help="Head set, for prototypes, or its label set.", metavar="KEY"
    )
    names: str | None = option(
        None,
        help="Class-name set of the head's classes.",
        flag="--head-names",
        metavar="KEY",
    )
    source: str = option(
        "head",
        help="Prototypes: the head, or a control that carries no class information.",
        choices=("head", *CONTROLS),
        needs=("head",),
    )
    variants: tuple[str, ...] = option(
        VARIANTS, help="Variants of the class names, of --head or of --y."
    )
    templates: tuple[str, ...] = option(
        TEMPLATES, help="Prompt templates around the class names, of --head or of --y."
    )
    duplicates: Duplicates = option(
        "keep", help="Keep, merge or drop classes that share a name.", needs=("head",)
    )
    rows: Literal["weights", "patterns", "adapted", "bias"] = option(
        "weights",
        help="Prototypes: rows w of the head; patterns Cov(f) w; adapted, moved towards the "
        "unlabelled images of the split; or bias, [w, b] with images [f, 1].",
        needs=("head",),
    )
    precision: Precision = option(
        "float32", help="Precision of the moments of real pairs.", needs=("y",)
    )
    cached: bool = option(
        True,
        help="Keep the moments of real pairs in the user's cache, and reuse them.",
        flag="--cache/--no-cache",
        needs=("y",),
    )
    seed: int = option(
        0,
        help="Random seed of the subset, the folds, the controls and the training.",
        at_least=0,
        below=2**63,
    )

    @property
    def facts(self) -> dict[str, Any]:
        """What was asked for, by the names under which alignments record it."""
        left_out = ("training", "centre", "cached")
        facts = {name: getattr(self, name) for name in (field.name for field in fields(self))
                 if name not in left_out}  # fmt: skip
        facts |= {name: getattr(self.training, name) for name in TRAINING}
        facts["centred"] = self.centre
        return {name: list(value) if isinstance(value, tuple) else value
                for name, value in facts.items()}  # fmt: skip


KINDS = {
    "x": ("image",), "y": ("caption", "class_name"), "head": ("head_weight",),
    "names": ("class_name",),
}  # fmt: skip
"""The kinds of set that each option takes."""


def check_kinds(request: FitRequest, *, raw: bool) -> None:
    """Raise SettingError if an option names a set of another kind than it takes."""
    for name, kinds in KINDS.items():
        key = getattr(request, name)
        # Text-to-Concept pairs images with the same images, seen by another encoder.
        expected = ("image",) if raw and name == "y" else kinds
        found = None if key is None else [*key.split("/"), "", ""][1]
        if found not in (None, "", *expected):
            raise SettingError(
                f"--{'head-names' if name == 'names' else name} takes a set of kind "
                f"{' or '.join(expected)}, such as dataset/{expected[0]}/encoder; {key} is of kind "
                f"{found}."
            )


def fit_from_store(
    store: FeatureStore,
    request: FitRequest,
    *,
    checkpoint: Path | None = None,
    on_epoch: OnEpoch | None = None,
    on_stage: OnStage | None = None,
    workers: Workers | None = None,
) -> Alignment:
    """Fit an alignment from the sets that `request` names.

    Parameters
    ----------
    store : FeatureStore
    request : FitRequest
    checkpoint, on_epoch
        Of the trained methods; see `fitters.methods.TrainingOptions`.
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
    training = replace(request.training, checkpoint=checkpoint, on_epoch=on_epoch)
    request = replace(request, training=training)
    subset_rng, choice_rng, control_rng = np.random.default_rng(request.seed).spawn(3)
    if on_stage is not None:
        on_stage("reading pairs")
    read = _read(store, request, subset_rng, control_rng)
    with _zero_rows_by_name(read.used):
        data, facts = _prepared(request, read, workers)
        alignment = fit(data, request, rng=choice_rng, on_stage=on_stage)
    alignment.facts |= facts
    if alignment.x.mean is not None:
        alignment.facts["image_centre"] = read.centre
    images, texts = read.pool, read.texts
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


def check_request(request: FitRequest) -> None:
    """Raise SettingError if a request contradicts itself; no store is read."""
    if (request.head is None) != (request.names is None):
        raise SettingError(
            "A head needs the names of its classes: give --head and --head-names, or neither."
        )
    if request.head is None and request.y is None:
        raise SettingError(
            "There is nothing to fit on: give --head and --head-names, --y for real pairs, or both."
        )
    spec = method_named(request.method)
    raw = spec.rows.texts == "raw"
    if raw and request.head is not None:
        raise SettingError(
            f"{request.method} is fitted on images that both encoders have seen: leave --head out."
        )
    check_kinds(request, raw=raw)
    if request.rows == "adapted" and spec.reads_bias:
        raise SettingError(
            f"{request.method} reads the head's own rows with their bias. Leave --rows adapted out."
        )
    # Of both sources, a method that reads a head takes the head alone.
    real = request.y is not None and spec.fitted_on != "head"
    spec.check(request, prototypes=request.head is not None, real=real)


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
    """

    used: dict[str, EmbeddingsView]
    pool: EmbeddingsView
    centre: str
    texts: EmbeddingsView
    paired: PairedView[EmbeddingsView] | None
    prototypes: Pairs | None
    bias: npt.NDArray[np.float32] | None


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
        if len(paired) < 2 and request.head is None and not raw:
            raise SettingError(
                "One pair is its own mean, and has no direction about it. Give more, or a head."
            )
    if request.head is not None and request.names is not None:
        prototypes, bias, names, head = _prototypes(store, request, images, pool, spec)
        if texts is not None:
            texts.require_same_space(names, what="Captions and class names")
        texts = names
        used |= {"head": head, "names": names}
        if request.source != "head":
            prototypes = _control(request.source)(prototypes, control_rng)
    assert texts is not None
    return _Read(used, pool, centre, texts, paired, prototypes, bias)


def _pool(images: EmbeddingsView, request: FitRequest) -> tuple[EmbeddingsView, str]:
    """Return the images of the split, and what their mean is of.

    A fit on a head alone wants the images for their mean only: where none is in the default split,
    it takes all of them, and the facts say so. So does a fit of images that are in no split at all.
    """
    splits = images.items["split"]
    unsplit = request.y is None or splits.null_count() == len(splits)
    if unsplit and request.split == SPLIT and SPLIT not in splits:
        return images, f"all unlabelled images, as none is in the split {SPLIT}"
    return images.where(split=request.split), f"unlabelled {request.split} images"


def _prepared(
    request: FitRequest, read: _Read, workers: Workers | None
) -> tuple[Sources[Any], dict[str, Any]]:
    """Return what is fitted on, moments where they are enough, and what is recorded of them."""
    spec, pool, paired = method_named(request.method), read.pool, read.paired
    how = spec.rows.centred(request.centre)
    wide = request.rows == "bias" or (how.head_bias and read.bias is not None)
    by_rows = needs_rows(request, mixed=read.prototypes is not None) or wide
    if workers is not None and workers.elsewhere and (paired is None or by_rows):
        raise SettingError(
            "Workers accumulate the moments of real pairs, and this fit "
            f"{'has no real pair' if paired is None else 'looks at their rows'}. Leave --engine "
            "and --jobs out; or give --y and every setting, or --criterion error."
        )
    if paired is not None and not by_rows:
        wanted = MomentsRequest(
            pool, paired, read.prototypes, _name_facts(request, read.used), request.precision,
            request.seed, how.texts == "raw",
        )  # fmt: skip
        moments = moment_sources(wanted, cached=request.cached, workers=workers)
        return moments, {"moments": {"precision": request.precision}}
    if paired is not None and spec.fitted_on == "training":
        column = read.bias if wide else None
        return training_sources(pool, paired, read.prototypes, column, how=how), {}
    mean = None
    if how.images == "centred" or wide:
        batches = pool.batches(reuse=True)
        mean = SideTransform.fit(batches, label="images", homogeneous=wide).mean
    data = spec.sources(
        request,
        prototypes=read.prototypes,
        real=None if paired is None else pairs_of(paired),
        image_mean=mean,
        bias=read.bias,
        bias_column=wide,
    )
    return data, {}


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
        raise MisalignedItemsError(
            f"{len(paired.missing_x):,} rows of {head.key} have no class name in {names.key} "
            f"(first: {paired.missing_x[0]!r}). Extract the names of the head's own label set."
        )
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
    """Return K images with their texts, or with themselves as another encoder sees them.

    Class names are the texts of images without captions: one text a class, for all its images.
    """
    others = store.view(str(request.y))
    by_class = store.info(str(request.y)).key.kind == "class_name"
    if request.n_pairs is not None:
        if request.n_pairs > len(pool):
            raise SettingError(
                f"n_pairs is {request.n_pairs:,}; split {request.split!r} of {pool.key} has "
                f"{len(pool):,} images. Ask for fewer, or leave n_pairs out."
            )
        pool = pool.take(np.sort(rng.permutation(len(pool))[: request.n_pairs]))
    if by_class:
        texts = others.class_texts(variants=request.variants, templates=request.templates)
        paired = pool.pair_by("class_id", texts)
    else:
        paired = pair_images(pool, others) if raw else pool.pair_by("parent_id", others)
    if paired.missing_x:
        what = "counterpart" if raw else "class name" if by_class else "caption"
        raise MisalignedItemsError(
            f"{len(paired.missing_x):,} of {len(pool):,} images of {pool.key} have no {what} in "
            f"{others.key} (first: {paired.missing_x[0]!r}). Extract them again."
        )
    return paired


def pair_images(x: EmbeddingsView, y: EmbeddingsView) -> PairedView[EmbeddingsView]:
    """Return the images of x with the same images in y, by item_id."""
    ids = x.items["item_id"]
    x_rows, y_rows = join_ids(ids, y.items["item_id"])
    missing = tuple(np.delete(ids.to_numpy(), x_rows).tolist())
    return PairedView(x.take(x_rows), y.take(y_rows), np.ones(len(x_rows)), "item_id", missing)


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
    if request.rows == "bias" and bias is None:
        raise SettingError(
            f"{head.key} has no bias, so --rows bias has no column to add to its rows. Leave it "
            "out, or name a head with a bias."
        )
    if request.rows == "adapted":
        pairs = adapted_prototypes(pairs, pool.numpy(), bias)
    if request.duplicates != "keep":
        of_own = request.rows == "bias" or spec.reads_bias
        if bias is not None and of_own:
            raise SettingError("A class's bias goes with its own row: use --duplicates keep here.")
        pairs = resolve_duplicates(pairs, request.duplicates)
    if request.rows == "patterns":
        pairs = covariance_patterns(pairs, pool.numpy())
    return pairs, bias, paired.y, paired.x


def _control(source: str) -> Any:
    known: Mapping[str, Any] = {"head": None, **CONTROLS}
    return lookup(known, source, what="pair source", error=SettingError)
