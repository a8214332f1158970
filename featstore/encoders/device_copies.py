"""Batches to the device of a model and vectors back, beside the work of the device.

On a GPU a batch is stacked into pinned memory and copied on a stream of its own while the batch
before is computed; vectors come back into pinned memory, and only who needs them waits.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from featstore.encoders.transfer import transferring
from featstore.errors import EncoderError


class DeviceCopies:
    """Brings prepared pictures to one device; safe in threads.

    Parameters
    ----------
    name : str
        Of the encoder, for messages.
    input_size : tuple of int
        Shape of a prepared picture.
    device : torch.device
    memory_format : torch.memory_format
        Of the batch on the device.
    """

    def __init__(
        self,
        name: str,
        input_size: tuple[int, ...],
        device: torch.device,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        self._name = name
        self._input_size = input_size
        self._device = device
        self._memory_format = memory_format
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._turn = threading.Lock()

    def to_device(self, batch: Sequence[np.ndarray]) -> torch.Tensor:
        """Return prepared pictures as one tensor; on a GPU it may still be on its way.

        Raises
        ------
        EncoderError
            If one was not prepared for this model.
        """
        for array in batch:
            if np.shape(array) != self._input_size:
                msg = (
                    f"{self._name} takes prepared pictures of shape {self._input_size}, got one of "
                    f"shape {np.shape(array)}. Pass what its prepare() returns."
                )
                raise EncoderError(msg)
        with transferring():
            pixels = torch.from_numpy(np.ascontiguousarray(np.stack(batch), dtype=np.float32))
            if self._stream is None:
                return pixels.to(self._device, memory_format=self._memory_format)
            pinned = pixels.pin_memory()
            with torch.cuda.stream(self._stream):
                moved = pinned.to(
                    self._device, non_blocking=True, memory_format=self._memory_format
                )
            # Its memory belongs to the stream of copies, and is read by the stream of the model.
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
