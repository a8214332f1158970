"""Aligners against the libraries that fit the same, on rows in memory.

Where a peer takes minutes it runs once, or is given less to do than we are, so that the ratio is a
lower bound; the line says which. Nothing is extrapolated.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tests.perf.engine import Figure, compare, not_measured, one_run
from tests.perf.stream import BLOCK, Stream

PAIRS = 6
SMALL, LARGE = 20_480, 98_304
ALPHAS = np.geomspace(1e-3, 10, 50)


def figures(stream: Stream) -> Iterator[Figure]:
    """Yield the lines of the aligners."""
    x = np.concatenate([a for a, _ in stream.batches(LARGE)])
    y = np.concatenate([b for _, b in stream.batches(LARGE)])
    # Repeated rows would make the large sample no larger than the small one in rank or noise.
    x += np.random.default_rng(1).standard_normal(x.shape, dtype=np.float32)
    for n in (SMALL, LARGE):
        yield from _ridge(x[:n], y[:n], n)
        yield from _directions(x[:n], y[:n], n)
    yield from _asif(x, y)


def _batches(x: np.ndarray, y: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, len(x), BLOCK):
        yield x[start : start + BLOCK], y[start : start + BLOCK]


def _ridge(x: np.ndarray, y: np.ndarray, n: int) -> Iterator[Figure]:
    from sklearn.linear_model import Ridge, RidgeCV

    from fitters.select import Axis
    from fitters.select.held_out import validate_by_error
    from fitters.solvers import Spectrum
    from tests.shorthand import accumulate, accumulate_folds

    size = f"{n // 1000}k"
    folds = np.arange(n) % 5
    penalties = Axis(tuple(ALPHAS), searched=False)

    def path() -> None:
        moments = accumulate(_batches(x, y)).centred
        gram = moments.sxx
        spectrum = Spectrum.of(gram, moments.sxy)
        for alpha in ALPHAS[:5]:
            assert np.isfinite(spectrum.fit(alpha * np.trace(gram) / len(gram))).all()

    def choice() -> None:
        validate_by_error(accumulate_folds(_batches(x, y), folds), penalties=penalties)

    def each() -> None:
        for alpha in ALPHAS[:5]:
            Ridge(alpha=alpha, solver="cholesky").fit(x, y)

    yield compare(
        f"fit.ridge/sklearn-{size}", path, each, against="sklearn Ridge, 5 penalties", pairs=PAIRS
    )
    if n > SMALL:
        return
    yield compare(
        f"fit.ridge_cv/sklearn-{size}",
        choice,
        lambda: RidgeCV(ALPHAS).fit(x, y),
        against="sklearn RidgeCV, the same 50 penalties, each row left out; ours: 5 folds",
        pairs=PAIRS,
    )
    yield _himalaya(f"fit.ridge_cv/himalaya-{size}", choice, x, y)


def _himalaya(name: str, choice: Callable[[], Any], x: np.ndarray, y: np.ndarray) -> Figure:
    """Hold the choice to the same one by himalaya, which takes minutes: one run of it."""
    try:
        from himalaya.ridge import RidgeCV
    except ImportError as err:
        return not_measured(name, f"{err.name} is not installed")
    # Two penalties at a time: all at once took more than 20 GB.
    peer = RidgeCV(ALPHAS, cv=5, fit_intercept=True, solver_params={"n_alphas_batch": 2})
    choice()
    spent = -time.process_time()
    theirs = _seconds(lambda: peer.fit(x, y))
    ours = statistics.median(_seconds(choice) for _ in range(PAIRS))
    return one_run(
        name,
        theirs / ours,
        against=f"himalaya RidgeCV, the same penalties and folds, one run of {theirs:.0f} s",
        cpu_seconds=spent + time.process_time(),
    )


def _seconds(function: Callable[[], Any]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def _directions(x: np.ndarray, y: np.ndarray, n: int) -> Iterator[Figure]:
    import scipy.linalg
    from sklearn.cross_decomposition import CCA

    from fitters.aligners.rotations import CCAAligner, ProcrustesAligner
    from tests.shorthand import accumulate

    size = f"{n // 1000}k"

    def cca() -> None:
        CCAAligner(alpha=0.0).fit_moments(accumulate(_batches(x, y)))

    def procrustes() -> None:
        ProcrustesAligner().fit_moments(accumulate(_batches(x, y)))

    yield compare(
        f"fit.procrustes/scipy-{size}",
        procrustes,
        lambda: scipy.linalg.orthogonal_procrustes(x.astype(np.float64), y.astype(np.float64)),
        against="scipy orthogonal_procrustes in float64",
        pairs=PAIRS,
    )
    yield _against(
        f"fit.cca/cca-zoo-{size}",
        cca,
        lambda: _cca_zoo(x, y),
        "cca-zoo CCA, 16 components; ours: all 768",
    )
    if n > SMALL:
        return
    yield compare(
        f"fit.cca/sklearn-{size}",
        cca,
        lambda: CCA(n_components=2, max_iter=2000).fit(x, y),
        against="sklearn CCA, 2 components; ours: all 768",
        pairs=PAIRS,
    )


def _cca_zoo(x: np.ndarray, y: np.ndarray) -> None:
    from cca_zoo.linear import CCA

    CCA(n_components=16).fit((x, y))


def _asif(x: np.ndarray, y: np.ndarray) -> Iterator[Figure]:
    from fitters.aligners.baselines import Nearest

    anchors = x / np.linalg.norm(x, axis=1, keepdims=True)
    queries = y[:5000] / np.linalg.norm(y[:5000], axis=1, keepdims=True)

    def faiss() -> None:
        import faiss as library

        library.knn(queries, anchors, 800, metric=library.METRIC_INNER_PRODUCT)

    yield _against(
        "fit.asif",
        lambda: Nearest.of(queries, anchors, 800),
        faiss,
        "faiss knn, 5k × 98k × 768, k = 800",
    )


def _against(name: str, ours: Callable[[], Any], theirs: Callable[[], Any], against: str) -> Figure:
    """Compare with a peer of the extra ``perf``; without it the line says so."""
    try:
        return compare(name, ours, theirs, against=against, pairs=PAIRS)
    except ImportError as err:
        return not_measured(name, f"{err.name} is not installed")
