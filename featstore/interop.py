"""Sets as files of other tools, and back: npy, safetensors, Parquet, HDF5, Zarr."""

from __future__ import annotations

import hashlib
import io
import json
import re
import stat
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from featstore.arrays import Given, items_of, write_given
from featstore.durable import write_durably, write_error
from featstore.errors import (
    LISTED,
    FeatstoreError,
    ManifestError,
    StoreWriteError,
    listed,
    needs_extra,
    unknown_name,
)
from featstore.manifest_files import resolve_inside
from featstore.matrices import numbers, readable
from featstore.store import BLOCK_ROWS
from featstore.store.layout import DTYPES, SetSpec
from featstore.store.parquet_guard import allowed_bytes, read_table, table_bytes
from featstore.store.rows import MemoryRows
from featstore.store.store import FeatureStore
from featstore.store.tables import ItemTable
from featstore.store.view import Selection

#: Names of the formats that sets are written in.
FORMATS = ("npy", "safetensors", "parquet", "h5")

#: What safetensors calls the dtypes of a store.
TENSOR_DTYPES = {
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "int8": "I8",
    "uint8": "U8",
}


@dataclass(frozen=True)
class Rows:
    """Rows and their items; row i of `data` is item i.

    Attributes
    ----------
    data : ndarray of shape (n, d)
        May be mapped from a file; bfloat16 as its bits, uint16.
    items : DataFrame or None
        None if the file names no items.
    bias : ndarray of shape (n,) or None
        Only of heads.
    """

    data: np.ndarray
    items: pl.DataFrame | None = None
    bias: np.ndarray | None = None

    @property
    def dtype(self) -> str:
        """Name of the dtype, as a store has it."""
        name = str(self.data.dtype.newbyteorder("="))
        return "bfloat16" if name == "uint16" else name

    def values(self, rows: slice) -> np.ndarray:
        """Return rows as numbers: bfloat16 as the float32 that it is."""
        return numbers(self.data[rows], self.dtype)


#: Files that a folder of Zarr 3 or 2 has one of.
ZARR_FILES = ("zarr.json", ".zarray", ".zgroup")

_PART = re.compile(r"_(\d+)\.(npy|parquet)$")


def read_rows(source: Path, *, array: str | None = None) -> Rows:
    """Return the rows of an exported set, or of a plain .npy or .h5 file.

    Parameters
    ----------
    source : Path
        A folder in clip-retrieval's layout, a Zarr array or group (a set of a store is one), or a
        .npy, .safetensors, .parquet or .h5 file.
    array : str, optional
        Name of the dataset, tensor or array; by default ``embedding``, or the only matrix.

    Raises
    ------
    ManifestError
        If there is no such file, or it holds no matrix of numbers.
    """
    try:
        if source.is_dir() and source.suffix != ".lance":
            if not any((source / name).exists() for name in ZARR_FILES):
                return _read_folder(source)
            with warnings.catch_warnings(action="ignore"):  # of files that are not Zarr's
                return _read_zarr(source, array)
        if not source.exists():
            raise ManifestError(f"{source} does not exist.")
        if source.suffix not in SUFFIXES:
            raise ManifestError(
                f"{source} is none of {', '.join(SUFFIXES)}, nor a folder with img_emb/ or Zarr."
            )
        if not source.is_file() and not source.is_dir():
            raise ManifestError(f"{source} is no regular file. It was not opened.")
        with warnings.catch_warnings(action="ignore"):  # of odd headers: errors say enough
            return SUFFIXES[source.suffix](source, array)
    except FeatstoreError:
        raise
    except Exception as err:
        # h5py and NumPy raise anything on a header that lies.
        reason = " ".join(str(err).split())[:200].rstrip(".") or type(err).__name__
        raise ManifestError(f"{source} cannot be read as embeddings: {reason}.") from err


