"""What others read, bit for bit: every Zarr reader, and who knows the embeddings convention."""

from __future__ import annotations

import io
import json
import re
import tempfile
import warnings
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import polars as pl
import pytest
import tensorstore as ts
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from featstore import open_store, write
from featstore.identity import canonical_json, sha256_hex
from featstore.store import DTYPES, MODES
from featstore.store.layout import INTEGERS
from featstore.store.records import KEY
from featstore.testing import item_table, write_set
from tests.goldens import world
from tests.goldens.store_bytes import SHARDS, write_store
from tests.typed import headstock

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "ref" / "convention.md"
SCHEMA = ROOT / "featstore" / "store" / "embeddings.schema.json"

#: Heading of the page -> the program below it.
PROGRAMS = dict(
    re.findall(r"\n## ([^\n]+)\n\n```python\n(.*?)```", PAGE.read_text("utf-8"), flags=re.DOTALL)
)


def _faults(group: Path) -> list[str]:
    """Return how a group departs from the convention: its schema, its array and its items."""
    jsonschema = pytest.importorskip("jsonschema", reason="needs the extra `test`")
    attributes = json.loads((group / "zarr.json").read_text())["attributes"]
    schema = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))
    found = [error.message for error in schema.iter_errors(attributes)]
    stated = attributes.get(KEY)
    if found or stated is None:
        return found
    array: Any = zarr.open_array(str(group / stated["array"]), mode="r")
    table = (group / stated["items"]["path"]).read_bytes()
    items = pl.read_parquet(io.BytesIO(table))
    wide = {"bfloat16": "uint16"}.get(stated["data_type"], stated["data_type"])
    if stated["items"]["sha256"] != sha256_hex(table):
        found.append("another table")
    if (items.height, stated["dimensions"]) != array.shape or array.dtype.name != wide:
        found.append("another array")
    if items[stated["items"]["key"]].n_unique() != items.height:
        found.append("an item twice")
    if "record" in stated.get("revision", {}):
        record = json.loads((group / stated["revision"]["record"]).read_text())
        if sha256_hex(canonical_json(record)) != stated["revision"]["id"]:
            found.append("another record")
    return found


def _run(heading: str) -> None:
    exec(compile(PROGRAMS[heading], PAGE.name, "exec"), {"__name__": "embeddings_convention"})


def test_the_group_that_the_page_writes_is_read_by_zarr_xarray_and_datasets(tmp_path, monkeypatch):
    """None knows Headstock, nor this convention: the group says what they need."""
    monkeypatch.chdir(tmp_path)
    _run("Write it with zarr")  # four rows of three numbers
    birds = tmp_path / "birds"
    assert _faults(birds) == []
    _run("Read it with zarr")
    xarray, datasets = pytest.importorskip("xarray"), pytest.importorskip("datasets")
    data = xarray.open_zarr("birds", consolidated=False)
    stated = data.attrs["embeddings"]
    file = birds / stated["items"]["path"]
    data = data.assign_coords(item=pl.read_parquet(file)[stated["items"]["key"]].to_numpy())
    assert data[stated["array"]].sel(item=["d", "a"]).shape == (2, 3)
    datasets.disable_progress_bars()
    table = datasets.Dataset.from_parquet(str(file), cache_dir="cache")
    table = table.add_column("embedding", list(zarr.open_group(birds)[stated["array"]][:]))
    assert len(table.filter(lambda item: item["split"] == "train")) == 3


def test_every_set_of_headstock_conforms(tmp_path):
    """Of every kind and dtype, with failures and biases; but for those of several parts."""
    write_store(tmp_path)
    ids, rows = [f"whole/{i}" for i in range(7)], np.ones((7, 8192), np.float32)
    world.write_set(
        tmp_path, "whole", "image", rows, world.item_table("image", ids), space="vision",
        dtype="float16", failures=dict.fromkeys(ids[3:5], "cannot be decoded"), **SHARDS,
    )  # fmt: skip
    arrays = sorted(tmp_path.glob("*/*/*/embedding/zarr.json"))
    groups = [one.parents[1] for one in arrays if b'"array"' in one.read_bytes()]
    assert (len(groups), len(arrays)) == (7, 8)
    assert [fault for group in groups for fault in _faults(group)] == []
    stated = {}
    for group in groups:
        one = json.loads((group / "zarr.json").read_text())["attributes"]["embeddings"]
        stated[one["item_kind"], one["data_type"]] = one
    known = json.loads(SCHEMA.read_text())["properties"][KEY]["properties"]
    (never,) = re.findall(r"Headstock does not write (.+), and\n", PAGE.read_text("utf-8"))
    of_models = {"weights_digest", "preprocessing"}  # which no set of this store has
    unstated = {*known}.difference(*stated.values(), of_models)
    assert unstated == {*re.findall(r"`(\w+)`", never)}
    assert stated["image", "float16"]["missing_rows"] == {"count": 2, "value": "NaN"}
    assert stated["caption", "bfloat16"]["missing_rows"] == {"count": 1, "value": "NaN"}
    assert stated["head_weight", "float32"]["bias"] == "bias"
    assert stated["head_weight", "float32"]["space"] == stated["image", "float16"]["space"]


