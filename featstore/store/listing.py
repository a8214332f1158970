"""What the records of a set list: every file, by size and hash, and how it can be had again.

This table is what the verbs that care for a store work on: verify compares it with the files that
are there, gc and a writer remove what lies beside it, repair makes again what is not as listed, and
a copy sends it. Files of rows are compared a mebibyte at a time.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from google_crc32c import value as crc32c

from featstore.durable import (
    IrregularFileError,
    check_no_links,
    facts_of,
    open_descriptor,
    open_regular,
    pieces,
    same_file,
    walk_store,
)
from featstore.errors import CorruptStoreError, FeatstoreError
from featstore.identity import HASHES, canonical_json, sha256_hex
from featstore.store.layout import DataFile, SetKey, SetLayout, shard_index
from featstore.store.log import Log, read_log
from featstore.store.records import (
    REVISIONS,
    Commit,
    commit_bytes,
    read_commit,
    zarr_metadata,
)

#: Of the small files: what rows are read with, the item table, and what rows are read without.
PARTS = ("rows", "items", "rest")


@dataclass(frozen=True)
class Listed:
    """A file that the commit of a set lists.

    Attributes
    ----------
    path : str
        Below the store.
    commit : Commit
    facts : mapping
        Its ``bytes`` and ``sha256``; none of a file of rows, whose blocks have hashes.
    content : bytes or None
        What it holds, where that follows from the commit.
    data : DataFile or None
        What a file of rows holds.
    """

    path: str
    commit: Commit
    facts: Mapping[str, Any] = field(default_factory=dict)
    content: bytes | None = None
    data: DataFile | None = None

    @property
    def part(self) -> str:
        """One of `PARTS`; or ``"record"`` of a commit, ``"data"`` of rows, ``"zarr"`` of Zarr."""
        steps = self.path.split("/")
        if self.data is not None:
            return "data"
        if steps[-1] == "zarr.json":
            return "zarr"
        if len(steps) == 3:
            return "items"
        usual = "rows" if steps[3] == "bias" else "rest"
        return "record" if steps[3] == REVISIONS else usual

    def check(self, root: Path, *, full: bool = True) -> tuple[list[str], list[int]]:
        """Return what is wrong with the file below `root`, and its bad blocks; see `check_file`.

        Parameters
        ----------
        full : bool
            Hash rows, too; else only the size of their file is compared.
        """
        path = f"{root}/{self.path}"
        if self.data is None:
            if same_file(path, self.facts):
                return [], []
            return ["differs from its commit" if os.path.lexists(path) else "is missing"], []
        if full:
            return check_file(path, self.data, self.commit)
        wrong = check_size(path, self.data)
        return [wrong] if wrong else [], []


def set_files(key: SetKey, commit: Commit) -> dict[str, Listed]:
    """Return path -> file of a set: rows first, then its record and Zarr's metadata."""
    found = [Listed(f"{key}/{file.path}", commit, data=file) for file in commit.layout.files]
    tables = [part.items for part in commit.parts]
    for items in (*tables, *(one for past in commit.history for one in past.tables)):
        facts = {name: items[name] for name in ("bytes", "sha256")}
        found.append(Listed(f"{key.dataset}/{key.kind}/{items['file']}", commit, facts))
    small = commit.metadata.items()
    found += [Listed(f"{key}/{name}", commit, facts) for name, facts in small]
    record = {f"{key}/{REVISIONS}/{commit.digest}.json": commit_bytes(commit)}
    for path, data in (record | zarr_metadata(key, commit)).items():
        found.append(Listed(path, commit, facts_of(data), data))
    return {one.path: one for one in found}


def listed_files(root: Path, key: SetKey) -> dict[str, Listed]:
    """Return the table of a set; empty if its commit, which may name anything, is lost."""
    with contextlib.suppress(FeatstoreError, OSError):
        commit = whole_commit(root, key)
        return set_files(key, commit) if commit else {}
    return {}


