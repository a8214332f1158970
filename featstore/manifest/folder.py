"""The folder of a manifest: whose it is, and how its files take their places together.

    .building/new/…     files that are being made, by the names that they will have
    .building/ready     all of them are whole; lists the files that the new manifest replaces

Until ``ready`` is there, nothing outside ``.building`` has changed, and whatever a killed process
left is thrown away. From then on every move can be done again: the next command does the rest.
"""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from featstore.durable import fsync_path, remove_tree, write_durably
from featstore.errors import ManifestError
from featstore.manifest.manifest import FACTS_FILE
from featstore.manifest.paths import path_fault, resolve_inside

#: Folder inside that of a manifest, there only while one is made.
STAGING = ".building"

_NEW, _READY, _STAGED = "new", "ready", "ready.staged"

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
        folder.mkdir(parents=True, exist_ok=True)
        settle(folder)
        remove_tree(staging)
        if staging.is_dir():
            shutil.rmtree(staging)  # says why it stays
        (staging / _NEW).mkdir(parents=True)
    try:
        yield staging / _NEW
    finally:
        if not (staging / _READY).exists():
            remove_tree(staging)
            with suppress(OSError):  # it holds something, or another `building` inside removed it
                folder.rmdir()


def publish(folder: Path, files: Mapping[str, bytes], *, replaced: Iterable[str] = ()) -> None:
    """Write `files`, and move them and what else `building` made to their places, the facts last.

    Parameters
    ----------
    files : mapping of str to bytes
        By name, relative to `folder`.
    replaced : iterable of str
        Files of the earlier manifest, relative to `folder`, that are removed in the end.

    Raises
    ------
    ManifestError
        If the file system refuses.
    """
    staging = folder / STAGING
    with _refusals(folder):
        for name, data in files.items():
            write_durably(staging / _NEW / name, [data])
        names = "".join(f"{name}\n" for name in replaced).encode()
        write_durably(staging / _READY, [names], staged=staging / _STAGED)
        settle(folder)


def settle(folder: Path) -> None:
    """Complete a publication that was interrupted in `folder`, if there is one.

    Raises
    ------
    ManifestError
        If a file would be moved or removed outside `folder`, or the file system refuses.
    """
    staging = folder / STAGING
    with _refusals(folder):
        if staging.is_symlink() or not (staging / _READY).is_file():
            return
        replaced = (staging / _READY).read_text(encoding="utf-8").splitlines()
        made = {
            path.relative_to(staging / _NEW).as_posix(): path
            for path in (staging / _NEW).rglob("*")
            if not path.is_dir()
        }
        places = {name: _inside(folder, name) for name in (*made, *replaced)}
        for name in sorted(made, key=lambda name: (name == FACTS_FILE, name)):
            places[name].parent.mkdir(parents=True, exist_ok=True)
            made[name].replace(places[name])
        for name in replaced:
            places[name].unlink(missing_ok=True)
        fsync_path(folder)
        shutil.rmtree(staging)


def _inside(folder: Path, name: str) -> Path:
    """Return the place of a file in `folder`, which need not be there."""
    fault = path_fault(name)
    if fault is None and not (folder / name).parent.resolve().is_relative_to(folder.resolve()):
        fault = "a symbolic link leads out of the folder"
    if fault is not None:
        raise ManifestError(
            f"{folder / STAGING} names the file {name!r}, but {fault}. Nothing was moved; remove "
            f"{folder / STAGING}, or choose an empty or new folder."
        )
    return folder / name


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
    path = resolve_inside(folder, file)
    try:
        size = path.stat().st_size
        if size > limit:
            raise ManifestError(f"{path} has {size:,} bytes; more than {limit:,} are not read.")
        return path.read_bytes()
    except OSError as err:
        raise ManifestError(f"Cannot read {path}: {err.strerror or err}.") from err


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
