"""What is wrong with environment, cache and store, and what to do; in what two stores differ."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import shutil
import stat
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from featstore.durable import open_regular, try_lock
from featstore.errors import (
    EXTRAS,
    CacheFullError,
    FeatstoreError,
    install_command,
    package_of,
)
from featstore.remote.cache import kept_below, user_cache
from featstore.remote.place import RemotePlace
from featstore.store.log import NAME as LOG
from featstore.store.records import Commit
from featstore.store.store import FeatureStore, SetInfo, open_store
from featstore.store.tables import WITHDRAWN
from featstore.store.verify import verify_store
from featstore.terminal import human_bytes

State = Literal["fine", "note", "wrong"]

#: Packages that the store cannot do without.
_NEEDED = ("numpy", "zarr", "polars", "scikit-learn")

_REPAIR = "`headstock store repair`, with --copy if there is another copy."

#: Free bytes of the cache's disk below which it is mentioned.
_FREE = 2 * 2**30


@dataclass(frozen=True)
class Finding:
    """One check: what was looked at, how it is, and what to do if it is not fine."""

    what: str
    state: State
    text: str
    advice: str = ""


def examine(place: str | Path | None = None) -> Iterator[Finding]:
    """Check this machine, the cache, and a store if one is given. Nothing of a store is written."""
    yield from _environment()
    yield from _cache()
    if place is None:
        return
    try:
        store = open_store(place)
    except FeatstoreError as err:
        advice = (
            "Check the address and the environment (docs/ref/addresses.md). `headstock store init` "
            "or `headstock extract` makes a store."
        )
        yield Finding("store", "wrong", str(err), advice)
        return
    yield Finding("store", "fine", f"{store.address} is a store")
    yield from _sets(store)
    if isinstance(store.place, RemotePlace):
        yield from _remote(store.place)
    else:
        yield from _folder(store.root)


def _environment() -> Iterator[Finding]:
    yield Finding("python", "fine", f"{platform.python_version()} on {platform.platform()}")
    needed = [package_of(text) for texts in EXTRAS.values() for text in texts]
    versions = dict[str, str]()
    for name in dict.fromkeys((*_NEEDED, *needed)):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
            yield Finding(name, "fine", versions[name])
    for extra, requirements in EXTRAS.items():
        missing = [text for text in requirements if package_of(text) not in versions]
        if missing:
            text = f"{', '.join(map(package_of, missing))} not installed"
            yield Finding(extra, "note", text, f"Needed only for that: {install_command(missing)}.")


def _cache() -> Iterator[Finding]:
    try:
        cache = user_cache()
        with kept_below(cache.root):
            cache.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            with tempfile.TemporaryFile(dir=cache.root):
                pass
    except CacheFullError as err:
        yield Finding("cache", "wrong", str(err), "Correct HEADSTOCK_CACHE or its size.")
        return
    held = sum(entry.bytes for entry in cache.shards())
    free = shutil.disk_usage(cache.root).free
    text = (
        f"{cache.root} holds {human_bytes(held)} of {human_bytes(cache.limit)}; "
        f"{human_bytes(free)} are free on its disk"
    )
    tight = free < _FREE or held > cache.limit
    advice = "`headstock cache --max-size` empties it; HEADSTOCK_CACHE_SIZE is its limit."
    yield Finding("cache", "note" if tight else "fine", text, advice * tight)


def _sets(store: FeatureStore) -> Iterator[Finding]:
    try:
        listing = store.listing()
    except FeatstoreError as err:
        yield Finding("sets", "wrong", str(err), "Copy the whole store, or push to it once.")
        return
    whole = [key for key, info in listing if not isinstance(info, FeatstoreError)]
    yield Finding("sets", "fine", f"{len(whole):,} can be opened")
    for key, info in listing:
        if isinstance(info, FeatstoreError):
            yield Finding(str(key), "wrong", str(info), _REPAIR)


def _folder(root: Path) -> Iterator[Finding]:
    facts = root.stat()
    shared = bool(facts.st_mode & stat.S_IWGRP)
    writable = os.access(root, os.W_OK)
    text = f"{'can' if writable else 'cannot'} be written by you"
    text += f", and by group {facts.st_gid}" if shared else ""
    advice = "" if writable else "Reading works. To write, ask its owner to open it to your group."
    yield Finding("permissions", "fine" if writable else "note", text, advice)
    with open_regular(root / LOG) as file:
        locks = try_lock(file.fileno(), shared=True)
    if locks:
        yield Finding("locks", "fine", "the file system has locks")
    else:
        advice = "Concurrent writers cannot be detected there; start them one at a time."
        yield Finding("locks", "note", "the file system has no locks", advice)
    try:
        report = verify_store(root, full=False)
    except OSError as err:
        text = f"{err.filename} cannot be read: {err.strerror}"
        yield Finding("files", "wrong", text, "Ask its owner for the right to read it.")
        return
    for problem in report.problems:
        yield Finding("files", "wrong", f"{problem.path} {problem.what}", _REPAIR)
    if report.ok:
        text = f"{report.n_files:,}: names, sizes and metadata right"
        yield Finding("files", "fine", text, "`headstock store verify` reads every byte.")


def _remote(place: RemotePlace) -> Iterator[Finding]:
    if place.offline:
        text = "the server is not asked; this is what the cache holds"
        yield Finding("server", "note", text, "Check the network, or HEADSTOCK_OFFLINE.")
        return
    yield Finding("server", "fine", f"{place.address} answers")
    if place.objects.can_write:
        yield from _unfinished(place)


def _unfinished(place: RemotePlace) -> Iterator[Finding]:
    """Say of which sets there are blocks of an extraction that has not ended."""
    blocks, size = Counter[str](), Counter[str]()
    for name, n_bytes in place.objects.names():
        key, staged, _ = name.partition("/.staging/extract-")
        if staged:
            blocks[key] += name[-1].isdecimal()
            size[key] += n_bytes
    for key, number in blocks.items():
        text = f"is being extracted, or was: {number:,} blocks, {human_bytes(size[key])}"
        advice = (
            "Run the same `headstock extract` on any machine, or delete its .staging/extract-…."
        )
        yield Finding(key, "note", text, advice)


@dataclass(frozen=True)
class SetDifference:
    """How a set differs.

    Attributes
    ----------
    key : str
    state : str
        ``"only in A"``, ``"only in B"``, or ``"differs"``.
    revisions : tuple of str
        Of A and of B; empty where the set is missing.
    added, removed : int
        Items that only B, or only A, has.
    changed_blocks : int or None
        Blocks of rows with another hash, of those that both have in full; None if the two cannot be
        compared by blocks (other dimension, dtype or block size).
    withdrawn : tuple of int
        Items that are withdrawn in A alone, and in B alone.
    """

    key: str
    state: str
    revisions: tuple[str, str]
    added: int = 0
    removed: int = 0
    changed_blocks: int | None = None
    withdrawn: tuple[int, int] = (0, 0)


def compare_stores(a: FeatureStore, b: FeatureStore) -> list[SetDifference]:
    """Return the sets in which two stores differ, by key; rows are compared by their hashes.

    Of remote stores only records and item tables are fetched.
    """
    in_a = {str(info.key): info for info in a.sets()}
    in_b = {str(info.key): info for info in b.sets()}
    found = []
    for key in sorted({*in_a, *in_b}):
        one, other = in_a.get(key), in_b.get(key)
        ids = tuple("" if info is None else info.commit.revision_id for info in (one, other))
        if one is None or other is None:
            state = "only in A" if other is None else "only in B"
            found.append(SetDifference(key, state, (ids[0], ids[1])))
        elif one.commit != other.commit:
            (mine, here), (theirs, there) = _items(a, one), _items(b, other)
            if ids[0] != ids[1] or here != there:
                facts: dict[str, Any] = {
                    "added": len(theirs - mine),
                    "removed": len(mine - theirs),
                    "withdrawn": (len(here - there), len(there - here)),
                    "changed_blocks": _changed_blocks(one.commit, other.commit),
                }
                found.append(SetDifference(key, "differs", (ids[0], ids[1]), **facts))
    return found


def _items(store: FeatureStore, info: SetInfo) -> tuple[set[str], set[str]]:
    """Return all items of a set, and those that were withdrawn, which no revision tells."""
    failed = store.failures(str(info.key), revision=info.commit.revision_id)
    return set(store.item_table(info)["item_id"]), {*failed.filter(reason=WITHDRAWN)["item_id"]}


def _changed_blocks(one: Commit, other: Commit) -> int | None:
    if (one.dim, one.dtype, one.block_rows) != (other.dim, other.dtype, other.block_rows):
        return None
    mine, theirs = one.by_rows, other.by_rows
    return sum(mine[rows] != theirs[rows] for rows in mine.keys() & theirs)