def unlisted(root: Path, key: SetKey, files: Mapping[str, Listed]) -> list[Path]:
    """Return the files of a finished set that are not among `files`, but runs and staged ones.

    None if there are no `files`: the commit is lost.
    """
    directory = key.directory(root)
    # Not by rglob: folders of writers that wait come and go below `.staging`.
    names = sorted(walk_store(directory)[0]) if files else ()
    beside = [name for name in names if name.split("/")[0] not in (".staging", "runs")]
    return [directory / name for name in beside if f"{key}/{name}" not in files]


def whole_commit(
    root: Path,
    key: SetKey,
    *,
    log: Log | None = None,
    fetch: Callable[[str], Commit | None] = lambda _: None,
) -> Commit | None:
    """Return the commit of a set; None if it is missing or damaged, or the log lists none.

    Parameters
    ----------
    log : Log, optional
        Of the store.
    fetch : callable
        Asked for a commit, by its digest, that is missing or damaged.

    Raises
    ------
    CorruptStoreError
        If the log is damaged, or a link leads to what is read.
    """
    directory = key.directory(root)
    check_no_links(root, [directory / REVISIONS])
    digest = (read_log(root) if log is None else log).sets.get(str(key))
    if digest is None:
        return None
    with contextlib.suppress(FeatstoreError):
        return read_commit(directory, digest)
    return fetch(digest)


@dataclass
class Damage:
    """The files of a set that must be made again.

    Attributes
    ----------
    key : SetKey
    commit : Commit
    data : list of (Listed, list of int)
        The damaged files of rows, each with its blocks that are not those of its commit; none if
        only what lies around the rows is wrong.
    wrong : list of Listed
        The other files that are not as listed.
    """

    key: SetKey
    commit: Commit
    data: list[tuple[Listed, list[int]]] = field(default_factory=list)
    wrong: list[Listed] = field(default_factory=list)

    @property
    def blocks(self) -> list[int]:
        """Every block whose rows must be had from elsewhere."""
        return [block for _, blocks in self.data for block in blocks]

    @property
    def items(self) -> list[Listed]:
        """The item tables that are damaged."""
        return [one for one in self.wrong if one.part == "items"]

    @property
    def lost(self) -> list[str]:
        """Small files of the set that are damaged."""
        small = (one.path.removeprefix(f"{self.key}/") for one in self.wrong)
        return [name for name in small if name in self.commit.metadata]


def find_damage(root: Path, key: SetKey, commit: Commit | None) -> Damage:
    """Compare every file of a set with its commit.

    Raises
    ------
    CorruptStoreError
        If no commit says what the set should be, or a link leads to a file.
    """
    if commit is None:
        raise CorruptStoreError(
            f"{key} has no commit record that says what its files should be. Take it from another "
            "copy (`headstock store repair --copy`), or remove the set and extract it anew."
        )
    found = Damage(key, commit)
    for one in set_files(key, commit).values():
        check_no_links(root, [root / one.path])
        reasons, bad = one.check(root)
        if reasons and one.data is None:
            found.wrong.append(one)
        elif reasons:
            found.data.append((one, bad))
    return found


#: Opens a data file of the set in a folder: called as ``open_file(directory, file)``.
OpenFile = Callable[[Path, DataFile], AbstractContextManager[int]]


@contextmanager
def opened(directory: Path, file: DataFile) -> Iterator[int]:
    """Open a data file of the set in `directory` and give its descriptor.

    Raises
    ------
    CorruptStoreError
        If it is missing, not a regular file, or has another size than the layout gives it.
    """
    path = directory / file.path
    try:
        descriptor = open_descriptor(path, os.O_RDONLY)
    except (FileNotFoundError, IrregularFileError) as err:
        raise _unreadable(path, check_size(path, file) or "was replaced") from err
    try:
        if wrong := size_fault(file, os.fstat(descriptor)):
            raise _unreadable(path, wrong)
        yield descriptor
    finally:
        os.close(descriptor)


def check_sizes(directory: Path, layout: SetLayout) -> None:
    """Compare the size of every data file with the layout, opening none; raises as `opened`."""
    for file in layout.files:
        if wrong := check_size(directory / file.path, file):
            raise _unreadable(directory / file.path, wrong)


