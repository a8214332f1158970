"""The small files of a set, compared with its commit."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from featstore.errors import CorruptStoreError
from featstore.store.blocks import layout_of
from featstore.store.commit import Commit, check_layout
from featstore.store.data_files import has_grown_to
from featstore.store.files import check_no_links, read_json, read_regular, same_file
from featstore.store.layout import ArrayLayout, parse_array_metadata


def read_layout(directory: Path, commit: Commit) -> ArrayLayout:
    """Return the layout of an array, which must be the one that the commit implies.

    The metadata may already be that of a later revision, which has more rows of the same array.
    """
    array = directory / "embedding"
    if not same_file(array / "zarr.json", commit.metadata["embedding/zarr.json"]):
        earlier = layout_of(commit)
        if earlier is None or not has_grown_to(array, earlier):
            raise _differs(array / "zarr.json")
        return earlier
    layout = parse_array_metadata(
        read_json(array / "zarr.json"), where=str(array), block_rows=commit.block_rows
    )
    check_layout(layout, commit, where=array)
    return layout


def _differs(path: Path) -> CorruptStoreError:
    return CorruptStoreError(
        f"{path} is missing or differs from its commit record. Extract or fetch the set again."
    )


def check_metadata(directory: Path, commit: Commit) -> None:
    """Compare every small file of the set with the commit, but the array's metadata."""
    for name, facts in commit.metadata.items():
        if name == "embedding/zarr.json":
            continue
        path = directory / name
        check_no_links(directory, [path])
        if not same_file(path, facts):
            raise _differs(path)


def read_bias(directory: Path, commit: Commit) -> np.ndarray | None:
    """Return the bias of a head, one float32 a row; None if the set has none."""
    if "bias/c/0" not in commit.metadata:
        return None
    data = read_regular(directory / "bias" / "c" / "0", limit=4 * commit.n)
    if len(data) != 4 * commit.n:
        msg = f"{directory}/bias has {len(data):,} bytes; {commit.n:,} rows need {4 * commit.n:,}."
        raise CorruptStoreError(msg)
    return np.frombuffer(data, dtype="<f4")
