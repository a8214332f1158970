"""Fitting: moments against bare products, their memory and growth, and the whole path of a ridge.

All rows are in memory: nothing is read, and no cache of moments is asked.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.perf import aligners, few_shot, kernel_ridge
from tests.perf.engine import Figure, compare, figure_of
from tests.perf.stream import Stream

N, PAIRS = 1_000_000, 6
"""Rows of a pass; pairs of the figures that take minutes, the fewest that give an interval."""

MEMORY = 300e6
"""Bytes that a pass may take beyond its input, whatever n."""


def figures(out: Path) -> Iterator[Figure]:
    """Yield the lines of the group ``fit``."""
    stream = Stream(768, 768)
    yield _moments(stream)
    yield _memory()
    yield _growth()
    yield _path(stream)
    yield from aligners.figures(stream)
    yield from kernel_ridge.figures(out)
    yield from few_shot.figures(out)


def _moments(stream: Stream) -> Figure:
    from tests.shorthand import accumulate

    def bare() -> None:
        for a, b in stream.batches(N):
            _ = (a.T @ a, a.T @ b, b.T @ b)

    return compare(
        "fit.moments",
        lambda: accumulate(stream.batches(N)),
        bare,
        against="X'X, X'Y, Y'Y in float32, 1e6 × 768→768",
        pairs=PAIRS,
    )


def _memory() -> Figure:
    command = [sys.executable, "-m", "tests.perf.moments_memory", str(N)]
    growths = [
        int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        for _ in range(PAIRS)
    ]
    return figure_of(
        "fit.moments_memory",
        [MEMORY / growth for growth in growths],
        against="300 MB, 1e6 × 768→768 in five folds",
    )


def _growth() -> Figure:
    from tests.shorthand import accumulate

    narrow = Stream(384, 384)
    return compare(
        "fit.moments_growth",
        lambda: accumulate(narrow.batches(10 * N)),
        lambda: accumulate(narrow.batches(N)),
        against="time per row, 1e7 × 384 to 1e6 × 384",
        pairs=PAIRS,
        scale=10,
    )


def _path(stream: Stream) -> Figure:
    from fitters.moments import Moments
    from fitters.select import Axis
    from fitters.select.held_out import validate_by_error
    from tests.shorthand import accumulate, accumulate_folds

    folds = np.random.default_rng(0).integers(0, 5, N)
    penalties = Axis(tuple(np.geomspace(1e-3, 10, 50)), searched=False)
    weights = Axis(tuple(np.geomspace(0.1, 10, 20)), searched=False)
    prototypes = Moments.from_rows(stream.x[:1000], stream.y[:1000], centre=False)

    def ours() -> None:
        parts = accumulate_folds(stream.batches(N), folds)
        curve = validate_by_error(parts, prototypes, penalties=penalties, weights=weights)
        assert curve.scores.shape == (20, 50)

    return compare(
        "fit.ridge_path",
        ours,
        lambda: accumulate(stream.batches(N)),
        against="one pass; ours: the pass, 50 penalties × 5 folds × 20 mixing weights, n = 1e6",
        pairs=PAIRS,
    )
