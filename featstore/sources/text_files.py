"""Text files as datasets: CSV, TSV, JSON lines, Karpathy's JSON and lists of lines."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from featstore.errors import LISTED, ManifestError, listed
from featstore.sources.arrow import parquet_table
from featstore.sources.location import local_path, opened
from featstore.sources.tables import (
    MAX_RECORD_BYTES,
    Found,
    ItemCollector,
    Request,
    Rows,
    choose_columns,
    image_root,
    list_paths,
    parse_json,
    read_json,
)


def read_table(form: str, request: Request) -> Found:
    """List the images of a table of paths; several rows of one image are its captions.

    The key of an image is its id, or else its path.

    Parameters
    ----------
    form : str
        Key of `FORMS`.

    Raises
    ------
    ManifestError
        If the file is not of this form, or a row has no path below the folder of the images.
    """
    path = local_path(request.location)
    names, rows = FORMS[form](path)
    root = image_root(request, path)
    items = ItemCollector(request.dataset)
    list_paths(items, rows, choose_columns(names, request, str(path)), root)
    return Found(root, items.contents())


def _delimited(delimiter: str, path: Path) -> tuple[Sequence[str], Rows]:
    rows = _rows(path, delimiter)
    header = next(rows, (0, []))[1]
    if len(set(header)) != len(header):
        raise ManifestError(f"{path} names a column twice: {listed(header, shown=LISTED)}.")

    def checked(_: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        for line, fields in rows:
            where = f"{path}, line {line:,}"
            if fields and len(fields) != len(header):
                raise ManifestError(
                    f"{where} has {len(fields)} fields; the header has {len(header)}. Quote or "
                    "fix it."
                )
            if fields:
                yield where, dict(zip(header, fields, strict=True))

    return header, checked


def _rows(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    try:
        with opened(path) as file:
            text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
            reader = csv.reader(text, delimiter=delimiter, strict=True)
            for fields in reader:
                yield reader.line_num, fields
    except UnicodeDecodeError as err:
        raise ManifestError(
            f"{path} is not UTF-8: {err.reason}. Convert it, e.g. with iconv."
        ) from err
    except csv.Error as err:
        raise ManifestError(f"{path}, line {reader.line_num:,}, cannot be read: {err}.") from err


def _json_lines(path: Path) -> tuple[Sequence[str], Rows]:
    """Objects need not have the same fields, so they are read twice."""
    names = dict.fromkeys(name for _, row in _objects(path) for name in row)
    return list(names), lambda _: _objects(path)


def _objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with opened(path) as file:
        lines = iter(lambda: file.readline(MAX_RECORD_BYTES + 1), b"")
        for number, line in enumerate(lines, start=1):
            where = f"{path}, line {number:,}"
            if not line.strip():
                continue
            row = parse_json(line, where=where)
            if not isinstance(row, dict):
                raise ManifestError(f"{where} is not a JSON object.")
            yield where, row


def _karpathy(path: Path) -> tuple[Sequence[str], Rows]:
    """Of Karpathy's JSON: the id of an image is its ``imgid``, that of a caption its ``sentid``.

    A file without them falls back on the path, and on counting within the image.
    """
    document = read_json(path)
    images = document.get("images") if isinstance(document, dict) else None
    if not isinstance(images, list):
        raise ManifestError(f"{path} has no list of images; it is not a Karpathy JSON.")

    def rows(_: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        for number, image in enumerate(images):
            where = f"{path}, image {number:,}"
            if not isinstance(image, dict):
                raise ManifestError(f"{where} is not a JSON object.")
            folder, name = image.get("filepath"), image.get("filename")
            texts = image.get("sentences") or []
            if not isinstance(texts, list) or not all(
                isinstance(text, dict) and isinstance(text.get("raw"), str) for text in texts
            ):
                raise ManifestError(f"{where} has sentences that are no list of raw texts.")
            captions = [(_key(text.get("sentid")), text["raw"]) for text in texts]
            image |= {"path": f"{folder}/{name}" if folder and name else name}
            yield where, image | {"id": _key(image.get("imgid")), "captions": captions}

    return ["path", "captions", "split", "id"], rows


def _key(value: Any) -> str | None:
    return str(value) if isinstance(value, str) or type(value) is int else None


def _lines(path: Path) -> tuple[Sequence[str], Rows]:
    def rows(_: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        with opened(path) as file:
            lines = iter(lambda: file.readline(MAX_RECORD_BYTES), b"")
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    text = line.decode("utf-8", "replace").strip()
                    yield f"{path}, line {number:,}", {"url": text}

    return ["url"], rows


#: What opens a table of each form: its columns, and what yields its rows.
FORMS: dict[str, Callable[[Path], tuple[Sequence[str], Rows]]] = {
    "csv": partial(_delimited, ","),
    "tsv": partial(_delimited, "\t"),
    "jsonl": _json_lines,
    "karpathy": _karpathy,
    "txt": _lines,
    "parquet": parquet_table,
}

read_csv, read_tsv, read_jsonl, read_karpathy = (
    partial(read_table, form) for form in ("csv", "tsv", "jsonl", "karpathy")
)
