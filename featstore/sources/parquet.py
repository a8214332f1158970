"""Parquet with images inside, or with their paths."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from featstore.errors import ManifestError
from featstore.keys import sha256_hex
from featstore.manifest.locator import cell_uri
from featstore.sources.arrow_tables import arrow, column_cells, unreadable
from featstore.sources.bounded_json import parse_json
from featstore.sources.location import containers
from featstore.sources.names import split_folder, split_name
from featstore.sources.parquet_cells import BATCH_ROWS, open_parquet
from featstore.sources.request import Found, Request
from featstore.sources.rows import Columns, add_row, choose_columns, image_root, relative_uri
from featstore.sources.tables import ItemCollector

#: Rows of paths that are unpacked at once.
PATH_ROWS = 256

#: ``train-00000-of-00003.parquet``, as dataset hubs name their files.
_SHARD = re.compile(r"([A-Za-z_]+)-\d+-of-\d+(?:-\w+)?")


def read_parquet(request: Request) -> Found:
    """List the images of a Parquet file, or of every one below a folder.

    A column of bytes, or of structs with a field ``bytes`` (as dataset hubs store images), is
    read from the file itself; a column of strings holds paths. The key is the id, else the path,
    else file and row.

    Raises
    ------
    ManifestError
        If a file is truncated or claims more than it can hold, or a row has no image.
    """
    root, files = containers(request.location, ".parquet")
    items = ItemCollector(request.dataset)
    paths_root: Path | None = None
    for file in files:
        table = open_parquet(root / file)
        try:
            columns = choose_columns(table.schema_arrow.names, request, str(root / file))
            cell = bytes_column(table.schema_arrow, columns.image)
            _take_label_names(items, table.schema_arrow, columns, str(root / file))
            if cell is None:
                paths_root = image_root(request, root / "table")
                _add_paths(items, table, columns, root / file, paths_root, split_of(file))
            else:
                _add_cells(items, table, columns, root, file, cell)
        finally:
            table.close()
    return Found(paths_root or root, items.contents())


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
    msg = f"The column {name!r} of images holds {kind}; it must hold bytes or paths."
    raise ManifestError(msg)


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


def _take_label_names(items: ItemCollector, schema: Any, columns: Columns, where: str) -> None:
    names = label_names(schema, columns.label)
    if names is not None and items.label_names not in (None, names):
        msg = f"{where} lists other class names than the files before it."
        raise ManifestError(msg)
    items.label_names = names if names is not None else items.label_names


def _add_paths(
    items: ItemCollector, table: Any, columns: Columns, path: Path, root: Path, split: str | None
) -> None:
    for number, row in _rows(table, columns.used(), PATH_ROWS, path):
        where = f"{path}, row {number:,}"
        uri = relative_uri(row[columns.image], root, where)
        add_row(items, row, columns, uri=uri, key=uri, where=where, split=split)


def _add_cells(
    items: ItemCollector, table: Any, columns: Columns, root: Path, file: str, cell: str
) -> None:
    names = [cell, *(name for name in columns.used() if name != columns.image)]
    for number, row in _rows(table, names, BATCH_ROWS, root / file):
        add_cell(items, row, columns, file=file, cell=cell, number=number, split=split_of(file))


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
        msg = f"{where} has no bytes in {cell!r}. Leave such rows out, or embed the files."
        raise ManifestError(msg)
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


def _rows(
    table: Any, names: list[str], batch_rows: int, path: Path
) -> Iterator[tuple[int, dict[str, Any]]]:
    number = 0
    batches = table.iter_batches(batch_size=batch_rows, columns=names, use_threads=False)
    while True:
        try:
            batch = next(batches, None)
            if batch is None:
                return
            columns = {name: column_cells(batch, name) for name in names}
        except (OSError, ValueError, arrow().ArrowException) as err:
            raise unreadable(path, err) from err
        for at in range(batch.num_rows):
            yield number, {name: values[at] for name, values in columns.items()}
            number += 1
