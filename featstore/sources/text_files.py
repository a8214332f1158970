"""Text files as datasets: CSV, TSV, JSON lines and Karpathy's JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from featstore.errors import LISTED, ManifestError, listed
from featstore.sources.location import local_path, opened
from featstore.sources.tables import (
    MAX_RECORD_BYTES,
    Found,
    ItemCollector,
    Request,
    add_row,
    choose_columns,
    image_root,
    parse_json,
    read_json,
    relative_uri,
)


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
    header, rows = delimited_rows(path, delimiter)
    columns = choose_columns(header, request, str(path))
    root = image_root(request, path)
    items = ItemCollector(request.dataset)
    for where, row in rows:
        uri = relative_uri(row[columns.image], root, where)
        add_row(items, row, columns, uri=uri, key=uri, where=where)
    return Found(root, items.contents())


def delimited_rows(path: Path, delimiter: str) -> tuple[list[str], Iterator[tuple[str, Any]]]:
    """Return the columns of a table, and its rows with their places; see `read_delimited`."""
    rows = _rows(path, delimiter)
    header = next(rows, (0, []))[1]
    if len(set(header)) != len(header):
        raise ManifestError(f"{path} names a column twice: {listed(header, shown=LISTED)}.")

    def checked() -> Iterator[tuple[str, dict[str, str]]]:
        for line, fields in rows:
            where = f"{path}, line {line:,}"
            if fields and len(fields) != len(header):
                raise ManifestError(
                    f"{where} has {len(fields)} fields; the header has {len(header)}. Quote or "
                    "fix it."
                )
            if fields:
                yield where, dict(zip(header, fields, strict=True))

    return header, checked()


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


def read_jsonl(request: Request) -> Found:
    """List the images of a file of JSON objects; captions may be a string or a list of them.

    The key of an image is its id, or else its path. Objects need not have the same fields.

    Raises
    ------
    ManifestError
        If a line is too long, nests too deep or is no JSON object.
    """
    path = local_path(request.location)
    root = image_root(request, path)
    items = ItemCollector(request.dataset)
    fields = dict.fromkeys(name for _, row in _objects(path) for name in row)
    columns = choose_columns(fields, request, str(path))
    for where, row in _objects(path):
        uri = relative_uri(row.get(columns.image), root, where)
        add_row(items, row, columns, uri=uri, key=uri, where=where)
    return Found(root, items.contents())


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


#: ``restval`` is the part of COCO's validation images that this split trains on.
_SPLITS = {"restval": "train"}


def read_karpathy(request: Request) -> Found:
    """List the images of a Karpathy JSON with all their captions.

    The key of an image is its ``imgid``, that of a caption its ``sentid``; a file without them
    falls back on the path, and on counting within the image. Paths are ``filepath/filename``.
    ``split`` is train, val or test; where the file says otherwise, the column source_split does.

    Raises
    ------
    ManifestError
        If the file is too large, nests too deep, or lacks what is read.
    """
    path = local_path(request.location)
    root = image_root(request, path)
    document = read_json(path)
    images = document.get("images") if isinstance(document, dict) else None
    if not isinstance(images, list):
        raise ManifestError(f"{path} has no list of images; it is not a Karpathy JSON.")
    items = ItemCollector(request.dataset)
    for number, image in enumerate(images):
        where = f"{path}, image {number:,}"
        if not isinstance(image, dict):
            raise ManifestError(f"{where} is not a JSON object.")
        _add(items, image, root, where)
    return Found(root, items.contents())


def _add(items: ItemCollector, image: dict[str, Any], root: Any, where: str) -> None:
    folder, name = image.get("filepath") or "", image.get("filename")
    if not isinstance(folder, str) or not isinstance(name, str):
        raise ManifestError(f"{where} has no filename, or a filepath that is no text.")
    uri = relative_uri(f"{folder}/{name}" if folder else name, root, where)
    facts: dict[str, Any] = {}
    split = image.get("split")
    if split is not None and not isinstance(split, str):
        raise ManifestError(f"{where} has a split that is no text: {split!r}.")
    if split in _SPLITS:
        facts["source_split"], split = split, _SPLITS[split]
    if type(image.get("cocoid")) is int:
        facts["cocoid"] = image["cocoid"]
    parent = items.image(_key(image.get("imgid")) or uri, uri, split=split, **facts)
    sentences = image.get("sentences") or []
    if not isinstance(sentences, list):
        raise ManifestError(f"{where} has sentences that are no list.")
    for sentence in sentences:
        raw = sentence.get("raw") if isinstance(sentence, dict) else None
        if not isinstance(raw, str):
            raise ManifestError(f"{where} has a sentence without raw text.")
        items.caption(parent, raw, key=_key(sentence.get("sentid")))


def _key(value: Any) -> str | None:
    return str(value) if isinstance(value, str) or type(value) is int else None
