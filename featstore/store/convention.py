"""What a store says to readers of Zarr: its ``zarr.json`` files, with the embeddings convention.

Our own readers need none of them: they follow from the log and the commits. Every set declares the
convention that docs/ref/convention.md and ``embeddings.schema.json`` specify.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from featstore.store.files import json_bytes
from featstore.store.layout import (
    FORMAT,
    INTEGERS,
    ArrayLayout,
    SetKey,
    array_metadata,
    group_metadata,
    vector_metadata,
)
from featstore.store.records import BIAS, FIRST, Commit

#: Where the first of several parts is an array: its chunks have no folder of their own.
BARE = "/c"

#: What identifies the convention; it never changes.
UUID = "eb7c9fe8-cf5c-4296-9b2f-2d95e0b1c7ab"

#: The attribute that holds the convention's properties, and its name.
KEY = "embeddings"

#: The attribute of the Zarr conventions framework that lists what a group conforms to.
CONVENTIONS = "zarr_conventions"

VERSION = 1

#: The JSON Schema of the attributes of a group.
SCHEMA = Path(__file__).with_name("embeddings.schema.json")

#: Properties whose absence is no fault, but noted.
SHOULD = ("weights_digest", "preprocessing", "revision")

DECLARATION = {
    "uuid": UUID,
    "name": KEY,
    "description": "Embeddings: one vector a row, with its model, space, items and revision",
}

#: What a column of an item table is for -> its name in the tables of Headstock.
_COLUMNS = {
    "split": "split", "class": "class_id", "parent": "parent_id", "text": "text",
    "location": "uri", "content_sha256": "content_sha256",
}  # fmt: skip

#: Facts of a text encoder's space that say what was done to a text.
_TEXT = ("prompt", "prefix", "lower_case", "max_seq_length", "max_length", "tokenizer_sha256")


def properties(attributes: Mapping[str, Any], commit: Commit) -> dict[str, Any]:
    """Return what a set of one part states under `KEY`; it follows from attributes and commit.

    Parameters
    ----------
    attributes : mapping
        ``attributes.featstore`` of the set.
    commit : Commit
        The current revision.
    """
    space, version = attributes["space"], attributes["facts"].get("manifest_revision")
    weights, layer, normalized = (space.get(k) for k in ("weights_sha256", "layer", "normalized"))
    of_text = {name: space[name] for name in _TEXT if name in space}
    preprocessing = space.get("preprocessing", of_text)
    source = attributes["dataset"]
    if isinstance(version, str) and version:
        source += f"@{version}"
    items = commit.parts[0].items
    stated: dict[str, Any] = {
        "version": VERSION,
        "array": "embedding",
        "dimensions": commit.dim,
        "data_type": commit.dtype,
        "model": attributes["encoder"],
        "source_data": [source],
        "space": {"id": attributes["space_id"]},
        # Rows of a head lie in the space of its images, and have the norms that training gave them.
        "normalized": normalized is True and attributes["kind"] != "head_weight",
        "item_kind": attributes["kind"],
        "items": {
            "path": f"../{items['file']}",
            "format": "parquet",
            "sha256": items["sha256"],
            "key": "item_id",
            "columns": _COLUMNS,
        },
        "revision": {
            "id": commit.revision_id,
            "record": f"revisions/{commit.digest}.json",
        },
    }
    if isinstance(weights, str):
        stated["weights_digest"] = f"sha256:{weights}"
    if isinstance(layer, str):
        stated["space"]["layer"] = layer
    if isinstance(preprocessing, dict) and preprocessing:
        stated["preprocessing"] = preprocessing
    if commit.failed:
        blank: Any = 0 if commit.dtype in INTEGERS else "NaN"
        stated["missing_rows"] = {"count": commit.n_failed, "value": blank}
    if BIAS in commit.metadata:
        stated["bias"] = "bias"
    return stated


def root_metadata(hash_name: str) -> bytes:
    """Return the ``zarr.json`` of a store whose new blocks have this hash."""
    return json_bytes(group_metadata({"format": FORMAT, "hash": hash_name}))


def zarr_metadata(key: SetKey, commit: Commit) -> dict[str, bytes]:
    """Return path below the store -> content of Zarr's metadata of a set, the groups above first.

    Parameters
    ----------
    commit : Commit
        The present revision.
    """
    stated = {"format": FORMAT, **commit.attributes, "revision": commit.revision_id}
    alone = [part.path for part in commit.parts] == [FIRST]
    # A group of parts is no array, which is what the convention speaks of.
    beside = {CONVENTIONS: [DECLARATION], KEY: properties(commit.attributes, commit)}
    found = {
        key.dataset: _group(dataset=key.dataset),
        f"{key.dataset}/{key.kind}": _group(dataset=key.dataset, kind=key.kind),
        f"{key}": json_bytes(group_metadata(stated, **(beside if alone else {}))),
    }
    if not alone:
        parts = [
            {"path": (part.path + BARE).split("/")[1], "items": part.items["file"]}
            for part in commit.parts
        ]
        found[f"{key}/{FIRST}"] = json_bytes(group_metadata({"parts": parts}))
    for one in commit.layout.parts:
        bare = not alone and one.path == FIRST
        found[f"{key}/{one.path}{BARE if bare else ''}"] = _array(one, bare=bare)
    if BIAS in commit.metadata:
        found[f"{key}/bias"] = json_bytes(vector_metadata(commit.n, "float32"))
    return {f"{path}/zarr.json": data for path, data in found.items()}


@functools.lru_cache(4096)
def _group(**attributes: str) -> bytes:
    return json_bytes(group_metadata(attributes))


@functools.lru_cache(4096)
def _array(layout: ArrayLayout, *, bare: bool) -> bytes:
    return json_bytes(array_metadata(layout, bare=bare))
