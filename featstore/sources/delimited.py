"""CSV and TSV files: a header, then a row an image or a caption."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from featstore.errors import ManifestError
from featstore.sources.location import local_path
from featstore.sources.request import Found, Request
from featstore.sources.rows import add_row, choose_columns, image_root, relative_uri
from featstore.sources.tables import ItemCollector


def read_csv(request: Request) -> Found:
    """List the images of a comma-separated file; see `read_delimited`."""
    return read_delimited(request, ",")


def read_tsv(request: Request) -> Found:
    """List the images of a tab-separated file; see `read_delimited`."""
    return read_delimited(request, "\t")


def read_delimited(request: Request, delimiter: str) -> Found:
    """List the images of a table; several rows of one image are its captions.

    The key of an image is its id, or else its path.

    Raises
    ------
    ManifestError
        If the file is not UTF-8, a row has another number of fields than the header, or a
        quoted field never ends.
    """
    path = local_path(request.location)
    rows = _rows(path, delimiter)
    header = next(rows, (0, []))[1]
    if len(set(header)) != len(header):
        msg = f"{path} names a column twice: {', '.join(header)}."
        raise ManifestError(msg)
    columns = choose_columns(header, request, str(path))
    root = image_root(request, path)
    items = ItemCollector(request.dataset)
    for line, fields in rows:
        if not fields:
            continue
        where = f"{path}, line {line:,}"
        if len(fields) != len(header):
            msg = (
                f"{where} has {len(fields)} fields; the header has {len(header)}. Quote or fix it."
            )
            raise ManifestError(msg)
        row = dict(zip(header, fields, strict=True))
        uri = relative_uri(row[columns.image], root, where)
        add_row(items, row, columns, uri=uri, key=uri, where=where)
    return Found(root, items.contents())


def _rows(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            for fields in reader:
                yield reader.line_num, fields
    except UnicodeDecodeError as err:
        msg = f"{path} is not UTF-8: {err.reason}. Convert it, e.g. with iconv."
        raise ManifestError(msg) from err
    except csv.Error as err:
        msg = f"{path}, line {reader.line_num:,}, cannot be read: {err}."
        raise ManifestError(msg) from err
    except OSError as err:
        msg = f"Cannot read {path}: {err.strerror or err}."
        raise ManifestError(msg) from err
