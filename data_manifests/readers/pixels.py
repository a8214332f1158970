"""Datasets whose pictures are arrays in few files, not image files: CIFAR and MNIST.

CIFAR comes in a binary version, and in a Python version made of pickles. A pickle may name any
function to be called: the unpickler here knows four names (those of an array of bytes) and gives a
harmless class of its own for each; nothing of numpy or anything else is called by what a file says.
"""

from __future__ import annotations

import gzip
import io
import math
import pickle
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_manifests.official.disk import MAX_LIST_BYTES, Disk, Listing, pixels_frame
from data_manifests.plan import BuildError

#: Bytes of one picture: red, green, blue planes of 32 x 32.
PIXELS = 3 * 32 * 32


def cifar(disk: Disk) -> Listing:
    """Return the pictures and labels of CIFAR, from whichever version lies there.

    ``[files]`` of dataset.toml is the Python version; ``[versions]`` names its files by split, and
    those of the binary version, the bytes before each picture and which of them is the label.

    Raises
    ------
    BuildError
        If neither version is there, or a file is damaged.
    """
    spec: Mapping[str, Any] = disk.facts["versions"]
    lacks = {
        version: [
            name
            for name in (spec[names], *(f for split in disk.splits for f in spec[version][split]))
            if not disk.has(name)
        ]
        for version, names in (("binary", "binary_names"), ("python", "names"))
    }
    if all(lacks.values()):
        raise BuildError(
            f"{disk.root} holds no whole version: the binary one lacks "
            f"{', '.join(lacks['binary'])}, the Python one {', '.join(lacks['python'])}. Unpack "
            "the archive there."
        )
    version = _python if lacks["binary"] else _binary
    names, parts = version(disk, spec)
    labels = {split: [names[index] for index in indices] for split, (_, indices) in parts.items()}
    return Listing(
        pixels_frame(labels), names, arrays={split: pixels for split, (pixels, _) in parts.items()}
    )


Part = tuple[np.ndarray, Sequence[int]]


def _binary(disk: Disk, spec: Mapping[str, Any]) -> tuple[list[str], dict[str, Part]]:
    names = disk.lines(spec["binary_names"])
    before, place = int(spec["label_bytes"]), int(spec["label_place"])
    parts: dict[str, Part] = {}
    for split in disk.splits:
        blocks = []
        for file in spec["binary"][split]:
            data = disk.read(file)
            if len(data) % (before + PIXELS):
                raise BuildError(
                    f"{disk.path(file)} has {len(data):,} bytes, which is no multiple of "
                    f"{before + PIXELS:,}. It is truncated; fetch it again."
                )
            blocks.append(np.frombuffer(data, dtype=np.uint8).reshape(-1, before + PIXELS))
        rows = np.concatenate(blocks)
        indices = _checked(rows[:, place].tolist(), names, spec["binary"][split][0])
        parts[split] = (_pictures(rows[:, before:]), indices)
    return names, parts


def _python(disk: Disk, spec: Mapping[str, Any]) -> tuple[list[str], dict[str, Part]]:
    names = [str(name) for name in _field(disk, spec["names"], spec["names_key"], list)]
    parts: dict[str, Part] = {}
    for split in disk.splits:
        blocks: list[np.ndarray] = []
        indices: list[int] = []
        for file in spec["python"][split]:
            pixels = _field(disk, file, "data", np.ndarray)
            own = _field(disk, file, spec["labels_key"], list)
            if pixels.ndim != 2 or pixels.shape != (len(own), PIXELS):
                raise BuildError(
                    f"{disk.path(file)} has pixels of shape {pixels.shape} for {len(own):,} "
                    f"labels; each picture has {PIXELS:,} bytes. Fetch it again."
                )
            blocks.append(pixels)
            indices += _checked(own, names, file)
        parts[split] = (_pictures(np.concatenate(blocks)), indices)
    return names, parts


def _pictures(rows: np.ndarray) -> np.ndarray:
    """Return (n, 3072) planes as (n, 32, 32, 3) pictures."""
    return np.ascontiguousarray(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def _checked(indices: Sequence[Any], names: Sequence[str], file: str) -> list[int]:
    for row, index in enumerate(indices):
        if not isinstance(index, int) or not 0 <= index < len(names):
            raise BuildError(
                f"Picture {row:,} of {file} has the label {index!r} of {len(names):,} classes."
            )
    return list(indices)


def _field(disk: Disk, file: str, key: str, kind: type) -> Any:
    """Return one entry of the dictionary in a pickle."""
    data = disk.read(file)
    try:
        document = _Unpickler(io.BytesIO(data), encoding="latin1").load()
        value = document[key]
        value = value.value if isinstance(value, _Array) else value
    except Exception as err:  # a damaged pickle may raise anything
        why = "it has no such entry" if isinstance(err, KeyError) else str(err)[:200]
        raise BuildError(
            f"Cannot read {key!r} of {disk.path(file)}: {why}. Fetch it again."
        ) from err
    if not isinstance(value, kind):
        raise BuildError(
            f"{key!r} of {disk.path(file)} is a {type(value).__name__}, not a {kind.__name__}."
        )
    return value


class _Dtype:
    """Stands for numpy.dtype: its code alone."""

    def __init__(self, code: str = "", *_: object) -> None:
        self.code = code

    def __setstate__(self, state: object) -> None:
        """Take no notice of byte order: the type is one byte."""


class _Array:
    """Stands for an array of bytes; what it holds is checked before it becomes one."""

    value: np.ndarray

    def __setstate__(self, state: Any) -> None:
        """Take (version, shape, dtype, Fortran order, data)."""
        _, shape, dtype, fortran, data = state
        raw = data.encode("latin1") if isinstance(data, str) else bytes(data)
        if dtype.code != "u1" or fortran or math.prod(shape) != len(raw):
            raise ValueError(
                f"an array of {dtype.code!r} and shape {shape} with {len(raw):,} bytes"
            )
        self.value = np.frombuffer(raw, dtype=np.uint8).reshape(shape)


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """Stand for _codecs.encode, by which Python 3 writes bytes into old pickles."""
    if encoding != "latin1":
        raise ValueError(f"bytes in the encoding {encoding!r}")
    return text.encode("latin1")


_KNOWN: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
}


class _Unpickler(pickle.Unpickler):
    """Knows the names above, and refuses every other."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, which a picture has no use for"
            )
        return _KNOWN[module, name]


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
        packed = disk.read(f"{name}.gz")
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(packed)) as file:
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
