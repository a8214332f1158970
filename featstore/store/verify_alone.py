"""What can be said of the files of a set whose commit is damaged: each by itself.

Array metadata has one form for its shape, which says how large every data file is and how a shard
ends; JSON is written in one way; a table whose name carries digits of its hash has that hash. What
the rows were, only a commit says.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

import numpy as np

from featstore.errors import FeatstoreError
from featstore.keys import SHORT
from featstore.store.blocks import check_size, check_tail
from featstore.store.files import (
    MAX_JSON_BYTES,
    file_facts,
    json_bytes,
    read_json,
    read_regular,
)
from featstore.store.items import read_failures
from featstore.store.layout import ArrayLayout, array_metadata, vector_metadata
from featstore.store.rederive import stored_layout

_DATA = re.compile(r"embedding/c/\d+/0")
_FAILURES = re.compile(r"failures(?:-([0-9a-f]{8}))?\.parquet")


def judge_alone(directory: Path, files: Collection[str]) -> dict[str, str]:
    """Return what is wrong with files of a set that has no commit; missing ones, too.

    Parameters
    ----------
    files : collection of str
        The regular files of the set, relative to it.
    """
    wrong: dict[str, str] = {}
    array = directory / "embedding"
    layout = stored_layout(array)
    if "embedding/zarr.json" not in files:
        wrong["embedding/zarr.json"] = "is missing"
    elif layout is None or not _is(array / "zarr.json", json_bytes(array_metadata(layout))):
        wrong["embedding/zarr.json"] = "is not the metadata of an array that a writer writes"
    elif layout is not None:
        wrong |= _judge_data(directory, files, layout)
        if "bias/c/0" in files or "bias/zarr.json" in files:
            wrong |= _judge_bias(directory, files, layout.n)
    if "golden.json" in files and not _is_canonical(directory / "golden.json"):
        wrong["golden.json"] = "is not written as a writer writes it"
    for name in files:
        match = _FAILURES.fullmatch(name)
        if match and not _is_table(directory / name, match[1]):
            wrong[name] = "is not the table of failed items that a writer writes"
    return wrong


def _judge_data(directory: Path, files: Collection[str], layout: ArrayLayout) -> dict[str, str]:
    there = sum(bool(_DATA.fullmatch(name)) for name in files)
    if layout.n_files > 2 * there + 100:
        # Not asked for one by one: a stranger may state any number.
        what = f"states {layout.n_files:,} data files; there are {there:,}"
        return {"embedding/zarr.json": what}
    wrong = {}
    expected = set()
    for file in range(layout.n_files):
        name = f"embedding/{layout.file_name(file)}"
        expected.add(name)
        if name not in files:
            wrong[name] = "is missing"
            continue
        reasons = [check_size(directory / name, layout, file)]
        if not reasons[0]:
            reasons.append(check_tail(directory / name, layout, file))
        if any(reasons):
            wrong[name] = "; ".join(filter(None, reasons))
    for name in files:
        if _DATA.fullmatch(name) and name not in expected:
            wrong[name] = "is no data file of an array of this shape"
    return wrong


def _judge_bias(directory: Path, files: Collection[str], n: int) -> dict[str, str]:
    wrong = {}
    if not _is(directory / "bias" / "zarr.json", json_bytes(vector_metadata(n, "float32"))):
        wrong["bias/zarr.json"] = "is not the metadata of a bias of this set"
    if "bias/c/0" not in files:
        wrong["bias/c/0"] = "is missing"
        return wrong
    try:
        data = read_regular(directory / "bias" / "c" / "0", limit=4 * n)
    except FeatstoreError:
        data = b""
    if len(data) != 4 * n or not np.isfinite(np.frombuffer(data, "<f4")).all():
        wrong["bias/c/0"] = f"is not {n:,} finite numbers"
    return wrong


def _is(path: Path, data: bytes) -> bool:
    try:
        return read_regular(path, limit=len(data)) == data
    except (FeatstoreError, OSError):
        return False


def _is_canonical(path: Path) -> bool:
    try:
        return _is(path, json_bytes(read_json(path, limit=MAX_JSON_BYTES)))
    except (FeatstoreError, OSError, ValueError):
        return False


def _is_table(path: Path, digits: str | None) -> bool:
    try:
        facts = file_facts(path)
        read_failures(path, facts)
    except (FeatstoreError, OSError):
        return False
    return digits is None or facts["sha256"][:SHORT] == digits
