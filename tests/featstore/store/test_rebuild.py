"""Repair: what follows from the commit comes back byte for byte; the rest is said, not touched."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from featstore.command_line import EXIT_VERIFY, run_command
from featstore.errors import StoreWriteError, UnknownSetError
from featstore.store import SetKey, rebuild_set, verify_store
from featstore.store.lock import claim_set
from headstock.__main__ import cli

Images = tuple[np.ndarray, pl.DataFrame]


@pytest.fixture
def store(tmp_path: Path, images: Images, make_set: Callable[..., str]) -> tuple[Path, str]:
    root = tmp_path / "store"
    return root, make_set(root, *images, block_rows=5, plain_bytes=0, shard_bytes=1)


def _tree(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def _damage(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def test_what_follows_from_the_commit_comes_back(store: tuple[Path, str]) -> None:
    root, key = store
    before = _tree(root)
    data = f"{key}/embedding/c/0/0"
    _damage(root / data, -1)  # the index checksum
    _damage(root / data, 12 * 6 * 4)  # the padding
    names = ["birds/zarr.json", "birds/image/zarr.json", f"{key}/embedding/zarr.json"]
    for name in names:
        (root / name).unlink()
    (root / "log.json").write_bytes(b"{}")
    (root / "zarr.json").write_bytes(b"{}")
    done = rebuild_set(root, key)
    assert set(done.files) == {data, *names, "log.json", "zarr.json"}
    assert done.left == []
    assert _tree(root) == before


def test_a_truncated_index_comes_back(store: tuple[Path, str]) -> None:
    root, key = store
    before = _tree(root)
    path = root / key / "embedding" / "c" / "0" / "0"
    path.write_bytes(path.read_bytes()[:-7])
    assert rebuild_set(root, key).left == []
    assert _tree(root) == before


def test_lost_rows_are_left_alone_and_the_way_is_named(
    store: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    root, key = store
    _damage(root / key / "embedding" / "c" / "0" / "0", 0)
    before = _tree(root)
    assert run_command(cli, "headstock", ["store", "repair", str(root), key]) == EXIT_VERIFY
    printed = capsys.readouterr().out
    assert "1 of 3 blocks differ from the commit, first rows 0-4" in printed
    assert f"rows 0-4 of {key}/embedding/c/0/0 are damaged" in printed
    assert f"headstock store repair {root} {key} --copy ADDRESS" in printed
    assert f"headstock store repair {root} {key} --manifest MANIFEST" in printed
    assert _tree(root) == before


def test_a_whole_set_is_left_alone(
    store: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    root, key = store
    before = _tree(root)
    assert run_command(cli, "headstock", ["store", "repair", str(root), key, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said.pop("key") == key
    assert not any(said.values())
    assert run_command(cli, "headstock", ["store", "repair", str(root), key]) == 0
    assert "nothing was changed" in capsys.readouterr().out
    assert _tree(root) == before
    assert verify_store(root).ok


def test_a_set_that_is_being_written_is_not_repaired(store: tuple[Path, str]) -> None:
    root, key = store
    _damage(root / key / "embedding" / "c" / "0" / "0", -1)
    claim = claim_set(root / key, SetKey(*key.split("/")))
    with pytest.raises(StoreWriteError, match="is being written by"):
        rebuild_set(root, key)
    claim.release()


def test_an_unknown_set_is_named(store: tuple[Path, str]) -> None:
    with pytest.raises(UnknownSetError, match="holds no set 'birds/image/none'"):
        rebuild_set(store[0], "birds/image/none")
