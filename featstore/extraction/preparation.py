"""Items on their way to the encoders: read, decoded and prepared in threads; then their batches."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from featstore.decoding import DecodePool
from featstore.decoding.nvjpeg import decode_on_gpu
from featstore.encoders.transfer import take_transfer_seconds
from featstore.extraction.batches import BatchRunner
from featstore.extraction.image_views import draw_view, source_item
from featstore.extraction.progress import StageClock
from featstore.images import FORMATS, ImageError, decode_image, thumbnail_webp

if TYPE_CHECKING:
    from PIL import Image

#: Batches of an encoder that overlaps, at once: one is encoded, one waits in the device's queue,
#: one is being copied there.
IN_FLIGHT = 3


class Reader(Protocol):
    """Reads the bytes of an item, which must be those that its content hash names."""

    def read(self, item: Mapping[str, Any]) -> bytes:
        """Return them, or raise OSError."""


@dataclass(frozen=True)
class Slot:
    """One item, prepared for every encoder; `reason` says why it could not be."""

    prepared: tuple[Any, ...] = ()
    thumbnail: bytes | None = None
    reason: str = ""


class Preparation:
    """Reads, decodes and prepares items in threads; a context manager.

    Parameters
    ----------
    reader : Reader
    runners : sequence of BatchRunner
        The encoders.
    workers : int
        Threads, and processes that decode.
    decode_timeout : float, optional
        Seconds that one image may take. Images are then decoded in processes of their own,
        so that a crash or a hang costs one of them; None decodes in the threads.
    gpu : str, optional
        Decode plain JPEG files on this device, in the threads; nothing is decoded in processes
        then, and no time limit holds.
    formats : sequence of str
        Pillow's names of the formats that are tried.
    thumbnail : bool
    clock : StageClock, optional
    """

    def __init__(
        self,
        reader: Reader,
        runners: Sequence[BatchRunner],
        *,
        workers: int,
        decode_timeout: float | None,
        gpu: str | None = None,
        formats: Sequence[str] = FORMATS,
        thumbnail: bool = False,
        clock: StageClock | None = None,
    ) -> None:
        self.runners = runners
        self.clock = clock or StageClock()
        self._reader = reader
        self._thumbnail = thumbnail
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="prepare")
        self._encoding = {
            number: ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="encode")
            for number, runner in enumerate(runners)
            if runner.overlaps
        }
        self._room = {number: threading.BoundedSemaphore(IN_FLIGHT) for number in self._encoding}
        # Processes start with the first image, so texts start none.
        self._gpu = gpu
        self._formats = formats
        self._processes = (
            DecodePool(workers, timeout=decode_timeout, formats=formats)
            if decode_timeout and not gpu
            else None
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for pool in (self._threads, *self._encoding.values()):
            pool.shutdown(wait=True, cancel_futures=True)
        if self._processes is not None:
            self._processes.close()

    def submit(self, records: list[dict[str, Any]], wanted: np.ndarray) -> Future[list[Slot]]:
        """Prepare items that share one image, each for the encoders that want it."""
        return self._threads.submit(self._prepare, records, wanted)

    def encode(self, number: int, batch: list[Any]) -> Future[np.ndarray]:
        """Return the vectors to come of a batch: at once, unless the encoder overlaps.

        Waits while as many batches of the encoder are under way as may be.
        """
        if number in self._encoding:
            with self.clock.measure("forward"):
                self._room[number].acquire()
            future = self._encoding[number].submit(self._encode, number, batch, overlaps=True)
            future.add_done_callback(lambda _: self._room[number].release())
            return future
        done: Future[np.ndarray] = Future()
        done.set_result(self._encode(number, batch, overlaps=False))
        return done

    def _encode(self, number: int, batch: list[Any], *, overlaps: bool) -> np.ndarray:
        take_transfer_seconds()  # of golden inputs, perhaps
        started = time.perf_counter()
        try:
            return self.runners[number].encode(batch)
        finally:
            copying = take_transfer_seconds()
            # Of threads beside each other, the wait of the one that feeds them is the time.
            if not overlaps:
                self.clock.add("transfer", copying)
                self.clock.add("forward", time.perf_counter() - started - copying)

    def _prepare(self, records: list[dict[str, Any]], wanted: np.ndarray) -> list[Slot]:
        if records[0].get("uri") is None:
            with self.clock.measure("prepare"):
                return [
                    Slot(self._for_each(record["text"], wanted[:, row]))
                    for row, record in enumerate(records)
                ]
        try:
            with self.clock.measure("read"):
                data = self._reader.read(source_item(records[0]))
            with self.clock.measure("decode"):
                image = self._decode(data)
            with self.clock.measure("prepare"):
                return [
                    self._slot(draw_view(image, record), wanted[:, row])
                    for row, record in enumerate(records)
                ]
        except (ImageError, OSError) as err:
            return [Slot(reason=str(err))] * len(records)

    def _decode(self, data: bytes) -> Image.Image:
        if self._gpu is not None:
            return decode_on_gpu(data, self._gpu, formats=self._formats)
        if self._processes is None:
            return decode_image(data, formats=self._formats)
        return self._processes.submit(data).result()

    def _slot(self, image: Image.Image, wanted: np.ndarray) -> Slot:
        small = thumbnail_webp(image) if self._thumbnail else None
        return Slot(self._for_each(image, wanted), small)

    def _for_each(self, item: Any, wanted: np.ndarray) -> tuple[Any, ...]:
        return tuple(
            runner.encoder.prepare(item) if wants else None
            for runner, wants in zip(self.runners, wanted, strict=True)
        )
