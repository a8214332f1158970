"""What a data file holds behind its blocks: padding of the last one, and the index."""

from __future__ import annotations

from google_crc32c import value as crc32c

from featstore.store.layout import ArrayLayout, shard_index


def shard_tail(layout: ArrayLayout, file: int) -> bytes:
    """Return the bytes that follow the last row of a data file.

    Nothing for a plain file. A shard pads its last block to full size (Zarr's inner chunks
    are all of one shape) and ends with the index and its crc32c.
    """
    if not layout.shard_rows:
        return b""
    blocks = layout.file_blocks(file)
    rows = layout.block_slice(blocks[-1])
    padding = bytes((layout.block_rows - (rows.stop - rows.start)) * layout.row_bytes)
    index = shard_index(layout, len(blocks)).tobytes()
    return padding + index + int(crc32c(index)).to_bytes(4, "little")
