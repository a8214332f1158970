"""Centred kernel alignment of two sets of paired rows, linear kernel on unit rows.

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

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import MetricError
from bench.metrics.neighbours import check_paired, unit_rows

Rows = NDArray[np.floating[Any]]


def biased_cka(x: Rows, y: Rows) -> float:
    """Return linear CKA of unit rows, biased, within [0, 1].

    Raises
    ------
    MetricError
        If the rows are not paired, or do not vary.
    """
    check_paired(x, y)
    a, b = (unit_rows(rows).astype(np.float64) for rows in (x, y))
    a -= a.mean(axis=0)
    b -= b.mean(axis=0)
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
        msg = f"Unbiased CKA needs at least 4 pairs; got {len(x)}."
        raise MetricError(msg)
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


def _ratio(both: float, of_x: float, of_y: float) -> float:
    if not (of_x > 0 and of_y > 0):
        msg = "Rows that do not vary have no CKA."
        raise MetricError(msg)
    return both / float(np.sqrt(of_x * of_y))
