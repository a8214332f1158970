"""Extending a set: rows stay, readers keep theirs, every revision opens, and nothing is mixed."""

from __future__ import annotations

import contextlib
import json
import pickle
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from featstore import open_store
from featstore.errors import (
    AlreadyFinishedError,
    CorruptStoreError,
    StoreWriteError,
    UnknownSetError,
)
from featstore.identity import canonical_json, sha256_hex
from featstore.share import make_tag
from featstore.store import (
    MODES,
    LayoutLimits,
    SetKey,
    SetSpec,
    SetWriter,
    WriteOptions,
    collect_garbage,
    tidy_set,
    verify_store,
    writer,
)
from featstore.store.gc import compact_set
from featstore.store.layout import LIMITS
from featstore.store.records import KEY as CONVENTION
from featstore.testing import item_table
from tests.damage import flip, lasting, tree
from tests.typed import headstock

KEY = "birds/image/timm:toy"
DIM = 6
TOY = SetSpec("birds", "image", "timm:toy", {"name": "toy"}, "float32")


def _items(n: int, **columns: list[Any]) -> pl.DataFrame:
    hashes = [f"{i:064x}" for i in range(n)]
    return item_table([f"birds/{i:03d}" for i in range(n)], content_sha256=hashes, **columns)


def _rows(n: int, dtype: str = "float32") -> np.ndarray:
    rng = np.random.default_rng(5)
    return rng.standard_normal((n, DIM)).astype(np.float16).astype(dtype)


def _write(
    root: Path,
    n: int,
    *,
    fail: frozenset[int] = frozenset(),
    items: pl.DataFrame | None = None,
    stop_after: int | None = None,
    retry_failed: bool = False,
    reason: str = "bad",
    **changes: int,
) -> tuple[str, list[int]]:
    """Write or extend the set to n rows; return its key and the blocks that were pending."""
    limits = LayoutLimits(**{"block_rows": 4, "plain_bytes": 0, "shard_bytes": 1} | changes)
    table = _items(n) if items is None else items
    rows = _rows(1000)
    options = WriteOptions(retry_failed=retry_failed)
    with SetWriter(root, TOY, table, DIM, options=options, limits=limits) as writer:
        pending = writer.pending()
        for count, block in enumerate(pending):
            if count == stop_after:
                return str(writer.key), pending
            where = writer.layout.block_slice(block)
            # What is kept must come from the store: the writer gets rubbish for it.
            given = np.where(writer.kept(block)[:, None], np.float32(99), rows[where])
            failed = {table["item_id"][i]: reason for i in fail if where.start <= i < where.stop}
            writer.write_block(block, given, failed)
        writer.finish(golden={"vectors": [[1.0]]})
    return str(writer.key), pending