def test_a_set_of_several_arrays_states_nothing(tmp_path):
    """Nor one that was compacted: its array is not `embedding`."""
    stated = []
    for n in (2, 3):
        write(tmp_path, np.eye(n, 4), dataset="birds", encoder="a:b", ids=["x", "y", "z"][:n])
        (group,) = tmp_path.glob("birds/image/*/zarr.json")
        stated.append(b"zarr_conventions" in group.read_bytes())
    assert headstock("store", "compact", tmp_path) == 0
    assert [*stated, b"zarr_conventions" in group.read_bytes()] == [True, False, False]


def test_the_reader_of_the_format_reads_parts_and_leaves_out_failed_rows(tmp_path):
    """Twenty lines of zarr-python on the page of the format, beside what a view returns."""
    page = PAGE.with_name("store-format.md").read_text("utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(program, "store-format.md", "exec"), names)
    rows = np.random.default_rng(0).standard_normal((9, 3)).astype(np.float32)
    ids = [f"toy/{i}" for i in range(9)]
    options = {"dataset": "toy", "kind": "image", "encoder": "test:toy", "dtype": "float32"}
    for n, failures in ((5, {"toy/3": "torn"}), (9, None)):
        key = write_set(
            tmp_path, rows[:n], item_table(ids[:n], "image"), failures=failures,
            space={"name": "toy"}, **options,
        )  # fmt: skip
        found, items = names["read_set"](tmp_path, key)
        view = open_store(tmp_path).view(key)
        np.testing.assert_array_equal(found, view.numpy())
        assert items["item_id"].to_list() == view.items["item_id"].to_list()
        assert len(found) == n - 1
        if n == 5:  # one part: a group of one array
            xarray = pytest.importorskip("xarray")
            with warnings.catch_warnings(action="ignore"):  # failures.parquet is no array
                read = xarray.open_zarr(tmp_path / key, consolidated=False)["embedding"].to_numpy()
            np.testing.assert_array_equal(read[[0, 1, 2, 4]], found)


def some_rows(rng: np.random.Generator, n: int, dim: int, dtype: str) -> np.ndarray:
    """Return rows that the dtype can hold, as an encoder would give them."""
    if dtype in INTEGERS:
        bounds = np.iinfo(dtype)
        return rng.integers(bounds.min, bounds.max, (n, dim), endpoint=True).astype(np.float32)
    return rng.standard_normal((n, dim)).astype(np.float64 if dtype == "float64" else np.float32)


def as_stored(rows: np.ndarray, dtype: str) -> np.ndarray:
    """Return the rows as their dtype stores them; bfloat16 as ml_dtypes rounds it."""
    if dtype == "bfloat16":
        return rows.astype(ml_dtypes.bfloat16).view(np.uint16)
    return rows.astype(dtype)


@settings(deadline=None)
@given(
    n=st.integers(1, 200),
    dim=st.integers(1, 9),
    dtype=st.sampled_from(sorted(DTYPES)),
    block_rows=st.integers(1, 64),
    sharded=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_shape_dtype_and_chunking(n, dim, dtype, block_rows, sharded, seed):
    rng = np.random.default_rng(seed)
    rows, chosen = some_rows(rng, n, dim, dtype), rng.integers(0, n, rng.integers(0, 2 * n))
    items = item_table([{"item_id": f"i/{i}", "kind": "image"} for i in range(n)])
    limits = {"plain_bytes": 0, "shard_bytes": 1} if sharded else {}
    with tempfile.TemporaryDirectory() as folder:
        key = write_set(Path(folder), rows, items, dtype=dtype, block_rows=block_rows, **limits)
        path = str(Path(folder, key, "embedding"))
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": path}}
        read = {
            **{mode: open_store(folder, mode=mode).view(key).source.read(chosen) for mode in MODES},
            "zarr": np.asarray(zarr.open_array(path, mode="r")[:]),
            "tensorstore": ts.open(spec, read=True).result().read().result(),
        }
    expected = as_stored(rows, dtype)
    for reader, found in read.items():
        assert found.dtype == expected.dtype, reader
        own = expected[chosen] if reader in MODES else expected
        assert found.tobytes() == own.tobytes(), reader


def test_zarr_walks_the_whole_store(tmp_path, rng):
    rows = rng.standard_normal((4, 3)).astype(np.float32)
    items = item_table([{"item_id": f"i/{i}", "kind": "head_weight"} for i in range(4)])
    key = write_set(tmp_path, rows, items, kind="head_weight", bias=np.arange(4.0))
    group = zarr.open_group(str(tmp_path), mode="r")
    with warnings.catch_warnings():
        # zarr says that Parquet and revisions are not its own, which is so.
        warnings.simplefilter("ignore")
        found = {name for name, _ in group.members(max_depth=None)}
    assert {key, f"{key}/embedding", f"{key}/bias"} <= found
    assert zarr.open_array(str(tmp_path / key / "bias"), mode="r")[:].tolist() == [0, 1, 2, 3]
