"""Texts are sorted by length in their block, whatever else is encoded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import featstore
from featstore import EncoderSpec, ExtractConfig, Manifest
from featstore.extraction.job import run_job
from featstore.extraction.options import ExtractResult
from featstore.extraction.targets import Job
from featstore.testing import toy_manifest
from tests.damage import flip, lasting
from tests.featstore.extraction.conftest import DATA, Bare, Stop, stop_after

#: 10 blocks of 4 texts, the last of 1.
TEXTS, BLOCK_ROWS, BATCH = 37, 4, 3


class Slots(Bare):
    """A text encoder whose rows say with which others they were encoded, and where."""

    kinds, dim, batch_size = frozenset({"caption"}), 3, BATCH

    def length(self, prepared: str) -> int:
        return len(prepared)

    def is_truncated(self, item: str) -> bool:
        return len(item) > 6

    def encode(self, batch: Any) -> np.ndarray:
        together = sum(int(re.search(r"\d*$", text)[0] or 0) for text in batch)
        return np.array([[slot, len(batch), together] for slot in range(len(batch))], np.float32)


@pytest.fixture
def captions(tmp_path):
    rng = np.random.default_rng(4)
    manifest = toy_manifest(tmp_path / "captions", TEXTS, captions=True, seed=4)
    texts = ["b" * int(rng.integers(0, 9)) + f" {row}" for row in range(TEXTS)]
    manifest.tables["caption"] = manifest.tables["caption"].with_columns(text=np.array(texts))
    return manifest


def run(manifest: Manifest, store: Path, **changes: Any) -> ExtractResult:
    options: dict[str, Any] = {"batch_size": BATCH, "block_rows": BLOCK_ROWS, "dtype": "float32"}
    choices = [EncoderSpec(Slots(), space=Slots.space)]
    job = Job(manifest, "caption", choices, store, ExtractConfig(**{**options, **changes}))
    job.open([Slots()])
    return run_job(job)[0]


def rows_of(store: Path, done: ExtractResult) -> np.ndarray:
    return featstore.open_store(store).view(done.key).numpy()


def expected_rows(texts: list[str]) -> np.ndarray:
    """Sort and cut with loops."""
    rows = np.zeros((len(texts), 3), np.float32)
    for start in range(0, len(texts), BLOCK_ROWS):
        here = range(start, min(start + BLOCK_ROWS, len(texts)))
        order = sorted(here, key=lambda row: (len(texts[row]), row))
        while order:
            batch, order = order[:BATCH], order[BATCH:]
            for slot, row in enumerate(batch):
                rows[row] = slot, len(batch), sum(batch)
    return rows


def test_blocks_are_sorted_and_rows_land_where_their_items_are(captions, store):
    counted: list[Any] = []
    done = run(captions, store, on_progress=counted.append)
    texts = captions.tables["caption"]["text"].to_list()
    np.testing.assert_array_equal(rows_of(store, done), expected_rows(texts))
    ids = captions.tables["caption"]["item_id"].to_list()
    cut = [item for item, text in zip(ids, texts, strict=True) if len(text) > 6]
    assert done.truncated_items == cut
    assert done.truncated == len(cut) > 0
    assert counted[-1].rows_done == TEXTS


def test_a_job_stopped_after_any_block_ends_with_the_same_bytes(captions, store):
    run(captions, store)
    whole = lasting(store)
    for blocks in range(1, 10):
        again = store.with_name(f"again{blocks}")
        with pytest.raises(Stop):
            run(captions, again, on_block=stop_after(blocks))
        assert run(captions, again).new == TEXTS - blocks * BLOCK_ROWS
        assert lasting(again) == whole


def test_a_repair_sorts_as_the_run_did(captions, store):
    done = run(captions, store)
    before = lasting(store)
    flip(store / done.key / DATA, (2 * BLOCK_ROWS + 1) * 12)
    assert run(captions, store, repair=True).new == BLOCK_ROWS
    assert lasting(store) == before


def test_an_extended_set_is_the_same_after_a_stop(captions, store):
    first = rows_of(store, run(captions, store, limit=10))  # two blocks and a half
    other = store.with_name("other")
    run(captions, other, limit=10)
    done = run(captions, store)
    assert done.new == TEXTS - 10
    np.testing.assert_array_equal(rows_of(store, done)[:10], first)
    with pytest.raises(Stop):
        run(captions, other, on_block=stop_after(1))
    run(captions, other)
    assert lasting(other) == lasting(store)
