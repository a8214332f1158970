"""Landmarks: the rows that stand for all rows in a Nyström approximation."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from sklearn.cluster import kmeans_plusplus

from fitters.errors import SettingError
from fitters.pairs import Rows

Method = Literal["uniform", "k-means++"]

METHODS: tuple[str, ...] = ("uniform", "k-means++")


def choose_landmarks(
    rows: Rows,
    n_landmarks: int,
    rng: np.random.Generator,
    *,
    method: Method = "uniform",
    weight: npt.NDArray[Any] | None = None,
) -> npt.NDArray[np.intp]:
    """Return the positions of `n_landmarks` distinct rows, ascending; of all if there are no more.

    Parameters
    ----------
    rows : ndarray of shape (n, d)
    n_landmarks : int
        At least 1.
    rng : numpy.random.Generator
    method : {"uniform", "k-means++"}
        Drawn evenly; or far from one another, by the seeding of scikit-learn's k-means, whose
        cost is n · n_landmarks · d: it serves where rows cluster.
    weight : ndarray of shape (n,), optional
        Mass of each row in the draw by k-means++. Rows of mass 0 should not be passed at all.

    Raises
    ------
    SettingError
        If the number or the method is wrong.
    """
    if n_landmarks < 1:
        msg = f"At least 1 landmark is needed. Got {n_landmarks}."
        raise SettingError(msg)
    if method not in METHODS:
        msg = f"Landmarks are chosen by {' or '.join(METHODS)}. Got {method!r}."
        raise SettingError(msg)
    if n_landmarks >= len(rows):
        return np.arange(len(rows))
    if method == "uniform":
        return np.sort(rng.choice(len(rows), n_landmarks, replace=False))
    seed = int(rng.integers(2**31))
    chosen = kmeans_plusplus(
        np.asarray(rows, np.float64), n_landmarks, sample_weight=weight, random_state=seed
    )[1]
    # Where fewer distinct rows exist than were asked for, one may be drawn twice.
    return np.unique(np.asarray(chosen, dtype=np.intp))
