"""Head items stand in the order of the rows of a head."""

import hashlib

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featstore.errors import ManifestError
from featstore.labels import head_items
from featstore.manifest.manifest import ITEM_SCHEMA, validate_items


def labels(order):
    return pl.DataFrame(
        {
            "class_id": [f"set/c{n}" for n in order],
            "index": list(order),
            "name": [f"name {n}" for n in order],
            "shared_name": [False] * len(order),
        },
        schema_overrides={"index": pl.Int64},
    )


@given(st.permutations(range(7)))
def test_row_i_is_class_i_whatever_the_order_of_the_table(order):
    table = head_items(labels(order))
    assert table["item_id"].to_list() == [f"set/c{n}#head" for n in range(7)]
    assert table["class_id"].to_list() == [f"set/c{n}" for n in range(7)]
    assert table["content_sha256"][3] == hashlib.sha256(b"set/c3").hexdigest()
    assert dict(table.schema) == ITEM_SCHEMA
    assert table["kind"].unique().to_list() == ["head_weight"]
    validate_items({"head_weight": table}, labels(order))


def test_a_label_set_that_misses_a_row_of_the_head_is_refused():
    with pytest.raises(ManifestError, match="must be 0 to 1, each once"):
        head_items(labels([0, 2]))
