"""Manifests: what exists. One item table a kind, one label set, and the facts of a dataset."""

from featstore.manifest.manifest import Manifest
from featstore.manifest.read import read_manifest
from featstore.manifest.schema import CLASS_SCHEMA, ITEM_SCHEMA, KINDS, SPLITS
from featstore.manifest.validate import validate_classes, validate_items
from featstore.manifest.write import write_manifest

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
