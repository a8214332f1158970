"""Parquet and Arrow as datasets, with images in their cells or beside them."""

from __future__ import annotations

import re
import struct
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import closing
from itertools import accumulate
from pathlib import Path
from typing import Any

from featstore.errors import (
    LISTED,
    FeatstoreError,
    ItemReadError,
    ManifestError,
    listed,
    needs_extra,
)
from featstore.identity import sha256_hex
from featstore.manifest.paths import cell_uri, open_plain
from featstore.sources.location import folder
from featstore.sources.roots import BLOCK, KEPT, PARQUET, LocalFile, OpenFile, Root, locate
from featstore.sources.tables import (
    MAX_RECORD_BYTES,
    ROLES,
    Columns,
    Found,
    ItemCollector,
    Request,
    add_row,
    choose_column,
    choose_columns,
    image_root,
    parse_json,
    read_json,
    relative_uri,
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


def unreadable(path: Path | str, err: BaseException) -> ManifestError:
    """Return the error for a table that cannot be read."""
    reason = getattr(err, "strerror", None) or (str(err).splitlines() or [type(err).__name__])[0]
    return ManifestError(
        f"{path} is truncated, damaged or no table that is read here: {reason[:200]}."
    )


def column_cells(batch: Any, column: str) -> list[Any]:
    """Return the values of a column, or with ``a.b`` of the field b of the structs in a."""
    if column in batch.schema.names:
        return list(batch.column(column).to_pylist())
    name, _, field = column.rpartition(".")
    values = batch.column(name).to_pylist()
    return [None if value is None else value[field] for value in values]


#: Rows that are unpacked at once. Few, because a dictionary can make each of them large.
BATCH_ROWS = 8

#: Files behind an address whose pages are all looked at, since they are held whole anyway.
_CHECKED_BYTES = KEPT * BLOCK

#: Cells of one Parquet file that are kept after they were passed.
WINDOW_BYTES = 32 * 2**20


def open_parquet(file: OpenFile) -> Any:
    """Return a ``pyarrow.parquet.ParquetFile``, after its sizes were checked.

    Of a large file behind an address the headers of pages are not, since they lie all over it; a
    page states 2 GiB at most, which a file of 8 MiB may unpack to.

    Raises
    ------
    ManifestError
        If the file is truncated, is no Parquet, or claims far more than it can hold.
    """
    pyarrow = arrow()
    try:
        with file.indexed() as data:
            near = not file.is_far or file.size <= _CHECKED_BYTES
            check_sizes(data, rows=None, pages=near)
        return pyarrow.parquet.ParquetFile(file.for_arrow(), pre_buffer=False, buffer_size=2**20)
    except (OSError, ValueError, pyarrow.ArrowException) as err:
        if isinstance(err, FeatstoreError):
            raise
        raise unreadable(file.where, err) from err


class ParquetCells:
    """The cells of a Parquet file, unpacked page by page.

    Reading forwards unpacks everything once; going back begins the row group again.

    Parameters
    ----------
    file : OpenFile or Path
        Closed with the cells.
    window_bytes : int
        Cells that are kept after they were passed.
    """

    def __init__(self, file: OpenFile | Path, *, window_bytes: int = WINDOW_BYTES) -> None:
        self._most = window_bytes
        self._source = LocalFile(file) if isinstance(file, Path) else file
        self._where = self._source.where
        try:
            self._file = open_parquet(self._source)
        except BaseException:
            self._source.close()
            raise
        metadata = self._file.metadata
        sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        self._starts = [0, *accumulate(sizes)][: len(sizes)]
        self._rows = metadata.num_rows
        self._lock = threading.Lock()
        self._column = ""
        self._next = 0
        self._batches: Iterator[Any] = iter(())
        self._window: OrderedDict[int, bytes] = OrderedDict()
        self._held = 0

    def get(self, column: str, row: int) -> bytes:
        """Return the bytes in one row of a column, such as ``image.bytes``.

        Raises
        ------
        ItemReadError
            If there is no such row or column, or it cannot be unpacked.
        """
        if row >= self._rows:
            raise ItemReadError(f"{self._where} has {self._rows:,} rows and no row {row:,}.")
        with self._lock:
            if column != self._column:
                self._restart(column, row)
            # Reading on is the shortest way to a later row of this row group.
            ahead = self._next <= row and self._group(row) <= self._group(self._next)
            if row not in self._window and not ahead:
                self._restart(column, row)
            try:
                while row not in self._window:
                    self._advance()
            except Exception as err:
                self._column = ""
                if isinstance(err, FeatstoreError):
                    raise
                raise ItemReadError(str(unreadable(self._where, err))) from err
            return self._window[row]

    def close(self) -> None:
        """Close the file."""
        self._batches = iter(())
        self._window.clear()
        self._file.close()
        self._source.close()

    def _group(self, row: int) -> int:
        return bisect_right(self._starts, row) - 1

    def _restart(self, column: str, row: int) -> None:
        group = self._group(row)
        self._column, self._next = column, self._starts[group]
        self._batches = self._file.iter_batches(
            batch_size=BATCH_ROWS,
            row_groups=range(group, len(self._starts)),
            columns=[column],
            use_threads=False,
        )
        self._window.clear()
        self._held = 0

    def _advance(self) -> None:
        try:
            batch = next(self._batches)
        except StopIteration as err:
            raise ValueError("it has fewer rows than it says") from err
        for cell in column_cells(batch, self._column):
            data = cell if isinstance(cell, bytes) else b""
            self._window[self._next] = data
            self._held += len(data)
            self._next += 1
        while self._held > self._most and len(self._window) > batch.num_rows:
            self._held -= len(self._window.popitem(last=False)[1])


#: Rows of paths that are unpacked at once.
PATH_ROWS = 256

#: ``train-00000-of-00003.parquet``, as dataset hubs name their files.
_SHARD = re.compile(r"([A-Za-z_]+)-\d+-of-\d+(?:-\w+)?")


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
    items = ItemCollector(request.dataset)
    if request.flag("texts"):
        for file in files:
            _add_texts(items, root, file, request)
        return Found(request.out, items.contents())  # the texts are in the manifest
    place = root.place
    for file in files:
        with root.opened(file) as source, closing(open_parquet(source)) as table:
            columns = choose_columns(table.schema_arrow.names, request, source.where)
            cell = bytes_column(table.schema_arrow, columns.image)
            items.use_label_names(label_names(table.schema_arrow, columns.label), source.where)
            if cell is not None:
                _add_cells(items, table, columns, file, cell, source)
            elif isinstance(root.place, Path):
                place = image_root(request, root.place / "table")
                _add_paths(items, table, columns, source.where, place, split_of(file))
            else:
                raise ManifestError(
                    f"The column {columns.image!r} of {source.where} holds paths. Files that lie "
                    "elsewhere are listed by the source urls."
                )
    return Found(place, items.contents())


def bytes_column(schema: Any, name: str) -> str | None:
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


def label_names(schema: Any, column: str | None) -> list[str] | None:
    """Return the class names that a hub's feature description gives a column of integers."""
    text = (schema.metadata or {}).get(b"huggingface")
    if text is None or column is None:
        return None
    document = parse_json(text, where="the feature description of a table")
    for part in ("info", "features", column, "names"):
        document = document.get(part) if isinstance(document, dict) else None
    if isinstance(document, list) and all(isinstance(name, str) for name in document):
        return document
    return None


def split_of(file: str) -> str | None:
    """Return the split that a file's folder or name tells, or None."""
    found = _SHARD.fullmatch(Path(file).stem)
    word = split_name(found[1]) if found else None
    return split_folder(file) or (word if word in ("train", "val", "test") else None)


def _add_texts(items: ItemCollector, root: Root, file: str, request: Request) -> None:
    """Add the captions of a table without images; of a far file, only what lies in its columns."""
    with root.opened(file) as source, closing(open_parquet(source)) as table:
        names, path = table.schema_arrow.names, source.where
        text, own, split = (
            choose_column(role, names, request, path) for role in ("caption", "id", "split")
        )
        if text is None:
            raise ManifestError(
                f"{path} has no column of captions: none of {', '.join(ROLES['caption'])}. It "
                f"has: {listed(names, shown=LISTED)}. Choose one with the option caption."
            )
        usual = split_of("/".join(file.split("/")[-2:]) if source.is_far else file)
        used = [name for name in (text, own, split) if name is not None]
        for number, row in table_rows(table, used, PATH_ROWS, path):
            where = f"{path}, row {number:,}"
            found = row[text] if isinstance(row[text], list) else [row[text]]
            key = f"{file.rpartition('.')[0]}/{number}" if own is None else str(row[own])
            for at, caption in enumerate(found):
                if caption is None:
                    continue
                if not isinstance(caption, str):
                    raise ManifestError(f"{where} has a caption that is no text: {caption!r}.")
                part = str(row[split]) if split is not None and row[split] else usual
                items.text(key + f"#{at}" * (len(found) > 1), caption, split=part, where=where)


def _add_paths(
    items: ItemCollector, table: Any, columns: Columns, path: str, root: Path, split: str | None
) -> None:
    for number, row in table_rows(table, columns.used(), PATH_ROWS, path):
        where = f"{path}, row {number:,}"
        uri = relative_uri(row[columns.image], root, where)
        add_row(items, row, columns, uri=uri, key=uri, where=where, split=split)


def _add_cells(
    items: ItemCollector, table: Any, columns: Columns, file: str, cell: str, source: OpenFile
) -> None:
    names = [cell, *(name for name in columns.used() if name != columns.image)]
    # As the hub converts datasets: CONFIG/SPLIT/0000.parquet.
    split = split_of("/".join(file.split("/")[-2:]) if source.is_far else file)
    for number, row in table_rows(table, names, BATCH_ROWS, source.where):
        add_cell(items, row, columns, file=file, cell=cell, number=number, split=split)


def add_cell(
    items: ItemCollector,
    row: dict[str, Any],
    columns: Columns,
    *,
    file: str,
    cell: str,
    number: int,
    split: str | None,
) -> None:
    """Add the image whose bytes are the cell `cell` of a row."""
    data = row.pop(cell)
    where = f"{file}, row {number:,}"
    if not isinstance(data, bytes):
        raise ManifestError(
            f"{where} has no bytes in {cell!r}. Leave such rows out, or embed the files."
        )
    add_row(
        items,
        row,
        columns,
        uri=cell_uri(file, cell, number),
        key=f"{file.rpartition('.')[0]}/{number}",
        where=where,
        split=split,
        content_sha256=sha256_hex(data),
    )


def table_rows(
    table: Any, names: list[str], batch_rows: int, path: str
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield number and values of each row of a ``ParquetFile``, so many rows at once."""
    number = 0
    batches = table.iter_batches(batch_size=batch_rows, columns=names, use_threads=False)
    while True:
        try:
            batch = next(batches, None)
            if batch is None:
                return
            columns = {name: column_cells(batch, name) for name in names}
        except (OSError, ValueError, arrow().ArrowException) as err:
            if isinstance(err, FeatstoreError):
                raise
            raise unreadable(path, err) from err
        for at in range(batch.num_rows):
            yield number, {name: values[at] for name, values in columns.items()}
            number += 1


#: Types of messages in an Arrow stream.
_DICTIONARY, _BATCH = 2, 3


class ArrowCells:
    """The cells of an uncompressed Arrow stream file, mapped: any row costs the same."""

    def __init__(self, path: Path) -> None:
        pyarrow = arrow()
        self._path = path
        try:
            check_uncompressed(path)
            self._source = pyarrow.memory_map(str(path))
            try:
                with pyarrow.ipc.open_stream(self._source) as reader:
                    self.columns = reader.schema.names  # also checks that they are UTF-8
                    self.batches = list(reader)
                for batch in self.batches:
                    # Offsets that lead out of their buffer would be followed blindly later.
                    batch.validate(full=True)
            except BaseException:
                self._source.close()
                raise
        except (OSError, ValueError, struct.error, pyarrow.ArrowException) as err:
            raise unreadable(path, err) from err
        counts = [batch.num_rows for batch in self.batches]
        self._starts = [0, *accumulate(counts)][: len(counts)]
        self.rows = sum(counts)

    def get(self, column: str, row: int) -> bytes:
        """Return the bytes in one row of a column; see `ParquetCells.get`."""
        if row >= self.rows:
            raise ItemReadError(f"{self._path.name} has {self.rows:,} rows and no row {row:,}.")
        at = bisect_right(self._starts, row) - 1
        try:
            value = column_cells(self.batches[at].slice(row - self._starts[at], 1), column)[0]
        except (KeyError, TypeError) as err:
            raise ItemReadError(f"{self._path.name} has no column {column!r}.") from err
        return value if isinstance(value, bytes) else b""

    def close(self) -> None:
        """Let the mapping go; it ends with the last batch."""
        self.batches = []


def check_uncompressed(path: Path) -> None:
    """Raise ValueError if an Arrow stream has compressed batches, whose sizes may lie.

    The messages of a stream are FlatBuffers (Message.fbs of Arrow): field 1 of a message is the
    type of its header, field 2 the header, and field 3 of a batch is its compression.
    """
    size = path.stat().st_size
    with open_plain(path) as file:
        while True:
            head = file.read(8)
            if len(head) < 8:
                raise ValueError("it lacks the end mark: it is truncated")
            mark, length = struct.unpack("<Ii", head)
            if mark != 0xFFFFFFFF or not 0 <= length <= size - file.tell():
                raise ValueError("it is no Arrow stream")
            if length == 0:
                return
            message = file.read(length)
            root = struct.unpack_from("<I", message)[0]
            kind = _field(message, root, 1)
            header = _field(message, root, 2)
            body = _field(message, root, 3)
            type_ = 0 if kind is None else struct.unpack_from("B", message, kind)[0]
            if header is not None and type_ in (_DICTIONARY, _BATCH):
                table = header + struct.unpack_from("<I", message, header)[0]
                if type_ == _DICTIONARY:
                    raise ValueError("it has dictionaries, which are not read here")
                if _field(message, table, 3) is not None:
                    raise ValueError("its batches are compressed; save the dataset uncompressed")
            skip = 0 if body is None else struct.unpack_from("<q", message, body)[0]
            if not 0 <= skip <= size - file.tell():
                raise ValueError("it is truncated")
            file.seek(skip, 1)


def _field(message: bytes, table: int, number: int) -> int | None:
    """Return where a field of a FlatBuffers table lies, or None if it is absent."""
    vtable = table - struct.unpack_from("<i", message, table)[0]
    if not 0 <= vtable < len(message):
        raise ValueError("it has a damaged message")
    slot = 4 + 2 * number
    if slot + 2 > struct.unpack_from("<H", message, vtable)[0]:
        return None
    offset = struct.unpack_from("<H", message, vtable + slot)[0]
    return table + offset if offset else None


#: Descriptions of features with thousands of class names.
_MAX_INFO_BYTES = 16 * MAX_RECORD_BYTES


def read_hf(request: Request) -> Found:
    """List the images of a folder that ``Dataset.save_to_disk`` or ``DatasetDict``'s wrote.

    A dataset of the hub, ``hf://datasets/OWNER/NAME``, is read by `read_parquet`.

    The library opens the folder (no code of the dataset runs, nothing is fetched) and says which
    column is an Image and what the classes are called. The key is the id, else split and row.

    Raises
    ------
    ManifestError
        If the folder was not made by save_to_disk, names files elsewhere, or is damaged.
    """
    if request.location.startswith("hf://"):
        return read_parquet(request)
    root = folder(request.location)
    items = ItemCollector(request.dataset)
    if (root / "dataset_dict.json").is_file():
        listed = read_json(root / "dataset_dict.json", limit=MAX_RECORD_BYTES)
        names = listed.get("splits") if isinstance(listed, dict) else None
        if not isinstance(names, list) or not all(map(_is_plain, names)):
            raise ManifestError(
                f"{root / 'dataset_dict.json'} does not list its splits by plain names."
            )
        for name in names:
            _add_dataset(items, root, root / name, name, request)
    elif (root / "state.json").is_file():
        _add_dataset(items, root, root, None, request)
    else:
        raise ManifestError(
            f"{root} has neither state.json nor dataset_dict.json: save_to_disk did not make it. "
            "Load the dataset and save it so, or use the source parquet."
        )
    return Found(root, items.contents())


def _is_plain(name: Any) -> bool:
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\\0:")


def _add_dataset(
    items: ItemCollector, root: Path, directory: Path, split: str | None, request: Request
) -> None:
    files = _data_files(directory)  # first: the library opens whatever is listed
    features = _features(directory)
    columns = _columns(features, request, directory)
    names = getattr(features.get(columns.label or ""), "names", None)
    items.use_label_names(names, str(directory))
    cell = f"{columns.image}.bytes"
    others = [name for name in columns.used() if name != columns.image]
    for file in files:
        uri = (directory / file).relative_to(root).as_posix()
        table = ArrowCells(directory / file)
        number = 0
        for batch in table.batches:
            for at in range(batch.num_rows):
                one = batch.slice(at, 1)
                row = {name: column_cells(one, name)[0] for name in (cell, *others)}
                add_cell(items, row, columns, file=uri, cell=cell, number=number, split=split)
                number += 1
        table.close()


def _data_files(directory: Path) -> list[str]:
    """Return the Arrow files that state.json lists: plain names in the same folder."""
    state = read_json(directory / "state.json", limit=MAX_RECORD_BYTES)
    entries = state.get("_data_files") if isinstance(state, dict) else None
    names = [
        entry.get("filename") if isinstance(entry, dict) else None
        for entry in (entries if isinstance(entries, list) else [None])
    ]
    for name in names:
        path = directory / str(name)
        plain = _is_plain(name) and path.suffix == ".arrow"
        if not plain or path.is_symlink() or not path.is_file():
            raise ManifestError(
                f"{directory / 'state.json'} lists {name!r}, which is no Arrow file beside it. "
                "Save the dataset again."
            )
    return [str(name) for name in names]


def _features(directory: Path) -> dict[str, Any]:
    read_json(directory / "dataset_info.json", limit=_MAX_INFO_BYTES)
    with needs_extra("The source hf"):
        from datasets import load_from_disk
    try:
        return dict(load_from_disk(str(directory)).features)
    except Exception as err:
        # The library raises whatever its parsers do on a damaged folder.
        raise ManifestError(
            f"{directory} cannot be loaded by the package datasets: {err}."
        ) from err


def _columns(features: dict[str, Any], request: Request, directory: Path) -> Columns:
    images = [name for name, feature in features.items() if type(feature).__name__ == "Image"]
    if "image" not in request.options and len(images) != 1:
        raise ManifestError(
            f"{directory} has {len(images)} columns of images ({', '.join(images) or 'none'}). "
            "Choose one with the option image."
        )
    chosen = {"image": images[0]} | dict(request.options) if images else dict(request.options)
    whole = Request(request.location, request.dataset, request.out, chosen)
    columns = choose_columns(features, whole, str(directory))
    if columns.image not in images:
        raise ManifestError(f"The column {columns.image!r} of {directory} is no Image.")
    return columns
