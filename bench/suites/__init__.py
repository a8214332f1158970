"""Suites: Python functions that return the runs of a question.

``demo`` is the protocol on the demo's store; ``smoke`` is a shrunken form of it on a small
synthetic store that it makes itself; ``paper`` is the experiments of the head-recycling paper, each
as soon as its sets are in the store; ``few-shot`` is the few-shot learners on the datasets of a
store. Runs of one task (`bench.suites.single`) are planned by what is typed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from featstore.errors import lazily

if TYPE_CHECKING:
    from bench.suites.demo import create_smoke_store, demo_runs, smoke_runs
    from bench.suites.registry import SUITES, Suite, suite_named, with_lists

__all__ = [
    "SUITES",
    "Suite",
    "create_smoke_store",
    "demo_runs",
    "smoke_runs",
    "suite_named",
    "with_lists",
]

__getattr__, __dir__ = lazily(
    __name__,
    {
        "bench.suites.demo": "create_smoke_store demo_runs smoke_runs",
        "bench.suites.registry": "SUITES Suite suite_named with_lists",
    },
)
