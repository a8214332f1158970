"""A ring of shared memory: processes write pixels into its slots, the job reads them there."""

from __future__ import annotations

import mmap
import os
import struct
import weakref
from collections import deque
from collections.abc import Sequence
from typing import Any

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
        # Whatever holds a row holds this array, its base.
        held = self.slots - len(self._free) - self._taken
        if held > self.slots - self.flying:
            memory = memory.copy()
            self._free.append(slot)
        else:
            weakref.finalize(memory, self._free.append, slot).atexit = False
        return [
            list(memory[start : start + count * n_bytes].reshape(count, *shape))
            for start, n_bytes, shape in zip(self._starts, self._bytes, self.shapes, strict=False)
        ]

    def put(self, slot: int, place: int, pixels: Sequence[bytes]) -> None:
        """Write a picture, in each of the shapes, as row `place` of a slot."""
        for start, n_bytes, data in zip(self._starts, self._bytes, pixels, strict=False):
            at = slot * self._stride + start + place * n_bytes
            self._map[at : at + n_bytes] = data

    def begin(self, slot: int, place: int) -> None:
        """Note that a process begins with a picture."""
        _PLACE.pack_into(self._map, (slot + 1) * self._stride - _PLACE.size, place)

    def under_way(self, slot: int) -> int:
        """Return the picture that a process has begun with last."""
        (place,) = _PLACE.unpack_from(self._map, (slot + 1) * self._stride - _PLACE.size)
        return int(place)

    def close(self) -> None:
        """Give the memory back, but for what is lent: that goes with its last array."""
        os.close(self.handle)


def _stride(shapes: Sequence[tuple[int, int, int]], length: int) -> int:
    """Return the bytes of a slot, with the number of the picture under way at its end."""
    pixels = length * sum(height * width * depth for height, width, depth in shapes)
    return -(-(pixels + _PLACE.size) // mmap.PAGESIZE) * mmap.PAGESIZE
