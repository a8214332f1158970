"""A pool of processes that decode images, with a time limit an image.

Each process has one image, or one run of them, at a time, and a thread of the pool that waits for
it. A process that dies takes exactly the image under way with it: what else was in its run is done
again in a new one.

nvJPEG rounds differently from Pillow's decoder, so what it decodes is another preprocessing, and
`RULE` is a keyed fact of the space.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import queue
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import compress
from typing import TYPE_CHECKING, Any, Self

from featstore.decoding.worker import (
    SUPPORTED,
    Decoded,
    Feed,
    Reader,
    Ring,
    Run,
    send,
    shared_memory,
)
from featstore.errors import DecoderStartError, is_out_of_memory
from featstore.images import FORMATS, MAX_PIXELS, ImageError, decode_image, opened_image
from featstore.parallel import ONE_THREAD, start_python

if TYPE_CHECKING:
    import torch
    from PIL import Image

#: glibc would give the memory of each picture back to the system and fault it in again for the
#: next one, which costs as much as decoding (2.9 ms for 640 × 480 pixels, 1.7 with this).
_MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": str(2**28),
    "MALLOC_TRIM_THRESHOLD_": str(2**28),
    "MALLOC_TOP_PAD_": str(2**26),
}

#: What a decoding process runs.
_MAIN = "from featstore.decoding.worker import main; main(sys.argv[1])"

#: What reading from a process raises that has died.
_DIED = (EOFError, OSError, pickle.UnpicklingError)

#: Seconds that a process whose pipe is closed has to end by itself.
_LAST_WORDS = 5.0

#: Seconds that a worker may take to import its decoder.
START_TIMEOUT = 120.0


class WorkerProcess:
    """A decoding process; used by one thread, while another may call `kill_if_late`.

    Parameters
    ----------
    decoder : str
        ``module:function``.
    arguments : mapping
        What the function is called with beside the bytes; ``max_pixels`` among it.
    timeout : float
        Seconds that one image may take, not counting those in which a run reads it.
    memory : int, optional
        Handle of the memory that it shares.

    Attributes
    ----------
    feed, ring : Feed and Ring, or None
        What is done with the items of runs, and into what they are decoded; see
        `DecodePool.take_runs`.
    """

    feed: Feed | None = None
    ring: Ring | None = None

    def __init__(
        self, decoder: str, arguments: Mapping[str, Any], timeout: float, memory: int | None = None
    ) -> None:
        self._timeout, self._memory = timeout, memory
        self._reader: Reader | None = None
        self._config = {"decoder": decoder, "arguments": dict(arguments), "timeout": timeout}
        self._told = False
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: io.BufferedRWPair
        self._lock = threading.Lock()
        self._deadline: float | None = None
        self._late = self._was_late = self._closing = False
        self._under_way: tuple[int, tuple[int, bool]] | None = None

    def decode(self, data: bytes) -> Image.Image:
        """Return the RGB picture in `data`.

        Raises
        ------
        ImageError
            If it cannot be decoded, the process died over it, or it took too long. The next
            call then starts a new process.
        DecoderStartError
            If the process cannot be started.
        """
        from PIL import Image

        decoded = self.decode_run(Run(None, (), [()], data=[data]))
        for reason in decoded.failures.values():
            raise ImageError(reason)
        ((size, pixels),) = decoded.whole
        return Image.frombuffer("RGB", size, pixels, "raw", "RGB", 0, 1)

    def decode_run(self, run: Run) -> Decoded:
        """Decode a run into its slot.

        Where the process dies or hangs, what came before the picture under way and what comes
        after it are runs of a new process, and so is that picture if the process died: it alone
        says whether it is to blame.

        Raises
        ------
        DecoderStartError
            If the process cannot be started.
        CancelledError
            If the process was closed meanwhile.
        """
        self._running()  # which knows who reads
        if self._reader is not None and run.data is None:
            return self.decode_run(replace(run, data=[*self._read(self._reader, run)]))
        if not run.items:
            return Decoded()
        ring = self.ring
        if ring is not None and run.slot is not None:
            ring.begin(run.slot, run.first)
        answer = self._asked(run)
        if isinstance(answer, Decoded):
            return answer
        late, at = self._was_late, 0
        if ring is not None and run.slot is not None:
            at = ring.under_way(run.slot)[0] - run.first
        count = len(run.items)
        decoded = self.decode_run(run.part(0, at))
        if count == 1 or late:
            reason = f"Cannot decode the image: the decoder {answer}."
            decoded.failures[run.first + at] = reason
        else:
            decoded.add(self.decode_run(run.part(at, at + 1)))
        decoded.add(self.decode_run(run.part(at + 1, count)))
        return decoded

    @staticmethod
    def _read(reader: Reader, run: Run) -> Iterator[bytes | str]:
        """Yield the file of each item, or why it could not be read."""
        for values in run.items:
            try:
                yield reader.read(dict(zip(run.names, values, strict=True)))
            except OSError as err:
                yield str(err)

    def _asked(self, request: Run) -> Any:
        """Return the answer to a request, or how the process ended over it: a str."""
        self._running()
        self._set_deadline(self._timeout, request.slot)
        answer = None
        with contextlib.suppress(*_DIED):
            send(self._pipe, request)
            answer = pickle.load(self._pipe)  # noqa: S301 -- from a process that was started here
        self._set_deadline(None)
        if answer is None:
            if self._closing:
                self._end()
                raise CancelledError
            return self._exit_report(self._timeout)
        if self._late:  # killed just after it had answered: the next image must not pay for that
            self._end()
        return answer

    def stop(self) -> None:
        """Kill the process if it decodes runs, also one that starts: nobody waits for them."""
        with self._lock:
            self._closing = self.ring is not None or not self._told
            if self._closing and self._process is not None:
                self._process.kill()

    def kill_if_late(self) -> None:
        """Kill the process if its present image has taken too long, not counting its reading."""
        with self._lock:
            if self._under_way is not None and self.ring is not None:
                slot, before = self._under_way
                now = self.ring.under_way(slot)
                # A stall of the storage is no fault of the image.
                if (now != before or now[1]) and self._deadline is not None:
                    self._under_way = slot, now
                    self._deadline = time.monotonic() + self._timeout
            if self._deadline is not None and time.monotonic() > self._deadline:
                self._late = True
                self._deadline = None
                if self._process is not None:
                    self._process.kill()

    def close(self) -> None:
        """End the process for good."""
        self._end()

    def _end(self) -> int | None:
        """End the process and return its exit status."""
        process, self._process = self._process, None
        if process is None:
            return None
        process.kill()
        process.wait()
        with contextlib.suppress(OSError):  # what was left in the buffer has no reader any more
            self._pipe.close()
        return process.returncode

    def _set_deadline(self, seconds: float | None, slot: int | None = None) -> None:
        with self._lock:
            self._deadline = None if seconds is None else time.monotonic() + seconds
            self._under_way = None
            if slot is not None and self.ring is not None:
                self._under_way = slot, self.ring.under_way(slot)

    def start(self) -> None:
        """Start the process: it imports what decoders need, and waits to be told how to decode.

        Raises
        ------
        DecoderStartError
            If it cannot be started.
        """
        self._told = self._late = False
        ours, theirs = socket.socketpair()
        with ours:
            self._pipe = ours.makefile("rwb")
        nowhere = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        try:
            process = start_python(
                _MAIN,
                str(theirs.fileno()),
                **nowhere,
                env={**_MALLOC, **os.environ, **ONE_THREAD},
                pass_fds=[theirs.fileno(), *([] if self._memory is None else [self._memory])],
            )
        except OSError as err:
            # No fault of the image: the job ends here, and no item is called unreadable.
            raise DecoderStartError(
                f"A decoding process cannot be started: {err}. Decode in threads instead "
                "(-s timeout=0), or let this user run the interpreter."
            ) from err
        finally:
            theirs.close()
        with self._lock:
            self._process = process
            if self._closing:
                process.kill()

    def _running(self) -> subprocess.Popen[bytes]:
        """Return the process, started again if it has died, once it can decode."""
        if self._process is None or (self._told and self._process.poll() is not None):
            self._end()
            self.start()
        process = self._process
        assert process is not None
        if self._told:
            return process
        self._set_deadline(START_TIMEOUT)
        ready = False
        with contextlib.suppress(*_DIED):
            send(self._pipe, {**self._config, "ring": self.ring and self.ring.facts})
            ready = pickle.load(self._pipe)  # noqa: S301 -- likewise
            ready = ready and (self.feed is None or self._takes(self.feed))
        self._set_deadline(None)
        if self._closing:
            raise CancelledError
        if not ready:
            raise DecoderStartError(
                f"A decoding process did not start: it {self._exit_report(START_TIMEOUT)}. Check "
                "that this Python can import featstore.decoding.worker and its decoder."
            )
        self._told = True
        return process

    def _takes(self, feed: Feed) -> bool:
        """Say what runs have in common; a reader that cannot go there stays here."""
        for one in (feed, replace(feed, reader=None)):
            with contextlib.suppress(Exception):  # whatever a reader holds; and a broken pipe
                send(self._pipe, ("feed", pickle.dumps(one)))
                if pickle.load(self._pipe):  # noqa: S301 -- likewise
                    return True
            self._reader = feed.reader
        return False

    def _exit_report(self, limit: float) -> str:
        """Return how the process ended, and forget it."""
        if self._process is not None and not self._late:
            # The pipe closes a moment before the exit status is there.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=_LAST_WORDS)
        status, self._was_late = self._end(), self._late
        return f"took longer than {limit:g} s" if self._late else f"crashed ({exit_status(status)})"


def exit_status(code: int | None) -> str:
    """Return how a process ended, in words: by a signal, or with an exit status."""
    if code is None or code >= 0:
        return f"exit status {code}"
    names = {one.value: one.name for one in signal.Signals}
    return names.get(-code, f"signal {-code}")


#: How often late workers are looked for, as a share of the time limit, and at least.
_LOOK_SHARE = 0.1
_LOOK_SECONDS = 1.0


class DecodePool:
    """Decode images in worker processes.

    Parameters
    ----------
    workers : int
        Processes; they start with the first images, or at once by `start`, and are replaced when
        they die.
    timeout : float
        Seconds that one image may take, not counting those in which a run reads it; measured to
        within a tenth.
    formats : sequence of str
        Pillow's names of the formats that are tried. TIFF must be asked for.
    max_pixels : int
        Larger images are refused before any pixel is decoded.
    scaled : bool
        Whether large JPEG files are decoded scaled (`featstore.images.decode_image`).
    decoder : str
        ``module:function`` that the processes call with the bytes, ``formats``, ``max_pixels``,
        ``scaled`` and ``metadata``; it returns an RGB picture or raises ImageError.

    Attributes
    ----------
    memory : int or None
        Handle of what is shared with the processes, for a `Ring`; None where the system has none.

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
        scaled: bool = False,
        decoder: str = "featstore.images:decode_image",
    ) -> None:
        if workers < 1 or timeout <= 0:
            raise ValueError(
                f"A pool needs a worker and a time limit; got {workers} and {timeout:g} s."
            )
        arguments = {
            "formats": list(formats),
            "max_pixels": max_pixels,
            "scaled": scaled,
            "metadata": True,  # only pixels leave the process
        }
        self.memory = shared_memory() if SUPPORTED else None
        self._processes = [
            WorkerProcess(decoder, arguments, timeout, self.memory) for _ in range(workers)
        ]
        self._idle: queue.SimpleQueue[WorkerProcess] = queue.SimpleQueue()
        for process in self._processes:
            self._idle.put(process)
        self._threads = ThreadPoolExecutor(workers, "decode")
        self._closed = threading.Event()
        self._look = min(_LOOK_SECONDS, timeout * _LOOK_SHARE)
        self._watch = threading.Thread(target=self._kill_late, daemon=True)
        self._watch.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> Self:
        """Start the processes before there are images."""
        for process in self._processes:
            process.start()
        return self

    def take_runs(self, feed: Feed, ring: Ring) -> None:
        """Say what is done with the items of runs, and into what they are decoded: before any."""
        for process in self._processes:
            process.feed, process.ring = feed, ring

    def submit(self, data: bytes) -> Future[Image.Image]:
        """Return the picture to come of an image file's bytes, which are kept until then.

        The future's result is an upright RGB picture, or it raises ImageError: the image
        cannot be decoded, crashed its decoder, or took too long.

        Raises
        ------
        RuntimeError
            If the pool is closed.
        """
        return self._threads.submit(self._by_one, WorkerProcess.decode, data)

    def submit_run(self, run: Run) -> Future[Decoded]:
        """Return what is to come of a run beside its pixels.

        Raises
        ------
        RuntimeError
            If the pool is closed.
        """
        return self._threads.submit(self._by_one, WorkerProcess.decode_run, run)

    def _by_one(self, work: Callable[[WorkerProcess, Any], Any], of: Any) -> Any:
        """Have a process do some work; there are as many as threads."""
        process = self._idle.get()
        try:
            return work(process, of)
        finally:
            self._idle.put(process)

    def close(self) -> None:
        """Cancel what has not begun, and runs; wait for the images, and end the processes."""
        if self._closed.is_set():
            return
        self._threads.shutdown(wait=False, cancel_futures=True)
        for process in self._processes:
            process.stop()
        self._threads.shutdown()
        self._closed.set()
        self._watch.join()
        for process in self._processes:
            process.close()
        if self.memory is not None:
            os.close(self.memory)

    def _kill_late(self) -> None:
        while not self._closed.wait(self._look):
            for process in self._processes:
                process.kill_if_late()


