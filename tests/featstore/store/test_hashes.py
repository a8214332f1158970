"""The hash of a store's blocks: chosen when it is made, named by each commit, the same for ever."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from featstore import copy_sets, open_store
from featstore.store import verify_store
from featstore.testing import item_table, write_set
from tests.typed import headstock

blake3 = pytest.importorskip("blake3", reason="needs blake3, of the extra `blake3`")

LIMITS = {"block_rows": 4, "plain_bytes": 0, "shard_bytes": 1}
KEY = "birds/image/timm:toy"
HASHES: dict[str, Callable[[bytes], str]] = {
    "sha256": lambda data: hashlib.sha256(data).hexdigest(),
    "blake3": lambda data: blake3.blake3(data).hexdigest(),
}


def rows(n: int) -> np.ndarray:
    return np.arange(4096.0 * n, dtype=np.float32).reshape(n, 4096)


def items(n: int) -> list[str]:
    return [f"birds/{i}" for i in range(n)]


def write(root: Path, n: int) -> None:
    write_set(root, rows(n), item_table(items(n)), failures={"birds/2": "broken"}, **LIMITS)


@pytest.fixture(params=HASHES)
def made(request, tmp_path):
    """The name of a hash, and a store that has it, with a set in two revisions."""
    root = tmp_path / "store"
    assert headstock("store", "init", root, "--hash", request.param) == 0
    for n in (6, 11):
        write(root, n)
    return request.param, root


def test_commits_name_the_hash_of_their_blocks(made):
    name, root = made
    assert open_store(root).log.hash == name
    stored = rows(11)
    stored[2] = np.nan
    first, last = open_store(root).revisions(KEY)
    assert first.commit.blocks == last.commit.blocks  # they lie in one
    n, commit = last.commit.n, last.commit
    assert json.loads((last.key.directory(root) / "revisions" / f"{commit.digest}.json")
                      .read_text())["hash"] == name  # fmt: skip
    starts = [0, *(part.start for part in commit.layout.parts[1:]), n]
    blocks = [stored[at : min(at + 4, stop)] for start, stop in itertools.pairwise(starts)
              for at in range(start, stop, 4)]  # fmt: skip
    assert commit.blocks == tuple(HASHES[name](block.tobytes()) for block in blocks)
    # Ids and small files have sha256 whatever the blocks have.
    for items in (part.items for part in commit.parts):
        table = (root / "birds" / "image" / items["file"]).read_bytes()
        assert items["sha256"] == hashlib.sha256(table).hexdigest()
    assert verify_store(root).problems == []


def test_a_set_keeps_its_hash_in_a_store_that_has_another(made, tmp_path):
    name, root = made
    other = next(hash_name for hash_name in HASHES if hash_name != name)
    target = tmp_path / "other"
    assert headstock("store", "init", target, "--hash", other) == 0
    assert not copy_sets(root, target).failed
    write(target, 14)
    write_set(target, rows(2), item_table(items(2)), dataset="more")
    hashes = {info.key.dataset: info.commit.hash for info in open_store(target).sets()}
    assert hashes == {"birds": name, "more": other}
    assert verify_store(target).problems == []
    assert not copy_sets(target, root).failed
    assert verify_store(root).problems == []
