"""Housekeeping that a kill right after publication leaves undone."""

from __future__ import annotations

from pathlib import Path

from featstore.errors import StoreWriteError
from featstore.store.catalog import write_catalog
from featstore.store.claim import Claim, claim_folders, claim_set, is_claimed
from featstore.store.commit import read_pointer, staging_of
from featstore.store.journal import base_of
from featstore.store.layout import SetKey


def settle_set(root: Path, key: SetKey) -> bool:
    """Complete a published set whose writer was killed before it could tidy up.

    Publication ends with the pointer; then come the catalog and the removal of the staging
    folder, in this order. A published set with a staging folder lacks one of them, unless a
    writer is extending it, or was interrupted in that. Nothing is touched otherwise.

    Returns
    -------
    bool
        Whether there was anything to do.

    Raises
    ------
    StoreWriteError
        If the file system refuses.
    """
    directory = key.directory(root)
    pointer = read_pointer(directory)
    if pointer is None or not staging_of(directory).exists() or is_claimed(directory):
        return False
    if any(base_of(folder) == pointer["revision"] for folder in claim_folders(directory)):
        return False
    try:
        claim = claim_set(directory, key)
    except StoreWriteError:
        return False  # another process claimed it meanwhile, and leaves it tidy
    try:
        settle_claimed(root, claim, pointer["revision"])
    finally:
        claim.release()
    return True


def settle_claimed(root: Path, claim: Claim, revision: str) -> None:
    """Do what `settle_set` does for a set whose claim this process holds.

    Parameters
    ----------
    revision : str
        The set's current revision. The staged beginning of its next one is left alone.
    """
    if base_of(claim.folder) != revision:
        write_catalog(root)
        claim.finish()
