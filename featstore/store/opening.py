"""Opening a store for reading, here and in the processes that are sent a view of it."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from featstore.errors import UnknownSetError
from featstore.objects.address import Address, parse_address
from featstore.store.checked import VERIFY, Verify
from featstore.store.files import read_json
from featstore.store.origin import Origin
from featstore.store.readers import MODES, Mode
from featstore.store.records import check_format
from featstore.store.store import FeatureStore
from featstore.store.transforms import Transform
from featstore.store.views import EmbeddingsView

#: Stores and sets that a process keeps open for the views that it is sent.
_KEPT = 32


def open_store(
    path: str | Path,
    *,
    revision: str | None = None,
    mode: Mode = "auto",
    verify: Verify = "never",
) -> FeatureStore:
    """Open a store for reading.

    Parameters
    ----------
    path : path or address
        Folder of the store, ``file://…``, or the address of a remote one: ``s3://``, ``gs://``,
        ``az://``, ``https://`` (a plain web server), ``hf://datasets/…``. What is read of a remote
        store is verified and kept in the user's cache; see docs/sharing.md.
    revision : str, optional
        A tag (``featstore tag``): every set is read as it was then, and those that it does not name
        are hidden. Or at least 8 digits of a revision_id: that set at that revision.
    mode : {"auto", "map", "segments", "pread", "zarr"}
        How arrays are read; see `featstore.store.readers`. Take ``"pread"`` on a network file
        system.
    verify : {"never", "first-touch", "full"}
        Whether rows are compared with the hashes in the commit: never (sizes and metadata always
        are); each block before its rows are first served; or all blocks of a set, and its
        items, when its view is made. The default is ``"never"`` because hashing reads a block
        several times slower than memory does (``store.first_touch`` of ``make perf``).

    Raises
    ------
    ValueError
        If `mode` or `verify` is another word.
    UnknownSetError
        If there is no folder at `path`, or it is not a store; or has no such revision.
    FormatVersionError
        If a newer version wrote it.
    AddressError
        If the address is malformed, of an unknown scheme, or holds credentials.
    RemoteStoreError
        If a remote store can be neither reached nor read from the cache.
    """
    for what, value, known in (("mode", mode, MODES), ("verify", verify, VERIFY)):
        if value not in known:
            msg = f"The {what} of reading must be one of {', '.join(known)}; got {value!r}."
            raise ValueError(msg)
    root = parse_address(path)
    if isinstance(root, Address):
        # Imported here: it takes a while, and few stores are remote.
        from featstore.store.remote.store import open_remote

        store: FeatureStore = open_remote(root, revision=revision, mode=mode, verify=verify)
        store.reopen = reopened
        return store
    try:
        document = read_json(root / "zarr.json")
        attributes = document["attributes"]["featstore"]
    except (OSError, KeyError, TypeError) as err:
        what = "is not a featstore store" if root.exists() else "does not exist"
        msg = f"{root} {what}. Make one with `featstore extract … --store {root}`."
        raise UnknownSetError(msg) from err
    check_format(
        attributes.get("format") if isinstance(attributes, dict) else None,
        where=str(root / "zarr.json"),
    )
    store = FeatureStore(root, mode=mode, verify=verify)
    store.reopen = reopened
    if revision is not None:
        store.pin(revision)
    return store


def reopened(
    origin: Origin,
    key: str,
    revision_id: str,
    rows: np.ndarray,
    transforms: tuple[Transform, ...],
    dtype: np.dtype[Any],
) -> EmbeddingsView:
    """Return the view that was pickled in another process.

    Raises
    ------
    FeatstoreError
        Whatever `open_store` and `FeatureStore.view` raise, such as where this machine does not
        see the store.
    """
    whole = _view(origin, key, revision_id)
    # Both are rows of the source: failed ones are in neither, and `whole.rows` is sorted.
    chosen = whole.take(np.searchsorted(whole.rows, rows))
    return replace(chosen, transforms=transforms, dtype=dtype)


@functools.lru_cache(_KEPT)
def _store(origin: Origin) -> FeatureStore:
    verify: Any = "first-touch" if origin.verify == "full" else origin.verify
    return open_store(origin.address, mode=origin.mode, verify=verify)


@functools.lru_cache(_KEPT)
def _view(origin: Origin, key: str, revision_id: str) -> EmbeddingsView:
    return _store(origin).view(key, revision=revision_id)
