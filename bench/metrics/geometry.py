"""Geometry of embeddings: CKA, modality gap, neighbours.

Blockwise: 21,000 rows need the rows and one block of scores, never all 4.4e8 scores.

With linear kernels K = XXᵀ and L = YYᵀ every term needs only products of d columns::

    biased:    HSIC = ‖XcᵀYc‖²           Xc, Yc centred
    unbiased:  HSIC = (tr K̃L̃ + (1ᵀK̃1)(1ᵀL̃1) / ((n-1)(n-2)) - 2/(n-2) · 1ᵀK̃L̃1) / (n (n-3))

K̃ is K without its diagonal, and CKA = HSIC(K, L) / √(HSIC(K, K) · HSIC(L, L)). Memory is d × d
and not n × n. The biased one nears 1 for any two sets where n is small beside d; the unbiased one
is about 0 for unrelated sets and may be negative.

References
----------
Kornblith et al., Similarity of Neural Network Representations Revisited, ICML 2019; Song et al.,
Feature Selection via Dependence Maximization, JMLR 2012, eq. 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import MetricError
from bench.metrics.ranks import EqualColumns, first_places
from fitters.pairs import Rows


def nearest_rows(
    rows: NDArray[np.floating[Any]],
    k: int,
    *,
    queries: NDArray[np.floating[Any]] | None = None,
    block_scores: int = 8_000_000,
) -> NDArray[np.int64]:
    """Return the k nearest other rows of every row by cosine, nearest first, shape (n, k).

    Query i stands for row i where there are `queries`, (m, d): row i is not among its own, (m, k).

    At equal cosine the lower position comes first. At most `block_scores` scores are held at once:
    32 MiB.

    Raises
    ------
    MetricError
        If there are not more than k rows, or a row has no direction.
    """
    unit = unit_rows(rows)
    asked, n = unit if queries is None else unit_rows(queries), len(unit)
    if not 0 < k < n:
        raise MetricError(f"{k} neighbours of a row need at least {k + 1} rows; got {n:,}.")
    none_relevant = np.full(n, -1), np.zeros(n, dtype=np.int64)
    size = max(1, block_scores // n)
    equal = EqualColumns.of(unit)
    found = []
    for start in range(0, len(asked), size):
        scores = equal.tie(asked[start : start + size] @ unit.T)
        own = np.arange(start, start + len(scores))
        scores[own - start, own] = -np.inf
        found.append(first_places(scores, none_relevant[0][own], none_relevant[1], k))
    return np.concatenate(found)


def mutual_knn(
    x: NDArray[np.floating[Any]], y: NDArray[np.floating[Any]], k: Sequence[int]
) -> dict[int, float]:
    """Return for every k the mean share of neighbours that x_i and y_i have in common.

    Two unrelated sets share k / (n - 1) on average.

    Parameters
    ----------
    x, y : arrays of shape (n, p) and (n, q)
        Row i of both is one item. Cosine neighbours, the item itself left out.
    k : sequence of int

    References
    ----------
    Huh et al., The Platonic Representation Hypothesis, ICML 2024.
    """
    check_paired(x, y)
    of_x, of_y = nearest_rows(x, max(k)), nearest_rows(y, max(k))
    counts = {count: shared_rows(of_x[:, :count], of_y[:, :count]) for count in k}
    return {count: float(found.sum() / (len(x) * count)) for count, found in counts.items()}


def shared_rows(of_x: NDArray[np.int64], of_y: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many neighbours two lists of each row have in common, lists of shape (n, k)."""
    both = np.sort(np.concatenate([of_x, of_y], axis=1), axis=1)
    return np.sum(both[:, 1:] == both[:, :-1], axis=1)


