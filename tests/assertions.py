"""Assertions with the tolerances of the whole project; no test holds a bare number."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

TOLERANCE = {"float64": 1e-10, "float32": 1e-5, "float16": 3e-3}


def assert_same(actual, expected):
    """Bit-exact, with NaN equal to NaN: storage, counts, determinism."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.dtype == expected.dtype, f"dtype {actual.dtype} is not {expected.dtype}"
    np.testing.assert_array_equal(actual, expected, strict=True)


def assert_close(actual, expected, dtype="float64", *, times=1.0):
    """max |a − b| / max |b| within the tolerance of `dtype`; scale-relative, not element-relative.

    `times` loosens it; say in a comment at the call where the error comes from.
    """
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f"shape {actual.shape} is not {expected.shape}"
    assert np.isfinite(actual).all(), "not finite"
    assert np.isfinite(expected).all(), "the expected values are not finite"
    scale = np.abs(expected).max(initial=0.0)
    error = np.abs(actual - expected).max(initial=0.0)
    allowed = TOLERANCE[str(np.dtype(dtype))] * times
    assert error <= allowed * scale or error == 0, (
        f"off by {error:.3g} = {error / scale if scale else np.inf:.3g} of the scale; "
        f"allowed {allowed:.3g}"
    )


@contextmanager
def ends_what_it_starts(*threads: str) -> Iterator[None]:
    """Of the block's processes, and of its threads with these words in their names, none is left.

    What earlier tests of this process left is not the block's.
    """
    before = {*threading.enumerate(), *multiprocessing.active_children()}
    yield
    left = {*threading.enumerate(), *multiprocessing.active_children()} - before
    named = (one for one in left if not isinstance(one, threading.Thread)
             or any(word in one.name for word in threads))  # fmt: skip
    assert list(named) == []
