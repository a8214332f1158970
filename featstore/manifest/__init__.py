"""Manifests: what exists. One item table a kind, one label set, and the facts of a dataset."""

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
