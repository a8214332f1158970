"""Files of a store: durable writes, deterministic JSON, bounded reads."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from featstore.durable import write_durably
from featstore.errors import CorruptStoreError, StoreWriteError
from featstore.keys import sha256_hex

#: JSON files of a store are refused above this size.
MAX_JSON_BYTES = 64 * 2**20


def write_file(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Write `parts` to `path` durably; see `featstore.durable.write_durably`.

    Raises
    ------
    StoreWriteError
        If the file system refuses: full, read-only, no permission. Nothing is left behind.
    """
    try:
        write_durably(path, parts)
    except OSError as err:
        msg = (
            f"Cannot write {path}: {err.strerror or err}. Free space or permission, then run the "
            "same command again."
        )
        raise StoreWriteError(msg) from err


def json_bytes(document: Any) -> bytes:
    """Return `document` as readable, deterministic JSON: sorted keys, two spaces."""
    text = json.dumps(document, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode("utf-8")


def read_json(path: Path) -> Any:
    """Return the JSON document at `path`.

    Raises
    ------
    CorruptStoreError
        If the file is too large to be metadata, or is not JSON.
    FileNotFoundError
        If there is no such file.
    """
    size = path.stat().st_size
    if size > MAX_JSON_BYTES:
        msg = (
            f"{path} has {size:,} bytes; metadata has at most {MAX_JSON_BYTES:,}. It was not read."
        )
        raise CorruptStoreError(msg)
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as err:
        msg = f"{path} is not JSON: {err}."
        raise CorruptStoreError(msg) from err


def file_facts(path: Path) -> dict[str, Any]:
    """Return ``{"bytes": …, "sha256": …}`` of a small file."""
    data = path.read_bytes()
    return {"bytes": len(data), "sha256": sha256_hex(data)}