@pytest.mark.parametrize(("before", "after"), [(3, 7), (4, 5), (8, 9), (10, 40)])
@pytest.mark.parametrize("plain", [0, 60, 10**6], ids=["sharded", "plain to sharded", "plain"])
def test_an_extended_set_reads_as_one_that_was_written_at_once(tmp_path, before, after, plain):
    _write(tmp_path / "grown", before, plain_bytes=plain)
    key, pending = _write(tmp_path / "grown", after, plain_bytes=plain)
    assert pending == list(range(-(-before // 4), -(-before // 4) - (before - after) // 4))
    _write(tmp_path / "fresh", before, plain_bytes=plain)
    grown, fresh = lasting(tmp_path / "grown"), lasting(tmp_path / "fresh")
    records = {name for name in fresh if "/revisions/" in name}  # of the commit before
    for name in (
        fresh.keys() - records - ({f"{key}/zarr.json", f"{key}/embedding/zarr.json", "log.json"})
    ):
        assert grown[name] == fresh[name]  # whatever a commit names stays as it is
    assert verify_store(tmp_path / "grown").problems == []
    for mode in MODES:
        view = open_store(tmp_path / "grown", mode=mode, verify="first-touch").view(KEY)  # type: ignore[arg-type]
        assert view.numpy(np.float32).tobytes() == _rows(1000)[:after].tobytes()
        assert view.items["item_id"].to_list() == _items(after)["item_id"].to_list()
    folder = tmp_path / "grown" / key / "embedding"
    stated = json.loads((folder / "zarr.json").read_text())["attributes"]["featstore"]
    arrays = [zarr.open_array(str(folder / one["path"]), mode="r") for one in stated["parts"]]
    assert b"".join(np.asarray(one[:]).tobytes() for one in arrays) == view.numpy().tobytes()
    with pytest.raises((ValueError, FileNotFoundError)):
        zarr.open_array(str(folder), mode="r")  # it fails rather than give the first rows


def test_every_revision_stays_openable(tmp_path):
    sizes = [3, 4, 9, 30]
    for n in sizes:
        _write(tmp_path, n)
    store = open_store(tmp_path)
    revisions = store.revisions(KEY)
    assert [info.commit.n for info in revisions] == sizes
    assert verify_store(tmp_path).problems == []
    for n, info in zip(sizes, revisions, strict=True):
        for mode in MODES:
            opened = open_store(tmp_path, mode=mode, verify="first-touch")  # type: ignore[arg-type]
            view = opened.view(KEY, revision=info.commit.revision_id[:10])
            assert view.shape == (n, DIM)
            assert view.numpy(np.float32).tobytes() == _rows(1000)[:n].tobytes()
            assert view.revision_id == info.commit.revision_id
    with pytest.raises(UnknownSetError, match=r"no revision 'beef'\. It has, .* '\w{12}', "):
        store.view(KEY, revision="beef")
    ids = [info.commit.revision_id for info in revisions]
    assert [one.commit.published for one in revisions] == [(*ids[i::-1],) for i in range(4)]
    assert [(one.id, one.n) for one in revisions[-1].commit.revisions] == list(
        zip(ids, sizes, strict=True)
    )
    assert revisions[-1].commit.sequence == 4
    assert len([*tmp_path.glob("*/*/*/revisions/*")]) == 1
    # The items alone may change, too.
    assert _write(tmp_path, 30, items=_items(30, split=["test"] * 30))[1] == []
    assert open_store(tmp_path).view(KEY).where(split="test").shape == (30, DIM)
    assert open_store(tmp_path).view(KEY, revision=ids[-1]).items["split"].null_count() == 30
    assert verify_store(tmp_path).problems == []


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t: t[::-1], "is finished"),
        (lambda t: t[:5], "is finished"),
        (lambda t: t.with_columns(content_sha256=pl.lit("0" * 64)), "another content: 'birds/001'"),
    ],
)
def test_what_adds_nothing_is_refused(tmp_path, change, match):
    _write(tmp_path, 6)
    before = lasting(tmp_path)
    with pytest.raises(StoreWriteError, match=match):
        _write(tmp_path, 6, items=change(_items(6)))
    assert lasting(tmp_path) == before


def test_failed_rows_stay_failed_or_are_tried_again(tmp_path):
    _write(tmp_path, 6, fail=frozenset({1, 5}))
    _, pending = _write(tmp_path, 10, fail=frozenset({9}))
    assert pending == [2]
    store = open_store(tmp_path)
    assert store.failures(KEY)["item_id"].to_list() == ["birds/001", "birds/005", "birds/009"]
    assert store.view(KEY).n_failed == 3
    _, pending = _write(tmp_path, 10, fail=frozenset({5}), retry_failed=True)
    assert pending == [0, 1, 2]
    assert verify_store(tmp_path).problems == []
    for revision, failed in zip(store.revisions(KEY), [{1, 5}, {1, 5, 9}, {5}], strict=True):
        n = revision.commit.n
        opened = open_store(tmp_path, verify="first-touch")
        view = opened.view(KEY, revision=revision.commit.revision_id)
        good = [i for i in range(n) if i not in failed]
        assert view.numpy(np.float32).tobytes() == _rows(1000)[good].tobytes()
        assert opened.failures(KEY, revision=revision.commit.revision_id).height == len(failed)
    with pytest.raises(StoreWriteError, match="is finished"):
        _write(tmp_path, 10)
    # A second try that changes nothing is the same revision.
    _write(tmp_path, 10, fail=frozenset({5}), retry_failed=True)
    assert len(store.revisions(KEY)) == 3
    assert verify_store(tmp_path).problems == []


