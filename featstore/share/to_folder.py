"""Publish a set of another store in a folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from featstore.errors import CorruptStoreError, StoreWriteError
from featstore.keys import sha256_hex
from featstore.share.relation import Relation, relation
from featstore.share.source import SetSource, kept_files
from featstore.store.blocks import check_file
from featstore.store.catalog import write_catalog
from featstore.store.claim import Claim, claim_set
from featstore.store.commit import read_commit, read_pointer
from featstore.store.disk_errors import write_error
from featstore.store.files import same_file
from featstore.store.journal import has_blocks
from featstore.store.sharing import make_store


def publish_to_folder(
    root: Path, source: SetSource, *, progress: Callable[[int], object]
) -> Relation:
    """Copy a set into the store at `root`, which is made if it is missing.

    The order is that of every publication: data, small files, commit records, pointer, catalog; all
    under the set's claim, and every data file is compared with the commit where it lies now. What
    an interrupted copy left is used if it is right.

    Raises
    ------
    PublishConflictError
        If the set there was extended otherwise.
    StoreWriteError
        If another process writes it, an extraction of it is unfinished, or the disk refuses.
    """
    key = source.info.key
    directory = key.directory(root)
    make_store(root)
    found = relation(read_pointer(directory), source.info.attributes, where=f"{root}/{key}")
    if found not in ("new", "behind"):
        return found
    claim = claim_set(directory, key)
    try:
        if has_blocks(claim.folder):
            msg = (
                f"An extraction of {key} into {root} is unfinished. Finish it, or remove it with "
                "`featstore gc`, and copy the set then."
            )
            raise StoreWriteError(msg)
        # Somebody may have published between the first look and the claim.
        there = read_pointer(directory)
        found = relation(there, source.info.attributes, where=f"{root}/{key}")
        if found in ("new", "behind"):
            base = None if there is None else read_commit(directory, there["revision"])
            layout = source.layout()
            kept = kept_files(base, source.info.commit, layout)
            for file in sorted(set(range(layout.n_files)) - kept):
                _copy_file(claim, directory, source, file)
                progress(layout.file_bytes(file))
            for name, data in {**source.groups(), **source.small_files()}.items():
                facts = {"bytes": len(data), "sha256": sha256_hex(data)}
                if not same_file(root / name, facts):
                    claim.write_file(root / name, [data])
            claim.write_file(root / source.pointer_name(), [source.pointer()])
            write_catalog(root)
        claim.finish()
    finally:
        claim.release()
    return found


def _copy_file(claim: Claim, directory: Path, source: SetSource, file: int) -> None:
    """Copy a data file unless it is there, and compare the copy with the commit."""
    layout, blocks = source.layout(), source.info.commit.blocks
    target = directory / "embedding" / layout.file_name(file)
    if target.exists() and not check_file(target, layout, file, blocks).reasons:
        return
    staged = claim.folder / f"copy-{file}.staged"
    try:
        with source.data_file(file).open("rb") as read, staged.open("wb") as write:
            shutil.copyfileobj(read, write, 4 * 2**20)
            write.flush()
            os.fsync(write.fileno())
    except OSError as err:
        raise write_error(target, err) from err
    found = check_file(staged, layout, file, blocks)
    if found.reasons:
        msg = (
            f"{staged} {'; '.join(found.reasons)}: the disk or memory errs. Nothing was published."
        )
        raise CorruptStoreError(msg)
    claim.place(staged, target)
