"""A grid over penalties and mixing weights that widens itself, and the whole curve it leaves.

A choice is only worth stating with what it was chosen from: the curve holds every point that was
evaluated, and says if the best one still lies on an edge of the grid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from fitters.errors import SettingError

Matrix = npt.NDArray[np.float64]

Evaluate = Callable[[Matrix, Matrix], Matrix]
"""(weights, penalties) -> scores of shape (n_weights, n_penalties), higher is better."""


@dataclass(frozen=True)
class Axis:
    """Candidate values of one setting, on a geometric grid.

    Attributes
    ----------
    values : tuple of float
        Ascending.
    lowest, highest : float
        The grid never widens past these.
    searched : bool
        False: the value is given, or plays no part.
    """

    values: tuple[float, ...]
    lowest: float = 0.0
    highest: float = float("inf")
    searched: bool = True

    @classmethod
    def fixed(cls, value: float) -> Axis:
        """Return the axis of one given value."""
        return cls((value,), searched=False)

    @property
    def closed(self) -> Axis:
        """The same values, past which the grid never widens."""
        return replace(self, lowest=self.values[0], highest=self.values[-1])

    def at_least(self, lowest: float) -> Axis:
        """Return the axis without the values below `lowest`, unless it is not searched."""
        kept = tuple(value for value in self.values if value >= lowest * 0.999)
        if not self.searched or not kept:
            return self
        return replace(self, values=kept, lowest=max(lowest, self.lowest))

    def beyond(self, side: str, n: int) -> tuple[float, ...]:
        """Return up to `n` further values on one side ("low" or "high"), ascending."""
        if not self.searched or len(self.values) < 2:
            return ()
        step = self.values[1] / self.values[0]
        edge, powers = (
            (self.values[0], range(-n, 0)) if side == "low" else (self.values[-1], range(1, n + 1))
        )
        further = (edge * step**power for power in powers)
        return tuple(v for v in further if self.lowest * 0.999 <= v <= self.highest * 1.001)


def geometric(lowest: float, highest: float, per_decade: int) -> tuple[float, ...]:
    """Return a geometric grid with both ends, `per_decade` values a factor of ten."""
    n = round(np.log10(highest / lowest) * per_decade) + 1
    return tuple(float(f"{value:.6g}") for value in np.geomspace(lowest, highest, n))


PENALTIES = Axis(geometric(1e-2, 1e1, 2), lowest=1e-4, highest=1e2)
"""Relative penalties, α · p / tr(gram)."""

WEIGHTS = Axis(geometric(1e-1, 1e1, 2), lowest=1e-2, highest=1e2)
"""Mass of one class relative to one real image."""

WIDEN_BY = 2
WIDEN_ROUNDS = 4


@dataclass(frozen=True, eq=False)
class Curve:
    """What was evaluated for a choice, and what it says.

    Attributes
    ----------
    criterion : str
        What a score is; higher is better.
    weights, penalties : Axis
        As evaluated, after widening.
    scores : ndarray of shape (n_weights, n_penalties)
    n_queries : int
        Rows that each score is a mean over.
    n_folds : int
        Parts that were left out in turn.
    """

    criterion: str
    weights: Axis
    penalties: Axis
    scores: Matrix
    n_queries: int
    n_folds: int

    @property
    def best(self) -> tuple[int, int]:
        """Index of the best score; of equal ones, that of the largest penalty, then weight."""
        top = np.argwhere(self.scores >= self.scores.max() - 1e-12)
        row, column = max(top.tolist(), key=lambda index: (index[1], index[0]))
        return row, column

    @property
    def weight(self) -> float:
        """The chosen weight."""
        return self.weights.values[self.best[0]]

    @property
    def penalty(self) -> float:
        """The chosen relative penalty."""
        return self.penalties.values[self.best[1]]

    @property
    def edges(self) -> tuple[str, ...]:
        """Edges of the grid on which the best point lies, such as "penalty high"."""
        hits = []
        for name, axis, at in zip(
            ("weight", "penalty"), (self.weights, self.penalties), self.best, strict=True
        ):
            if axis.searched and at == 0:
                hits.append(f"{name} low")
            if axis.searched and at == len(axis.values) - 1:
                hits.append(f"{name} high")
        return tuple(hits)

    def to_facts(self) -> dict[str, Any]:
        """Return the choice and the whole curve as plain values for JSON."""
        facts: dict[str, Any] = {
            "criterion": self.criterion,
            "score": float(self.scores[self.best]),
            "edges": list(self.edges),
            "n_queries": self.n_queries,
            "n_folds": self.n_folds,
        }
        for name, axis in (("weights", self.weights), ("penalties", self.penalties)):
            if axis.searched:
                facts[name] = list(axis.values)
        facts["scores"] = self.scores.tolist()
        return facts


def search(
    evaluate: Evaluate,
    *,
    weights: Axis,
    penalties: Axis,
    criterion: str,
    n_queries: int,
    n_folds: int,
) -> Curve:
    """Evaluate the grid, and widen it while the best point lies on an edge that can move.

    Only new points are evaluated; at most `WIDEN_ROUNDS` times `WIDEN_BY` values a side.

    Raises
    ------
    SettingError
        If a score is not finite.
    """

    def checked(at_weights: Matrix, at_penalties: Matrix) -> Matrix:
        found = evaluate(at_weights, at_penalties)
        if not np.isfinite(found).all():
            msg = f"The {criterion} is not finite somewhere on the grid. Check the rows for NaN."
            raise SettingError(msg)
        return found

    scores = checked(np.array(weights.values), np.array(penalties.values))
    curve = Curve(criterion, weights, penalties, scores, n_queries, n_folds)
    for _ in range(WIDEN_ROUNDS):
        widened = curve
        for edge in curve.edges:
            widened = _widen(widened, edge, checked)
        if widened is curve:
            break
        curve = widened
    return curve


def _widen(curve: Curve, edge: str, evaluate: Evaluate) -> Curve:
    name, side = edge.split()
    along = 0 if name == "weight" else 1
    axis = curve.weights if name == "weight" else curve.penalties
    further = axis.beyond(side, WIDEN_BY)
    if not further:
        return curve
    weights, penalties = np.array(curve.weights.values), np.array(curve.penalties.values)
    new = evaluate(
        np.array(further) if along == 0 else weights, np.array(further) if along == 1 else penalties
    )
    low = side == "low"
    values = further + axis.values if low else axis.values + further
    scores = np.concatenate([new, curve.scores] if low else [curve.scores, new], axis=along)
    grown = replace(axis, values=values)
    if name == "weight":
        return replace(curve, weights=grown, scores=scores)
    return replace(curve, penalties=grown, scores=scores)
