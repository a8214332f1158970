"""Rows whose blocks are compared with the commit before they are served."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from featstore.errors import CorruptStoreError
from featstore.keys import sha256_hex
from featstore.store.arrays import RowSource, check_bounds
from featstore.store.blocks import blanked_hash
from featstore.store.layout import ArrayLayout

Verify = Literal["never", "first-touch", "full"]
VERIFY: tuple[str, ...] = get_args(Verify)


class CheckedRows:
    """A reader that hashes each block once, before any of its rows is served.

    Parameters
    ----------
    source : RowSource
        The reader of the array.
    directory : Path
        Of the array, for messages.
    layout : ArrayLayout
    blocks : sequence of str
        sha256 of each block's rows, from the commit.
    failed : ndarray of shape (n,), optional
        True for rows without an embedding in this commit; a later revision may have filled them.
    """

    def __init__(
        self,
        source: RowSource,
        *,
        directory: Path,
        layout: ArrayLayout,
        blocks: Sequence[str],
        failed: np.ndarray | None = None,
    ) -> None:
        self._source = source
        self._failed = failed
        self._directory = directory
        self._layout = layout
        self._blocks = blocks
        self._unchecked = np.ones(layout.n_blocks, dtype=bool)
        self._lock = threading.Lock()

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (n, d)."""
        return self._source.shape

    @property
    def dtype(self) -> str:
        """Stored dtype."""
        return self._source.dtype

    def read(self, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Return the rows of these numbers once their blocks are checked.

        Raises
        ------
        CorruptStoreError
            If a block differs from the commit; the message names the file and the block.
        """
        check_bounds(rows, self._layout.n)
        touched = np.zeros(self._layout.n_blocks, dtype=bool)
        touched[rows // self._layout.block_rows] = True
        self.check(np.flatnonzero(touched & self._unchecked).tolist())
        return self._source.read(rows, out)

    def check(self, blocks: Iterable[int]) -> None:
        """Compare these blocks with the commit; see `read`."""
        with self._lock:
            for block in blocks:
                if self._unchecked[block]:
                    self._check_block(block)
                    self._unchecked[block] = False

    def _check_block(self, block: int) -> None:
        rows = self._layout.block_slice(block)
        data = self._source.read(np.arange(rows.start, rows.stop))
        view = data.reshape(-1).view(np.uint8).data
        if sha256_hex(view) == self._blocks[block]:
            return
        if self._failed is not None:
            blank = np.flatnonzero(self._failed[rows])
            if blank.size and blanked_hash(view, self._layout, blank) == self._blocks[block]:
                return
        path = self._directory / self._layout.file_name(block // self._layout.blocks_per_file)
        msg = (
            f"{path}: block {block:,} (rows {rows.start:,} to {rows.stop - 1:,}) differs from its "
            "commit record. The data was changed or damaged; extract or fetch the set again."
        )
        raise CorruptStoreError(msg)


def check_rows(
    source: RowSource,
    *,
    verify: Verify,
    directory: Path,
    layout: ArrayLayout,
    blocks: Sequence[str],
    failed: np.ndarray | None = None,
) -> RowSource:
    """Return `source`, checked as `verify` asks.

    ``"never"`` trusts sizes alone, ``"first-touch"`` checks a block before its rows are first
    served, ``"full"`` checks every block now.
    """
    if verify == "never":
        return source
    checked = CheckedRows(source, directory=directory, layout=layout, blocks=blocks, failed=failed)
    if verify == "first-touch":
        return checked
    checked.check(range(layout.n_blocks))
    return source
