"""A decoding process: frames on a pipe, runs of pictures in shared memory.

It decodes one picture and sends it whole, or reads, decodes, resizes and crops a run of items into
a slot of a ring. Where the system has no memory to share (only Linux's memfd is used), there are no
runs.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import pickle
import signal
import struct
import sys
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from itertools import pairwise
from typing import IO, TYPE_CHECKING, Any, Protocol

from featstore.images import Geometry, ImageError

if TYPE_CHECKING:
    from PIL import Image

#: A picture: width, height, and 3 bytes a pixel.
PICTURE = 0

#: The image cannot be decoded: the reason, in UTF-8.
REFUSED = 1

#: The worker is ready for work.
READY = 2

#: A run was decoded into its slot: what there is to say of it, pickled.
DECODED = 4

#: Requests: an image file, a run, and what runs have in common, before the first of them.
FILE, RUN, FEED = range(3)

_REQUEST = struct.Struct("<BQ")
_ANSWER = struct.Struct("<BIIQ")


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
    """Items whose pictures go into one slot, from row `first` on.

    Attributes
    ----------
    names : tuple of str
        Columns of the items.
    items : list of tuples
        Their values, a tuple an item.
    data : list of bytes or str, optional
        Their files, read before; a str says why one could not be.
    """

    slot: int
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
    """

    failures: dict[int, str] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])

    def add(self, other: Decoded) -> None:
        """Take in what another part of the run gave."""
        self.failures |= other.failures
        self.seconds = [a + b for a, b in zip(self.seconds, other.seconds, strict=True)]


def write_request(pipe: IO[bytes], data: bytes, kind: int = FILE) -> None:
    """Send the bytes of an image file, or a pickled run or feed."""
    pipe.write(_REQUEST.pack(kind, len(data)))
    pipe.write(data)
    pipe.flush()


def read_request(pipe: IO[bytes]) -> tuple[int, bytes] | None:
    """Return the kind and the bytes of the next request, or None if the other side has gone."""
    head = pipe.read(_REQUEST.size)
    if len(head) < _REQUEST.size:
        return None
    kind, size = _REQUEST.unpack(head)
    data = pipe.read(size)
    return (kind, data) if len(data) == size else None


def write_answer(
    pipe: IO[bytes], kind: int, body: bytes | memoryview, width: int = 0, height: int = 0
) -> None:
    """Send a picture or a reason."""
    pipe.write(_ANSWER.pack(kind, width, height, len(body)))
    pipe.write(body)
    pipe.flush()


def read_answer(pipe: IO[bytes]) -> tuple[int, int, int, bytearray] | None:
    """Return (kind, width, height, body), or None if the other side has gone in between."""
    head = pipe.read(_ANSWER.size)
    if len(head) < _ANSWER.size:
        return None
    kind, width, height, size = _ANSWER.unpack(head)
    body = bytearray(size)
    view, done = memoryview(body), 0
    while done < size:
        count = pipe.readinto(view[done:])  # type: ignore[attr-defined]
        if not count:
            return None
        done += count
    return kind, width, height, body


#: Seconds after the pool's own limit at which a worker that lost its pool ends itself.
GRACE = 5


def main(config: str) -> None:
    """Answer requests until stdin ends.

    Parameters
    ----------
    config : str
        JSON: ``decoder`` (module:function), ``arguments`` for it, ``timeout`` in seconds,
        and ``ring``, null or the facts of the ring for runs.
    """
    settings = json.loads(config)
    requests = sys.stdin.buffer
    answers = _private_stdout()
    # An interrupt at the terminal goes to the whole group; the pool decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    module, name = settings["decoder"].split(":")
    decode: Callable[..., Any] = getattr(import_module(module), name)
    ring = Ring(*settings["ring"]) if settings["ring"] else None
    limit, arguments = settings["timeout"] + GRACE, settings["arguments"]
    feed: Feed | None = None
    write_answer(answers, READY, b"")
    while (request := read_request(requests)) is not None:
        kind, data = request
        if kind == FEED:
            try:
                feed = pickle.loads(data)  # noqa: S301 -- from the process that started this one
                _warm_up(feed.geometries)
                write_answer(answers, READY, b"")
            except Exception:  # a reader of a module that this process cannot import
                write_answer(answers, REFUSED, b"")
        elif kind == RUN and feed is not None and ring is not None:
            run = pickle.loads(data)  # noqa: S301 -- likewise
            decoded = _decode_run(lambda data: decode(data, **arguments), run, feed, ring, limit)
            write_answer(answers, DECODED, pickle.dumps(decoded))
        else:
            _set_alarm(limit)
            write_answer(answers, *_decode(decode, data, arguments))
        _set_alarm(0)


