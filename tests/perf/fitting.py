"""Fitting: the moments against three bare products, the ridge path against scikit-learn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.perf import kernel_ridge
from tests.perf.engine import Figure, compare


def figures(out: Path) -> Iterator[Figure]:
    """Yield the lines of the group ``fit``."""
    from sklearn.linear_model import Ridge

    from fitters.linear.solvers import ridge_path
    from fitters.moments import accumulate

    rng = np.random.default_rng(0)
    n, dim = 32_768, 768
    x = rng.standard_normal((n, dim)).astype(np.float32)
    y = rng.standard_normal((n, dim)).astype(np.float32)
    blocks = [(x[start : start + 4096], y[start : start + 4096]) for start in range(0, n, 4096)]

    def bare() -> None:
        for a, b in blocks:
            _ = (a.T @ a, a.T @ b, b.T @ b)

    yield compare(
        "fit.moments", lambda: accumulate(blocks), bare, against="X'X, X'Y, Y'Y in float32"
    )
    small_x, small_y = x[:8192], y[:8192]
    alphas = np.geomspace(1e-2, 1e3, 50)

    def path() -> None:
        moments = accumulate([(small_x, small_y)])
        for weights in ridge_path(moments.scatter_xx, moments.scatter_xy, alphas):
            assert weights is not None

    def one_by_one() -> None:
        for alpha in alphas[:5]:
            Ridge(alpha=alpha, solver="cholesky").fit(small_x, small_y)

    # A tenth of the peer's penalties are fitted: its whole path takes ten times as long.
    yield compare(
        "fit.ridge_path",
        path,
        one_by_one,
        against="sklearn Ridge, 50 penalties (5 measured)",
        scale=10,
    )
    yield from kernel_ridge.figures(out)
