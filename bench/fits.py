"""From a run to a fitted alignment: its pairs, its prototypes and the mean that centres images.

The protocol itself (centring per source, choice of penalty and mixing weight) is
`fitters.alignment`; this file only hands it what the run says and nothing that is scored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse

from bench.corpus import (
    FRESH_SPLITS,
    Corpus,
    Items,
    Split,
    first_pairs,
    first_per_class,
    places_of,
    stream,
)
from bench.errors import ProtocolError
from bench.results import CHOSEN
from bench.runs import CLASS_MEANS, IDENTITY, Run
from bench.tasks.outcome import SCALES, Projector, for_head
from featstore.store.tables import join_ids
from fitters.aligners.ridge import RidgeAligner
from fitters.alignment import Alignment, fit, select
from fitters.few_shot.learner import PUBLISHED, likely_scale, sum_by_class
from fitters.kept import kept, remember
from fitters.methods import METHODS
from fitters.pairs import Pairs
from fitters.prototypes import CONTROLS, HEAD_ROWS, PAIR_CONTROLS
from fitters.select import Axis, Choice, folds_of_pairs
from fitters.select.held_out import Both, LinearFits, Seen, Source
from fitters.settings import FitConfig, Preparation
from fitters.sources import SideTransform, Sources, normalize_rows, prepare


@dataclass(frozen=True, eq=False)
class Fitted:
    """A fitted alignment and what a result row tells of it.

    Attributes
    ----------
    alignment : Projector
    facts : dict
        Columns of `bench.results.RESULT_SCHEMA`: images and prototypes used, which mean, the
        chosen penalty and mixing weight, and whether either lies at the edge of its grid.
    """

    alignment: Projector
    facts: dict[str, Any]


class Identity:
    """The embeddings as they are, at unit length: how an open_clip pair scores itself."""

    def project_x(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return unit rows, shape unchanged."""
        return normalize_rows(rows, what="image embeddings").astype(np.float32)

    def project_y(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return unit rows, shape unchanged."""
        return normalize_rows(rows, what="text embeddings").astype(np.float32)


#: Which mean centres images where none but the scored ones are there.
SCORED = "evaluated images"

#: Of fewer scored images no mean is taken: it would follow the few classes that they are of.
FEWEST = 20
TOO_FEW = f"none, of fewer than {FEWEST} evaluated images"


def fit_run(run: Run, corpus: Corpus, split: Split | None) -> Fitted:
    """Fit the alignment of a run.

    Parameters
    ----------
    run : Run
    corpus : Corpus
    split : Split, optional
        None for evaluation over all names: no image is trained on, and all are centred by their
        own mean, see `mean_of_images`.

    Raises
    ------
    ProtocolError
        If the run needs a head or captions that the corpus lacks, or too many pairs.
    """
    if run.fit.method == IDENTITY:
        facts = {"n_images_fitted": 0, "n_prototypes": 0, "image_mean": "none"}
        return Fitted(Identity(), {**facts, "n_pool": n_pool(run, corpus, split)})
    parts = parts_of(run, corpus, split)
    prototypes, real, centre = parts.prototypes, parts.real, parts.centre
    method, config = METHODS[run.fit.method], run.fit
    rows = method.rows.centred(config.centre).images
    fitted = partial(_fit_parts, run, parts)
    alignment: Alignment | GivenRidge
    if is_cell(run):
        data = _prepared(method.rows, centre, prototypes, real)
        given = issubclass(method.cls, RidgeAligner) and "penalty" in method.options
        alignment = GivenRidge(data, config, partial(fitted, data)) if given else fitted(data)
    elif method.fitted_on == "training" and rows == "unit" and (not real or corpus.pairs):
        # It uses no image of the data set that is scored: a suite that scores one head on many
        # data sets trains it once, and not for minutes each.
        sources = (
            (own.x, own.y, own.row_groups, own.row_weight) if own is not None else (None,)
            for own in (prototypes, real)
        )
        by = repr(config), run.seed, parts.bias, *chain.from_iterable(sources)
        alignment = remember(fitted, "trained", *by)
    else:
        alignment = fitted()
    facts = {
        "n_images_fitted": len(parts.images),
        "n_pool": n_pool(run, corpus, split),
        "n_prototypes": 0 if prototypes is None else prototypes.n,
        "own_names": own_names(run, corpus),
        "image_mean": centre.source if rows == "centred" else "none",
        "agreement": alignment.facts.get("agreement"),
        **_choice_columns(alignment.facts["choice"]),
    }
    return Fitted(alignment, facts)


def _fit_parts(run: Run, parts: Parts, data: Sources[Pairs] | None = None) -> Alignment:
    data = data or METHODS[run.fit.method].sources(
        run.fit, prototypes=parts.prototypes, real=parts.real, image_mean=parts.centre.mean,
        bias=parts.bias,
    )  # fmt: skip
    return fit(run.fit, data, rng=stream("choice", run.seed), grid=parts.grid, chosen=parts.chosen)


#: Parts in which training pairs are left out to find a temperature.
_FOLDS = 5


def likely_scale_of(run: Run, corpus: Corpus, split: Split | None) -> float:
    """Return 1 / the temperature by which a run's scores are likeliest probabilities.

    Of its real pairs, or without any of its prototypes, a fifth of the groups is left out at a
    time; what is fitted without them scores their rows by the texts of all. Settings stay as they
    were chosen. `fitters.few_shot.learner.PUBLISHED` where nothing is fitted.

    Raises
    ------
    ProtocolError
        As `fit_run`.
    fitters.errors.SelectionError
        If all pairs are of one group.
    """
    if run.fit.method == IDENTITY:
        return PUBLISHED
    parts, rng = parts_of(run, corpus, split), stream("choice", run.seed)
    pairs = parts.prototypes if parts.real is None else parts.real
    assert pairs is not None
    asked = pairs.y if pairs.asked is None else pairs.asked
    _, first, labels = np.unique(pairs.row_groups, return_index=True, return_inverse=True)
    kind = "prototypes" if parts.real is None else "real pairs"
    folds = folds_of_pairs(pairs, _FOLDS, "temperature", rng, kind=kind)
    scores = np.empty((pairs.n, len(first)))
    for fold in np.unique(folds):
        left, others = np.flatnonzero(folds == fold), pairs.take(folds != fold)
        if parts.real is not None:
            own = replace(parts, real=others)
        else:
            bias = None if parts.bias is None else parts.bias[folds != fold]
            own = replace(parts, prototypes=others, bias=bias)
        alignment: Projector = _fit_parts(run, own)
        if parts.real is None:
            alignment = for_head(alignment, pairs.x)
        found = alignment.project_x(pairs.x[left]) @ alignment.project_y(asked[first]).T
        scores[left] = found.toarray() if issparse(found) else found
    return likely_scale(scores, labels, bounds=SCALES)


@dataclass(frozen=True, eq=False)
class Parts:
    """What a run is fitted on, and how its settings are chosen.

    Attributes
    ----------
    images : int64 array
        Training images.
    real, prototypes : Pairs, optional
    bias : array, optional
        Of the head.
    centre : Centre
    grid, chosen
        As of `fitters.alignment.fit`.
    """

    images: NDArray[np.int64]
    real: Pairs | None
    prototypes: Pairs | None
    bias: NDArray[np.float32] | None
    centre: Centre
    grid: dict[str, Axis] | None
    chosen: Choice | None


def parts_of(run: Run, corpus: Corpus, split: Split | None) -> Parts:
    """Return what a run is fitted on; errors are those of `fit_run`."""
    own, (images, real) = run.protocol, _NO_PAIRS
    if split is not None:
        images, real = training_pairs(corpus, split, own.n_pairs, own.pairs_per_class)
    centre = mean_of_images(corpus, split)
    prototypes, bias = None, None
    if own.source == CLASS_MEANS:
        prototypes = class_mean_pairs(corpus.trained_on, images)
    elif own.has_prototypes:
        prototypes, bias = prototype_pairs(run, corpus, split)
    method, config = METHODS[run.fit.method], run.fit
    grid, chosen = None, None
    mixed = prototypes is not None and real is not None
    is_open = bool(config.open_settings(method.options, mixed=mixed))
    if own.source in OF_PAIRS and is_open:
        chosen = choice_of_pairs(run, real, centre)
    elif prototypes is not None and is_open:
        of_head = choice_of_head(run, corpus, split, real, centre)
        if own.source == "head":
            chosen = of_head
        else:
            grid = of_head.axes
    if own.source in PAIR_CONTROLS:
        real = _augmented(run, corpus, real)
    return Parts(images, real, prototypes, bias, centre, grid, chosen)


_NO_PAIRS: tuple[NDArray[np.int64], None] = np.empty(0, dtype=np.int64), None


def is_cell(run: Run) -> bool:
    """Return whether a run leaves nothing to choose and needs only moments: a cell of a sweep."""
    method, own = METHODS.get(run.fit.method), run.protocol
    if method is None or own.control_draw is not None or (own.needs_pairs and own.source != "none"):
        return False
    given = method.tunes and not run.fit.open_settings(method.options, mixed=True)
    return given and method.fitted_on == "moments" and method.rows.images == "centred"


@kept
def _prepared(
    how: Preparation,
    centre: Centre,
    prototypes: Pairs | None,
    real: Pairs | None,
) -> Sources[Pairs]:
    """Return what a fit is on: prototypes are prepared once for all numbers of real pairs."""
    if prototypes is None or real is None or centre.mean is None or how.alike:
        return prepare(prototypes, real, centre.mean, how=how)
    return _prepared(how, centre, prototypes, None).beside(real)


@dataclass(frozen=True, eq=False)
class GivenRidge:
    """A ridge whose settings are given: what a task asks of it is worked out when it does.

    Fits on the same data share products, decompositions and what rows are in them.

    Attributes
    ----------
    data : Sources of Pairs
    config : FitConfig
    fit : callable
        Fits it on the data as any other.
    """

    data: Sources[Pairs]
    config: FitConfig
    fit: Callable[[], Alignment]

    @cached_property
    def fitted(self) -> Alignment:
        """The ordinary alignment."""
        return self.fit()

    @property
    def facts(self) -> dict[str, Any]:
        """What an alignment records of its choice."""
        given = {"mix": self.config.mix} if self.data.mixed else {}
        return {"choice": given | {"penalty": self.config.penalty}}

    def project_x(self, rows: NDArray[np.float32]) -> Any:
        """Return image rows in the space of the ordinary fit."""
        return self.fitted.project_x(rows)

    def project_y(self, rows: NDArray[np.float32]) -> Any:
        """Return text rows in the space of the ordinary fit."""
        return self.fitted.project_y(rows)

    def sides(self, images: Items, texts: Items) -> Both:
        """Return the different rows of both in a space that is cheaper: the cosines are the same.

        Shapes (u, r), (v, r), of `Items.different`.
        """
        mix, predict_x = float(self.config.mix), _predicts_x(self.config.method)
        fits = _linear_fits(self.data, predict_x=predict_x)
        seen = _seen(fits, self.data, images, texts)
        return _path(fits, mix, seen, _at_weight(fits, mix)).at(float(self.config.penalty))


_path, _at_weight = kept(LinearFits.ridge), kept(LinearFits.at)
_applied = kept(lambda side, items: side.apply(items.different[0]))
_predicts_x = kept(lambda method: METHODS[method].make().direction == "y->x")


@kept
def _linear_fits(data: Sources[Pairs], *, predict_x: bool) -> LinearFits:
    own = data.prototypes
    products = None if own is None else _products(own, predict_x=predict_x)
    return LinearFits(own, data.real, predict_x=predict_x, products=products)


@kept
def _seen(fits: LinearFits, data: Sources[Pairs], images: Items, texts: Items) -> Seen:
    first, rows = None, (_applied(data.image, images), _applied(data.text, texts))
    if data.prototypes is not None:
        products = _products(data.prototypes, predict_x=fits.predict_x)
        predicted = (data.image, images) if fits.predict_x else (data.text, texts)
        first = _towards(products, *predicted)
    return fits.seen(*rows, first)


@kept
def _products(pairs: Pairs, *, predict_x: bool) -> Source:
    return Source.of(pairs, predict_x=predict_x)


@kept
def _towards(products: Source, side: SideTransform, items: Items) -> NDArray[np.float64]:
    return products.towards(_applied(side, items))


#: Controls whose rows are made of the real pairs.
OF_PAIRS = (CLASS_MEANS, *PAIR_CONTROLS)


def choice_of_pairs(run: Run, real: Pairs | None, centre: Centre) -> Choice:
    """Return what is chosen on the real pairs of a run alone, on the default grids.

    Controls of `OF_PAIRS` are fitted with it. A class mean, or a mixture of two pairs, is made of
    pairs of several folds: beside it no pair is held out, and every setting scores alike. A class
    mean has the mass of one image, unless the run gives `mix`.
    """
    choice = select(run.fit, real=real, image_mean=centre.mean, rng=stream("choice", run.seed))
    return choice if run.fit.mix == "auto" else replace(choice, mix=run.fit.mix)


def _augmented(run: Run, corpus: Corpus, real: Pairs | None) -> Pairs:
    """Return as many rows of real pairs as these and the head's together."""
    assert real is not None
    n = real.n + head_pairs(run, corpus)[0].n
    return PAIR_CONTROLS[run.protocol.source](real, stream("control", _draw(run)), n=n)


def n_pool(run: Run, corpus: Corpus, split: Split | None) -> float:
    """Return how many independent images the real pairs of all seeds are drawn from.

    Under a fixed split these are the training images; where every seed draws the images of every
    class anew, all images. Where it draws the classes anew, images of one class come together, and
    n images count as ``n² / Σ n_c²`` of them: the simulation of docs/statistics.md holds with this
    pool and with no larger one.
    """
    if split is None:
        return 0.0
    if corpus.pairs is not None:
        return float(len(split.train))
    if run.protocol.eval == "held-out":
        sizes = np.unique(corpus.images.classes, return_counts=True)[1]
        return float(sizes.sum()) ** 2 / float(np.sum(sizes.astype(np.float64) ** 2))
    return float(len(corpus.images) if run.protocol.eval in FRESH_SPLITS else len(split.train))


def choice_of_head(
    run: Run, corpus: Corpus, split: Split | None, real: Pairs | None, centre: Centre
) -> Choice:
    """Return what is chosen on the head with the real pairs and the folds of a run.

    The head is fitted with it, and its controls choose on the grid that it explored: see
    `fit`.
    """
    head, _ = head_pairs(run.changed(source="head", control_draw=None, clusters=0), corpus, split)
    ridge = issubclass(METHODS[run.fit.method].cls, RidgeAligner)
    if real is None and ridge and run.fit.criterion != "error":
        # Leaving out names draws nothing (folds do), and no image mean has an effect.
        return _choice(run.fit, head, None, _NO_MEAN, 0)
    return _choice(run.fit, head, real, centre, run.seed)


@kept
def _choice(
    config: FitConfig,
    head: Pairs,
    real: Pairs | None,
    centre: Centre,
    seed: int,
) -> Choice:
    return select(
        config, prototypes=head, real=real, image_mean=centre.mean,
        rng=stream("choice", seed),
    )  # fmt: skip


@kept
def training_pairs(
    corpus: Corpus, split: Split, n_pairs: int | Literal["all"], per_class: int
) -> tuple[NDArray[np.int64], Pairs | None]:
    """Return the training images of a run, and its real pairs; None if it uses no image."""
    chosen, own = first_pairs(split, n_pairs), corpus.trained_on
    if per_class:
        chosen = first_per_class(split.train, own.images.classes, per_class)
    paired = class_mean_pairs if per_class else real_pairs
    return chosen, paired(own, chosen) if len(chosen) else None


@dataclass(frozen=True, eq=False)
class Centre:
    """The mean that centres images, None if none does, and what it is of."""

    mean: NDArray[np.float64] | None
    source: str


_NO_MEAN = Centre(None, "none")


@kept
def mean_of_images(corpus: Corpus, split: Split | None) -> Centre:
    """Return the mean that centres images, and what it is of: the images for training, if any.

    Else it is the plain mean of all that are scored: transductive, and without a label. One that
    left images out by their class would say which classes an image is not of. None of fewer than
    `FEWEST` scored images.
    """
    images, source = corpus.images, SCORED
    if split is not None:
        source = "training images" if len(split.train) else SCORED
        trained = corpus.trained_on.images
        images = trained.take(split.train) if len(split.train) else images.take(split.test)
    if source == SCORED and len(images) < FEWEST:
        return Centre(None, TOO_FEW)
    return Centre(SideTransform.fit([images.rows], label="images").mean, source)


def real_pairs(corpus: Corpus, images: NDArray[np.int64]) -> Pairs:
    """Return the captions of these images with their images; an image's captions share mass 1.

    Where the run names no captions, each image is paired with the text of its class: the one in
    ``corpus.pair_names``, or else its name.
    """
    captions = corpus.captions
    if captions is None or captions.parents is None:
        classes = corpus.images.classes[images]
        return Pairs(corpus.images.rows[images], _class_texts(corpus, classes), classes)
    owners, rows = join_ids(corpus.images.ids[images], captions.parents)
    counts = np.bincount(owners, minlength=len(images))
    if not counts.all():
        lost = corpus.images.ids[images[np.flatnonzero(counts == 0)[0]]]
        raise ProtocolError(
            f"{int((counts == 0).sum()):,} images have no caption (first: {str(lost)!r})."
        )
    return Pairs(
        x=corpus.images.rows[images[owners]],
        y=captions.rows[rows],
        groups=corpus.images.classes[images[owners]],
        weight=1.0 / counts[owners],
    )


def class_mean_pairs(corpus: Corpus, images: NDArray[np.int64]) -> Pairs:
    """Return one pair a class: the mean of its raw image rows among `images`, and its text.

    The text is the one of the class in ``corpus.pair_names``, or else its name.

    Mendez et al., Supervised Classification Heads as Semantic Prototypes, ICML 2026.
    """
    having, codes = np.unique(corpus.images.classes[images], return_inverse=True)
    sums = sum_by_class(corpus.images.rows[images], codes, len(having))
    means = (sums / np.bincount(codes)[:, None]).astype(np.float32)
    return Pairs(means, _class_texts(corpus, having), having)


def _class_texts(corpus: Corpus, classes: NDArray[Any]) -> NDArray[np.float32]:
    """Return the text that images of each of these classes are paired with."""
    names = corpus.names_for(_PAIRED) if corpus.pair_names is None else corpus.pair_names
    return names.rows[names.places_of(classes)]


#: What reads class names.
_PAIRED = "Real pairs are images with captions or class names, and the run names no set of either"
_COMPARED = (
    "A part of a head is chosen by the images' class names, and the run names no set of them"
)


def prototype_pairs(
    run: Run, corpus: Corpus, split: Split | None = None
) -> tuple[Pairs, NDArray[np.float32]]:
    """Return the head's rows with their names, or the control of the run.

    Rows are adapted to the training images of `split`; a control is drawn of the adapted rows.
    """
    pairs, bias = head_pairs(run, corpus, split)
    own = run.protocol
    if own.source != "head":
        pairs = _control(pairs, own.source, _draw(run), own.clusters)
    return pairs, bias


@kept
def _control(pairs: Pairs, source: str, draw: int, clusters: int) -> Pairs:
    own = {"clusters": clusters} if clusters else {}
    return CONTROLS[source](pairs, stream("control", draw), **own)


#: Texts of a class of the head and of one of the images above this cosine are of one thing.
NEAR = 0.9


def head_pairs(
    run: Run, corpus: Corpus, split: Split | None = None
) -> tuple[Pairs, NDArray[np.float32]]:
    """Return the rows of the classes of the head that a run uses with their names, and the bias.

    Raises
    ------
    ProtocolError
        If the run names no head, or one with fewer classes than it asks for; if it is to adapt its
        rows and there is no training image.
    """
    own, head = run.protocol, corpus.head_for(f"Source {run.protocol.source!r}")
    drawn = _draw(run) if own.head_size and own.head_by == "random" else None
    pairs = _head_rows(corpus, split if own.head_rows != "weights" else None, own.head_rows)
    if not (own.head_size or own.leave_seen):
        return pairs, head.bias
    part, rows = _part_of_head(
        pairs, corpus, own.head_size, own.head_by, drawn, leave_seen=own.leave_seen
    )
    return part, head.bias[rows]


@kept
def _head_rows(corpus: Corpus, split: Split | None, how: str) -> Pairs:
    """Return the rows of the head, or moved by the images of a split."""
    head = corpus.head_for(f"head_rows={how!r}")
    pairs = Pairs(x=head.weight, y=head.texts, groups=head.groups, asked=head.asked)
    if how == "weights":
        return pairs
    if split is None or not len(split.train):
        raise ProtocolError(
            "There is no training image to adapt the head's rows to, and those that are scored "
            "are not used. Leave head_rows out, or name train_splits that have images."
        )
    images = corpus.trained_on.images.take(split.train)
    return HEAD_ROWS[how](pairs, images.rows, places_of(images.classes, head.classes), head.bias)


@kept
def _part_of_head(
    pairs: Pairs, corpus: Corpus, size: int, by: str, drawn: int | None, *, leave_seen: bool
) -> tuple[Pairs, NDArray[np.int64]]:
    """Return the prototypes that a run uses, and which rows of its head they are."""
    head = corpus.head_for("A part of a head")
    called = head.texts if head.asked is None else head.asked
    near = (called @ corpus.names_for(_COMPARED).rows.T).max(axis=1)
    left = np.arange(len(near))
    if leave_seen:
        assert head.in_gallery is not None
        left = np.flatnonzero(~(head.in_gallery | (near > NEAR)))
    if max(size, 1) > len(left):
        raise ProtocolError(
            f"The run asks for {max(size, 1):,} classes of the head; {len(left):,} are left of "
            f"{len(near):,}. Ask for fewer (head_size)."
        )
    if drawn is not None:
        left = np.sort(left[stream("size", drawn).permutation(len(left))[:size]])
    elif size:
        sign = 1.0 if by == "farthest" else -1.0
        left = np.sort(left[np.argsort(sign * near[left], kind="stable")[:size]])
    return pairs.take(left), left


def _draw(run: Run) -> int:
    """Return what draws the control, and the classes of a smaller head."""
    return run.seed if run.protocol.control_draw is None else run.protocol.control_draw


def own_names(run: Run, corpus: Corpus) -> float | None:
    """Return the share of prototypes that a shuffle within clusters left with their own name."""
    if not run.protocol.clusters:
        return None
    shuffled, whole = prototype_pairs(run, corpus)[0], head_pairs(run, corpus)[0]
    return float((shuffled.x == whole.x).all(axis=1).mean())


def _choice_columns(choice: dict[str, Any]) -> dict[str, Any]:
    """Return the settings and which of them lie at an edge of their grid; null has no effect."""
    searches = [part["edges"] for part in (choice, choice.get("of_prototypes") or {})
                if "edges" in part]  # fmt: skip
    hit = {edge.split()[0] for edges in searches for edge in edges}
    values = {name: choice.get(name) for name in CHOSEN}
    columns: dict[str, Any] = {f"{name}_chosen": value for name, value in values.items()}
    if searches:
        columns |= {
            f"{name}_at_edge": _AXES.get(name, name) in hit
            for name, value in values.items()
            if value is not None
        }
        columns["flat_choice"] = choice.get("flat")
    return columns


#: What the axes of a choice are called, where not as the setting.
_AXES = {"mix": "weight", "n_components": "components"}
