"""Check the data files of an array against the hashes in a commit, a mebibyte at a time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from google_crc32c import value as crc32c

from featstore.errors import FeatstoreError
from featstore.identity import HASHES, canonical_json, sha256_hex
from featstore.store.files import open_regular, pieces
from featstore.store.layout import (
    DTYPES,
    ArrayLayout,
    blank_value,
    shard_index,
)
from featstore.store.records import Commit

_FILLED = "the padding of its last block is not zero"


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


def shard_name(layout: ArrayLayout, file: int, hashes: Sequence[str]) -> str:
    """Return what a data file is known by: the sha256 of all that decides its bytes."""
    blocks, rows = layout.file_blocks(file), layout.file_rows(file)
    facts = {
        "rows": rows.stop - rows.start,
        "row_bytes": layout.row_bytes,
        "block_rows": layout.block_rows,
        "shard_rows": layout.shard_rows,
        "blocks": list(hashes[blocks.start : blocks.stop]),
    }
    return sha256_hex(canonical_json(facts))


def check_size(path: Path | str, layout: ArrayLayout, file: int) -> str:
    """Return what is wrong with the presence or size of a data file, or an empty string."""
    try:
        size = os.lstat(path).st_size
    except (FileNotFoundError, NotADirectoryError):
        return "is missing"
    expected = layout.file_bytes(file)
    return "" if size == expected else f"has {size:,} bytes, expected {expected:,}"


def check_tail(path: Path | str, layout: ArrayLayout, file: int) -> str:
    """Return what is wrong with a data file's size, padding or index, or an empty string."""
    wrong = check_size(path, layout, file)
    if wrong or not layout.shard_rows:
        return wrong
    rows = layout.file_rows(file)
    try:
        with open_regular(path) as handle:
            handle.seek((rows.stop - rows.start) * layout.row_bytes)
            return "; ".join(_tail_reasons(handle, layout, file))
    except (FeatstoreError, OSError) as err:
        return f"cannot be read: {err}"


def may_have_grown(path: Path | str, layout: ArrayLayout, file: int) -> bool:
    """Return whether a data file may be one that later rows were appended to.

    It is larger, or equally large with rows in what was padding before.
    """
    size = os.lstat(path).st_size
    padded = file == layout.n_files - 1 and layout.shard_rows and layout.n % layout.block_rows
    if padded and size == layout.file_bytes(file):
        return check_tail(path, layout, file) == _FILLED
    return layout.may_grow_to(file, size)


def check_file(
    path: Path | str, layout: ArrayLayout, file: int, commit: Commit, *, grown: bool = False
) -> FileCheck:
    """Check every byte of a data file: rows, padding, index and its crc32c.

    Parameters
    ----------
    commit : Commit
        Says the hash of each block of the whole array.
    grown : bool
        The file holds later rows, too: only the rows of this layout are checked.
    """
    found = FileCheck()
    blocks = layout.file_blocks(file)
    wrong = "" if grown else check_size(path, layout, file)
    if wrong:
        found.reasons.append(wrong)
    try:
        with open_regular(path) as handle:
            for block in blocks:
                if _block_hash(handle, layout, block, commit.hash) != commit.blocks[block]:
                    found.bad_blocks.append(block)
            if not wrong and not grown and layout.shard_rows:
                found.reasons += _tail_reasons(handle, layout, file)
    except (FeatstoreError, OSError) as err:
        if not wrong:
            found.reasons.append(f"cannot be read: {err}")
        found.bad_blocks = list(blocks)
        return found  # nothing was compared
    if found.bad_blocks and not wrong:
        rows = layout.block_slice(found.bad_blocks[0])
        found.reasons.append(
            f"{len(found.bad_blocks):,} of {len(blocks):,} blocks differ from the commit, first "
            f"rows {rows.start:,}-{rows.stop - 1:,}"
        )
    return found


def first_row_not_stored(
    directory: Path, layout: ArrayLayout, current: Commit, older: Commit
) -> int | None:
    """Return where the first block of an earlier revision begins that the array does not hold.

    Parameters
    ----------
    directory : Path
        Of the array, whose layout is that of the `current` revision.

    Returns
    -------
    int or None
        A row; None if every block is there. One that cannot be read is not looked at.
    """
    failed = older.failed_rows()
    for block, digest in enumerate(older.blocks):
        start = block * older.block_rows
        rows = min(older.block_rows, older.n - start)
        if digest == current.blocks[block]:
            continue
        path = directory / layout.file_name(block // layout.blocks_per_file)
        try:
            data = read_block(path, layout, block)[: rows * layout.row_bytes]
            if proven(older, block, data, failed) is None:
                return start
        except (FeatstoreError, OSError):
            continue
    return None


def proven(
    commit: Commit, block: int, data: Any, failed: np.ndarray | None = None
) -> memoryview | None:
    """Return the rows of a block as a commit states them; None if they are others.

    Rows of failed items may have an embedding by now, which a later revision gave them, or a second
    try that was given up: they are blanked.

    Parameters
    ----------
    data : bytes or array
        The rows, as stored.
    failed : ndarray of shape (n,), optional
        What `Commit.failed_rows` returns.
    """
    view = memoryview(data).cast("B")
    if commit.block_hash(view) == commit.blocks[block]:
        return view
    start = block * commit.block_rows
    lost = (commit.failed_rows() if failed is None else failed)[start : start + commit.block_rows]
    if not lost.any() or len(view) != lost.size * commit.dim * DTYPES[commit.dtype].itemsize:
        return None
    rows = np.frombuffer(view, dtype=DTYPES[commit.dtype]).reshape(-1, commit.dim).copy()
    rows[lost] = blank_value(commit.dtype)
    right = rows.reshape(-1).view(np.uint8).data
    return right if commit.block_hash(right) == commit.blocks[block] else None


def read_block(path: Path, layout: ArrayLayout, block: int) -> bytes:
    """Return the rows of a block from its data file."""
    file = block // layout.blocks_per_file
    rows = layout.block_slice(block)
    with open_regular(path) as handle:
        handle.seek((block - layout.file_blocks(file).start) * layout.block_rows * layout.row_bytes)
        return handle.read((rows.stop - rows.start) * layout.row_bytes)


def _block_hash(handle: IO[bytes], layout: ArrayLayout, block: int, name: str) -> str:
    """Return the hash of a block's rows; the handle ends behind them."""
    rows, digest = layout.block_slice(block), HASHES[name]()
    for piece in pieces(handle, (rows.stop - rows.start) * layout.row_bytes):
        digest.update(piece)
    return str(digest.hexdigest())


def _tail_reasons(handle: IO[bytes], layout: ArrayLayout, file: int) -> list[str]:
    """Check what follows the last row of a shard: zeros, the index, its checksum."""
    reasons = []
    padding = layout.data_bytes(file) - handle.tell()
    if any(any(piece) for piece in pieces(handle, padding)):
        reasons.append(_FILLED)
    handle.seek(layout.data_bytes(file), os.SEEK_SET)
    index = shard_index(layout, len(layout.file_blocks(file))).tobytes()
    found = handle.read(len(index) + 4)
    if found[:-4] != index:
        reasons.append("its index is not the one that its blocks have")
    if found[-4:] != int(crc32c(index)).to_bytes(4, "little"):
        reasons.append("the checksum of its index is wrong")
    return reasons