def view_of(source: Path, *, array: str | None = None, numbered: bool = False) -> Selection:
    """Return the rows of a file as a view; its space is that of these very numbers.

    A .npy file is read as the view is, others are in memory.

    Items are those in the file, or of a .csv or .parquet file of the same name beside it; else
    the numbers of the rows are their ids; with `numbered`, also of items that have none.

    Raises
    ------
    ManifestError
        As `read_rows`; if there are items for other rows, or without ids.
    """
    rows = read_rows(source, array=array)
    items, n = rows.items, len(rows.data)
    beside = [source.with_suffix(end) for end in (".csv", ".parquet")]
    there = [path for path in beside if path != source and path.is_file()]
    if items is None and there:
        items = read_items(there[0], rows=n)
    own = pl.DataFrame({"item_id": [f"{row}" for row in range(n)]})
    if items is None or not items.columns:
        items = own
    elif numbered and "item_id" not in items.columns and items.height == n:
        items = own.hstack(items)
    if "item_id" not in items.columns or items.height != n:
        raise ManifestError(
            f"The items of {source} need a column item_id and {n:,} rows, one each; got "
            f"{items.height:,} rows of {listed(items.columns, shown=LISTED)}."
        )
    table = items.with_columns(pl.col("item_id").cast(pl.String))
    stored = rows.data.dtype == DTYPES.get(rows.dtype)
    data = rows.data if stored else rows.values(slice(None)).astype(np.float32)
    dtype = rows.dtype if stored else "float32"
    hashed = hashlib.sha256()
    for start in range(0, n, BLOCK_ROWS):
        part = numbers(data[start : start + BLOCK_ROWS], dtype)
        wide = np.float64 if dtype == "float64" else np.float32
        hashed.update(np.ascontiguousarray(part, wide).data)
    digest = hashed.hexdigest()
    return Selection(
        MemoryRows(data, dtype), np.arange(n),
        ItemTable(None, table),
        key=source.name, encoder=source.stem, space_id=digest, set_id=digest, revision_id=digest,
    )  # fmt: skip


def read_items(path: Path, *, rows: int = 0) -> pl.DataFrame:
    """Return the item table of so many rows from CSV (every column as text) or Parquet.

    Raises
    ------
    ManifestError
        If it is neither.
    """
    try:
        if path.suffix == ".parquet":
            return _table(path, rows)
        return pl.read_csv(path, infer_schema=False)
    except (OSError, pl.exceptions.PolarsError) as err:
        raise ManifestError(f"{path} cannot be read as an item table: {err}.") from err


def _table(path: Path, rows: int = 0) -> pl.DataFrame:
    return read_table(path.read_bytes(), where=str(path), schema={}, rows=rows)


def _load_npy(path: Path) -> Any:
    # np.load would name its own keyword, for pickles, of whatever is no array.
    return _matrix(np.lib.format.open_memmap(path, mode="r"), str(path))


def _matrix(data: Any, where: str) -> Any:
    """Return rows that are numbers themselves; uint16 here stands for the bits of bfloat16."""
    matrix, dtype = readable(data, where)
    if not all(matrix.shape) or dtype == "uint16":
        raise ManifestError(
            f"{where} has shape {matrix.shape} {dtype}; rows are a matrix of numbers with at least "
            "one row and one column, and not of uint16, which may be the bits of bfloat16."
        )
    return matrix


def _read_folder(source: Path) -> Rows:
    """Read clip-retrieval's layout: parts in the order of their numbers."""
    found = [name for name in ("img_emb", "text_emb") if (source / name).is_dir()]
    if len(found) != 1:
        raise ManifestError(
            f"{source} must hold one of img_emb/ and text_emb/, or be Zarr; it holds {len(found)}."
        )
    arrays = [_load_npy(path) for path in _parts(source, found[0])]
    rows = sum(map(len, arrays))
    tables = [_table(path, rows) for path in _parts(source, "metadata")]
    if not arrays or [len(part) for part in arrays] != [table.height for table in tables]:
        raise ManifestError(
            f"{source}: the parts of {found[0]}/ and metadata/ have different numbers of rows."
        )
    bias = None
    if (source / "bias.npy").exists():
        bias = np.load(resolve_inside(source, "bias.npy"), mmap_mode="r", allow_pickle=False)
    return Rows(
        arrays[0] if len(arrays) == 1 else np.concatenate(arrays),
        pl.concat(tables),
        bias,
    )


