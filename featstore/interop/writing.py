"""Write a set in the formats of other tools; rows keep their bits."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from featstore.durable import write_durably, write_error
from featstore.errors import StoreWriteError, needs_extra, unknown_name
from featstore.interop import FORMATS
from featstore.interop.reading import TENSOR_DTYPES, Rows
from featstore.store.parquet_guard import table_bytes
from featstore.store.store import FeatureStore

#: Formats that have no bfloat16; the rows become float32, which holds the same values.
WIDENING = frozenset({"npy", "parquet"})

#: What a file is written of.
Parts = list[bytes | memoryview]

#: Bytes of a file that are compared at once.
STEP = 2**24


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
        A folder for ``npy`` (clip-retrieval's layout), a file for the others. If it exists, it must
        hold these very bytes, as after an export that was killed late.
    revision : str, optional
        A revision_id, or its beginning; the current by default.
    form : str
        One of ``npy``, ``safetensors``, ``parquet``, ``h5``.

    Raises
    ------
    StoreWriteError
        If `out` exists with other content, or cannot be written.
    """
    if form not in FORMATS:
        raise ValueError(unknown_name("format", form, FORMATS))
    info = store.info(key, revision=revision)
    view = store.view(str(info.key), revision=info.commit.revision_id)
    rows = Rows(np.ascontiguousarray(view.source.read(view.rows)), view.items, view.bias)
    if form in WIDENING and rows.dtype == "bfloat16":
        rows = replace(rows, data=rows.values(slice(None)))
    text = info.key.kind in ("caption", "class_name")
    made = {out / name: parts for name, parts in _files(form, out, rows, text=text).items()}
    there = [path for path in (out, *out.rglob("*")) if path.is_file()]
    there = [path for path in there if path.suffix != ".staged"]  # those a kill left
    if not all(path in made and _holds(path, made[path]) for path in there):
        raise StoreWriteError(
            f"{out} exists, with other content. Name another file or folder; nothing was "
            "overwritten."
        )
    try:
        for path, parts in made.items():
            if path not in there:
                write_durably(path, parts, sealed=True)
    except OSError as err:
        raise write_error(out, err) from err
    return out


def _holds(path: Path, parts: Parts) -> bool:
    """Return whether a file has these bytes, and no others."""
    with path.open("rb") as file:
        views = [memoryview(part) for part in parts]
        pieces = (view[at : at + STEP] for view in views for at in range(0, len(view), STEP))
        return all(file.read(len(piece)) == piece for piece in pieces) and not file.read(1)


def _files(form: str, out: Path, rows: Rows, *, text: bool) -> dict[str, Parts]:
    """Return what is written, name below `out` -> parts; the matrix of a folder comes last."""
    items = rows.items if rows.items is not None else pl.DataFrame()
    if form == "npy":
        # clip-retrieval's folder, one part each.
        name = "text_emb" if text else "img_emb"
        found: dict[str, Parts] = {"metadata/metadata_0.parquet": [table_bytes(items)]}
        found |= {} if rows.bias is None else {"bias.npy": npy_parts(rows.bias)}
        return found | {f"{name}/{name}_0.npy": npy_parts(rows.data)}
    if form == "parquet":
        columns = {"embedding": rows.data} | ({} if rows.bias is None else {"bias": rows.bias})
        return {"": [table_bytes(items.with_columns(pl.Series(k, v) for k, v in columns.items()))]}
    return {"": _safetensors(rows) if form == "safetensors" else _h5(rows, out.name)}


def _safetensors(rows: Rows) -> Parts:
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
    return [len(text).to_bytes(8, "little"), text, *map(_bytes, tensors.values())]


def _h5(rows: Rows, name: str) -> Parts:
    """Return contiguous datasets, and item_id as text that every HDF5 reader shows."""
    with needs_extra(f"Writing {name}"):
        import h5py

    # In memory: where a disk is full, the library ends the process instead of raising.
    with h5py.File(name, "w", driver="core", backing_store=False) as file:
        for tensor, data in _tensors(rows).items():
            dataset = file.create_dataset(tensor, data=data)
            if tensor == "embedding" and rows.dtype == "bfloat16":
                dataset.attrs["featstore_dtype"] = "bfloat16"
        if rows.items is not None:
            ids = rows.items["item_id"].to_list()
            file.create_dataset("item_id", data=ids, dtype=h5py.string_dtype())
        file.flush()
        return [file.id.get_file_image()]


def _tensors(rows: Rows) -> dict[str, Any]:
    """Return the arrays of a set; the item table travels as the bytes of its Parquet file."""
    found: dict[str, Any] = {"embedding": np.ascontiguousarray(rows.data)}
    if rows.items is not None:
        found["items_parquet"] = np.frombuffer(table_bytes(rows.items), dtype=np.uint8)
    if rows.bias is not None:
        found["bias"] = np.ascontiguousarray(rows.bias)
    return found


def npy_parts(data: np.ndarray) -> Parts:
    """Return the parts of a .npy file: the array itself is not copied."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(data))
    return [header.getvalue(), _bytes(data)]


def _bytes(data: np.ndarray) -> memoryview:
    return np.ascontiguousarray(data).reshape(-1).view(np.uint8).data
