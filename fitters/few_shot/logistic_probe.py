"""Multinomial logistic regression with an L2 penalty, its strength by CoOp's schedule."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fitters.few_shot.learner import Labels, LinearClassifier, ShotLearner, Shots

#: First candidates of C, the inverse penalty: those of CoOp's linear probe.
STRENGTHS = (1e6, 1e4, 1e2, 1.0, 1e-2, 1e-4, 1e-6)

#: Halvings of the range around the best of them.
STEPS = 8

#: Candidate masses of one prototype relative to one shot.
MASSES = (0.25, 1.0, 4.0, 16.0)

#: Tolerance of the gradient. scikit-learn's own, 1e-4, leaves intercepts wrong where C is small.
TOLERANCE = 1e-6

Value = Callable[[float], float]


@dataclass(kw_only=True)
class LogisticProbe(ShotLearner):
    """scikit-learn's `LogisticRegression` on the shots, prototypes as rows more.

        min over W, b of ½‖W‖² + C Σ mᵢ · −log softmax(W xᵢ + b)[yᵢ]

    (of two classes ½‖w₂ − w₁‖² instead of ½‖W‖², as scikit-learn has it). The masses mᵢ make all
    classes equally heavy: for equally many shots of every class they are 1.
    A prototype is a row of its class with a mass relative to one shot. (The problem is convex, so
    that weights to start from would change nothing but the time.)

    C is sought as in CoOp's linear probe (Zhou et al., IJCV 2022): seven values from 1e6 to 1e-6
    first, then `steps` halvings in log₁₀ C around the best. The original compares the two ends of
    its range and drops the half at the worse one, though the peak may lie there; here each step
    looks halfway to both ends of a range about the best, and the best of all is kept. C is sought
    with mass 1, then the mass for that C. Both by the mean reciprocal rank on the validation rows,
    of equal ones the stronger penalty and the smaller mass; without validation rows C = 1 and mass
    1. With no shot it is the prototypes.

    Parameters
    ----------
    masses : sequence of float
    steps : int
    max_iter : int
        Of L-BFGS. A small penalty may end it there; that is no error.
    """

    masses: Sequence[float] = MASSES
    steps: int = STEPS
    max_iter: int = 1000

    def _learn(self, shots: Shots) -> LinearClassifier:
        """Seek C and the mass, and keep the best."""
        problem = _Problem(shots, self.max_iter)
        if not shots.has_validation:
            return problem.solve(1.0, 1.0)
        strength = search(lambda c: problem.value(c, 1.0), self.steps)
        masses = (1.0,) if shots.prototypes is None else self.masses
        mass = max(masses, key=lambda m: (problem.value(strength, m), -m))
        return problem.solve(strength, mass)


def search(value: Value, steps: int = STEPS) -> float:
    """Return the best C found: the grid, then halvings around its best; smaller C wins ties."""
    known = {float(np.log10(c)): value(c) for c in STRENGTHS}

    def best() -> float:
        return max(known, key=lambda place: (known[place], -place))

    width = 1.0
    for _ in range(steps):
        width /= 2
        middle = best()
        for place in (middle - width, middle + width):
            if place not in known:
                known[place] = value(10.0**place)
    return float(10.0 ** best())


class _Problem:
    """The regression of one few-shot problem, for any C and mass; every fit is made once."""

    def __init__(self, shots: Shots, max_iter: int) -> None:
        self._shots, self._max_iter = shots, max_iter
        self._fits: dict[tuple[float, float], LinearClassifier] = {}
        self._rows, self._labels, _ = shots.with_prototypes(1.0)
        # The solution lies in the span of the rows: fewer rows than columns make a small problem.
        self._basis: npt.NDArray[np.float64] | None = None
        if self._rows.shape[0] < self._rows.shape[1]:
            self._basis, triangle = np.linalg.qr(self._rows.T)
            self._rows = triangle.T

    def solve(self, strength: float, mass: float) -> LinearClassifier:
        key = (strength, mass)
        if key not in self._fits:
            self._fits[key] = self._fit(strength, mass)
        return self._fits[key]

    def value(self, strength: float, mass: float) -> float:
        return self._shots.value(self.solve(strength, mass).scores)

    def _fit(self, strength: float, mass: float) -> LinearClassifier:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        shots = self._shots
        *_, masses = shots.with_prototypes(mass)
        model = LogisticRegression(C=strength, tol=TOLERANCE, max_iter=self._max_iter)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            # One or two shots a class look like the values of a regression to it.
            warnings.filterwarnings("ignore", "The number of unique classes", UserWarning)
            model.fit(
                self._rows,
                self._labels,
                sample_weight=_balanced(masses, self._labels, shots.n_classes),
            )
        weight, bias = model.coef_, model.intercept_
        if shots.n_classes == 2:
            # Of two classes scikit-learn gives the difference.
            weight, bias = np.concatenate([-weight, weight]) / 2, np.append(-bias, bias) / 2
        if self._basis is not None:
            weight = weight @ self._basis.T
        facts = {"penalty": 1.0 / strength}
        if shots.prototypes is not None:
            facts["mix"] = mass
        return LinearClassifier(weight.astype(np.float32), bias.astype(np.float32), facts)


def _balanced(
    masses: npt.NDArray[np.float64], labels: Labels, n_classes: int
) -> npt.NDArray[np.float64]:
    """Return masses whose sum is the same in every class, and the same as before in all."""
    of_class = np.bincount(labels, weights=masses, minlength=n_classes)
    return masses * (masses.sum() / n_classes / of_class[labels])
