"""JSON from strangers: size, number of values and depth are checked before it is believed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from featstore.errors import ManifestError

#: The description of one item.
MAX_RECORD_BYTES = 2**20

#: A list of a whole dataset; the largest one in wide use (COCO's captions) has 144 MB.
MAX_LIST_BYTES = 256 * 2**20

#: Nothing that is read here nests deeper.
MAX_DEPTH = 16


def parse_json(data: bytes, *, where: str, limit: int = MAX_RECORD_BYTES) -> Any:
    """Return the JSON document in `data`.

    Raises
    ------
    ManifestError
        If it has more than `limit` bytes, nests deeper than MAX_DEPTH, is not UTF-8 or not JSON.
    """
    if len(data) > limit:
        msg = f"{where} has {len(data):,} bytes of JSON; at most {limit:,} are read."
        raise ManifestError(msg)
    try:
        _check_depth(data)
        return json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as err:
        msg = f"{where} is not JSON that is read here: {err}."
        raise ManifestError(msg) from err


def read_json(path: Path, *, limit: int = MAX_LIST_BYTES) -> Any:
    """Return the JSON document in a file; see `parse_json`."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as err:
        msg = f"Cannot read {path}: {err.strerror or err}."
        raise ManifestError(msg) from err
    return parse_json(data, where=str(path), limit=limit)


def _check_depth(data: bytes) -> None:
    """Raise ValueError if brackets outside strings nest too deep; no value is built.

    Only documents that hold enough opening brackets are scanned, bracket by bracket.
    """
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return
    # Translating away all but brackets and quotes leaves little to walk over.
    outside = b"".join(_without_strings(data))
    depth = 0
    for sign in outside:
        depth += 1 if sign in b"[{" else -1
        if depth > MAX_DEPTH:
            msg = f"nested more than {MAX_DEPTH} deep"
            raise ValueError(msg)


_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def _without_strings(data: bytes) -> list[bytes]:
    parts = data.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
    return [part.translate(None, _NO_BRACKETS) for part in parts[::2]]
