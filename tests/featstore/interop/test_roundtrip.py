"""Export and import: bits stay, items stay, foreign files are read by their own libraries."""

from __future__ import annotations

import json
import struct
import warnings
from pathlib import Path

import faiss
import h5py
import ml_dtypes
import numpy as np
import polars as pl
import pytest
import torch
import zarr
from embedding_reader import EmbeddingReader
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.torch import load_file

from featstore import open_store, write
from featstore.command_line import EXIT_ERROR, EXIT_SKIPPED
from featstore.errors import ManifestError, StoreWriteError
from featstore.interop import FORMATS, WIDENING, export_set, import_rows, read_rows, view_of
from featstore.manifest import ITEM_SCHEMA
from featstore.store import DTYPES, verify_store
from featstore.store.layout import INTEGERS
from featstore.testing import item_table, write_set
from tests.assertions import assert_same
from tests.typed import headstock


def _items(n: int, kind: str = "image") -> pl.DataFrame:
    table = item_table([f"b/{i}" for i in range(n)], kind, split=["test"] * n)
    return table.with_columns(
        pl.lit(None, dtype).alias(name)
        for name, dtype in ITEM_SCHEMA.items()
        if name not in table.columns
    )


def _again(source: Path, tmp: Path, kind: str = "image", **options: object) -> str:
    return import_rows(source, store=tmp, dataset="back", kind=kind, encoder="x:y", **options)  # type: ignore[arg-type]


#: ml_dtypes is an implementation of bfloat16 that is not ours.
NUMPY = {**{name: name for name in DTYPES}, "bfloat16": ml_dtypes.bfloat16}


def _matrices(dtype: str, shape: tuple[int, int]) -> st.SearchStrategy[np.ndarray]:
    """Return matrices of values that the dtype holds."""
    if dtype in INTEGERS:
        return arrays.arrays(dtype, shape)
    width = {"float16": 16, "float64": 64}.get(dtype, 32)
    floats = st.floats(width=width, allow_nan=False, allow_infinity=False)  # type: ignore[arg-type]
    if dtype != "bfloat16":
        return arrays.arrays(dtype, shape, elements=floats)
    held = floats.map(lambda value: float(np.float32(value).astype(ml_dtypes.bfloat16)))
    return arrays.arrays("float32", shape, elements=held.filter(np.isfinite))


@settings(
    max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("dtype", list(DTYPES))
@given(data=st.data())
def test_round_trips_keep_every_bit(tmp_path_factory, form, dtype, data):
    tmp = tmp_path_factory.mktemp("trip")
    shape = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 5)))
    rows = data.draw(_matrices(dtype, shape))
    rows[~rows.any(axis=1)] = 1  # a row of zeros is no embedding: see below
    head = data.draw(st.booleans())
    kind = "head_weight" if head else "image"
    bias = np.arange(shape[0], dtype=np.float32) / 3 if head else None
    key = write_set(
        tmp / "a", rows, _items(shape[0], kind), kind=kind, dtype=dtype, bias=bias,
        block_rows=4, plain_bytes=0, shard_bytes=1,
    )  # fmt: skip
    out = tmp / f"out.{form}"
    export_set(open_store(tmp / "a"), key, out, form=form)
    widened = dtype == "bfloat16" and form in WIDENING
    new_key = _again(out, tmp / "b", kind, dtype=dtype if widened else None)
    new = open_store(tmp / "b").view(new_key)
    old = open_store(tmp / "a").view(key)
    assert new.source.dtype == dtype
    bits = [np.asarray(view.source.read(view.rows)).tobytes() for view in (old, new)]
    assert bits[1] == bits[0]
    assert bits[0] == rows.astype(NUMPY[dtype]).tobytes()
    assert new.items.equals(old.items.select(new.items.columns))
    if bias is not None:
        assert new.bias is not None
        assert_same(new.bias, bias)
    assert verify_store(tmp / "b").ok


