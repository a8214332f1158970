"""Durable file operations: a name appears with its whole content, or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from featstore.errors import CorruptStoreError, StoreWriteError
from featstore.keys import sha256_hex

#: JSON files of a store are refused above this size.
MAX_JSON_BYTES = 64 * 2**20


def fsync_directory(directory: Path) -> None:
    """Make the names in `directory` durable (a no-op where directories cannot be opened)."""
    if os.name == "nt":
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_file(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Write `parts` to `path`: staged, fsynced, renamed, directory fsynced.

    Raises
    ------
    StoreWriteError
        If the file system refuses: full, read-only, no permission. Nothing is left behind.
    """
    staged = path.with_name(f".{path.name}.{os.getpid()}.staged")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with staged.open("wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        staged.replace(path)
        fsync_directory(path.parent)
    except OSError as err:
        staged.unlink(missing_ok=True)
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
