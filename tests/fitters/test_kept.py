"""What is kept in memory: by what it follows from, and never more than is stated."""

import gc
import tracemalloc
import weakref
from collections import OrderedDict
from functools import partial
from types import FunctionType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import run_all
from bench.suites.demo import create_smoke_store
from featstore import open_store
from fitters.from_store import find_fits
from fitters.kept import Kept, kept, n_bytes_of, remember
from tests.shorthand import sweep_runs


def bytes_of_arrays(value, seen):
    """Return the bytes of all arrays below a value, by its attributes, and of a view its base's."""
    if id(value) in seen:
        return 0
    seen.add(id(value))
    if isinstance(value, np.ndarray):
        return value.nbytes if value.base is None else bytes_of_arrays(value.base, seen)
    if isinstance(value, FunctionType):
        parts = [cell.cell_contents for cell in value.__closure__ or ()]
    elif isinstance(value, dict):
        parts = value.values()
    elif isinstance(value, tuple | list | set):
        parts = value
    else:
        parts = () if isinstance(value, type) else getattr(value, "__dict__", {}).values()
    return sum(bytes_of_arrays(part, seen) for part in parts)


class Watched(Kept):
    """Looks at every result when it is first asked for."""

    def __init__(self, most_bytes):
        super().__init__(most_bytes)
        self.first_bytes = {}

    def get(self, key, make):
        result = super().get(key, make)
        self.first_bytes.setdefault(key, bytes_of_arrays(result, set()))
        return result


def test_no_result_of_a_sweep_grows_after_it_is_weighed(once, tmp_path, monkeypatch):
    place = once("smoke-store", create_smoke_store)
    store = open_store(place)
    memory = Watched(10**12)
    monkeypatch.setattr("fitters.kept.KEPT", memory)
    grid = {"method": ("ridge", "ridge-x2y", "kernel-ridge"), "source": ("none", "head", "random"),
            "n_pairs": (0, 8), "mix": (1.0, "auto"), "penalty": (0.1,), "seed": (0,)}  # fmt: skip
    run_all(sweep_runs(store, find_fits(store)[0], grid), place, tmp_path)
    results = memory._results
    assert len(results) > 100
    assert memory.n_bytes == sum(size for _, size in results.values())
    for key, (result, size) in results.items():
        assert bytes_of_arrays(result, set()) == memory.first_bytes[key] <= size, key


class Slotted:
    """A result without a dictionary."""

    __slots__ = ("rows",)

    def __init__(self, rows):
        self.rows = rows


def view_of_few():
    return np.ones((1_000, 100))[:2]


MADE = {
    "array": lambda: np.ones(100_000),
    "view": view_of_few,
    "twice": lambda: [np.ones(100_000)] * 2,
    "slots": lambda: Slotted(np.ones(100_000)),
    "partial": lambda: partial(np.add, np.ones(100_000)),
    "closure": lambda: (lambda rows: lambda: rows)(np.ones(100_000)),
    "texts": lambda: [f"text {number}" for number in range(10_000)],
    "sets": lambda: ({number: frozenset({str(number)}) for number in range(2_000)},),
}


@pytest.mark.parametrize("name", MADE)
def test_bytes_are_those_that_the_interpreter_allocates(name):
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        result = MADE[name]()
        allocated = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert n_bytes_of(result, set()) == pytest.approx(allocated, rel=0.1)


ASKED = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 6)), max_size=30)


@given(ASKED, st.integers(0, 40_000))
def test_the_results_used_last_stay_within_the_bound(asked, most_bytes):
    """Beside a list of keys and sizes, cut from its oldest end by hand."""
    memory, by_hand = Kept(most_bytes), OrderedDict()
    for key, n_numbers in asked:
        made = []
        result = memory.get(key, lambda n=n_numbers, made=made: made.append(n) or np.ones(999 * n))
        assert bool(made) == (key not in by_hand)
        size = 2_000 + n_bytes_of(result, set())
        if key in by_hand or size <= most_bytes:
            by_hand[key] = size
            by_hand.move_to_end(key)
        while sum(by_hand.values()) > most_bytes:
            by_hand.popitem(last=False)
        assert memory.n_bytes == sum(by_hand.values()) <= most_bytes


def test_arguments_count_by_value_or_by_identity_and_are_not_kept_alive(monkeypatch):
    monkeypatch.setattr("fitters.kept.KEPT", Kept(10**6))
    twice = kept(lambda holder, number, *, by=1: holder.rows[:2] * number * by)

    class Holder:
        rows = np.arange(4.0)

    one, other = Holder(), Holder()
    assert twice(one, 2) is twice(one, 2)
    assert twice(one, 2) is not twice(other, 2)
    np.testing.assert_array_equal(twice(one, 2, by=3), [0.0, 6.0])
    assert twice(one, (2,)[0], by=3) is twice(one, 2, by=3)
    gone = weakref.ref(one)
    del one
    gc.collect()
    assert gone() is None
    rows = np.arange(6.0)
    first = remember(lambda: rows.sum(), "sum", rows)
    assert remember(lambda: None, "sum", rows.copy()) is first  # by content
    assert remember(lambda: None, "sum", rows.reshape(2, 3)) is None
