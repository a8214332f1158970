"""What a writer finds done: by an interrupted attempt, and by an earlier revision."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from featstore.store.base import Base
from featstore.store.journal import Journal
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
    if base is not None:
        _carry(journal, staged, base, layout)


def _carry(journal: Journal, staged: StagedFiles, base: Base, layout: ArrayLayout) -> None:
    """Stage the whole blocks of the base whose file a larger one will replace."""
    for block in range(layout.n_blocks):
        rows = layout.block_slice(block)
        if block in journal.blocks or not base.keeps(rows).all():
            continue
        staged.write(block, base.read(rows).reshape(-1).view(np.uint8).data)
        journal.add_block(block, base.record(block))
