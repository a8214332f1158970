"""What the JSON records of a store may say: types, ranges and names, before anything is believed.

A record from a stranger may name any file and any size. Whatever passes here is a plain value
of the right type, a name that stays inside its set, and a size that arithmetic can hold.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from featstore.errors import CorruptStoreError, FormatVersionError
from featstore.store.files import read_json
from featstore.store.layout import DTYPES, FORMAT, LayoutError, check_component

#: Bounds of a set: far above any real one, far below where sizes overflow.
MAX_ROWS = 2**40
MAX_DIM = 2**24
MAX_BLOCK_ROWS = 2**24

#: A file of a set that a commit names is at most so large.
MAX_FILE_BYTES = 2**44

#: What a commit may not name as metadata: data and the things that name the commit.
_NOT_METADATA = ("revisions", "runs", ".staging", "zarr.json")

_SHA256 = re.compile(r"[0-9a-f]{64}")


def is_sha256(value: Any) -> bool:
    """Return whether `value` is 64 lower-case hexadecimal digits."""
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def is_size(value: Any, *, low: int, high: int) -> bool:
    """Return whether `value` is an integer (no bool, no float) from `low` to `high`."""
    return type(value) is int and low <= value <= high


def check_format(found: Any, *, where: str) -> None:
    """Raise if a document's format is missing or newer than this version reads."""
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        msg = f"{where} states no store format. It is not a featstore store, or is damaged."
        raise CorruptStoreError(msg)
    if found > FORMAT:
        msg = (
            f"{where} has store format {str(found)[:20]}; this headstock reads up to format "
            f"{FORMAT}. Upgrade headstock to a version that reads format {str(found)[:20]}."
        )
        raise FormatVersionError(msg)


def check_root(root: Path) -> None:
    """Raise if a folder is a store of a format that this version must not write; none is fine."""
    try:
        document = read_json(root / "zarr.json")
    except (FileNotFoundError, NotADirectoryError):
        return
    attributes = document.get("attributes") if isinstance(document, dict) else None
    own = attributes.get("featstore") if isinstance(attributes, dict) else None
    check_format(own.get("format") if isinstance(own, dict) else None, where=f"{root}/zarr.json")


def valid_commit(document: Mapping[str, Any], *, names: set[str]) -> str:
    """Return why `document` is no commit record with these fields, or an empty string."""
    if set(document) != names:
        odd = sorted(set(document) ^ names)
        return f"it lacks or adds {', '.join(map(repr, odd))[:200]}"
    for name, high in (("n", MAX_ROWS), ("dim", MAX_DIM), ("block_rows", MAX_BLOCK_ROWS)):
        if not is_size(document[name], low=1, high=high):
            return f"its {name} is not an integer from 1 to {high:,}"
    n, block_rows = document["n"], document["block_rows"]
    dtype = document["dtype"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        return f"its dtype is none of {', '.join(DTYPES)}"
    blocks = document["blocks"]
    if not isinstance(blocks, list) or len(blocks) != -(-n // block_rows):
        return f"it lacks the hashes of {-(-n // block_rows):,} blocks"
    ids = [*blocks, document["space_id"], document["set_id"], document["attributes"]]
    if not all(map(is_sha256, ids)):
        return "one of its hashes is not a sha256"
    return (
        _items_reason(document["items"])
        or _metadata_reason(document["metadata"])
        or _failed_reason(document["failed"], n)
    )


def parse_pointer(document: Any, *, where: str) -> dict[str, Any]:
    """Return the attributes that a set's ``zarr.json`` states.

    Raises
    ------
    CorruptStoreError
        If it is not the metadata of a set.
    FormatVersionError
        If it was written by a newer format.
    """
    group = document.get("attributes") if isinstance(document, dict) else None
    attributes = group.get("featstore") if isinstance(group, dict) else None
    if not isinstance(attributes, dict):
        msg = f"{where} is not the metadata of a set: it lacks attributes.featstore."
        raise CorruptStoreError(msg)
    check_format(attributes.get("format"), where=where)
    texts = ("revision", "dataset", "kind", "encoder", "space_id", "set_id", "precision")
    wrong = [name for name in texts if not isinstance(attributes.get(name), str)]
    wrong += [name for name in ("space", "facts") if not isinstance(attributes.get(name), dict)]
    history = attributes.get("history", [])
    if not isinstance(history, list) or not all(map(is_sha256, history)):
        wrong.append("a history of revisions")
    if wrong:
        msg = f"{where} is not the metadata of a set: it lacks {', '.join(wrong)}."
        raise CorruptStoreError(msg)
    return attributes


def _items_reason(items: Any) -> str:
    if not isinstance(items, dict) or set(items) != {"file", "bytes", "sha256"}:
        return "its items are not a file, its bytes and its sha256"
    name = items["file"]
    if not isinstance(name, str) or not _inside(name, depth=1):
        return f"its items file {str(name)[:80]!r} is not a name that a store can hold"
    return "" if _is_facts(items, {"file"}) else "its items have no proper size and sha256"


def _metadata_reason(metadata: Any) -> str:
    if not isinstance(metadata, dict):
        return "its metadata is not a table of files"
    for name, facts in metadata.items():
        if not _inside(name, depth=4) or name.split("/")[0] in _NOT_METADATA:
            return f"its metadata file {name[:80]!r} is not a name that a set can hold"
        if not isinstance(facts, dict) or not _is_facts(facts, set()):
            return f"its metadata file {name[:80]!r} has no proper size and sha256"
    return "" if "embedding/zarr.json" in metadata else "it lacks embedding/zarr.json"


def _failed_reason(failed: Any, n: int) -> str:
    if not isinstance(failed, str):
        return "its failed rows are not a base64 text"
    try:
        bits = base64.b64decode(failed, validate=True)
    except (binascii.Error, ValueError):
        return "its failed rows are not base64"
    if bits and len(bits) != -(-n // 8):
        return f"its failed rows are {len(bits):,} bytes; {n:,} rows need {-(-n // 8):,}"
    if bits and bits[-1] & (0xFF >> ((n - 1) % 8 + 1)):
        return "its failed rows name rows past the end"
    return ""


def _inside(name: str, *, depth: int) -> bool:
    parts = name.split("/")
    if len(parts) > depth:
        return False
    try:
        for part in parts:
            check_component(part, what="file")
    except LayoutError:
        return False
    return True


def _is_facts(facts: Mapping[str, Any], more: set[str]) -> bool:
    return (
        set(facts) - more == {"bytes", "sha256"}
        and is_size(facts["bytes"], low=0, high=MAX_FILE_BYTES)
        and is_sha256(facts["sha256"])
    )
