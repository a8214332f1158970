"""JSON of a store: written as `json.dumps` writes it, and read only if it can be written again."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featstore.errors import CorruptStoreError
from featstore.store.files import MAX_JSON_DEPTH, json_bytes, parse_json

_LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)  # fmt: skip
_DOCUMENTS = st.recursive(
    _LEAVES, lambda below: st.lists(below) | st.dictionaries(st.text(), below), max_leaves=20
)


@settings(max_examples=60)
@given(_DOCUMENTS)
def test_a_document_is_written_as_the_library_writes_it_and_read_back(document: Any) -> None:
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
def test_what_no_writer_makes_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(CorruptStoreError, match=why):
        parse_json(data, where="it")


def test_brackets_in_texts_and_beside_one_another_are_not_depth() -> None:
    document = {"[" * 50: ["{" * 50, *([[]] * 50)]}
    assert parse_json(json.dumps(document).encode(), where="it") == document
    assert parse_json(_nested(MAX_JSON_DEPTH), where="it")
