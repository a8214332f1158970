"""Metrics on arrays: exact ranks, the numbers made of them, and what chance would give.

Nothing here knows a store, an encoder or an aligner.
"""

from bench.metrics.chance import chance_levels
from bench.metrics.ranks import CUTOFFS, NO_ITEM, Ranks, rank_projections, ranks_from_scores
from bench.metrics.summary import (
    METRIC_VERSION,
    METRICS,
    cutoff,
    per_query,
    query_values,
    summarise,
)

__all__ = [
    "CUTOFFS",
    "METRICS",
    "METRIC_VERSION",
    "NO_ITEM",
    "Ranks",
    "chance_levels",
    "cutoff",
    "per_query",
    "query_values",
    "rank_projections",
    "ranks_from_scores",
    "summarise",
]
