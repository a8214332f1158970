"""What a writer finds done: by an interrupted attempt, and by an earlier revision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from featstore.keys import sha256_hex
from featstore.store.base import Base
from featstore.store.journal import BlockRecord, Journal, finished_blocks
from featstore.store.layout import ArrayLayout
from featstore.store.staged import StagedFiles


def resume_journal(
    folder: Path,
    *,
    plan: Mapping[str, Any],
    array: Path,
    layout: ArrayLayout,
    staged: StagedFiles,
    base: Base | None,
    others: Sequence[Path] | None,
) -> Journal:
    """Open the journal in a claim's folder; every block that need not be made again is in it.

    Parameters
    ----------
    plan : mapping
        See `Journal.open`.
    array : Path
        Directory of the array.
    base : Base, optional
        Blocks that it has whole are taken over: where their file stays, as they are; where a
        larger file will replace it, as staged copies.
    others : sequence of Path, optional
        Folders of parts; the blocks that they have done are copied. None if this is a part
        itself: nothing is copied then.
    """

    def read_block(block: int) -> bytes:
        file = block // layout.blocks_per_file
        if staged.path(file).exists():
            return staged.read(block)
        path = array / layout.file_name(file)
        if path.exists() and path.stat().st_size == layout.file_bytes(file):
            return staged.read(block, path)
        return b""

    journal = Journal.open(folder, plan=plan, read_block=read_block)
    try:
        _take_over(journal, array, layout, staged, base)
        if base is not None:
            _carry(journal, staged if others is not None else None, base, layout)
        for other in others or ():
            _gather(journal, staged, StagedFiles(other, layout), finished_blocks(other, plan=plan))
    except BaseException:
        journal.close()
        raise
    return journal


def _take_over(
    journal: Journal, array: Path, layout: ArrayLayout, staged: StagedFiles, base: Base | None
) -> None:
    """Find the data files that are in place already, and stage what a larger one will hold."""
    for file in list(journal.files):
        path = array / layout.file_name(file)
        if not path.exists() or path.stat().st_size != layout.file_bytes(file):
            journal.forget_file(file)
    for file in set(range(layout.n_files)) - set(journal.files):
        blocks = layout.file_blocks(file)
        if base is not None and base.in_place(layout, file):
            journal.keep_file(file, blocks=blocks)
            for block in blocks:
                journal.keep_block(block, base.record(block))
        elif not staged.path(file).exists() and all(block in journal.blocks for block in blocks):
            # Killed between the rename and its journal row: the blocks were read in place.
            journal.add_file(file, blocks=blocks)


def _carry(journal: Journal, staged: StagedFiles | None, base: Base, layout: ArrayLayout) -> None:
    """Stage the whole blocks of the base whose file a larger one will replace."""
    for block in range(layout.n_blocks):
        rows = layout.block_slice(block)
        if block in journal.blocks or not base.keeps(rows).all():
            continue
        if staged is None:
            journal.keep_block(block, base.record(block))
            continue
        staged.write(block, base.read(rows).reshape(-1).view(np.uint8).data)
        journal.add_block(block, base.record(block))


def _gather(
    journal: Journal, staged: StagedFiles, part: StagedFiles, done: Mapping[int, BlockRecord]
) -> None:
    """Copy the blocks of a part, as far as they are what its journal says."""
    for block, record in sorted(done.items()):
        if block in journal.blocks or not part.path_of(block).exists():
            continue
        data = part.read(block)
        if sha256_hex(data) == record.sha256:
            staged.write(block, memoryview(data))
            journal.add_block(block, record)
