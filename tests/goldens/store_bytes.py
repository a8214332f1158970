"""The bytes of a store: sha256 of every file that the writer makes of fixed inputs.

What holds a date or a machine (``runs/``) is left out. The bytes of a Parquet file are those of one
version of polars, so every hash is kept twice: as it is, and with everything that follows from the
bytes of Parquet files taken out; of the tables themselves their content is hashed.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from featstore.identity import canonical_json, sha256_hex
from featstore.share import make_tag
from featstore.store.gc import make_store
from featstore.store.tables import write_thumbnails
from tests.goldens.world import item_table, write_set

#: Sharded arrays of several files, so that an extension leaves some as they are.
SHARDS = {"block_rows": 2, "plain_bytes": 0, "shard_bytes": 1}


def _rows(n: int, dim: int, step: float) -> np.ndarray:
    """Return rows, (n, dim); with a step that no binary fraction is, storing them rounds."""
    return ((np.arange(n * dim).reshape(n, dim) * 7 % 97 - 48) * step).astype(np.float32)


def _items(kind: str, n: int) -> pl.DataFrame:
    return item_table(
        kind, [f"bytes/{kind}{i:02d}" for i in range(n)],
        class_id=[f"bytes/c{i % 3}" for i in range(n)], text=[f"thing {i}" for i in range(n)],
        split=["train" if i % 4 else "test" for i in range(n)],
    )  # fmt: skip


def write_store(root: Path) -> None:
    """Write every kind of set and every dtype of rows, with all that a set may have."""
    make_store(root)
    broken = {"bytes/image03": "cannot be decoded", "bytes/image08": "cannot be decoded"}
    golden = {"vectors": [[0.5, -1.25, 3.0]]}
    for n in (7, 11):  # the second extends the first
        write_set(
            root, "bytes", "image", _rows(n, 8192, 0.3), _items("image", n), space="vision",
            dtype="float16", failures=broken, golden=golden, **SHARDS,
        )  # fmt: skip
    write_thumbnails(root / "bytes" / "image", {"bytes/image00": b"not really WebP"})
    make_tag(root, "v1")
    said = {"bytes/caption02": "is empty"}
    for name, dtype in (("caption", "bfloat16"), ("class_name", "float32")):
        write_set(
            root, "bytes", name, _rows(6, 5, 0.3), _items(name, 6), space="language", dtype=dtype,
            failures=said if name == "caption" else None, block_rows=4, golden=golden,
        )  # fmt: skip
    for dtype in ("float64", "int8", "uint8"):
        rows = np.abs(_rows(5, 4, 1.0)) if dtype == "uint8" else _rows(5, 4, 1.0)
        write_set(
            root, "bytes", "class_name", rows, _items("class_name", 5), space=dtype, dtype=dtype
        )
    write_set(
        root, "bytes", "head_weight", _rows(3, 6, 0.125), _items("head_weight", 3), space="vision",
        bias=np.arange(3, dtype=np.float32) / 8,
    )  # fmt: skip
    make_tag(root, "v2")


def store_bytes(folder: Path) -> dict[str, Any]:
    """Return the version of polars, path -> sha256, and path -> sha256 without Parquet."""
    write_store(folder)
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    files = {name: (folder / name).read_bytes() for name in names if "runs" not in name.split("/")}
    stable = _without_parquet(files)
    return {
        "polars": pl.__version__,
        **{f"as it is: {name}": sha256_hex(data) for name, data in files.items()},
        **{f"without Parquet: {name}": value for name, value in stable.items()},
    }


def _without_parquet(files: dict[str, bytes]) -> dict[str, str]:
    """Return path -> sha256, where nothing depends on how polars packs a table."""
    words: dict[str, str] = {}
    for name, data in files.items():
        if name.endswith(".parquet"):
            table = sha256_hex(canonical_json(_table(data)))
            digest = sha256_hex(data)
            words[digest], words[digest[:8]] = f"table {table}", f"table-{table[:8]}"
    # A commit names its tables and those before it, so that its own hash follows from theirs.
    commits = {name: json.loads(data) for name, data in files.items() if "/revisions/" in name}
    for name in sorted(commits, key=lambda name: (commits[name]["sequence"], name)):
        # Of earlier revisions nothing is left but what the commit says of them.
        for number, (revision, *_) in enumerate(commits[name]["history"]):
            words.setdefault(revision, f"revision-{number}-{Path(name).parts[1]}")
        content = sha256_hex(canonical_json(_replaced(commits[name], words)))
        words[Path(name).stem] = f"commit-{content}"
    # So do the digests of tags, which end their names, and that of the log, which lists theirs.
    for name in sorted(files, key=lambda name: (name == "log.json", name)):
        document = json.loads(files[name]) if name.endswith(".json") else {}
        if isinstance(document, dict) and "digest" in document:
            digest = document.pop("digest")
            content = sha256_hex(canonical_json(_replaced(document, words)))
            words[digest], words[digest[:8]] = f"digest-{content}", content[:8]
    found = {}
    for name, data in files.items():
        if name.endswith(".parquet"):
            value = words[sha256_hex(data)]
        elif name.endswith(".json"):
            value = sha256_hex(canonical_json(_replaced(json.loads(data), words)))
        else:
            value = sha256_hex(data)
        found[_reworded(name, words)] = value
    return found


def _table(data: bytes) -> dict[str, Any]:
    """Return a table as plain values: names and types of the columns, and the rows."""
    table = pl.read_parquet(data)
    types = {name: str(dtype) for name, dtype in table.schema.items()}
    plain = table.with_columns(pl.col(pl.Binary).bin.encode("hex")) if "Binary" in types.values() \
        else table  # fmt: skip
    return {"types": types, "rows": [list(row) for row in plain.iter_rows()]}


def _replaced(value: Any, words: dict[str, str]) -> Any:
    """Return a JSON value with every word replaced, and the sizes of tables taken out."""
    if isinstance(value, dict):
        sized = value.get("sha256") in words
        return {
            _reworded(key, words): 0 if sized and key == "bytes" else _replaced(part, words)
            for key, part in value.items()
        }
    if isinstance(value, list):
        return [_replaced(part, words) for part in value]
    return _reworded(value, words) if isinstance(value, str) else value


def _reworded(text: str, words: dict[str, str]) -> str:
    return re.sub(r"[0-9a-f]{64}|[0-9a-f]{8}", lambda m: words.get(m[0], m[0]), text)
