"""Several layers of one model: sets of their own, from one forward pass a batch."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

import featstore
from featstore import EncoderSpec, ExtractConfig, Manifest, extract_many
from featstore.encoders.base import EncoderOptions
from featstore.encoders.timm import PooledTimmEncoder
from featstore.errors import EncoderError
from featstore.extraction.batches import BatchRunner
from featstore.extraction.pipeline import BlockTask, Preparation, encode_blocks
from featstore.extraction.targets import Job
from featstore.sources.reader import ByteReader
from tests.damage import lasting
from tests.featstore.extraction.conftest import Stop, encode_block, stop_after
from tests.typed import headstock

NAME = "timm:test_vit"
LAYERS = ("blocks.1", "norm", "patch_embed")
#: Batches of 6 and 5 of the eleven pictures; no golden or blank batch has as many.
CONFIG = ExtractConfig(batch_size=6, dtype="float32", decode_timeout=None, threads=1)


@pytest.fixture
def passes(monkeypatch):
    """Counts forward passes of the model by the size of their batch."""
    found: Counter[int] = Counter()
    plain = timm.models.vision_transformer.VisionTransformer.forward

    def forward(self: Any, x: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        found[len(x)] += 1
        return plain(self, x, *args, **options)

    monkeypatch.setattr(timm.models.vision_transformer.VisionTransformer, "forward", forward)
    return found


def extracted(manifest: Manifest, store: Path, *specs: EncoderSpec, **changes: Any) -> list[Any]:
    config = ExtractConfig(**{**vars(CONFIG), **changes})
    return extract_many(manifest, kind="image", encoders=specs, store=store, config=config)


@pytest.mark.parametrize("lost", [(), ("02.png", "07.png")])
def test_one_pass_gives_the_sets_that_a_job_for_each_layer_gives(
    manifest, store, weights, passes, lost
):
    for name in lost:
        (manifest.root / "images" / name).unlink()
    results = extracted(manifest, store, EncoderSpec(NAME, weights, layers=LAYERS))
    assert (passes[6], passes[5]) == (1, 1)
    assert [(r.new, r.failed) for r in results] == [(11 - len(lost), len(lost))] * 3
    for layer in LAYERS:
        alone = EncoderSpec(NAME, weights, pool=f"layer:{layer}")
        extracted(manifest, store.with_name("alone"), alone)
    assert (passes[6], passes[5]) == (4, 4)
    # Ids, names, bits: layer and pooling are facts of the space, whoever shares the pass.
    assert lasting(store) == lasting(store.with_name("alone"))
    opened = featstore.open_store(store)
    infos = [opened.info(result.key) for result in results]
    assert [info.attributes["space"]["layer"] for info in infos] == [
        "output of blocks.1, mean of tokens 1 and up",
        "output of norm, mean of tokens 1 and up",
        "output of patch_embed, mean over positions (NHWC)",
    ]
    assert len({info.commit.space_id for info in infos}) == 3
    # Done is done; what verifies and checks finds sets like any other.
    again = extracted(manifest, store, EncoderSpec(NAME, weights, layers=LAYERS))
    assert [(r.reused, r.new) for r in again] == [(11 - len(lost), 0)] * 3
    assert (passes[6], passes[5]) == (4, 4)
    for command in (["store", "verify"], ["doctor"]):
        assert headstock(*command, store) == 0


def test_specs_that_name_a_layer_each_share_a_pass_and_others_do_not(
    manifest, store, weights, passes
):
    specs = [EncoderSpec(NAME, weights, pool=f"layer:{layer}") for layer in LAYERS[:2]]
    plain = EncoderSpec(NAME, weights)
    extracted(manifest, store, *specs, plain)
    assert (passes[6], passes[5]) == (2, 2)
    assert not specs[0].shares_pass(plain)
    assert not specs[0].shares_pass(EncoderSpec(NAME, pool="layer:norm"))
    assert not specs[0].shares_pass(EncoderSpec("timm:test_vit2", weights, pool="layer:norm"))


def test_layers_at_different_places_go_on_to_the_same_end(manifest, store, weights, passes):
    """One set has six rows, one was stopped after a block, one is new: three different batches."""
    spec = EncoderSpec(NAME, weights, layers=LAYERS)
    first, second, _ = spec.each_layer()
    small = {"batch_size": 3, "block_rows": 4}
    extracted(manifest, store, first, limit=6, **small)
    with pytest.raises(Stop):
        extracted(manifest, store, second, on_block=stop_after(1), **small)
    job = Job(manifest, "image", [spec], store, ExtractConfig(**{**vars(CONFIG), **small})).open()
    states = [target.state() for target in job.targets]
    assert [s.state for s in states] == ["extension", "unfinished", "missing"]
    assert [s.new for s in states] == [5, 7, 11]
    found = extracted(manifest, store, spec, **small)
    assert [(r.reused, r.new) for r in found] == [(6, 5), (4, 7), (0, 11)]
    alone = store.with_name("alone")
    extracted(manifest, alone, first, limit=6, **small)
    for one in spec.each_layer():
        extracted(manifest, alone, one, **small)
    ours, theirs = (
        {name: data for name, data in lasting(root).items() if "embedding" in name}
        for root in (store, alone)
    )
    assert ours == theirs


def encoders(weights: str) -> list[PooledTimmEncoder]:
    model = timm.create_model("test_vit", checkpoint_path=weights)
    first = PooledTimmEncoder(NAME, model, EncoderOptions(pool="layer:blocks.0"))
    return [first, *(first.beside(f"layer:{layer}") for layer in LAYERS)]


@pytest.mark.parametrize("size", [2, 3])
def test_a_pipeline_with_batches_under_way_shares_them_too(manifest, weights, passes, size):
    """As on a GPU: every encoder has threads of its own, and several batches at once."""
    found = []
    for overlaps in (False, True):
        every = encoders(weights)
        for one in every:
            one.overlaps = overlaps
        runners = [BatchRunner(one, size, device="cpu") for one in every]
        passes.clear()
        with (
            ByteReader(manifest.root) as reader,
            Preparation(reader, runners, workers=2) as preparation,
        ):
            found.append(encode_block(manifest.tables["image"], preparation).rows)
        assert passes == Counter([size] * (11 // size) + [11 % size])
    for one, other in zip(*found, strict=True):
        assert one.tobytes() == other.tobytes()
        assert np.isfinite(one).all()


def test_layers_of_which_other_rows_are_asked_do_not_share_a_pass(manifest, weights):
    """Batches of the same size are full at the same time, and hold different pictures."""
    runners = [BatchRunner(one, 3, device="cpu") for one in encoders(weights)[:2]]
    needed = [np.arange(11) != 2, np.arange(11) != 1]
    task = BlockTask(0, manifest.tables["image"], needed)
    with (
        ByteReader(manifest.root) as reader,
        Preparation(reader, runners, workers=2) as preparation,
    ):
        (output,) = encode_blocks([task], preparation)
    for rows, own in zip(output.rows, needed, strict=True):
        assert np.isfinite(rows).all(axis=1).tolist() == own.tolist()


def test_what_cannot_be_asked_of_layers(manifest, store, weights, capsys):
    with pytest.raises(EncoderError, match="layers norm and for pool 'cls'"):
        EncoderSpec(NAME, layers=("norm",), pool="cls")
    both = {"kind": "image", "encoder": NAME, "weights": weights, "store": store}
    with pytest.raises(EncoderError, match=r"2 layers are 2 sets, and extract makes one. Call ex"):
        featstore.extract(manifest, layers=LAYERS[:2], **both)
    assert not store.exists()
    (one,) = extracted(manifest, store, EncoderSpec(NAME, weights, layers=("norm",)))
    same = featstore.extract(manifest, layers=("norm",), threads=1, dtype="float32", **both)
    assert (same.key, same.new) == (one.key, 0)
