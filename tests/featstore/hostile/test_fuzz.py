"""Random JSON and mutated real records: a FeatstoreError or a record, and nothing else.

``HEADSTOCK_FUZZ_EXAMPLES=50000`` fuzzes for long; what that found stands here as an example.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from featstore import FeatstoreError
from featstore.durable import json_bytes
from featstore.identity import sealed
from featstore.store import Log
from featstore.store.parquet_guard import read_table, table_bytes
from featstore.store.records import parse_commit, parse_tag
from featstore.testing import item_table

FUZZ = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    deadline=None,
    max_examples=int(os.environ.get("HEADSTOCK_FUZZ_EXAMPLES", "100")),
)

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(2**50, 2**200)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["float16", "object", "../x", "0" * 64, "AAAA", "sharding_indexed"]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)  # fmt: skip


def _places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside = dict(enumerate(document)) if isinstance(document, list) else document
    places = []
    for key, value in inside.items() if isinstance(inside, dict) else ():
        places += [(*path, key), *_places(value, (*path, key))]
    return places


def _mutated(data: st.DataObject, document: Any) -> Any:
    """Replace, remove or rename one to three places of a real document."""
    document = json.loads(json.dumps(document))
    for _ in range(data.draw(st.integers(1, 3))):
        places = _places(document)
        if not places:
            return document
        *path, last = data.draw(st.sampled_from(places))
        target = document
        for step in path:
            target = target[step]
        value = data.draw(VALUES)
        if isinstance(target, dict) and data.draw(st.booleans()):
            target[data.draw(st.text(max_size=6))] = target.pop(last)
        elif data.draw(st.booleans()):
            target[last] = value
        else:
            del target[last]
    return document


def _read_all(document: Any) -> None:
    with contextlib.suppress(FeatstoreError):
        commit = parse_commit(document, where="x")
        assert commit.n_failed == int(commit.failed_rows()[:100_000].sum()) or commit.n > 100_000
    with contextlib.suppress(FeatstoreError):
        parse_tag(document, where="x")
    for stated in (document, sealed(document) if isinstance(document, dict) else document):
        with contextlib.suppress(FeatstoreError):
            Log.parse(json_bytes(stated), where="x")


@FUZZ
@example(document={"format": 10**30})
@example(document={"format": True})
@example(document={"attributes": {"featstore": []}})
@example(document={"sets": [{"key": [], "revision": {}}], "format": 1})
@given(document=VALUES)
def test_random_documents(document):
    _read_all(document)


@FUZZ
@pytest.mark.parametrize("which", ["commit", "log"])
@given(data=st.data())
def test_mutated_documents(hostile, which, data):
    path = hostile.commit_path if which == "commit" else hostile.root / "log.json"
    _read_all(_mutated(data, json.loads(path.read_text())))


@FUZZ
@given(data=st.data())
def test_mutated_parquet(data):
    before = table_bytes(item_table([{"item_id": f"b/{i}", "split": "test"} for i in range(9)]))
    changed = bytearray(before)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(FeatstoreError):
        read_table(bytes(changed), where="x", schema={})


@pytest.mark.parametrize("value", [0x19, 0x39])
def test_every_place_of_a_footer_may_be_a_list(value):
    """Found by fuzzing: a structure of the footer that claims to be a list of something."""
    before = table_bytes(item_table([{"item_id": "b/0", "split": "test"}]))
    for place in range(len(before) - 8 - int.from_bytes(before[-8:-4], "little"), len(before)):
        changed = bytearray(before)
        changed[place] = value
        with contextlib.suppress(FeatstoreError):
            read_table(bytes(changed), where="x", schema={})
