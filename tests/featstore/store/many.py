"""Stores of many tiny sets: one is written, the others are that one under other names."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from featstore.store import read_commit, read_pointer, write_catalog
from featstore.store.convention import pointer_bytes
from featstore.store.files import json_bytes
from featstore.store.layout import SetSpec, group_metadata
from featstore.store.records import (
    POINTER,
    REVISIONS,
    attributes_digest,
    commit_bytes,
)
from featstore.testing import item_table, write_set

#: Datasets, kinds and sets differ in number, so that each is many in a large store.
_PER_DATASET = 100


def many_sets(root: Path, n: int) -> None:
    """Write a store of n sets of four rows, a hundred in each dataset."""
    items = item_table([f"x/{i}" for i in range(4)])
    first = root / write_set(root, np.eye(4, dtype=np.float32), items, dataset="d000", sealed=True)
    pointer = read_pointer(first)
    assert pointer is not None
    commit = read_commit(first, pointer["revision"])
    files = [commit.items["file"], *commit.metadata, "embedding/c/0/0"]
    for number in range(1, n):
        name = f"d{number // _PER_DATASET:03d}"
        encoder = f"timm:toy{number % _PER_DATASET}"
        spec = SetSpec(name, "image", encoder, {"name": encoder}, "float32")
        folder = spec.directory(root)
        attributes = spec.attributes({})
        digest = attributes_digest(attributes)
        own = replace(commit, space_id=spec.space_id, set_id=spec.set_id, attributes=digest)
        (folder / REVISIONS).mkdir(parents=True)
        (folder / "embedding" / "c" / "0").mkdir(parents=True)
        for file in files:
            beside = "items-" in file
            target = (folder.parent if beside else folder) / file
            if not target.exists():
                os.link((first.parent if beside else first) / file, target)
        (folder / REVISIONS / f"{own.revision_id}.json").write_bytes(commit_bytes(own))
        pointer = {**attributes, "revision": own.revision_id}
        (folder / POINTER).write_bytes(pointer_bytes(pointer, own))
        for above, says in (
            (folder.parents[1], {"dataset": name}),
            (folder.parent, {"dataset": name, "kind": "image"}),
        ):
            (above / POINTER).write_bytes(json_bytes(group_metadata(says)))
    write_catalog(root)
