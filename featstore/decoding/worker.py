"""A decoding process: frames on a pipe, pixels in shared memory.

A pixel takes four bytes, as in Pillow's own memory: both sides then copy rows as they are.
Where the system has no such memory (only Linux's memfd is used), pictures go through the pipe.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import struct
import sys
from collections.abc import Callable
from importlib import import_module
from typing import IO, TYPE_CHECKING, Any

from featstore.images import ImageError

if TYPE_CHECKING:
    from PIL import Image

#: A picture: width, height, and 3 bytes a pixel.
PICTURE = 0

#: The image cannot be decoded: the reason, in UTF-8.
REFUSED = 1

#: A picture that lies on the shared surface; no bytes follow.
PAINTED = 3

#: The worker is ready for work.
READY = 2

_REQUEST = struct.Struct("<Q")
_ANSWER = struct.Struct("<BIIQ")


def write_request(pipe: IO[bytes], data: bytes) -> None:
    """Send the bytes of an image file."""
    pipe.write(_REQUEST.pack(len(data)))
    pipe.write(data)
    pipe.flush()


def read_request(pipe: IO[bytes]) -> bytes | None:
    """Return the next image file, or None if the other side has gone."""
    head = pipe.read(_REQUEST.size)
    if len(head) < _REQUEST.size:
        return None
    (size,) = _REQUEST.unpack(head)
    data = pipe.read(size)
    return data if len(data) == size else None


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
        JSON: ``decoder`` (module:function), ``arguments`` for it, ``timeout`` in seconds and
        ``surface``, null or the handle and size of the memory to paint.
    """
    settings = json.loads(config)
    requests = sys.stdin.buffer
    answers = _private_stdout()
    # An interrupt at the terminal goes to the whole group; the pool decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    module, name = settings["decoder"].split(":")
    decoder: Callable[..., Any] = getattr(import_module(module), name)
    surface = Surface(*settings["surface"]) if settings["surface"] else None
    write_answer(answers, READY, b"")
    while (data := read_request(requests)) is not None:
        _set_alarm(settings["timeout"] + GRACE)
        kind, body, size = _decode(decoder, data, settings["arguments"], surface)
        write_answer(answers, kind, body, *size)
        _set_alarm(0)


def _decode(
    decoder: Callable[..., Any], data: bytes, arguments: dict[str, Any], surface: Surface | None
) -> tuple[int, bytes, tuple[int, int]]:
    try:
        image = decoder(data, **arguments)
        if surface is not None and surface.paint(image):
            return PAINTED, b"", image.size
        return PICTURE, image.tobytes(), image.size
    except ImageError as err:
        reason = str(err)
    except MemoryError:
        reason = "Cannot decode the image: there is not enough memory."
    except Exception as err:
        # Whatever escapes the decoder is about this one image.
        reason = f"Cannot decode the image: {type(err).__name__}: {' '.join(str(err).split())}."
    return REFUSED, reason.encode("utf-8", "replace"), (0, 0)


def _private_stdout() -> IO[bytes]:
    """Return stdout, and let what libraries print there vanish instead of mixing in."""
    answers = os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
    return answers


def _set_alarm(seconds: float) -> None:
    """End this process after so many seconds, also inside C code; 0 calls it off."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


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
        import fcntl  # POSIX alone has it

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


if __name__ == "__main__":
    main(sys.argv[1])
