"""JSON Lines: an object a line, with the columns of the other tables."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from featstore.errors import ManifestError
from featstore.sources.bounded_json import MAX_RECORD_BYTES, parse_json
from featstore.sources.location import local_path
from featstore.sources.request import Found, Request
from featstore.sources.rows import add_row, choose_columns, image_root, relative_uri
from featstore.sources.tables import ItemCollector


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
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_RECORD_BYTES + 1):
                number += 1
                where = f"{path}, line {number:,}"
                if not line.strip():
                    continue
                row = parse_json(line, where=where)
                if not isinstance(row, dict):
                    msg = f"{where} is not a JSON object."
                    raise ManifestError(msg)
                yield where, row
    except OSError as err:
        msg = f"Cannot read {path}: {err.strerror or err}."
        raise ManifestError(msg) from err
