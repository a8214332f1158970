"""Choosing penalties and mixing weights from training pairs and prototypes only.

Here are scores of settings, a surface over named axes, its best point, and the folds behind it.
A choice is only worth stating with what it was chosen from: the surface holds every point that was
evaluated, and says if the best one still lies on an edge of the grid.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fitters.errors import SelectionError
from fitters.pairs import Matrix, Pairs

if TYPE_CHECKING:
    from fitters.settings import FitConfig


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
        False: the value is given, or has no effect.
    """

    values: tuple[float, ...]
    lowest: float = 0.0
    highest: float = float("inf")
    searched: bool = True

    @classmethod
    def fixed(cls, value: float) -> Axis:
        """Return the axis of one given value."""
        return cls((float(value),), searched=False)

    @property
    def coarser(self) -> Axis:
        """The same range in `COARSE` values a decade."""
        return replace(self, values=geometric(self.values[0], self.values[-1], COARSE))

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

COARSE = 1
"""Values a decade where every point of the grid costs a fit: a third of the closed forms' grid."""

WIDEN_BY = 2
WIDEN_ROUNDS = 4


PLURALS = {
    "penalty": "penalties", "weight": "weights", "gamma": "gammas", "top_k": "top_ks",
    "power": "powers", "components": "components",
}  # fmt: skip
"""Every axis a surface may have, in the order in which they decide between equal scores, and what
its values are called in the facts of a choice."""

Evaluate = Callable[[Mapping[str, Matrix]], Matrix]
"""Values of each axis -> scores, higher is better, with one dimension an axis in their order."""


@dataclass(frozen=True, eq=False)
class Surface:
    """The scores of a grid of settings, and the best point.

    Attributes
    ----------
    criterion : str
        What a score is; higher is better.
    axes : dict of str to Axis
        As evaluated, after widening; names are those of `PLURALS`.
    scores : ndarray, one dimension an axis
        Means over queries.
    n_queries : int
        Rows that each score is a mean over.
    n_folds : int
        Parts that were left out in turn.
    of_ranks : bool
        Whether a score is a mean of values from 0 to 1: of reciprocal ranks, or of hits.
    tied : float
        Scores that are apart by no more are equal.
    """

    criterion: str
    axes: dict[str, Axis]
    scores: Matrix
    n_queries: int
    n_folds: int
    of_ranks: bool = False
    tied: float = 1e-12

    @property
    def best(self) -> tuple[int, ...]:
        """Index of the best score.

        Of equal scores it is that of the largest penalty, then of the largest weight and so on by
        `PLURALS`; the number of components decides last, and the smallest counts.
        """
        top = np.argwhere(self.scores >= self.scores.max() - self.tied)
        names = list(self.axes)
        order = [(names.index(name), name == "components") for name in PLURALS if name in names]
        return max(
            map(tuple, top.tolist()),
            key=lambda index: [-index[along] if least else index[along] for along, least in order],
        )

    @property
    def chosen(self) -> dict[str, float]:
        """The chosen value of each axis."""
        return {
            name: axis.values[at]
            for (name, axis), at in zip(self.axes.items(), self.best, strict=True)
        }

    @property
    def score(self) -> float:
        """The score of what was chosen."""
        return float(self.scores[self.best])

    @property
    def edges(self) -> tuple[str, ...]:
        """Edges of the grid on which the chosen point lies, such as "penalty high"."""
        hits: list[str] = []
        for (name, axis), at in zip(self.axes.items(), self.best, strict=True):
            if axis.searched and at == 0:
                hits.append(f"{name} low")
            if axis.searched and at == len(axis.values) - 1:
                hits.append(f"{name} high")
        return tuple(hits)

    @property
    def flat(self) -> bool:
        """Whether no point of the grid is worse than the best by more than one standard error.

        That of the best score s is √(s (1 − s) / n_queries) if s is a share of hits, and less if it
        is a mean of reciprocal ranks. The choice is made by its rule all the same; on a flat
        surface another sample may choose any other point.
        """
        best, worst = self.score, float(self.scores.min())
        return bool(best - worst <= np.sqrt(best * (1 - best) / self.n_queries))

    @property
    def searched(self) -> dict[str, Axis]:
        """The axes that were searched: a grid for another choice."""
        return {name: axis for name, axis in self.axes.items() if axis.searched}

    def to_facts(self) -> dict[str, Any]:
        """Return the choice and all scores as plain values for JSON."""
        facts: dict[str, Any] = {
            "criterion": self.criterion,
            "score": self.score,
            "edges": list(self.edges),
            **({"flat": self.flat} if self.of_ranks else {}),
            "n_queries": self.n_queries,
            "n_folds": self.n_folds,
        }
        facts |= {
            PLURALS[name]: list(axis.values)
            for name, axis in self.axes.items()
            if axis.searched or len(axis.values) > 1
        }
        return facts | {"scores": self.scores.tolist()}


