"""Ridge regression onto class labels, of rows or of a random feature map: RidgeProbe, RanPAC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fitters.few_shot.class_moments import ClassMoments
from fitters.few_shot.learner import (
    Labels,
    LinearClassifier,
    Rows,
    ShotLearner,
    Shots,
    evenly,
    reciprocal_rank,
)
from fitters.pairs import Matrix
from fitters.spectrum import Spectrum

#: Candidate penalties, relative to the mean eigenvalue of the rows' scatter.
PENALTIES = tuple(float(value) for value in np.geomspace(1e-4, 1e4, 25))

#: Candidate masses of one prototype relative to one shot.
MASSES = (0.25, 1.0, 4.0, 16.0)

# The least α for every row, of length about 1: a penalty of 0 leaves out what is rounding.
_LEAST = 1e-12


@dataclass
class RidgeProbe(ShotLearner):
    """Least squares onto one column a class, 1 for its own rows and 0 for others, with a penalty.

    With rows centred by their mean, scatter G and class sums S (c × r) of the centred rows, which
    is Yᵀ X without the n × c matrix Y::

        W(α) = S (G + α I)⁻¹,   b = share of each class − W · mean

    One decomposition, of r columns or of the span of few rows, serves every penalty
    α = penalty · tr(G) / r. Prototypes are rows of their class with a mass relative to one shot.
    Penalty and mass are those with the best mean reciprocal rank on the validation rows, of equal
    ones the penalty nearest 1, for a huge one leaves nothing but the shares of the classes; without
    validation rows penalty 1 and mass 1. With no shot it is the prototypes.

    The same numbers as ``sklearn.linear_model.Ridge(alpha=α).fit(X, one_hot, sample_weight)``.

    Parameters
    ----------
    penalties, masses : sequence of float
    """

    penalties: Sequence[float] = PENALTIES
    masses: Sequence[float] = MASSES

    def _learn(self, shots: Shots) -> LinearClassifier:
        """Solve for every penalty and mass, and keep the best."""
        free = shots.has_validation
        penalties = self.penalties if free else (1.0,)
        mixed = shots.prototypes is not None
        masses = (self.masses if free else (1.0,)) if mixed else (1.0,)
        rows, labels, _ = shots.with_prototypes(1.0)
        basis, within = _in_their_span(rows)
        given, prior = (
            ClassMoments.of(within[part], labels[part], shots.n_classes)
            for part in (slice(len(shots.x)), slice(len(shots.x), None))
        )
        tried = []
        for mass in masses:
            path = _Path(given + prior * mass, basis)
            for penalty, value in zip(penalties, path.values(shots, penalties), strict=True):
                # Rounded, so that 0.1 and 10 are equally far and the larger is taken.
                far = round(abs(float(np.log10(penalty))), 6) if penalty > 0 else np.inf
                tried.append((value, -far, penalty, -mass, path))
        *_, penalty, mass, path = max(tried, key=lambda one: one[:4])
        return path.solve(penalty, {"penalty": penalty} | ({"mix": -mass} if mixed else {}))


@dataclass(frozen=True, eq=False)
class RandomClassifier:
    """Scores relu(x W) Vᵀ.

    Attributes
    ----------
    projection : array of shape (r, m)
        W.
    linear : LinearClassifier
        V, of m columns.
    """

    projection: Rows
    linear: LinearClassifier

    @property
    def facts(self) -> Mapping[str, float]:
        """What was chosen, by name."""
        return self.linear.facts

    def scores(self, x: Rows) -> npt.NDArray[np.float32]:
        """Return a score for every class, shape (m, c)."""
        return self.linear.scores(random_relu(x, self.projection))


def random_relu(x: Rows, projection: Rows) -> Rows:
    """Return max(0, x W): of unit rows, whatever their length, entries of one order."""
    features: Rows = x @ projection
    return np.maximum(features, 0.0, out=features)


@dataclass(kw_only=True)
class RanPAC(ShotLearner):
    """Ridge onto one column a class after a random projection and a relu.

        H = relu(X W),   V = Hᵀ-sums of the classes · (Hᵀ H + α I)⁻¹,   α = penalty · tr(Hᵀ H) / m

    with W (r × m) drawn from a standard normal by `seed`, rows at unit length; not centred, no
    intercept. McDonnell et al., RanPAC, NeurIPS 2023 (m 10,000 there). It follows from the
    `ClassMoments` of H, so that classes and tasks may come in any order. Prototypes are further
    rows of their class.

    The penalty is the one with the least squared error on shots that are left out, one at a time,
    in closed form; 1 without a class of two shots. No validation row is looked at. With no shot it
    is the prototypes.

    Parameters
    ----------
    width : int
        m.
    penalties : sequence of float
    seed : int
    """

    width: int = 2000
    penalties: Sequence[float] = PENALTIES[::2]
    seed: int = 0

    def projection(self, r: int) -> Rows:
        """Return W, shape (r, m)."""
        return np.random.default_rng(self.seed).standard_normal((r, self.width), dtype=np.float32)

    def _learn(self, shots: Shots) -> RandomClassifier:
        """Decompose the features once for every penalty."""
        projection = self.projection(shots.x.shape[1])
        rows, labels, _ = shots.with_prototypes(1.0)
        features = random_relu(rows.astype(np.float32), projection)
        basis, within = _in_their_span(features)
        moments = ClassMoments.of(within, labels, shots.n_classes)
        path = _Path(moments, basis, centre=False)
        held = np.flatnonzero(shots.counts[shots.labels] > 1)
        # A row costs as its features do, too.
        held = held[evenly(len(held), max(shots.n_classes, self.width // 4))]
        penalty = 1.0
        if len(held):
            errors = path.left_out(features[held], labels[held], self.penalties)
            penalty = self.penalties[int(np.argmin(np.round(errors, 9)))]
        facts = {"penalty": penalty, "folds": float(len(held))}
        return RandomClassifier(projection, path.solve(penalty, facts))


def _in_their_span(
    rows: npt.NDArray[np.floating],
) -> tuple[Matrix | None, npt.NDArray[np.floating]]:
    """Return orthonormal columns that span few rows, and the rows by these; None: as they are."""
    if 2 * len(rows) >= rows.shape[1]:
        return None, rows
    basis, within = np.linalg.qr(rows.T.astype(np.float64))
    return basis, within.T


class _Path:
    """Ridge from moments of rows, about their mean or as they are, for any penalty.

    Rows may be given by an orthonormal basis.
    """

    def __init__(
        self, moments: ClassMoments, basis: Matrix | None = None, *, centre: bool = True
    ) -> None:
        mass = moments.counts.sum() if centre else np.inf
        mean = moments.sums.sum(axis=0) / mass
        self._shares = moments.counts / mass
        scatter = moments.products - np.outer(mean, moments.sums.sum(axis=0))
        sums = moments.sums - np.outer(moments.counts, mean)
        self._spectrum = Spectrum.of(scatter, sums.T, basis)
        self._mean = mean if basis is None else basis @ mean
        self._unit = float(np.trace(scatter)) / len(self._spectrum.lhs)
        self._least = _LEAST * float(moments.counts.sum())

    def _alpha(self, penalty: float) -> float:
        return max(penalty * self._unit, self._least)

    def values(self, shots: Shots, penalties: Sequence[float]) -> list[float]:
        """Return the validation value of every penalty; 0 without validation rows."""
        if not shots.has_validation:
            return [0.0] * len(penalties)
        x, labels = shots.validation
        # A product for every penalty is most of the time, and ranks need no more than float32.
        turned = (x - self._mean) @ self._spectrum.lhs
        rhs, shares = (a.astype(np.float32) for a in (self._spectrum.rhs, self._shares))
        found = []
        for penalty in penalties:
            inverse = self._spectrum.inverse(self._alpha(penalty))
            scores = (turned * inverse).astype(np.float32) @ rhs
            scores += shares
            found.append(reciprocal_rank(scores, labels))
        return found

    def left_out(
        self, rows: npt.NDArray[np.floating], labels: Labels, penalties: Sequence[float]
    ) -> list[float]:
        """Return the squared error of these rows, each predicted without it, for every penalty.

        Rows of weight 1 among those decomposed, not centred.
        """
        targets = np.eye(len(self._shares))[labels]
        fits = self._spectrum.beside(rows.astype(np.float64), targets)
        missing = (targets - fits.left_out(self._alpha(penalty)) for penalty in penalties)
        return [float(np.mean(np.sum(rest**2, axis=1))) for rest in missing]

    def solve(self, penalty: float, facts: dict[str, float]) -> LinearClassifier:
        weight = self._spectrum.fit(self._alpha(penalty)).T
        bias = self._shares - weight @ self._mean
        return LinearClassifier(weight.astype(np.float32), bias.astype(np.float32), facts)
