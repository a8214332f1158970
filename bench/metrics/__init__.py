"""Metrics on arrays: exact ranks, the numbers made of them, and what chance would give.

Nothing here knows a store, an encoder or an aligner.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.metrics.ranks import (
        CUTOFFS,
        NO_ITEM,
        Ranks,
        first_of_gallery,
        rank_blocks,
        rank_projections,
        rank_relevant,
        ranks_from_scores,
    )
    from bench.metrics.summary import (
        CLASS_METRICS,
        METRIC_VERSION,
        METRICS,
        Metric,
        chance_levels,
        class_metrics,
        cutoff,
        harmonic_mean,
        query_values,
        summarise,
    )
    from bench.metrics.ties import Relevance

__all__ = [
    "CLASS_METRICS",
    "CUTOFFS",
    "METRICS",
    "METRIC_VERSION",
    "NO_ITEM",
    "Metric",
    "Ranks",
    "Relevance",
    "chance_levels",
    "class_metrics",
    "cutoff",
    "first_of_gallery",
    "harmonic_mean",
    "query_values",
    "rank_blocks",
    "rank_projections",
    "rank_relevant",
    "ranks_from_scores",
    "summarise",
]


def __getattr__(name: str) -> Any:
    for home in ("summary", "ties", "ranks") if name in __all__ else ():
        module = import_module(f"bench.metrics.{home}")
        if hasattr(module, name):
            return getattr(module, name)
    raise AttributeError(f"module 'bench.metrics' has no attribute {name!r}")
