"""Exact nearest rows: every row is scored, block by block, and the best of each query are kept.

A first product, in the precision of the rows, only says which rows may be among the best: those
whose score lies within its rounding of the k-th. These few are scored again in float64. So the
answer depends neither on BLAS nor on its threads, and rows that are equal tie.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from featstore.matrices import Rows, matrix
from featstore.parallel import map_threads
from featstore.store.tables import ItemTable

if TYPE_CHECKING:
    from featstore.store.view import Selection

#: Values of a piece: 512 KiB of float32 stay in the processor's cache until their norms are known.
PIECE_VALUES = 2**17

#: Values and scores of a block, and queries and rows that are scored together.
BLOCK_VALUES, BLOCK_SCORES, QUERIES, AGAIN_VALUES = 2**21, 2**18, 256, 2**20


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The nearest rows of a view to each of q queries, the best first.

    Attributes
    ----------
    rows : ndarray of shape (q, k), int64
        Numbers of the rows in the view; -1 where it has no more rows with a score.
    scores : ndarray of shape (q, k), float64
        Cosines, or dot products; NaN where there is no row.
    """

    rows: np.ndarray
    scores: np.ndarray
    table: ItemTable = field(repr=False)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield the ids and the scores: ``ids, scores = view.nearest(queries)``."""
        yield from (self.ids, self.scores)

    @property
    def ids(self) -> np.ndarray:
        """Item ids of the rows: (q, k) texts, None where there is no row."""
        ids = self.table.table["item_id"][np.maximum(self.rows, 0).ravel()].to_numpy()
        found: Any = np.where(self.rows < 0, None, ids.reshape(self.rows.shape))
        return found


class _Best:
    """The best rows so far of some queries; blocks may be added in any order, by many threads."""

    def __init__(self, queries: np.ndarray, k: int, dtype: np.dtype[Any], *, cosine: bool) -> None:
        norms = np.linalg.norm(queries, axis=1)
        self._queries = queries / norms[:, None] if cosine else queries
        self._columns = np.ascontiguousarray(self._queries.T, dtype)
        # Twice what the sum of so many rounded products can be off, relative to both norms.
        error = (queries.shape[1] + 8) * np.finfo(dtype).eps
        self._error = error * (np.ones_like(norms) if cosine else norms)
        self._least = len(self._columns) * float(np.finfo(dtype).tiny / np.finfo(dtype).eps)
        self._k, self._cosine, self._lock = k, cosine, threading.Lock()
        self.scores = np.full((len(queries), k), -np.inf)
        self.rows = np.full((len(queries), k), -1)

    def add(self, view: Selection, first: int, norms: np.ndarray) -> None:
        """Look at the rows from number `first` on, as many as there are norms: NaN if unknown."""
        count = len(norms)
        scores = np.empty((count, len(self._queries)), self._columns.dtype)
        # What overflows, or has no direction, compares false: it is scored again.
        with np.errstate(all="ignore"):
            margin = self._score(view.pieces(first, first + count, PIECE_VALUES), scores, norms)
            low = self.scores[:, -1] - margin
            hits = np.flatnonzero(~(scores < low.astype(scores.dtype)))
            if hits.size > 4 * self._k * len(self._queries) and count > self._k:
                known = np.fmax(scores, -np.inf)
                kth = np.partition(known, count - self._k, axis=0)[count - self._k]
                low = np.maximum(low, kth - 2 * margin)
                hits = np.flatnonzero(~(scores < low.astype(scores.dtype)))
            step = max(1, AGAIN_VALUES // len(self._columns))
            for start in range(0, hits.size, step):
                numbers, of = np.divmod(hits[start : start + step], len(self._queries))
                found = view.take(first + numbers).numpy(np.float64)
                exact = np.einsum("ij,ij->i", found, self._queries[of])
                if self._cosine:
                    exact /= np.sqrt(np.einsum("ij,ij->i", found, found))
                there = np.isfinite(exact)
                self._merge(of[there], first + numbers[there], exact[there])

    def _score(self, pieces: Iterable[np.ndarray], scores: np.ndarray, norms: np.ndarray) -> Any:
        """Fill in scores and unknown norms; return how far the scores of each query may be off."""
        done, unknown = 0, bool(np.isnan(norms).any())
        for piece in pieces:
            some = piece.astype(scores.dtype, copy=False)
            here = slice(done, done + len(some))
            np.matmul(some, self._columns, out=scores[here])
            if unknown:
                np.sqrt(np.einsum("ij,ij->i", some, some), out=norms[here])
            done = here.stop
        if not self._cosine:
            return self._error * (float(norms.max()) + self._least**0.5) + self._least
        # A norm that has lost digits to underflow is none.
        scores /= np.where(norms > self._least**0.5, norms, np.nan)[:, None]
        return self._error + self._least

    def _merge(self, of: np.ndarray, rows: np.ndarray, scores: np.ndarray) -> None:
        """Keep the best of these and of those so far: of equal scores the lower rows."""
        at = np.flatnonzero(np.bincount(of, minlength=len(self.rows)))
        places = np.searchsorted(at, of)
        with self._lock:
            places = np.concatenate([np.repeat(np.arange(at.size), self._k), places])
            scores = np.concatenate([self.scores[at].ravel(), scores])
            rows = np.concatenate([self.rows[at].ravel(), rows])
            order = np.lexsort((rows, -scores, places))
            starts = np.searchsorted(places[order], np.arange(at.size))
            best = order[starts[:, None] + np.arange(self._k)]
            self.scores[at], self.rows[at] = scores[best], rows[best]


def nearest(view: Selection, rows: Rows, k: int, metric: Literal["cosine", "dot"]) -> Neighbours:
    """Return the nearest rows of a view; see `featstore.store.view.Selection.nearest`."""
    queries = matrix(rows, "queries", one=True).astype(np.float64)
    if queries.shape[1] != view.dim:
        raise ValueError(
            f"Queries of {view.key} have shape (q, {view.dim:,}); got {queries.shape}. Take rows "
            "of the same encoder, or project them into its space first."
        )
    lost = np.asarray(~np.isfinite(queries).all(axis=1))
    lost |= (metric == "cosine") & ~queries.any(axis=1)
    if lost.any():
        raise ValueError(
            f"{int(lost.sum()):,} of {len(lost):,} queries of {view.key} are NaN, Inf or (for a "
            f"cosine) all zeros, first number {int(lost.argmax()):,}. Leave them out."
        )
    if operator.index(k) < 1 or metric not in ("cosine", "dot"):
        raise ValueError(f"Ask for k >= 1 rows by cosine or dot; got k={k}, metric={metric!r}.")
    norms, k = view.norms, min(k, len(view))
    scores = np.empty((len(queries), k))
    numbers = np.empty(scores.shape, np.int64)
    for start in range(0, len(queries), QUERIES):
        some = slice(start, start + QUERIES)
        best = _Best(queries[some], k, norms.dtype, cosine=metric == "cosine")
        size = max(1, min(BLOCK_VALUES // view.dim, BLOCK_SCORES // len(best.rows)))

        def add(first: int, best: _Best = best, size: int = size) -> None:
            best.add(view, first, norms[first : first + size])

        map_threads(add, range(0, len(view), size))
        numbers[some], scores[some] = best.rows, best.scores
    return Neighbours(numbers, np.where(numbers < 0, np.nan, scores), view.table)
