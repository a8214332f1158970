"""A store in a folder of this machine, as a place that is written to."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from featstore.durable import write_durably, write_error
from featstore.errors import StoreWriteError
from featstore.remote.objects import Answer, Objects, Pace
from featstore.store.files import open_regular, pieces, walk_store, write_file
from featstore.store.lock import folder_lock
from featstore.store.place import Place


class FolderObjects(Objects):
    """Files of a store in a folder of this machine; nobody else writes within `hold`."""

    can_write = True

    def __init__(self, root: Path) -> None:
        super().__init__(str(root))
        self.root = root
        #: Whether this process is within `hold`.
        self.held = False

    def reader(self) -> Place:
        """Return the folder itself."""
        return Place(self.root)

    @contextlib.contextmanager
    def hold(self, names: Iterable[str] = ()) -> Iterator[None]:
        """Let nobody else change records within the block, nor remove a set."""
        with folder_lock(self.root):
            for name in names:
                if not (self.root / name).exists():
                    raise StoreWriteError(
                        f"{name} of {self.address} was removed, or written anew, meanwhile: "
                        "nothing was written. Type the command again."
                    )
            self.held = True
            try:
                yield
            finally:
                self.held = False

    def names(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """Yield name and size of the files below `prefix`."""
        for name in sorted(walk_store(self.root)[0]):
            if name.startswith(prefix):
                yield name, (self.root / name).lstat().st_size

    def put(self, name: str, data: bytes | Path | IO[bytes]) -> None:
        """Write a file, whether or not there is one."""
        assert isinstance(data, bytes)
        write_file(self.root / name, [data])

    def create(self, name: str, data: bytes) -> bool:
        """Write a file only if there is none."""
        try:
            write_durably(self.root / name, [data], sealed=True, new=True)
        except FileExistsError:
            return False
        except OSError as err:
            raise write_error(self.root / name, err) from err
        return True

    def delete(self, name: str) -> None:
        """Remove a file; none is fine."""
        (self.root / name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _get(self, name: str, span: tuple[int, int] | None, pace: Pace) -> Iterator[Answer]:
        del pace
        with open_regular(self.root / name) as file:
            size = os.fstat(file.fileno()).st_size
            start, stop = span or (0, size)
            file.seek(start)
            yield Answer(size, "", span is not None, pieces(file, stop - start))
