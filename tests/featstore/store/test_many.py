"""Work on a store grows with the number of its sets, and no faster."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from featstore import open_store
from featstore.share.doctor import examine
from featstore.store import collect_garbage, verify_store
from tests.featstore.store.many import many_sets

FEW, MANY = 50, 200


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    found = {}
    for n in (FEW, MANY):
        found[n] = tmp_path_factory.mktemp(f"many{n}") / "store"
        many_sets(found[n], n)
    return found


def _ls(root: Path) -> None:
    store = open_store(root)
    assert all(store.stored_bytes(info) for info in store.sets())
    assert store.unfinished() == []


def _verify(root: Path) -> None:
    report = verify_store(root)
    assert (report.problems, report.notes) == ([], [])


def _doctor(root: Path) -> None:
    assert [one for one in examine(root) if one.state == "wrong"] == []


def _gc(root: Path) -> None:
    assert collect_garbage(root, grace=0) == []


def _calls(work: Callable[[Path], None], root: Path) -> int:
    """Return how many functions, of Python and of C, the work calls."""
    count = 0

    def profile(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        work(root)
    finally:
        sys.setprofile(None)
    return count


#: Calls that one more set may cost: a file is opened once, and its JSON read in C. A third of those
#: of verify write the metadata that each file of JSON is compared with.
MOST = {_verify: 1_500, _ls: 1_100, _doctor: 2_150}


@pytest.mark.parametrize("work", [_verify, _ls, _doctor, _gc])
def test_four_times_the_sets_are_four_times_the_work(stores, work):
    work(stores[FEW])  # imports and caches
    few, many = _calls(work, stores[FEW]), _calls(work, stores[MANY])
    assert few > 20 * FEW
    assert many < 1.1 * (MANY / FEW) * few
    if work in MOST:
        assert (many - few) / (MANY - FEW) < MOST[work]
