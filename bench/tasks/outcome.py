"""What every task returns, and the little it needs of an alignment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from bench.corpus import Items
from bench.metrics import NO_ITEM, Ranks, chance_levels, rank_projections, summarise

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
class Outcome:
    """One direction of one task, scored.

    Attributes
    ----------
    direction : str
        ``"image→name"``, ``"image→caption"`` or ``"caption→image"``.
    values, chance : dict
        Metric name to value, and to what a random order would give.
    ranks : Ranks
    query_ids, cluster_ids : arrays of str, shape (n,)
        Items that asked, and what each was drawn with: queries of one cluster are not
        independent.
    top_ids : list of n lists of str
        item_ids of the first places.
    """

    direction: str
    values: dict[str, float]
    chance: dict[str, float]
    ranks: Ranks
    query_ids: NDArray[Any]
    cluster_ids: NDArray[Any]
    top_ids: list[list[str]]


def score_direction(
    direction: str,
    queries: tuple[Items, NDArray[Any]],
    gallery: tuple[Items, NDArray[Any]],
    groups: tuple[NDArray[Any], NDArray[Any]],
    metrics: Sequence[str],
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
    """
    items, projected = queries
    others, columns = gallery
    ranks = rank_projections(projected, columns, *groups, top=KEPT)
    return Outcome(
        direction=direction,
        values=summarise(ranks, metrics),
        chance=chance_levels(ranks.n_relevant, ranks.gallery, metrics),
        ranks=ranks,
        query_ids=items.ids,
        cluster_ids=groups[0],
        top_ids=[
            [str(others.ids[place]) for place in places if place != NO_ITEM] for places in ranks.top
        ],
    )
