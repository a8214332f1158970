"""Results that are asked for again and again, kept by what they follow from, in bounded memory."""

from __future__ import annotations

import gc
import sys
from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import partial, wraps
from hashlib import sha256
from threading import Lock
from types import FunctionType, ModuleType
from typing import Any, ParamSpec, TypeVar

import numpy as np

Given = ParamSpec("Given")
Value = TypeVar("Value")

#: What all that is kept may take together.
MOST_BYTES = 400_000_000

#: What an entry takes beside its result, roundly: its key, and the tokens of `_part`.
_ENTRY = 2_000


class Kept:
    """The results used last, up to a number of bytes.

    Parameters
    ----------
    most_bytes : int
        The results kept never take more. One that alone takes more is returned, but not kept. An
        array in two results counts in both.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes, self.n_bytes = most_bytes, 0
        self._results: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """Return the result under `key`, made now if it is not kept.

        Two threads that ask for the same result at the same time may both make it.
        """
        with self._lock:
            if key in self._results:
                self._results.move_to_end(key)
                return self._results[key][0]
        result = make()
        size = _ENTRY + n_bytes_of(result, set())
        with self._lock:
            if size <= self.most_bytes:
                self.n_bytes += size - self._results.pop(key, (None, 0))[1]
                self._results[key] = result, size
                while self.n_bytes > self.most_bytes:
                    self.n_bytes -= self._results.popitem(last=False)[1][1]
        return result


#: The one memory of this process.
KEPT = Kept(MOST_BYTES)


def n_bytes_of(value: Any, seen: set[int]) -> int:
    """Return the bytes of all objects that a value consists of, each once; code counts nothing.

    Parameters
    ----------
    value : object
    seen : set of int
        Ids of the objects that are counted already; those of this value are added.
    """
    if id(value) in seen or isinstance(value, type | ModuleType):
        return 0
    seen.add(id(value))
    if isinstance(value, np.ndarray) and isinstance(value.base, np.ndarray):
        return n_bytes_of(value.base, seen)  # a view keeps the whole array
    is_function = isinstance(value, FunctionType)  # which refers to all of its module
    parts = value.__closure__ or () if is_function else gc.get_referents(value)
    size = max(sys.getsizeof(value), getattr(value, "nbytes", 0))
    return int(size) + sum(n_bytes_of(part, seen) for part in parts)


def kept(function: Callable[Given, Value]) -> Callable[Given, Value]:
    """Return a function whose results are kept in `KEPT`: its arguments are the key.

    The function may read nothing else. Plain values, and records that compare by them, count by
    their value; other objects by identity, and keep none of them alive. An array is no argument:
    pass what holds it, or `remember` what follows from its digest.

    A result is weighed once, when it is made, and must not grow afterwards. An attribute of it that
    is computed on demand is a result of its own: ``@property`` and ``@kept`` in place of
    ``cached_property``.

    Examples
    --------
    >>> made = []
    >>> twice = kept(lambda n: made.append(n) or 2 * n)
    >>> twice(4), twice(4), made
    (8, 8, [4])
    """

    @wraps(function)
    def asked(*args: Given.args, **kwargs: Given.kwargs) -> Value:
        named = ((name, _part(value)) for name, value in sorted(kwargs.items()))
        key = function, *map(_part, args), *named
        return KEPT.get(key, partial(function, *args, **kwargs))

    return asked


def remember(make: Callable[[], Value], what: str, *parts: Any) -> Value:
    """Return what follows from the content of these parts, arrays among them, made if not kept."""
    return KEPT.get((what, digest_of(*parts)), make)


def _part(value: Any) -> Any:
    """Return what stands for an argument in a key: of an object, a token that it carries."""
    if isinstance(value, tuple):
        return tuple(map(_part, value))
    own: Any = type(value).__hash__
    by_identity = own is object.__hash__ and hasattr(value, "__dict__")
    return vars(value).setdefault("_token", object()) if by_identity else value


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
