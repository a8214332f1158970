"""Stores as a stranger would send them: consistent in every hash, and malicious."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featstore.durable import json_bytes
from featstore.identity import canonical_json, sha256_hex
from featstore.store.parquet_guard import column_chunks, footer_start
from featstore.testing import item_table, write_set
from tests.damage import relog


@dataclass(frozen=True)
class Hostile:
    """A small whole store, to be changed."""

    root: Path
    key: str
    reader: subprocess.Popen[str]

    @property
    def directory(self) -> Path:
        return self.root / self.key

    @property
    def commit_path(self) -> Path:
        return next((self.directory / "revisions").glob("*.json"))

    def commit(self) -> Any:
        return json.loads(self.commit_path.read_text())

    def recommit(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Change the commit and make every hash agree again, as its author would."""
        document = self.commit()
        change(document)
        self.commit_path.unlink()
        revision = sha256_hex(canonical_json(document))
        (self.directory / "revisions" / f"{revision}.json").write_bytes(json_bytes(document))
        relog(self.root, sets={self.key: revision})

    def replace_items(self, data: bytes) -> None:
        """Make the set use this item table."""
        name = "items-evil.parquet"
        (self.directory.parent / name).write_bytes(data)
        start = footer_start(len(data), data[-8:])
        try:
            places = [chunk.place for chunk in column_chunks(data[start:], start)]
        except (ValueError, IndexError):
            places = []  # no table: it is refused whatever the hashes of its columns are
        hashes = [sha256_hex(data[place]) for place in (*places, slice(start, None))]
        facts = {"file": name, "bytes": len(data), "sha256": sha256_hex(data), "chunks": hashes}
        self.recommit(lambda document: document["parts"][0].update(items=facts))

    def add_thumbnails(self, *files: bytes) -> None:
        """List these files as the thumbnails of the kind."""
        paths = [f"birds/image/thumbnails-{sha256_hex(data)[:8]}.parquet" for data in files]
        for path, data in zip(paths, files, strict=True):
            (self.root / path).write_bytes(data)
        relog(self.root, thumbnails=sorted(paths))

    def answer(self, tmp_path: Path) -> list[str]:
        """Return what a process of little memory says: of reading, and of verifying."""
        assert self.reader.stdin is not None
        assert self.reader.stdout is not None
        request = {"root": str(self.root), "key": self.key, "folder": str(tmp_path)}
        self.reader.stdin.write(json.dumps(request) + "\n")
        self.reader.stdin.flush()
        done = json.loads(self.reader.stdout.readline())
        assert done["code"] == 0, done["text"][-2000:]
        return list(done["text"].splitlines())


@pytest.fixture(scope="module")
def reader():
    """What starts a process a store; see `reader`."""
    root = Path(__file__).parents[3]
    with subprocess.Popen(
        [sys.executable, "-m", "tests.featstore.hostile.reader"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root,
        env={"POLARS_MAX_THREADS": "1", "PYTHONPATH": str(root), "OPENBLAS_NUM_THREADS": "1"},
    ) as found:  # fmt: skip
        yield found
        assert found.stdin is not None
        found.stdin.close()


@pytest.fixture
def hostile(tmp_path, reader):
    rows = np.random.default_rng(2).standard_normal((40, 4)).astype(np.float32)
    items = item_table([f"b/{i:02d}" for i in range(40)])
    key = write_set(tmp_path / "store", rows, items, block_rows=16, plain_bytes=0, shard_bytes=1)
    return Hostile(tmp_path / "store", key, reader)
