"""Images, class names and head rows as a table that embedding-atlas shows.

``embedding-atlas FILE --x x --y y --text text --neighbors neighbors`` opens it; nothing is
embedded again.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from bench.corpus import read_corpus
from bench.errors import NoResultsError
from bench.geometry import shared_rows
from bench.metrics.geometry import nearest_rows
from bench.report.gallery import Words
from bench.runs import LEAVES, Leaf, Run
from featstore.store.store import FeatureStore

#: Neighbours of a row by cosine, of any kind.
NEIGHBOURS = 10


def atlas_file(store: FeatureStore, row: Mapping[str, Any] | None, words: Words) -> bytes:
    """Return a Parquet file of the rows that the verdict's map brings together.

    Parameters
    ----------
    store : FeatureStore
    row : mapping, optional
        A result row of the map on head weights alone, with the penalty that its run chose.
    words : Words
        Texts and thumbnails.

    Returns
    -------
    bytes
        Columns ``id``; ``kind`` (image, class_name or head_weight); ``text``; ``x`` and ``y``, the
        first two principal components, each kind centred on its own mean; ``neighbors``, with row
        numbers ``ids`` and cosine ``distances``; ``image``, with WebP ``bytes``, null without a
        thumbnail.

    Raises
    ------
    NoResultsError
        If there is no such row.
    """
    if row is None:
        raise NoResultsError(
            "An atlas needs a run of ridge on head weights alone. Run it with `bench run --suite "
            "demo`."
        )
    parts = ("data", "protocol")
    run = Run.of(
        **{leaf.name: cell_value(leaf, row[leaf.name]) for leaf in LEAVES if leaf.path[0] in parts},
        **{name: row[name] for name in ("suite", "task", "method")},
    )
    shared = shared_rows(read_corpus(store, run), run, row["penalty_chosen"])
    rows = np.concatenate([own for _, _, own in shared])
    nearest = nearest_rows(rows, min(NEIGHBOURS, len(rows) - 1))
    distances = 1 - np.einsum("ij,ikj->ik", rows, rows[nearest])
    places = _plane(np.concatenate([own - own.mean(axis=0) for _, _, own in shared]))
    ids = [str(item) for _, own, _ in shared for item in own]
    kinds = [kind for kind, own, _ in shared for _ in own]
    pictures = [words.pictures.get(item) for item in ids]
    table = pl.DataFrame(
        {
            "id": ids,
            "kind": kinds,
            "text": [words.describe(item) for item in ids],
            "x": places[:, 0],
            "y": places[:, 1],
            "neighbors": [
                {"ids": near.tolist(), "distances": far.tolist()}
                for near, far in zip(nearest, distances, strict=True)
            ],
            "image": [
                None if uri is None else {"bytes": base64.b64decode(uri.split(",", 1)[1])}
                for uri in pictures
            ],
        },
        schema_overrides={"image": pl.Struct({"bytes": pl.Binary})},
    )
    buffer = io.BytesIO()
    table.write_parquet(buffer)
    return buffer.getvalue()


def cell_value(leaf: Leaf, cell: Any) -> Any:
    """Return the value of a column's cell, as `Leaf.cell` wrote it; of other leaves than options.

    Numbers or words are text there.
    """
    if tuple in leaf.types:
        return tuple(cell.split(",")) if cell else ()
    if isinstance(cell, str) and cell not in leaf.types:
        for kind in (int, float):
            if kind in leaf.types:
                return kind(cell)
    return cell


def _plane(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the first two principal components of centred rows, shape (n, 2)."""
    _, axes = np.linalg.eigh(rows.T @ rows)
    basis = axes[:, :-3:-1]
    # The sign of an axis is arbitrary: the largest entry is positive.
    basis = basis * np.sign(basis[np.abs(basis).argmax(axis=0), [0, 1]])
    plane: NDArray[np.float64] = rows @ basis
    return plane
