"""One block: read and decode each item once, then run every encoder on it.

Batches are fixed slots by row inside the block, and a failed item keeps its slot, so that
which other items are bad never changes the bits of a good row. Decoding of the next batches
runs in threads (Pillow and NumPy release the interpreter lock) while the encoder works.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from featstore.encoders.base import Encoder
from featstore.images import ImageError, decode_image, thumbnail_webp
from featstore.keys import sha256_hex

#: Batches that are decoded ahead of the encoder.
LOOKAHEAD = 2


@dataclass(frozen=True)
class Slot:
    """One item, prepared for every encoder; `reason` says why it could not be."""

    prepared: tuple[Any, ...]
    thumbnail: bytes | None = None
    reason: str = ""


@dataclass
class BlockOutput:
    """Embeddings of a block per encoder, and what failed in it."""

    rows: list[np.ndarray]
    failures: dict[str, str]
    thumbnails: dict[str, bytes]


def prepare_image(
    item: dict[str, Any], root: Path, encoders: Sequence[Encoder], *, thumbnail: bool
) -> Slot:
    """Decode one image once and prepare it for each encoder.

    The bytes must be those that the manifest names: its hash identifies the row for ever.
    """
    try:
        data = (root / item["uri"]).read_bytes()
        digest = item.get("content_sha256")
        if digest and sha256_hex(data) != digest:
            reason = "the file differs from the manifest (its content hash changed); build it again"
            return Slot((), reason=reason)
        image = decode_image(data)
        prepared = tuple(encoder.prepare(image) for encoder in encoders)
        small = thumbnail_webp(image) if thumbnail else None
    except (ImageError, OSError) as err:
        return Slot((), reason=str(err))
    return Slot(prepared, small)


def prepare_text(item: dict[str, Any], encoders: Sequence[Encoder]) -> Slot:
    """Prepare one text for each encoder."""
    return Slot(tuple(encoder.prepare(item["text"]) for encoder in encoders))


def prepared_batches(
    items: pl.DataFrame,
    root: Path,
    encoders: Sequence[Encoder],
    pool: ThreadPoolExecutor,
    *,
    batch: int,
    thumbnail: bool,
) -> Iterator[list[Slot]]:
    """Yield the prepared slots of a block, batch by batch, a few batches ahead."""
    records = items.to_dicts()

    def prepare(record: dict[str, Any]) -> Slot:
        if record["uri"] is not None:
            return prepare_image(record, root, encoders, thumbnail=thumbnail)
        return prepare_text(record, encoders)

    ahead: deque[list[Future[Slot]]] = deque()
    for start in range(0, len(records), batch):
        ahead.append([pool.submit(prepare, record) for record in records[start : start + batch]])
        if len(ahead) > LOOKAHEAD:
            yield [future.result() for future in ahead.popleft()]
    while ahead:
        yield [future.result() for future in ahead.popleft()]


def encode_block(
    items: pl.DataFrame,
    root: Path,
    encoders: Sequence[Encoder],
    pool: ThreadPoolExecutor,
    *,
    batch: int,
    thumbnail: bool = False,
) -> BlockOutput:
    """Encode the items of one block with every encoder.

    Returns
    -------
    BlockOutput
        One float32 array of shape (b, d) per encoder; rows of failed items are NaN.
    """
    ids = items["item_id"].to_list()
    rows = [np.full((len(ids), encoder.dim), np.nan, dtype=np.float32) for encoder in encoders]
    failures: dict[str, str] = {}
    thumbnails: dict[str, bytes] = {}
    start = 0
    for slots in prepared_batches(items, root, encoders, pool, batch=batch, thumbnail=thumbnail):
        good = [index for index, slot in enumerate(slots) if not slot.reason]
        for index, slot in enumerate(slots):
            item = ids[start + index]
            if slot.reason:
                failures[item] = slot.reason
            elif slot.thumbnail is not None:
                thumbnails[item] = slot.thumbnail
        if good:
            for position, encoder in enumerate(encoders):
                # A failed slot is filled with the first good item: same shape, ignored row.
                filled = [
                    (slot if not slot.reason else slots[good[0]]).prepared[position]
                    for slot in slots
                ]
                encoded = np.asarray(encoder.encode(filled), dtype=np.float32)
                rows[position][[start + index for index in good]] = encoded[good]
        start += len(slots)
    return BlockOutput(rows, failures, thumbnails)
