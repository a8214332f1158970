"""Batches that are encoded by several threads give what one thread gives, in order."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl
import pytest

from featstore import Manifest
from featstore.encoders.runtime import pinned_threads
from featstore.extraction.batches import BatchRunner
from featstore.extraction.pipeline import IN_FLIGHT, BlockTask, Preparation, encode_blocks
from featstore.extraction.runs import DeviceRuns
from featstore.images import Geometry
from tests.assertions import ends_what_it_starts


class Slow:
    """Takes longer for early batches, and notes how many are under way."""

    name, kinds, dim, batch_size = "slow", frozenset({"image"}), 2, 2
    overlaps = True

    def __init__(self, refused: float | None = None) -> None:
        self.refused = refused
        self.lock = threading.Lock()
        self.now = self.most = self.begun = 0

    def prepare(self, item: Any) -> float:
        return float(item.width)

    def encode(self, batch: list[float]) -> np.ndarray:
        with self.lock:
            self.begun += 1
            self.now += 1
            self.most = max(self.most, self.now)
            pause = 0.05 if self.begun % 3 == 1 else 0.0
        time.sleep(pause)
        with self.lock:
            self.now -= 1
        if self.refused in batch:
            msg = "no such width"
            raise ValueError(msg)
        return np.array([[width, -width] for width in batch], dtype=np.float32)


class Files:
    def __init__(self, manifest: Manifest) -> None:
        self._root = manifest.root

    def read(self, item: Any) -> bytes:
        return (self._root / item["uri"]).read_bytes()


def _tasks(items: pl.DataFrame, rows: int = 4) -> Iterator[BlockTask]:
    for number, start in enumerate(range(0, items.height, rows)):
        part = items[start : start + rows]
        yield BlockTask(number, part, [np.ones(part.height, dtype=bool)])


def _encode(manifest: Manifest, encoder: Any, **options: Any) -> list[Any]:
    runner = BatchRunner(encoder, 2, device="cpu", halve=False)
    with Preparation(Files(manifest), [runner], workers=2, decode_timeout=None) as preparation:
        tasks = _tasks(manifest.tables["image"])
        return list(encode_blocks(tasks, preparation, **options))


def test_blocks_come_in_order_and_whole_while_batches_overlap(manifest):
    encoder = Slow()
    counted: list[int] = []
    outputs = _encode(manifest, encoder, on_rows=counted.append)
    assert [output.number for output in outputs] == [0, 1, 2]
    rows = np.concatenate([output.rows[0] for output in outputs])
    widths = np.arange(4, 15, dtype=np.float32)  # what the fixture's pictures have
    assert rows.tolist() == np.stack([widths, -widths], axis=1).tolist()
    assert 1 < encoder.most <= IN_FLIGHT
    assert sorted(counted) == [1, 2, 2, 2, 2, 2]  # of batches as they end, in any order


def test_an_error_of_a_batch_ends_the_job_and_its_threads(manifest):
    encoder = Slow(refused=9.0)
    ends = ends_what_it_starts("encode", "prepare")
    with ends, pytest.raises(ValueError, match="no such width"):
        _encode(manifest, encoder)


@pytest.mark.parametrize("pool", [None, "cls", "layer:blocks.0"])
def test_a_real_model_gives_the_same_bits_from_several_threads(manifest, pool):
    import timm
    import torch

    from featstore.encoders.base import EncoderOptions
    from featstore.encoders.timm_image import PooledTimmEncoder, TimmEncoder

    model = timm.create_model("test_vit", pretrained=False)
    generator = torch.Generator().manual_seed(0)
    for value in model.state_dict().values():
        value.normal_(0.0, 0.1, generator=generator)
    encoder = (
        TimmEncoder("timm:test_vit", model)
        if pool is None
        else PooledTimmEncoder("timm:test_vit", model, EncoderOptions(pool=pool))
    )
    assert not encoder.overlaps  # on a CPU one batch has all cores
    with pinned_threads(1):
        alone = _encode(manifest, encoder)
        encoder.overlaps = True
        together = _encode(manifest, encoder)
    for one, other in zip(alone, together, strict=True):
        assert one.rows[0].tobytes() == other.rows[0].tobytes()
        assert np.isfinite(one.rows[0]).all()


@pytest.mark.parametrize(
    ("gpu", "pools"), [("cuda:1", ["encode", "prepare", "prepare"]), (None, ["encode"])]
)
def test_threads_of_a_gpu_begin_on_it_and_not_on_the_first(gpu, pools, manifest, monkeypatch):
    import torch

    seen: list[tuple[str, int]] = []

    def set_device(index: int) -> None:
        seen.append((threading.current_thread().name.partition("_")[0], index))

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", set_device)
    monkeypatch.setattr("featstore.extraction.runs.own_stream", contextlib.nullcontext)
    runner = BatchRunner(Slow(), 2, device="cuda:1", halve=False)  # type: ignore[arg-type]
    runner.geometry = Geometry((4,), (4, 4), "BICUBIC")
    everything: Any = {"workers": 1, "decode_timeout": None, "gpu": gpu}
    with Preparation(Files(manifest), [runner], **everything) as preparation:
        preparation.encode(0, [1.0]).result()
        preparation.threads.submit(preparation.prepare, [], np.ones((1, 0), bool)).exception()
        runs = preparation.begin(manifest.tables["image"])
        if isinstance(runs, DeviceRuns):
            runs.submit(("uri",), []).result()
    assert sorted(seen) == [(pool, 1) for pool in pools]


def test_a_copy_is_waited_for_on_its_own_device(monkeypatch):
    import torch

    from featstore.encoders.runtime import HostCopy

    current: list[Any] = []

    @contextlib.contextmanager
    def device(which: Any) -> Iterator[None]:
        current.append(which)
        yield
        current.append(None)

    class Event:
        device = torch.device("cuda:1")

        def synchronize(self) -> None:
            assert current == [self.device]

    monkeypatch.setattr(torch.cuda, "device", device)
    copy: Any = HostCopy(torch.ones(2))
    copy._arrived = Event()
    assert copy.numpy().tolist() == [1.0, 1.0]
    assert current == [Event.device, None]
