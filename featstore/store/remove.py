"""Remove a set: the pointer first, so that no reader meets half of it."""

from __future__ import annotations

import shutil
from pathlib import Path

from featstore.durable import fsync_directory
from featstore.errors import StoreWriteError, UnknownSetError
from featstore.store.catalog import finished_sets, write_catalog
from featstore.store.commit import POINTER, read_commit, read_pointer, staging_of
from featstore.store.layout import SetKey
from featstore.store.lock import lock_set


def remove_set(root: Path, key: str) -> int:
    """Remove the set of this full key and return the bytes freed.

    Its item table goes too, unless another set of the same kind uses it.

    Raises
    ------
    UnknownSetError
        If there is no such set, finished or begun.
    StoreWriteError
        If another process is writing it, or the file system refuses.
    """
    parts = SetKey(*key.split("/", 2)) if key.count("/") == 2 else None
    directory = parts.directory(root) if parts else root
    if parts is None or not directory.is_dir():
        msg = f"{root} holds no set {key!r}."
        raise UnknownSetError(msg)
    try:
        staging_of(directory).mkdir(exist_ok=True)
        with lock_set(staging_of(directory) / "writer.lock", key=parts):
            pointer = read_pointer(directory)
            items = read_commit(directory, pointer["revision"]).items["file"] if pointer else None
            (directory / POINTER).unlink(missing_ok=True)
            fsync_directory(directory)
            freed = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
            shutil.rmtree(directory)
            if items and items not in _items_in_use(root, parts):
                path = directory.parent / items
                freed += path.stat().st_size if path.exists() else 0
                path.unlink(missing_ok=True)
        write_catalog(root)
    except StoreWriteError:
        raise
    except OSError as err:
        msg = f"Cannot remove {key} from {root}: {err.strerror or err}."
        raise StoreWriteError(msg) from err
    return freed


def _items_in_use(root: Path, key: SetKey) -> set[str]:
    """Return the item tables that the finished sets of a dataset's kind use."""
    used = set()
    for directory in finished_sets(root):
        if directory.parent == key.directory(root).parent:
            pointer = read_pointer(directory)
            if pointer is not None:
                used.add(str(read_commit(directory, pointer["revision"]).items["file"]))
    return used
