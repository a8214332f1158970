"""Files of a manifest: where they are, what they may be called, and how new ones replace them.

``shard-000.tar::img001.jpg`` is a member of a tar, ``part-0.parquet::image.bytes#17`` the cell of
a column in row 17. What stands before ``::`` is a path with the rules of every path; what stands
behind it is a name inside that file and never becomes a path.

New files take their places together:

    .building/…                 files that are being made, by the names that they will have
    .building/dataset.toml      the last of them: all are whole

Until that is there, nothing outside ``.building`` has changed, and whatever a killed process left
is thrown away. From then on every move can be done again: the next command does the rest.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import stat
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featstore.address import Address
from featstore.durable import fsync_path, remove_tree, write_durably
from featstore.errors import ManifestError
from featstore.identity import sha256_hex

if TYPE_CHECKING:
    import polars as pl  # in the functions that need it: decoding processes read without it

#: Between the file and the part of it.
SEPARATOR = "::"

#: A uri that is a locator; the same expression for Python and polars.
LOCATOR = r"(?s)^(.+?\.(?:tar|parquet))::(.+)$"

_LOCATOR = re.compile(LOCATOR)


def parse_locator(uri: str) -> tuple[str, str] | None:
    """Return the file and the name of the part in it, or None if `uri` names a whole file.

    Examples
    --------
    >>> parse_locator("train/00.tar::n01/cat.jpg")
    ('train/00.tar', 'n01/cat.jpg')
    >>> parse_locator("images/a::b.jpg") is None
    True
    """
    found = _LOCATOR.match(uri) if SEPARATOR in uri else None
    return (found[1], found[2]) if found else None


def part_uri(file: str, member: str) -> str:
    """Return the locator of one member of a tar, or of one cell of a table: ``column#row``."""
    return f"{file}{SEPARATOR}{member}"


#: How many offenders a message names.
SHOWN = 5

#: Paths, and parts of files, that have no fault by their letters alone; for polars.
_STEP = "[0-9A-Za-z_-][0-9A-Za-z_.-]*"
_PLAIN = rf"^({_STEP}/)*{_STEP}(\.(tar|parquet)::[ -~]+)?$"

_DRIVE = re.compile(r"^.:")  # Windows takes any letter for a drive
_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+://")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def path_fault(uri: str) -> str | None:
    """Return why `uri` is not a plain path below a root, or None if it is.

    The rules are the same on every system: ``/`` separates, no ``..``, not absolute, no drive,
    no UNC share, no control character. Of a locator (see `featstore.manifest_files`) the file
    is held to them; the part inside it is no path, and only control characters are refused.
    """
    if not uri:
        return "it is empty"
    if _CONTROL.search(uri):
        return "it holds a NUL or another control character"
    locator = parse_locator(uri)
    if locator is not None:
        uri = locator[0]
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
        If it is no plain relative path, is not a regular file, is a part of one, or a symbolic
        link on the way leads out of `root`.
    OSError
        If there is no such file, or it cannot be reached.
    """
    path, fault = root / uri, path_fault(uri)
    if fault is None and parse_locator(uri) is not None:
        fault = "it is a part of a file; read it with featstore.sources.open_reader"
    # Not `Path.resolve`: before Python 3.13 it raises RuntimeError at a loop of links.
    if fault is None and not _real(path).is_relative_to(_real(root)):
        fault = "a symbolic link leads out of the root"
    if fault is None and not path.is_file():
        fault = "it is not a regular file"
    if fault is not None:
        raise ManifestError(f"The uri {uri!r} cannot be used below {root}: {fault}.")
    return path


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path, strict=True))


def check_paths(items: pl.DataFrame, what: str) -> None:
    """Raise ManifestError if the uri of an item is no plain relative path.

    Of a million, all of them plain, polars sees that in .08 CPU-s; one by one it takes 1.6.
    """
    import polars as pl

    doubtful = items.select("item_id", "uri").filter(~pl.col("uri").str.contains(_PLAIN))
    faults = [
        (item, uri, why)
        for item, uri in doubtful.iter_rows()
        if (why := path_fault(uri)) is not None
    ]
    if faults:
        named = "; ".join(f"{uri!r} of {item!r}: {why}" for item, uri, why in faults[:SHOWN])
        more = f" and {len(faults) - SHOWN:,} more" if len(faults) > SHOWN else ""
        raise ManifestError(
            f"{len(faults):,} uris of {what} leave the root or are no plain relative path: "
            f"{named}{more}. Every uri must be the path of a file below the manifest's folder."
        )


_SHA256 = "[0-9a-f]{64}"


def text_sha256(text: str) -> str:
    """Return the content hash of a text item."""
    return sha256_hex(text.encode("utf-8"))


def open_plain(path: Path) -> BufferedReader:
    """Open a regular file to read, also through a link; a pipe or device is not waited for.

    Raises
    ------
    OSError
        If it is something else, or cannot be opened.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return os.fdopen(handle, "rb")


