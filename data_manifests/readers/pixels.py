"""Datasets whose pictures are arrays in few files, not image files: CIFAR and MNIST."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from data_manifests.official.disk import MAX_LIST_BYTES, Disk, Listing, pixels_frame
from data_manifests.plan import BuildError

#: Bytes of one picture: red, green, blue planes of 32 x 32.
PIXELS = 3 * 32 * 32


def cifar(disk: Disk) -> Listing:
    """Return the pictures and labels of CIFAR, from its binary version.

    ``[records]`` of dataset.toml names the list of classes, how many bytes stand before each
    picture and which of them is the label; ``[files]`` says which files are of which split.

    Raises
    ------
    BuildError
        If a file is damaged.
    """
    spec: Mapping[str, Any] = disk.facts["records"]
    names, before = disk.lines(spec["names"]), int(spec["label_bytes"])
    arrays, labels = {}, {}
    for split in disk.splits:
        files = [file for file, own in disk.file_names(required=True) if own.get("split") == split]
        rows = np.concatenate([_records(disk, file, before + PIXELS) for file in files])
        classes = rows[:, int(spec["label_place"])]
        if classes.max(initial=0) >= len(names):
            raise BuildError(
                f"{files[0]}, or another file of {split}, has the label {classes.max()} of "
                f"{len(names):,} classes. Fetch it again."
            )
        planes = rows[:, before:].reshape(-1, 3, 32, 32)
        arrays[split] = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
        labels[split] = [names[index] for index in classes]
    return Listing(pixels_frame(labels), names, arrays=arrays)


def _records(disk: Disk, file: str, size: int) -> np.ndarray:
    data = disk.read(file)
    if len(data) % size:
        raise BuildError(
            f"{disk.path(file)} has {len(data):,} bytes, which is no multiple of {size:,}. It is "
            "truncated; fetch it again."
        )
    return np.frombuffer(data, dtype=np.uint8).reshape(-1, size)


def mnist(disk: Disk) -> Listing:
    """Return the pictures and digits of MNIST: two IDX files a split, plain or gzipped."""
    arrays, labels = {}, {}
    for split in disk.splits:
        word = disk.word(split)
        arrays[split] = read_idx(disk, f"{word}-images-idx3-ubyte")
        digits = read_idx(disk, f"{word}-labels-idx1-ubyte")
        if arrays[split].ndim != 3 or digits.shape != arrays[split].shape[:1] or digits.max() > 9:
            raise BuildError(
                f"{word}: pictures of shape {arrays[split].shape} with labels of shape "
                f"{digits.shape} are no MNIST. Fetch the files again."
            )
        labels[split] = [str(digit) for digit in digits.tolist()]
    return Listing(pixels_frame(labels), [str(digit) for digit in range(10)], arrays=arrays)


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
        raise BuildError(f"{path} is missing, and so is {name}.gz: an IDX file of unsigned bytes.")
    if disk.has(name):
        data = disk.read(name)
    else:
        path = disk.path(f"{name}.gz")
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(disk.read(f"{name}.gz"))) as file:
                data = file.read(MAX_LIST_BYTES + 1)
        except (OSError, EOFError, zlib.error) as err:
            raise BuildError(f"{path} is damaged: {err}. Fetch it again.") from err
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] != _UBYTE:
        raise BuildError(
            f"{path} is no IDX file of unsigned bytes: it begins with {data[:4].hex()}."
        )
    start = 4 + 4 * data[3]
    shape = tuple(int(size) for size in np.frombuffer(data[4:start], dtype=">u4"))
    expected = int(np.prod(shape, dtype=object)) if len(shape) == data[3] else -1
    if len(data) - start != expected:
        raise BuildError(
            f"{path} holds {len(data) - start:,} bytes; its header {list(shape)} asks for "
            f"{expected:,}. It is truncated; fetch it again."
        )
    return np.frombuffer(data, dtype=np.uint8, offset=start).reshape(shape)
