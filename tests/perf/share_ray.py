"""The line ``share.ray``: moments by two single-threaded workers of Ray, and by one process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from threadpoolctl import threadpool_limits

from featstore import open_store, parallel
from featstore.parallel import Workers
from featstore.store.layout import SetSpec
from featstore.store.pairs import EmbeddingsView, PairedView
from featstore.store.writer import SetWriter
from fitters.from_store import moment_sources
from fitters.moments import Folds
from fitters.settings import FitRequest
from fitters.sources import Sources
from tests.perf.engine import Figure, compare
from tests.perf.sample import BLOCK

N, DIM = 262_144, 512


def ray_figure(root: Path) -> Figure:
    """Compare two workers with one process, both reading the store below `root`; Ray runs."""
    write_pairs(root / "pairs")
    images, paired = pairs_of(root / "pairs")
    request = FitRequest("ridge", x=images.key, y=paired.y.key)

    def accumulate(workers: Workers) -> Sources[Folds]:
        return moment_sources(request, images, paired, workers=workers)

    with parallel.connected(cores=2, object_store_bytes=500_000_000), threadpool_limits(limits=1):
        one, two = accumulate(Workers()), accumulate(Workers("ray", jobs=2))
        for alone, merged in zip(one.real, two.real, strict=True):
            assert (alone.sxx == merged.sxx).all(), "the bits of the moments differ"
        return compare(
            "share.ray",
            lambda: accumulate(Workers("ray", jobs=2)),
            lambda: accumulate(Workers()),
            against=f"one process of one thread; {N:,} pairs of {DIM} → {DIM} in four folds, by "
            "two single-threaded workers of a Ray that runs",
        )


def pairs_of(store: Path) -> tuple[EmbeddingsView, PairedView[EmbeddingsView]]:
    """Return the images of the store, and these with their captions."""
    images = open_store(store).view("d/image/toy")
    paired = images.pair_by("parent_id", open_store(store).view("d/caption/toy"))
    return images, paired


def write_pairs(store: Path, n: int = N, dim: int = DIM) -> None:
    """Write `n` images and a caption of each; blocks repeat, each turned a little further."""
    rng = np.random.default_rng(0)
    ids = [f"i/{number}" for number in range(n)]
    for kind, names, parents in (
        ("image", ids, [None] * n), ("caption", [f"{name}#en" for name in ids], ids),
    ):  # fmt: skip
        block = rng.standard_normal((BLOCK, dim)).astype(np.float16)
        items = pl.DataFrame(
            {"item_id": names, "kind": [kind] * n, "parent_id": parents, "split": [None] * n,
             "class_id": [None] * n},
            schema_overrides=dict.fromkeys(("parent_id", "split", "class_id"), pl.String),
        )  # fmt: skip
        with SetWriter(
            store, SetSpec("d", kind, "timm:toy", {"name": kind}, "float16"), items, dim,
        ) as writer:  # fmt: skip
            for number in writer.pending():
                where = writer.layout.block_slice(number)
                turned = np.roll(block, number, axis=1)
                writer.write_block(number, turned[: where.stop - where.start])
            writer.finish()
