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

from featstore.keys import canonical_json, sha256_hex
from featstore.store.files import json_bytes
from tests.featstore.store.conftest import item_table, write_set

#: What the process that opens a hostile store may add to its address space.
MEMORY_BYTES = 512 * 2**20

READER = """
import resource, sys
from pathlib import Path
import polars, numpy  # their thread pools are made before the limit
from featstore.errors import FeatstoreError
from featstore.store.store import open_store
from featstore.store.verify import verify_store
polars.DataFrame({"a": [1]}).write_parquet("warm.parquet")
polars.read_parquet("warm.parquet")
free = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (free + MEMORY_BYTES,) * 2)
seen = []
def audit(event, arguments):
    if event in ("pickle.find_class", "os.system", "subprocess.Popen", "socket.connect"):
        seen.append(event)
sys.addaudithook(audit)
def attempt(what):
    try:
        what()
    except FeatstoreError as err:
        print(type(err).__name__, str(err)[:500])
    else:
        print("served")
store = None
def view():
    global store
    store = open_store(sys.argv[1])
    store.view(sys.argv[2]).items
    store.view(sys.argv[2]).numpy()
    store.failures(sys.argv[2])
    store.thumbnails("birds")
attempt(view)
def verify():
    print("verify", len(verify_store(Path(sys.argv[1])).problems))
attempt(verify)
assert not seen, seen
""".replace("MEMORY_BYTES", str(MEMORY_BYTES))


@dataclass(frozen=True)
class Hostile:
    """A small whole store, to be changed."""

    root: Path
    key: str

    @property
    def directory(self) -> Path:
        return self.root / self.key

    @property
    def commit_path(self) -> Path:
        return next((self.directory / "revisions").glob("*.json"))

    def commit(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.commit_path.read_text())
        return document

    def recommit(self, change: Callable[[dict[str, Any]], None], *, raw: str | None = None) -> None:
        """Change the commit and make every hash agree again, as its author would."""
        document = self.commit()
        change(document)
        self.commit_path.unlink()
        revision = sha256_hex(canonical_json(document))
        data = json_bytes(document) if raw is None else raw.encode()
        (self.directory / "revisions" / f"{revision}.json").write_bytes(data)
        pointer = json.loads((self.directory / "zarr.json").read_text())
        pointer["attributes"]["featstore"]["revision"] = revision
        (self.directory / "zarr.json").write_bytes(json_bytes(pointer))

    def replace_items(self, data: bytes, *, name: str = "items-evil.parquet") -> None:
        """Make the set use this item table."""
        (self.directory.parent / name).write_bytes(data)
        facts = {"file": name, "bytes": len(data), "sha256": sha256_hex(data)}
        self.recommit(lambda document: document.update(items=facts))

    def replace_array(self, document: Any) -> None:
        """Make the set's array metadata this document."""
        data = document if isinstance(document, bytes) else json_bytes(document)
        (self.directory / "embedding" / "zarr.json").write_bytes(data)
        facts = {"bytes": len(data), "sha256": sha256_hex(data)}
        self.recommit(lambda found: found["metadata"].update({"embedding/zarr.json": facts}))

    def answer(self, tmp_path: Path) -> list[str]:
        """Return what a process of little memory says: of reading, and of verifying."""
        done = subprocess.run(
            [sys.executable, "-c", READER, str(self.root), self.key],
            capture_output=True, text=True, cwd=tmp_path, timeout=100, check=False,
            env={"POLARS_MAX_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[3]),
                 "OPENBLAS_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout.splitlines()


@pytest.fixture
def hostile(tmp_path: Path) -> Hostile:
    rows = np.random.default_rng(2).standard_normal((40, 4)).astype(np.float32)
    items = item_table([{"item_id": f"b/{i:02d}", "kind": "image"} for i in range(40)])
    key = write_set(tmp_path / "store", rows, items, block_rows=16, plain_bytes=0)
    return Hostile(tmp_path / "store", key)
