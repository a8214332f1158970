"""JSON of a store, and the columns of its item tables."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featstore import open_store
from featstore.errors import CorruptStoreError, UnknownColumnError
from featstore.store import tables, verify_store
from featstore.store.files import MAX_JSON_DEPTH, json_bytes, parse_json
from featstore.store.parquet_guard import column_chunks, footer_start
from featstore.testing import item_table, write_set

_LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)  # fmt: skip
_DOCUMENTS = st.recursive(
    _LEAVES, lambda below: st.lists(below) | st.dictionaries(st.text(), below), max_leaves=20
)


@settings(max_examples=60)
@given(_DOCUMENTS)
def test_a_document_is_written_as_the_library_writes_it_and_read_back(document):
    text = json.dumps(document, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    data = (text + "\n").encode()
    assert json_bytes(document) == data
    assert parse_json(data, where="it") == document


def _nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b'{"a": NaN}', "not finite"),
        (b"[-Infinity]", "not finite"),
        (b"[1e999]", "not finite"),
        (rb'["\ud800"]', "surrogates not allowed"),
        (rb'{"\uDC00": 1}', "surrogates not allowed"),
        (b'["\xed\xa0\x80"]', "invalid continuation byte"),
        ('{"a": 1}'.encode("utf-16"), "invalid start byte"),
        (_nested(MAX_JSON_DEPTH + 1), "nested more than 32 deep"),
        (b"[" + b"[], " * 40 + _nested(MAX_JSON_DEPTH) + b"]", "nested more than 32 deep"),
    ],
)
def test_what_no_writer_makes_is_refused(data, why):
    with pytest.raises(CorruptStoreError, match=why):
        parse_json(data, where="it")


def test_brackets_in_texts_and_beside_one_another_are_not_depth():
    document = {"[" * 50: ["{" * 50, *([[]] * 50)]}
    assert parse_json(json.dumps(document).encode(), where="it") == document
    assert parse_json(_nested(MAX_JSON_DEPTH), where="it")


# ---- Columns of an item table, read one by one: checked, and no other looked at -------------


N = 70


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A store whose item table has three row groups."""
    monkeypatch.setattr(tables, "GROUP_ROWS", 32)
    rng = np.random.default_rng(5)
    items = item_table(
        [
            {"item_id": f"i/{i}", "class_id": f"c/{rng.integers(5)}", "split": "ab"[i % 2]}
            for i in range(N)
        ]
    )
    write_set(tmp_path / "store", rng.standard_normal((N, 4)).astype(np.float32), items)
    return tmp_path / "store"


def test_the_columns_are_those_of_the_whole_table(store):
    views = [open_store(store).view("birds/image/toy") for _ in range(2)]
    whole = views[0].items
    chosen = views[1].where(pl.col("class_id") > pl.col("split"), split=["a"])
    again = views[1].where(pl.any_horizontal(pl.all() == "c/3"), class_id="c/3")
    assert chosen.items.equals(whole.filter(split="a"))
    assert again.items.equals(whole.filter(class_id="c/3"))
    assert again.where(split="b").items.equals(whole.filter(class_id="c/3", split="b"))
    with pytest.raises(UnknownColumnError, match=r"No column named 'spilt'.*'split'"):
        open_store(store).view("birds/image/toy").where(spilt="a")


def test_a_flipped_byte_is_found_with_its_column_and_no_other(store):
    (path,) = store.rglob("items-*.parquet")
    path.chmod(0o644)
    data = path.read_bytes()
    start = footer_start(len(data), data[-8:])
    chunks = column_chunks(data[start:], start)
    assert [name for name, _ in chunks[:1]] == ["item_id"]
    assert len(chunks) % 3 == 0
    for name, place in [*chunks, ("", slice(start, len(data)))]:
        for at in (place.start, (place.start + place.stop) // 2, place.stop - 1):
            path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
            assert any(path.name in one.path for one in verify_store(store).problems), at
            for column, value in (("split", "a"), ("class_id", "c/3")):
                view = open_store(store).view("birds/image/toy")
                if name in (column, ""):
                    with pytest.raises(CorruptStoreError, match=f"{path.name} differs from"):
                        view.where(**{column: value})
                else:
                    assert len(view.where(**{column: value})) > 3