def _states_id_of_record(root: Path) -> bool:
    """Return whether the set states a record, of which its id is the sha256; fail if it is not."""
    (group,) = (path.parent for path in root.glob("birds/image/*/zarr.json"))
    attributes = json.loads((group / "zarr.json").read_text())["attributes"]
    if CONVENTION not in attributes:
        return False
    revision = attributes[CONVENTION]["revision"]
    record = json.loads((group / revision["record"]).read_text())
    assert revision["id"] == sha256_hex(canonical_json(record))
    return True


def test_a_retry_with_another_reason_alone_states_the_id_of_its_record(tmp_path):
    _write(tmp_path, 6, fail=frozenset({1}), plain_bytes=10**6)
    assert _states_id_of_record(tmp_path)
    (before,) = open_store(tmp_path).revisions(KEY)
    _write(tmp_path, 6, fail=frozenset({1}), reason="worse", retry_failed=True, plain_bytes=10**6)
    assert open_store(tmp_path).failures(KEY)["reason"].to_list() == ["worse"]
    (after,) = open_store(tmp_path).revisions(KEY)
    assert after.commit.revision_id == before.commit.revision_id  # its rows are the same
    assert _states_id_of_record(tmp_path)
    assert verify_store(tmp_path).problems == []


#: Rows, which of them fail, why, and whether those that failed are tried again.
WRITES = st.tuples(
    st.integers(1, 9),
    st.frozensets(st.integers(0, 8), max_size=2),
    st.sampled_from(["bad", "worse"]),
    st.booleans(),
)


@settings(max_examples=25, deadline=None)
@given(writes=st.lists(WRITES, min_size=1, max_size=5), plain_bytes=st.sampled_from([0, 10**6]))
def test_whatever_is_written_the_stated_id_is_that_of_the_record(writes, plain_bytes):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        n = 0
        for n_rows, fail, reason, retry_failed in writes:
            n = max(n, n_rows)
            with contextlib.suppress(StoreWriteError):  # it is finished already
                _write(
                    root,
                    n,
                    fail=fail,
                    reason=reason,
                    retry_failed=retry_failed,
                    plain_bytes=plain_bytes,
                )
            _states_id_of_record(root)
        headstock("store", "compact", root)
        _states_id_of_record(root)
        assert verify_store(root).problems == []


def test_disjoint_items_of_two_writers_both_survive(tmp_path):
    _write(tmp_path, 5)
    table = _items(12)
    for mine in (slice(4, 9), slice(9, 12), slice(2, 5)):
        begun = SetWriter(tmp_path, TOY, table[mine], DIM)
        with contextlib.suppress(AlreadyFinishedError), begun as writer:
            for block in writer.pending():
                writer.write_block(block, _rows(1000)[writer.layout.block_slice(block)])
            writer.finish()
    view = open_store(tmp_path, verify="first-touch").view(KEY)
    assert view.numpy(np.float32).tobytes() == _rows(1000)[:12].tobytes()
    assert view.items.equals(table)
    assert verify_store(tmp_path).problems == []