def _parts(source: Path, folder: str) -> list[Path]:
    names = [path.name for path in (source / folder).glob("*_*.*")]
    numbered = [(int(match[1]), name) for name in names if (match := _PART.search(name))]
    return [resolve_inside(source, f"{folder}/{name}") for _, name in sorted(numbered)]


def _read_safetensors(source: Path, array: str | None) -> Rows:
    from safetensors import deserialize

    found = dict(deserialize(source.read_bytes()))  # type: ignore[no-untyped-call]
    tensors = {}
    known = {name: DTYPES[dtype] for dtype, name in TENSOR_DTYPES.items()}
    for name, tensor in found.items():
        if tensor["dtype"] in known:  # tensors of other types are not embeddings
            data = np.frombuffer(tensor["data"], dtype=known[tensor["dtype"]])
            tensors[name] = data.reshape(tensor["shape"])
    bits = {name for name in tensors if found[name]["dtype"] == "BF16"}
    return _from_tensors(tensors, array, source, bits=bits)


def _read_h5(source: Path, array: str | None) -> Rows:
    with needs_extra(f"Reading {source.name}"):
        import h5py

    with h5py.File(source, "r") as file:
        # External links and virtual sources lead to other files: only plain datasets count.
        tensors = {
            name: file[name]
            for name in file
            if isinstance(file.get(name, getlink=True), h5py.HardLink)
            and isinstance(file[name], h5py.Dataset)
            and not file[name].is_virtual
            and file[name].external is None
        }
        here = {array or _only_matrix(tensors, source), "bias", "items_parquet"} & set(tensors)
        for name in here:
            _check_dataset(tensors[name], f"{source}: {name}", source.stat().st_size)
        # The attribute may be anything: an array of texts is no text.
        said = {name: tensors[name].attrs.get("featstore_dtype") for name in here}
        bits = {name for name in here if isinstance(said[name], str) and said[name] == "bfloat16"}
        bits = {name for name in bits if tensors[name].dtype == np.uint16}
        return _from_tensors({name: tensors[name][()] for name in here}, array, source, bits=bits)


def _read_faiss(source: Path, array: str | None) -> Rows:
    with needs_extra(f"Reading {source.name}"):
        import faiss

    # Before anything is read: sizes in the file may lie.
    faiss.set_deserialization_vector_byte_limit(source.stat().st_size)
    whole = index = faiss.read_index(str(source))
    items = None
    if isinstance(whole, faiss.IndexIDMap):  # IndexIDMap2 is one
        items = pl.DataFrame({"item_id": faiss.vector_to_array(whole.id_map).astype(str)})
        index = faiss.downcast_index(whole.index)  # which is freed with the whole
    if not isinstance(index, faiss.IndexFlat):
        raise ManifestError(
            f"{source} is a {type(index).__name__}, which keeps no rows as they were: only a flat "
            "index does."
        )
    rows = {array or "embedding": index.reconstruct_n(0, index.ntotal)}
    return replace(_from_tensors(rows, array, source), items=items)


def _read_lance(source: Path, array: str | None) -> Rows:
    with needs_extra(f"Reading {source.name}"):
        import lance
        import pyarrow as pa

    name = array or "embedding"
    dataset, batches = lance.dataset(str(source)), []
    left = allowed_bytes(sum(path.lstat().st_size for path in source.rglob("*")))
    names = [own.name for own in dataset.schema
             if own.name == name or not pa.types.is_nested(own.type)]  # fmt: skip
    for batch in dataset.to_batches(columns=names):
        left -= batch.nbytes
        if left < 0:
            raise ManifestError(
                f"{source} unpacks to more than a dataset of its size may. It was not read."
            )
        batches.append(batch)
    return _of_table(pl.DataFrame(pa.Table.from_batches(batches)), source, name)


