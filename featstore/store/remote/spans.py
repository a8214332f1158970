"""Which bytes to ask for: runs of whole blocks, each one request."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from featstore.store.layout import ArrayLayout

#: Blocks nearer than this are asked for together, with what lies between them.
GAP_BYTES = 2**20


@dataclass(frozen=True)
class Span:
    """Consecutive blocks of one data file, the last one included."""

    file: int
    first: int
    last: int


def plan_spans(
    wanted: np.ndarray,
    have: np.ndarray,
    layout: ArrayLayout,
    *,
    onwards: bool = False,
    whole: bool = False,
) -> Iterator[Span]:
    """Yield the spans to fetch, in ascending order.

    Parameters
    ----------
    wanted : ndarray of int
        Missing blocks, ascending.
    have : ndarray of shape (n_blocks,), bool
        Blocks that are there.
    onwards : bool
        Reading goes on behind the last of them: take the rest of its file along.
    whole : bool
        Ask for whole files, since the server knows no ranges.
    """
    block_bytes = layout.block_rows * layout.row_bytes
    reach = 1 + GAP_BYTES // block_bytes
    files = wanted // layout.blocks_per_file
    for file in np.unique(files).tolist():
        blocks = wanted[files == file]
        inside = layout.file_blocks(file)
        if whole:
            yield Span(file, inside.start, inside.stop - 1)
            continue
        breaks = np.flatnonzero(np.diff(blocks) > reach)
        firsts = [int(blocks[0]), *blocks[breaks + 1].tolist()]
        lasts = [*blocks[breaks].tolist(), int(blocks[-1])]
        if onwards and file == files[-1]:
            missing = inside.start + np.flatnonzero(~have[inside.start : inside.stop])
            lasts[-1] = max(lasts[-1], int(missing[-1]))
        for first, last in zip(firsts, lasts, strict=True):
            yield Span(file, first, last)
