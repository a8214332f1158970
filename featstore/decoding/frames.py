"""What goes through the pipes between a pool and its workers: a head, then bytes."""

from __future__ import annotations

import struct
from typing import IO

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
