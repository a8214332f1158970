"""The job: right rows, resume, reuse, extension, failures, and no half-written store."""

from __future__ import annotations

import shutil
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

import featstore
from featstore import EncoderSpec, ExtractConfig, Manifest, write_manifest
from featstore.errors import (
    CorruptStoreError,
    EncoderError,
    IncompleteEmbeddingsError,
    ManifestError,
    StoreWriteError,
    TooManyFailuresError,
    UnknownEncoderError,
)
from featstore.extraction.engines import settle
from featstore.extraction.targets import Job
from featstore.store import read_thumbnails
from tests.damage import lasting, leave_staged, tree
from tests.featstore.extraction.conftest import (
    DATA,
    SPACE,
    MeanColour,
    Stop,
    expected_row,
    extract_toy,
    stop_after,
)


def test_rows_are_what_the_files_say(manifest, store):
    done: list[int] = []
    result = extract_toy(manifest, store, on_block=done.append)
    assert (result.reused, result.new, result.failed) == (0, 11, 0)
    assert done == [0, 1, 2]
    view = featstore.open_store(store).view(result.key)
    uris = view.items["uri"].to_list()
    expected = [expected_row(manifest.root / uri) for uri in uris]
    np.testing.assert_allclose(view.numpy(), expected, rtol=1e-6)
    assert uris == manifest.tables["image"]["uri"].to_list()


def test_asking_whether_a_set_is_finished_writes_nothing_and_the_same_command_tidies(
    manifest, store
):
    """A writer that was killed behind the log left its staging folder, and no Zarr metadata."""
    key = extract_toy(manifest, store).key
    whole = tree(store)
    leave_staged(store)
    (store / key / "embedding" / "zarr.json").unlink()
    left = tree(store)
    encoder = EncoderSpec(MeanColour(), space=SPACE)
    config = ExtractConfig(dtype="float32", block_rows=4, batch_size=2, decode_timeout=None)
    job = Job(manifest, "image", [encoder], store, config).open()
    assert [target.finished().reused for target in job.targets] == [11]
    assert settle(job)[0] == {}
    assert tree(store) == left
    assert extract_toy(manifest, store).new == 0
    assert tree(store) == whole


def test_an_interrupted_job_ends_with_the_same_bytes(manifest, store):
    whole = store.with_name("whole")
    extract_toy(manifest, whole, thumbnails=True)
    with pytest.raises(Stop):
        extract_toy(manifest, store, on_block=stop_after(2), thumbnails=True)
    with pytest.raises(IncompleteEmbeddingsError, match="has not finished"):
        featstore.open_store(store).view("toy/image/mean-colour")
    encoder = MeanColour()
    result = extract_toy(manifest, store, encoder=encoder, thumbnails=True)
    assert (result.reused, result.new) == (8, 3)
    # One call measures the dimension, two encode the last block, one the golden inputs.
    assert sum(encoder.batches) < 11
    assert lasting(store) == lasting(whole)


def test_fewer_items_are_extracted_after_an_attempt_at_more(manifest, store):
    with pytest.raises(Stop):
        extract_toy(manifest, store, on_block=stop_after(2))
    assert extract_toy(manifest, store, limit=4).new == 4
    assert extract_toy(manifest, store).new == 7
    whole = store.with_name("whole")
    extract_toy(manifest, whole, limit=4)
    extract_toy(manifest, whole)
    assert lasting(store) == lasting(whole)


def _corrupt(manifest: Manifest, *names: str) -> Manifest:
    """Damage files and build the manifest of what is there now."""
    for name in names:
        path = manifest.root / "images" / name
        path.write_bytes(path.read_bytes()[:40])
    tables = {kind: table.drop("content_sha256") for kind, table in manifest.tables.items()}
    return write_manifest(manifest.root, facts={"name": "toy", "revision": "1"}, tables=tables)


