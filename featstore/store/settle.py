"""Housekeeping that a kill right after publication leaves undone."""

from __future__ import annotations

import shutil
from pathlib import Path

from featstore.store.catalog import write_catalog
from featstore.store.commit import POINTER, staging_of
from featstore.store.layout import SetKey
from featstore.store.lock import lock_set


def settle_set(root: Path, key: SetKey) -> bool:
    """Complete a published set whose writer was killed before it could tidy up.

    Publication ends with the pointer; then come the catalog and the removal of the staging
    folder, in this order. A published set with a staging folder lacks one of them. Nothing is
    touched otherwise.

    Returns
    -------
    bool
        Whether there was anything to do.

    Raises
    ------
    StoreWriteError
        If another process is doing the same, or the file system refuses.
    """
    directory = key.directory(root)
    staging = staging_of(directory)
    if not (directory / POINTER).exists() or not staging.exists():
        return False
    with lock_set(staging / "writer.lock", key=key):
        write_catalog(root)
        shutil.rmtree(staging, ignore_errors=True)
    return True
