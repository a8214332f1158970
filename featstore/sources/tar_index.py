"""Where the members of a tar lie: every header is checked, no member is unpacked."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn

from featstore.errors import ManifestError
from featstore.manifest.paths import path_fault

#: A header and its extended fields (names longer than 100 letters) take less.
MAX_HEADER_BYTES = 2**20

_BLOCK = 512
_PIECE = 2**20


@dataclass(frozen=True)
class Member:
    """A regular file inside a tar."""

    name: str
    """Its path inside the tar."""

    offset: int
    """Byte of the tar at which its content begins."""

    size: int
    """Bytes of its content."""


def index_tar(path: Path) -> Iterator[Member]:
    """Yield the regular files of an uncompressed tar, in order.

    Folders are passed over. The tar is believed as a whole or not at all: it is an error
    after the last member, too, so collect before using.

    Raises
    ------
    ManifestError
        If the tar is truncated, damaged, lacks its end mark or has data behind it, or holds a
        link, a device, a sparse file or a path that leaves its folder.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            yield from _members(path, file, size)
    except OSError as err:
        msg = f"Cannot read {path}: {err.strerror or err}."
        raise ManifestError(msg) from err
    except (tarfile.TarError, ValueError, OverflowError) as err:
        if isinstance(err, ManifestError):
            raise
        msg = (
            f"{path} is truncated or no uncompressed tar: {err}. None of its members is used; "
            "fetch it again."
        )
        raise ManifestError(msg) from err


def _members(path: Path, file: IO[bytes], size: int) -> Iterator[Member]:
    bounded = _HeadersOnly(file, path)
    with tarfile.open(
        fileobj=bounded,  # type: ignore[call-overload]
        mode="r:",
        encoding="utf-8",
        errors="strict",
    ) as tar:
        for member in tar:
            tar.members = []  # else the tar keeps them all
            _check(path, member)
            if member.offset_data + member.size > size:
                _refuse(path, f"the member {member.name!r} ends behind the end of the file")
            if member.isreg():
                yield Member(member.name, member.offset_data, member.size)
        end = tar.offset
    file.seek(end)
    mark = file.read(_BLOCK)
    if len(mark) < _BLOCK:
        _refuse(path, "it lacks the end mark: it is truncated")
    if any(mark):
        _refuse(path, f"its header at byte {end:,} is damaged")
    while piece := file.read(_PIECE):
        if piece.count(0) != len(piece):
            _refuse(path, "it has data behind its end mark")


def _check(path: Path, member: tarfile.TarInfo) -> None:
    if not (member.isreg() or member.isdir()) or member.issparse():
        what = "a sparse file"
        if member.issym() or member.islnk():
            what = f"a {'symbolic' if member.issym() else 'hard'} link to {member.linkname!r}"
        elif not member.isreg():
            what = "a device, pipe or something unknown"
        _refuse(path, f"the member {member.name!r} is {what}")
    fault = path_fault(member.name)
    if fault is not None:
        _refuse(path, f"the member {member.name!r} has a path that is not used: {fault}")


def _refuse(path: Path, reason: str) -> NoReturn:
    msg = f"{path} is refused: {reason}. None of its members is used; pack or fetch it again."
    raise ManifestError(msg)


class _HeadersOnly:
    """A file of which nobody reads more than a header at once: sizes in headers may lie."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file = file
        self._path = path
        self.name = str(path)
        self.mode = "rb"

    def read(self, n_bytes: int = -1) -> bytes:
        if not 0 <= n_bytes <= MAX_HEADER_BYTES:
            _refuse(self._path, f"a header claims {n_bytes:,} bytes")
        return self._file.read(n_bytes)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()
