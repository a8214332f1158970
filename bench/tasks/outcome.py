"""What every task returns, and the little it needs of an alignment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bench.corpus import Items
from bench.metrics import NO_ITEM, Ranks, chance_levels, rank_projections, summarise
from bench.options import Scorer
from fitters.scorers import scorer_named

#: Gallery ids kept per query, for the pictures of what was found.
KEPT = 5


class Projector(Protocol):
    """Two projections into one shared space; the score is the dot product.

    Rows are dense, or a scipy csr_array where the space is wide.
    """

    def project_x(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Project raw image embeddings, shape (n, p) to (n, r)."""
        ...

    def project_y(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Project raw text embeddings, shape (n, q) to (n, r)."""
        ...


@dataclass(frozen=True, eq=False)
class Queries:
    """What each of n queries found.

    Attributes
    ----------
    ranks : Ranks
    ids, clusters : arrays of str, shape (n,)
        Items that asked, and what each was drawn with: queries of one cluster are not
        independent.
    top_ids : list of n lists of str
        item_ids of the first places.
    """

    ranks: Ranks
    ids: NDArray[Any]
    clusters: NDArray[Any]
    top_ids: list[list[str]]


@dataclass(frozen=True, eq=False)
class Outcome:
    """One direction of one task, scored.

    Attributes
    ----------
    direction : str
        ``"image→name"``, ``"image→caption"``, ``"caption→image"``; of a diagnostic, what it
        looks at.
    values, chance : dict
        Metric name to value, and to what chance would give; a metric without a chance level
        is not in `chance`.
    n : int
        Queries, or rows that were looked at.
    gallery : int
        Items that a query is ranked against; of a diagnostic the rows of the other side.
    queries : Queries, optional
        Where there are queries.
    facts : dict
        Columns of `bench.results.RESULT_SCHEMA` that only this task knows.
    """

    direction: str
    values: dict[str, float]
    chance: dict[str, float]
    n: int
    gallery: int
    queries: Queries | None = None
    facts: dict[str, Any] | None = None

    @property
    def ranks(self) -> Ranks:
        """Ranks of the queries."""
        assert self.queries is not None
        return self.queries.ranks


def score_direction(
    direction: str,
    queries: tuple[Items, NDArray[Any]],
    gallery: tuple[Items, NDArray[Any]],
    groups: tuple[NDArray[Any], NDArray[Any]],
    metrics: Sequence[str],
    *,
    scorer: Scorer = "cosine",
    top: int = KEPT,
) -> Outcome:
    """Rank a gallery for every query and pool the ranks.

    Parameters
    ----------
    direction : str
    queries, gallery : pairs of Items and projections, shapes (n, r) and (g, r)
    groups : pair of arrays
        Ids of the queries and of the gallery: equal ids are relevant. Queries with one id
        are one cluster: they were drawn together.
    metrics : sequence of str
    scorer : str
        One of `fitters.scorers.SCORERS`.
    top : int
        Gallery items kept a query.
    """
    items, projected = queries
    others, columns = gallery
    if scorer != "cosine":
        projected, columns = scorer_named(scorer)(projected, columns)
    ranks = rank_projections(projected, columns, *groups, top=top)
    return ranked_outcome(direction, ranks, items.ids, groups[0], others.ids, metrics)


def ranked_outcome(
    direction: str,
    ranks: Ranks,
    query_ids: NDArray[Any],
    clusters: NDArray[Any],
    gallery_ids: NDArray[Any],
    metrics: Sequence[str],
) -> Outcome:
    """Pool finished ranks."""
    top_ids = [
        [str(gallery_ids[place]) for place in places if place != NO_ITEM] for places in ranks.top
    ]
    return Outcome(
        direction=direction,
        values=summarise(ranks, metrics),
        chance=chance_levels(ranks.n_relevant, ranks.gallery, metrics),
        n=len(query_ids),
        gallery=ranks.gallery,
        queries=Queries(ranks, query_ids, np.asarray(clusters), top_ids),
    )
