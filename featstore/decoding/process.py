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

from featstore.decoding.frames import PICTURE, READY, read_answer, write_request
from featstore.images import ImageError

if TYPE_CHECKING:
    from PIL import Image

#: Seconds that a worker may take to import its decoder.
START_TIMEOUT = 120.0


class WorkerProcess:
    """A decoding process; used by one thread, while another may call `kill_if_late`."""

    def __init__(self, decoder: str, arguments: Mapping[str, Any], timeout: float) -> None:
        self._timeout = timeout
        self._config = json.dumps(
            {"decoder": decoder, "arguments": dict(arguments), "timeout": timeout}
        )
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
        RuntimeError
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
            raise ImageError(self._obituary(len(data)))
        kind, width, height, body = answer
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
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            _reap(process)

    def _set_deadline(self, seconds: float | None) -> None:
        with self._lock:
            self._deadline = None if seconds is None else time.monotonic() + seconds

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self.close()
        self._late = False
        path = os.pathsep.join(part or str(Path.cwd()) for part in sys.path)
        process = subprocess.Popen(  # this interpreter, and no shell
            [sys.executable, "-m", "featstore.decoding.worker", self._config],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
        )
        with self._lock:
            self._process = process
        self._set_deadline(START_TIMEOUT)
        stdout: IO[bytes] | None = process.stdout
        assert stdout is not None
        answer = read_answer(stdout)
        self._set_deadline(None)
        if answer is None or answer[0] != READY:
            self.close()
            msg = (
                f"A decoding process did not start (exit status {process.returncode}): "
                "python -m featstore.decoding.worker must be able to import its decoder."
            )
            raise RuntimeError(msg)
        return process

    def _obituary(self, n_bytes: int) -> str:
        """Return why there is no picture, and forget the process."""
        process, self._process = self._process, None
        assert process is not None
        process.kill()
        _reap(process)
        if self._late:
            reason = f"decoding took longer than {self._timeout:g} s"
        else:
            reason = f"the decoder crashed ({_status(process.returncode)})"
        return f"Cannot decode {n_bytes:,} bytes: {reason}."


def _status(code: int) -> str:
    if code >= 0:
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
