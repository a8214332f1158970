"""``catalog.json``: the sets of a store in one file, for servers that cannot list.

It can be rebuilt at any time; the truth stays in the sets.
"""

from __future__ import annotations

from pathlib import Path

from featstore.errors import FeatstoreError
from featstore.store.commit import key_of, read_pointer
from featstore.store.files import json_bytes, write_file
from featstore.store.layout import FORMAT


def finished_sets(root: Path) -> list[Path]:
    """Return the directories of the finished sets below `root`, sorted by key."""
    found = []
    for pointer in sorted(root.glob("*/*/*/zarr.json")):
        directory = pointer.parent
        try:
            key_of(directory)
        except FeatstoreError:
            continue  # a name that no writer of ours makes: not a set
        found.append(directory)
    return found


def unfinished_sets(root: Path) -> list[Path]:
    """Return the directories of sets whose extraction has begun but not ended."""
    return sorted(
        staging.parent
        for staging in root.glob("*/*/*/.staging")
        if not (staging.parent / "zarr.json").exists()
    )


def write_catalog(root: Path) -> None:
    """Write the list of finished sets; untouched if nothing changed."""
    sets = []
    for directory in finished_sets(root):
        attributes = read_pointer(directory)
        if attributes is not None:
            sets.append({"key": str(key_of(directory)), "revision": attributes["revision"]})
    data = json_bytes({"format": FORMAT, "sets": sets})
    path = root / "catalog.json"
    if not path.exists() or path.read_bytes() != data:
        write_file(path, [data])
