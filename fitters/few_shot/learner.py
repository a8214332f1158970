"""Few-shot learners: shots in, a linear classifier out.

A learner is made without arguments, sees `Shots` once, and returns a `Classifier`. It chooses its
open settings on the validation rows of its shots, never on what is scored later. Shots, seeds and
splits are the caller's. docs/ref/few-shot.md lists the learners and shows how to add one.

Published learners write 100, the factor that CLIP was trained with. Cosines of another alignment
have another spread. Here the factor is the one under which labelled rows are most likely.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.sparse import csr_array

from fitters.errors import PairsError, SettingError
from fitters.pairs import Pairs
from fitters.sources import normalize_rows

Rows = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Shots:
    """Labelled rows of one space, and what else a learner may use.

    Attributes
    ----------
    x : array of shape (n, r)
        Rows of unit length; n may be 0 where there are prototypes.
    labels : int64 array of shape (n,)
        0 … c − 1.
    n_classes : int
        c.
    prototypes : array of shape (c, r), optional
        One row of unit length a class, made without these shots: its name through an alignment,
        or its row of a head.
    validation_x, validation_labels : arrays of shape (m, r) and (m,), optional
        Further rows of the same classes, to choose by.
    views : array of shape (n, v, r), optional
        v augmented views of every shot in the same space, each row as long as its raw embedding,
        so that their mean weighs them as a mean of raw embeddings does.
    lengths : array of shape (n,), optional
        Lengths of the raw embeddings that `x` was made of; None: means weigh all alike.
    texts : array of shape (c, q), optional
        The raw embedding of every class's name: of another space, for learners that map it. The
        shots of a class are paired with it.
    scored_texts : array of shape (c, q), optional
        Texts to score by where they differ, such as prompts after training on plain names.
        None: `texts`.
    head : Pairs, optional
        Rows of a head in the space of the shots, at unit length, with the raw embeddings of
        their names: for learners that map texts.

    Raises
    ------
    PairsError
        If shapes or labels do not fit.
    SettingError
        If there are neither rows nor prototypes, or a class has neither.
    """

    x: Rows
    labels: Labels
    n_classes: int
    prototypes: Rows | None = None
    validation_x: Rows | None = None
    validation_labels: Labels | None = None
    views: Rows | None = None
    lengths: npt.NDArray[np.floating] | None = None
    texts: npt.NDArray[np.floating] | None = None
    scored_texts: npt.NDArray[np.floating] | None = None
    head: Pairs | None = None

    def __post_init__(self) -> None:
        (n, r), c = self.x.shape, self.n_classes
        for what, rows, labels in (
            ("shots", self.x, self.labels),
            ("validation rows", self.validation_x, self.validation_labels),
        ):
            if rows is None or labels is None:
                continue
            fits = rows.ndim == 2 and len(rows) == len(labels)
            if not fits or (len(labels) and not 0 <= labels.min() <= labels.max() < c):
                raise PairsError(
                    f"Labels of {what} are numbers from 0 to {c - 1}, one a row; got "
                    f"{labels.shape} for rows of shape {rows.shape}."
                )
        head = None if self.head is None else self.head.x
        for what, given, shape in (
            (f"Prototypes are {c} rows of {r} columns", self.prototypes, (c, r)),
            (f"Views are {n} × v rows of {r} columns", self.views, (n, None, r)),
            (f"Lengths are one number a shot, {n}", self.lengths, (n,)),
            (f"Texts are one row a class, {c}", self.texts, (c, None)),
            (f"Texts are one row a class, {c}", self.scored_texts, (c, None)),
            (f"Rows of the head have the {r} columns of the shots", head, (None, r)),
        ):
            if given is not None and not _has_shape(given, shape):
                raise PairsError(f"{what}; got shape {given.shape}.")
        lost = c - len(np.unique(self.labels))
        if self.prototypes is None and lost:
            raise SettingError(
                f"{lost} of {c} classes have neither a shot nor a prototype. Give "
                "every class a shot, or prototypes (of a run: prototypes=names or head)."
            )

    @property
    def validation(self) -> tuple[Rows, Labels]:
        """The rows to choose by with their labels, `evenly` if many; none if there are none."""
        if self.validation_x is None or self.validation_labels is None:
            return self.x[:0], self.labels[:0]
        seen = evenly(len(self.validation_labels), self.n_classes)
        return self.validation_x[seen], self.validation_labels[seen]

    @property
    def has_validation(self) -> bool:
        """Whether there is something to choose by."""
        return len(self.validation[1]) > 0

    def value(self, scores: Callable[[Rows], npt.NDArray[np.floating]]) -> float:
        """Return the mean reciprocal rank on the validation rows of what scores them, else 0."""
        x, labels = self.validation
        return reciprocal_rank(scores(x), labels) if len(labels) else 0.0

    def with_prototypes(
        self, mass: float
    ) -> tuple[npt.NDArray[np.float64], Labels, npt.NDArray[np.float64]]:
        """Return rows, labels and masses: those of the shots, then `mass` for each prototype."""
        if self.prototypes is None:
            return self.x.astype(np.float64), self.labels, np.ones(len(self.labels))
        rows = np.concatenate([self.x, self.prototypes], dtype=np.float64)
        labels = np.concatenate([self.labels, np.arange(self.n_classes)])
        return rows, labels, np.repeat([1.0, mass], [len(self.labels), self.n_classes])

    @property
    def class_sums(self) -> npt.NDArray[np.float64]:
        """Sum of the rows of every class, shape (c, r)."""
        return sum_by_class(self.x, self.labels, self.n_classes)

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """Rows of every class, shape (c,)."""
        return np.bincount(self.labels, minlength=self.n_classes)

    @property
    def unit_views(self) -> tuple[Rows, Labels]:
        """Every view at unit length, with its label, views of one shot together.

        The shots themselves where there are no views. Shapes (n · v, r) and (n · v,).
        """
        if self.views is None:
            return self.x, self.labels
        rows = normalize_rows(self.views.reshape(-1, self.x.shape[1]), what="views of shots")
        return rows.astype(np.float32), np.repeat(self.labels, self.views.shape[1])

    @property
    def mean_views(self) -> Rows:
        """The mean of every shot's views at unit length; without views the shots. Shape (n, r)."""
        if self.views is None:
            return self.x
        return normalize_rows(self.views.mean(axis=1), what="means of views").astype(np.float32)


