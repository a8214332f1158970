"""Write a set in the formats of other tools; rows keep their bits."""

from __future__ import annotations

import filecmp
import io
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from featstore.durable import (
    fsync_directory,
    make_folders,
    remove_tree,
    try_lock,
    write_durably,
    write_error,
)
from featstore.errors import StoreWriteError, needs_extra, unknown_name
from featstore.interop import FORMATS
from featstore.interop.reading import TENSOR_DTYPES, Rows
from featstore.store.parquet_guard import table_bytes
from featstore.store.store import FeatureStore

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
    # A folder beside, so that `out` appears whole, and what a kill leaves is found again.
    beside = out.with_name(f".{out.name}.staged")
    staged = beside / out.name
    handle = -1
    try:
        make_folders(beside)
        if os.name != "nt":  # where folders cannot be opened
            handle = os.open(beside, os.O_RDONLY)
        if handle >= 0 and not try_lock(handle):
            raise StoreWriteError(f"Another process exports to {out}. Wait for it to end.")
        remove_tree(staged)
        if form == "npy":
            _write_npy(staged, rows, text=info.key.kind in ("caption", "class_name"))
        elif form == "safetensors":
            _write_safetensors(staged, rows)
        elif form == "parquet":
            _write_parquet(staged, rows)
        else:
            _write_h5(staged, rows)
        if not out.exists():
            staged.rename(out)
            fsync_directory(out.parent)
        elif not _same(staged, out):
            raise StoreWriteError(
                f"{out} exists, with other content. Name another file or folder; nothing was "
                "overwritten."
            )
    except StoreWriteError:
        raise
    except OSError as err:
        raise write_error(out, err) from err
    finally:
        if handle < 0 or try_lock(handle):
            remove_tree(beside)
        if handle >= 0:
            os.close(handle)
    return out


def _same(one: Path, other: Path) -> bool:
    """Return whether two files, or all files of two folders, have the same bytes."""
    names = [
        {path.relative_to(root).as_posix() for path in (root, *root.rglob("*")) if path.is_file()}
        for root in (one, other)
    ]
    return names[0] == names[1] and all(
        filecmp.cmp(one / name, other / name, shallow=False) for name in names[0]
    )


def _write(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    write_durably(path, parts, sealed=True)


def _write_npy(out: Path, rows: Rows, *, text: bool) -> None:
    """Write clip-retrieval's folder: img_emb or text_emb, and metadata, one part each."""
    name = "text_emb" if text else "img_emb"
    items = rows.items if rows.items is not None else pl.DataFrame()
    _write(out / "metadata" / "metadata_0.parquet", [table_bytes(items)])
    if rows.bias is not None:
        _write(out / "bias.npy", _npy(rows.bias))
    _write(out / name / f"{name}_0.npy", _npy(rows.data))


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
    _write(out, [*parts, *(data.reshape(-1).view(np.uint8).data for data in tensors.values())])


def _write_parquet(out: Path, rows: Rows) -> None:
    items = rows.items if rows.items is not None else pl.DataFrame()
    columns = [pl.Series("embedding", rows.data)]
    if rows.bias is not None:
        columns.append(pl.Series("bias", rows.bias))
    _write(out, [table_bytes(items.with_columns(columns))])


def _write_h5(out: Path, rows: Rows) -> None:
    """Write contiguous datasets, and item_id as text that every HDF5 reader shows."""
    with needs_extra(f"Writing {out.name}"):
        import h5py

    # In memory: where a disk is full, the library ends the process instead of raising.
    with h5py.File(out, "w", driver="core", backing_store=False) as file:
        for name, data in _tensors(rows).items():
            dataset = file.create_dataset(name, data=data)
            if name == "embedding" and rows.dtype == "bfloat16":
                dataset.attrs["featstore_dtype"] = "bfloat16"
        if rows.items is not None:
            ids = rows.items["item_id"].to_list()
            file.create_dataset("item_id", data=ids, dtype=h5py.string_dtype())
        file.flush()
        image = file.id.get_file_image()
    _write(out, [image])


def _tensors(rows: Rows) -> dict[str, Any]:
    """Return the arrays of a set; the item table travels as the bytes of its Parquet file."""
    found: dict[str, Any] = {"embedding": np.ascontiguousarray(rows.data)}
    if rows.items is not None:
        found["items_parquet"] = np.frombuffer(table_bytes(rows.items), dtype=np.uint8)
    if rows.bias is not None:
        found["bias"] = np.ascontiguousarray(rows.bias)
    return found


def _npy(data: np.ndarray) -> Iterator[bytes | memoryview]:
    """Yield the parts of a .npy file: the array itself is not copied."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(data))
    yield header.getvalue()
    yield np.ascontiguousarray(data).reshape(-1).view(np.uint8).data
