"""Sources: what people already have (folders, tars, tables, datasets), as manifests.

Each source lists items; none decodes an image. `open_reader` is how anybody gets an item's bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from featstore.errors import lazily

if TYPE_CHECKING:
    from featstore.sources.making import (
        SOURCES,
        Source,
        make_manifest,
    )
    from featstore.sources.reader import ByteReader, check_bytes, open_reader

__all__ = [
    "SOURCES",
    "ByteReader",
    "Source",
    "check_bytes",
    "make_manifest",
    "open_reader",
]


#: A decoding process needs one light module of these.
__getattr__, __dir__ = lazily(
    __name__,
    {
        "featstore.sources.making": "SOURCES Source make_manifest",
        "featstore.sources.reader": "ByteReader check_bytes open_reader",
    },
)
