"""Batches of a job, and the batch size that the device takes.

The size is settled before the first block, because it is part of the plan: blocks of another
size may differ in bits. A job that is resumed takes the size that it was begun with.
"""

from __future__ import annotations

import gc
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import numpy as np

from featstore.encoders.base import IMAGE_KINDS, TEXT_KINDS, Encoder, text_batches
from featstore.encoders.golden import golden_inputs
from featstore.errors import DeviceError, is_out_of_memory
from featstore.images import Geometry
from featstore.parallel import stay_beside

logger = logging.getLogger(__name__)

#: A batch: rows of the task, and what was prepared for each; None for an item that failed.
Batch = tuple[list[int], list[Any]]


class Batches:
    """Collects the prepared items of a block into batches.

    Pictures are taken in the order of the rows, and one that failed keeps its slot. Texts are
    sorted by length, so their batches begin when all are there.

    Parameters
    ----------
    runner : BatchRunner
        With the encoder, and the items of a full batch.
    """

    def __init__(self, runner: BatchRunner) -> None:
        self._size, self._encoder = runner.size, runner.encoder
        self._rows: list[int] = []
        self._prepared: list[Any] = []

    def add(self, rows: Sequence[int], prepared: Sequence[Any]) -> list[Batch]:
        """Take the next items, None for one that failed; return the batches that are full now."""
        self._rows += rows
        self._prepared += prepared
        if TEXT_KINDS & self._encoder.kinds:
            return []
        full = len(self._rows) // self._size * self._size
        batches = [
            (self._rows[at : at + self._size], self._prepared[at : at + self._size])
            for at in range(0, full, self._size)
        ]
        del self._rows[:full], self._prepared[:full]
        return batches

    def flush(self) -> list[Batch]:
        """Return what is left at the end of the block."""
        rows, prepared = self._rows, self._prepared
        self._rows, self._prepared = [], []
        return [
            ([rows[place] for place in places], [prepared[place] for place in places])
            for places in text_batches(self._encoder, prepared, self._size)
        ]


#: Batches that texts are sorted into: with so many, few of them hold texts of unlike length.
WINDOW_BATCHES = 256

#: Blocks of a window at most: of a window none is finished long before the last.
MAX_WINDOW = 16


