"""Write the store of format 1 that lies beside this file.

    python tests/compat/v1/write_store.py

It was run once, when format 1 was fixed. Do not run it again: the point of the store is that
its bytes never change, and that every later version opens them.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import polars as pl

from featstore.store.layout import LayoutLimits, SetSpec
from featstore.store.tables import write_thumbnails
from featstore.store.writer import SetWriter

HERE = Path(__file__).parent
ROOT = HERE / "store"
KINDS = ("image", "caption", "class_name", "head_weight")


def rows_of(kind: str) -> np.ndarray:
    """Return the rows of a kind: exact in float16, so that a formula says what must be read."""
    n = {"image": 20, "caption": 6, "class_name": 4, "head_weight": 3}[kind]
    dim = 64 if kind == "image" else 3
    first = np.arange(n, dtype=np.float32)[:, None] / 4
    return first - np.arange(dim, dtype=np.float32)[None] / 8 + KINDS.index(kind)


def items_of(kind: str) -> pl.DataFrame:
    """Return the item table of a kind."""
    n = len(rows_of(kind))
    return pl.DataFrame(
        {
            "item_id": [f"toy/{kind}{i}" for i in range(n)],
            "kind": [kind] * n,
            "class_id": [f"toy/c{i % 3}" for i in range(n)],
            "split": ["train" if i % 4 else "test" for i in range(n)],
        }
    )


def main() -> None:
    """Write every kind of set: sharded, plain, with failures, golden vectors and a bias."""
    shutil.rmtree(ROOT, ignore_errors=True)
    for kind in KINDS:
        head = kind == "head_weight"
        limits = LayoutLimits(8, 0, 1) if kind == "image" else LayoutLimits()
        with SetWriter(
            ROOT,
            SetSpec("toy", kind, "test:toy", {"name": kind}, "float32" if head else "float16"),
            items_of(kind), rows_of(kind).shape[1], facts={"note": "compat"}, limits=limits,
        ) as writer:  # fmt: skip
            for block in writer.pending():
                where = writer.layout.block_slice(block)
                failed = {"toy/caption2": "unreadable"} if kind == "caption" else {}
                writer.write_block(block, rows_of(kind)[where], failed)
            writer.finish(
                bias=np.arange(3.0) if head else None,
                golden=None if head else {"vectors": [[1.0, 0.0, 0.0]]},
            )
    write_thumbnails(ROOT / "toy" / "image", {"toy/image0": b"not really WebP"})


if __name__ == "__main__":
    main()
