"""Repair what a store can rebuild from itself, and say what it needs for the rest.

Group metadata, array metadata, a shard's padding and index, and the catalog follow from the
commits and are written again, byte for byte. Rows, items and commits do not: they are left as
they are, and the commands that bring them back are named.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featstore.errors import CorruptStoreError, FeatstoreError
from featstore.store.blocks import check_file, check_tail, layout_of, read_block
from featstore.store.catalog import write_catalog
from featstore.store.claim import claim_set
from featstore.store.commit import Commit, key_of, read_commit, read_pointer, staging_of
from featstore.store.files import check_no_links, json_bytes, same_file, write_file
from featstore.store.layout import FORMAT, ArrayLayout, SetKey, array_metadata, group_metadata
from featstore.store.shards import shard_tail
from featstore.store.verify import Problem, VerifyReport, verify_store


@dataclass(frozen=True)
class Repair:
    """What was rebuilt, what is still wrong, and the commands that would mend it."""

    rebuilt: list[str]
    left: list[Problem]
    commands: list[str]


def repair_set(root: Path, key: str) -> Repair:
    """Rebuild what follows from the set's commit, and report the rest.

    Raises
    ------
    UnknownSetError
        If there is no such set.
    StoreWriteError
        If another process is writing the set, or the file system refuses.
    """
    before = _verify(root, key)
    if before.ok:
        return Repair([], [], [])
    parts = SetKey(*key.split("/"))
    directory = parts.directory(root)
    check_no_links(root, [directory / "embedding", directory / ".staging"])
    fresh = not staging_of(directory).exists()
    claim = claim_set(directory, parts)
    try:
        _rebuild(root, parts, {problem.path for problem in before.problems})
    finally:
        # What another writer left staged stays for it.
        (claim.finish if fresh else claim.release)()
    write_catalog(root)
    after = _verify(root, key)
    left = {problem.path for problem in after.problems}
    rebuilt = [problem.path for problem in before.problems if problem.path not in left]
    return Repair(rebuilt, after.problems, [] if after.ok else _commands(root, directory))


def _verify(root: Path, key: str) -> VerifyReport:
    return verify_store(root, [key])


def _rebuild(root: Path, key: SetKey, wrong: set[str]) -> None:
    """Write again what has only one right form."""
    groups: dict[str, dict[str, Any]] = {
        "zarr.json": {"format": FORMAT},
        f"{key.dataset}/zarr.json": {"dataset": key.dataset},
        f"{key.dataset}/{key.kind}/zarr.json": {"dataset": key.dataset, "kind": key.kind},
    }
    for name in wrong & set(groups):
        write_file(root / name, [json_bytes(group_metadata(groups[name]))])
    commit = _commit(key.directory(root))
    layout = layout_of(commit) if commit else None
    if commit is None or layout is None:
        return
    restore_array(root, key, commit, layout, wrong=wrong)


def restore_array(
    root: Path, key: SetKey, commit: Commit, layout: ArrayLayout, *, wrong: set[str]
) -> None:
    """Write the files named in `wrong` again, as far as they follow from commit and rows."""
    if f"{key}/embedding/zarr.json" in wrong:
        path = key.directory(root) / "embedding" / "zarr.json"
        write_file(path, [json_bytes(array_metadata(layout))])
    for file in range(layout.n_files):
        path = key.directory(root) / "embedding" / layout.file_name(file)
        if f"{key}/embedding/{layout.file_name(file)}" not in wrong or not path.is_file():
            continue
        check_no_links(root, [path])
        if not check_file(path, layout, file, commit.blocks).bad_blocks:
            # Every row is right; what lies behind them follows from the layout.
            write_file(path, _data_file(path, layout, file))


def wrong_files(root: Path, key: SetKey, commit: Commit, layout: ArrayLayout) -> set[str]:
    """Return the array's files whose size, tail or metadata is not the commit's, by name."""
    array = key.directory(root) / "embedding"
    names = {
        layout.file_name(file)
        for file in range(layout.n_files)
        if check_tail(array / layout.file_name(file), layout, file)
    }
    if not same_file(array / "zarr.json", commit.metadata["embedding/zarr.json"]):
        names.add("zarr.json")
    return {f"{key}/embedding/{name}" for name in names}


def _data_file(path: Path, layout: ArrayLayout, file: int) -> Iterator[bytes]:
    """Yield the bytes of a data file from its own blocks, with the right tail."""
    for block in layout.file_blocks(file):
        yield read_block(path, layout, block)
    yield shard_tail(layout, file)


def _commit(directory: Path) -> Commit | None:
    try:
        pointer = read_pointer(directory)
        return read_commit(directory, pointer["revision"]) if pointer else None
    except FeatstoreError:
        return None


def _commands(root: Path, directory: Path) -> list[str]:
    """Return what makes the set whole: it is removed and extracted, or fetched, again."""
    key = key_of(directory)
    encoder = "ENCODER"
    try:
        pointer = read_pointer(directory)
        encoder = str(pointer["encoder"]) if pointer else encoder
    except CorruptStoreError:
        encoder = directory.name.rsplit("-", 1)[0].replace(".", ":", 1)
    return [
        f"featstore rm {root} {key} --yes",
        f"featstore extract MANIFEST --kind {key.kind} --encoder {encoder} --store {root}",
    ]
