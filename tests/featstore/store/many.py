"""Stores of many tiny sets: one is written, the others are that one under other names."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from featstore.store import read_commit
from featstore.store.convention import zarr_metadata
from featstore.store.layout import SetSpec
from featstore.store.log import update_log
from featstore.store.records import REVISIONS, commit_bytes
from featstore.testing import item_table, write_set

#: Datasets, kinds and sets differ in number, so that each is many in a large store.
_PER_DATASET = 100


def many_sets(root: Path, n: int) -> None:
    """Write a store of n sets of four rows, a hundred in each dataset."""
    items = item_table([f"x/{i}" for i in range(4)])
    first = root / write_set(root, np.eye(4, dtype=np.float32), items, dataset="d000", sealed=True)
    commit = read_commit(first, next((first / REVISIONS).iterdir()).stem)
    files = [commit.parts[0].items["file"], *commit.metadata, "embedding/c/0/0"]
    revisions = {}
    for number in range(1, n):
        name = f"d{number // _PER_DATASET:03d}"
        encoder = f"timm:toy{number % _PER_DATASET}"
        spec = SetSpec(name, "image", encoder, {"name": encoder}, "float32")
        folder = spec.directory(root)
        own = replace(commit, attributes=spec.attributes({}))
        (folder / REVISIONS).mkdir(parents=True)
        (folder / "embedding" / "c" / "0").mkdir(parents=True)
        for file in files:
            beside = "items-" in file
            target = (folder.parent if beside else folder) / file
            if not target.exists():
                os.link((first.parent if beside else first) / file, target)
        (folder / REVISIONS / f"{own.revision_id}.json").write_bytes(commit_bytes(own))
        for path, data in zarr_metadata(spec.key, own).items():
            (root / path).write_bytes(data)
        revisions[str(spec.key)] = own.revision_id
    update_log(root, lambda log: log.with_sets(revisions))
