"""A pool of decoding processes.

Each process has one image at a time and a thread of the pool that waits for it, so that a
process that dies takes exactly that image with it.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Self

from featstore.decoding.process import WorkerProcess
from featstore.images import FORMATS, MAX_PIXELS

if TYPE_CHECKING:
    from PIL import Image

#: How often late workers are looked for, as a share of the time limit, and at least.
_LOOK_SHARE = 0.1
_LOOK_SECONDS = 1.0

_Job = tuple[bytes, "Future[Image.Image]"]


class DecodePool:
    """Decode images in worker processes.

    Parameters
    ----------
    workers : int
        Processes; they start with the first images and are replaced when they die.
    timeout : float
        Seconds that one image may take; measured to within a tenth.
    formats : sequence of str
        Pillow's names of the formats that are tried. TIFF must be asked for.
    max_pixels : int
        Larger images are refused before any pixel is decoded.
    decoder : str
        ``module:function`` that the processes call with the bytes, ``formats`` and
        ``max_pixels``; it returns an RGB picture or raises ImageError.

    Examples
    --------
    >>> with DecodePool(2, timeout=10) as pool:
    ...     future = pool.submit(path.read_bytes())
    ...     image = future.result()  # or raises ImageError
    """

    def __init__(
        self,
        workers: int,
        *,
        timeout: float = 60.0,
        formats: Sequence[str] = FORMATS,
        max_pixels: int = MAX_PIXELS,
        decoder: str = "featstore.images:decode_image",
    ) -> None:
        if workers < 1 or timeout <= 0:
            msg = f"A pool needs a worker and a time limit; got {workers} and {timeout:g} s."
            raise ValueError(msg)
        arguments = {"formats": list(formats), "max_pixels": max_pixels}
        self._processes = [WorkerProcess(decoder, arguments, timeout) for _ in range(workers)]
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closed = threading.Event()
        self._look = min(_LOOK_SECONDS, timeout * _LOOK_SHARE)
        self._threads = [
            threading.Thread(target=self._serve, args=(process,), daemon=True)
            for process in self._processes
        ]
        self._watch = threading.Thread(target=self._kill_late, daemon=True)
        for thread in (*self._threads, self._watch):
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, data: bytes) -> Future[Image.Image]:
        """Return the picture to come of an image file's bytes, which are kept until then.

        The future's result is an upright RGB picture, or it raises ImageError: the image
        cannot be decoded, crashed its decoder, or took too long.

        Raises
        ------
        RuntimeError
            If the pool is closed.
        """
        if self._closed.is_set():
            msg = "The pool is closed; make another one."
            raise RuntimeError(msg)
        future: Future[Image.Image] = Future()
        self._jobs.put((data, future))
        return future

    def close(self) -> None:
        """Cancel what has not begun, wait for what has, and end the processes."""
        if self._closed.is_set():
            return
        self._closed.set()
        for _ in self._threads:
            self._jobs.put(None)
        for thread in (*self._threads, self._watch):
            thread.join()

    def _serve(self, process: WorkerProcess) -> None:
        while (job := self._jobs.get()) is not None:
            data, future = job
            if self._closed.is_set():
                future.cancel()
                continue
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(process.decode(data))
            except BaseException as err:  # the future is how its owner hears of it
                future.set_exception(err)
        process.close()

    def _kill_late(self) -> None:
        while any(thread.is_alive() for thread in self._threads):
            self._closed.wait(self._look)
            if self._closed.is_set():
                # Only images in flight are waited for, so looking often costs nothing.
                self._threads[0].join(self._look)
            for process in self._processes:
                process.kill_if_late()
