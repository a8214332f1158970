"""Manifests: what exists. One item table a kind, one label set, and the facts of a dataset."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featstore.manifest.io import read_manifest, write_manifest
    from featstore.manifest.manifest import (
        CLASS_SCHEMA,
        ITEM_SCHEMA,
        KINDS,
        SPLITS,
        Manifest,
        validate_classes,
        validate_items,
    )

#: Looked up when first used: a decoding process needs one light module of these.
_HOME = {
    "CLASS_SCHEMA": "featstore.manifest.manifest",
    "ITEM_SCHEMA": "featstore.manifest.manifest",
    "KINDS": "featstore.manifest.manifest",
    "Manifest": "featstore.manifest.manifest",
    "SPLITS": "featstore.manifest.manifest",
    "read_manifest": "featstore.manifest.io",
    "validate_classes": "featstore.manifest.manifest",
    "validate_items": "featstore.manifest.manifest",
    "write_manifest": "featstore.manifest.io",
}

__all__ = [
    "CLASS_SCHEMA",
    "ITEM_SCHEMA",
    "KINDS",
    "SPLITS",
    "Manifest",
    "read_manifest",
    "validate_classes",
    "validate_items",
    "write_manifest",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'featstore.manifest' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