def _has_shape(rows: npt.NDArray[Any], shape: Sequence[int | None]) -> bool:
    """Return whether an array has a shape; None is any size from 1."""
    return rows.ndim == len(shape) and all(
        size > 0 if wanted is None else size == wanted
        for size, wanted in zip(rows.shape, shape, strict=True)
    )


class Classifier(Protocol):
    """What a learner returns."""

    @property
    def facts(self) -> Mapping[str, float]:
        """What was chosen, by name: ``penalty``, ``mix``."""

    def scores(self, x: Rows) -> npt.NDArray[np.float32]:
        """Return a score for every class, higher is better: shape (m, r) to (m, c)."""


class Learner(Protocol):
    """A few-shot learner."""

    def fit(self, shots: Shots) -> Classifier:
        """Learn from `shots`; the same shots give the same classifier."""


class ShotLearner(ABC):
    """Base of the learners that return the prototypes where there is no shot."""

    def fit(self, shots: Shots) -> Classifier:
        """Learn from `shots`; with none the result is zero-shot.

        Raises
        ------
        MissingPackageError
            If the learner needs torch, and it is not installed.
        """
        if not len(shots.labels):
            assert shots.prototypes is not None
            return without_bias(shots.prototypes)
        return self._learn(shots)

    @abstractmethod
    def _learn(self, shots: Shots) -> Classifier:
        """Learn from at least one shot."""


def sum_by_class(
    rows: npt.NDArray[np.floating], labels: Labels, n_classes: int
) -> npt.NDArray[np.float64]:
    """Return the sum of the rows of every class, shape (c, r): a product with one-hot labels."""
    places = labels, np.arange(len(labels))
    one_hot = csr_array((np.ones(len(labels)), places), shape=(n_classes, len(labels)))
    return one_hot @ rows.astype(np.float64, copy=False)


def reciprocal_rank(scores: npt.NDArray[np.floating], labels: Labels) -> float:
    """Return the mean of 1 / rank of the own class; ties count against.

    The rank is among the classes that `labels` holds. Where classes have run out of validation
    rows, what favours those that have some would else look good: with rows of 2 of 22 classes it
    made a ridge probe name no other (24 % right, where class means had 72 %).
    """
    own = scores[np.arange(len(labels)), labels]
    present = np.unique(labels)
    others = scores if len(present) == scores.shape[1] else scores[:, present]
    return float(np.mean(1.0 / np.count_nonzero(others >= own[:, None], axis=1)))


@dataclass(frozen=True, eq=False)
class LinearClassifier:
    """Scores x Wᵀ + b.

    Attributes
    ----------
    weight : array of shape (c, r)
    bias : array of shape (c,)
    facts : dict
    """

    weight: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]
    facts: Mapping[str, float] = field(default_factory=dict)

    def scores(self, x: Rows) -> npt.NDArray[np.float32]:
        """Return a score for every class, shape (m, c)."""
        scores: npt.NDArray[np.float32] = x @ self.weight.T
        scores += self.bias
        return scores


def without_bias(
    weight: npt.NDArray[np.floating], facts: Mapping[str, float] | None = None
) -> LinearClassifier:
    """Return the classifier of cosines, or other products, with these rows.

    With prototypes it is what every learner that takes them returns for no shots: zero-shot.
    """
    rows = weight.astype(np.float32)
    return LinearClassifier(rows, np.zeros(len(rows), dtype=np.float32), facts or {})