def _only_matrix(tensors: Mapping[str, Any], source: Path) -> str:
    """Return the name of ``embedding``, or of the only matrix.

    Raises
    ------
    ManifestError
        If there are several, or none.
    """
    if "embedding" in tensors:
        return "embedding"
    matrices = [name for name, data in tensors.items() if data.ndim == 2]
    if len(matrices) != 1:
        raise ManifestError(
            f"{source} holds {len(matrices)} matrices ({listed(sorted(matrices))}); say which "
            "with `array=`."
        )
    return matrices[0]


def _check_dataset(dataset: Any, where: str, n_bytes: int) -> None:
    """Raise ManifestError for a dataset that a file of so many bytes cannot hold, or of no numbers.

    What is not stored is filled with one value: a few bytes may claim any shape.
    """
    if dataset.shape is None or dataset.dtype.kind not in "fiu":
        raise ManifestError(f"{where} holds {dataset.dtype} values; rows are a matrix of numbers.")
    allowed = allowed_bytes(n_bytes)
    if dataset.nbytes > allowed:
        raise ManifestError(
            f"{where} has shape {dataset.shape}: {dataset.nbytes:,} bytes, more than the "
            f"{allowed:,} that a file of this size may unpack to. It was not read."
        )


def _read_zarr(source: Path, array: str | None) -> Rows:
    """Read Zarr 2 or 3 with zarr-python. Items lie beside it: no convention says where."""
    import zarr

    size = 0
    for path in source.rglob("*"):
        found = path.lstat()
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
            raise ManifestError(f"{path} is no regular file. Nothing of {source} was read.")
        size += found.st_size
    node = zarr.open(source, mode="r")
    tensors: dict[str, Any] = {source.name: node}
    if isinstance(node, zarr.Group):
        tensors = dict(node.arrays())
    name = array or (source.name if source.name in tensors else _only_matrix(tensors, source))
    bits = set()
    if name in tensors:
        _check_dataset(tensors[name], f"{source}: {name}", size)
        if tensors[name].attrs.get("featstore") == {"dtype": "bfloat16"}:  # as a store says it
            bits.add(name)
        tensors = {name: tensors[name][:]}
    return _from_tensors(tensors, name, source, bits=bits)


def _from_tensors(
    tensors: dict[str, Any], array: str | None, source: Path, *, bits: Collection[str] = ()
) -> Rows:
    """Return the rows among named arrays; those in `bits` are the bits of bfloat16."""
    name = array or _only_matrix(tensors, source)
    if name not in tensors:
        raise ManifestError(unknown_name("array", name, sorted(tensors), where=f"in {source}"))
    data = tensors[name]
    packed = tensors.get("items_parquet")
    items = None
    if packed is not None:
        items = read_table(
            packed.tobytes(), where=f"{source}: items_parquet", schema={}, rows=len(data)
        )
    if not (name in bits and data.ndim == 2):
        data = _matrix(data, f"{source}: {name}")
    return Rows(data, items, tensors.get("bias"))


def _of_table(table: pl.DataFrame, source: Path, array: str) -> Rows:
    if array not in table.columns or not table.schema[array].is_nested():
        raise ManifestError(f"{source} has no column {array!r} of vectors. Say which: `array=`.")
    bias = table["bias"].to_numpy() if "bias" in table.columns else None
    rows = _matrix(table[array], f"{source}: {array}")
    return Rows(rows, table.drop(array, "bias", strict=False), bias)


#: What reads the rows of a file, by the end of its name.
SUFFIXES: Mapping[str, Callable[[Path, str | None], Rows]] = {
    ".npy": lambda source, _: Rows(_load_npy(source)),
    ".safetensors": _read_safetensors,
    ".parquet": lambda source, array: _of_table(_table(source), source, array or "embedding"),
    ".h5": _read_h5,
    ".hdf5": _read_h5,
    ".faiss": _read_faiss,
    ".lance": _read_lance,
}


