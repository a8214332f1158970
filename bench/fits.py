"""From a run to a fitted alignment: its pairs, its prototypes and the mean that centres images.

The protocol itself (centring per source, choice of penalty and mixing weight) is
`fitters.recipe`; this file only hands it what the run says and nothing that is scored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from bench.corpus import Corpus, Head
from bench.errors import ProtocolError
from bench.protocol import (
    FRESH_SPLITS,
    Split,
    choice_rng,
    control_rng,
    first_pairs,
    first_per_class,
)
from bench.results import CHOSEN
from bench.runs import IDENTITY, Run
from bench.tasks.outcome import Aligned
from featstore.store.view import join_ids
from fitters.aligners.ridge import RidgeAligner
from fitters.alignment import Alignment
from fitters.kept import Kept, digest_of
from fitters.methods import METHODS
from fitters.moments.transform import SideTransform, normalize_rows
from fitters.pairs import Pairs
from fitters.prototypes import CONTROLS, adapted_prototypes
from fitters.recipe import fit, select
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


def fit_run(run: Run, corpus: Corpus, split: Split | None) -> Fitted:
    """Fit the alignment of a run.

    Parameters
    ----------
    run : Run
    corpus : Corpus
    split : Split, optional
        None for evaluation over all names: no image is trained on, and the images are
        centred by their own mean, which uses no label (transductive; the row says so).

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
    if split is None:
        unlabelled, centre_source = corpus.images.rows, "evaluated images"
    else:
        images, real = training_pairs(run, corpus, split)
        unlabelled, centre_source = unlabelled_images(corpus, split)
    prototypes, bias = None, None
    if run.protocol.source != "none":
        prototypes, bias = prototype_pairs(run, corpus, split)
    method = METHODS[run.fit.method]
    image_mean = SideTransform.fit([unlabelled], label="images").mean
    config = run.fit
    grid, chosen = None, None
    mixed = prototypes is not None and real is not None
    if run.protocol.source in ("head", *CONTROLS) and config.chooses(method, mixed=mixed):
        of_head = choice_of_head(run, corpus, split, real, image_mean)
        if run.protocol.source == "head":
            chosen = of_head
        else:
            grid = of_head.axes
    key = None
    unit = method.rows.centred(config.centre).images == "unit"
    if method.fitted_on == "training" and unit and prototypes and not real:
        key = _training_key(run, prototypes, bias)
    alignment = None if key is None else _LAST_TRAINED.get(key)
    if alignment is None:
        data = method.sources(
            config, prototypes=prototypes, real=real, image_mean=image_mean, bias=bias
        )
        alignment = fit(data, config, rng=choice_rng(run.seed), grid=grid, chosen=chosen)
    if key is not None:
        _LAST_TRAINED.clear()
        _LAST_TRAINED[key] = alignment
    facts = {
        "n_images_fitted": len(images),
        "n_pool": n_pool(run, corpus, split),
        "n_prototypes": 0 if prototypes is None else prototypes.n,
        "image_mean": "none" if alignment.x.mean is None else centre_source,
        **_choice_columns(alignment.facts["choice"]),
    }
    return Fitted(alignment, facts)


