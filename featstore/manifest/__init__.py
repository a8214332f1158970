"""Manifests: what exists. One item table a kind, one label set, and the facts of a dataset."""

from __future__ import annotations

from typing import TYPE_CHECKING

from featstore.errors import lazily

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


#: A decoding process needs one light module of these.
__getattr__, __dir__ = lazily(
    __name__,
    {
        "featstore.manifest.io": "read_manifest write_manifest",
        "featstore.manifest.manifest": (
            "CLASS_SCHEMA ITEM_SCHEMA KINDS Manifest SPLITS validate_classes validate_items"
        ),
    },
)
