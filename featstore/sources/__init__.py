"""Sources: what people already have (folders, tars, tables, datasets), as manifests.

Each source lists items; none decodes an image. Here is where their files lie: a folder
or a remote address, read part by part.

A remote file is read by ranges of 4 MiB, so that neighbours cost one request together. What a
server says is not believed: who reads an item compares its hash.
"""

from __future__ import annotations

import os
import re
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache, partial
from itertools import product
from pathlib import Path
from typing import Any

from featstore.address import Address, parse_address
from featstore.errors import (
    AddressError,
    CorruptStoreError,
    ManifestError,
    RemoteStoreError,
    UnreachableError,
)
from featstore.manifest_files import (
    open_plain,
    parse_locator,
    path_fault,
    read_inside,
    resolve_inside,
)
from featstore.remote import Objects, open_objects

#: Before a colon, at least two letters: one is a drive.
_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+:")


def local_path(location: str | Path) -> Path:
    """Return `location` as an existing, resolved path.

    Raises
    ------
    ManifestError
        If it is a URL or a ``pipe:`` command, or does not exist.
    """
    text = str(location)
    if _SCHEME.match(text) and not Path(text).exists():
        what = "a command" if text.lower().startswith("pipe:") else "a URL"
        raise ManifestError(
            f"The location {text!r} is {what}. This source reads local files and folders: fetch "
            "it first, then give the path. (webdataset and parquet read addresses.)"
        )
    try:
        return Path(text).expanduser().resolve(strict=True)
    except (OSError, ValueError, RuntimeError) as err:
        reason = getattr(err, "strerror", None) or err
        raise ManifestError(f"The location {text!r} cannot be opened: {reason}.") from err


def find_place(location: str | Path) -> Path | Address:
    """Return `location` as an address, or else as `local_path` does.

    Raises
    ------
    ManifestError
        If the address is malformed or of a kind that is not read.
    """
    try:
        found = parse_address(str(location))
    except AddressError as err:
        raise ManifestError(f"The location cannot be read. {err}") from err
    return local_path(location) if isinstance(found, Path) else found


def folder(location: str | Path) -> Path:
    """Return `location` as a folder; raise ManifestError if it is none."""
    path = local_path(location)
    if not path.is_dir():
        raise ManifestError(f"{path} is not a folder.")
    return path


def files_below(root: Path, wanted: Callable[[str], bool]) -> list[str]:
    """Return the files below `root` whose names are wanted: relative, ``/`` between, sorted.

    Hidden files and folders are passed over. Links to folders are not followed; links to files
    are listed (and refused later if they lead out of the root).

    Raises
    ------
    OSError
        If a folder cannot be listed.
    ManifestError
        If a name is not UTF-8 or looks like a locator.
    """
    from data_manifests import copies  # it loads polars, which decoding processes do without

    def refuse(err: OSError) -> None:
        raise err

    found = copies.files_below(root, wanted, on_error=refuse)
    for path in found:
        try:
            path.encode("utf-8")
        except UnicodeEncodeError as err:
            raise ManifestError(
                f"The file name {path!r} below {root} is not UTF-8. Rename the file."
            ) from err
        if parse_locator(path) is not None:
            raise ManifestError(
                f"The file name {path!r} below {root} looks like a part of a file. Rename it."
            )
    return found


