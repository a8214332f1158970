"""Publish a set whose data files are in place: everything else, the pointer last."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl

from featstore.errors import NonFiniteEmbeddingError, StoreWriteError
from featstore.keys import SHORT, sha256_hex
from featstore.store.base import Base
from featstore.store.catalog import write_catalog
from featstore.store.claim import Claim
from featstore.store.commit import (
    POINTER,
    REVISIONS,
    Commit,
    attributes_digest,
    commit_bytes,
    pack_failed,
    read_commit,
)
from featstore.store.files import json_bytes, same_file
from featstore.store.items import items_bytes, items_file_name
from featstore.store.layout import (
    FORMAT,
    ArrayLayout,
    SetKey,
    array_metadata,
    group_metadata,
    vector_metadata,
)

_ARRAY = "embedding/zarr.json"


def write_groups(root: Path, key: SetKey, claim: Claim) -> None:
    """Write the groups above a set, each only if it is missing."""
    groups: list[tuple[Path, dict[str, Any]]] = [
        (root, {"format": FORMAT}),
        (root / key.dataset, {"dataset": key.dataset}),
        (key.directory(root).parent, {"dataset": key.dataset, "kind": key.kind}),
    ]
    for directory, attributes in groups:
        path = directory / "zarr.json"
        if not path.exists():
            claim.write_file(path, [json_bytes(group_metadata(attributes))])


class Described(Protocol):
    """What a set says of itself."""

    key: SetKey
    encoder: str
    space: dict[str, Any]
    space_id: str
    set_id: str
    precision: str
    facts: dict[str, Any]


def set_attributes(described: Described) -> dict[str, Any]:
    """Return the attributes of a set, without the revisions that they will point to."""
    return {
        "format": FORMAT,
        "dataset": described.key.dataset,
        "kind": described.key.kind,
        "encoder": described.encoder,
        "space": described.space,
        "space_id": described.space_id,
        "set_id": described.set_id,
        "precision": described.precision,
        "facts": described.facts,
    }


def publish_set(
    root: Path,
    key: SetKey,
    claim: Claim,
    *,
    base: Base | None,
    layout: ArrayLayout,
    blocks: tuple[str, ...],
    items: bytes,
    item_ids: pl.Series,
    failures: Mapping[str, str],
    attributes: Mapping[str, Any],
    bias: np.ndarray | None,
    golden: Mapping[str, Any] | None,
    run: Mapping[str, Any] | None,
) -> str:
    """Publish a revision and return its id; the claim ends with it.

    Order: item table, small files, array metadata, commit record, pointer, catalog. Everything
    is renamed out of the claim's folder, so that a writer who lost the claim changes nothing,
    and a killed one leaves nothing elsewhere.

    Raises
    ------
    ClaimLostError
        If another writer has taken over.
    NonFiniteEmbeddingError
        If the bias is not n finite numbers.
    StoreWriteError
        If the file system refuses.
    """
    directory = key.directory(root)
    small = _small_files(key, layout, base, bias=bias, golden=golden, failures=failures)
    items_path = directory.parent / items_file_name(items)
    _write_items(claim, items_path, items)
    array = json_bytes(array_metadata(layout))
    for name, data in [*small.items(), (_ARRAY, array)]:
        if not same_file(directory / name, _facts(data)):
            claim.write_file(directory / name, [data])
    metadata = {name: _facts(data) for name, data in [*small.items(), (_ARRAY, array)]}
    if base is not None and "golden.json" in base.commit.metadata:
        # What the first rows were computed with stays the measure for all that follow.
        metadata["golden.json"] = base.commit.metadata["golden.json"]
    commit = Commit(
        n=layout.n,
        dim=layout.dim,
        dtype=layout.dtype,
        block_rows=layout.block_rows,
        blocks=blocks,
        items={"file": items_path.name, **_facts(items)},
        metadata=dict(sorted(metadata.items())),
        space_id=attributes["space_id"],
        set_id=attributes["set_id"],
        attributes=attributes_digest(attributes),
        failed=pack_failed(np.isin(item_ids.to_numpy(), list(failures))),
    )
    revision = commit.revision_id
    _discard_unnamed(directory, claim, commit, layout, base)
    claim.write_file(directory / REVISIONS / f"{revision}.json", [commit_bytes(commit)])
    pointer = {**attributes, "revision": revision}
    if base is not None:
        before = list(base.attributes.get("history", []))
        # Trying failed items again may have changed nothing.
        before += [base.commit.revision_id] if base.commit.revision_id != revision else []
        if before:
            pointer["history"] = before
    claim.write_file(directory / POINTER, [json_bytes(group_metadata(pointer))])
    # The removal of the kind's last other set may have taken the item table meanwhile.
    _write_items(claim, items_path, items)
    if run:
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        name = f"{stamp}-{revision[:8]}-{os.getpid()}.json"
        claim.write_file(directory / "runs" / name, [json_bytes(dict(run))])
    write_catalog(root)
    claim.finish()
    return revision


def _discard_unnamed(
    directory: Path, claim: Claim, commit: Commit, layout: ArrayLayout, base: Base | None
) -> None:
    """Take out what an attempt with other items left, which no published revision names."""
    named = set(commit.metadata) | {f"{REVISIONS}/{commit.revision_id}.json", POINTER}
    named |= {f"embedding/{layout.file_name(file)}" for file in range(layout.n_files)}
    if base is not None:
        for revision in [base.commit.revision_id, *base.attributes.get("history", [])]:
            named |= {f"{REVISIONS}/{revision}.json", *read_commit(directory, revision).metadata}
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        if name.split("/")[0] in (".staging", "runs") or not path.is_file() or path.is_symlink():
            continue
        if name not in named:
            claim.discard(path)


def _small_files(
    key: SetKey,
    layout: ArrayLayout,
    base: Base | None,
    *,
    bias: np.ndarray | None,
    golden: Mapping[str, Any] | None,
    failures: Mapping[str, str],
) -> dict[str, bytes]:
    """Return bias, golden vectors and failures as files: path below the set -> bytes."""
    small: dict[str, bytes] = {}
    if base is not None and base.commit.n != layout.n and "bias/c/0" in base.commit.metadata:
        msg = f"{key} is a head: it is written whole, and never extended."
        raise StoreWriteError(msg)
    if bias is not None:
        data = np.ascontiguousarray(bias, dtype="<f4")
        if data.shape != (layout.n,) or not np.isfinite(data).all():
            msg = f"The bias of {key} must be {layout.n:,} finite numbers; got shape {data.shape}."
            raise NonFiniteEmbeddingError(msg)
        small["bias/zarr.json"] = json_bytes(vector_metadata(layout.n, "float32"))
        small["bias/c/0"] = data.tobytes()
    if golden is not None and (base is None or "golden.json" not in base.commit.metadata):
        small["golden.json"] = json_bytes(dict(golden))
    if failures:
        table = pl.DataFrame(sorted(failures.items()), schema=["item_id", "reason"], orient="row")
        data_bytes = items_bytes(table)
        name = "failures.parquet"
        if base is not None and base.commit.metadata.get(name) != _facts(data_bytes):
            # Earlier revisions keep theirs.
            name = f"failures-{sha256_hex(data_bytes)[:SHORT]}.parquet"
        small[name] = data_bytes
    return small


def _write_items(claim: Claim, path: Path, data: bytes) -> None:
    if not same_file(path, _facts(data)):
        claim.write_file(path, [data])


def _facts(data: bytes) -> dict[str, Any]:
    return {"bytes": len(data), "sha256": sha256_hex(data)}
