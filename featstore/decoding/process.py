"""One worker process as its pool sees it: started when needed, killed when late."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from featstore.decoding.frames import PAINTED, PICTURE, READY, read_answer, write_request
from featstore.errors import DecoderStartError
from featstore.images import ImageError

if TYPE_CHECKING:
    from PIL import Image

    from featstore.decoding.surface import Surface

#: glibc would give the memory of each picture back to the system and fault it in again for the
#: next one, which costs as much as decoding (2.9 ms for 640 × 480 pixels, 1.7 with this).
_MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": str(2**28),
    "MALLOC_TRIM_THRESHOLD_": str(2**28),
    "MALLOC_TOP_PAD_": str(2**26),
}

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
        Seconds that one image may take.
    """

    def __init__(self, decoder: str, arguments: Mapping[str, Any], timeout: float) -> None:
        self._timeout = timeout
        self._surface = _make_surface(arguments["max_pixels"])
        config = {
            "decoder": decoder,
            "arguments": dict(arguments),
            "timeout": timeout,
            "surface": self._surface and [self._surface.handle, self._surface.size],
        }
        self._config = json.dumps(config)
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._deadline: float | None = None
        self._late = False

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

        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        self._set_deadline(self._timeout)
        try:
            write_request(process.stdin, data)
            answer = read_answer(process.stdout)
        except OSError:  # a broken pipe: the process died while it was being written to
            answer = None
        finally:
            self._set_deadline(None)
        if answer is None:
            msg = f"Cannot decode {len(data):,} bytes: the decoder {self._bury(self._timeout)}."
            raise ImageError(msg)
        if self._late:  # killed just after it had answered: the next image must not pay for that
            self._end()
        kind, width, height, body = answer
        if kind == PAINTED and self._surface is not None:
            return self._surface.picture(width, height)
        if kind != PICTURE:
            raise ImageError(body.decode("utf-8"))
        return Image.frombuffer("RGB", (width, height), body, "raw", "RGB", 0, 1)

    def kill_if_late(self) -> None:
        """Kill the process if its present image has taken too long."""
        with self._lock:
            if self._deadline is not None and time.monotonic() > self._deadline:
                self._late = True
                self._deadline = None
                if self._process is not None:
                    self._process.kill()

    def close(self) -> None:
        """End the process for good."""
        self._end()
        if self._surface is not None:
            self._surface.close()
            self._surface = None

    def _end(self) -> int | None:
        """End the process and return its exit status."""
        process, self._process = self._process, None
        if process is None:
            return None
        process.kill()
        _reap(process)
        return process.returncode

    def _set_deadline(self, seconds: float | None) -> None:
        with self._lock:
            self._deadline = None if seconds is None else time.monotonic() + seconds

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._end()
        self._late = False
        path = os.pathsep.join(part or str(Path.cwd()) for part in sys.path)
        try:
            process = subprocess.Popen(  # this interpreter, and no shell
                [sys.executable, "-m", "featstore.decoding.worker", self._config],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**_MALLOC, **os.environ, "PYTHONPATH": path},
                pass_fds=() if self._surface is None else (self._surface.handle,),
            )
        except OSError as err:
            # No fault of the image: the job ends here, and no item is called unreadable.
            msg = (
                f"A decoding process cannot be started: {err}. Decode in threads instead "
                "(--decode-timeout 0), or let this user run the interpreter."
            )
            raise DecoderStartError(msg) from err
        with self._lock:
            self._process = process
        self._set_deadline(START_TIMEOUT)
        stdout: IO[bytes] | None = process.stdout
        assert stdout is not None
        answer = read_answer(stdout)
        self._set_deadline(None)
        if answer is None or answer[0] != READY:
            msg = (
                f"A decoding process did not start: it {self._bury(START_TIMEOUT)}. Check that "
                "`python -m featstore.decoding.worker` can import its decoder."
            )
            raise DecoderStartError(msg)
        return process

    def _bury(self, limit: float) -> str:
        """Return how the process ended, and forget it."""
        if self._process is not None and not self._late:
            # The pipe closes a moment before the exit status is there.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=_LAST_WORDS)
        status = self._end()
        return f"took longer than {limit:g} s" if self._late else f"crashed ({_status(status)})"


def _make_surface(max_pixels: int) -> Surface | None:
    try:
        from featstore.decoding.surface import SUPPORTED, Surface
    except ImportError:  # no fcntl: not a POSIX system
        return None
    return Surface.make(max_pixels) if SUPPORTED else None


def _status(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit status {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _reap(process: subprocess.Popen[bytes]) -> None:
    process.wait()
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        with contextlib.suppress(OSError):  # what was left in the buffer has no reader any more
            pipe.close()
