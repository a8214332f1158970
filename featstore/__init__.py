"""A shared store of frozen embeddings, extracted once and read at memory speed.

Importing this package loads no torch; names are looked up when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featstore.arrays import write
    from featstore.errors import FeatstoreError
    from featstore.extraction.heads import extract_head
    from featstore.extraction.job import extract, extract_many
    from featstore.extraction.options import EncoderSpec, ExtractConfig, HeadConfig
    from featstore.extraction.progress import ExtractResult
    from featstore.manifest.io import read_manifest, write_manifest
    from featstore.manifest.manifest import Manifest
    from featstore.share.copy import copy_sets
    from featstore.store.layout import SetSpec
    from featstore.store.store import FeatureStore, SetInfo, open_store
    from featstore.store.view import EmbeddingsView, PairedView, Selection, pair_views
    from featstore.store.writer import SetWriter, WriteOptions

    __version__: str

_HOME = {
    "EmbeddingsView": "featstore.store.view",
    "EncoderSpec": "featstore.extraction.options",
    "ExtractConfig": "featstore.extraction.options",
    "ExtractResult": "featstore.extraction.progress",
    "FeatstoreError": "featstore.errors",
    "FeatureStore": "featstore.store.store",
    "HeadConfig": "featstore.extraction.options",
    "Manifest": "featstore.manifest.manifest",
    "PairedView": "featstore.store.view",
    "Selection": "featstore.store.view",
    "SetInfo": "featstore.store.store",
    "SetSpec": "featstore.store.layout",
    "SetWriter": "featstore.store.writer",
    "WriteOptions": "featstore.store.writer",
    "copy_sets": "featstore.share.copy",
    "extract": "featstore.extraction.job",
    "extract_head": "featstore.extraction.heads",
    "extract_many": "featstore.extraction.job",
    "open_store": "featstore.store.store",
    "pair_views": "featstore.store.view",
    "read_manifest": "featstore.manifest.io",
    "write": "featstore.arrays",
    "write_manifest": "featstore.manifest.io",
}

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


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name not in _HOME:
        raise AttributeError(f"module 'featstore' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def _version() -> str:
    """Return the version that was installed, or "0+unknown" of sources that never were."""
    metadata = import_module("importlib.metadata")
    try:
        return str(metadata.version("headstock"))
    except metadata.PackageNotFoundError:
        return "0+unknown"


def __dir__() -> list[str]:
    return sorted(__all__)
