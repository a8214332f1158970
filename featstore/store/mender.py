"""Write files of a damaged set again: under its claim, and only bytes that a hash proves.

Nothing is mended in place. A file is made anew beside the damaged one and renamed over it once
every part of it is the one that the commit names; until then the damaged file stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from featstore.keys import sha256_hex
from featstore.store.blocks import read_block
from featstore.store.claim import Claim, claim_folders, claim_set
from featstore.store.commit import Commit, staging_of
from featstore.store.files import check_no_links
from featstore.store.layout import ArrayLayout, SetKey
from featstore.store.shards import shard_tail

#: Makes the rows of a block as they are stored, or returns None if it cannot.
BlockSource = Callable[[int], bytes | None]


class BlockMissingError(Exception):
    """A block could not be had, so its file stays as it is."""


class SetMender:
    """The right to write files of one set again, as a context manager.

    In a dry run nothing is claimed or written, and `written` is what would be.

    Attributes
    ----------
    written : list of str
        Paths relative to the store, in the order in which they were written.
    """

    def __init__(self, root: Path, key: SetKey, *, dry_run: bool = False) -> None:
        self.root = root
        self.key = key
        self.directory = key.directory(root)
        self.written: list[str] = []
        self._dry_run = dry_run
        self._claim: Claim | None = None
        self._fresh = True

    def __enter__(self) -> Self:
        names = ("embedding", "bias", "revisions", ".staging")
        check_no_links(self.root, [self.directory / name for name in names])
        if not self._dry_run:
            self._fresh = not staging_of(self.directory).exists()
            self._claim = claim_set(self.directory, self.key)
        return self

    def __exit__(self, *_: object) -> None:
        if self._claim is not None:
            # What another writer left staged, or began meanwhile, stays for it.
            alone = self._fresh and len(claim_folders(self.directory)) == 1
            (self._claim.finish if alone else self._claim.release)()

    def write(self, path: Path, parts: Iterable[bytes | memoryview]) -> None:
        """Write a file whose bytes have only one right form."""
        check_no_links(self.root, [path.parent])
        if self._claim is not None:
            self._claim.write_file(path, parts)
        self.written.append(path.relative_to(self.root).as_posix())

    def write_proven(self, path: Path, data: bytes, facts: Mapping[str, Any]) -> bool:
        """Write a file if `data` is what the commit states; return whether it is."""
        if bytes_facts(data) != {name: facts[name] for name in ("bytes", "sha256")}:
            return False
        self.write(path, [data])
        return True

    def write_data(
        self,
        layout: ArrayLayout,
        file: int,
        commit: Commit,
        *,
        bad: Collection[int],
        source: BlockSource,
    ) -> bool:
        """Write a data file: good blocks from itself, the `bad` ones from `source`.

        Returns
        -------
        bool
            False if a block could not be had, or is not the one that the commit names. The
            file is then left as it is.
        """
        path = self.directory / "embedding" / layout.file_name(file)

        def parts() -> Iterator[bytes]:
            for block in layout.file_blocks(file):
                data = source(block) if block in bad else read_block(path, layout, block)
                if data is None or sha256_hex(data) != commit.blocks[block]:
                    raise BlockMissingError
                yield data
            yield shard_tail(layout, file)

        try:
            if self._claim is None:
                for _ in parts():
                    pass
            self.write(path, parts())
        except BlockMissingError:
            return False
        return True


def bytes_facts(data: bytes) -> dict[str, Any]:
    """Return size and sha256 of bytes, as a commit states them of a file."""
    return {"bytes": len(data), "sha256": sha256_hex(data)}