def decode_text(data: bytes, *, where: str) -> str:
    """Return UTF-8 bytes as text, without a byte order mark.

    Raises
    ------
    ManifestError
        If they are no UTF-8.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        raise ManifestError(
            f"{where} is not UTF-8 (byte {err.start:,}). Convert it, e.g. with iconv."
        ) from err


#: Bytes that a tar or a table may ask for at once: sizes in their headers may lie.
MOST_AT_ONCE = 2**28

#: Bytes of a block, which one request asks for, and blocks of a file that are kept.
BLOCK = 4 * 2**20
KEPT = 4


class OpenFile(ABC):
    """A file that several threads read at any place, by index or slice, and one as Python's.

    Attributes
    ----------
    where : str
        For messages.
    size : int
        Bytes.
    closed : bool
    is_far : bool
        Whether what is read first goes over a network.
    """

    closed = False
    is_far = False

    def __init__(self, where: str, size: int) -> None:
        self.where = where
        self.size = size
        self._position = 0

    @abstractmethod
    def read_at(self, offset: int, n_bytes: int) -> bytes:
        """Return bytes from an offset on; fewer than asked for only where the file ends."""

    @abstractmethod
    def for_arrow(self) -> Any:
        """Return what pyarrow opens: a path or a file."""

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, key: int | slice) -> Any:
        if isinstance(key, slice):
            start, stop, _ = key.indices(self.size)
            return self.read_at(start, stop - start)
        return self.read_at(key, 1)[0]

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to an offset from the start, the position or the end."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def read(self, n_bytes: int) -> bytes:
        """Return bytes from the position on, and move behind them.

        Raises
        ------
        ManifestError
            If they are more than `MOST_AT_ONCE`.
        """
        if n_bytes > MOST_AT_ONCE:
            raise ManifestError(f"{self.where} is refused: a header claims {n_bytes:,} bytes.")
        data = self.read_at(self._position, n_bytes)
        self._position += len(data)
        return data

    def close(self) -> None:
        """Let go what is held; closing again is fine."""
        self.closed = True


class LocalFile(OpenFile):
    """A regular file of this machine."""

    def __init__(self, path: Path) -> None:
        self._file = open_plain(path)
        weakref.finalize(self, self._file.close)
        self._path = path
        super().__init__(str(path), os.fstat(self._file.fileno()).st_size)

    def read_at(self, offset: int, n_bytes: int) -> bytes:
        """Return bytes from an offset on; see `OpenFile`."""
        data = os.pread(self._file.fileno(), n_bytes, offset)
        if len(data) == n_bytes or not data:
            return data
        return data + self.read_at(offset + len(data), n_bytes - len(data))

    def for_arrow(self) -> Any:
        """Return the path: pyarrow reads it without Python."""
        return self._path

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


class RemoteFile(OpenFile):
    """A file behind an address; of its blocks the last `KEPT` are held.

    Threads take turns, so that no block is asked for twice.

    Parameters
    ----------
    objects : Objects
    name : str

    Raises
    ------
    RemoteStoreError
        If it is not there, or its server does not know ranges.
    """

    is_far = True

    def __init__(self, objects: Objects, name: str) -> None:
        where = f"{objects.address}/{name}"
        try:
            size = objects.size(name)
        except FileNotFoundError as err:
            raise RemoteStoreError(f"{where} is not there. Check the address.") from err
        if not objects.has_ranges:
            raise RemoteStoreError(
                f"{where}: the server answers a range with the whole file. Fetch the file first, "
                "then give its path."
            )
        super().__init__(where, size)
        self._lock = threading.Lock()
        self._block = lru_cache(KEPT)(partial(_block, objects, name, size))

    def read_at(self, offset: int, n_bytes: int) -> bytes:
        """Return bytes from an offset on; see `OpenFile`.

        Raises
        ------
        RemoteStoreError, CorruptStoreError
            If they do not come.
        """
        end = min(offset + n_bytes, self.size)
        if offset >= end:
            return b""
        first, last = offset // BLOCK, (end - 1) // BLOCK
        with self._lock:
            parts = [self._block(number) for number in range(first, last + 1)]
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        return data[offset - first * BLOCK : end - first * BLOCK]

    def for_arrow(self) -> Any:
        """Return the file itself."""
        return self

    def close(self) -> None:
        """Let the blocks go."""
        self._block.cache_clear()
        super().close()


def _block(objects: Objects, name: str, size: int, number: int) -> bytes:
    start = number * BLOCK
    return b"".join(objects.stream(name, start, min(start + BLOCK, size)))


class Folder:
    """A folder of this machine.

    Attributes
    ----------
    place : Path or Address
        What a manifest records.
    keep_open : int
        Files that stay open between reads, at most.
    """

    keep_open = 32

    def __init__(self, path: Path) -> None:
        self.place = self.path = path

    def open(self, name: str) -> OpenFile:
        """Open a regular file."""
        return LocalFile(resolve_inside(self.path, name))

    def read(self, name: str, *, limit: int) -> bytes:
        """Return a whole file."""
        return read_inside(self.path, name, limit=limit)


class Remote:
    """A remote address; see `Folder`."""

    #: Each holds up to `KEPT` blocks.
    keep_open = 4

    def __init__(self, address: Address) -> None:
        self.place = address
        self.objects = open_objects(address)
        self.objects.rule = _check_name

    def open(self, name: str) -> OpenFile:
        """Open a file, which is asked for its size."""
        return RemoteFile(self.objects, name)

    def read(self, name: str, *, limit: int) -> bytes:
        """Return a whole file."""
        return self.objects.read(name, limit=limit)

    def named(self, suffix: str) -> list[str]:
        """Return the files below the address that end in `suffix`, sorted."""
        return sorted(
            name for name, _ in self.objects.names()
            if name.endswith(suffix) and not any(p.startswith(".") for p in name.split("/"))
        )  # fmt: skip


#: Where files lie.
Root = Folder | Remote


def read_small(root: Root, name: str, *, limit: int) -> bytes | None:
    """Return a small file, or None if there is none that may be read.

    What a server refuses is not there, as buckets without lists say it.
    """
    try:
        return root.read(name, limit=limit)
    except UnreachableError:
        raise
    except (FileNotFoundError, RemoteStoreError):
        return None


def _check_name(name: str) -> None:
    fault = path_fault(name)
    if fault is not None:
        raise CorruptStoreError(f"The file name {name!r} is not asked for: {fault}.")


#: How the names of Parquet files end.
PARQUET = ".parquet"

#: The revision in which the hub keeps its datasets as Parquet.
CONVERTED = "@refs%2Fconvert%2Fparquet"

#: ``{a,b}`` or ``{000..009}`` in an address.
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"([0-9]+)\.\.([0-9]+)")

#: Files that a pattern may name.
_MOST_FILES = 1_000_000


def expand(pattern: str) -> list[str]:
    """Return the names that ``{a,b}`` and ``{000..009}`` of a pattern stand for, in order.

    Raises
    ------
    ManifestError
        If a range goes backwards, or there are more than a million names.

    Examples
    --------
    >>> expand("{train,val}-{08..10}.tar")[2:4]
    ['train-10.tar', 'val-08.tar']
    """
    parts: list[Iterable[str]] = []
    total = 1
    for at, text in enumerate(_BRACES.split(pattern)):
        ends = _RANGE.fullmatch(text) if at % 2 else None
        if ends:
            first, last = int(ends[1]), int(ends[2])
            total *= max(0, last - first + 1)
            # Not made before the number of all names is known.
            parts.append(map(f"{{:0{len(ends[1])}}}".format, range(first, last + 1)))
        else:
            choices = text.split(",") if at % 2 else [text]
            total *= len(choices)
            parts.append(choices)
    if not 0 < total <= _MOST_FILES:
        raise ManifestError(
            f"The pattern {pattern!r} names {total:,} files; 1 to {_MOST_FILES:,} are read."
        )
    return ["".join(chosen) for chosen in product(*parts)]


def locate(location: str | Path, suffix: str) -> tuple[Root, list[str]]:
    """Return the root and its files of one container file, a folder of them, or an address.

    An address names a file, files (``{000..009}``), or where to list them; a web server cannot
    list. A revision of the hub is taken as the commit that it is now, and a dataset of the hub
    without such files is looked for among those that the hub converted to Parquet.

    Raises
    ------
    ManifestError
        If there is none, or the file has another suffix.
    RemoteStoreError
        If the address cannot be read.
    """
    place = find_place(location)
    if not isinstance(place, Path):
        root, files = _locate_far(str(location), suffix)
    elif place.is_dir():
        root, files = Folder(place), files_below(place, lambda name: name.endswith(suffix))
    else:
        root, files = Folder(place.parent), [place.name]
    for name in files:
        if not name.endswith(suffix) or (fault := path_fault(name)) is not None:
            why = f"does not end in {suffix}" if not name.endswith(suffix) else fault
            raise ManifestError(f"{name!r} of {root.place} cannot be read: {why}.")
    if not files:
        raise ManifestError(f"{root.place} holds no {suffix} file.")
    return root, files


def _locate_far(location: str, suffix: str) -> tuple[Root, list[str]]:
    head, braces, rest = location.partition("{")
    base, slash, tail = head.rpartition("/")
    named = bool(braces) or location.endswith(suffix)
    address = parse_address(base if named and slash else location.rstrip("/"))
    if isinstance(address, Path):
        raise ManifestError(
            f"{location!r} names no {suffix} file of a server. Give the server, or bucket, "
            "without braces, and the file behind it."
        )
    root = _pinned(address)
    if named:
        return root, expand(tail + braces + rest)
    if address.scheme in ("http", "https"):
        raise ManifestError(
            f"The location {location!r} is a URL of a server that cannot list. Name the "
            f"{suffix} file, or several: {address}/{{000..009}}{suffix}."
        )
    files = root.named(suffix)
    if not files and address.scheme == "hf" and suffix == PARQUET and "@" not in address.path:
        root = _pinned(replace(address, path=address.path + CONVERTED, url=address.url + CONVERTED))
        files = root.named(suffix)
    return root, files


def _pinned(address: Address) -> Remote:
    """Return the root of an address; of the hub that of the commit that it is now."""
    found = parse_address(open_objects(address).pinned())
    assert isinstance(found, Address)
    return Remote(found)