#: CLIP's factor: that of published learners, and the default where no row says better.
PUBLISHED = 100.0

#: Range in which the factor is sought.
BOUNDS = (1.0, 1000.0)

Scale = float | Literal["auto"]


def likely_scale(
    cosines: npt.NDArray[np.floating],
    labels: Labels,
    *,
    bounds: tuple[float, float] = BOUNDS,
) -> float:
    """Return the s in `bounds` that maximises the mean log of softmax(s · cosines) at the labels.

    The likelihood is concave in s, so that there is one maximum. Guo et al., On Calibration of
    Modern Neural Networks, ICML 2017 (temperature scaling).

    Parameters
    ----------
    cosines : array of shape (m, c)
    labels : int64 array of shape (m,)
    bounds : pair of float
    """
    # Gaps to the best of a row are at most 0, whatever the factor: no exponential overflows.
    gaps = cosines.astype(np.float64)
    gaps -= gaps.max(axis=1, keepdims=True)
    mean = float(gaps[np.arange(len(labels)), labels].mean())

    def loss(log_scale: float) -> float:
        scale = float(np.exp(log_scale))
        near = scale * gaps
        return float(np.log(np.exp(near, out=near).sum(axis=1)).mean()) - scale * mean

    low, high = np.log(bounds)
    found = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-3})
    return float(np.exp(found.x))


def own_scale(shots: Shots, given: Scale = "auto") -> float:
    """Return the factor of the cosines with the prototypes: "auto" is `likely_scale` on the shots.

    Unlike `scale_of` it looks at no validation row.
    """
    alone = replace(shots, validation_x=None, validation_labels=None)
    return scale_of(alone, starting_weights(shots), given)


def log_losses(scores: npt.NDArray[np.floating], labels: Labels) -> npt.NDArray[np.float64]:
    """Return −log softmax(scores) at the label of every row, shape (m,)."""
    best = scores.max(axis=1, keepdims=True)
    return np.log(np.exp(scores - best).sum(axis=1)) + (
        best[:, 0] - scores[np.arange(len(labels)), labels]
    )


#: Scores that a choice among settings looks at, at most: rows beyond are left out evenly.
_SCORES = 2**18


def evenly(n: int, n_classes: int) -> Labels:
    """Return which of n rows with a score for each class a choice looks at: all, or some evenly."""
    kept = min(n, max(64, _SCORES // n_classes))
    return np.arange(kept) * n // max(kept, 1)


def starting_weights(shots: Shots) -> Rows:
    """Return the prototypes, or class means at unit length where there are none: shape (c, r)."""
    if shots.prototypes is not None:
        return shots.prototypes
    return normalize_rows(shots.class_sums, what="class means").astype(np.float32)


def scale_of(shots: Shots, weights: Rows, given: Scale = "auto") -> float:
    """Return the factor of the cosines with `weights`, `starting_weights` of the shots.

    "auto" is `likely_scale` on rows that the weights were not made of: of prototypes all shots and
    validation rows, of class means the validation rows. `PUBLISHED` where there is no such row.
    """
    if given != "auto":
        return float(given)
    made = [] if shots.prototypes is None else [(shots.x, shots.labels)]
    rows, labels = (np.concatenate(side) for side in zip(*made, shots.validation, strict=True))
    seen = evenly(len(labels), shots.n_classes)
    return likely_scale(rows[seen] @ weights.T, labels[seen]) if len(labels) else PUBLISHED


#: Candidate masses of one prototype relative to one shot.
MASSES = tuple(float(2.0**power) for power in range(-4, 7))


@dataclass
class ClassMeans:
    """Classify by the nearest class mean, by cosine.

    The mean of a class is that of its unit rows, its prototype counted as `mass` of them, at unit
    length. With no shot it is the prototype, and the classifier that of zero-shot. The mass is
    the one of `masses` with the best mean reciprocal rank on the validation rows, the smallest of
    equal ones; 1 where there are none.

    Parameters
    ----------
    masses : sequence of float
    """

    masses: Sequence[float] = MASSES

    def fit(self, shots: Shots) -> LinearClassifier:
        """Average the shots of every class.

        Raises
        ------
        ZeroRowError
            If the rows of a class cancel out.
        """
        sums = shots.class_sums
        if shots.prototypes is None or not len(shots.labels):
            return _nearest(sums if shots.prototypes is None else shots.prototypes, {})
        masses = self.masses if shots.has_validation else (1.0,)
        made = [_nearest(sums + mass * shots.prototypes, {"mix": mass}) for mass in masses]
        return max(made, key=lambda one: shots.value(one.scores))


def _nearest(means: npt.NDArray[np.floating], facts: dict[str, float]) -> LinearClassifier:
    return without_bias(normalize_rows(means, what="class means"), facts)
