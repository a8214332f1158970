"""Check the data files of a set against the hashes in a commit, a mebibyte at a time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from google_crc32c import value as crc32c

from featstore.errors import FeatstoreError
from featstore.identity import HASHES, canonical_json, sha256_hex
from featstore.store.files import open_regular, pieces
from featstore.store.layout import DataFile, shard_index
from featstore.store.records import Commit


@dataclass
class FileCheck:
    """What is wrong with one data file.

    Attributes
    ----------
    reasons : list of str
        Empty if every byte is as the commit says.
    bad_blocks : list of int
        Blocks whose rows are not those of the commit; the others may be taken from the file.
    """

    reasons: list[str] = field(default_factory=list)
    bad_blocks: list[int] = field(default_factory=list)


def shard_name(file: DataFile, hashes: Sequence[str]) -> str:
    """Return what a data file is known by: the sha256 of all that decides its bytes."""
    part = file.part
    facts = {
        "rows": file.n_rows,
        "row_bytes": part.row_bytes,
        "block_rows": part.block_rows,
        "shard_rows": part.shard_rows,
        "padding": part.padding,
        "blocks": list(hashes[file.blocks.start : file.blocks.stop]),
    }
    return sha256_hex(canonical_json(facts))


def check_size(path: Path | str, file: DataFile) -> str:
    """Return what is wrong with the presence or size of a data file, or an empty string."""
    try:
        size = os.lstat(path).st_size
    except (FileNotFoundError, NotADirectoryError):
        return "is missing"
    return "" if size == file.size else f"has {size:,} bytes, expected {file.size:,}"


def check_file(path: Path | str, file: DataFile, commit: Commit) -> FileCheck:
    """Check every byte of a data file: padding, rows, index and its crc32c.

    Parameters
    ----------
    commit : Commit
        Says the hash of each block of the whole set.
    """
    found = FileCheck()
    blocks, wrong = file.blocks, check_size(path, file)
    if wrong:
        found.reasons.append(wrong)
    try:
        with open_regular(path) as handle:
            blank = not any(handle.read(file.part.padding))
            for block in blocks:
                if _block_hash(handle, file, block, commit.hash) != commit.blocks[block]:
                    found.bad_blocks.append(block)
            if not wrong and file.part.shard_rows:
                found.reasons += _around_reasons(handle, file, blank=blank)
    except (FeatstoreError, OSError) as err:
        if not wrong:
            found.reasons.append(f"cannot be read: {err}")
        found.bad_blocks = list(blocks)
        return found  # nothing was compared
    if found.bad_blocks and not wrong:
        start = file.rows.start + (found.bad_blocks[0] - blocks.start) * file.part.block_rows
        stop = min(start + file.part.block_rows, file.rows.stop)
        found.reasons.append(
            f"{len(found.bad_blocks):,} of {len(blocks):,} blocks differ from the commit, first "
            f"rows {start:,}-{stop - 1:,}"
        )
    return found


def read_block(path: Path, file: DataFile, block: int) -> bytes:
    """Return the rows of a block from its data file; fewer if that ends before."""
    start, size = file.place_of(block)
    with open_regular(path) as handle:
        handle.seek(start)
        return handle.read(size)


def _block_hash(handle: IO[bytes], file: DataFile, block: int, name: str) -> str:
    """Return the hash of a block's rows; the handle ends behind them."""
    digest = HASHES[name]()
    for piece in pieces(handle, file.place_of(block)[1]):
        digest.update(piece)
    return str(digest.hexdigest())


def _around_reasons(handle: IO[bytes], file: DataFile, *, blank: bool) -> list[str]:
    """Check what lies around the rows of a shard: zeros, the index, its checksum."""
    index = shard_index(file.part, len(file.blocks)).tobytes()
    padding = file.size - len(index) - 4 - handle.tell()
    reasons = []
    if any(any(piece) for piece in pieces(handle, padding)) or not blank:
        reasons.append("the padding around its blocks is not zero")
    found = handle.read(len(index) + 4)
    if found[:-4] != index:
        reasons.append("its index is not the one that its blocks have")
    if found[-4:] != int(crc32c(index)).to_bytes(4, "little"):
        reasons.append("the checksum of its index is wrong")
    return reasons
