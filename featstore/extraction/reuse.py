"""Decide whether a set that is asked for is already there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from featstore.errors import CorruptStoreError
from featstore.extraction.events import ExtractResult
from featstore.keys import encoder_directory, set_id, sha256_hex, space_id
from featstore.store.commit import read_commit, read_pointer
from featstore.store.items import failures_file, items_bytes, read_failures
from featstore.store.layout import SetKey
from featstore.store.opening import open_store
from featstore.store.settle import settle_set


def finished_result(
    store: Path,
    space: Mapping[str, Any],
    *,
    dataset: str,
    kind: str,
    encoder: str,
    items: pl.DataFrame,
    dtype: str,
    precision: str = "float32",
    retry_failed: bool = False,
) -> ExtractResult | None:
    """Return the result for a set that is finished with these very items, else None.

    With `retry_failed`, a set of which items failed is not finished. With other items it is not
    either: whether they extend it is for its writer to say.

    Raises
    ------
    CorruptStoreError
        If it is damaged.
    """
    identity = set_id(space_id(space), dataset=dataset, kind=kind, precision=precision, dtype=dtype)
    key = SetKey(dataset, kind, encoder_directory(encoder, identity))
    directory = key.directory(store)
    pointer = read_pointer(directory)
    if pointer is None:
        return None
    settle_set(store, key)
    commit = read_commit(directory, pointer["revision"])
    if commit.items["sha256"] != sha256_hex(items_bytes(items)):
        return None
    if retry_failed and commit.n_failed:
        return None
    try:
        # Sizes of the data and hashes of everything else: what is damaged is not "reused".
        open_store(store).view(str(key))
    except CorruptStoreError as err:
        err.add_note(f"`featstore rm {store} {key}` makes room for extracting it again.")
        raise
    name = failures_file(commit.metadata)
    facts = None if name is None else commit.metadata[name]
    failures = dict(read_failures(directory / str(name), facts).iter_rows())
    return ExtractResult(
        key=str(key),
        reused=commit.n - len(failures),
        new=0,
        failed=len(failures),
        revision_id=commit.revision_id,
        failures=failures,
    )