#: What is keyed beside the other rules of decoding.
RULE = "upright grey and RGB JPEG by nvJPEG, all else by Pillow"

#: Likewise, of those who resize there.
RESIZE_RULE = "torchvision, antialiased, on the device that decodes"

_ORIENTATION = 0x0112

#: Bytes at the end of a file among which the end marker of a whole one is.
_TAIL = 1024


def decode_on_gpu(data: bytes, device: str, **accepted: Any) -> Image.Image:
    """Decode an image file into an upright RGB picture, a plain JPEG on `device`.

    Parameters
    ----------
    data : bytes
    device : str
    **accepted
        ``formats`` and ``max_pixels`` of `featstore.images.decode_image`.

    Raises
    ------
    ImageError
        As `featstore.images.decode_image`.
    """
    from PIL import Image

    (found,) = decode_batch([data], device, **accepted)
    if isinstance(found, str):
        raise ImageError(found)
    return Image.fromarray(found.contiguous().cpu().numpy())


def decode_batch(
    files: Sequence[bytes | str], device: str, **accepted: Any
) -> list[torch.Tensor | str]:
    """Decode image files into (h, w, 3) uint8 tensors on a device, all plain JPEGs in one call.

    Parameters
    ----------
    files : sequence of bytes or str
        A str says why a file could not be read, and comes back.
    device : str
    **accepted
        ``formats`` and ``max_pixels`` of `featstore.images.decode_image`.

    Returns
    -------
    list of tensor or str
        Upright RGB pictures; a str says why there is none.
    """
    import numpy as np
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg

    most = accepted.get("max_pixels", MAX_PIXELS)
    plain = [isinstance(file, bytes) and is_plain_jpeg(file, max_pixels=most) for file in files]
    whole: Iterable[Any] = compress(files, plain)
    encoded = [torch.frombuffer(bytearray(file), dtype=torch.uint8) for file in whole]
    try:
        decoded = decode_jpeg(encoded, mode=ImageReadMode.RGB, device=device) if encoded else []
    except RuntimeError as err:  # one is damaged, or of a kind that nvJPEG lacks
        if len(files) > 1:
            return [one for file in files for one in decode_batch([file], device, **accepted)]
        if is_out_of_memory(err):
            raise
        decoded, plain = [], [False]
    pictures, found = iter(decoded), []
    for file, is_plain in zip(files, plain, strict=True):
        if is_plain:
            found.append(next(pictures).permute(1, 2, 0))
        elif isinstance(file, str):
            found.append(file)
        else:
            try:
                pixels = np.array(decode_image(file, **accepted))
                found.append(torch.from_numpy(pixels).to(device))
            except ImageError as err:
                found.append(str(err))
    return found


@contextlib.contextmanager
def own_stream(device: str) -> Iterator[None]:
    """Run the block's work on a stream of this thread; on return it is done, for every stream."""
    if not device.startswith("cuda"):
        yield
        return
    import torch

    stream: torch.cuda.Stream | None = getattr(_streams, device, None)
    if stream is None:
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        setattr(_streams, device, stream)
    with torch.cuda.stream(stream):
        yield
    stream.synchronize()


_streams = threading.local()


def is_plain_jpeg(data: bytes, *, max_pixels: int = MAX_PIXELS) -> bool:
    """Return whether the bytes are a whole, upright JPEG of grey or RGB, of an allowed size."""
    if not data.startswith(b"\xff\xd8") or b"\xff\xd9" not in data[-_TAIL:]:
        return False
    try:
        with opened_image(io.BytesIO(data), ["JPEG"]) as image:
            upright = image.getexif().get(_ORIENTATION, 1) in (0, 1)
            small = image.width * image.height <= max_pixels
            return upright and small and image.mode in ("L", "RGB")
    except Exception:  # whatever it is, decode_image says it in its own words
        return False
