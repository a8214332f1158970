"""The store of format 1 opens for ever, with exactly these bytes."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from featstore import open_store
from featstore.errors import FormatVersionError
from featstore.store.verify import verify_store
from tests.assertions import assert_same
from tests.compat.v1.write_store import KINDS, ROOT, items_of, rows_of

#: sha256 of the list of files and their hashes. If this fails, the store was changed: put it back.
DIGEST = "6281f526af105973cb9b46a1de56c201e7296da039c5bc52749ab6ebd1189833"


def test_nobody_changed_the_store() -> None:
    names = sorted(str(path.relative_to(ROOT)) for path in ROOT.rglob("*") if path.is_file())
    lines = [
        f"{hashlib.sha256((ROOT / name).read_bytes()).hexdigest()}  ./{name}\n" for name in names
    ]
    assert hashlib.sha256("".join(lines).encode()).hexdigest() == DIGEST


def test_it_verifies() -> None:
    report = verify_store(ROOT)
    assert report.problems == []
    assert report.n_sets == len(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_it_reads_as_it_was_written(kind: str) -> None:
    view = open_store(ROOT).view(f"toy/{kind}/test:toy")
    keep = [i for i in range(len(rows_of(kind))) if (kind, i) != ("caption", 2)]
    dtype = np.float32 if kind == "head_weight" else np.float16
    assert_same(view.numpy(dtype), rows_of(kind)[keep].astype(dtype))
    assert view.items.equals(items_of(kind)[keep])
    if kind == "head_weight":
        assert view.bias is not None
        assert view.bias.tolist() == [0, 1, 2]


def test_failures_and_thumbnails() -> None:
    store = open_store(ROOT)
    assert store.failures("toy/caption/test:toy").rows() == [("toy/caption2", "unreadable")]
    assert store.thumbnails("toy") == {"toy/image0": b"not really WebP"}


@pytest.mark.parametrize("where", ["zarr.json", "set", "commit"])
def test_a_newer_format_says_what_to_upgrade_to(tmp_path: Path, where: str) -> None:
    root = tmp_path / "store"
    shutil.copytree(ROOT, root)
    folder = next((root / "toy" / "image").glob("test.toy-*"))
    path = {
        "zarr.json": root / "zarr.json",
        "set": folder / "zarr.json",
        "commit": next((folder / "revisions").glob("*.json")),
    }[where]
    document = json.loads(path.read_text())
    target = document if where == "commit" else document["attributes"]["featstore"]
    target["format"] = 2
    path.write_text(json.dumps(document))
    with pytest.raises(
        FormatVersionError, match=r"format 2; .* to format 1\. Upgrade headstock to .* format 2"
    ):
        open_store(root).view("toy/image/test:toy")
