"""A shared store of frozen embeddings, extracted once and read at memory speed.

Importing this package loads no torch; names are looked up when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featstore.extraction.heads import extract_head
    from featstore.extraction.job import extract
    from featstore.store.store import FeatureStore, open_store
    from featstore.store.view import EmbeddingsView, PairedView

    __version__: str

__all__ = [
    "EmbeddingsView",
    "FeatureStore",
    "PairedView",
    "__version__",
    "extract",
    "extract_head",
    "open_store",
]

_HOME = {
    "EmbeddingsView": "featstore.store.view",
    "FeatureStore": "featstore.store.store",
    "PairedView": "featstore.store.view",
    "extract": "featstore.extraction.job",
    "extract_head": "featstore.extraction.heads",
    "open_store": "featstore.store.store",
}


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
