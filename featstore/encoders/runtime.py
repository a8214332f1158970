"""Torch at run time: device, precision, threads and copies between host and device.

On a GPU a batch is stacked into pinned memory and copied on a stream of its own while the batch
before is computed; vectors come back into pinned memory, and only who needs them waits.
"""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from featstore.encoders.base import IMAGE_KINDS, PRECISIONS, EncoderOptions, transferring
from featstore.encoders.preprocessing import Preprocessing
from featstore.encoders.weights import one_line
from featstore.errors import EncoderError
from featstore.images import Geometry, to_rgb

if TYPE_CHECKING:
    from PIL import Image


def checked_device(device: str) -> torch.device:
    """Return `device` as torch knows it, after a tensor has lived there.

    Raises
    ------
    EncoderError
        If this machine has no such device.
    """
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as err:
        # A build without CUDA asserts.
        raise EncoderError(
            f"Cannot use the device '{device}': {one_line(err)} Use cpu, or one that exists."
        ) from err
    return chosen


@contextmanager
def pinned_threads(threads: int | None) -> Iterator[None]:
    """Run torch on that many threads, and leave the process's setting as it was.

    The number of threads decides how sums are split, and so the last bits of a result.
    """
    if threads is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


_AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def checked_precision(precision: str, device: torch.device) -> str:
    """Return `precision` if this device can compute in it.

    Raises
    ------
    EncoderError
        If it is no precision, or float16 on a CPU, where many layers lack it.
    """
    if precision not in PRECISIONS:
        raise EncoderError(
            f"The precision must be one of {', '.join(PRECISIONS)}; got {precision!r}."
        )
    if precision == "float16" and device.type == "cpu":
        raise EncoderError("float16 is computed on GPUs only. On a CPU take bfloat16, or float32.")
    return precision


@contextmanager
def computing(precision: str, device: torch.device) -> Iterator[None]:
    """Run a forward pass in `precision`: autocast for the short ones, true float32 otherwise.

    TF32 and reduced-precision float32 products are off in float32, whatever the process chose:
    they change the bits, so they are not float32. The process's own choice is put back.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = False
    try:
        if precision == "float32":
            with torch.autocast(device.type, enabled=False):
                yield
        else:
            with torch.autocast(device.type, dtype=_AUTOCAST[precision]):
                yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


class TorchEncoder(ABC):
    """Base of the encoders that torch computes.

    A subclass adds `space`, `facts` and `dim`, and computes in `_computed`.

    Parameters
    ----------
    name : str
        ``family:name``.
    options : EncoderOptions
        Device, batch size, threads and precision; a subclass may read more of them.

    Raises
    ------
    EncoderError
        If this machine has no such device, or it cannot compute in the precision.
    """

    kinds: ClassVar[frozenset[str]]
    own_batch_size: ClassVar[int]
    """Items a batch, if the options do not say it."""
    space: dict[str, Any]
    facts: dict[str, Any]
    dim: int

    def __init__(self, name: str, options: EncoderOptions) -> None:
        self.name = name
        self.batch_size = options.batch_size or self.own_batch_size
        self._device = checked_device(options.device)
        self._threads = options.threads
        self.precision = checked_precision(options.precision, self._device)

    def encode(self, batch: Sequence[Any]) -> np.ndarray:
        """Return the (b, d) float32 vectors of prepared items, in the encoder's precision.

        The same batch gives the same bits on a CPU with the same number of threads.

        Raises
        ------
        EncoderError
            If an item was not prepared for this model.
        """
        return self._encode(batch, exact=False)

    def encode_float32(self, batch: Sequence[Any]) -> np.ndarray:
        """Return what `encode` would, computed in float32 and not compiled."""
        return self._encode(batch, exact=True)

    def _encode(self, batch: Sequence[Any], *, exact: bool) -> np.ndarray:
        return self._computed(batch, exact=exact) if batch else np.empty((0, self.dim), np.float32)

    @abstractmethod
    def _computed(self, batch: Sequence[Any], *, exact: bool) -> np.ndarray:
        """Return the (b, d) float32 vectors of at least one item; in float32 if `exact`."""

    @contextmanager
    def _computing(self, *, exact: bool) -> Iterator[None]:
        """Run a forward pass with the encoder's threads, in its precision or in float32."""
        precision = "float32" if exact else self.precision
        with (
            torch.inference_mode(),
            pinned_threads(self._threads),
            computing(precision, self._device),
        ):
            yield


