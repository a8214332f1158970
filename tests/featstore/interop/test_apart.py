"""Files that others' native parsers read: in a process of its own, and what it may not do."""

from __future__ import annotations

import json
import struct

import faiss
import numpy as np
import polars as pl
import pytest
from featstore.interop.apart import tensors_apart

from featstore.errors import ManifestError, MissingPackageError
from featstore.interop import apart
from featstore.interop.files import view_of

ROWS = np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32)


def written(path, index):
    faiss.write_index(index, str(path))
    return path


def test_a_flat_index_is_read_with_its_ids(tmp_path):
    flat = faiss.IndexFlatIP(6)
    flat.add(ROWS)
    view = view_of(written(tmp_path / "a.faiss", flat))
    np.testing.assert_array_equal(view.numpy(), ROWS)
    assert view.items["item_id"].to_list() == [str(i) for i in range(40)]
    own = faiss.IndexIDMap2(faiss.IndexFlatL2(6))
    own.add_with_ids(ROWS, 7 * np.arange(40))
    view = view_of(written(tmp_path / "b.faiss", own))
    np.testing.assert_array_equal(view.numpy(), ROWS)
    assert view.items["item_id"].to_list() == [str(7 * i) for i in range(40)]
    hnsw = faiss.IndexHNSWFlat(6, 4)
    hnsw.add(ROWS)
    with pytest.raises(ManifestError, match=r"IndexHNSW.*, which keeps no rows as they were"):
        view_of(written(tmp_path / "c.faiss", hnsw))


def test_an_index_that_lies_is_refused(tmp_path):
    flat = faiss.IndexFlatIP(6)
    flat.add(ROWS)
    good = written(tmp_path / "a.faiss", flat).read_bytes()
    lies = [good[:-9], good[:3], b"", good[:4] + struct.pack("<i", 2**20) + good[8:],
            good[:8] + struct.pack("<q", 2**40) + good[16:]]  # fmt: skip
    for number, data in enumerate(lies):
        path = tmp_path / f"{number}.faiss"
        path.write_bytes(data)
        with pytest.raises(ManifestError, match=rf"{number}\.faiss cannot be read") as caught:
            view_of(path)
        assert "\n" not in str(caught.value)


def test_lance_with_its_items(tmp_path):
    lance, pa = pytest.importorskip("lance"), pytest.importorskip("pyarrow")
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(ROWS.reshape(-1)), 6)
    table = pa.table({"item_id": [f"d{i}" for i in range(40)], "v": vectors})
    lance.write_dataset(table, str(tmp_path / "a.lance"))
    view = view_of(tmp_path / "a.lance", array="v")
    np.testing.assert_array_equal(view.numpy(), ROWS)
    assert view.items["item_id"][39] == "d39"
    with pytest.raises(ManifestError, match="no column 'embedding' of vectors"):
        view_of(tmp_path / "a.lance")


def _end(source, array, allowed):
    import os

    os.kill(os.getpid(), 11)


def _take(source, array, allowed):
    return {"embedding": np.empty((2, 2**30), np.float32)}, ()  # 8 GiB


def _lie(source, array, allowed):
    """What a parser that was taken over may send: an array that is far larger than it may be."""
    import sys

    sys.stdout.buffer.write(
        json.dumps({"tensors": [["embedding", "<f4", [2**40, 2**20]]], "bits": []}).encode()
    )
    sys.stdout.buffer.write(b"\n")
    sys.stdout.flush()
    _end(source, array, allowed)


def _objects(source, array, allowed):
    return {"embedding": np.array([[object()]])}, ()


@pytest.mark.parametrize(
    ("reader", "said"),
    [(_end, "its reader ended with"), (_take, "cannot be read.*llocate"),
     (_lie, "its reader ended with"), (_objects, "its reader ended with")],
)  # fmt: skip
def test_a_parser_that_dies_or_takes_all_memory_is_a_sentence(tmp_path, monkeypatch, reader, said):
    """The process that reads is given another parser, by the name of one that there is."""
    name = f"from tests.featstore.interop.test_apart import {reader.__name__} as reader"
    real = apart.start_python

    def start(call, *arguments, **options):
        swap = (
            f"{name}; import featstore.interop.apart as a; a.READERS = {{'h5': ('json', reader)}}"
        )
        return real(f"{swap}; a.main()", *arguments, **options)

    monkeypatch.setattr(apart, "start_python", start)
    (tmp_path / "a.h5").write_bytes(b"")
    with pytest.raises(ManifestError, match=said):
        tensors_apart("h5", tmp_path / "a.h5", None, 2**20)


def test_a_missing_library_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(apart, "find_spec", lambda _: None)
    with pytest.raises(MissingPackageError, match=r"Reading a\.h5 needs h5py"):
        tensors_apart("h5", tmp_path / "a.h5", None, 2**20)


def test_a_view_of_a_file_reads_it_as_it_is_read(tmp_path):
    """Rows of a .npy file are mapped; its space is that of its numbers, whatever their type."""
    halves = ROWS.astype(np.float16)
    np.save(tmp_path / "a.npy", halves)
    np.save(tmp_path / "b.npy", halves.astype(np.float32))
    np.save(tmp_path / "c.npy", halves.astype(">f4"))
    pl.DataFrame({"embedding": halves.astype(np.float32)}).write_parquet(tmp_path / "d.parquet")
    views = [view_of(tmp_path / name) for name in ("a.npy", "b.npy", "c.npy", "d.parquet")]
    assert views[0].source.dtype == "float16"
    assert len({view.space_id for view in views}) == 1
    for view in views:
        np.testing.assert_array_equal(view.numpy(), halves.astype(np.float32))
    named = pl.DataFrame({"name": ["a"] * 40, "embedding": ROWS})
    named.write_parquet(tmp_path / "e.parquet")
    with pytest.raises(ManifestError, match="need a column item_id"):
        view_of(tmp_path / "e.parquet")
    assert view_of(tmp_path / "e.parquet", numbered=True).items.row(39) == ("39", "a")
