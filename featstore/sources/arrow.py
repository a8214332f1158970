"""Parquet and Arrow as datasets, with images in their cells or beside them."""

from __future__ import annotations

import mmap
import re
import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

from featstore.errors import FeatstoreError, ItemReadError, ManifestError, needs_extra
from featstore.identity import sha256_hex
from featstore.manifest_files import open_plain, part_uri
from featstore.sources.roots import (
    BLOCK,
    KEPT,
    PARQUET,
    Folder,
    LocalFile,
    OpenFile,
    Root,
    files_below,
    folder,
    locate,
)
from featstore.sources.tables import (
    MAX_RECORD_BYTES,
    Found,
    ItemCollector,
    Request,
    Rows,
    add_row,
    choose_columns,
    image_root,
    list_paths,
    parse_json,
    split_folder,
    split_name,
)
from featstore.store.parquet_guard import check_sizes


def arrow() -> Any:
    """Return the module pyarrow.

    Raises
    ------
    MissingPackageError
        If it is not installed.
    """
    with needs_extra("A Parquet file with images, or an Arrow file,"):
        import pyarrow.ipc
        import pyarrow.parquet
    return pyarrow


@contextmanager
def _reading(where: str, error: type[FeatstoreError] = ManifestError) -> Iterator[None]:
    """Turn whatever a library raises on a damaged table into an error that names it."""
    try:
        yield
    except FeatstoreError:
        raise
    except Exception as err:
        said = getattr(err, "strerror", None) or (str(err).splitlines() or [type(err).__name__])[0]
        raise error(
            f"{where} is truncated, damaged or no table that is read here: {said[:200]}."
        ) from err


def _column_cells(batch: Any, column: str) -> list[Any]:
    """Return the values of a column, or with ``a.b`` of the field b of the structs in a."""
    if column in batch.schema.names:
        return list(batch.column(column).to_pylist())
    name, _, field = column.rpartition(".")
    values = batch.column(name).to_pylist()
    return [None if value is None else value[field] for value in values]


