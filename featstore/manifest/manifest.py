"""A manifest in memory: validated tables and facts of one dataset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from featstore.errors import ManifestError, did_you_mean
from featstore.manifest.paths import resolve_inside

#: The file of facts; written last, so that a folder without it is no manifest.
FACTS_FILE = "dataset.toml"

#: The fact that says where uris lead, if that is not the manifest's own folder.
DATA_ROOT = "data_root"

#: The name of the label set among the tables.
CLASSES = "classes"


@dataclass(frozen=True)
class Manifest:
    """What exists in one dataset: items by kind, their label set, and facts.

    Made by `read_manifest` or `write_manifest`, so it is valid.
    """

    name: str
    """Name of the dataset; one path component, e.g. ``stamps``."""

    root: Path
    """Folder that uris are relative to: the manifest's own, or its ``data_root``."""

    facts: Mapping[str, Any]
    """What dataset.toml says: name, revision, licence, home_page, counts, pitfalls …."""

    tables: Mapping[str, pl.DataFrame]
    """Item table by kind, with the columns of ITEM_SCHEMA first."""

    classes: pl.DataFrame | None
    """The label set, or None if no item has a class."""

    def items(self, kind: str) -> pl.DataFrame:
        """Return the item table of `kind`.

        Raises
        ------
        ManifestError
            If the manifest has no items of this kind.
        """
        if kind not in self.tables:
            msg = (
                f"The manifest {self.name!r} has no {kind!r} items. It has: "
                f"{', '.join(self.tables) or 'none'}.{did_you_mean(kind, self.tables)}"
            )
            raise ManifestError(msg)
        return self.tables[kind]

    def file(self, uri: str) -> Path:
        """Return the file that a uri of this manifest names.

        Raises
        ------
        ManifestError
            If it leaves the root or is not there (any more).
        """
        return resolve_inside(self.root, uri)
