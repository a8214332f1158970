"""Decoding in processes of their own: a crash or a hang costs one image, not the job.

Each process has one image, or one run of them, at a time, and a thread of the pool that waits for
it. Requests and answers go through a pipe, the pixels of runs through shared memory: a process
reads, decodes, resizes and crops a run of items into a slot of a ring. Where the system has no
memory to share (only Linux's memfd is used), there are no runs.

A process ends itself over an image that takes too long. Whatever ended it, the items of its run are
then done one by one in a new process, and an image over which that ends as well is lost alone.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import mmap
import os
import pickle
import queue
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Protocol, Self

from featstore.errors import DecoderStartError
from featstore.images import FORMATS, MAX_PIXELS, Geometry, ImageError

if TYPE_CHECKING:
    from PIL import Image


class Reader(Protocol):
    """Reads the bytes of an item, which must be those that its content hash names."""

    def read(self, item: Mapping[str, Any]) -> bytes:
        """Return them, or raise OSError."""


@dataclass(frozen=True)
class Feed:
    """What is done with every item of a run.

    Attributes
    ----------
    reader : Reader or None
        None if runs bring the bytes.
    geometries : tuple of Geometry
        What is made of each picture: one for each shape of the ring.
    """

    reader: Reader | None
    geometries: tuple[Geometry, ...]


@dataclass(frozen=True)
class Run:
    """Items whose pictures go into one slot, from row `first` on; without a slot they come back.

    Attributes
    ----------
    names : tuple of str
        Columns of the items.
    items : list of tuples
        Their values, a tuple an item.
    data : list of bytes or str, optional
        Their files, read before; a str says why one could not be.
    """

    slot: int | None
    names: tuple[str, ...]
    items: list[tuple[Any, ...]]
    first: int = 0
    data: list[bytes | str] | None = None

    def part(self, at: int) -> Run:
        """Return one of the items as a run, which fills the same row."""
        data = None if self.data is None else [self.data[at]]
        return replace(self, items=[self.items[at]], data=data, first=self.first + at)


@dataclass
class Decoded:
    """What a run gave.

    Attributes
    ----------
    failures : dict
        Row of the slot -> reason, of the items that have no pixels.
    whole : list of (size, bytes)
        Pictures of a run without a slot, as they were decoded.
    prepared : list of lists
        The items as each encoder takes them, None where one failed: once they were taken from
        their slot.
    """

    failures: dict[int, str] = field(default_factory=dict)
    whole: list[tuple[tuple[int, int], bytes]] = field(default_factory=list)
    prepared: list[list[Any]] = field(default_factory=list)


def send(pipe: io.BufferedRWPair, message: Any) -> None:
    """Send a request or an answer; its bytes are not copied, and `pickle.load` reads it."""
    pickle.dump(message, pipe)
    pipe.flush()


class Ring:
    """Slots of a fixed number of pictures, each in one or more shapes.

    The job takes a slot for each run of pictures, a process writes it, and the job copies its rows.

    Parameters
    ----------
    handle : int
        Of memory that other processes can map.
    slots, length : int
        Slots, as many as may be with the processes at once, and pictures of each.
    shapes : sequence of (height, width, 3)
        Of a picture, uint8.
    """

    def __init__(
        self, handle: int, slots: int, length: int, shapes: Sequence[tuple[int, int, int]]
    ) -> None:
        self.shapes = shapes
        #: What another process calls this with.
        self.facts = (handle, slots, length, shapes)
        self._bytes = [prod(shape) for shape in shapes]
        self._starts = [length * sum(self._bytes[:number]) for number in range(len(shapes))]
        self._stride = length * sum(self._bytes)
        os.ftruncate(handle, slots * self._stride)  # as large already in other processes
        self._map = mmap.mmap(handle, slots * self._stride)
        self._free = [*range(slots)]

    @property
    def full(self) -> bool:
        """Whether every slot is with the processes."""
        return not self._free

    def take(self) -> int:
        """Return a free slot: there is one unless the ring is full."""
        return self._free.pop()  # the one used last: its memory is there already

    def rows(self, slot: int, count: int) -> list[list[Any]]:
        """Return the first rows of a slot that was taken, a list for each shape, and free it."""
        import numpy as np

        found = []
        for start, n_bytes, shape in zip(self._starts, self._bytes, self.shapes, strict=True):
            at = slot * self._stride + start
            memory = np.frombuffer(self._map, np.uint8, count * n_bytes, at)
            found.append(list(memory.reshape(count, *shape).copy()))
        self._free.append(slot)
        return found

    def put(self, slot: int, place: int, pixels: Sequence[bytes]) -> None:
        """Write a picture, in each of the shapes, as row `place` of a slot."""
        for start, n_bytes, data in zip(self._starts, self._bytes, pixels, strict=True):
            at = slot * self._stride + start + place * n_bytes
            self._map[at : at + n_bytes] = data


#: Seconds that a worker may take to import its decoder, and what geometries need.
START_TIMEOUT = 120.0


def main(handle: str) -> None:
    """Answer each run with a `Decoded` until the pipe ends; what takes too long ends this process.

    First come `Settings`, whose answer says that all is imported. `handle` is the descriptor of
    this end of the pipe, a socket.
    """
    pipe = socket.socket(fileno=int(handle)).makefile("rwb")
    settings: Settings = pickle.load(pipe)  # noqa: S301 -- from what started this process
    _set_alarm(settings.start)
    # An interrupt at the terminal goes to the whole group; the pool decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(ImportError):  # each image then says why
        image = importlib.import_module("PIL.Image")
        image.preinit()
    decode = partial(resolve_name(settings.decoder), **settings.arguments)
    ring = Ring(*settings.ring) if settings.ring else None
    for geometry in settings.feed.geometries:  # what they import takes seconds that are no image's
        with contextlib.suppress(Exception):  # each image then says why
            geometry.data(image.new("RGB", (8, 8)))
    answer: Any = True
    while True:
        send(pipe, answer)
        _set_alarm(0)
        try:
            run = pickle.load(pipe)  # noqa: S301 -- likewise
        except (EOFError, OSError):
            return
        answer = _decode_run(decode, run, settings.feed, ring, settings.timeout)


def _decode_run(
    decode: Callable[[bytes], Image.Image], run: Run, feed: Feed, ring: Ring | None, limit: float
) -> Decoded:
    """Decode a run into its slot, if any, each item in so many seconds after it was read."""
    decoded = Decoded()
    given: Sequence[bytes | str | None] = run.data or [None] * len(run.items)
    for place, (values, data) in enumerate(zip(run.items, given, strict=True), run.first):
        _set_alarm(0)  # a stall of the storage is no fault of the image
        try:
            if data is None and feed.reader is not None:
                data = feed.reader.read(dict(zip(run.names, values, strict=True)))
            if not isinstance(data, bytes):
                raise ImageError(data or "The item has no bytes.")
            _set_alarm(limit)
            image = decode(data)
            if ring is not None and run.slot is not None:
                ring.put(run.slot, place, [one.data(image) for one in feed.geometries])
            else:
                decoded.whole.append((image.size, image.tobytes()))
        except Exception as err:
            decoded.failures[place] = reason_of(err)
    return decoded


def reason_of(err: Exception) -> str:
    """Return why an item has no picture."""
    if isinstance(err, ImageError | OSError):
        return str(err)
    if isinstance(err, MemoryError):
        return "Cannot decode the image: there is not enough memory."
    # Whatever escapes the decoder is about this one image.
    return (
        f"Cannot decode the image: {type(err).__name__}: {' '.join(str(err).split()).rstrip('.')}."
    )


def _set_alarm(seconds: float) -> None:
    """End this process after so many seconds, also inside C code; 0 calls it off."""
    signal.setitimer(signal.ITIMER_REAL, seconds)


#: glibc would give the memory of each picture back to the system and fault it in again for the
#: next one, which costs as much as decoding (2.9 ms for 640 × 480 pixels, 1.7 with this).
_MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": str(2**28),
    "MALLOC_TRIM_THRESHOLD_": str(2**28),
    "MALLOC_TOP_PAD_": str(2**26),
}

#: What a decoding process runs.
_MAIN = "from featstore.decoding import main; main(sys.argv[1])"

#: What reading from a process raises that has died.
_DIED = (EOFError, OSError, pickle.UnpicklingError)

#: Seconds that a process whose pipe is closed has to end by itself.
_LAST_WORDS = 5.0


@dataclass
class Settings:
    """What a decoding process is told first.

    Attributes
    ----------
    decoder : str
        ``module:function``.
    arguments : dict
        What the function is called with beside the bytes; ``max_pixels`` among it.
    timeout : float
        Seconds that one image may take, not counting those in which a run reads it.
    feed : Feed
    ring : tuple, optional
        The facts of the `Ring` for runs.
    start : float
        Seconds that the process has until it is ready.
    """

    decoder: str
    arguments: dict[str, Any]
    timeout: float
    feed: Feed = Feed(None, ())
    ring: tuple[Any, ...] | None = None
    start: float = field(default_factory=lambda: START_TIMEOUT)


class WorkerProcess:
    """A decoding process; used by one thread, while another may call `stop`.

    Parameters
    ----------
    settings : Settings
    memory : int, optional
        Handle of the memory that it shares.
    """

    def __init__(self, settings: Settings, memory: int | None = None) -> None:
        self._settings, self._memory = settings, memory
        self._closing = False
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: io.BufferedRWPair

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
        """Decode a run into its slot; where the process ends over it, each of its items alone.

        Raises
        ------
        DecoderStartError
            If the process cannot be started.
        CancelledError
            If the process was stopped meanwhile.
        """
        self._start()
        with contextlib.suppress(*_DIED):
            send(self._pipe, run)
            answer: Decoded = pickle.load(self._pipe)  # noqa: S301 -- it was started here
            return answer
        how = self._how_it_ended(self._settings.timeout)
        if len(run.items) == 1:
            return Decoded({run.first: f"Cannot decode the image: the decoder {how}."})
        decoded = Decoded()
        for at in range(len(run.items)):
            decoded.failures |= self.decode_run(run.part(at)).failures
        return decoded

    def stop(self) -> None:
        """Kill the process: nobody waits for what it does."""
        self._closing = True
        process = self._process
        if process is not None:
            process.kill()

    def close(self) -> int | None:
        """End the process, if there is one, and return its exit status."""
        process, self._process = self._process, None
        if process is None:
            return None
        process.kill()
        process.wait()
        with contextlib.suppress(OSError):  # what was left in the buffer has no reader any more
            self._pipe.close()
        return process.returncode

    def _how_it_ended(self, limit: float) -> str:
        """Say how a process ended that has closed its end of the pipe, and had so many seconds.

        What `stop` ended is a CancelledError.
        """
        if self._process is not None:
            # The pipe closes a moment before the exit status is there.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=_LAST_WORDS)
        status = self.close() or 0
        if self._closing:
            raise CancelledError
        if status == _LATE:
            return f"took longer than {limit:g} s"
        names = {one.value: one.name for one in signal.Signals}
        return f"crashed ({names.get(-status, f'exit status {status}')})"

    def _start(self) -> None:
        """Have the process run, started again if it has died, and be ready to decode."""
        from featstore.parallel import ONE_THREAD, start_python

        if self._process is not None and self._process.poll() is None:
            return
        self.close()
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
                f"A decoding process cannot be started: {err}. Let this user run the "
                "interpreter, or extract in threads: `headstock extract … -s timeout=0`."
            ) from err
        finally:
            theirs.close()
        self._process = process
        if self._closing:  # meanwhile
            process.kill()
        with contextlib.suppress(*_DIED):
            send(self._pipe, self._settings)
            pickle.load(self._pipe)  # noqa: S301 -- likewise
            return
        raise DecoderStartError(
            f"A decoding process did not start: it {self._how_it_ended(self._settings.start)}. "
            "Check that this Python can import featstore.decoding and its decoder."
        )


#: How a process ends that takes too long.
_LATE = -getattr(signal, "SIGALRM", 0)  # which Windows lacks


class DecodePool:
    """Decode images in worker processes.

    Parameters
    ----------
    workers : int
        Processes; they start with the first images, and are replaced when they die.
    timeout : float
        Seconds that one image may take, not counting those in which a run reads it.
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
        arguments = {
            "formats": list(formats),
            "max_pixels": max_pixels,
            "scaled": scaled,
            "metadata": True,  # only pixels leave the process
        }
        self.memory = os.memfd_create("pixels") if hasattr(os, "memfd_create") else None
        self._settings = Settings(decoder, arguments, timeout)
        self._reader: Reader | None = None  # that reads here
        self._processes = [WorkerProcess(self._settings, self.memory) for _ in range(workers)]
        self._idle: queue.SimpleQueue[WorkerProcess] = queue.SimpleQueue()
        for process in self._processes:
            self._idle.put(process)
        self._threads = ThreadPoolExecutor(workers, "decode")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def take_runs(self, feed: Feed, ring: Ring) -> None:
        """Say what is done with the items of runs, and into what they are decoded: before any.

        A reader that cannot leave this process reads here.
        """
        try:
            pickle.dumps(feed.reader)
        except TypeError:
            self._reader, feed = feed.reader, replace(feed, reader=None)
        self._settings.feed, self._settings.ring = feed, ring.facts

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
        """Return what is to come of a run beside its pixels; errors as of `submit`."""
        return self._threads.submit(self._by_one, WorkerProcess.decode_run, run)

    @staticmethod
    def _read(reader: Reader, run: Run) -> Iterator[bytes | str]:
        """Yield the file of each item, or why it could not be read."""
        for values in run.items:
            try:
                yield reader.read(dict(zip(run.names, values, strict=True)))
            except OSError as err:
                yield str(err)

    def _by_one(self, work: Callable[[WorkerProcess, Any], Any], of: Any) -> Any:
        """Have a process do some work; there are as many as threads."""
        process = self._idle.get()
        try:
            if self._reader is not None and isinstance(of, Run):
                of = replace(of, data=[*self._read(self._reader, of)])
            return work(process, of)
        finally:
            self._idle.put(process)

    def close(self) -> None:
        """Cancel what has not ended, and end the processes."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for process in self._processes:
            process.stop()
        self._threads.shutdown()
        for process in self._processes:
            process.close()
        if self.memory is not None:
            os.close(self.memory)
