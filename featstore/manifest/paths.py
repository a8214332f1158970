"""Paths of a manifest: relative to its root, and never out of it."""

from __future__ import annotations

import re
import stat
from collections.abc import Iterable
from pathlib import Path

from featstore.errors import ManifestError
from featstore.manifest.locator import parse_locator

#: How many offenders a message names.
SHOWN = 5

_DRIVE = re.compile(r"^.:")  # Windows takes any letter for a drive
_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+://")


def path_fault(uri: str) -> str | None:
    """Return why `uri` is not a plain path below a root, or None if it is.

    The rules are the same on every system: ``/`` separates, no ``..``, not absolute, no drive,
    no UNC share, no control character. Of a locator (see `featstore.manifest.locator`) the file
    is held to them; the part inside it is no path, and only control characters are refused.
    """
    if not uri:
        return "it is empty"
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in uri):
        return "it holds a NUL or another control character"
    locator = parse_locator(uri)
    if locator is not None:
        uri = locator.file
    if _SCHEME.match(uri):
        return "it is a URL, and items are local files"
    if uri.startswith(("\\\\", "//")):
        return "it is a network (UNC) path"
    if _DRIVE.match(uri):
        return "it names a drive"
    if uri.startswith("/"):
        return "it is absolute"
    if "\\" in uri:
        return "it holds a backslash; separate folders with /"
    if ".." in uri.split("/"):
        return "it climbs out with .."
    return None


def resolve_inside(root: Path, uri: str) -> Path:
    """Return the regular file that `uri` names below `root`.

    Raises
    ------
    ManifestError
        If it is no plain relative path, does not exist, is not a regular file, is a part of
        one, or a symbolic link on the way leads out of `root`.
    """
    fault = path_fault(uri) or _file_fault(root.resolve(), uri, {})
    if fault is None and parse_locator(uri) is not None:
        fault = "it is a part of a file; read it with featstore.sources.open_reader"
    if fault is not None:
        msg = f"The uri {uri!r} cannot be used below {root}: {fault}."
        raise ManifestError(msg)
    return root / uri


def check_paths(uris: Iterable[tuple[str, str]], what: str) -> None:
    """Raise ManifestError if a uri of (item_id, uri) is no plain relative path."""
    faults = [(item, uri, why) for item, uri in uris if (why := path_fault(uri)) is not None]
    _raise_if(faults, f"of {what} leave the root or are no plain relative path")


def check_files(root: Path, uris: Iterable[tuple[str, str]], what: str) -> None:
    """Raise ManifestError if a uri of (item_id, uri) is not a regular file below `root`.

    Each folder is resolved once, so a million files cost a million `lstat` calls and no more;
    the parts of one file cost one.
    """
    real, folders, containers = root.resolve(), dict[str, Path | None](), dict[str, str | None]()
    faults = []
    for item, uri in uris:
        locator = parse_locator(uri)
        if locator is None:
            why = _file_fault(real, uri, folders)
        elif locator.file in containers:
            why = containers[locator.file]
        else:
            why = containers[locator.file] = _file_fault(real, uri, folders)
        if why is not None:
            faults.append((item, uri, why))
    _raise_if(faults, f"of {what} cannot be used below {root}")


def _raise_if(faults: list[tuple[str, str, str]], what: str) -> None:
    if not faults:
        return
    named = "; ".join(f"{uri!r} of {item!r}: {why}" for item, uri, why in faults[:SHOWN])
    more = f" and {len(faults) - SHOWN:,} more" if len(faults) > SHOWN else ""
    msg = (
        f"{len(faults):,} uris {what}: {named}{more}. Every uri must be the path of a "
        "file below the manifest's folder."
    )
    raise ManifestError(msg)


def _file_fault(real: Path, uri: str, folders: dict[str, Path | None]) -> str | None:
    """Return why `uri` is not (in) a regular file below `real` (a resolved folder), or None."""
    locator = parse_locator(uri)
    head, _, tail = (uri if locator is None else locator.file).rpartition("/")
    try:
        if head not in folders:
            resolved = (real / head).resolve(strict=True)
            folders[head] = resolved if resolved.is_relative_to(real) else None
        folder = folders[head]
        if folder is None:
            return "a symbolic link leads out of the root"
        path = folder / tail
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            target = path.resolve(strict=True)
            if not target.is_relative_to(real):
                return "a symbolic link leads out of the root"
            mode = target.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "there is no such file"
    except (OSError, RuntimeError) as err:  # RuntimeError: a loop of links, before Python 3.13
        return f"it cannot be reached ({getattr(err, 'strerror', None) or err})"
    return None if stat.S_ISREG(mode) else "it is not a regular file"