def check_size(what: str, size: int, limit: int) -> int:
    """Return `size`; ManifestError if a file has more bytes than are read."""
    if size > limit:
        raise ManifestError(f"{what!r} has {size:,} bytes; at most {limit:,} are read.")
    return size


def read_inside(root: Path, name: str, *, limit: int) -> bytes:
    """Return the bytes of a file below `root`.

    Raises
    ------
    ManifestError
        If it is no regular file inside (see `resolve_inside`), or has more than `limit` bytes.
    OSError
        If it cannot be read.
    """
    with open_plain(resolve_inside(root, name)) as file:
        return file.read(check_size(name, os.fstat(file.fileno()).st_size, limit))


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what the file system refuses into a ManifestError."""
    try:
        yield
    except OSError as err:
        raise ManifestError(f"Cannot read {path}: {err.strerror or err}.") from err


def file_sha256(path: Path) -> str:
    """Return the content hash of a file item.

    Raises
    ------
    ManifestError
        If the file cannot be read.
    """
    with _readable(path), open_plain(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def item_hashes(root: Path | Address, table: pl.DataFrame) -> pl.Series:
    """Return the content hash of every item, computed anew.

    An item with neither uri nor text (a head weight) is hashed by its class_id, or its item_id.
    A part of a file (see `featstore.manifest_files`), and what lies behind an address, keeps the
    hash that it has, which whoever listed it took from the very bytes.

    Raises
    ------
    ManifestError
        If a file is not there, or lies outside the root.
    """
    rows = table.select("uri", "text", "class_id", "item_id", "content_sha256").iter_rows()
    hashes = []
    for uri, text, class_id, item_id, given in rows:
        if uri is None:
            hashes.append(text_sha256(text or class_id or item_id))
        elif isinstance(root, Address) or parse_locator(uri) is not None:
            hashes.append(given)
        else:
            with _readable(root / uri):
                hashes.append(file_sha256(resolve_inside(root, uri)))
    import polars as pl

    return pl.Series("content_sha256", hashes, dtype=pl.String)


def require_hashes(table: pl.DataFrame, kind: str, *, every: bool) -> None:
    """Raise ManifestError if a part of a file has no content hash; with `every`, any uri.

    The hash is what binds such an item to bytes that its author knew: nothing else is ever
    returned for it, so a manifest cannot make anybody's private files be read.
    """
    import polars as pl

    uri = pl.col("uri")
    bound = uri.is_not_null() if every else uri.str.contains(LOCATOR)
    hashed = pl.col("content_sha256").str.contains(f"^(?:{_SHA256})$").fill_null(value=False)
    lost = table.filter(bound & ~hashed)["item_id"]
    if len(lost):
        where = "lie outside the manifest's folder" if every else "are parts of files"
        raise ManifestError(
            f"{len(lost):,} {kind} items {where} but have no content_sha256 of 64 hexadecimal "
            f"digits (first: {lost[0]!r}). Make the manifest with `headstock data make`."
        )


#: The file of facts; written last, so that a folder without it is no manifest.
FACTS_FILE = "dataset.toml"

#: Folder inside that of a manifest, there only while one is made.
STAGING = ".building"

#: A larger file of facts is refused before it is read.
MAX_FACTS_BYTES = 4 * 2**20


@contextmanager
def building(folder: Path) -> Iterator[Path]:
    """Yield an empty folder inside `folder` for new files; `publish` moves them out of it.

    Afterwards it is gone, and so is a `folder` that holds nothing.

    Raises
    ------
    ManifestError
        If the file system refuses.
    """
    staging = folder / STAGING
    with _refusals(folder):
        settle(folder)
        remove_tree(staging)
        staging.mkdir(parents=True)
    try:
        yield staging
    finally:
        if not (staging / FACTS_FILE).exists():
            remove_tree(staging)
            with suppress(OSError):  # it holds something, or another `building` inside removed it
                folder.rmdir()


def publish(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write `files`, and move them and what else `building` made to their places, the facts last.

    Parameters
    ----------
    files : mapping of str to bytes
        By name, relative to `folder`, in the order in which they are written: the facts last.

    Raises
    ------
    ManifestError
        If the file system refuses.
    """
    with _refusals(folder):
        for name, data in files.items():
            write_durably(folder / STAGING / name, [data])
        settle(folder)


