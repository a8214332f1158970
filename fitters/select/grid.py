"""Scores of settings: a curve or a surface, its best point, and the folds behind it.

A choice is only worth stating with what it was chosen from: the curve holds every point that was
evaluated, and says if the best one still lies on an edge of the grid.

`Curve` is for a penalty and a mixing weight; a kernel adds its width, and ASIF has other settings.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fitters.errors import SelectionError, SettingError
from fitters.pairs import Pairs

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
            widened = _widen_curve(widened, edge, checked)
        if widened is curve:
            break
        curve = widened
    return curve


def _widen_curve(curve: Curve, edge: str, evaluate: Evaluate) -> Curve:
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


Measured = tuple[Matrix, Matrix]
"""Scores (higher is better) and their standard errors, one a grid point."""

EvaluateSurface = Callable[[Mapping[str, Matrix]], Measured]
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
    evaluate: EvaluateSurface,
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
            widened = _widen_surface(widened, edge, checked)
        if widened is surface:
            break
        surface = widened
    return surface


def _widen_surface(surface: Surface, edge: str, evaluate: EvaluateSurface) -> Surface:
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


def folds_by_group(
    groups: npt.NDArray[Any], n_folds: int, rng: np.random.Generator
) -> npt.NDArray[np.intp]:
    """Return the fold of each row: whole groups, in random order, each to the smallest fold.

    Parameters
    ----------
    groups : ndarray of shape (n,)
        Labels; the captions of one image, or the images of one description, share one.
    n_folds : int
        At least 2.
    rng : numpy.random.Generator
        Draws the order of the groups.

    Returns
    -------
    ndarray of int, shape (n,)
        0 … n_folds − 1; every fold holds at least one group.

    Raises
    ------
    SelectionError
        If there are fewer groups than folds.
    """
    labels, codes, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if n_folds < 2 or len(labels) < n_folds:
        msg = (
            f"{n_folds} folds of {len(labels):,} groups cannot be made: at least 2 folds, and a "
            "group for each. Give more pairs, or fewer folds."
        )
        raise SelectionError(msg)
    order = rng.permutation(len(labels))
    taken: Any = np.arange(len(labels)) % n_folds
    if sizes.min() < sizes.max():  # of equal groups the smallest fold is each in turn
        taken = []
        # The smallest fold, of equal ones the first, is at the top: a fifth of `argmin`'s time.
        smallest = [(0, fold) for fold in range(n_folds)]
        for size in sizes[order].tolist():
            rows, fold = smallest[0]
            taken.append(fold)
            heapq.heapreplace(smallest, (rows + size, fold))
    fold_of = np.empty(len(labels), dtype=np.intp)
    fold_of[order] = taken
    assigned: npt.NDArray[np.intp] = fold_of[codes]
    return assigned


def folds_of_pairs(
    pairs: Pairs, n_folds: int, what: str, rng: np.random.Generator, *, kind: str = "real pairs"
) -> npt.NDArray[np.intp]:
    """Return the folds of pairs for choosing `what`; fewer than `n_folds` if need be.

    `kind` says what the pairs are, for the message.

    Raises
    ------
    SelectionError
        If all pairs are of one group.
    """
    n_groups = len(np.unique(pairs.row_groups))
    if n_groups < 2:
        msg = (
            f"{pairs.n:,} {kind} of one group cannot be cross-validated, so {what}='auto' has "
            f"nothing to go by. Give pairs of at least 2 groups, or a number for {what}."
        )
        raise SelectionError(msg)
    return folds_by_group(pairs.row_groups, min(n_folds, n_groups), rng)
