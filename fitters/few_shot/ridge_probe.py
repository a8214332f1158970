"""Ridge regression onto class labels: closed form, all penalties from one decomposition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fitters.aligners.solvers import eigen_gram
from fitters.few_shot.learner import (
    LinearClassifier,
    ShotLearner,
    Shots,
    reciprocal_rank,
    sum_by_class,
)

#: Candidate penalties, relative to the mean eigenvalue of the rows' scatter.
PENALTIES = tuple(float(value) for value in np.geomspace(1e-4, 1e4, 25))

#: Candidate masses of one prototype relative to one shot.
MASSES = (0.25, 1.0, 4.0, 16.0)


@dataclass
class RidgeProbe(ShotLearner):
    """Least squares onto one column a class, 1 for its own rows and 0 for others, with a penalty.

    With rows centred by their mean, scatter G = V diag(s) Vᵀ and class sums S (c × r) of the
    centred rows, which is Yᵀ X without the n × c matrix Y::

        W(α) = S V diag(1 / (s + α)) Vᵀ,   b = share of each class − W · mean

    One decomposition, of the smaller of the r × r and n × n products, serves every penalty
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
        tried = []
        for path in (_Path(shots, mass) for mass in masses):
            for penalty, value in zip(penalties, path.values(shots, penalties), strict=True):
                # Rounded, so that 0.1 and 10 are equally far and the larger is taken.
                far = round(abs(float(np.log10(penalty))), 6) if penalty > 0 else np.inf
                tried.append((value, -far, penalty, -path.mass, path))
        *_, penalty, _, path = max(tried, key=lambda one: one[:4])
        return path.solve(penalty, {"penalty": penalty} | ({"mix": path.mass} if mixed else {}))


class _Path:
    """The decomposition for one mass of the prototypes."""

    def __init__(self, shots: Shots, mass: float) -> None:
        rows, labels, weight = shots.with_prototypes(mass)
        self.mass = mass
        self._mean = weight @ rows / weight.sum()
        # Rows times the root of their weight: products of two are weighted sums.
        root = np.sqrt(weight)[:, None]
        scaled = (rows - self._mean) * root
        self._sums = sum_by_class(scaled * root, labels, shots.n_classes)
        mass_of_class = np.bincount(labels, weights=weight, minlength=shots.n_classes)
        self._shares = mass_of_class / weight.sum()
        n, r = scaled.shape
        self._unit = float(np.sum(scaled**2)) / r
        if n < r:
            values, vectors = eigen_gram(scaled @ scaled.T)
            kept = values > n * np.finfo(np.float64).eps * max(values[-1], 1e-300)
            self._values = values[kept]
            self._vectors = scaled.T @ vectors[:, kept] / np.sqrt(self._values)
        else:
            self._values, self._vectors = eigen_gram(scaled.T @ scaled)
        self._rotated = self._sums @ self._vectors

    def values(self, shots: Shots, penalties: Sequence[float]) -> list[float]:
        """Return the validation value of every penalty; 0 without validation rows."""
        if not shots.has_validation:
            return [0.0] * len(penalties)
        x, labels = shots.validation
        # A product for every penalty is most of the time, and ranks need no more than float32.
        turned = ((x - self._mean) @ self._vectors).astype(np.float32)
        rotated, shares = (a.astype(np.float32) for a in (self._rotated.T, self._shares))
        found = []
        for penalty in penalties:
            scores = (turned * self._inverse(penalty).astype(np.float32)) @ rotated
            scores += shares
            found.append(reciprocal_rank(scores, labels))
        return found

    def solve(self, penalty: float, facts: dict[str, float]) -> LinearClassifier:
        weight = (self._rotated * self._inverse(penalty)) @ self._vectors.T
        bias = self._shares - weight @ self._mean
        return LinearClassifier(weight.astype(np.float32), bias.astype(np.float32), facts)

    def _inverse(self, penalty: float) -> npt.NDArray[np.float64]:
        shifted = self._values + penalty * self._unit
        inverse: npt.NDArray[np.float64] = np.zeros_like(shifted)
        np.divide(1.0, shifted, out=inverse, where=shifted > 0)
        return inverse