def test_a_bad_image_costs_one_row_and_changes_no_other(manifest, store):
    extract_toy(manifest, store.with_name("w"))
    intact = featstore.open_store(store.with_name("w")).view("toy/image/mean-colour")
    damaged = _corrupt(manifest, "05.png")
    result = extract_toy(damaged, store)
    assert (result.new, result.failed) == (10, 1)
    assert list(result.failures) == ["toy/05"]
    opened = featstore.open_store(store)
    view = opened.view("toy/image/mean-colour")
    keep = [i for i in range(11) if i != 5]
    assert view.items["item_id"].to_list() == [f"toy/{i:02d}" for i in keep]
    assert view.numpy().tobytes() == intact.take(keep).numpy().tobytes()
    ((item, reason),) = opened.failures("toy/image/mean-colour").rows()
    assert item == "toy/05"
    assert reason
    again = extract_toy(damaged, store)
    assert (again.reused, again.new, again.failed) == (10, 0, 1)


def test_too_many_failures_stop_the_job(manifest, store):
    damaged = _corrupt(manifest, "00.png", "05.png", "06.png")
    with pytest.raises(TooManyFailuresError, match=r"2 of 11 items.*at most 1 may.*max_failures="):
        extract_toy(damaged, store, max_failures=1)
    assert featstore.open_store(store).sets() == []
    assert extract_toy(damaged, store, max_failures=3).failed == 3


def test_tiff_is_decoded_when_asked_for(manifest, store):
    folder = manifest.root / "images"
    with Image.open(folder / "02.png") as image:
        image.save(folder / "02.tif", compression="tiff_lzw")
    items = manifest.tables["image"].with_columns(
        uri=pl.col("uri").str.replace("02.png", "02.tif", literal=True),
        content_sha256=pl.lit(None, dtype=pl.String),
    )
    changed = Manifest("toy", manifest.root, {"name": "toy"}, {"image": items}, None)
    options = {"decode_timeout": 60.0, "thumbnails": True}
    refused = extract_toy(changed, store, **options)
    assert "TIFF is decoded when asked for (-s tiff)" in refused.failures["toy/02"]
    retried = extract_toy(changed, store, **options, tiff=True, retry_failed=True)
    assert (retried.new, retried.failed) == (1, 0)
    view = featstore.open_store(store).view(retried.key)
    assert view.numpy()[2].tolist() == expected_row(folder / "02.png")
    assert set(read_thumbnails(store / "toy" / "image")) == set(items["item_id"])
    # Decoding more files changes no embedding: the space is the same.
    assert retried.key == refused.key


def test_thumbnails_are_small_and_complete(manifest, store):
    extract_toy(manifest, store)
    assert featstore.open_store(store).thumbnails("toy") == {}
    extract_toy(manifest, store, thumbnails=True)
    pictures = featstore.open_store(store).thumbnails("toy")
    assert set(pictures) == set(manifest.tables["image"]["item_id"])
    assert all(data[:4] == b"RIFF" and data[8:12] == b"WEBP" for data in pictures.values())


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"kind": "class_name"}, ManifestError, "No kind named 'class_name' in .* kinds: image"),
        ({"space": None}, EncoderError, r"needs space=\{\.\.\.\}"),
        ({"encoder": "tim:resnet50", "space": None}, UnknownEncoderError, "Did you mean 'timm"),
        ({"dtype": "int3"}, ValueError, "cannot hold dtype 'int3'"),
    ],
)
def test_bad_requests_leave_no_store(manifest, store, changes, error, match):
    with pytest.raises(error, match=match):
        extract_toy(manifest, store, **changes)
    assert not store.exists()


def test_memory_and_order_do_not_depend_on_batches(manifest, store):
    views = []
    for batch, block in ((1, 3), (5, 4096), (4, 4)):
        root = store.with_name(f"store{batch}")
        extract_toy(manifest, root, batch_size=batch, block_rows=block)
        views.append(featstore.open_store(root).view("toy/image/mean-colour"))
    assert len({view.numpy().tobytes() for view in views}) == 1
    assert all(view.items.equals(views[0].items) for view in views)


