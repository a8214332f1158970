"""Tags: a name for one revision of every set of a store, ``tags/<name>.json``.

A tag never changes: it is made only if there is none of its name. It names revisions by the hashes
of their commits, so whoever opens a store by a tag reads the same bytes wherever it lies.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from featstore.durable import make_folders, write_durably
from featstore.errors import CorruptStoreError, FeatstoreError, StoreWriteError, UnknownSetError
from featstore.store.files import json_bytes, read_json
from featstore.store.layout import FORMAT, LayoutError, SetKey, check_component
from featstore.store.records import check_format, is_sha256

FOLDER = "tags"


def tag_file(name: str) -> str:
    """Return the path of a tag below the store; LayoutError if no tag can have this name."""
    return f"{FOLDER}/{check_component(name, what='tag')}.json"


def tag_bytes(revisions: Mapping[str, str]) -> bytes:
    """Return a tag as it is written, from key -> revision_id."""
    return json_bytes({"format": FORMAT, "sets": dict(revisions)})


def parse_tag(document: Any, *, where: str) -> dict[str, str]:
    """Return key -> revision_id.

    Raises
    ------
    CorruptStoreError
        If the document is no tag.
    FormatVersionError
        If it was written by a newer format.
    """
    if not isinstance(document, dict) or not isinstance(document.get("sets"), dict):
        msg = f"{where} is no tag that featstore writes."
        raise CorruptStoreError(msg)
    check_format(document.get("format"), where=where)
    sets = document["sets"]
    try:
        right = all(str(SetKey(*key.split("/"))) == key for key in sets)
    except (LayoutError, TypeError):
        right = False
    if not right or not all(map(is_sha256, sets.values())) or set(document) != {"format", "sets"}:
        msg = f"{where} names what is no set or no revision. It was not used."
        raise CorruptStoreError(msg)
    return dict(sets)


def tag_names(root: Path) -> list[str]:
    """Return the names of the tags in a folder, sorted."""
    return sorted(path.stem for path in (root / FOLDER).glob("*.json"))


def read_tag(root: Path, name: str) -> dict[str, str]:
    """Return key -> revision_id of a tag.

    Raises
    ------
    UnknownSetError
        If there is no such tag.
    CorruptStoreError
        If it is damaged.
    """
    path = root / tag_file(name)
    try:
        return parse_tag(read_json(path), where=str(path))
    except (FileNotFoundError, NotADirectoryError) as err:
        known = ", ".join(tag_names(root)) or "none"
        msg = f"{root} has no tag {name!r}. It has: {known}."
        raise UnknownSetError(msg) from err


def write_tag(root: Path, name: str, revisions: Mapping[str, str]) -> bool:
    """Make a tag; False if it is there and says the same.

    Raises
    ------
    StoreWriteError
        If it is there and says something else, or the file system refuses.
    """
    path = root / tag_file(name)
    staged = path.with_name(f".{path.name}.{secrets.token_hex(4)}.staged")
    try:
        make_folders(path.parent)
        write_durably(staged, [tag_bytes(revisions)], sealed=True)
        try:
            os.link(staged, path)  # which, unlike a rename, replaces nothing
        finally:
            staged.unlink()
    except FileExistsError as err:
        with contextlib.suppress(FeatstoreError):
            if read_tag(root, name) == dict(revisions):
                return False
        raise taken(str(root), name) from err
    except OSError as err:
        msg = f"Cannot write the tag {name!r} to {root}: {err.strerror or err}."
        raise StoreWriteError(msg) from err
    return True


def taken(where: str, name: str) -> StoreWriteError:
    """Return the error for a tag that is there and says something else."""
    return StoreWriteError(
        f"{where} has a tag {name!r} of other revisions. Tags never change: choose another name."
    )


def pins_of(revision: str, known: Mapping[str, list[str]]) -> dict[str, str]:
    """Return key -> revision_id of the sets that have a revision whose id begins so.

    Parameters
    ----------
    known : mapping
        Key -> ids of all published revisions.
    """
    return {
        key: full for key, names in known.items() for full in names if full.startswith(revision)
    }
