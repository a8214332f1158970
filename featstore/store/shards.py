"""The bytes of one data file: blocks in order, padding of the last, index with crc32c."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from google_crc32c import value as crc32c

from featstore.store.layout import ArrayLayout, shard_index


def file_parts(
    layout: ArrayLayout, file: int, read_block: Callable[[int], bytes]
) -> Iterator[bytes]:
    """Yield the bytes of a data file, block by block, so that no shard is held in memory.

    A plain file is its blocks. A shard pads its last block to full size (Zarr's inner
    chunks are all of one shape) and ends with the index.
    """
    blocks = layout.file_blocks(file)
    for block in blocks:
        yield read_block(block)
    if layout.shard_rows:
        rows = layout.block_slice(blocks[-1])
        yield bytes((layout.block_rows - (rows.stop - rows.start)) * layout.row_bytes)
        index = shard_index(layout, len(blocks)).tobytes()
        yield index
        yield int(crc32c(index)).to_bytes(4, "little")
