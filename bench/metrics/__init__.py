"""Metrics on arrays: exact ranks, the numbers made of them, and what chance would give.

Nothing here knows a store, an encoder or an aligner. A metric of one's own is a `Metric`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from featstore.errors import lazily

if TYPE_CHECKING:
    from bench.metrics.summary import Metric

__all__ = ["Metric"]

__getattr__, __dir__ = lazily(__name__, {"bench.metrics.summary": "Metric"})
