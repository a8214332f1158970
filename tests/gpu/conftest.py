"""Fake cards for a test: where there can be none, it is skipped, and fails in `make test-long`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

Cards = Callable[..., AbstractContextManager[Any]]


@pytest.fixture(scope="session")
def can_have_cards() -> None:
    """Skip where fake cards cannot be built."""
    from tests.gpu.fake_card import CannotBuildError, load_guard

    try:
        load_guard()
    except CannotBuildError as err:
        (pytest.fail if os.environ.get("HEADSTOCK_FAULTS") == "all" else pytest.skip)(str(err))


@pytest.fixture
def cards(can_have_cards: None) -> Cards:
    """Return what has fake cards for a while, and finds no race at the end."""
    from tests.gpu.fake_card import Card, fake_cards

    @contextmanager
    def have(*given: Card) -> Iterator[Any]:
        with fake_cards(*given) as machine:
            yield machine
        assert not machine.reports

    return have