@pytest.mark.parametrize("limits", [LIMITS, LayoutLimits(plain_bytes=0, shard_bytes=1)])
def test_many_appends_leave_few_parts(tmp_path, monkeypatch, limits):
    monkeypatch.setattr(writer, "LIMITS", limits)
    held = []
    for n in range(1, 74):
        key, _ = _write(tmp_path, n, plain_bytes=0 if limits is not LIMITS else 10**6)
        if n % 35 == 1:
            held.append((n, open_store(tmp_path, mode=MODES[len(held) % 3]).view(KEY)))
    commit = open_store(tmp_path).info(KEY).commit
    assert [part.n for part in commit.parts] == [64, 8, 1]
    assert [one.n for one in commit.revisions] == [*range(1, 74)]
    data = {name for name in tree(tmp_path / key) if "/c/" in name}
    assert data == {file.path for file in commit.layout.files}
    for mode in MODES:
        view = open_store(tmp_path, mode=mode, verify="first-touch").view(KEY)  # type: ignore[arg-type]
        assert view.numpy(np.float32).tobytes() == _rows(1000)[:73].tobytes()
    collect_garbage(tmp_path, grace=-1)
    for n, view in held:  # whatever was removed meanwhile
        assert view.numpy(np.float32).tobytes() == _rows(1000)[:n].tobytes()
        assert view.items["item_id"].to_list() == _items(n)["item_id"].to_list()
    assert verify_store(tmp_path).problems == verify_store(tmp_path).notes == []


def test_a_compact_set_is_one_part_with_the_same_revisions(tmp_path, capsys):
    for n in (6, 9, 15):
        key, _ = _write(tmp_path, n)
    tag = make_tag(tmp_path, "v1")
    _write(tmp_path, 16)
    store, parsed = open_store(tmp_path), SetKey(*key.split("/"))
    before, views = lasting(tmp_path), [open_store(tmp_path, mode=mode).view(KEY) for mode in MODES]
    ids = [info.commit.revision_id for info in store.revisions(KEY)]
    assert headstock("store", "compact", tmp_path, "--dry-run") == 0
    assert capsys.readouterr().out == f"{key}: 4 parts would become one\n"
    assert lasting(tmp_path) == before
    compact_set(tmp_path, parsed)
    after = lasting(tmp_path)
    assert headstock("store", "compact", tmp_path, KEY) == 0
    assert capsys.readouterr().out == f"{key}: one part, left alone\n"
    assert lasting(tmp_path) == after
    assert "is listed nowhere" in verify_store(tmp_path).notes[0].what
    collect_garbage(tmp_path, grace=-1)
    assert [info.commit.revision_id for info in store.revisions(KEY)] == ids
    assert len(open_store(tmp_path, revision="v1").view(KEY)) == 15
    assert tag[key] == ids[2]
    for view in (*views, store.view(KEY), pickle.loads(pickle.dumps(views[0]))):
        assert view.revision_id == ids[-1]
        assert view.numpy(np.float32).tobytes() == _rows(1000)[:16].tobytes()
        assert view.items.equals(_items(16))
    array = zarr.open_group(tmp_path / key / "embedding", mode="r")
    (name,) = array.array_keys()
    assert np.asarray(array[name][:]).tobytes() == _rows(1000)[:16].tobytes()
    _write(tmp_path, 20)
    assert open_store(tmp_path).view(KEY).numpy(np.float32).tobytes() == _rows(1000)[:20].tobytes()
    assert [one.id for one in open_store(tmp_path).info(KEY).commit.revisions][:-1] == ids


def test_damage_is_not_joined_nor_carried_into_the_next_revision(tmp_path):
    for n in (6, 9):
        key, _ = _write(tmp_path, n, fail=frozenset({5}))
    file = tmp_path / key / "embedding" / "c" / "0" / "0"
    flip(file, 3)
    before = lasting(tmp_path)
    with pytest.raises(CorruptStoreError, match="block 0"):
        compact_set(tmp_path, SetKey(*key.split("/")))
    tidy_set(tmp_path, SetKey(*key.split("/")))
    assert lasting(tmp_path) == before
    with pytest.raises(CorruptStoreError, match="block 0"):
        _write(tmp_path, 9, retry_failed=True)
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(CorruptStoreError, match="bytes, expected"):
        _write(tmp_path, 12)
