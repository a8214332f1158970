"""Search: the ten nearest rows by dot product, against faiss's flat index of the float32 rows."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import product

import numpy as np

from featstore import open_store
from tests.perf.engine import Figure, compare, not_measured
from tests.perf.sample import Sample, write_set

K, PAIRS = 10, 6


def figures(sample: Sample) -> Iterator[Figure]:
    """Yield the lines of two widths, for one query and for a hundred.

    The first search measures the length of each row; it is the one before the timed ones.
    """
    for (n, dim), dtype in product(((1_000_000, 128), (100_000, 768)), ("float32", "float16")):
        # As many rows as there are, not a block over and over: equal rows would all tie.
        rows = np.random.default_rng(0).standard_normal((n, dim), dtype=np.float32)
        key = write_set(sample.store, sample.items.head(n), rows, f"timm:{dtype}-{dim}", dtype)
        view = open_store(sample.store).view(key)
        for count in (1, 100):
            name = f"store.nearest/{dtype}-{dim}-{count}"
            queries = np.random.default_rng(1).standard_normal((count, dim), dtype=np.float32)
            try:
                import faiss
            except ImportError as err:
                yield not_measured(name, f"{err.name} is not installed")
                continue
            index = faiss.IndexFlatIP(dim)
            index.add(rows)
            ours, theirs = (
                partial(view.nearest, queries, K, metric="dot"), partial(index.search, queries, K)
            )  # fmt: skip
            assert (ours().rows == theirs()[1]).mean() > (0.99 if dtype == "float32" else 0.8)
            yield compare(
                name, ours, theirs, against=f"faiss.IndexFlatIP, {n:,} × {dim}, float32",
                pairs=PAIRS,
            )  # fmt: skip