def _numbered(batches: Iterable[Any], names: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield number and values of each row."""
    number = 0
    for batch in batches:
        columns = {name: _column_cells(batch, name) for name in names}
        for at in range(batch.num_rows):
            yield number, {name: values[at] for name, values in columns.items()}
            number += 1


#: Rows that are unpacked at once: few, because a dictionary can make each of them large, ...
BATCH_ROWS = 8

#: ... but of paths and texts.
PATH_ROWS = 256

#: Files behind an address whose pages are all looked at, since they are held whole anyway.
_CHECKED_BYTES = KEPT * BLOCK

#: Cells of one Parquet file that are kept after they were passed.
WINDOW_BYTES = 32 * 2**20


class ParquetCells:
    """The cells of a Parquet file, unpacked page by page.

    Reading forwards unpacks everything once; going back begins the row group again. Sizes are
    checked before: of a large file behind an address those of the footer alone, since the headers
    of its pages lie all over it; a page states 2 GiB at most, which a file of 8 MiB may unpack to.

    Parameters
    ----------
    file : OpenFile or Path
        Closed with the cells.

    Raises
    ------
    ManifestError
        If the file is truncated, is no Parquet, or claims far more than it can hold.
    """

    def __init__(self, file: OpenFile | Path) -> None:
        pyarrow = arrow()
        with _reading(str(file)):
            self._source = LocalFile(file) if isinstance(file, Path) else file
        self.where = self._source.where
        try:
            with _reading(self.where):
                near = not self._source.is_far or self._source.size <= _CHECKED_BYTES
                check_sizes(self._source, rows=None, pages=near)
                self._file = pyarrow.parquet.ParquetFile(
                    self._source.for_arrow(), pre_buffer=False, buffer_size=2**20
                )
        except BaseException:
            self._source.close()
            raise
        self.schema = self._file.schema_arrow
        metadata = self._file.metadata
        sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        self._starts = [0, *accumulate(sizes)][: len(sizes)]
        self._rows = metadata.num_rows
        self._lock = threading.Lock()
        # Cells of a column from row `_first` on, and what yields those behind them.
        self._column, self._first, self._held = "", 0, 0
        self._cells: deque[bytes] = deque()
        self._batches: Iterator[Any] = iter(())

    def rows(
        self, names: Sequence[str], *, at_once: int = BATCH_ROWS
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield number and values of each row, so many unpacked at once."""
        with _reading(self.where):
            batches = self._file.iter_batches(at_once, columns=[*names], use_threads=False)
            yield from _numbered(batches, names)

    def get(self, column: str, row: int) -> bytes:
        """Return the bytes in one row of a column, such as ``image.bytes``.

        Raises
        ------
        ItemReadError
            If there is no such row or column, or it cannot be unpacked.
        """
        if row >= self._rows:
            raise ItemReadError(f"{self.where} has {self._rows:,} rows and no row {row:,}.")
        with self._lock:
            # Reading on is the shortest way to a later row of this row group.
            later = self._group(row) > self._group(self._first + len(self._cells))
            if column != self._column or row < self._first or later:
                self._restart(column, row)
            try:
                with _reading(self.where, ItemReadError):
                    while row >= self._first + len(self._cells):
                        self._advance()
            except FeatstoreError:
                self._column = ""
                raise
            return self._cells[row - self._first]

    def close(self) -> None:
        """Close the file."""
        self._batches = iter(())
        self._cells.clear()
        self._file.close()
        self._source.close()

    def _group(self, row: int) -> int:
        return bisect_right(self._starts, row) - 1

    def _restart(self, column: str, row: int) -> None:
        group = self._group(row)
        self._column, self._first, self._held = column, self._starts[group], 0
        self._batches = self._file.iter_batches(
            batch_size=BATCH_ROWS,
            row_groups=range(group, len(self._starts)),
            columns=[column],
            use_threads=False,
        )
        self._cells.clear()

    def _advance(self) -> None:
        try:
            batch = next(self._batches)
        except StopIteration as err:
            raise ValueError("it has fewer rows than it says") from err
        cells = _column_cells(batch, self._column)
        new = [cell if isinstance(cell, bytes) else b"" for cell in cells]
        self._cells.extend(new)
        self._held += sum(map(len, new))
        while self._held > WINDOW_BYTES and len(self._cells) > batch.num_rows:
            self._held -= len(self._cells.popleft())
            self._first += 1


#: How an Arrow stream ends.
_END = b"\xff\xff\xff\xff\0\0\0\0"


class ArrowCells:
    """The cells of an uncompressed Arrow stream file, mapped: any row costs the same.

    Raises
    ------
    ManifestError
        If the file is truncated or damaged, or its batches are compressed: they are not mapped.
    """

    def __init__(self, path: Path) -> None:
        pyarrow = arrow()
        self.where = str(path)
        batches: list[Any] = []
        with _reading(self.where):
            with open_plain(path) as file:
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            if data[-len(_END) :] != _END:
                raise ValueError("it lacks the end mark: it is truncated")
            mapped = pyarrow.py_buffer(data)
            reader = pyarrow.ipc.open_stream(pyarrow.BufferReader(mapped))
            self.schema = reader.schema
            _ = self.schema.names  # checks that they are UTF-8
            if any(map(pyarrow.types.is_dictionary, self.schema.types)):
                raise ValueError("it has dictionaries, which are not read here")
            for batch in reader:
                if not _lies_in(batch, mapped):
                    raise ValueError("its batches are compressed; save the dataset uncompressed")
                # Offsets that lead out of their buffer would be followed blindly later.
                batch.validate(full=True)
                batches.append(batch)
            self.table = pyarrow.Table.from_batches(batches, self.schema)

    def rows(
        self, names: Sequence[str], *, at_once: int = BATCH_ROWS
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield number and values of each row, so many copied at once."""
        return _numbered(self.table.to_batches(at_once), names)

    def get(self, column: str, row: int) -> bytes:
        """Return the bytes in one row of a column; see `ParquetCells.get`."""
        rows = self.table.num_rows
        if row >= rows:
            raise ItemReadError(f"{self.where} has {rows:,} rows and no row {row:,}.")
        try:
            value = _column_cells(self.table.slice(row, 1), column)[0]
        except (KeyError, TypeError) as err:
            raise ItemReadError(f"{self.where} has no column {column!r}.") from err
        return value if isinstance(value, bytes) else b""

    def close(self) -> None:
        """Let the mapping go; it ends with the last batch."""
        self.table = None


def _lies_in(batch: Any, mapped: Any) -> bool:
    """Return whether all values of a batch are where the file has them; unpacked ones are not."""
    end = mapped.address + mapped.size
    return all(
        buffer is None or not buffer.size or mapped.address <= buffer.address < end
        for column in batch.columns for buffer in column.buffers()
    )  # fmt: skip


#: ``train-00000-of-00003.parquet``, as dataset hubs name their files.
_SHARD = re.compile(r"([A-Za-z_]+)-\d+-of-\d+(?:-\w+)?")


def parquet_table(path: Path) -> tuple[Sequence[str], Rows]:
    """Return the columns of a Parquet file here, and what yields its rows."""

    def rows(names: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        with closing(ParquetCells(path)) as table:
            yield from _placed(table, names)

    with closing(ParquetCells(path)) as table:
        return table.schema.names, rows


def _placed(
    table: ParquetCells | ArrowCells, names: Sequence[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, row in table.rows(names, at_once=PATH_ROWS):
        yield f"{table.where}, row {number:,}", row


def read_parquet(request: Request) -> Found:
    """List the images of a Parquet file, of every one below a folder, or of those at an address.

    A column of bytes, or of structs with a field ``bytes`` (as dataset hubs store images), is
    read from the file itself; a column of strings holds paths. The key is the id, else the path,
    else file and row. With the option ``texts`` the captions alone are listed, and no image.

    Raises
    ------
    ManifestError
        If a file is truncated or claims more than it can hold, or a row has no image.
    """
    root, files = locate(request.location, PARQUET)
    items, place = ItemCollector(request.dataset), root.place
    for file in files:
        with closing(root.open(file)) as source, closing(ParquetCells(source)) as table:
            # As the hub converts datasets: CONFIG/SPLIT/0000.parquet.
            split = split_of("/".join(file.split("/")[-2:]) if source.is_far else file)
            if request.flag("texts"):
                _add_texts(items, table, file, split, request)
                place = request.out  # the texts are in the manifest
            else:
                place = _add_images(items, table, file, split, request, root)
    return Found(place, items.contents())


def _add_texts(
    items: ItemCollector, table: ParquetCells, file: str, split: str | None, request: Request
) -> None:
    """Add the captions of a table without images; of a far file, only what lies in its columns."""
    columns = choose_columns(table.schema.names, request, table.where, needed="caption")
    for number, row in table.rows(columns.used(), at_once=PATH_ROWS):
        where, key = f"{table.where}, row {number:,}", f"{file.rpartition('.')[0]}/{number}"
        add_row(items, row, columns, uri=None, key=key, where=where, split=split)


def _add_images(
    items: ItemCollector,
    table: ParquetCells | ArrowCells,
    file: str,
    split: str | None,
    request: Request,
    root: Root,
) -> Any:
    """Add the images of a table, and return the place that their uris are relative to."""
    names, features = table.schema.names, _features(table.schema)
    images = [name for name in names if features.get(name, {}).get("_type") == "Image"]
    first = images if len(images) == 1 else ()
    columns = choose_columns(names, request, table.where, first=first)
    items.use_label_names(features.get(columns.label or "", {}).get("names"), table.where)
    assert columns.image is not None
    cell = _bytes_column(table.schema, columns.image)
    if cell is None and isinstance(root.place, Path):
        place = image_root(request, root.place / "table")
        list_paths(items, partial(_placed, table), columns, place, split=split)
        return place
    if cell is None:
        raise ManifestError(
            f"The column {columns.image!r} of {table.where} holds paths. Files that lie elsewhere "
            "are listed by the source urls."
        )
    others = [name for name in columns.used() if name != columns.image]
    for number, row in table.rows([cell, *others]):
        where, data = f"{file}, row {number:,}", row.pop(cell)
        if not isinstance(data, bytes):
            raise ManifestError(
                f"{where} has no bytes in {cell!r}. Leave such rows out, or embed the files."
            )
        add_row(
            items, row, columns, uri=part_uri(file, f"{cell}#{number}"), where=where, split=split,
            key=f"{file.rpartition('.')[0]}/{number}", content_sha256=sha256_hex(data),
        )  # fmt: skip
    return root.place


def _bytes_column(schema: Any, name: str) -> str | None:
    """Return the column that holds an image's bytes, or None if `name` holds paths.

    Raises
    ------
    ManifestError
        If it holds neither.
    """
    types = arrow().types
    kind = schema.field(name).type
    if types.is_binary(kind) or types.is_large_binary(kind):
        return name
    if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        return f"{name}.bytes"
    if types.is_string(kind) or types.is_large_string(kind):
        return None
    raise ManifestError(f"The column {name!r} of images holds {kind}; it must hold bytes or paths.")


def _features(schema: Any) -> dict[str, dict[str, Any]]:
    """Return what a hub's description says of each column, such as the names of its classes."""
    text = (schema.metadata or {}).get(b"huggingface", b"{}")
    document = parse_json(text, where="the feature description of a table", limit=_MAX_INFO_BYTES)
    for part in ("info", "features"):
        document = document.get(part) if isinstance(document, dict) else None
    found = document if isinstance(document, dict) else {}
    return {name: feature for name, feature in found.items() if isinstance(feature, dict)}


def split_of(file: str) -> str | None:
    """Return the split that a file's folder or name tells, or None."""
    found = _SHARD.fullmatch(Path(file).stem)
    word = split_name(found[1]) if found else None
    return split_folder(file) or (word if word in ("train", "val", "test") else None)


#: Descriptions of features with thousands of class names.
_MAX_INFO_BYTES = 16 * MAX_RECORD_BYTES


def read_hf(request: Request) -> Found:
    """List the images of a folder that ``Dataset.save_to_disk`` or ``DatasetDict``'s wrote.

    A dataset of the hub, ``hf://datasets/OWNER/NAME``, is read by `read_parquet`.

    Its Arrow files say which column is an Image and what the classes are called. The key is the id,
    else split and row.

    Raises
    ------
    ManifestError
        If the folder was not made by save_to_disk, or is damaged.
    """
    if request.location.startswith("hf://"):
        return read_parquet(request)
    root = folder(request.location)
    files = files_below(root, lambda name: _SAVED.fullmatch(name) is not None)
    if not files:
        raise ManifestError(
            f"{root} holds no data-NNNNN-of-NNNNN.arrow: save_to_disk did not make it. Load the "
            "dataset and save it so, or use the source parquet."
        )
    items = ItemCollector(request.dataset)
    for file in files:
        with closing(ArrowCells(root / file)) as table:
            split = file.rpartition("/")[0] or None
            _add_images(items, table, file, split, request, Folder(root))
    return Found(root, items.contents())


#: How `save_to_disk` names its files; those of its caches have other names.
_SAVED = re.compile(r"data-\d+-of-\d+\.arrow")