@pytest.fixture
def exported(store_path, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    for form in FORMATS:
        export_set(open_store(store_path), "birds/image/toy", folder / f"x.{form}", form=form)
    return folder


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_other_libraries_read_what_is_written(tmp_path, dtype):
    """torch has bfloat16, HDF5 holds its bits, and the others widen it."""
    rows = np.linspace(-3, 7, 12, dtype=np.float32).reshape(4, 3)
    stored, ids = rows.astype(NUMPY[dtype]), _items(4)["item_id"].to_list()
    floats = stored.astype(np.float32)
    key = write_set(tmp_path, rows, _items(4), dtype=dtype)
    out = {form: tmp_path / f"out.{form}" for form in FORMATS}
    for form, path in out.items():
        export_set(open_store(tmp_path), key, path, form=form)
    assert_same(np.load(out["npy"] / "img_emb" / "img_emb_0.npy"), floats)
    metadata = pl.read_parquet(out["npy"] / "metadata" / "metadata_0.parquet")
    assert metadata["item_id"].to_list() == ids
    assert_same(pl.read_parquet(out["parquet"])["embedding"].to_numpy(), floats)
    tensor = load_file(out["safetensors"])["embedding"]
    assert tensor.dtype is getattr(torch, dtype)
    assert_same(tensor.float().numpy(), floats)
    with h5py.File(out["h5"]) as file:
        assert file["embedding"].chunks is None
        assert file["embedding"][()].tobytes() == stored.tobytes()
        assert (file["embedding"].attrs.get("featstore_dtype") == "bfloat16") == (
            dtype != "float32"
        )
        assert [name.decode() for name in file["item_id"][()]] == ids


def test_embedding_reader_opens_the_clip_layout(store_path, exported):
    """clip-retrieval, autofaiss and the like read through this library."""
    view = open_store(store_path).view("birds/image/toy")
    folder = exported / "x.npy"
    reader = EmbeddingReader(
        str(folder / "img_emb"),
        file_format="parquet_npy",
        metadata_folder=str(folder / "metadata"),
        meta_columns=["item_id", "split"],
    )
    assert (reader.count, reader.dimension) == view.shape
    batches = list(reader(batch_size=5, show_progress=False))
    assert_same(np.concatenate([rows for rows, _ in batches]), view.numpy())
    ids = [item for _, meta in batches for item in meta["item_id"]]
    assert ids == view.items["item_id"].to_list()
    plain = EmbeddingReader(str(folder / "img_emb"), file_format="npy")
    assert plain.count == len(view)


@pytest.mark.parametrize("form", FORMATS)
def test_failed_items_are_left_out_and_older_revisions_can_be_had(tmp_path, form, capsys):
    rows = np.arange(14, dtype=np.float32).reshape(7, 2)
    for n in (3, 7):
        key = write_set(tmp_path / "s", rows[:n], _items(n), failures={"b/1": "torn", "b/5": "x"})
    store = open_store(tmp_path / "s")
    first = store.revisions(key)[0].commit.revision_id
    for out, kept, at in [("new", [0, 2, 3, 4, 6], ""), ("old", [0, 2], f"@{first}")]:
        path = tmp_path / (f"{out}-rows" if form == "npy" else f"{out}.{form}")
        words = ["export", tmp_path / "s", f"{key}{at}", "-o", path, "--format", form]
        assert headstock(*words, "--json") == 0
        said = json.loads(capsys.readouterr().out)
        assert (said["rows"], said["dtype"]) == (len(kept), "float32")
        new_key = _again(path, tmp_path / out)
        again = open_store(tmp_path / out).view(new_key)
        assert_same(again.numpy(), rows[kept])
        assert again.items["item_id"].to_list() == [f"b/{i}" for i in kept]


def test_nothing_is_overwritten(store_path, exported):
    for form in FORMATS:
        out = exported / f"x.{form}"
        mine = out / "mine.txt" if out.is_dir() else out
        mine.unlink(missing_ok=True)
        mine.write_text("mine")
        with pytest.raises(StoreWriteError, match=r"nothing was overwritten\.$"):
            export_set(open_store(store_path), "birds/image/toy", out, form=form)
        assert mine.read_text() == "mine"
    assert len(list(exported.iterdir())) == len(FORMATS)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_set_is_imported_as_plain_zarr_and_parquet(tmp_path, dtype):
    rows = np.arange(1, 13, dtype=np.float32).reshape(4, 3)
    items = pl.DataFrame({"item_id": list("abcd"), "class_id": list("xyxy")})
    old = write(
        tmp_path / "s", dataset="d", kind="image", encoder="their:vit", rows=rows, items=items,
        dtype=dtype,
    )  # fmt: skip
    folder = next((tmp_path / "s").rglob("embedding/zarr.json")).parent
    table = next((tmp_path / "s").rglob("items-*.parquet"))
    for source in (folder, folder.parent):
        again = _again(source, tmp_path / source.name, items=table)
        view = open_store(tmp_path / source.name).view(again)
        assert_same(view.numpy(), old.numpy())
        assert view.items["item_id"].to_list() == list("abcd")
        assert open_store(tmp_path / source.name).info(again).commit.dtype == dtype


def test_zarr_of_others_is_imported_and_what_it_is_not_is_said(tmp_path):
    rows = np.arange(1, 13, dtype=np.float32).reshape(4, 3)
    with warnings.catch_warnings(action="ignore"):  # consolidated metadata of format 3
        for form in (2, 3):
            group = zarr.open_group(tmp_path / f"{form}.zarr", mode="w", zarr_format=form)
            group.create_array("feats", data=rows, chunks=(2, 2))
            zarr.save_array(tmp_path / f"one{form}", rows, zarr_format=form)
            for name in (f"{form}.zarr", f"one{form}"):
                assert_same(read_rows(tmp_path / name).data, rows)
    group.create_array("more", data=rows)
    group.create_array("endless", shape=(10**6, 10**6), chunks=(1000, 1000), dtype="f4")
    said = {None: "holds 3 matrices", "endless": "more than the", "no": "No array named 'no'"}
    for array, text in said.items():
        with pytest.raises(ManifestError, match=text):
            read_rows(tmp_path / "3.zarr", array=array)
    chunk = tmp_path / "one3/c/0/0"
    chunk.rename(tmp_path / "outside")
    chunk.symlink_to(tmp_path / "outside")
    with pytest.raises(ManifestError, match=r"c/0/0 is no regular file\. Nothing of"):
        read_rows(tmp_path / "one3")


def test_parts_are_read_in_the_order_of_their_numbers(tmp_path):
    """clip-retrieval writes img_emb_0 … img_emb_10; sorted as text, 10 comes before 2."""
    folder = tmp_path / "clip"
    (folder / "img_emb").mkdir(parents=True)
    (folder / "metadata").mkdir()
    for part in range(12):
        np.save(folder / "img_emb" / f"img_emb_{part}.npy", np.full((2, 3), part + 1, np.float16))
        table = pl.DataFrame({"item_id": [f"{part}a", f"{part}b"]})
        table.write_parquet(folder / "metadata" / f"metadata_{part}.parquet")
    key = _again(folder, tmp_path / "s")
    view = open_store(tmp_path / "s").view(key)
    assert view.numpy()[::2, 0].tolist() == list(range(1, 13))
    assert view.items["item_id"].to_list()[::2] == [f"{part}a" for part in range(12)]
    (folder / "img_emb" / "img_emb_3.npy").unlink()
    with pytest.raises(ManifestError, match="different numbers of rows"):
        _again(folder, tmp_path / "s")


def test_what_cannot_be_imported_says_why(tmp_path):
    wrong = {
        "is none of": tmp_path / "x.pt",
        "holds 2 matrices": tmp_path / "two.h5",
        "names no items": tmp_path / "plain.npy",
        "uint16, which may be the bits of bfloat16": tmp_path / "bits.npy",
        "which a store cannot hold": tmp_path / "double.npy",
        "must hold one of": tmp_path,
    }
    (tmp_path / "x.pt").write_bytes(b"x")
    np.save(tmp_path / "plain.npy", np.zeros((2, 2), np.float32))
    np.save(tmp_path / "bits.npy", np.ones((2, 2), np.uint16))
    np.save(tmp_path / "double.npy", np.zeros((2, 2), np.longdouble))
    (tmp_path / "two.csv").write_text("item_id\na\nb\n")
    with h5py.File(tmp_path / "two.h5", "w") as file:
        file["a"], file["b"] = np.zeros((2, 2)), np.zeros((2, 2))
    for message, source in wrong.items():
        items = tmp_path / "two.csv" if source.name == "double.npy" else None
        with pytest.raises(ManifestError, match=message):
            _again(source, tmp_path / "s", items=items)
    (tmp_path / "same.csv").write_text("item_id\na\na\n")
    (tmp_path / "other.csv").write_text("name,x\na,1\nb,2\n")
    pl.DataFrame({"item_id": [7.0, 8.0]}).write_parquet(tmp_path / "numbers.parquet")
    for name, message in {
        "same.csv": r"1 ids stand in several rows: 'a' \(rows 0, 1\)",
        "other.csv": "no column 'item_id'.* It has: 'name', 'x'",
        "numbers.parquet": "Ids are texts or whole numbers; got Float64",
    }.items():
        with pytest.raises(ManifestError, match=message):
            _again(tmp_path / "plain.npy", tmp_path / "s", items=tmp_path / name)


def test_a_row_of_zeros_is_an_item_without_embedding(tmp_path, capsys):
    rows = np.eye(4, 3, dtype=np.float32)  # the last row is zero
    np.save(tmp_path / "rows.npy", rows)
    pl.DataFrame({"item_id": list("abcd")}).write_csv(tmp_path / "items.csv")
    arguments = [
        "import", str(tmp_path / "rows.npy"), "--items", str(tmp_path / "items.csv"),
        "--store", str(tmp_path / "s"), "--dataset", "back", "--kind", "image",
        "--encoder", "x:y",
    ]  # fmt: skip
    assert headstock(*arguments) == EXIT_SKIPPED
    assert "skipped d: its imported row is all zeros" in capsys.readouterr().err
    store = open_store(tmp_path / "s")
    view = store.view("back/image/x.y")
    assert view.items["item_id"].to_list() == ["a", "b", "c"]
    assert store.failures("back/image/x.y")["item_id"].to_list() == ["d"]
    assert headstock(*arguments) == EXIT_SKIPPED  # the same again: the same
    np.save(tmp_path / "rows.npy", rows * 2)
    assert headstock(*arguments) == EXIT_ERROR
    assert "3 ids are in back/image/x.y" in capsys.readouterr().err
    np.save(tmp_path / "rows.npy", rows * 0)
    with pytest.raises(ManifestError, match=r"All 4 rows of .* are zeros"):
        _again(tmp_path / "rows.npy", tmp_path / "t", items=tmp_path / "items.csv")


# ---- indexes, other tables, and views of files ------------------------------------------------


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


def test_lance_with_its_items(tmp_path, monkeypatch):
    lance, pa = pytest.importorskip("lance"), pytest.importorskip("pyarrow")
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(ROWS.reshape(-1)), 6)
    table = pa.table({"item_id": [f"d{i}" for i in range(40)], "v": vectors})
    lance.write_dataset(table, str(tmp_path / "a.lance"))
    view = view_of(tmp_path / "a.lance", array="v")
    np.testing.assert_array_equal(view.numpy(), ROWS)
    assert view.items["item_id"][39] == "d39"
    with pytest.raises(ManifestError, match="no column 'embedding' of vectors"):
        view_of(tmp_path / "a.lance")
    monkeypatch.setattr("featstore.interop.allowed_bytes", lambda _: 900)
    with pytest.raises(ManifestError, match="unpacks to more than"):
        view_of(tmp_path / "a.lance", array="v")


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