def test_a_damaged_set_is_not_called_reused(manifest, store):
    data = store / extract_toy(manifest, store).key / DATA
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(CorruptStoreError, match="expected") as caught:
        extract_toy(manifest, store)
    assert "headstock store rm" in caught.value.__notes__[0]


KEY = "toy/image/mean-colour"


def _renamed(manifest: Manifest, name: str, *, reverse: bool = False) -> Manifest:
    tables = {kind: t.reverse() if reverse else t for kind, t in manifest.tables.items()}
    return Manifest(name, manifest.root, {**manifest.facts, "name": name}, tables, None)


class Shifted(MeanColour):
    """The same name, another space: every vector is turned."""

    def encode(self, items: list[Any]) -> np.ndarray:
        return np.roll(super().encode(items), 1, axis=1)


def test_a_set_is_extended_and_its_rows_are_not_encoded_again(manifest, store):
    first = extract_toy(manifest, store, limit=5)
    encoder = MeanColour()
    result = extract_toy(manifest, store, encoder=encoder)
    assert (result.reused, result.new, result.copied) == (5, 6, 0)
    # One item measures the dimension, four are golden inputs.
    assert sum(encoder.batches) == 6 + 1 + 4
    opened = featstore.open_store(store)
    whole = opened.view(KEY)
    expected = [expected_row(manifest.root / uri) for uri in whole.items["uri"]]
    np.testing.assert_allclose(whole.numpy(), expected, rtol=1e-6)
    assert len(opened.view(KEY, revision=first.revision_id)) == 5
    # Fewer than the set has: all of them are there.
    assert extract_toy(manifest, store, limit=5).revision_id == result.revision_id


def test_an_encoder_that_changed_under_its_name_cannot_extend(manifest, store):
    extract_toy(manifest, store, limit=5)
    with pytest.raises(EncoderError, match=r"cosine of .*at least 0.999.*headstock store rm"):
        extract_toy(manifest, store, encoder=Shifted())
    assert extract_toy(manifest, store, limit=5).reused == 5


def test_rows_of_the_same_content_are_copied_bit_for_bit(manifest, store):
    extract_toy(manifest, store)
    encoder = MeanColour()
    result = extract_toy(_renamed(manifest, "other", reverse=True), store, encoder=encoder)
    assert (result.reused, result.new, result.copied) == (11, 0, 11)
    assert sum(encoder.batches) == 1 + 4
    opened = featstore.open_store(store)
    copied, source = opened.view("other/image/mean"), opened.view(KEY)
    assert copied.items["item_id"].to_list() == source.items["item_id"].to_list()[::-1]
    assert copied.numpy()[::-1].tobytes() == source.numpy().tobytes()


def test_only_what_is_unknown_is_encoded(manifest, store):
    extract_toy(manifest, store, limit=6)
    # A file that is gone is not missed where its row is known.
    (manifest.root / "images" / "02.png").unlink()
    result = extract_toy(_renamed(manifest, "other"), store)
    assert (result.copied, result.new, result.failed) == (6, 5, 0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dtype": "float16"}, ""),
        ({"space": {"name": "mean-colour", "weights": "2"}}, ""),
        ({"encoder": Shifted()}, "computed anew"),
    ],
)
def test_another_dtype_space_or_golden_vectors_are_not_copied_from(
    manifest, store, caplog, changes, said
):
    extract_toy(manifest, store)
    result = extract_toy(_renamed(manifest, "other"), store, **changes)
    assert (result.copied, result.new) == (0, 11)
    assert said in caplog.text


def test_a_damaged_source_is_noticed(manifest, store):
    data = store / extract_toy(manifest, store).key / DATA
    data.chmod(0o644)
    data.write_bytes(data.read_bytes()[:-1] + b"\x01")
    with pytest.raises(featstore.errors.CorruptStoreError):
        extract_toy(_renamed(manifest, "other"), store)


def test_a_full_disk_is_told_beforehand(manifest, store, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(StoreWriteError, match="Free space"):
        extract_toy(manifest, store)
    assert not store.exists()
