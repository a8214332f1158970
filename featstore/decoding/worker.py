"""The process that decodes: image files come in on stdin, RGB pictures leave on stdout."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from typing import IO, Any

from featstore.decoding.frames import (
    PAINTED,
    PICTURE,
    READY,
    REFUSED,
    read_request,
    write_answer,
)
from featstore.images import ImageError

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
    surface = _surface(settings["surface"])
    write_answer(answers, READY, b"")
    while (data := read_request(requests)) is not None:
        _set_alarm(settings["timeout"] + GRACE)
        kind, body, size = _decode(decoder, data, settings["arguments"], surface)
        write_answer(answers, kind, body, *size)
        _set_alarm(0)


def _decode(
    decoder: Callable[..., Any], data: bytes, arguments: dict[str, Any], surface: Any
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


def _surface(given: list[int] | None) -> Any:
    if given is None:
        return None
    from featstore.decoding.surface import Surface

    return Surface(*given)


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


if __name__ == "__main__":
    main(sys.argv[1])
