"""Write a set in the formats of other tools; rows keep their bits."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from featstore.errors import StoreWriteError, needs_extra, unknown_name
from featstore.interop.reading import FORMATS, TENSOR_DTYPES, Rows
from featstore.store.files import write_file
from featstore.store.store import FeatureStore
from featstore.store.tables import items_bytes

#: Formats that have no bfloat16; the rows become float32, which holds the same values.
WIDENING = frozenset({"npy", "parquet"})


def export_set(
    store: FeatureStore, key: str, out: Path, *, form: str, revision: str | None = None
) -> Path:
    """Write one set as `form` and return what was written.

    Items without an embedding are left out. Rows keep the stored dtype and every bit. Only
    safetensors knows bfloat16: in HDF5 its bits are uint16 with the attribute
    ``featstore_dtype``; npy and Parquet get the same values as float32, of which an import with
    ``dtype="bfloat16"`` makes the same bits again.

    Parameters
    ----------
    key : str
        Of the set, or a short name.
    out : Path
        A folder for ``npy`` (clip-retrieval's layout), a file for the others; must not exist.
    revision : str, optional
        A revision_id, or its beginning; the current by default.
    form : str
        One of ``npy``, ``safetensors``, ``parquet``, ``h5``.

    Raises
    ------
    StoreWriteError
        If `out` exists, or cannot be written.
    """
    if form not in FORMATS:
        raise ValueError(unknown_name("format", form, FORMATS))
    if out.exists():
        raise StoreWriteError(
            f"{out} exists. Name another file or folder; nothing was overwritten."
        )
    info = store.info(key, revision=revision)
    view = store.view(str(info.key), revision=info.commit.revision_id)
    rows = Rows(np.ascontiguousarray(view.source.read(view.rows)), view.items, view.bias)
    if form in WIDENING and rows.dtype == "bfloat16":
        rows = replace(rows, data=rows.values(slice(None)))
    if form == "npy":
        _write_npy(out, rows, text=info.key.kind in ("caption", "class_name"))
    elif form == "safetensors":
        _write_safetensors(out, rows)
    elif form == "parquet":
        _write_parquet(out, rows)
    else:
        _write_h5(out, rows)
    return out


def _write_npy(out: Path, rows: Rows, *, text: bool) -> None:
    """Write clip-retrieval's folder: img_emb or text_emb, and metadata, one part each."""
    name = "text_emb" if text else "img_emb"
    items = rows.items if rows.items is not None else pl.DataFrame()
    write_file(out / "metadata" / "metadata_0.parquet", [items_bytes(items)])
    if rows.bias is not None:
        write_file(out / "bias.npy", _npy(rows.bias))
    write_file(out / name / f"{name}_0.npy", _npy(rows.data))


def _write_safetensors(out: Path, rows: Rows) -> None:
    header: dict[str, Any] = {}
    tensors = _tensors(rows)
    end = 0
    for name, data in tensors.items():
        dtype = rows.dtype if name == "embedding" else str(data.dtype)
        offsets = [end, end + data.nbytes]
        header[name] = {
            "dtype": TENSOR_DTYPES[dtype], "shape": list(data.shape), "data_offsets": offsets
        }  # fmt: skip
        end += data.nbytes
    # Written here, as its format says: the library writes bfloat16 only out of torch.
    text = json.dumps(header).encode("ascii")
    text += b" " * (-len(text) % 8)
    parts = [len(text).to_bytes(8, "little"), text]
    write_file(out, [*parts, *(data.reshape(-1).view(np.uint8).data for data in tensors.values())])


def _write_parquet(out: Path, rows: Rows) -> None:
    items = rows.items if rows.items is not None else pl.DataFrame()
    columns = [pl.Series("embedding", rows.data)]
    if rows.bias is not None:
        columns.append(pl.Series("bias", rows.bias))
    write_file(out, [items_bytes(items.with_columns(columns))])


def _write_h5(out: Path, rows: Rows) -> None:
    """Write contiguous datasets, and item_id as text that every HDF5 reader shows."""
    with needs_extra(f"Writing {out.name}"):
        import h5py

    out.parent.mkdir(parents=True, exist_ok=True)
    staged = out.with_name(f".{out.name}.staged")
    try:
        with h5py.File(staged, "w") as file:
            for name, data in _tensors(rows).items():
                dataset = file.create_dataset(name, data=data)
                if name == "embedding" and rows.dtype == "bfloat16":
                    dataset.attrs["featstore_dtype"] = "bfloat16"
            if rows.items is not None:
                ids = rows.items["item_id"].to_list()
                file.create_dataset("item_id", data=ids, dtype=h5py.string_dtype())
        staged.replace(out)
    except OSError as err:
        raise StoreWriteError(f"Cannot write {out}: {err}.") from err
    finally:
        staged.unlink(missing_ok=True)


def _tensors(rows: Rows) -> dict[str, Any]:
    """Return the arrays of a set; the item table travels as the bytes of its Parquet file."""
    found: dict[str, Any] = {"embedding": np.ascontiguousarray(rows.data)}
    if rows.items is not None:
        found["items_parquet"] = np.frombuffer(items_bytes(rows.items), dtype=np.uint8)
    if rows.bias is not None:
        found["bias"] = np.ascontiguousarray(rows.bias)
    return found


def _npy(data: np.ndarray) -> Iterator[bytes | memoryview]:
    """Yield the parts of a .npy file: the array itself is not copied."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(data))
    yield header.getvalue()
    yield np.ascontiguousarray(data).reshape(-1).view(np.uint8).data
