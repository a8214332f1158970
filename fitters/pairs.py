"""Pairs of rows (x_i, y_i): the one form in which data reaches a fitter.

A real image with its caption, and a classification head's row with its class name, are the
same thing here; what tells them apart is who passes them, and their weight.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from featstore.errors import FeatstoreError, RowsError
from featstore.matrices import matrix, vector
from featstore.terminal import Card, Shown
from fitters.errors import PairsError

Rows = npt.NDArray[np.floating[Any]]
Matrix = npt.NDArray[np.float64]
"""A matrix of rows as a fit sees them, float32 or float64."""

Prototypes: TypeAlias = "Pairs | tuple[Any, Any] | tuple[Any, Any, Any]"
"""Rows of a head with the texts of its classes: pairs whose groups are the names of the classes, or
(rows, texts) or (rows, texts, names)."""


@dataclass(frozen=True, eq=False, repr=False)
class Pairs(Shown):
    """n paired rows of two spaces.

    Attributes
    ----------
    x : Rows of shape (n, p)
        Rows of the source space (images, head weights), as stored: not normalised. Of any library;
        `featstore.matrices.matrix` says what becomes of them.
    y : Rows of shape (n, q)
        Rows of the target space (captions, class texts), as stored: not normalised.
    groups : ndarray of shape (n,) or None
        What must never be split between fitting and validation: the image or description of a
        real pair, the *name* of a class (classes that share a name share the group). None means
        that every row is its own group.
    weight : ndarray of shape (n,) or None
        Mass of each row, not negative. The m captions of one image carry 1/m each. None means 1.
    asked : ndarray of shape (n, q) or None
        Rows by which each pair will be looked for, if not by `y`: a class that is fitted on its
        name and its definition is asked for by a name alone. A choice that leaves a class out asks
        for it by this row; no fit reads it.

    Raises
    ------
    PairsError
        If the shapes disagree, a value is not finite, or a weight is negative.

    Examples
    --------
    >>> captions = Pairs(np.eye(4), np.ones((4, 3)), groups=np.array(["a", "a", "b", "c"]))
    >>> captions.n, captions.row_groups
    (4, array([0, 0, 1, 2]))
    """

    x: Rows
    y: Rows
    groups: npt.NDArray[Any] | None = None
    weight: npt.NDArray[np.float64] | None = None
    asked: Rows | None = None

    def __post_init__(self) -> None:
        for name in ("x", "y", "asked"):
            if name == "asked" and self.asked is None:
                continue
            rows = matrix(getattr(self, name), name)
            object.__setattr__(self, name, rows)
            if not np.isfinite(rows).all():
                bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
                raise PairsError(
                    f"{name} holds NaN or Inf in {len(bad):,} of {len(rows):,} rows "
                    f"(first: row {bad[0]:,}). Drop these rows, or extract them again."
                )
        n = len(self.x)
        if len(self.y) != n:
            raise PairsError(
                f"x has {n:,} rows and y has {len(self.y):,}: they are not pairs. Join them by id."
            )
        if self.asked is not None and self.asked.shape != self.y.shape:
            raise PairsError(
                f"asked has shape {self.asked.shape}; y has {self.y.shape}, and each of its rows "
                "is asked for by one of the same space."
            )
        if n == 0:
            raise PairsError(
                "There are no pairs: x and y have 0 rows. Choose a selection that is not empty."
            )
        for name in ("groups", "weight"):
            if getattr(self, name) is None:
                continue
            column = getattr(self, name)
            column = vector(column, name) if name == "weight" else np.asarray(column)
            object.__setattr__(self, name, column)
            if column.shape != (n,):
                raise PairsError(f"{name} has {_counted(column)} for {n:,} rows.")
        if self.weight is not None:
            check_weight(self.weight)

    @classmethod
    def of(cls, given: Any, what: str = "data") -> Self:
        """Return pairs, the pairs of a `PairedView`, or those of a tuple (x, y) or (x, y, groups).

        Raises
        ------
        PairsError
            If it is none of these; `what` names it.
        """
        if isinstance(given, cls):
            return given
        if isinstance(given, tuple) and len(given) in (2, 3):
            try:
                return cls(*given)
            except FeatstoreError as err:
                raise type(err)(f"{what}: {err}") from err
        if hasattr(given, "group_column"):
            x, y = given.numpy()
            return cls(x, y, given.groups, given.weight)
        raise PairsError(
            f"{what} must be Pairs, a PairedView, or a tuple (rows, texts); got "
            f"{type(given).__name__}."
        )

    @classmethod
    def given(cls, data: Any, texts: Any = None, groups: Any = None) -> Self | None:
        """Return the real pairs among the arguments of a fit; None of unlabelled images alone.

        Raises
        ------
        PairsError, RowsError
            If there are texts or groups without images, or they do not fit.
        """
        if texts is not None and data is not None:
            return cls(data, texts, groups)
        if isinstance(data, tuple) or hasattr(data, "y"):
            pairs = cls.of(data)
            return pairs if groups is None else replace(pairs, groups=groups)
        if texts is not None or groups is not None:
            raise PairsError("texts and groups need images as data, row i of text i.")
        return None

    @property
    def n(self) -> int:
        """Number of pairs."""
        return len(self.x)

    @property
    def row_weight(self) -> npt.NDArray[np.float64]:
        """The weights, ones where none were given; shape (n,), float64."""
        if self.weight is None:
            return np.ones(self.n)
        return np.asarray(self.weight, dtype=np.float64)

    @property
    def row_groups(self) -> npt.NDArray[np.intp]:
        """The groups as integers 0 … n_groups − 1, in order of their sorted labels."""
        if self.groups is None:
            return np.arange(self.n)
        return np.unique(self.groups, return_inverse=True)[1]

    def take(self, rows: npt.NDArray[Any]) -> Pairs:
        """Return the pairs at `rows` (integers or a boolean mask), in that order."""
        return Pairs(
            self.x[rows],
            self.y[rows],
            None if self.groups is None else self.groups[rows],
            None if self.weight is None else self.weight[rows],
            None if self.asked is None else self.asked[rows],
        )

    def _card(self) -> Card:
        rows = {name: getattr(self, name) for name in ("x", "y", "asked")}
        sides = {name: f"{own.shape[1]:,} columns, {own.dtype}"
                 for name, own in rows.items() if own is not None}  # fmt: skip
        n_groups = None if self.groups is None else f"{len(np.unique(self.groups)):,}"
        mass = None if self.weight is None else f"{self.weight.sum():.6g} in all"
        return Card(f"Pairs, {self.n:,}", {**sides, "groups": n_groups, "weight": mass})


def _counted(column: npt.NDArray[Any]) -> str:
    return f"{len(column):,} values" if column.ndim == 1 else f"shape {column.shape}"


def rows_or_labels(y: Any) -> npt.NDArray[Any]:
    """Return text embeddings as a matrix, or labels (n,) as they are."""
    try:
        return matrix(y, "y")
    except RowsError:
        return np.asarray(y)


def place_in_class(labels: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return for each row how many of its class come before it, shape (n,)."""
    codes, counts = np.unique(labels, return_inverse=True, return_counts=True)[1:]
    place = np.empty(len(labels), dtype=np.int64)
    starts = np.repeat(np.cumsum(counts) - counts, counts)
    place[np.argsort(codes, kind="stable")] = np.arange(len(labels)) - starts
    return place


def check_weight(weight: npt.NDArray[Any]) -> None:
    """Raise PairsError unless weights are finite, none is negative and one positive."""
    if not np.isfinite(weight).all() or (weight < 0).any():
        bad = np.flatnonzero(~np.isfinite(weight) | (weight < 0))
        raise PairsError(
            f"A weight is a mass: finite and not negative. Got {weight[bad[0]]} in row {bad[0]:,}. "
            "To leave a row out, give it weight 0."
        )
    if not (weight > 0).any():
        raise PairsError(
            "Every weight is 0: nothing is left to fit. Give a positive weight to some rows."
        )