def sorting_window(encoder: Encoder, batch: int, *, items: int, block_rows: int) -> int:
    """Return over how many blocks the texts of a set are sorted by length into batches.

    Windows begin at multiples of that number, whatever else is encoded, so that the batches
    follow from the texts alone. With other encoders than those that sort, it is 1.
    """
    if not hasattr(encoder, "length"):
        return 1
    enough = -(-WINDOW_BATCHES * batch // block_rows)
    return max(1, min(enough, MAX_WINDOW, -(-items // block_rows)))


class BatchRunner:
    """Runs one encoder on batches, in parts where a batch does not fit into memory.

    Parameters
    ----------
    encoder : Encoder
    size : int
        Items of a full batch.
    device : str
        Of the encoder.
    halve : bool
        Whether a batch that does not fit is run in parts.
    threads : int, optional
        Threads of torch: their number decides the last bits of a sum.

    Attributes
    ----------
    limit : int
        The largest part that is tried: `size`, or what was left of it.
    """

    def __init__(
        self,
        encoder: Encoder,
        size: int,
        *,
        device: str,
        halve: bool,
        threads: int | None = None,
    ) -> None:
        self.encoder = encoder
        #: What prepares items: encoders that share it take the same prepared ones.
        self.trunk = getattr(encoder, "trunk", encoder)
        #: What `prepare` does with a picture, if that is all that it does.
        geometry = getattr(encoder, "geometry", None)
        self.geometry = geometry if isinstance(geometry, Geometry) else None
        self.size = size
        self.limit = size
        self.device = device
        self._halve = halve
        #: Whether the next batches are copied to the device while one is encoded.
        self.overlaps = bool(getattr(encoder, "overlaps", False))
        # The number of threads is the process's: several that encode would set it in turn.
        self._threads = None if self.overlaps else threads

    def encode(self, batch: Sequence[Any], layers: Sequence[Any] = ()) -> np.ndarray:
        """Return (b, d) float32 of a batch in which nothing failed; or of `layers`, side by side.

        Raises
        ------
        DeviceError
            If it does not fit into memory and may not be halved, or one item alone does not.
        """
        parts = []
        start = 0
        while start < len(batch):
            part = batch[start : start + self.limit]
            encoded = self._try(part, layers)
            if encoded is None:
                continue  # with a smaller limit
            parts.append(encoded)
            start += len(part)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _try(self, part: Sequence[Any], layers: Sequence[Any]) -> np.ndarray | None:
        encoder: Any = self.encoder
        call = partial(encoder.encode_layers, layers) if layers else encoder.encode
        try:
            with torch_threads(self._threads):
                return np.asarray(call(part), dtype=np.float32)
        except (RuntimeError, MemoryError) as err:
            if not is_out_of_memory(err):
                raise
            if not self._halve or len(part) == 1:
                raise DeviceError(
                    f"{self.encoder.name} ran out of memory on {self.device} with "
                    f"{len(part):,} items at once. Take `batch_size=auto`, or a smaller one."
                ) from err
        # What a failed forward pass has left is given back.
        gc.collect()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.limit = max(1, len(part) // 2)
        logger.warning(
            "%s ran out of memory with %d items; going on with %d.",
            self.encoder.name,
            len(part),
            self.limit,
        )
        return None


@contextmanager
def torch_threads(threads: int | None) -> Iterator[None]:
    """Compute the block with so many threads of torch, and leave the process's setting as it was.

    The number of threads decides how sums are split, and so the last bits of a result. None changes
    nothing, and does not load torch.
    """
    if threads is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def on_device(device: str | None) -> Iterator[None]:
    """Say in the block that preparing pictures ran out of memory: that is no fault of a picture.

    Raises
    ------
    DeviceError
        If it did.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as err:
        if not is_out_of_memory(err):
            raise
        raise DeviceError(
            f"Decoding ran out of memory on {device or 'cpu'}. Take a smaller `batch_size=`, or "
            "-s decode=cpu, which makes another embedding space."
        ) from err


def use_device(device: str | None) -> None:
    """Make a GPU the current device of this thread, and let it run on the cores beside the GPU.

    What the thread pins, and the processes that it starts, lie on the same NUMA node.

    Every thread begins on the first GPU. Waiting for an event there would make the process a
    context on it, some hundred megabytes, whichever GPU it computes on.
    """
    if device is None or not device.startswith("cuda"):
        return
    import torch

    if torch.cuda.is_available():
        number = torch.device(device).index or 0
        torch.cuda.set_device(number)
        stay_beside(torch.cuda.get_device_properties(number))


#: What is tried first on a device other than the CPU.
FIRST_GUESS = 256

#: Words of the text that is tried: longer than any context, it is cut.
_LONG_TEXT = "photograph " * 2048


def settle_batch_size(
    encoder: Encoder,
    requested: int | Literal["auto"] | None,
    *,
    begun: int | None,
    device: str,
) -> int:
    """Return the items of a batch.

    Parameters
    ----------
    requested : int, "auto" or None
        None is the encoder's own.
    begun : int, optional
        Size with which an interrupted attempt was begun; a number that was asked for wins.
    device : str

    Raises
    ------
    EncoderError
        If not even one item fits.
    """
    if isinstance(requested, int):
        return requested
    if begun is not None:
        return begun
    if requested is None:
        return encoder.batch_size
    guess = encoder.batch_size if device == "cpu" else FIRST_GUESS
    # It needs as much memory as any.
    inputs = golden_inputs(encoder.kinds) if IMAGE_KINDS & encoder.kinds else [_LONG_TEXT]
    largest = encoder.prepare(inputs[0])
    runner = BatchRunner(encoder, guess, device=device, halve=True)
    runner.encode([largest] * guess)
    if device == "cpu" or runner.limit < guess:
        return runner.limit
    return _doubled(encoder, largest, guess, device=device)


#: A batch is not doubled beyond this many items, nor where an item then takes more than this share
#: of the time.
MOST, PAYS = 4096, 0.95


def _doubled(encoder: Encoder, item: Any, size: int, *, device: str) -> int:
    """Return a size that fits, doubled while that fits and pays."""
    trial, best = size, float("inf")
    while trial <= MOST:
        runner = BatchRunner(encoder, trial, device=device, halve=True)
        for _ in range(2):  # the first warms up
            started = time.perf_counter()
            runner.encode([item] * trial)
            each = (time.perf_counter() - started) / trial
        if runner.limit < trial or each > PAYS * best:
            break
        size, best, trial = trial, each, 2 * trial
    return size
