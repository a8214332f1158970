"""The rows that the store's figures are measured on, as a set and as a plain file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from featstore import open_store
from featstore.store.gc import make_store
from featstore.store.layout import SetSpec
from featstore.store.rows import Verify
from featstore.store.view import Selection
from featstore.store.writer import SetWriter

N, DIM, BLOCK = 1_000_000, 768, 4096


@dataclass(frozen=True)
class Sample:
    """A set of N × DIM float16 and the same rows in ``plain.bin``, below `root`.

    `block` is the float32 block of rows that both repeat; every copy lies at its own place in
    memory and on the disk.
    """

    root: Path
    key: str
    items: pl.DataFrame
    block: np.ndarray

    @property
    def store(self) -> Path:
        """Folder of the store."""
        return self.root / "store"

    @property
    def plain_path(self) -> Path:
        """The plain file."""
        return self.root / "plain.bin"

    @property
    def array(self) -> Path:
        """Zarr array of the set."""
        return self.store / self.key / "embedding"

    def plain(self) -> np.ndarray:
        """Map the plain file."""
        return np.memmap(self.plain_path, dtype=np.float16, mode="r", shape=(N, DIM))

    def view(self, verify: Verify = "never") -> Selection:
        """Open the set; its rows are handed out as they are stored."""
        return open_store(self.store, verify=verify).view(self.key).astype(np.float16)


def make_sample(root: Path) -> Sample:
    """Write the set, hashed by blake3, and the plain file."""
    block = np.random.default_rng(0).standard_normal((BLOCK, DIM)).astype(np.float32)
    items = pl.DataFrame({"item_id": [f"i/{i}" for i in range(N)], "kind": ["image"] * N})
    items = items.with_columns(pl.lit(None, pl.String).alias("split"))
    half = block.astype(np.float16)
    make_store(root / "store", hash_name="blake3")
    key = write_set(root / "store", items, half)
    write_plain(root / "plain.bin", half)
    return Sample(root, key, items, block)


def write_set(store: Path, items: pl.DataFrame, block: np.ndarray, name: str = "timm:toy") -> str:
    """Write the rows as a set and return its key."""
    with SetWriter(
        store, SetSpec("d", "image", name, {"name": name}, "float16"), items, block.shape[1],
    ) as writer:  # fmt: skip
        for number in writer.pending():
            where = writer.layout.block_slice(number)
            writer.write_block(number, block[: where.stop - where.start])
        writer.finish()
    return str(writer.key)


def write_plain(path: Path, block: np.ndarray, tail: bytes = b"") -> None:
    """Write the rows one after the other, then `tail`, and make them durable."""
    with path.open("wb", buffering=0) as file:
        for start in range(0, N, BLOCK):
            file.write(block[: min(BLOCK, N - start)].data)
        file.write(tail)
        os.fsync(file.fileno())