def import_rows(
    source: Path,
    *,
    store: Path,
    dataset: str,
    kind: str,
    encoder: str,
    items: Path | None = None,
    array: str | None = None,
    dtype: str | None = None,
) -> str:
    """Write the rows of a file as a set, or as further rows of one, and return its key.

    An item whose row is all zeros is counted as failed: it has no embedding. Rows that the set
    holds already are compared and not written again; see `featstore.write`.

    The space of an imported set is what the caller says it is, and no more: the encoder's name
    and ``provenance: imported``. Two imports under one encoder's name claim one space.

    Parameters
    ----------
    source : Path
        See `read_rows`.
    store : Path
        Made if it is missing.
    dataset, kind, encoder : str
        What the rows are embeddings of, and who made them (``family:name``).
    items : Path, optional
        A CSV or Parquet file with item_id and further columns, a line a row of `source`; needed if
        that has no ids.
    array : str, optional
        See `read_rows`.
    dtype : str, optional
        What the rows are stored in; that of the file, which keeps every bit, by default.

    Raises
    ------
    LayoutError
        If dataset, kind or encoder is no name that a store can have.
    ManifestError
        If source and items do not fit, or the set has other rows of these items.
    NonFiniteEmbeddingError
        If a row is NaN or Inf, or the stored dtype cannot hold a value.
    """
    space = {"name": encoder, "provenance": "imported"}
    spec = SetSpec(dataset, kind, encoder, space, dtype or "float32")
    _ = spec.key  # refused before the rows are read, if it is malformed
    rows = read_rows(source, array=array)
    table = rows.items if items is None else read_items(items, rows=len(rows.data))
    if table is None:
        raise ManifestError(
            f"{source} names no items. Give a CSV or Parquet file with item_id: `items=FILE`."
        )
    if "item_id" not in table.columns:
        columns = listed(table.columns, shown=LISTED)
        raise ManifestError(
            f"{items or source} has no column 'item_id', which names the item of each row. "
            f"It has: {columns}."
        )
    spec = replace(spec, dtype=dtype or rows.dtype)
    if spec.dtype not in DTYPES:
        raise ManifestError(
            f"{source} is {spec.dtype}, which a store cannot hold. Say `dtype=float32`."
        )
    given = Given([rows.data], len(rows.data), rows.data.shape[1], rows.dtype)
    found = items_of(kind, None, table, n=given.n)
    zero = np.concatenate([~part.any(axis=1) for part in given.parts()])
    if zero.all():
        raise ManifestError(f"All {len(zero):,} rows of {source} are zeros. Nothing was imported.")
    failed = dict.fromkeys(found["item_id"].filter(pl.Series(zero)), ZERO)
    write_given(store, spec, given, found, rows.bias, failed=failed, source=source.name)
    return str(spec.key)


#: Why an item has no embedding whose row is zero throughout, as other tools leave failed ones.
ZERO = "its imported row is all zeros"


#: Formats that have no bfloat16; the rows become float32, which holds the same values.
WIDENING = frozenset({"npy", "parquet"})

#: What a file is written of.
Parts = list[bytes | memoryview]


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
    if not all(path in made and path.read_bytes() == b"".join(made[path]) for path in there):
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


def _files(form: str, out: Path, rows: Rows, *, text: bool) -> dict[str, Parts]:
    """Return what is written, name below `out` -> parts; the matrix of a folder comes last."""
    items = rows.items if rows.items is not None else pl.DataFrame()
    if form == "npy":
        # clip-retrieval's folder, one part each.
        name = "text_emb" if text else "img_emb"
        found: dict[str, Parts] = {"metadata/metadata_0.parquet": [table_bytes(items)]}
        found |= {} if rows.bias is None else {"bias.npy": _npy_parts(rows.bias)}
        return found | {f"{name}/{name}_0.npy": _npy_parts(rows.data)}
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


def _npy_parts(data: np.ndarray) -> Parts:
    """Return the parts of a .npy file: the array itself is not copied."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(data))
    return [header.getvalue(), _bytes(data)]


def _bytes(data: np.ndarray) -> memoryview:
    return np.ascontiguousarray(data).reshape(-1).view(np.uint8).data