class TorchImageEncoder(TorchEncoder):
    """Base of the encoders of pictures: a subclass adds the transform and the size it makes."""

    kinds = IMAGE_KINDS
    own_batch_size = 32
    preprocessing: Preprocessing
    _copies: DeviceCopies

    def __init__(self, name: str, options: EncoderOptions) -> None:
        super().__init__(name, options)
        #: Whether several threads should encode, each the next batch: see `DeviceCopies`.
        self.overlaps = self._device.type == "cuda"

    @property
    def geometry(self) -> Geometry | None:
        """What a decoding process may do of `prepare`; None if that is the transform's business."""
        return self.preprocessing.geometry

    @geometry.setter
    def geometry(self, geometry: Geometry | None) -> None:
        self.preprocessing.geometry = geometry

    def prepare(self, item: Image.Image) -> np.ndarray:
        """Return a picture resized and cropped, (h, w, 3) uint8; see `Preprocessing.prepare`."""
        return self.preprocessing.prepare(item if item.mode == "RGB" else to_rgb(item))


class DeviceCopies:
    """Brings prepared pictures to one device; safe in threads.

    Parameters
    ----------
    name : str
        Of the encoder, for messages.
    preprocessing : Preprocessing
    device : torch.device
    memory_format : torch.memory_format
        Of the batch on the device.
    """

    def __init__(
        self,
        name: str,
        preprocessing: Preprocessing,
        device: torch.device,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        self._name = name
        self._preprocessing = preprocessing
        self._device = device
        self._memory_format = memory_format
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._turn = threading.Lock()

    def to_device(self, batch: Sequence[Any]) -> torch.Tensor:
        """Return prepared pictures as one tensor of floats; on a GPU it may still be on its way.

        Raises
        ------
        EncoderError
            If one was not prepared for this model.
        """
        if not self._preprocessing.fits(batch):
            shapes = sorted({str(np.shape(array)) for array in batch})
            raise EncoderError(
                f"{self._name} takes prepared pictures of shape {self._preprocessing.input_size}, "
                f"got shapes {', '.join(shapes)}. Pass what its prepare() returns."
            )
        with transferring():
            if self._device.type == "cpu":
                return self._preprocessing.floats(batch)
            if isinstance(batch[0], torch.Tensor):  # decoded there
                return self._joined(batch)
            first = torch.from_numpy(batch[0])
            host = torch.empty(
                (len(batch), *first.shape), dtype=first.dtype, pin_memory=self._stream is not None
            )
            np.stack(batch, out=host.numpy())
            if self._stream is None:
                return self._preprocessing.floats_there(host.to(self._device), self._memory_format)
            with torch.cuda.stream(self._stream):
                pixels = host.to(self._device, non_blocking=True)
                moved = self._preprocessing.floats_there(pixels, self._memory_format)
            # Its memory belongs to the stream of copies, and is read by the stream of the model.
            moved.record_stream(torch.cuda.current_stream(self._device))
            return moved

    def _joined(self, batch: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return pictures that lie on the device as one tensor of floats."""
        with torch.cuda.stream(self._stream):  # which does nothing without one
            pixels = torch.stack([*batch])
            moved = self._preprocessing.floats_there(pixels, self._memory_format)
        if self._stream is not None:
            for one in batch:  # their memory belongs to the stream that decoded them
                one.record_stream(self._stream)
            moved.record_stream(torch.cuda.current_stream(self._device))
        return moved

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Let one thread at a time use the model, once its batch has arrived.

        What it launches is in the device's queue when the next thread begins, so the device
        has work while this one waits for its vectors.
        """
        with self._turn:
            if self._stream is not None:
                torch.cuda.current_stream(self._device).wait_stream(self._stream)
            yield


class HostCopy:
    """A tensor on its way to the host, as float32; begun within the model's turn."""

    def __init__(self, tensor: torch.Tensor) -> None:
        values = tensor.detach().float()
        self._arrived: torch.cuda.Event | None = None
        if values.device.type == "cuda":
            self._host = torch.empty(values.shape, dtype=torch.float32, pin_memory=True)
            self._host.copy_(values, non_blocking=True)
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record(torch.cuda.current_stream(values.device))
        else:
            self._host = values.cpu()

    def numpy(self) -> np.ndarray:
        """Return the values, once they have arrived, as memory of their own."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._host.numpy().copy()


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers from drawing a bar and from reporting on tensors."""
    from transformers import logging as log

    verbosity, bar = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if bar:
            log.enable_progress_bar()


@contextmanager
def quiet_root_logger() -> Iterator[None]:
    """Keep a library that logs through the root logger quiet, and without handlers of its own."""
    root = logging.getLogger()
    handlers, disabled = root.handlers[:], root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)
        root.handlers[:] = handlers
