"""A few open things at a time, shared by threads, closed when nobody uses them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class LeaseCache(Generic[K, V]):
    """Open things by key and keep the last `limit` of them open.

    Parameters
    ----------
    open_ : callable
        Makes the thing of a key; what it raises, `lease` raises.
    close : callable
        Called once with each thing, when nobody uses it any more.
    limit : int
        Things that stay open. More are open only while they are in use.
    """

    def __init__(self, open_: Callable[[K], V], close: Callable[[V], None], *, limit: int) -> None:
        self._open = open_
        self._close = close
        self._limit = limit
        self._lock = threading.Lock()
        self._held: OrderedDict[K, tuple[V, list[int]]] = OrderedDict()

    @contextmanager
    def lease(self, key: K) -> Iterator[V]:
        """Yield the thing of `key`; it is not closed meanwhile."""
        with self._lock:
            if key not in self._held:
                self._held[key] = (self._open(key), [0])
            value, users = self._held[key]
            self._held.move_to_end(key)
            users[0] += 1
        try:
            yield value
        finally:
            with self._lock:
                users[0] -= 1
                self._evict(self._limit)

    def close(self) -> None:
        """Close everything that is not in use."""
        with self._lock:
            self._evict(0)

    def _evict(self, limit: int) -> None:
        for key in list(self._held):
            if len(self._held) <= limit:
                return
            value, users = self._held[key]
            if users[0] == 0:
                del self._held[key]
                self._close(value)
