"""A self-widening grid over any number of settings, and the whole surface it leaves.

`Curve` is for a penalty and a mixing weight; a kernel adds its width, and ASIF has other settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fitters.errors import SettingError
from fitters.select.curve import WIDEN_BY, WIDEN_ROUNDS, Axis

Matrix = npt.NDArray[np.float64]

Measured = tuple[Matrix, Matrix]
"""Scores (higher is better) and their standard errors, one a grid point."""

Evaluate = Callable[[Mapping[str, Matrix]], Measured]
"""Values of each axis -> scores and errors, with one dimension an axis, in the axes' order."""

Rule = Literal["best", "one-se"]

PLURALS = {
    "gamma": "gammas", "penalty": "penalties", "weight": "weights", "top_k": "top_ks",
    "power": "powers",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Surface:
    """What was evaluated for a choice, and what it says.

    Attributes
    ----------
    criterion : str
        What a score is; higher is better.
    axes : dict of str to Axis
        As evaluated, after widening; of equal scores the last value of the first axis counts, then
        that of the second.
    scores, errors : ndarray, one dimension an axis
        Means over queries, and their standard errors over groups of queries.
    n_queries : int
        Rows that each score is a mean over.
    n_folds : int
        Parts that were left out in turn.
    rule : {"best", "one-se"}
        "one-se": of all points within one standard error of the best, those with the largest
        mixing weight, and of these the best. With few queries the best point is mostly luck, and
        the prototypes are the safer side to err on.
    """

    criterion: str
    axes: dict[str, Axis]
    scores: Matrix
    errors: Matrix
    n_queries: int
    n_folds: int
    rule: Rule = "best"

    @property
    def best(self) -> tuple[int, ...]:
        """Index of the chosen point."""
        top = self.scores.max() - 1e-12
        candidates = self.scores >= top
        if self.rule == "one-se" and "weight" in self.axes:
            at = np.unravel_index(int(np.argmax(self.scores)), self.scores.shape)
            within = self.scores >= top - self.errors[at]
            dimension = list(self.axes).index("weight")
            largest = np.argwhere(within)[:, dimension].max()
            kept = np.zeros_like(within)
            kept[(slice(None),) * dimension + (largest,)] = True
            allowed = np.where(within & kept, self.scores, -np.inf)
            candidates = allowed >= allowed.max() - 1e-12
        index: list[int] = max(np.argwhere(candidates).tolist())
        return tuple(index)

    @property
    def chosen(self) -> dict[str, float]:
        """The chosen value of each axis."""
        return {
            name: axis.values[at]
            for (name, axis), at in zip(self.axes.items(), self.best, strict=True)
        }

    @property
    def edges(self) -> tuple[str, ...]:
        """Edges of the grid on which the chosen point lies, such as "gamma high"."""
        hits = []
        for (name, axis), at in zip(self.axes.items(), self.best, strict=True):
            if axis.searched and at == 0:
                hits.append(f"{name} low")
            if axis.searched and at == len(axis.values) - 1:
                hits.append(f"{name} high")
        return tuple(hits)

    def to_facts(self) -> dict[str, Any]:
        """Return the choice and the whole surface as plain values for JSON."""
        facts: dict[str, Any] = {
            "criterion": self.criterion,
            "rule": self.rule,
            "score": float(self.scores[self.best]),
            "edges": list(self.edges),
            "n_queries": self.n_queries,
            "n_folds": self.n_folds,
        }
        for name, axis in self.axes.items():
            facts[PLURALS[name]] = list(axis.values)
        facts["scores"], facts["errors"] = self.scores.tolist(), self.errors.tolist()
        return facts


def explore(
    evaluate: Evaluate,
    axes: Mapping[str, Axis],
    *,
    criterion: str,
    n_queries: int,
    n_folds: int,
    rule: Rule = "best",
) -> Surface:
    """Evaluate the grid, and widen it while the chosen point lies on an edge that can move.

    Only new points are evaluated; at most `WIDEN_ROUNDS` times `WIDEN_BY` values a side.

    Raises
    ------
    SettingError
        If a score is not finite, or the rule is unknown.
    """
    if rule not in ("best", "one-se"):
        msg = f"rule must be 'best' or 'one-se'. Got {rule!r}."
        raise SettingError(msg)

    def checked(at: Mapping[str, Matrix]) -> Measured:
        scores, errors = evaluate(at)
        if not (np.isfinite(scores).all() and np.isfinite(errors).all()):
            msg = f"The {criterion} is not finite somewhere on the grid. Check the rows for NaN."
            raise SettingError(msg)
        return scores, errors

    grid = {name: np.array(axis.values) for name, axis in axes.items()}
    surface = Surface(criterion, dict(axes), *checked(grid), n_queries, n_folds, rule)
    for _ in range(WIDEN_ROUNDS):
        widened = surface
        for edge in surface.edges:
            widened = _widen(widened, edge, checked)
        if widened is surface:
            break
        surface = widened
    return surface


def _widen(surface: Surface, edge: str, evaluate: Evaluate) -> Surface:
    name, side = edge.split()
    axis = surface.axes[name]
    further = axis.beyond(side, WIDEN_BY)
    if not further:
        return surface
    at = {other: np.array(values.values) for other, values in surface.axes.items()}
    at[name] = np.array(further)
    new = evaluate(at)
    low = side == "low"
    values = further + axis.values if low else axis.values + further
    dimension = list(surface.axes).index(name)
    scores, errors = (
        np.concatenate([more, had] if low else [had, more], axis=dimension)
        for more, had in zip(new, (surface.scores, surface.errors), strict=True)
    )
    axes = surface.axes | {name: replace(axis, values=values)}
    return replace(surface, axes=axes, scores=scores, errors=errors)
