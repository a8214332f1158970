"""Where the files of a store come from: a folder of this machine, or a remote place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

from featstore.address import Address, open_address
from featstore.store.blocks import read_block
from featstore.store.files import check_no_links
from featstore.store.layout import SetKey
from featstore.store.log import Log, read_log, unfinished_sets
from featstore.store.records import Commit, key_of
from featstore.store.rows import Mode, RowSource, open_rows

Progress = Callable[[int], object]


class Place:
    """Finds the sets of a store and brings their files to `root`.

    Of a folder of this machine nothing is fetched; `featstore.remote.place.RemotePlace` fetches
    what is read into the user's cache, and compares it with the commit records.

    Parameters
    ----------
    root : Path
        Folder that small files are read from: the store itself, or its mirror in the cache.
    address : str
        Where the store lies, if not there: a URL.

    Attributes
    ----------
    is_remote : bool
        Whether reading may fetch.
    made_by : str
        The command that makes a store there.
    """

    is_remote: ClassVar[bool] = False
    made_by: ClassVar[str] = "extract … --store"

    def __init__(self, root: Path, address: str = "") -> None:
        self.root = root
        self.address = address or str(root)

    def log(self) -> Log:
        """Return the log of the store, as it is now; of a remote one, as it was at opening."""
        return read_log(self.root)

    def available(self, digests: Mapping[str, str]) -> list[str]:
        """Return the keys of those of these sets, key -> digest, that can be read, sorted."""
        return sorted(digests)

    def rows(self, key: SetKey, commit: Commit, mode: Mode) -> RowSource:
        """Return the reader of a set's rows; a link among its files is refused."""
        directory, layout = key.directory(self.root), commit.layout
        check_no_links(self.root, (directory / file.path for file in layout.files))
        return open_rows(directory, layout, mode)

    def blocks(self, key: SetKey, commit: Commit) -> Callable[[int], bytes]:
        """Return a function from the number of a block to its rows, whatever they are worth.

        The caller compares them with the commit. A file that is cut has the blocks before its end.
        """
        layout = commit.layout

        def block(number: int) -> bytes:
            file = layout.files[layout.file_of[number]]
            return read_block(key.directory(self.root) / file.path, file, number)

        return block

    def unfinished(self) -> list[SetKey]:
        """Return the keys of sets whose extraction has not ended; remote ones are not seen."""
        return [key_of(directory) for directory in unfinished_sets(self.root)]

    def refresh(self) -> None:
        """Fetch the log again."""

    def fetch_tag(self, name: str, digest: str) -> None:
        """Fetch the file of a tag."""

    def fetch_record(self, key: SetKey, digest: str) -> None:
        """Fetch the commit of a set."""

    def fetch(self, key: SetKey, commit: Commit, *parts: str) -> None:
        """Fetch the small files of a revision: all, or these `featstore.store.listing.PARTS`."""

    def fetch_thumbnails(self, folder: str) -> None:
        """Fetch the thumbnails of ``dataset/kind``."""

    def fetch_rows(self, key: SetKey, commit: Commit, progress: Progress | None) -> None:
        """Fetch all rows of a set; `progress` is called with numbers of bytes, from threads."""


def open_place(address: Address | Path) -> Place:
    """Return where the store at an address is read from.

    Raises
    ------
    RemoteStoreError
        See `featstore.remote.place.RemotePlace`.
    """
    if isinstance(address, Path):
        return Place(address)
    found: Place = open_address(address).reader()
    return found
