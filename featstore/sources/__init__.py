"""Sources: what people already have (folders, tars, tables, datasets), as manifests.

Each source lists items; none decodes an image. `open_reader` is how anybody gets an item's bytes.
"""

from featstore.sources.making import SOURCES, Source, make_manifest, open_source
from featstore.sources.reader import ByteReader, check_bytes, open_reader

__all__ = [
    "SOURCES",
    "ByteReader",
    "Source",
    "check_bytes",
    "make_manifest",
    "open_reader",
    "open_source",
]
