"""A score for every class that is linear in the row: what most learners return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from fitters.few_shot.learner import Rows


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
