"""The embeddings convention: what a Zarr group says of the vectors in it.

docs/embeddings-convention.md is the specification and ``embeddings.schema.json`` its schema. Every
set declares the convention beside ``featstore``; the groups above a set may declare others.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from featstore.store.files import json_bytes, parse_json
from featstore.store.layout import INTEGERS, group_metadata
from featstore.store.records import Commit

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
    """Return what a set states under `KEY`: it follows from its attributes and its commit.

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
            "path": f"../{commit.items['file']}",
            "format": "parquet",
            "sha256": commit.items["sha256"],
            "key": "item_id",
            "columns": _COLUMNS,
        },
        "revision": {
            "id": commit.revision_id,
            "record": f"revisions/{commit.revision_id}.json",
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
    if "bias/zarr.json" in commit.metadata:
        stated["bias"] = "bias"
    return stated


def is_group(data: bytes, attributes: Mapping[str, Any]) -> bool:
    """Return whether `data` is the ``zarr.json`` of a group with these attributes, as written.

    `zarr_conventions` may stand beside ours, and is not looked at.
    """
    return data == json_bytes(group_metadata(dict(attributes), **_beside(data)))


def is_pointer(data: bytes, attributes: Mapping[str, Any], commit: Commit | None) -> bool:
    """Return whether `data` is the ``zarr.json`` of a set with these attributes, as written.

    What it states under the embeddings convention is compared with what follows from attributes
    and commit, if the commit is known. Other conventions may stand beside.
    """
    beside: dict[str, Any] = _beside(data)
    if DECLARATION not in beside.get(CONVENTIONS, ()):
        return False
    stated = parse_json(data, where="the set")["attributes"].get(KEY)
    beside[KEY] = stated if commit is None else properties(attributes, commit)
    return data == json_bytes(group_metadata(dict(attributes), **beside))


def _beside(data: bytes) -> dict[str, Any]:
    """Return the list of conventions that a group states, if it states one."""
    if b'"zarr_conventions"' not in data:
        return {}
    document = parse_json(data, where="the group")
    group = document.get("attributes") if isinstance(document, dict) else None
    stated = group.get(CONVENTIONS) if isinstance(group, dict) else None
    return {CONVENTIONS: stated} if isinstance(stated, list) else {}


def pointer_bytes(attributes: Mapping[str, Any], commit: Commit) -> bytes:
    """Return the ``zarr.json`` of a set; it declares the embeddings convention."""
    beside = {CONVENTIONS: [DECLARATION], KEY: properties(attributes, commit)}
    return json_bytes(group_metadata(dict(attributes), **beside))
