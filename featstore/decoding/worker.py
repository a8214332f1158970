"""A decoding process: requests and answers on a pipe, runs of pictures in shared memory.

It decodes one picture and sends it whole, or reads, decodes, resizes and crops a run of items into
a slot of a ring. Where the system has no memory to share (only Linux's memfd is used), there are no
runs.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import mmap
import os
import pickle
import signal
import socket
import struct
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Protocol

from featstore.images import Geometry, ImageError

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

    def part(self, start: int, stop: int) -> Run:
        """Return some of the items as a run, which fills the same rows."""
        data = None if self.data is None else self.data[start:stop]
        return replace(self, items=self.items[start:stop], data=data, first=self.first + start)


@dataclass
class Decoded:
    """What a run gave beside pixels.

    Attributes
    ----------
    failures : dict
        Row of the slot -> reason, of the items that have no pixels.
    seconds : list of float
        Spent on reading, decoding, and preparing.
    whole : list of (size, bytes)
        Pictures of a run without a slot, as they were decoded.
    """

    failures: dict[int, str] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    whole: list[tuple[tuple[int, int], bytes]] = field(default_factory=list)

    def add(self, other: Decoded) -> None:
        """Take in what another part of the run gave."""
        self.failures |= other.failures
        self.seconds = [a + b for a, b in zip(self.seconds, other.seconds, strict=True)]


def send(pipe: io.BufferedRWPair, message: Any) -> None:
    """Send a request or an answer; its bytes are not copied, and `pickle.load` reads it."""
    pickle.dump(message, pipe)
    pipe.flush()


#: Seconds after the pool's own limit at which a worker that lost its pool ends itself.
GRACE = 5


def main(handle: str) -> None:
    """Answer requests until the pipe ends.

    The first says ``decoder`` (module:function), ``arguments`` for it, ``timeout`` in seconds, and
    ``ring``, None or the facts of the ring for runs. Others are a `Run`, whose answer is a
    `Decoded`; or "feed" and a pickled `Feed`, whose answer says whether it can be read here.

    Parameters
    ----------
    handle : str
        Descriptor of this end of the pipe, a socket.
    """
    pipe = socket.socket(fileno=int(handle)).makefile("rwb")
    with contextlib.suppress(ImportError):  # each image then says why
        # What a decoder imports, while who started this still loads a model.
        importlib.import_module("PIL.Image").preinit()
    settings = pickle.load(pipe)  # noqa: S301 -- from what started this process
    # An interrupt at the terminal goes to the whole group; the pool decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    decode = partial(resolve_name(settings["decoder"]), **settings["arguments"])
    ring = Ring(*settings["ring"]) if settings["ring"] else None
    limit, feed = settings["timeout"] + GRACE, Feed(None, ())
    send(pipe, "ready")
    while True:
        try:
            request = pickle.load(pipe)  # noqa: S301 -- likewise
        except (EOFError, OSError):
            return
        answer: Any = False
        if isinstance(request, Run):
            answer = _decode_run(decode, request, feed, ring, limit)
        else:
            with contextlib.suppress(Exception):  # a reader of a module that is not here
                feed = pickle.loads(request[1])  # noqa: S301 -- likewise
                _warm_up(feed.geometries)
                answer = True
        send(pipe, answer)
        _set_alarm(0)


def _warm_up(geometries: Sequence[Geometry]) -> None:
    """Import what geometries need, which takes seconds that are no image's."""
    from PIL import Image

    for geometry in geometries:
        with contextlib.suppress(Exception):  # each image then says why
            geometry.data(Image.new("RGB", (8, 8)))


def _decode_run(
    decode: Callable[[bytes], Image.Image], run: Run, feed: Feed, ring: Ring | None, limit: float
) -> Decoded:
    """Decode a run into its slot, if any, each item in so many seconds after it was read."""
    decoded = Decoded()
    given: Sequence[bytes | str | None] = run.data or [None] * len(run.items)
    for place, (values, data) in enumerate(zip(run.items, given, strict=True), run.first):
        _set_alarm(0)
        if ring is not None and run.slot is not None:
            ring.begin(run.slot, place, reading=True)
        times = [time.perf_counter()]
        try:
            if data is None and feed.reader is not None:
                data = feed.reader.read(dict(zip(run.names, values, strict=True)))
            if not isinstance(data, bytes):
                raise ImageError(data or "The item has no bytes.")
            if ring is not None and run.slot is not None:
                ring.begin(run.slot, place)
            _set_alarm(limit)
            times.append(time.perf_counter())
            image = decode(data)
            times.append(time.perf_counter())
            if ring is not None and run.slot is not None:
                ring.put(run.slot, place, [one.data(image) for one in feed.geometries])
            else:
                decoded.whole.append((image.size, image.tobytes()))
        except Exception as err:
            decoded.failures[place] = reason_of(err)
        times.append(time.perf_counter())
        for stage, (begun, ended) in enumerate(pairwise(times)):
            decoded.seconds[stage] += ended - begun
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


