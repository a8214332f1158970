"""From a run to a fitted alignment: its pairs, its prototypes and the mean that centres images.

The protocol itself (centring per source, choice of penalty and mixing weight) is
`fitters.alignment`; this file only hands it what the run says and nothing that is scored.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from bench.corpus import Corpus, Head, Items
from bench.errors import ProtocolError
from bench.protocol import (
    FRESH_SPLITS,
    Split,
    choice_rng,
    control_rng,
    first_pairs,
    first_per_class,
    size_rng,
)
from bench.results import CHOSEN
from bench.runs import CLASS_MEANS, IDENTITY, Run
from bench.tasks.outcome import Aligned
from featstore.store.tables import join_ids
from fitters.aligners.ridge import RidgeAligner
from fitters.alignment import Alignment, fit, select
from fitters.kept import Kept, digest_of
from fitters.methods import METHODS
from fitters.moments.transform import SideTransform, normalize_rows
from fitters.pairs import Pairs
from fitters.prototypes import CONTROLS, HEAD_ROWS, PAIR_CONTROLS
from fitters.select.grid import Choice


@dataclass(frozen=True, eq=False)
class Fitted:
    """A fitted alignment and what a result row tells of it.

    Attributes
    ----------
    alignment : Projector or Projected
    facts : dict
        Columns of `bench.results.RESULT_SCHEMA`: images and prototypes used, which mean, the
        chosen penalty and mixing weight, and whether either lies at the edge of its grid.
    """

    alignment: Aligned
    facts: dict[str, Any]


class Identity:
    """The embeddings as they are, at unit length: how an open_clip pair scores itself."""

    def project_x(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return unit rows, shape unchanged."""
        return self._unit(rows, "image embeddings")

    def project_y(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return unit rows, shape unchanged."""
        return self._unit(rows, "text embeddings")

    def _unit(self, rows: NDArray[np.float32], what: str) -> NDArray[np.float32]:
        unit: NDArray[np.float32] = normalize_rows(rows, what=what).astype(np.float32)
        return unit


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
    real = None
    images: NDArray[np.int64] = np.empty(0, dtype=np.int64)
    if split is not None:
        images, real = training_pairs(run, corpus, split)
    image_mean, centre_source = mean_of_images(corpus, split)
    prototypes, bias = None, None
    if run.protocol.source == CLASS_MEANS:
        prototypes = class_mean_pairs(corpus.trained_on, images)
    elif run.protocol.has_prototypes:
        prototypes, bias = prototype_pairs(run, corpus, split)
    method = METHODS[run.fit.method]
    config = run.fit
    grid, chosen = None, None
    mixed = prototypes is not None and real is not None
    if run.protocol.source in PAIR_CONTROLS:
        real, chosen = _augmented(run, corpus, real, image_mean)
    elif prototypes is not None and config.chooses(method.options, mixed=mixed):
        of_head = choice_of_head(run, corpus, split, real, image_mean)
        if run.protocol.source == "head":
            chosen = of_head
        else:
            grid = of_head.axes
    key = None
    rows = method.rows.centred(config.centre).images
    if method.fitted_on == "training" and rows == "unit" and (not real or corpus.pairs):
        key = _training_key(run, bias, prototypes, real)
    alignment = None if key is None else _LAST_TRAINED.get(key)
    if alignment is None:
        data = method.sources(
            config, prototypes=prototypes, real=real, image_mean=image_mean, bias=bias,
            blocks=corpus.blocks,
        )  # fmt: skip
        alignment = fit(config, data, rng=choice_rng(run.seed), grid=grid, chosen=chosen)
    if key is not None:
        _LAST_TRAINED.clear()
        _LAST_TRAINED[key] = alignment
    facts = {
        "n_images_fitted": len(images),
        "n_pool": n_pool(run, corpus, split),
        "n_prototypes": 0 if prototypes is None else prototypes.n,
        "own_names": own_names(run, corpus),
        "image_mean": centre_source if rows == "centred" else "none",
        **_choice_columns(alignment.facts["choice"]),
    }
    return Fitted(alignment, facts)


def _augmented(
    run: Run, corpus: Corpus, real: Pairs | None, image_mean: NDArray[np.float64] | None
) -> tuple[Pairs, Choice | None]:
    """Return as many rows of real pairs as these and the head's together, and what is chosen.

    It is chosen on the pairs themselves: a mixture of two would be in the folds of both.
    """
    assert real is not None
    chosen = None
    if run.fit.chooses(METHODS[run.fit.method].options, mixed=False):
        rng = choice_rng(run.seed)
        chosen = select(run.fit, real=real, image_mean=image_mean, rng=rng)
    n = real.n + head_pairs(run, corpus)[0].n
    return PAIR_CONTROLS[run.protocol.source](real, control_rng(_draw(run)), n=n), chosen


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


_CHOICES: WeakKeyDictionary[Corpus, dict[bytes, Choice]] = WeakKeyDictionary()
"""Choices on the head, for as long as its corpus is there: a few numbers each."""

_DRAWN: WeakKeyDictionary[Corpus, Kept[Pairs]] = WeakKeyDictionary()
"""The last controls and adapted rows of a corpus.

Drawing a control takes longer than looking up what was chosen on it.
"""


def choice_of_head(
    run: Run,
    corpus: Corpus,
    split: Split | None,
    real: Pairs | None,
    image_mean: NDArray[np.float64] | None,
) -> Choice:
    """Return what is chosen on the head with the real pairs and the folds of a run.

    The head is fitted with it, and its controls choose on the grid that it explored: see
    `fit`.
    """
    choices = _CHOICES.setdefault(corpus, {})
    run = run.changed(source="head", control_draw=None, clusters=0)
    by: tuple[Any, ...] = (run.seed,)
    if real is not None:
        by = (run.seed, image_mean, real.x, real.y, real.row_groups, real.row_weight)
    elif issubclass(METHODS[run.fit.method].cls, RidgeAligner) and run.fit.criterion != "error":
        # Leaving out names draws nothing (folds do), and no image mean has an effect.
        by = ()
    prototypes, _ = head_pairs(run, corpus, split)
    adapted = () if run.protocol.head_rows == "weights" else (prototypes.x,)
    key = digest_of(repr(run.fit), _part_of_head(run), *by, *adapted)
    if key not in choices:
        choices[key] = select(
            run.fit,
            prototypes=prototypes,
            real=real,
            image_mean=image_mean,
            blocks=corpus.blocks,
            rng=choice_rng(run.seed),
        )
    return choices[key]


#: What was last trained on no image of the dataset that is scored: a suite that scores one head on
#: many datasets trains it once, and not for minutes each.
_LAST_TRAINED: dict[bytes, Alignment] = {}


def _training_key(run: Run, bias: NDArray[np.float32] | None, *sources: Pairs | None) -> bytes:
    """Return the digest of all that a training goes by, prototypes and real pairs."""
    rows = (
        (own.x, own.y, own.row_groups, own.row_weight) if own is not None else (None,)
        for own in sources
    )  # fmt: skip
    return digest_of(repr(run.fit), run.seed, bias, *chain.from_iterable(rows))


def training_pairs(
    run: Run, corpus: Corpus, split: Split
) -> tuple[NDArray[np.int64], Pairs | None]:
    """Return the training images of a run, and its real pairs; None if it uses no image."""
    chosen, own = first_pairs(split, run.protocol.n_pairs), corpus.trained_on
    if run.protocol.pairs_per_class:
        chosen = first_per_class(split.train, own.images.classes, run.protocol.pairs_per_class)
    if not len(chosen):
        return chosen, None
    paired = class_mean_pairs if run.protocol.pairs_per_class else real_pairs
    return chosen, paired(own, chosen)


def mean_of_images(corpus: Corpus, split: Split | None) -> tuple[NDArray[np.float64] | None, str]:
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
        return None, TOO_FEW
    return SideTransform.fit([images.rows], label="images", blocks=corpus.blocks).mean, source


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
    sums = np.zeros((len(having), corpus.images.rows.shape[1]))
    np.add.at(sums, codes, corpus.images.rows[images])
    means = (sums / np.bincount(codes)[:, None]).astype(np.float32)
    return Pairs(means, _class_texts(corpus, having), having)


def _class_texts(corpus: Corpus, classes: NDArray[Any]) -> NDArray[np.float32]:
    """Return the text that images of each of these classes are paired with."""
    names = _names_of(corpus) if corpus.pair_names is None else corpus.pair_names
    return names.rows[names.places_of(classes)]


def _names_of(corpus: Corpus) -> Items:
    """Return the names of the images' classes."""
    if not len(corpus.names):
        raise ProtocolError(
            "Real pairs are images with captions or class names, and the run names no set of "
            "either. Give it a caption_set or a name_set (--captions or --names); a class of "
            "another data set is paired by its class names (--captions)."
        )
    return corpus.names


def prototype_pairs(
    run: Run, corpus: Corpus, split: Split | None = None
) -> tuple[Pairs, NDArray[np.float32]]:
    """Return the head's rows with their names, or the control of the run.

    Rows are adapted to the training images of `split`; a control is drawn of the adapted rows.
    """
    pairs, bias = head_pairs(run, corpus, split)
    source = run.protocol.source
    if source != "head":
        draw = _draw(run)
        own = {"clusters": run.protocol.clusters} if run.protocol.clusters else {}
        drawn = _DRAWN.setdefault(corpus, Kept(32_000_000, lambda control: control.x.nbytes))
        pairs = drawn.get(
            digest_of(source, own, draw, _part_of_head(run), *_adapted_to(run, split)),
            lambda: CONTROLS[source](pairs, control_rng(draw), **own),
        )
    return pairs, bias


#: Texts of a class of the head and of one of the images above this cosine are of one thing.
NEAR = 0.9


def _adapted_to(run: Run, split: Split | None) -> tuple[NDArray[np.int64], ...]:
    """Return the training images that the head's rows are adapted to, none if they are not.

    Raises
    ------
    ProtocolError
        If the run is to adapt them, and there is no training image.
    """
    if run.protocol.head_rows == "weights":
        return ()
    if split is None or not len(split.train):
        raise ProtocolError(
            "There is no training image to adapt the head's rows to, and those that are scored "
            "are not used. Leave head_rows out, or name train_splits that have images."
        )
    return (split.train,)


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
    head: Head | None = corpus.head
    source = run.protocol.source
    if head is None:
        raise ProtocolError(
            f"Source {source!r} takes prototypes from a classification head, and the run names "
            "none. Give it a head_set and a head_name_set (--head and --head-names); `featstore "
            "extract --kind head_weight` makes a head."
        )
    pairs = Pairs(x=head.weight, y=head.texts, groups=head.groups, asked=head.asked)
    bias = head.bias
    if adapted := _adapted_to(run, split):
        drawn = _DRAWN.setdefault(corpus, Kept(32_000_000, lambda control: control.x.nbytes))
        weights, images = pairs, corpus.trained_on.images.take(adapted[0])
        place = {name: row for row, name in enumerate(head.classes.tolist())}
        of_class = np.array([place.get(name, -1) for name in images.classes.tolist()])
        pairs = drawn.get(
            digest_of(run.protocol.head_rows, *adapted),
            lambda: HEAD_ROWS[run.protocol.head_rows](weights, images.rows, of_class, bias),
        )
    size, by = run.protocol.head_size, run.protocol.head_by
    if not (size or run.protocol.leave_seen):
        return pairs, bias
    called = head.texts if head.asked is None else head.asked
    near = (called @ _names_of(corpus).rows.T).max(axis=1)
    left = np.arange(pairs.n)
    if run.protocol.leave_seen:
        assert head.in_gallery is not None
        left = np.flatnonzero(~(head.in_gallery | (near > NEAR)))
    if max(size, 1) > len(left):
        raise ProtocolError(
            f"The run asks for {max(size, 1):,} classes of the head {run.data.head_set}; "
            f"{len(left):,} are left of {pairs.n:,}. Ask for fewer (head_size)."
        )
    if size and by == "random":
        left = np.sort(left[size_rng(_draw(run)).permutation(len(left))[:size]])
    elif size:
        sign = 1.0 if by == "farthest" else -1.0
        left = np.sort(left[np.argsort(sign * near[left], kind="stable")[:size]])
    return pairs.take(left), bias[left]


def _draw(run: Run) -> int:
    """Return what draws the control, and the classes of a smaller head."""
    return run.seed if run.protocol.control_draw is None else run.protocol.control_draw


def _part_of_head(run: Run) -> tuple[Any, ...]:
    """Return what says which classes of its head a run uses."""
    own = run.protocol
    drawn = _draw(run) if own.head_size and own.head_by == "random" else None
    return own.head_rows, own.head_size, own.head_by, own.leave_seen, drawn


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