def unit_rows(rows: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Return the rows at length 1, float32.

    Raises
    ------
    MetricError
        If a row is 0 or not finite.
    """
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))
    bad = np.flatnonzero(~((lengths > 0) & np.isfinite(lengths)))
    if len(bad):
        raise MetricError(
            f"{len(bad):,} of {len(rows):,} rows have no direction (first: row {bad[0]:,})."
        )
    return (rows / lengths[:, None]).astype(np.float32)


def check_paired(x: NDArray[Any], y: NDArray[Any]) -> None:
    """Raise MetricError unless both have as many rows."""
    if len(x) != len(y):
        raise MetricError(f"x has {len(x):,} rows and y has {len(y):,}: they are not pairs.")


def biased_cka(x: Rows, y: Rows) -> float:
    """Return linear CKA of unit rows, biased, within [0, 1].

    Raises
    ------
    MetricError
        If the rows are not paired, or do not vary.
    """
    check_paired(x, y)
    a, b = map(_centred, (x, y))
    return _ratio(*(float(np.sum((u.T @ v) ** 2)) for u, v in ((a, b), (a, a), (b, b))))


def unbiased_cka(x: Rows, y: Rows) -> float:
    """Return linear CKA of unit rows from unbiased HSIC; about 0 for unrelated rows.

    Raises
    ------
    MetricError
        If there are fewer than 4 pairs, or the rows do not vary.
    """
    check_paired(x, y)
    if len(x) < 4:
        raise MetricError(f"Unbiased CKA needs at least 4 pairs; got {len(x)}.")
    a, b = (unit_rows(rows).astype(np.float64) for rows in (x, y))
    return _ratio(*(_unbiased_hsic(u, v) for u, v in ((a, b), (a, a), (b, b))))


def _unbiased_hsic(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    n = len(x)
    own_x, own_y = (np.einsum("nd,nd->n", rows, rows) for rows in (x, y))
    # Row sums of the kernels without their diagonals.
    sums_x, sums_y = x @ x.sum(axis=0) - own_x, y @ y.sum(axis=0) - own_y
    trace = np.sum((x.T @ y) ** 2) - own_x @ own_y
    spread = sums_x.sum() * sums_y.sum() / ((n - 1) * (n - 2))
    return float((trace + spread - 2.0 / (n - 2) * (sums_x @ sums_y)) / (n * (n - 3)))


def cka_chance(x: Rows, y: Rows) -> float:
    """Return the mean of `biased_cka` over all permutations of the rows of y.

    √(r s) / (n − 1), r = (tr K)² / ‖K‖² the participation ratio of x, and s that of y.

    Raises
    ------
    MetricError
        As of `biased_cka`.
    """
    check_paired(x, y)
    (trace_x, own_x), (trace_y, own_y) = _spread(x), _spread(y)
    return _ratio(trace_x * trace_y, own_x, own_y) / (len(x) - 1)


def effective_rank(rows: Rows) -> float:
    """Return the participation ratio of unit rows, (tr K)² / ‖K‖²; 0 if they do not vary.

    Of d equal variances it is d, of one that is all it is 1.
    """
    trace, own = _spread(rows)
    return trace**2 / own if own > 0 else 0.0


def _spread(rows: Rows) -> tuple[float, float]:
    """Return tr K and ‖K‖² of centred unit rows."""
    unit = _centred(rows)
    return float(np.sum(unit**2)), float(np.sum((unit.T @ unit) ** 2))


def _centred(rows: Rows) -> NDArray[np.float64]:
    unit = unit_rows(rows).astype(np.float64)
    return unit - unit.mean(axis=0)


def _ratio(both: float, of_x: float, of_y: float) -> float:
    if not (of_x > 0 and of_y > 0):
        raise MetricError("Rows that do not vary have no CKA.")
    return both / float(np.sqrt(of_x * of_y))


# Permutations computed at once; bounds the memory at _AT_ONCE × rows × 4 bytes.
_AT_ONCE = 64


def centroid_gap(
    x: NDArray[np.floating[Any]],
    y: NDArray[np.floating[Any]],
    *,
    n_permutations: int = 999,
    rng: np.random.Generator,
) -> tuple[float, float, float]:
    """Return the distance of the centroids of unit rows, its chance level, and a p.

    Parameters
    ----------
    x, y : arrays of shape (n, d) and (m, d)
    n_permutations : int
        Times the rows of both are dealt anew to two sides of n and m.
    rng : Generator

    Returns
    -------
    distance : float
        ‖mean of x − mean of y‖.
    chance : float
        Mean distance when rows are dealt anew; NaN without permutations.
    p : float
        Share of deals whose distance is at least this one; the true one counts.

    References
    ----------
    Liang et al., Mind the Gap, NeurIPS 2022.
    """
    _check_columns(x, y)
    rows = np.concatenate([unit_rows(x), unit_rows(y)]).astype(np.float64)
    n, m = len(x), len(y)
    distance = float(np.linalg.norm(rows[:n].mean(axis=0) - rows[n:].mean(axis=0)))
    total = rows.sum(axis=0)
    seen: list[float] = []
    for start in range(0, n_permutations, _AT_ONCE):
        size = min(_AT_ONCE, n_permutations - start)
        deal = rng.permuted(np.tile(np.repeat([1.0, 0.0], [n, m]), (size, 1)), axis=1)
        first = deal @ rows
        seen.extend(np.linalg.norm(first / n - (total - first) / m, axis=1).tolist())
    reached = sum(value >= distance - 1e-12 for value in seen)
    chance = float(np.mean(seen)) if seen else float("nan")
    return distance, chance, (1 + reached) / (1 + n_permutations)


def linear_separability(
    x: NDArray[np.floating[Any]],
    y: NDArray[np.floating[Any]],
    *,
    n_folds: int = 5,
    max_rows: int = 5_000,
    rng: np.random.Generator,
) -> float:
    """Return the balanced accuracy with which a linear rule tells unit rows of x from those of y.

    scikit-learn's linear discriminant analysis with covariances shrunk by Ledoit and Wolf's rule
    and equal priors, on folds that it was not fitted on; chance is 0.5.

    Parameters
    ----------
    x, y : arrays of shape (n, d) and (m, d)
    n_folds : int
    max_rows : int
        Rows a side, drawn where there are more.
    rng : Generator

    Raises
    ------
    MetricError
        If a side has fewer rows than there are folds.
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import cross_val_predict

    _check_columns(x, y)
    if min(len(x), len(y)) < max(2, n_folds):
        raise MetricError(
            f"{n_folds} folds need at least {n_folds} rows a side; got {min(len(x), len(y))}."
        )
    sides = [unit_rows(rows[rng.permutation(len(rows))[:max_rows]]) for rows in (x, y)]
    both, labels = np.concatenate(sides), np.repeat([0, 1], [len(side) for side in sides])
    rule = LinearDiscriminantAnalysis(solver="eigen", shrinkage="auto", priors=[0.5, 0.5])
    found = cross_val_predict(rule, both.astype(np.float64), labels, cv=n_folds)
    return float(balanced_accuracy_score(labels, found))


def _check_columns(x: NDArray[Any], y: NDArray[Any]) -> None:
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or not len(x) or not len(y):
        raise MetricError(
            f"A gap is between rows of one space; got shapes {x.shape} and {y.shape}."
        )
