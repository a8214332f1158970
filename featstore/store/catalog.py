"""``catalog.json``: the sets and thumbnails of a store in one file, for those who cannot list.

It can be rebuilt at any time; the truth stays in the sets. What it lists and the store lacks
was deleted: that is how `featstore verify` notices a missing set.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from featstore.errors import FeatstoreError
from featstore.store.commit import key_of, read_pointer
from featstore.store.files import json_bytes, read_json, read_regular, write_file
from featstore.store.layout import FORMAT
from featstore.store.locks import folder_lock
from featstore.store.records import is_sha256

NAME = "catalog.json"
THUMBNAILS = "thumbnails-*.parquet"

#: How often the catalog is written again because a set was published meanwhile.
_ROUNDS = 10


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
    return [folder for folder in staged_sets(root) if not (folder / "zarr.json").exists()]


def staged_sets(root: Path) -> list[Path]:
    """Return the directories of sets with a staging folder, sorted.

    A set whose removal was interrupted has one too, but is none any more: its name says so.
    """
    found = (staging.parent for staging in root.glob("*/*/*/.staging"))
    return sorted(folder for folder in found if not folder.name.startswith("."))


def write_catalog(root: Path, *, thumbnails: Path | None = None) -> None:
    """Write the list of finished sets and thumbnails; untouched if nothing changed.

    A set whose pointer is damaged is left out, so that one bad set stops no other.

    Parameters
    ----------
    thumbnails : Path, optional
        Folder whose thumbnails were just replaced. Those of other folders stay listed even
        if their file is gone, so that the loss is noticed.
    """
    path = root / NAME
    with folder_lock(root) as locked:
        # Whoever writes looks again: where there are no locks, the last writer sees all sets.
        for _ in range(_ROUNDS):
            data = _catalog_bytes(root, thumbnails)
            with contextlib.suppress(FeatstoreError, OSError):
                if read_regular(path, limit=len(data)) == data:
                    break
            write_file(path, [data])
        if locked:
            # Under the lock nobody else is writing: these are what a kill left.
            for staged in root.glob(f".{NAME}.*.staged"):
                staged.unlink(missing_ok=True)


def _catalog_bytes(root: Path, thumbnails: Path | None) -> bytes:
    """Return what the catalog should be now."""
    sets = []
    for directory in finished_sets(root):
        try:
            attributes = read_pointer(directory)
        except FeatstoreError:
            continue
        if attributes is not None:
            sets.append({"key": str(key_of(directory)), "revision": attributes["revision"]})
    listed = {path.relative_to(root).as_posix() for path in root.glob(f"*/*/{THUMBNAILS}")}
    here = None if thumbnails is None else thumbnails.relative_to(root).as_posix()
    with contextlib.suppress(FeatstoreError, OSError):
        old = parse_catalog(read_json(root / NAME))
        before = (old or {}).get("thumbnails", [])
        listed |= {name for name in before if name.rsplit("/", 1)[0] != here}
    return json_bytes({"format": FORMAT, "sets": sets, "thumbnails": sorted(listed)})


def parse_catalog(document: Any) -> dict[str, Any] | None:
    """Return ``{"sets": {key: revision}, "thumbnails": […]}``, or None if it is no catalog.

    A catalog of an earlier writer lists no thumbnails; then the entry is missing.
    """
    if not isinstance(document, dict) or not isinstance(document.get("sets"), list):
        return None
    if set(document) - {"thumbnails"} != {"format", "sets"} or document["format"] != FORMAT:
        return None
    sets = {}
    for row in document["sets"]:
        if not isinstance(row, dict) or set(row) != {"key", "revision"}:
            return None
        if not isinstance(row["key"], str) or not is_sha256(row["revision"]):
            return None
        sets[row["key"]] = row["revision"]
    parsed: dict[str, Any] = {"sets": sets}
    if "thumbnails" in document:
        names = document["thumbnails"]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            return None
        parsed["thumbnails"] = names
    return parsed
