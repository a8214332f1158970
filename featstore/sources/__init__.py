"""Sources: what people already have (folders, tars, tables, datasets), as manifests.

Each source lists items; none decodes an image. `open_reader` is how anybody gets an item's bytes.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featstore.sources.making import (
        SOURCES,
        Source,
        make_manifest,
        open_source,
    )
    from featstore.sources.reader import ByteReader, check_bytes, open_reader

#: Looked up when first used: a decoding process needs one light module of these.
_HOME = {
    "ByteReader": "featstore.sources.reader",
    "SOURCES": "featstore.sources.making",
    "Source": "featstore.sources.making",
    "check_bytes": "featstore.sources.reader",
    "make_manifest": "featstore.sources.making",
    "open_reader": "featstore.sources.reader",
    "open_source": "featstore.sources.making",
}

__all__ = [
    "SOURCES",
    "ByteReader",
    "Source",
    "check_bytes",
    "make_manifest",
    "open_reader",
    "open_source",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'featstore.sources' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