SUPPORTED = hasattr(os, "memfd_create")

_PLACE = struct.Struct("<Q")


def shared_memory() -> int:
    """Return a handle of memory that other processes can map, of no size yet."""
    return os.memfd_create("pixels", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


class Ring:
    """Slots of a fixed number of pictures, each in one or more shapes.

    The job takes a slot for each run of pictures, a process writes it, and the job lends its rows
    to the encoders; a slot is free again when nobody has an array of it any more. Where encoders
    hold more than the slots to spare, rows are copied, so that a slot is always free.

    Parameters
    ----------
    handle : int
        Of the memory, as of `shared_memory`; what is lent goes with its last array.
    slots, length : int
        Slots, and pictures of each.
    shapes : sequence of (height, width, 3)
        Of a picture, uint8.
    flying : int
        Slots that may be with the processes at once.
    """

    def __init__(
        self,
        handle: int,
        slots: int,
        length: int,
        shapes: Sequence[tuple[int, int, int]],
        flying: int,
    ) -> None:
        self.handle, self.slots, self.length, self.flying = handle, slots, length, flying
        self.shapes = shapes
        #: What another process calls this with.
        self.facts = (handle, slots, length, shapes, flying)
        self._bytes = [height * width * depth for height, width, depth in self.shapes]
        self._starts = [0]
        for n_bytes in self._bytes:
            self._starts.append(self._starts[-1] + n_bytes * length)
        self._stride = _stride(shapes, length)
        self._map = mmap.mmap(handle, slots * self._stride)
        self._free = deque(range(slots))
        self._taken = 0

    @classmethod
    def make(
        cls, handle: int, length: int, shapes: Sequence[tuple[int, int, int]], *, flying: int,
        spare: int,
    ) -> Ring:  # fmt: skip
        """Return a ring in new memory: slots that may be with processes, and that may be lent."""
        import fcntl  # POSIX alone has it

        slots = flying + spare
        os.ftruncate(handle, slots * _stride(shapes, length))
        # A worker gone wrong must not cut the memory off under its reader.
        fcntl.fcntl(handle, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        return cls(handle, slots, length, shapes, flying)

    @property
    def full(self) -> bool:
        """Whether as many slots are with the processes as may be."""
        return self._taken == self.flying

    def take(self) -> int:
        """Return a free slot; there is one unless the ring is full."""
        self._taken += 1
        return self._free.pop()  # the one used last: its memory is there already

    def lend(self, slot: int, count: int) -> list[list[Any]]:
        """Return the first rows of a slot that was taken, a list for each shape."""
        import numpy as np

        self._taken -= 1
        memory = np.frombuffer(self._map, np.uint8, self._stride, slot * self._stride)
        parts = [
            memory[start : start + count * n_bytes]
            for start, n_bytes in zip(self._starts, self._bytes, strict=False)
        ]
        held = self.slots - len(self._free) - self._taken
        if held > self.slots - self.flying:
            parts = [part.copy() for part in parts]
            self._free.append(slot)
        else:  # whatever holds a row holds this array, its base
            weakref.finalize(memory, self._free.append, slot).atexit = False
        return [
            list(part.reshape(count, *shape))
            for part, shape in zip(parts, self.shapes, strict=True)
        ]

    def put(self, slot: int, place: int, pixels: Sequence[bytes]) -> None:
        """Write a picture, in each of the shapes, as row `place` of a slot."""
        for start, n_bytes, data in zip(self._starts, self._bytes, pixels, strict=False):
            at = slot * self._stride + start + place * n_bytes
            self._map[at : at + n_bytes] = data

    def begin(self, slot: int, place: int, *, reading: bool = False) -> None:
        """Note that a process begins with a picture, or with reading its file."""
        _PLACE.pack_into(self._map, (slot + 1) * self._stride - _PLACE.size, 2 * place + reading)

    def under_way(self, slot: int) -> tuple[int, bool]:
        """Return the picture that a process has begun with last, and whether it reads its file."""
        (noted,) = _PLACE.unpack_from(self._map, (slot + 1) * self._stride - _PLACE.size)
        return noted // 2, bool(noted % 2)


def _stride(shapes: Sequence[tuple[int, int, int]], length: int) -> int:
    """Return the bytes of a slot, with the number of the picture under way at its end."""
    pixels = length * sum(height * width * depth for height, width, depth in shapes)
    return -(-(pixels + _PLACE.size) // mmap.PAGESIZE) * mmap.PAGESIZE
