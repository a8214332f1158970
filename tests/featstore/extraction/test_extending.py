"""Extending a set, copying rows of the same content, and trying failed items again."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import featstore
from featstore import ExtractResult, Manifest
from featstore.errors import EncoderError
from tests.featstore.extraction.conftest import SPACE, MeanColour, expected_row

KEY = "toy/image/mean-colour"


def _extract(manifest: Manifest, store: Path, **changes: Any) -> ExtractResult:
    options = {
        "kind": "image", "encoder": MeanColour(), "space": SPACE, "store": store,
        "batch_size": 2, "block_rows": 4, "dtype": "float32", "decode_timeout": None,
    }  # fmt: skip
    return featstore.extract(manifest, **{**options, **changes})


def _renamed(manifest: Manifest, name: str, *, reverse: bool = False) -> Manifest:
    tables = {kind: t.reverse() if reverse else t for kind, t in manifest.tables.items()}
    return Manifest(name, manifest.root, {**manifest.facts, "name": name}, tables, None)


class Shifted(MeanColour):
    """The same name, another space: every vector is turned."""

    def encode(self, items: list[Any]) -> np.ndarray:
        return np.roll(super().encode(items), 1, axis=1)


def test_a_set_is_extended_and_its_rows_are_not_encoded_again(manifest, store):
    first = _extract(manifest, store, limit=5)
    encoder = MeanColour()
    result = _extract(manifest, store, encoder=encoder)
    assert (result.reused, result.new, result.copied) == (5, 6, 0)
    # One item measures the dimension, four are golden inputs.
    assert sum(encoder.batches) == 6 + 1 + 4
    opened = featstore.open_store(store)
    whole = opened.view(KEY)
    expected = [expected_row(manifest.root / uri) for uri in whole.items["uri"]]
    np.testing.assert_allclose(whole.numpy(), expected, rtol=1e-6)
    assert len(opened.view(KEY, revision=first.revision_id)) == 5


def test_an_encoder_that_changed_under_its_name_cannot_extend(manifest, store):
    _extract(manifest, store, limit=5)
    with pytest.raises(EncoderError, match=r"cosine of .*at least 0.999.*headstock store rm"):
        _extract(manifest, store, encoder=Shifted())
    assert _extract(manifest, store, limit=5).reused == 5


def test_rows_of_the_same_content_are_copied_bit_for_bit(manifest, store):
    _extract(manifest, store)
    encoder = MeanColour()
    result = _extract(_renamed(manifest, "other", reverse=True), store, encoder=encoder)
    assert (result.reused, result.new, result.copied) == (11, 0, 11)
    assert sum(encoder.batches) == 1 + 4
    opened = featstore.open_store(store)
    copied, source = opened.view("other/image/mean"), opened.view(KEY)
    assert copied.items["item_id"].to_list() == source.items["item_id"].to_list()[::-1]
    assert copied.numpy()[::-1].tobytes() == source.numpy().tobytes()


def test_only_what_is_unknown_is_encoded(manifest, store):
    _extract(manifest, store, limit=6)
    # A file that is gone is not missed where its row is known.
    (manifest.root / "images" / "02.png").unlink()
    result = _extract(_renamed(manifest, "other"), store)
    assert (result.copied, result.new, result.failed) == (6, 5, 0)


@pytest.mark.parametrize(
    "changes", [{"dtype": "float16"}, {"space": {"name": "mean-colour", "weights": "2"}}]
)
def test_another_dtype_or_space_is_not_copied_from(manifest, store, changes):
    _extract(manifest, store)
    assert _extract(_renamed(manifest, "other"), store, **changes).copied == 0


def test_a_source_of_other_golden_vectors_is_not_copied_from(manifest, store, caplog):
    _extract(manifest, store)
    with caplog.at_level(logging.WARNING):
        result = _extract(_renamed(manifest, "other"), store, encoder=Shifted())
    assert (result.copied, result.new) == (0, 11)
    assert "computed anew" in caplog.text


def test_a_damaged_source_is_noticed(manifest, store):
    result = _extract(manifest, store)
    data = store / result.key / "embedding" / "c" / "0" / "0"
    data.chmod(0o644)
    data.write_bytes(data.read_bytes()[:-1] + b"\x01")
    with pytest.raises(featstore.errors.CorruptStoreError):
        _extract(_renamed(manifest, "other"), store)