def settle(folder: Path) -> None:
    """Complete a publication that was interrupted in `folder`, if there is one.

    Raises
    ------
    ManifestError
        If a file would be moved out of `folder`, or the file system refuses.
    """
    staging = folder / STAGING
    with _refusals(folder):
        if staging.is_symlink() or not (staging / FACTS_FILE).is_file():
            return
        made = [path for path in staging.rglob("*") if not path.is_dir()]
        places = {path: folder / path.relative_to(staging) for path in made}
        for place in places.values():
            if not place.parent.resolve().is_relative_to(folder.resolve()):
                raise ManifestError(
                    f"{staging} holds a file for {place}, but a symbolic link leads out of the "
                    f"folder. Nothing was moved; remove {staging}, or choose a new folder."
                )
        fsync_path(folder)  # what is moved out of it must not outlast its name
        for path in sorted(made, key=lambda path: (path == staging / FACTS_FILE, path)):
            places[path].parent.mkdir(parents=True, exist_ok=True)
            path.replace(places[path])
        fsync_path(folder)
        shutil.rmtree(staging)


def take_folder(folder: Path, name: str) -> None:
    """Make sure that `folder` is free for a manifest called `name`, and complete what is there.

    Free is a folder that does not exist, is empty, or holds a manifest of this name; what a
    killed process left in it beside, or alone, is put in order.

    Raises
    ------
    ManifestError
        If the folder holds anything else.
    """
    settle(folder)
    staging = folder / STAGING
    with _refusals(folder):
        if not folder.exists() or all(path == staging for path in folder.iterdir()):
            return
        if not (folder / FACTS_FILE).is_file():
            raise ManifestError(
                f"{folder} holds files that are no manifest. Choose an empty or new folder."
            )
        held = read_facts(folder).get("name")
        if held != name:
            raise ManifestError(
                f"{folder} holds the dataset {held!r}, not {name!r}. Choose another folder."
            )
        remove_tree(staging)


def read_facts(folder: Path) -> dict[str, Any]:
    """Return what dataset.toml in `folder` says, without reading any table.

    Raises
    ------
    ManifestError
        If the folder or the file is missing, or the file is too large or not TOML.
    """
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise ManifestError(
            f"{folder} {what}. `headstock data make` makes a manifest of your own files, "
            "`headstock data build` one of a known dataset."
        )
    if not (folder / FACTS_FILE).is_file():
        raise ManifestError(
            f"{folder} is not a manifest: it has no {FACTS_FILE}. `headstock data make {folder}` "
            "makes one of its files; a `headstock data build` that was interrupted is typed again."
        )
    data = read_bytes(folder, FACTS_FILE, MAX_FACTS_BYTES)
    try:
        return tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as err:
        raise ManifestError(
            f"{folder / FACTS_FILE} is not TOML: {err}. Correct it, or build the dataset again."
        ) from err


def read_bytes(folder: Path, file: str, limit: int) -> bytes:
    """Return the bytes of a file in the folder of a manifest.

    Raises
    ------
    ManifestError
        If it is no regular file inside, cannot be read, or has more than `limit` bytes.
    """
    with _readable(folder / file):
        return read_inside(folder, file, limit=limit)


@contextmanager
def _refusals(folder: Path) -> Iterator[None]:
    """Turn what the file system refuses into a ManifestError."""
    try:
        yield
    except OSError as err:
        if folder.exists() and not folder.is_dir():
            raise ManifestError(f"{folder} is not a folder. Choose another one.") from err
        raise ManifestError(
            f"Cannot write into {folder}: {err.strerror or err}. Free space or choose another "
            "folder."
        ) from err
