"""IDX files (MNIST's form), plain or gzipped."""

from __future__ import annotations

import gzip
import io
import zlib

import numpy as np

from data_manifests.official.disk import MAX_LIST_BYTES, Disk
from data_manifests.plan import BuildError

#: The third byte of an IDX file: unsigned bytes. No other type is read.
_UBYTE = 8


def read_idx(disk: Disk, name: str) -> np.ndarray:
    """Return the array of an IDX file of unsigned bytes; ``name.gz`` serves as well.

    Returns
    -------
    ndarray of uint8

    Raises
    ------
    BuildError
        If neither is there, or it is damaged.
    """
    path = disk.path(name)
    if not disk.has(name) and not disk.has(f"{name}.gz"):
        msg = f"{path} is missing, and so is {name}.gz: an IDX file of unsigned bytes."
        raise BuildError(msg)
    if disk.has(name):
        data = disk.read(name)
    else:
        path = disk.path(f"{name}.gz")
        packed = disk.read(f"{name}.gz")
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(packed)) as file:
                data = file.read(MAX_LIST_BYTES + 1)
        except (OSError, EOFError, zlib.error) as err:
            msg = f"{path} is damaged: {err}. Fetch it again."
            raise BuildError(msg) from err
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] != _UBYTE:
        msg = f"{path} is no IDX file of unsigned bytes: it begins with {data[:4].hex()}."
        raise BuildError(msg)
    start = 4 + 4 * data[3]
    shape = tuple(int(size) for size in np.frombuffer(data[4:start], dtype=">u4"))
    expected = int(np.prod(shape, dtype=object)) if len(shape) == data[3] else -1
    if len(data) - start != expected:
        msg = (
            f"{path} holds {len(data) - start:,} bytes; its header {list(shape)} asks for "
            f"{expected:,}. It is truncated; fetch it again."
        )
        raise BuildError(msg)
    return np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape)
