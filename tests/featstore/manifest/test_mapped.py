"""Large tables are mapped from copies in the user's cache, and are the same tables."""

from __future__ import annotations

import os
import pickle
import sys
import time
from collections import Counter
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from featstore.durable import remove_tree
from featstore.errors import ManifestError
from featstore.identity import sha256_hex
from featstore.manifest import io, manifest
from featstore.manifest.io import read_manifest, write_manifest
from featstore.manifest.manifest import validate_items
from featstore.store.parquet_guard import map_columns, table_bytes, unpack, unpack_columns


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(io, "MAPPED_BYTES", 0)
    return tmp_path / "cache" / "headstock" / "tables"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    _write(tmp_path / "m", "wren")
    return tmp_path / "m"


def _write(folder: Path, word: str) -> None:
    texts = [f"a {word} and {number} more" for number in range(500)]
    table = pl.DataFrame({"item_id": [f"i{number}" for number in range(500)], "text": texts})
    write_manifest(folder, facts={"name": "birds"}, tables={"caption": table})


def _unmapped(folder: Path) -> pl.DataFrame:
    return unpack((folder / "caption.parquet").read_bytes())


def test_a_mapped_table_is_the_table(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = _unmapped(folder)
    assert_frame_equal(read_manifest(folder).items("caption"), expected)
    assert len(list(cache.iterdir())) == 1
    # The second time it is only mapped.
    monkeypatch.setattr(io, "unpack_columns", None)
    monkeypatch.setattr(io, "unpack", None)
    assert_frame_equal(read_manifest(folder).items("caption"), expected)


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


@pytest.mark.parametrize("rows", [1, 131_073, 300_001])
def test_a_mapped_table_is_stored_as_the_same_bytes(rows: int, tmp_path: Path) -> None:
    table = pl.DataFrame({"n": pl.int_range(rows, eager=True)}).select(
        item_id=pl.format("i{}", "n"),
        text=pl.when(pl.col("n") % 3 > 0).then(pl.format("a photograph of thing {}", "n")),
        split=pl.lit("train"),
        uri=pl.lit(None, dtype=pl.String),
        number=pl.col("n") * 7,
    )
    data = io.parquet_bytes(table)
    unpack_columns(data, tmp_path)
    mapped = map_columns(tmp_path)
    assert mapped.n_chunks("all") == [1] * 5
    assert table_bytes(mapped) == table_bytes(unpack(data)) == table_bytes(table)


@pytest.mark.parametrize("lacking", ["pyarrow", "room"])
def test_what_cannot_be_mapped_is_read(
    lacking: str, folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if lacking == "pyarrow":
        monkeypatch.setitem(sys.modules, "pyarrow", None)
    else:
        cache.parent.mkdir(parents=True)
        cache.write_text("a file where the folder should be")
    assert_frame_equal(read_manifest(folder).items("caption"), _unmapped(folder))
    assert not cache.is_dir() or not list(cache.iterdir())


def test_a_table_that_is_no_parquet_is_refused_and_not_kept(folder: Path, cache: Path) -> None:
    (folder / "dataset.toml").write_text('name = "birds"\n')
    data = (folder / "caption.parquet").read_bytes()
    (folder / "caption.parquet").write_bytes(data[:-9])
    with pytest.raises(ManifestError, match="not a readable Parquet file"):
        read_manifest(folder)
    assert not list(cache.iterdir())


def test_the_cache_keeps_what_was_used_last(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    for number, word in enumerate(["wren", "owl", "kite"]):
        _write(tmp_path / word, word)
        known = set(cache.iterdir()) if cache.exists() else set()
        if word == "kite":
            monkeypatch.setattr(io, "KEPT_BYTES", 2 * max(sizes) + 1000)
        read_manifest(tmp_path / word)
        for made in set(cache.iterdir()) - known:
            os.utime(made, (number, number))
            sizes.append(sum(path.stat().st_size for path in made.iterdir()))
        if word == "owl":
            read_manifest(tmp_path / "wren")  # used again: now the owls are the oldest
    monkeypatch.setattr(io, "unpack", None)
    monkeypatch.setattr(io, "unpack_columns", None)
    read_manifest(tmp_path / "wren")
    read_manifest(tmp_path / "kite")
    with pytest.raises(TypeError):
        read_manifest(tmp_path / "owl")


@pytest.mark.parametrize("damage", ["column", "end", "all", "file"])
def test_a_damaged_copy_is_removed_and_the_table_read(
    damage: str, folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = read_manifest(folder).items("caption")
    (copy,) = cache.iterdir()
    last = sorted(copy.iterdir())[-1]
    if damage == "end":
        last.write_bytes(last.read_bytes()[:-9])
    elif damage == "column":
        last.unlink()
    else:
        remove_tree(copy)
        copy.mkdir() if damage == "all" else copy.write_text("no folder")
    assert_frame_equal(read_manifest(folder).items("caption"), expected)
    assert not list(cache.iterdir())
    assert_frame_equal(read_manifest(folder).items("caption"), expected)
    monkeypatch.setattr(io, "unpack", None)
    assert_frame_equal(read_manifest(folder).items("caption"), expected)


def test_what_was_used_within_a_day_stays_and_the_rest_goes_at_once(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(io, "KEPT_BYTES", 0)
    hours = {"a": 23, "b": 25, "c.1.staged": 23, "d.1.staged": 25}
    for name, ago in hours.items():
        (cache / name).mkdir(parents=True)
        (cache / name / "0000.arrow").write_bytes(b"x")
        os.utime(cache / name, (time.time() - 3600 * ago,) * 2)
    removed = []
    monkeypatch.setattr(io, "remove_tree", removed.append)
    read_manifest(folder)
    left = {path.name for path in cache.iterdir()} - {path.name for path in removed}
    made = sha256_hex((folder / "caption.parquet").read_bytes())
    assert left == {"a", "c.1.staged", made}
    assert {path.suffix for path in removed} == {".staged"}


def test_of_small_tables_only_what_a_killed_process_left_goes(folder: Path, cache: Path) -> None:
    for name in ("old", "old.1.staged"):
        (cache / name).mkdir(parents=True)
        os.utime(cache / name, (0, 0))
    read_manifest(folder)
    made = sha256_hex((folder / "caption.parquet").read_bytes())
    assert {path.name for path in cache.iterdir()} == {"old", made}


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
