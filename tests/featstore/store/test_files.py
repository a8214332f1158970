"""JSON of a store, and the columns of its item tables."""

from __future__ import annotations

import json
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from featstore import open_store
from featstore.durable import MAX_JSON_DEPTH, json_bytes, parse_json
from featstore.errors import CorruptStoreError, UnknownColumnError
from featstore.store import tables, verify_store
from featstore.store.parquet_guard import column_chunks, footer_start, table_bytes, unpack
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


def test_what_no_writer_makes_is_refused():
    documents = [
        b'{"a": NaN}', b"[-Infinity]", b"[1e999]", rb'["\ud800"]', rb'{"\uDC00": 1}',
        b'["\xed\xa0\x80"]', '{"a": 1}'.encode("utf-16"), _nested(MAX_JSON_DEPTH + 1),
        b"[" + b"[], " * 40 + _nested(MAX_JSON_DEPTH) + b"]",
    ]  # fmt: skip
    for data in documents:
        with pytest.raises(CorruptStoreError, match="is not JSON that a store holds"):
            parse_json(data, where="it")
    # Brackets in texts and beside one another are not depth.
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
    classes, shoots = [f"c/{rng.integers(5)}" for _ in range(N)], [f"s/{i // 10}" for i in range(N)]
    items = item_table(
        [f"i/{i}" for i in range(N)], class_id=classes, split=["a", "b"] * (N // 2), shoot=shoots
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
    assert chunks[0].name == "item_id"
    assert len({chunk.rows.start for chunk in chunks}) >= 2
    places = [(chunk.name, chunk.place, chunk.rows) for chunk in chunks]
    for name, place, rows in [*places, ("", slice(start, len(data)), range(N))]:
        for at in (place.start, (place.start + place.stop) // 2, place.stop - 1):
            path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
            assert any(path.name in one.path for one in verify_store(store).problems), at
            for column, value in (("split", "a"), ("class_id", "c/3"), ("shoot", "s/6")):
                view = open_store(store).view("birds/image/toy")
                if name in (column, "") and (column != "shoot" or rows.stop > 60):
                    with pytest.raises(CorruptStoreError, match=f"{path.name} differs from"):
                        view.where(**{column: value})
                else:
                    assert len(view.where(**{column: value})) > 3


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="counts bytes as Linux does")
def test_a_column_is_read_without_the_others(tmp_path, rng):
    notes = [rng.bytes(2**14).hex() for _ in range(32)]
    items = item_table([f"i/{i}" for i in range(32)], split=["a", "b"] * 16, note=notes)
    write_set(tmp_path, rng.standard_normal((32, 4)).astype(np.float32), items)
    taken = []
    for _ in range(2):  # the first loads libraries
        view = open_store(tmp_path).view("birds/image/toy")
        before = _bytes_read()
        assert len(view.where(split="a")) == 16
        taken.append(_bytes_read() - before)
    assert taken[1] < 2**17 < 2**19 < sum(path.stat().st_size for path in tmp_path.rglob("items-*"))


def test_a_large_table_is_read_as_a_small_one_is(rng):
    n = 120_000
    table = pl.DataFrame({
        "item_id": [rng.bytes(16).hex() for _ in range(n)], "share": rng.random(n),
        "kind": ["image"] * n, "text": pl.Series([None] * n, dtype=pl.String), "box": [[1, 2]] * n,
        "odd": [*["a"] * (n - 1), None], "none": [float("nan")] * n,
    })  # fmt: skip
    data = table_bytes(table)
    assert len(data) > 2**20
    found = unpack(data, rows=n)
    assert_frame_equal(found, table)
    assert found.estimated_size() < 0.9 * table.estimated_size()  # equal values are held once
    assert_frame_equal(unpack(data, rows=n, columns=["kind"]), table.select("kind"))


def _bytes_read() -> int:
    return int(Path("/proc/self/io").read_text().split()[1])


_TEXTS = st.sampled_from(["a", "b", "bb", "ä", "z" * 90]) | st.none()


@settings(max_examples=15, deadline=None)
@given(
    st.lists(_TEXTS, min_size=1, max_size=12), st.lists(_TEXTS.filter(bool), max_size=3),
    st.booleans(), st.sampled_from([pl.String, pl.Categorical]),
)  # fmt: skip
def test_groups_are_left_out_that_hold_none_of_the_values(texts, wanted, ordered, dtype):
    texts = sorted(texts, key=str) if ordered else texts
    items = pl.DataFrame({"item_id": [f"{i}" for i in range(len(texts))], "text": texts},
                         schema_overrides={"text": dtype}).with_columns(n=1)  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patched:
        patched.setattr(tables, "GROUP_ROWS", 3)
        file = tables.ItemFile(items)
        path = Path(folder) / file.name
        path.write_bytes(file.data)
        read = partial(tables.read_items, [(path, {**file.facts, "n": len(texts)})])
        for name in ("text", "n"):
            expected = tables.where_equal(items[name], wanted)
            assert read(columns=[name], texts=wanted)[name].equals(expected)
            table = tables.ItemTable(lambda names, texts: read(columns=names, texts=texts))
            for values in (wanted, [*wanted, None]):
                expected = tables.where_equal(items[name], values)
                assert table.where(name, values).equals(expected)
            some = np.arange(0, len(texts), 2)
            expected = tables.where_equal(items[name], wanted)[some]
            assert table.take(some).where(name, wanted).equals(expected)
