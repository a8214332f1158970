"""A shared store of frozen embeddings, extracted once and read at memory speed.

Importing this package loads no torch; names are looked up when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from featstore.errors import lazily

if TYPE_CHECKING:
    from featstore.arrays import write
    from featstore.errors import FeatstoreError
    from featstore.extraction.heads import extract_head
    from featstore.extraction.job import extract, extract_many
    from featstore.extraction.options import EncoderSpec, ExtractConfig, ExtractResult, HeadConfig
    from featstore.manifest import Manifest, read_manifest, write_manifest
    from featstore.share import copy_sets
    from featstore.store.layout import SetSpec
    from featstore.store.pairs import EmbeddingsView, PairedView, pair_views
    from featstore.store.store import FeatureStore, SetInfo, open_store
    from featstore.store.view import Selection
    from featstore.store.writer import SetWriter, WriteOptions

    __version__: str

__all__ = [
    "EmbeddingsView",
    "EncoderSpec",
    "ExtractConfig",
    "ExtractResult",
    "FeatstoreError",
    "FeatureStore",
    "HeadConfig",
    "Manifest",
    "PairedView",
    "Selection",
    "SetInfo",
    "SetSpec",
    "SetWriter",
    "WriteOptions",
    "__version__",
    "copy_sets",
    "extract",
    "extract_head",
    "extract_many",
    "open_store",
    "pair_views",
    "read_manifest",
    "write",
    "write_manifest",
]


_named, __dir__ = lazily(
    __name__,
    {
        "featstore.arrays": "write",
        "featstore.errors": "FeatstoreError",
        "featstore.extraction.heads": "extract_head",
        "featstore.extraction.job": "extract extract_many",
        "featstore.extraction.options": "EncoderSpec ExtractConfig ExtractResult HeadConfig",
        "featstore.manifest": "Manifest read_manifest write_manifest",
        "featstore.share": "copy_sets",
        "featstore.store.layout": "SetSpec",
        "featstore.store.store": "FeatureStore SetInfo open_store",
        "featstore.store.pairs": "EmbeddingsView PairedView pair_views",
        "featstore.store.view": "Selection",
        "featstore.store.writer": "SetWriter WriteOptions",
    },
)


def __getattr__(name: str) -> Any:
    return _version() if name == "__version__" else _named(name)


def _version() -> str:
    """Return the version that was installed, or "0+unknown" of sources that never were."""
    metadata = import_module("importlib.metadata")
    try:
        return str(metadata.version("headstock"))
    except metadata.PackageNotFoundError:
        return "0+unknown"
