"""Memory that a worker paints and its pool reads, so that pixels need not go through a pipe.

A pixel takes four bytes, as in Pillow's own memory: both sides then copy rows as they are.
Where the system has no such memory (only Linux's memfd is used), pictures go through the pipe.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

#: Bytes of a pixel: red, green, blue and one that is ignored.
PIXEL_BYTES = 4

#: What stays allocated between pictures; beyond it, memory goes back to the system.
KEPT_BYTES = 64 * 2**20

SUPPORTED = hasattr(os, "memfd_create")


class Surface:
    """A shared piece of memory for one picture at a time.

    Parameters
    ----------
    handle : int
        Of the memory; `make` makes one. The surface owns it.
    size : int
        Its bytes. They cost nothing until they are painted.
    """

    def __init__(self, handle: int, size: int) -> None:
        self.handle = handle
        self.size = size
        self._map = mmap.mmap(handle, size)

    @classmethod
    def make(cls, max_pixels: int) -> Surface:
        """Return a new surface for pictures of at most so many pixels."""
        size = max(1, max_pixels) * PIXEL_BYTES
        handle = os.memfd_create("decoded", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(handle, size)
        # A worker gone wrong must not cut the memory off under its reader.
        fcntl.fcntl(handle, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        return cls(handle, size)

    def paint(self, image: Image.Image) -> bool:
        """Copy an RGB picture into the memory; False if it does not fit."""
        n_bytes = image.width * image.height * PIXEL_BYTES
        if n_bytes > self.size:
            return False
        self._map[:n_bytes] = image.tobytes("raw", "RGBX")
        return True

    def picture(self, width: int, height: int) -> Image.Image:
        """Return a copy of what was painted."""
        from PIL import Image

        n_bytes = width * height * PIXEL_BYTES
        with memoryview(self._map) as whole, whole[:n_bytes] as painted:
            image = Image.frombytes("RGB", (width, height), painted, "raw", "RGBX")
        if n_bytes > KEPT_BYTES:
            self._map.madvise(mmap.MADV_REMOVE)
        return image

    def close(self) -> None:
        """Give the memory back."""
        self._map.close()
        os.close(self.handle)
