"""Print the bytes of memory by which ranking n against g items, both ways, makes this grow.

Counted as in `scan_memory`, the projections themselves included; dense of 512 columns, or sparse
with 800 entries a row as ASIF makes them.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from bench.metrics.ranks import Relevance, rank_relevant
from tests.perf.scan_memory import sampled

DENSE, ENTRIES = 512, 800


def main() -> None:
    """Rank dense or sparse projections, and print the growth."""
    kind, n, g = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    rng = np.random.default_rng(0)
    with sampled() as seen:
        make = _dense if kind == "dense" else _sparse
        columns = DENSE if kind == "dense" else int(sys.argv[4])
        queries, gallery = make(rng, n, columns), make(rng, g, columns)
        groups = np.arange(n), np.arange(g) % n
        there, back = Relevance.build(*groups), Relevance.build(*groups[::-1])
        ranks = rank_relevant(queries, gallery, there)
        of_gallery = rank_relevant(gallery, queries, back)
    assert (len(ranks.rank), len(of_gallery.rank)) == (n, g)
    print(max(1, max(seen) - seen[0]))


def _dense(rng: np.random.Generator, n: int, columns: int) -> Any:
    return rng.standard_normal((n, columns), dtype=np.float32)


def _sparse(rng: np.random.Generator, n: int, columns: int) -> Any:
    places = rng.integers(0, columns, size=(n, ENTRIES), dtype=np.int32)
    values = rng.random(size=n * ENTRIES, dtype=np.float32)
    starts = np.arange(n + 1) * ENTRIES
    rows = csr_array((values, places.ravel(), starts), shape=(n, columns))
    rows.sum_duplicates()
    return rows


if __name__ == "__main__":
    main()
