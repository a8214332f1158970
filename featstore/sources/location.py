"""Locations: local files and folders, listed in a fixed order."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from featstore.address import Address, parse_address
from featstore.errors import AddressError, ManifestError
from featstore.manifest.paths import open_plain, parse_locator

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
            "it first, then give the path. (webdataset, parquet and hf read addresses.)"
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
    ManifestError
        If a folder cannot be listed, or a name is not UTF-8 or looks like a locator.
    """
    found = []

    def refuse(err: OSError) -> None:
        raise ManifestError(f"Cannot list {err.filename}: {err.strerror}.") from err

    for at, folders, names in os.walk(root, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        base = Path(at).relative_to(root).as_posix()
        found += [
            name if base == "." else f"{base}/{name}"
            for name in names
            if not name.startswith(".") and wanted(name)
        ]
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
    return sorted(found)


def containers(location: str | Path, suffix: str) -> tuple[Path, list[str]]:
    """Return (root, files below it) of one container file, or of a folder of them.

    Raises
    ------
    ManifestError
        If there is none, or the file has another suffix.
    """
    path = local_path(location)
    if path.is_dir():
        files = files_below(path, lambda name: name.endswith(suffix))
        if not files:
            raise ManifestError(f"{path} holds no {suffix} file.")
        return path, files
    if path.suffix != suffix:
        raise ManifestError(
            f"{path} does not end in {suffix}; that is what this source reads, uncompressed."
        )
    return path.parent, [path.name]


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file to read; an OSError in the block becomes a ManifestError that names it."""
    try:
        with open_plain(path) as file:
            yield file
    except OSError as err:
        raise ManifestError(f"Cannot read {path}: {err.strerror or err}.") from err


def read_text(path: Path, *, limit: int) -> str:
    """Return the text of a small UTF-8 file.

    Raises
    ------
    ManifestError
        If it cannot be read, is larger than `limit` bytes, or is not UTF-8.
    """
    with opened(path) as file:
        return decode_text(file.read(limit + 1), where=str(path), limit=limit)


def decode_text(data: bytes, *, where: str, limit: int) -> str:
    """Return UTF-8 bytes as text, without a byte order mark; see `read_text`."""
    if len(data) > limit:
        raise ManifestError(f"{where} has more than {limit:,} bytes of text. It was not read.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        raise ManifestError(
            f"{where} is not UTF-8 (byte {err.start:,}). Convert it, e.g. with iconv."
        ) from err
