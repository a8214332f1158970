"""The plan says what an extraction then does, and touches nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import featstore
from featstore import EncoderSpec, ExtractConfig, Manifest
from featstore.extraction.job import open_job
from featstore.extraction.plan import JobPlan, plan_job
from featstore.extraction.progress import BlockDone
from tests.featstore.extraction.conftest import SPACE, MeanColour

OPTIONS: dict[str, Any] = {
    "batch_size": 2, "block_rows": 4, "dtype": "float32", "decode_timeout": None,
}  # fmt: skip


def _plan(manifest: Manifest, store: Path, *, measure: bool = False, **changes: Any) -> JobPlan:
    job = open_job(
        manifest,
        kind="image",
        encoders=[EncoderSpec(MeanColour(), space=SPACE)],
        store=store,
        config=ExtractConfig(**{**OPTIONS, **changes}),
    )
    return plan_job(job, measure=measure)


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


def _state(plan: JobPlan) -> tuple[str, int, int, int, int]:
    state = plan.sets[0].state
    assert state is not None
    return state.state, state.reused, state.staged, state.known, state.new


def _data_bytes(store: Path, key: str) -> int:
    return sum(
        path.stat().st_size
        for path in (store / key / "embedding" / "c").rglob("0")
        if path.is_file()
    )


def test_a_new_set(manifest: Manifest, store: Path) -> None:
    plan = _plan(manifest, store)
    assert _state(plan) == ("missing", 0, 0, 0, 11)
    assert plan.seconds is None
    assert "--measure" in plan.sets[0].basis
    assert not store.exists()
    result = _extract(manifest, store)
    assert plan.sets[0].key == result.key
    assert plan.write_bytes == _data_bytes(store, result.key)


def test_measuring_tells_the_time(manifest: Manifest, store: Path) -> None:
    seconds = _plan(manifest, store, measure=True).seconds
    assert seconds is not None
    assert 0 < seconds < 60
    assert not store.exists()


def test_every_state_is_told_and_nothing_touched(manifest: Manifest, store: Path) -> None:
    class Stop(Exception):
        pass

    def stop(event: BlockDone) -> None:
        if event.rows_done >= 8:
            raise Stop

    with pytest.raises(Stop):
        _extract(manifest, store, on_block=stop)
    before = _tree(store)
    plan = _plan(manifest, store)
    assert _state(plan) == ("unfinished", 0, 8, 0, 3)
    assert plan.write_bytes == 3 * 4 * 4
    result = _extract(manifest, store)
    assert (result.reused, result.new) == (8, 3)

    before = _tree(store)
    assert _state(_plan(manifest, store)) == ("finished", 11, 0, 0, 0)
    other = Manifest("other", manifest.root, {"name": "other"}, manifest.tables, None)
    assert _state(_plan(other, store)) == ("missing", 0, 0, 11, 0)
    refused = _plan(manifest, store, limit=5)
    assert refused.sets[0].state is None
    assert "cannot be extended" in refused.errors[0]
    # An earlier run of the encoder says how long an item takes.
    views = _plan(manifest, store, views=2)
    assert views.seconds is not None
    assert views.seconds > 0
    assert "the run of 2" in views.sets[0].basis
    assert _tree(store) == before


def test_extension_and_retry(manifest: Manifest, store: Path) -> None:
    (manifest.root / "images" / "02.png").unlink()
    _extract(manifest, store, limit=5)
    before = _tree(store)
    assert _state(_plan(manifest, store)) == ("extension", 5, 0, 0, 6)
    assert _state(_plan(manifest, store, limit=5, retry_failed=True)) == ("retry", 4, 0, 0, 1)
    assert _tree(store) == before


def test_a_full_disk_is_told_beforehand(
    manifest: Manifest, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    class Usage:
        free = 10

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage)
    assert "are free" in _plan(manifest, store).errors[0]
    with pytest.raises(featstore.errors.StoreWriteError, match="Free space"):
        _extract(manifest, store)
    assert not store.exists()
