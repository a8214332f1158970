"""Make a store, and let a group write to one: the modes of its folders and files.

In a group-writable store whatever is made later has the right modes by itself; see
`featstore.durable`.
"""

from __future__ import annotations

import stat
from pathlib import Path

from featstore.durable import make_folders
from featstore.errors import FeatstoreError, StoreWriteError
from featstore.store.catalog import NAME, write_catalog
from featstore.store.files import json_bytes, write_file
from featstore.store.layout import FORMAT, group_metadata
from featstore.store.records import check_root
from featstore.store.verify import walk_store

#: Folders: everything for owner and group, the group handed down; others may read.
FOLDER_MODE = 0o2775

#: Files that are finished: read by all, written by nobody, replaced by a rename.
FILE_MODE = 0o444

#: Files under construction: whoever of the group resumes them writes to them.
STAGED_MODE = 0o664


def make_store(root: Path, *, shared: bool = False) -> bool:
    """Make an empty store at `root`, or give a store's folders and files the shared modes.

    Parameters
    ----------
    shared : bool
        Let the folder's group write: folders get mode 2775, finished files 0444. Which group
        that is, is the folder's affair (``chgrp``). Each owner of a part must do this once if
        the store was not made shared.

    Returns
    -------
    bool
        Whether the store was made now.

    Raises
    ------
    FormatVersionError
        If a newer version wrote the store.
    StoreWriteError
        If the folder holds other things, the file system refuses, or parts belong to others.
    """
    check_root(root)
    fresh = not (root / "zarr.json").exists()
    try:
        if fresh and root.exists() and any(root.iterdir()):
            msg = f"{root} holds other things and is no store. Choose an empty or a new folder."
            raise StoreWriteError(msg)
        make_folders(root)
        if shared:
            _share(root)
        if fresh:
            write_file(root / "zarr.json", [json_bytes(group_metadata({"format": FORMAT}))])
        if fresh or not (root / NAME).exists():
            write_catalog(root)
    except FeatstoreError:
        raise
    except OSError as err:
        msg = f"Cannot make the store {root}: {err.strerror or err}. Choose a folder of yours."
        raise StoreWriteError(msg) from err
    return fresh


def _share(root: Path) -> None:
    """Set the modes of everything below `root`; no link is followed."""
    # The folders first, and from above: what a writer makes meanwhile inherits from them.
    refused = [] if _set_mode(root, FOLDER_MODE) else [root]
    files, folders, _ = walk_store(root)
    for name in sorted(folders):
        refused += [] if _set_mode(root / name, FOLDER_MODE) else [root / name]
    for name in sorted(files):
        mode = STAGED_MODE if ".staging" in name.split("/") else FILE_MODE
        refused += [] if _set_mode(root / name, mode) else [root / name]
    if refused:
        owner = refused[0].lstat().st_uid
        msg = (
            f"{len(refused):,} files and folders belong to others, first {refused[0]} (user "
            f"{owner}). Each owner runs `featstore init {root} --shared` once."
        )
        raise StoreWriteError(msg)


def _set_mode(path: Path, mode: int) -> bool:
    """Set a mode if it is another; False if only the owner may."""
    try:
        if stat.S_IMODE(path.lstat().st_mode) != mode:
            path.chmod(mode)
    except PermissionError:
        return False
    except FileNotFoundError:
        pass  # a writer renamed it meanwhile: renamed files have their modes
    return True
