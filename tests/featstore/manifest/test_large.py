"""Large manifests travel as their folder, and repeated ids are found in any."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from featstore.errors import ManifestError
from featstore.manifest import manifest
from featstore.manifest.io import read_manifest, write_manifest
from featstore.manifest.manifest import validate_items


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    _write(tmp_path / "m", "wren")
    return tmp_path / "m"


def _write(folder: Path, word: str) -> None:
    texts = [f"a {word} and {number} more" for number in range(500)]
    table = pl.DataFrame({"item_id": [f"i{number}" for number in range(500)], "text": texts})
    write_manifest(folder, facts={"name": "birds"}, tables={"caption": table})


def test_a_large_manifest_is_sent_as_its_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = read_manifest(folder)
    whole = len(pickle.dumps(made))
    monkeypatch.setattr(manifest, "SENT_ROWS", 500)
    sent = pickle.dumps(made)
    assert len(sent) < whole / 10
    again = pickle.loads(sent)
    assert (again.name, again.root, again.facts) == (made.name, made.root, made.facts)
    assert_frame_equal(again.items("caption"), made.items("caption"))
    # What nobody has looked for here is looked for where it is read.
    assert again.unchecked
    assert not made.unchecked
    _write(folder, "kite")
    with pytest.raises(ManifestError, match="was changed while a job used it"):
        pickle.loads(sent)


@given(st.lists(st.sampled_from("abcdefgh"), max_size=8), st.lists(st.sampled_from("abc")))
def test_repeated_ids_are_those_that_a_counter_finds(ids: list[str], heads: list[str]) -> None:
    schema = {"item_id": pl.String, "text": pl.String}
    tables = {
        "caption": pl.DataFrame({"item_id": ids, "text": ["t"] * len(ids)}, schema=schema),
        "head_weight": pl.DataFrame({"item_id": heads}, schema={"item_id": pl.String}),
    }
    tables["head_weight"] = tables["head_weight"].with_columns(class_id=pl.col("item_id"))
    repeated = sorted(item for item, times in Counter([*ids, *heads]).items() if times > 1)
    reason = f"^{len(repeated)} item ids are repeated: '{repeated[0]}'" if repeated else "label set"
    if not repeated and not heads:
        validate_items(tables)
        return
    with pytest.raises(ManifestError, match=reason):
        validate_items(tables)
