"""Nearest class mean, with prototypes as shots of a chosen mass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fitters.few_shot.learner import LinearClassifier, Shots, without_bias
from fitters.moments.transform import normalize_rows

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
            rows = sums if shots.prototypes is None else shots.prototypes
            return _nearest(rows, {})
        masses = self.masses if shots.has_validation else (1.0,)
        made = [_nearest(sums + mass * shots.prototypes, {"mix": mass}) for mass in masses]
        return max(made, key=lambda one: shots.value(one.scores))


def _nearest(means: npt.NDArray[np.floating], facts: dict[str, float]) -> LinearClassifier:
    return without_bias(normalize_rows(means, what="class means"), facts)