def size_fault(file: DataFile, facts: os.stat_result) -> str:
    """Return what is wrong with a data file by its facts, or an empty string."""
    if not stat.S_ISREG(facts.st_mode):
        return "is not a regular file: it was replaced"
    what = f"has {facts.st_size:,} bytes, expected {file.size:,}: it was truncated or replaced"
    return "" if facts.st_size == file.size else what


def _unreadable(path: Path, what: str) -> CorruptStoreError:
    return CorruptStoreError(f"{path} {what}. The set cannot be read; extract or fetch it again.")


def shard_name(file: DataFile, hashes: Sequence[str]) -> str:
    """Return what a data file is known by: the sha256 of all that decides its bytes."""
    part = file.part
    facts = {
        "rows": file.n_rows,
        "row_bytes": part.row_bytes,
        "block_rows": part.block_rows,
        "shard_rows": part.shard_rows,
        "padding": part.padding,
        "blocks": list(hashes[file.blocks.start : file.blocks.stop]),
    }
    return sha256_hex(canonical_json(facts))


def check_size(path: Path | str, file: DataFile) -> str:
    """Return what is wrong with the presence or size of a data file, or an empty string."""
    try:
        return size_fault(file, os.lstat(path))
    except (FileNotFoundError, NotADirectoryError):
        return "is missing"


def check_file(path: Path | str, file: DataFile, commit: Commit) -> tuple[list[str], list[int]]:
    """Check every byte of a data file: padding, rows, index and its crc32c.

    Parameters
    ----------
    commit : Commit
        Says the hash of each block of the whole set.

    Returns
    -------
    list of str
        What is wrong; empty if every byte is as the commit says.
    list of int
        Blocks whose rows are not those of the commit; the others may be taken from the file.
    """
    blocks, wrong, bad = file.blocks, check_size(path, file), list[int]()
    reasons = [wrong] if wrong else []
    try:
        with open_regular(path) as handle:
            blank = not any(handle.read(file.part.padding))
            for block in blocks:
                if _block_hash(handle, file, block, commit.hash) != commit.blocks[block]:
                    bad.append(block)
            if not wrong and file.part.shard_rows:
                reasons += _around_reasons(handle, file, blank=blank)
    except (FeatstoreError, OSError) as err:
        if not wrong:
            reasons.append(f"cannot be read: {err}")
        return reasons, list(blocks)  # nothing was compared
    if bad and not wrong:
        start = file.rows.start + (bad[0] - blocks.start) * file.part.block_rows
        stop = min(start + file.part.block_rows, file.rows.stop)
        reasons.append(
            f"{len(bad):,} of {len(blocks):,} blocks differ from the commit, first "
            f"rows {start:,}-{stop - 1:,}"
        )
    return reasons, bad


def read_block(path: Path, file: DataFile, block: int) -> bytes:
    """Return the rows of a block from its data file; fewer if that ends before."""
    start, size = file.place_of(block)
    with open_regular(path) as handle:
        handle.seek(start)
        return handle.read(size)


def _block_hash(handle: IO[bytes], file: DataFile, block: int, name: str) -> str:
    """Return the hash of a block's rows; the handle ends behind them."""
    digest = HASHES[name]()
    for piece in pieces(handle, file.place_of(block)[1]):
        digest.update(piece)
    return str(digest.hexdigest())


def _around_reasons(handle: IO[bytes], file: DataFile, *, blank: bool) -> list[str]:
    """Check what lies around the rows of a shard: zeros, the index, its checksum."""
    index = shard_index(file.part, len(file.blocks)).tobytes()
    padding = file.size - len(index) - 4 - handle.tell()
    reasons = []
    if any(any(piece) for piece in pieces(handle, padding)) or not blank:
        reasons.append("the padding around its blocks is not zero")
    found = handle.read(len(index) + 4)
    if found[:-4] != index:
        reasons.append("its index is not the one that its blocks have")
    if found[-4:] != int(crc32c(index)).to_bytes(4, "little"):
        reasons.append("the checksum of its index is wrong")
    return reasons
