"""Export and import: bits stay, items stay, foreign files are read by their own libraries."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.numpy import load_file

from featstore.cli import cli
from featstore.command_line import EXIT_ERROR, run_command
from featstore.errors import FeatstoreError, ManifestError, StoreWriteError
from featstore.interop.importing import import_rows
from featstore.interop.tables import FORMATS
from featstore.interop.writing import export_set
from featstore.manifest.schema import ITEM_SCHEMA
from featstore.store.store import open_store
from featstore.store.verify import verify_store
from tests.assertions import assert_same
from tests.featstore.store.conftest import item_table, write_set


def _items(n: int, kind: str = "image") -> pl.DataFrame:
    rows = [{"item_id": f"b/{i}", "kind": kind, "split": "test"} for i in range(n)]
    table = item_table(rows)
    return table.with_columns(
        pl.lit(None, dtype).alias(name)
        for name, dtype in ITEM_SCHEMA.items()
        if name not in table.columns
    )


def _again(source: Path, tmp: Path, kind: str = "image", **options: object) -> str:
    return import_rows(source, store=tmp, dataset="back", kind=kind, encoder="x:y", **options)  # type: ignore[arg-type]


@settings(
    max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@given(data=st.data())
def test_round_trips_keep_every_bit(
    tmp_path_factory: pytest.TempPathFactory, form: str, dtype: str, data: st.DataObject
) -> None:
    tmp = tmp_path_factory.mktemp("trip")
    shape = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 5)))
    width = 16 if dtype == "float16" else 32
    rows = data.draw(
        arrays.arrays(
            dtype, shape, elements=st.floats(width=width, allow_nan=False, allow_infinity=False)
        )
    )
    head = data.draw(st.booleans())
    kind = "head_weight" if head else "image"
    bias = np.arange(shape[0], dtype=np.float32) / 3 if head else None
    key = write_set(
        tmp / "a", rows, _items(shape[0], kind), kind=kind, dtype=dtype, bias=bias,
        block_rows=4, plain_bytes=0, shard_bytes=1,
    )  # fmt: skip
    out = tmp / f"out.{form}"
    export_set(open_store(tmp / "a"), key, out, form=form)
    new_key = _again(out, tmp / "b", kind)
    new = open_store(tmp / "b").view(new_key)
    old = open_store(tmp / "a").view(key)
    found = new.numpy(np.dtype(dtype))
    assert found.tobytes() == rows.tobytes()
    assert new.items.equals(old.items.select(new.items.columns))
    if bias is not None:
        assert new.bias is not None
        assert_same(new.bias, bias)
    assert verify_store(tmp / "b").ok


@pytest.fixture
def exported(store_path: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    for form in FORMATS:
        export_set(open_store(store_path), "birds/image/toy", folder / f"x.{form}", form=form)
    return folder


def test_other_libraries_read_what_is_written(store_path: Path, exported: Path) -> None:
    view = open_store(store_path).view("birds/image/toy")
    rows, ids = view.numpy(), view.items["item_id"].to_list()
    folder = exported / "x.npy"
    assert_same(np.load(folder / "img_emb" / "img_emb_0.npy"), rows)
    assert pl.read_parquet(folder / "metadata" / "metadata_0.parquet")["item_id"].to_list() == ids
    assert_same(load_file(exported / "x.safetensors")["embedding"], rows)
    assert_same(pl.read_parquet(exported / "x.parquet")["embedding"].to_numpy(), rows)
    with h5py.File(exported / "x.h5") as file:
        assert file["embedding"].chunks is None
        assert_same(file["embedding"][()], rows)
        assert [name.decode() for name in file["item_id"][()]] == ids


def test_nothing_is_overwritten(store_path: Path, exported: Path) -> None:
    for form in FORMATS:
        with pytest.raises(StoreWriteError, match="nothing was overwritten"):
            export_set(open_store(store_path), "birds/image/toy", exported / f"x.{form}", form=form)


def test_plain_files_with_csv(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = np.arange(12, dtype=np.float32).reshape(4, 3) - 5
    np.save(tmp_path / "x.npy", rows)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["feats"] = rows
    (tmp_path / "items.csv").write_text(
        "item_id,class_id\n" + "".join(f"{i},c\n" for i in range(4))
    )
    for name in ("x.npy", "x.h5"):
        store = tmp_path / f"store-{name}"
        arguments = ["import", str(tmp_path / name), "--items", str(tmp_path / "items.csv"),
                     "--store", str(store), "--dataset", "d", "--kind", "image",
                     "--encoder", "their:vit", "--json"]  # fmt: skip
        assert run_command(cli, "featstore", arguments) == 0
        key = json.loads(capsys.readouterr().out)["key"]
        view = open_store(store).view(key)
        assert_same(view.numpy(), rows)
        assert view.items["item_id"].to_list() == ["0", "1", "2", "3"]
        info = open_store(store).info(key)
        assert info.attributes["space"] == {"name": "their:vit", "provenance": "imported"}
        assert info.attributes["facts"]["provenance"] == "imported"


def test_parts_are_read_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    """clip-retrieval writes img_emb_0 … img_emb_10; sorted as text, 10 comes before 2."""
    folder = tmp_path / "clip"
    (folder / "img_emb").mkdir(parents=True)
    (folder / "metadata").mkdir()
    for part in range(12):
        np.save(folder / "img_emb" / f"img_emb_{part}.npy", np.full((2, 3), part, np.float16))
        table = pl.DataFrame({"item_id": [f"{part}a", f"{part}b"]})
        table.write_parquet(folder / "metadata" / f"metadata_{part}.parquet")
    key = _again(folder, tmp_path / "s")
    view = open_store(tmp_path / "s").view(key)
    assert view.numpy()[::2, 0].tolist() == list(range(12))
    assert view.items["item_id"].to_list()[::2] == [f"{part}a" for part in range(12)]
    (folder / "img_emb" / "img_emb_3.npy").unlink()
    with pytest.raises(ManifestError, match="different numbers of rows"):
        _again(folder, tmp_path / "s")


def _save(path: Path, data: object) -> Path:
    np.save(path, np.asarray(data, dtype=object), allow_pickle=True)
    return path


def test_what_cannot_be_imported_says_why(tmp_path: Path, exported: Path) -> None:
    wrong = {
        "does not exist": tmp_path / "none.npy",
        "cannot be read as embeddings": _save(tmp_path / "pickle.npy", [{"a": 1}]),
        "is none of": tmp_path / "x.pt",
        "holds 2 matrices": tmp_path / "two.h5",
        "names no items": tmp_path / "plain.npy",
        "matrix of floats": tmp_path / "ints.npy",
        "which a store cannot hold": tmp_path / "double.npy",
        "must hold one of": tmp_path,
    }
    (tmp_path / "x.pt").write_bytes(b"x")
    np.save(tmp_path / "plain.npy", np.zeros((2, 2), np.float32))
    np.save(tmp_path / "ints.npy", np.zeros((2, 2), np.int64))
    np.save(tmp_path / "double.npy", np.zeros((2, 2), np.longdouble))
    (tmp_path / "two.csv").write_text("item_id\na\nb\n")
    with h5py.File(tmp_path / "two.h5", "w") as file:
        file["a"], file["b"] = np.zeros((2, 2)), np.zeros((2, 2))
    for message, source in wrong.items():
        items = tmp_path / "two.csv" if source.name == "double.npy" else None
        with pytest.raises(ManifestError, match=message):
            _again(source, tmp_path / "s", items=items)
    (tmp_path / "same.csv").write_text("item_id\na\na\n")
    with pytest.raises(ManifestError, match="distinct texts"):
        _again(tmp_path / "plain.npy", tmp_path / "s", items=tmp_path / "same.csv")
    with pytest.raises(ManifestError, match="2 rows, but there are 12 items"):
        _again(
            tmp_path / "plain.npy", tmp_path / "s",
            items=exported / "x.npy" / "metadata" / "metadata_0.parquet",
        )  # fmt: skip
    (tmp_path / "x.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(FeatstoreError, match="is no safetensors file"):
        _again(tmp_path / "x.safetensors", tmp_path / "s")


def test_links_inside_hdf5_are_not_followed(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["embedding"] = np.ones((2, 2), np.float32)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["embedding"] = h5py.ExternalLink("secret.h5", "embedding")
    with pytest.raises(ManifestError, match="holds 0 matrices"):
        _again(tmp_path / "x.h5", tmp_path / "s")


def test_the_export_command(
    store_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "export",
        str(store_path),
        "birds/image/toy",
        "-o",
        str(tmp_path / "o.h5"),
        "--format",
        "h5",
    ]
    assert run_command(cli, "featstore", arguments) == 0
    assert "12 rows written" in capsys.readouterr().out
    assert run_command(cli, "featstore", arguments) == EXIT_ERROR
