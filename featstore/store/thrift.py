"""Just enough of Thrift's compact protocol to read what a Parquet file claims about itself.

A struct becomes a dict of field number -> value, a list a list; everything is bounded by the
bytes that are there, so a claim costs no more memory than stating it does.
"""

from __future__ import annotations

from mmap import mmap
from typing import Any

#: Structures of Parquet metadata nest less deeply.
MAX_DEPTH = 24

_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 11, 12
_INTEGERS = (4, 5, 6)


class ThriftError(ValueError):
    """Bytes that are not a structure of the compact protocol."""


class ThriftReader:
    """Read structures from `data`, starting at `position` and ending before `end`."""

    def __init__(self, data: bytes | mmap, position: int = 0, end: int | None = None) -> None:
        self._data = data
        self._end = len(data) if end is None else end
        self.position = position

    def struct(self, depth: int = MAX_DEPTH) -> dict[int, Any]:
        """Return the structure at the position, and move behind it."""
        if depth == 0:
            msg = "nested too deep"
            raise ThriftError(msg)
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            step, kind = head >> 4, head & 0x0F
            number = number + step if step else self._zigzag()
            fields[number] = kind == _TRUE if kind in (_TRUE, _FALSE) else self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in _INTEGERS:
            return self._zigzag()
        if kind in (_TRUE, _FALSE, _BYTE):
            return self._byte()
        if kind == _DOUBLE:
            return self._bytes(8)
        if kind == _BINARY:
            return self._bytes(self._varint())
        if kind in (_LIST, _SET):
            return self._list(depth - 1)
        if kind == _STRUCT:
            return self.struct(depth - 1)
        msg = f"a value of unknown type {kind}"
        raise ThriftError(msg)

    def _list(self, depth: int) -> list[Any]:
        head = self._byte()
        size, kind = head >> 4, head & 0x0F
        size = self._varint() if size == 15 else size
        if size > self._end - self.position or depth <= 0:
            msg = f"a list of {size:,} values in {self._end - self.position:,} bytes"
            raise ThriftError(msg)
        return [self._value(kind, depth) for _ in range(size)]

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        msg = "an integer of more than 64 bits"
        raise ThriftError(msg)

    def _byte(self) -> int:
        return self._bytes(1)[0]

    def _bytes(self, n_bytes: int) -> bytes:
        end = self.position + n_bytes
        if end > self._end:
            msg = "the structure ends too early"
            raise ThriftError(msg)
        value = self._data[self.position : end]
        self.position = end
        return value
