"""Benchmarks that score alignments: metrics, statistics, suites, tables and a report.

Importing this package loads neither torch nor plotting; names are looked up when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from featstore.errors import lazily

if TYPE_CHECKING:
    from bench.comparisons import compare
    from bench.execution import run_all
    from bench.metrics.geometry import mutual_knn_by_size
    from bench.report.page import write_report
    from bench.results import read_ranks, read_results
    from bench.runs import Run

__all__ = [
    "Run",
    "compare",
    "mutual_knn_by_size",
    "read_ranks",
    "read_results",
    "run_all",
    "write_report",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "bench.comparisons": "compare",
        "bench.execution": "run_all",
        "bench.metrics.geometry": "mutual_knn_by_size",
        "bench.report.page": "write_report",
        "bench.results": "read_ranks read_results",
        "bench.runs": "Run",
    },
)
