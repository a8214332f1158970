"""Benchmarks that score alignments: metrics, statistics, suites, tables and a report.

Importing this package loads neither torch nor plotting; names are looked up when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.comparisons import compare
    from bench.execution import run_all
    from bench.report.page import write_report
    from bench.results import read_ranks, read_results
    from bench.runs import Run

__all__ = ["Run", "compare", "read_ranks", "read_results", "run_all", "write_report"]

_HOME = {
    "Run": "bench.runs",
    "compare": "bench.comparisons",
    "read_ranks": "bench.results",
    "read_results": "bench.results",
    "run_all": "bench.execution",
    "write_report": "bench.report.page",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'bench' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
