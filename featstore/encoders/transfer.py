"""Time that an encoder spends on bringing its batch to the device, for whoever measures it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_spent = threading.local()


@contextmanager
def transferring() -> Iterator[None]:
    """Count the time of the block: stacking a batch and copying it to the device.

    A copy that runs beside the device's work ends later; what is counted is how long this
    thread was kept.
    """
    started = time.perf_counter()
    try:
        yield
    finally:
        _spent.seconds = getattr(_spent, "seconds", 0.0) + time.perf_counter() - started


def take_transfer_seconds() -> float:
    """Return the seconds that this thread has spent so since the last call."""
    seconds: float = getattr(_spent, "seconds", 0.0)
    _spent.seconds = 0.0
    return seconds
