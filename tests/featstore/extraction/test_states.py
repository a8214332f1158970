"""What a job lacks is told before it runs, and nothing is touched."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import featstore
from featstore import EncoderSpec, ExtractConfig, Manifest
from featstore.extraction.progress import BlockDone
from featstore.extraction.targets import Job, SetState
from tests.featstore.extraction.conftest import SPACE, MeanColour

OPTIONS: dict[str, Any] = {
    "batch_size": 2, "block_rows": 4, "dtype": "float32", "decode_timeout": None,
}  # fmt: skip


def _state(manifest: Manifest, store: Path, **changes: Any) -> SetState:
    choice = EncoderSpec(MeanColour(), space=SPACE)
    job = Job(manifest, "image", [choice], store, ExtractConfig(**{**OPTIONS, **changes}))
    (target,) = job.open().targets
    return target.state(target.known_rows(None))


def _counts(manifest: Manifest, store: Path, **changes: Any) -> tuple[str, int, int, int, int]:
    state = _state(manifest, store, **changes)
    return state.state, state.reused, state.staged, state.known, state.new


def _extract(manifest: Manifest, store: Path, **changes: Any) -> featstore.extraction.ExtractResult:
    return featstore.extract(
        manifest,
        kind="image",
        encoder=MeanColour(),
        space=SPACE,
        store=store,
        **{**OPTIONS, **changes},
    )


def _tree(root: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in [root, *root.rglob("*")]
    }


def test_every_state_is_told_and_nothing_touched(manifest, store):
    class Stop(Exception):
        pass

    def stop(event: BlockDone) -> None:
        if event.rows_done >= 8:
            raise Stop

    assert _counts(manifest, store) == ("missing", 0, 0, 0, 11)
    written = _state(manifest, store).write_bytes
    assert not store.exists()
    with pytest.raises(Stop):
        _extract(manifest, store, on_block=stop)
    assert _counts(manifest, store) == ("unfinished", 0, 8, 0, 3)
    assert _state(manifest, store).write_bytes == 3 * 4 * 4
    result = _extract(manifest, store)
    assert (result.reused, result.new) == (8, 3)
    assert _state(manifest, store).key == result.key
    data = (store / result.key / "embedding" / "c").rglob("0")
    assert written == sum(path.stat().st_size for path in data if path.is_file())

    before = _tree(store)
    assert _counts(manifest, store) == ("finished", 11, 0, 0, 0)
    other = Manifest("other", manifest.root, {"name": "other"}, manifest.tables, None)
    assert _counts(other, store) == ("missing", 0, 0, 11, 0)
    with pytest.raises(featstore.errors.StoreWriteError, match="cannot be extended"):
        _state(manifest, store, limit=5)
    assert _tree(store) == before


def test_extension_and_retry(manifest, store):
    (manifest.root / "images" / "02.png").unlink()
    _extract(manifest, store, limit=5)
    before = _tree(store)
    assert _counts(manifest, store) == ("extension", 5, 0, 0, 6)
    assert _counts(manifest, store, limit=5, retry_failed=True) == ("retry", 4, 0, 0, 1)
    assert _tree(store) == before


def test_a_full_disk_is_told_beforehand(manifest, store, monkeypatch):
    class Usage:
        free = 10

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage)
    with pytest.raises(featstore.errors.StoreWriteError, match="Free space"):
        _extract(manifest, store)
    assert not store.exists()