def choose(
    score: Evaluate,
    axes: Mapping[str, Axis],
    *,
    criterion: str,
    n_queries: int,
    n_folds: int,
    of_ranks: bool = False,
    tied: float = 1e-12,
) -> Surface:
    """Evaluate the grid, and widen it while the best point lies on an edge that can move.

    Only new points are evaluated; at most `WIDEN_ROUNDS` times `WIDEN_BY` values a side.
    """
    scores = score({name: np.array(axis.values) for name, axis in axes.items()})
    surface = Surface(
        criterion, dict(axes), scores, n_queries, n_folds, of_ranks=of_ranks, tied=tied
    )
    for _ in range(WIDEN_ROUNDS):
        widened = surface
        for edge in surface.edges:
            widened = _widen(widened, edge, score)
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
    new = evaluate(at | {name: np.array(further)})
    low = side == "low"
    values = further + axis.values if low else axis.values + further
    scores = np.concatenate(
        [new, surface.scores] if low else [surface.scores, new],
        axis=list(surface.axes).index(name),
    )
    return replace(surface, axes=surface.axes | {name: replace(axis, values=values)}, scores=scores)


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
        raise SelectionError(
            f"{n_folds} folds of {len(labels):,} groups cannot be made: at least 2 folds, and a "
            "group for each. Give more pairs, or fewer folds."
        )
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
    return fold_of[codes]


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
        raise SelectionError(
            f"{pairs.n:,} {kind} of one group cannot be cross-validated, so {what}='auto' has "
            f"nothing to go by. Give pairs of at least 2 groups, or a number for {what}."
        )
    return folds_by_group(pairs.row_groups, min(n_folds, n_groups), rng)


PARAMETERS = {"penalty": "alpha"}
"""Constructor parameters of aligners that are not called as the setting is."""


def parameter_of(setting: str) -> str:
    """Return the constructor parameter of an aligner that a setting is passed as."""
    return PARAMETERS.get(setting, setting)


@dataclass(frozen=True, eq=False)
class Choice:
    """What `tune` of an aligner chose, and what it was chosen from.

    Attributes
    ----------
    params : dict
        Constructor parameters of the final fit, such as "alpha"; the others stay as they are.
    mix : float
        Mass of one class relative to one real image.
    facts : dict
        Plain values for JSON: the scores of the whole grid, and the edges of it that were hit.
    axes : dict of str to Axis
        The grids of what was chosen, as evaluated: "penalty", "weight" (the mix), "gamma", "top_k",
        "power".
    of_fit : dict
        Arguments of the final `fit_sources`, besides the data and the mix.
    """

    params: dict[str, Any] = field(default_factory=dict)
    mix: float = 1.0
    facts: dict[str, Any] = field(default_factory=dict)
    axes: dict[str, Axis] = field(default_factory=dict)
    of_fit: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Search:
    """What a fit leaves to choose, and how it is chosen: the second argument of `tune`.

    Attributes
    ----------
    config : FitConfig
        What is "auto" in it is chosen.
    options : tuple of str
        Settings that the method has; the others have no effect.
    rng : numpy.random.Generator
        Draws the folds.
    n_folds : int
        Fewer if there are fewer groups.
    grid : mapping of str to Axis
        Values to choose from, and none beyond; the default grids stand for what it lacks.
    """

    config: FitConfig
    options: tuple[str, ...]
    rng: np.random.Generator
    n_folds: int = 4
    grid: Mapping[str, Axis] = field(default_factory=dict)

    def axis(self, name: str, default: Axis, own: float | None = None) -> Axis:
        """Return the grid of an axis of `PLURALS`; if its value is given, or `own`, that alone."""
        value = getattr(self.config, "mix" if name == "weight" else name)
        if value == "auto":
            return self.grid[name].closed if name in self.grid else default
        return Axis.fixed(own if value is None and own is not None else value)

    def axes(self, *, mixed: bool, coarse: bool = False) -> dict[str, Axis]:
        """Return the axes "weight" and "penalty"; of what has no effect, a fixed value.

        Parameters
        ----------
        mixed : bool
            Whether there are prototypes and real pairs.
        coarse : bool
            Take the grid of fits that have no closed form.
        """
        penalty, weight = Axis.fixed(0.0), Axis.fixed(1.0)
        if "penalty" in self.options:
            penalty = self.axis("penalty", PENALTIES.coarser if coarse else PENALTIES)
        if mixed and "mix" in self.options:
            weight = self.axis("weight", WEIGHTS.coarser if coarse else WEIGHTS)
        return {"weight": weight, "penalty": penalty}

    @property
    def metric(self) -> Any:
        """What held-out real pairs are scored by; each validation refuses what it does not know."""
        return self.config.validation

    @property
    def by_error(self) -> bool:
        """Whether the held-out squared error decides; of both kinds of data, both names do."""
        return self.config.criterion == "error" or self.config.validation == "squared"

    def chosen(self, axes: Mapping[str, Axis], surface: Surface | None) -> Choice:
        """Return the best of a surface, or without one the fixed values of its axes."""
        at = {name: axis.values[0] for name, axis in axes.items()}
        if surface is None:
            return Choice(self._params(at), at.get("weight", 1.0))
        at |= surface.chosen
        return Choice(self._params(at), at.get("weight", 1.0), surface.to_facts(), surface.searched)

    def _params(self, at: Mapping[str, float]) -> dict[str, Any]:
        return {parameter_of(name): value for name, value in at.items() if name in self.options}