def n_pool(run: Run, corpus: Corpus, split: Split | None) -> float:
    """Return how many independent images the real pairs of all seeds are drawn from.

    Under a fixed split these are the training images; where every seed draws the images of every
    class anew, all images. Where it draws the classes anew, images of one class come together, and
    n images count as ``n² / Σ n_c²`` of them: the simulation of docs/statistics.md holds with this
    pool and with no larger one.
    """
    if split is None:
        return 0.0
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
    `fit_alignment`.
    """
    choices = _CHOICES.setdefault(corpus, {})
    by: tuple[Any, ...] = (run.seed,)
    if real is not None:
        by = (run.seed, image_mean, real.x, real.y, real.row_groups, real.row_weight)
    elif issubclass(METHODS[run.fit.method].cls, RidgeAligner) and run.fit.criterion != "error":
        # Leaving out names draws nothing (folds do), and no image mean has an effect.
        by = ()
    of_head = run.changed(source="head", control_draw=None)
    prototypes, _ = prototype_pairs(of_head, corpus, split)
    adapted = () if run.protocol.head_rows == "weights" else (prototypes.x,)
    key = digest_of(repr(run.fit), *by, *adapted)
    if key not in choices:
        choices[key] = select(
            run.fit,
            prototypes=prototypes,
            real=real,
            image_mean=image_mean,
            rng=choice_rng(run.seed),
        )
    return choices[key]


#: What was last trained on prototypes alone. It depends on no image: a suite that scores one head
#: on many datasets trains it once, and not for minutes each.
_LAST_TRAINED: dict[bytes, Alignment] = {}


def _training_key(run: Run, prototypes: Pairs, bias: NDArray[np.float32] | None) -> bytes:
    """Return the digest of all that a training on prototypes alone goes by."""
    groups = np.asarray(prototypes.groups).astype(str)
    rows = (prototypes.x, prototypes.y, groups, bias)
    return digest_of(repr(run.fit), run.seed, *rows)


def training_pairs(
    run: Run, corpus: Corpus, split: Split
) -> tuple[NDArray[np.int64], Pairs | None]:
    """Return the training images of a run, and its real pairs; None if it uses no image."""
    chosen = first_pairs(split, run.protocol.n_pairs)
    if run.protocol.pairs_per_class:
        chosen = first_per_class(split.train, corpus.images.classes, run.protocol.pairs_per_class)
    if not len(chosen):
        return chosen, None
    paired = class_mean_pairs if run.protocol.pairs_per_class else real_pairs
    return chosen, paired(corpus, chosen)


def unlabelled_images(corpus: Corpus, split: Split) -> tuple[NDArray[np.float32], str]:
    """Return the images that give the mean, and what they are: those for training, if any."""
    if len(split.train):
        return corpus.images.rows[split.train], "training images"
    return corpus.images.rows[split.test], "evaluated images"


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
    if not len(corpus.names):
        raise ProtocolError(
            "Real pairs are images with captions or class names, and the run names no set of "
            "either. Give it a caption_set or a name_set (--captions or --names)."
        )
    names = corpus.names if corpus.pair_names is None else corpus.pair_names
    return names.rows[names.places_of(classes)]


def prototype_pairs(
    run: Run, corpus: Corpus, split: Split | None = None
) -> tuple[Pairs, NDArray[np.float32]]:
    """Return the head's rows with their names, or the control of the run.

    Rows are adapted to the training images of `split`; a control is drawn of the adapted rows.

    Raises
    ------
    ProtocolError
        If the run has no head, or is to adapt its rows and there is no training image.
    """
    head: Head | None = corpus.head
    source = run.protocol.source
    if head is None:
        raise ProtocolError(
            f"Source {source!r} takes prototypes from a classification head, and the run names "
            "none. Give it a head_set and a head_name_set (--head and --head-names); `featstore "
            "extract --kind head_weight` makes a head."
        )
    pairs = Pairs(x=head.weight, y=head.texts, groups=head.groups)
    adapted: tuple[Any, ...] = ()
    drawn = _DRAWN.setdefault(corpus, Kept(32_000_000, lambda control: control.x.nbytes))
    if run.protocol.head_rows == "adapted":
        if split is None or not len(split.train):
            raise ProtocolError(
                "There is no training image to adapt the head's rows to, and those that are scored "
                "are not used. Leave head_rows out, or name train_splits that have images."
            )
        adapted = (split.train,)
        images = corpus.images.rows[split.train]
        weights = pairs
        pairs = drawn.get(
            digest_of("adapted", *adapted), lambda: adapted_prototypes(weights, images, head.bias)
        )
    if source != "head":
        draw = run.seed if run.protocol.control_draw is None else run.protocol.control_draw
        pairs = drawn.get(
            digest_of(source, draw, *adapted),
            lambda: CONTROLS[source](pairs, control_rng(draw)),
        )
    return pairs, head.bias


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