def _warm_up(geometries: Sequence[Geometry]) -> None:
    """Import what geometries need, which takes seconds that are no image's."""
    from PIL import Image

    for geometry in geometries:
        with contextlib.suppress(Exception):  # each image then says why
            geometry.data(Image.new("RGB", (8, 8)))


def _decode(
    decoder: Callable[..., Any], data: bytes, arguments: dict[str, Any]
) -> tuple[int, bytes, int, int]:
    try:
        image = decoder(data, **arguments)
        return PICTURE, image.tobytes(), *image.size
    except Exception as err:
        return REFUSED, reason_of(err).encode("utf-8", "replace"), 0, 0


def _decode_run(
    decode: Callable[[bytes], Image.Image], run: Run, feed: Feed, ring: Ring, limit: float
) -> Decoded:
    """Decode a run into its slot, each item within so many seconds after it was read."""
    decoded = Decoded()
    given: Sequence[bytes | str | None] = run.data or [None] * len(run.items)
    for place, (values, data) in enumerate(zip(run.items, given, strict=True), run.first):
        _set_alarm(0)
        ring.begin(run.slot, place, reading=True)
        times = [time.perf_counter()]
        try:
            if data is None and feed.reader is not None:
                data = feed.reader.read(dict(zip(run.names, values, strict=True)))
            if not isinstance(data, bytes):
                raise ImageError(data or "The item has no bytes.")
            ring.begin(run.slot, place)
            _set_alarm(limit)
            times.append(time.perf_counter())
            image = decode(data)
            times.append(time.perf_counter())
            pictures = [geometry.data(image) for geometry in feed.geometries]
            ring.put(run.slot, place, pictures)
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


def _private_stdout() -> IO[bytes]:
    """Return stdout, and let what libraries print there vanish instead of mixing in."""
    answers = os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
    return answers


def _set_alarm(seconds: float) -> None:
    """End this process after so many seconds, also inside C code; 0 calls it off."""
    signal.setitimer(signal.ITIMER_REAL, seconds)


SUPPORTED = hasattr(os, "memfd_create")

_PLACE = struct.Struct("<Q")


def shared_memory(name: str, size: int) -> int:
    """Return a handle of so many bytes that other processes can map; they cost nothing unused."""
    import fcntl  # POSIX alone has it

    handle = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(handle, size)
    # A worker gone wrong must not cut the memory off under its reader.
    fcntl.fcntl(handle, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
    return handle


class Ring:
    """Slots of a fixed number of pictures, each in one or more shapes.

    The job takes a slot for each run of pictures, a process writes it, and the job lends its rows
    to the encoders; a slot is free again when nobody has an array of it any more. Where encoders
    hold more than the slots to spare, rows are copied, so that a slot is always free.

    Parameters
    ----------
    handle : int
        Of the memory; `make` makes one.
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
        cls, length: int, shapes: Sequence[tuple[int, int, int]], *, flying: int, spare: int
    ) -> Ring:
        """Return a new ring: so many slots may be with processes, and as many spare be lent."""
        slots = flying + spare
        handle = shared_memory("pixels", slots * _stride(shapes, length))
        return cls(handle, slots, length, shapes, flying)

    def facts(self) -> list[object]:
        """Return what `__init__` takes in another process."""
        return [self.handle, self.slots, self.length, self.shapes, self.flying]

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

    def close(self) -> None:
        """Give the memory back, but for what is lent: that goes with its last array."""
        os.close(self.handle)


def _stride(shapes: Sequence[tuple[int, int, int]], length: int) -> int:
    """Return the bytes of a slot, with the number of the picture under way at its end."""
    pixels = length * sum(height * width * depth for height, width, depth in shapes)
    return -(-(pixels + _PLACE.size) // mmap.PAGESIZE) * mmap.PAGESIZE
