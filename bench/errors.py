"""Errors of the benchmarks.

The tree, by what a handler would do::

    FeatstoreError
    └── BenchError
        ├── MetricError(ValueError)       fix the arrays that are scored
        ├── ProtocolError(ValueError)     choose another suite, split, seed or number of pairs
        ├── UnknownSuiteError(KeyError)   fix the name
        ├── NoResultsError(ValueError)    run a suite first, or name another folder
        ├── SubmissionError(ValueError)   pack the entry again, or leave its file out
        └── BoxError(ValueError)          correct the file of the study

Files that cannot be written raise `featstore.errors.StoreWriteError`.
"""

from __future__ import annotations

from featstore.errors import FeatstoreError


class BenchError(FeatstoreError):
    """Base of every error that the benchmarks raise on purpose."""


class MetricError(BenchError, ValueError):
    """Arrays cannot be scored: shapes, groups or values do not fit."""


class ProtocolError(BenchError, ValueError):
    """A run needs something that its data do not have."""


class UnknownSuiteError(BenchError, KeyError):
    """No suite has this name."""


class NoResultsError(BenchError, ValueError):
    """A folder holds no result that fits the request."""


class SubmissionError(BenchError, ValueError):
    """An entry of a leaderboard cannot be made, or cannot be ranked."""


class BoxError(BenchError, ValueError):
    """The file of a study to reproduce is missing or not made as it should be."""
