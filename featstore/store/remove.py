"""Remove a set: the pointer first, so that no reader meets half of it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from featstore.durable import fsync_directory
from featstore.errors import StoreWriteError, UnknownSetError
from featstore.store.catalog import write_catalog
from featstore.store.claim import claim_set, is_claimed
from featstore.store.commit import POINTER
from featstore.store.layout import SetKey


def remove_set(root: Path, key: str) -> int:
    """Remove the set of this full key and return the bytes freed.

    A damaged set is removed like any other: nothing of it is read. The item tables and
    thumbnails of its kind go with the last set of the kind.

    Raises
    ------
    UnknownSetError
        If there is no such set, finished, begun or damaged.
    StoreWriteError
        If another process is writing it, or the file system refuses.
    """
    parts = SetKey(*key.split("/", 2)) if key.count("/") == 2 else None
    directory = parts.directory(root) if parts else root
    if parts is None or not directory.is_dir() or directory.is_symlink():
        msg = f"{root} holds no set {key!r}."
        raise UnknownSetError(msg)
    condemned = directory.with_name(f".removed-{directory.name}-{os.getpid()}")
    try:
        if is_claimed(directory):
            msg = f"{key} is being written. Wait for its writers to end, or stop them."
            raise StoreWriteError(msg)
        claim = claim_set(directory, parts)
        try:
            (directory / POINTER).unlink(missing_ok=True)
            fsync_directory(directory)
            write_catalog(root)
            # One rename, so that a kill leaves either the folder or litter, never half a set.
            directory.rename(condemned)
            fsync_directory(directory.parent)
        finally:
            claim.release()
        freed = _delete(condemned)
        if not any(path.is_dir() for path in directory.parent.iterdir()):
            for pattern in ("items-*.parquet", "thumbnails-*.parquet"):
                freed += sum(_delete(path) for path in directory.parent.glob(pattern))
    except StoreWriteError:
        raise
    except OSError as err:
        msg = f"Cannot remove {key} from {root}: {err.strerror or err}."
        raise StoreWriteError(msg) from err
    return freed


def _delete(path: Path) -> int:
    """Delete a file or a folder and return the bytes it held."""
    if path.is_dir() and not path.is_symlink():
        size = sum(file.lstat().st_size for file in path.rglob("*") if file.is_file())
        shutil.rmtree(path)
        return size
    size = path.lstat().st_size
    path.unlink()
    return size
