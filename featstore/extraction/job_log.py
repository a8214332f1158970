"""The log of a job: JSON lines beside the store, appended as things happen."""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

from featstore.errors import StoreWriteError


def log_beside(store: Path) -> Path:
    """Return where the log of a store's extractions lies: beside it, since it is no part of it."""
    whole = store.absolute()
    return whole.with_name(f"{whole.name}.extract.jsonl")


class JobLog:
    """Appends one JSON object a line; several processes may write to one file.

    Parameters
    ----------
    path : Path, optional
        None writes nothing.

    Raises
    ------
    StoreWriteError
        If the file cannot be opened.
    """

    def __init__(self, path: Path | None) -> None:
        self._handle = -1
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        except OSError as err:
            msg = (
                f"Cannot write the log {path}: {err.strerror or err}. Name another file with "
                "--log, or do without (--no-log)."
            )
            raise StoreWriteError(msg) from err

    def write(self, event: str, **facts: Any) -> None:
        """Append an event: ``time`` (UTC), ``event``, and what is known of it."""
        if self._handle < 0:
            return
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
        row = {"time": f"{stamp}.{int(now * 1000) % 1000:03d}Z", "event": event, **facts}
        # One write a line: lines of two processes do not mix.
        # A log that cannot be written is no reason to lose a job.
        with contextlib.suppress(OSError):
            os.write(self._handle, json.dumps(row, ensure_ascii=False).encode() + b"\n")

    def close(self) -> None:
        """Close the file."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
