"""Results that are asked for again and again, kept by what they follow from, in bounded memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256
from threading import Lock
from typing import Any, Generic, TypeVar

import numpy as np

Value = TypeVar("Value")


class Kept(Generic[Value]):
    """The results used last, up to a number of bytes.

    Parameters
    ----------
    most_bytes : int
        The results kept never take more. One that alone takes more is returned, but not kept.
    size : callable
        The bytes that a result takes.
    """

    def __init__(self, most_bytes: int, size: Callable[[Value], int]) -> None:
        self.most_bytes = most_bytes
        self._size = size
        self._results: OrderedDict[bytes, Value] = OrderedDict()
        self._lock = Lock()

    @property
    def n_bytes(self) -> int:
        """What the results kept take now."""
        return sum(self._size(result) for result in self._results.values())

    def get(self, key: bytes, make: Callable[[], Value]) -> Value:
        """Return the result under `key`, made now if it is not kept.

        Two threads that ask for the same result at the same time may both make it.
        """
        with self._lock:
            if key in self._results:
                self._results.move_to_end(key)
                return self._results[key]
        result = make()
        with self._lock:
            if self._size(result) <= self.most_bytes:
                self._results[key] = result
                self._results.move_to_end(key)
                while self.n_bytes > self.most_bytes:
                    self._results.popitem(last=False)
        return result

    def clear(self) -> None:
        """Keep nothing of what was made so far."""
        with self._lock:
            self._results.clear()


def digest_of(*parts: Any) -> bytes:
    """Return a digest of arrays, by their bytes, and of other values, by their representation."""
    digest = sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(repr((part.shape, part.dtype.str)).encode())
            digest.update(np.ascontiguousarray(part).data)
        else:
            digest.update(repr(part).encode())
    return digest.digest()
