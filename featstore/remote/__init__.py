"""Remote stores: verified on arrival, kept in a local cache, read from there.

Here are the objects at an address: get, range, put on a condition, list, with retries.

Nothing here believes a server: an answer that is longer or shorter than what was asked for is an
error, and what the bytes are is for others to check against a hash. A server that is slow without
end is given up: see `Pace`.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from featstore.address import Address, open_address
from featstore.durable import (
    open_regular,
    pieces,
    write_durably,
    write_error,
    write_file,
)
from featstore.errors import (
    CorruptStoreError,
    RemoteStoreError,
    UnreachableError,
)
from featstore.parallel import in_background
from featstore.store.log import NAME as LOG
from featstore.store.log import ROUNDS, Log, find_log, update_log
from featstore.store.rows import Place

#: Times that an answer is asked for before it is given up; they are counted anew after one that
#: brought so many bytes.
ATTEMPTS, PROGRESS = 4, 2**20

#: Seconds before the second attempt; they double with each.
PAUSE = 0.2

#: Seconds that a server is left alone at most because it asks for it.
LONGEST_PAUSE = 60.0

#: Attempts to replace a log after which the pauses between them grow no longer.
_LONGEST = 4

#: Bytes that a file of a server may have: every reader of JSON holds this number exactly.
LARGEST = 2**53 - 1

#: Files that a place may list: a hostile one lists without end.
MOST_NAMES = 1_000_000

QUERY = re.compile(r"\?[^\s\"')]+")

_NAME = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")

T = TypeVar("T")
Piece = TypeVar("Piece")


class TransientError(Exception):
    """An answer that may be better if it is asked for again.

    Attributes
    ----------
    after : float
        Seconds that the server asks to be left alone first.
    """

    after = 0.0


class Pace:
    """The time that one call takes of a server, held against its limits.

    Parameters
    ----------
    what : str
        What is read, for messages.
    patience, deadline : float
        Seconds of silence, and in all.
    """

    def __init__(self, what: str, patience: float, deadline: float) -> None:
        self._what, self._patience, self._deadline = what, patience, deadline
        self._end = time.monotonic() + deadline

    def wait(self, call: Callable[[], T], *, whole: bool = False) -> T:
        """Return what `call` returns; it is left behind if it takes too long.

        Parameters
        ----------
        whole : bool
            It moves all of a file or list, and may take until the deadline.

        Raises
        ------
        TransientError
            If it takes longer than the patience.
        UnreachableError
            If time is over.
        """
        # A library may read headers that never end: no timeout of a socket ends that.
        answer = in_background(call)
        left = self.left()
        allowed = left if whole else min(self._patience, left)
        try:
            answer.exception(timeout=allowed)
        except TimeoutError:
            raise TransientError(f"no answer for {allowed:,.0f} seconds") from None
        return answer.result()

    def over(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        """Yield the pieces of an answer, as long as there is time; raises as `left`."""
        for piece in pieces:
            self.left()
            yield piece

    def left(self, after: float = 0.0) -> float:
        """Return the seconds that are left after so many; UnreachableError if there are none."""
        left = self._end - time.monotonic() - after
        if left <= 0:
            raise UnreachableError(
                f"{self._what} takes more than {self._deadline:,.0f} seconds. What was fetched is "
                "kept: run the same command again."
            )
        return left

    def pause(self, attempt: int, asked: float = 0.0) -> None:
        """Sleep before the next attempt; UnreachableError, at once, if so much time is not left.

        Parameters
        ----------
        attempt : int
            The number of those made.
        asked : float
            Seconds that the server asked for, of which `LONGEST_PAUSE` are given.
        """
        seconds = max(backoff(attempt), min(asked, LONGEST_PAUSE))
        self.left(after=seconds)
        time.sleep(seconds)


@dataclass(frozen=True)
class Answer:
    """What a place says of a file, and sends of it.

    Attributes
    ----------
    size : float
        Bytes of the whole file, a whole number; -1 if that is not said.
    tag : str
        What tells this content of the file from an earlier one, or nothing.
    ranged : bool
        Whether the pieces are the range that was asked for, and not the whole file.
    pieces : iterable of bytes
        Asked for as they are taken; they may break off.
    """

    size: float
    tag: str
    ranged: bool
    pieces: Iterable[bytes | memoryview]


class Objects(ABC):
    """Named files of one remote place.

    Attributes
    ----------
    address : str
        For messages, and what the cache calls the place.
    has_ranges : bool
        False once the place has answered a range with the whole.
    whole_first : bool
        Whether a file of which next to all is wanted is asked for without a range.
    can_write : bool
        Whether `put`, `create` and `replace` work.
    is_atomic : bool
        Whether all that is written becomes visible at once, by `publish`, and only if nothing was
        written meanwhile by others: nothing need be claimed then.
    patience, deadline : float
        Seconds after which silence is given up, and that one file or range may take in all,
        attempts included.
    rule : callable
        What a name is held to before it is asked for; raises if it breaks the rule.
    """

    has_ranges = True
    whole_first = False
    can_write = False
    is_atomic = False
    patience, deadline = 30.0, 3600.0

    def __init__(self, address: str) -> None:
        self.address = address
        self.rule: Callable[[str], object] = check_name

    def read(self, name: str, *, limit: int) -> bytes:
        """Return a whole file of at most `limit` bytes.

        Raises
        ------
        FileNotFoundError
            If there is none.
        CorruptStoreError
            If it is larger; no more than `limit` bytes of it were read.
        RemoteStoreError
            If the place cannot be reached or refuses.
        """
        return self.read_tagged(name, limit=limit)[0]

    def read_tagged(self, name: str, *, limit: int) -> tuple[bytes, str]:
        """Return a file as `read` does, with the tag that `replace` compares."""
        self.rule(name)

        def once(pace: Pace) -> tuple[bytes, str]:
            data = bytearray()
            with self._get(name, None, pace) as answer:
                if answer.size > limit:
                    raise self._too_large(name, limit)
                for piece in pace.over(answer.pieces):
                    data += piece
                    if len(data) > limit:
                        raise self._too_large(name, limit)
            if answer.size not in (-1, len(data)):
                raise TransientError(f"{len(data):,} of {answer.size:,.0f} bytes came")
            return bytes(data), answer.tag

        return self._repeat(name, once)

    def stream(
        self, name: str, start: int, stop: int, *, size: int | None = None
    ) -> Generator[memoryview]:
        """Yield exactly the bytes from `start` to `stop` of a file, in pieces.

        An answer that breaks off is asked for again from where it ended.

        Parameters
        ----------
        size : int, optional
            What the file has, if next to all of it is wanted: it may then be asked for without a
            range, which some services answer faster.

        Raises
        ------
        FileNotFoundError, RemoteStoreError
            See `read`. Also if the file is shorter.
        CorruptStoreError
            If more comes than was asked for.
        """
        self.rule(name)
        attempt, pace = 0, self._pace(name)
        whole = self.whole_first and start == 0 and size is not None
        while start < stop:
            got, left = 0, stop - start
            try:
                with self._get(name, None if whole else (start, stop), pace) as answer:
                    skip = 0 if answer.ranged else start
                    for piece in pace.over(answer.pieces):
                        view = memoryview(piece).cast("B")[skip:]
                        skip = max(0, skip - len(piece))
                        if answer.ranged and len(view) > left:
                            raise CorruptStoreError(
                                f"{self.address}/{name} answered with more bytes than were asked "
                                "for."
                            )
                        view = view[:left]
                        got, left = got + len(view), left - len(view)
                        if view:
                            yield view
                        # A range is read to its end, so that its connection can be used again.
                        if not left and not answer.ranged:
                            break
                if left:
                    raise TransientError(f"only {got:,} of {got + left:,} bytes came")
            except TransientError as err:
                attempt = 1 if got >= PROGRESS else attempt + 1
                self._pause(name, pace, attempt, err)
            start += got

    def size(self, name: str) -> int:
        """Return the bytes of a file.

        Raises
        ------
        FileNotFoundError, RemoteStoreError
            See `read`.
        """
        self.rule(name)

        def once(pace: Pace) -> float:
            # Not every server that knows ranges answers HEAD as it does GET.
            with self._get(name, None if self.whole_first else (0, 1), pace) as answer:
                return answer.size

        size = self._repeat(name, once)
        if not 0 <= size <= LARGEST:
            raise RemoteStoreError(f"{self.address}/{name}: the server does not say its size.")
        return int(size)

    def pinned(self) -> str:
        """Return an address at which nothing changes any more, or this one if there is none."""
        return self.address

    def reader(self) -> Place:
        """Return what a store is read through: the cache in front of this place."""
        # Here, for every decoder has these files, and no item table: polars and its threads.
        from featstore.remote.place import RemotePlace

        return RemotePlace(self)

    def names(self, prefix: str = "") -> Iterator[tuple[str, int]]:  # noqa: ARG002
        """Yield name and size of the files below `prefix`.

        Raises
        ------
        RemoteStoreError
            If this place cannot list.
        """
        raise RemoteStoreError(f"{self.address} cannot list its files.")

    def listed(self, found: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, int]]:
        """Yield the names and sizes that a place says it has.

        Raises
        ------
        CorruptStoreError
            If there are more than `MOST_NAMES`, or a size is none.
        """
        for number, (name, size) in enumerate(found):
            if number >= MOST_NAMES:
                raise CorruptStoreError(
                    f"{self.address} lists more than {MOST_NAMES:,} files. It was not read on."
                )
            if not isinstance(size, int) or size < 0:
                raise CorruptStoreError(f"{self.address} lists {name[:200]!r} of {size!r} bytes.")
            yield name, size

    def log(self) -> Log | None:
        """Return the log of the store in this place; None if there is none.

        Raises
        ------
        CorruptStoreError, FormatVersionError, RemoteStoreError
            If it is damaged, or of another format, or there is another Zarr group.
        """
        return find_log(self.read, self.address)

    def update_log(self, change: Callable[[Log], Log]) -> bool:
        """Replace the log by what `change` makes of it; False if that is what it was.

        Whatever `change` raises leaves it as it was. It may be called again, for another log, as
        another writer may come between.

        Raises
        ------
        RemoteStoreError
            If others change it all the time.
        """
        tags: dict[str, str] = {}

        def read(name: str, *, limit: int) -> bytes:
            data, tags[name] = self.read_tagged(name, limit=limit)
            return data

        for attempt in range(1, ROUNDS + 1):
            old = find_log(read, self.address)
            new = change(old or Log())
            if new == old:
                return False
            data = new.data()
            if self.replace(LOG, data, tags[LOG]) if old else self.create(LOG, data):
                return True
            time.sleep(backoff(min(attempt, _LONGEST)))
        raise RemoteStoreError(
            f"The log of {self.address} changes all the time. Run the same command again: what was "
            "sent is there."
        )

    def put(self, name: str, data: bytes | Path | IO[bytes]) -> None:  # noqa: ARG002
        """Write a file, whether or not there is one."""
        raise self._read_only(name)

    def create(self, name: str, data: bytes | Path | IO[bytes]) -> bool:  # noqa: ARG002
        """Write a file only if there is none; False if there is one."""
        raise self._read_only(name)

    def replace(self, name: str, data: bytes, tag: str) -> bool:  # noqa: ARG002
        """Write a file only if it is still the one that `tag` came with; False if not."""
        raise self._read_only(name)

    def delete(self, name: str) -> None:
        """Remove a file; none is fine."""
        raise self._read_only(name)

    @contextlib.contextmanager
    def draft(self) -> Iterator[Objects]:
        """Give what a push writes to: this place itself, or the next commit of one that has them.

        Raises
        ------
        RemoteStoreError
            If the place cannot be written.
        """
        if not self.can_write:
            raise RemoteStoreError(
                f"{self.address} cannot be written by featstore. Push to a folder, and upload that "
                "(docs/ref/addresses.md)."
            )
        yield self

    def keep(self) -> None:  # noqa: B027
        """Wait until what was put into a draft has arrived; nothing to do elsewhere."""

    def publish(self, message: str) -> bool:  # noqa: ARG002
        """Make visible what was written to a draft; False if others wrote to the place meanwhile.

        Parameters
        ----------
        message : str
            Of the commit, where the place has commits.
        """
        return True

    @abstractmethod
    def _get(
        self, name: str, span: tuple[int, int] | None, pace: Pace
    ) -> AbstractContextManager[Answer]:
        """Ask for a file, or a range of one, until the block ends.

        What the block raises while it takes pieces becomes, as what asking raises: TransientError
        if asking again may help, FileNotFoundError, or RemoteStoreError.
        """

    def _pace(self, name: str) -> Pace:
        return Pace(f"{self.address}/{name}", self.patience, self.deadline)

    def _repeat(self, name: str, once: Callable[[Pace], T]) -> T:
        pace, attempt = self._pace(name), 1
        while True:
            try:
                return once(pace)
            except TransientError as err:
                self._pause(name, pace, attempt, err)
            attempt += 1

    def _pause(self, name: str, pace: Pace, attempt: int, err: TransientError) -> None:
        """Sleep before the next attempt; UnreachableError if so many were made."""
        if attempt >= ATTEMPTS:
            raise UnreachableError(
                f"{self.address}/{name} could not be read in {ATTEMPTS} attempts: {err}. Try "
                "again; what was fetched is kept."
            ) from err
        pace.pause(attempt, err.after)

    def _read_only(self, name: str) -> RemoteStoreError:
        return RemoteStoreError(
            f"{self.address} is read-only here; {name} was not written. Push to s3://, gs://, "
            "az:// or a folder."
        )

    def _too_large(self, name: str, limit: int) -> CorruptStoreError:
        return CorruptStoreError(
            f"{self.address}/{name} has more than the {limit:,} bytes that are expected at most. "
            "It was not read."
        )


class FolderObjects(Objects):
    """Files of a store in a folder of this machine."""

    can_write = True

    def __init__(self, root: Path) -> None:
        super().__init__(str(root))
        self.root = root

    def update_log(self, change: Callable[[Log], Log]) -> bool:
        """Replace the log under its lock; see `featstore.store.log.update_log`."""
        return update_log(self.root, change)

    def put(self, name: str, data: bytes | Path | IO[bytes]) -> None:
        """Write a file, whether or not there is one."""
        assert isinstance(data, bytes)
        write_file(self.root / name, [data])

    def create(self, name: str, data: bytes | Path | IO[bytes]) -> bool:
        """Write a file only if there is none."""
        assert isinstance(data, bytes)
        try:
            write_durably(self.root / name, [data], sealed=True, new=True)
        except FileExistsError:
            return False
        except OSError as err:
            raise write_error(self.root / name, err) from err
        return True

    @contextlib.contextmanager
    def _get(
        self,
        name: str,
        span: tuple[int, int] | None,
        pace: Pace,  # noqa: ARG002
    ) -> Iterator[Answer]:
        with open_regular(self.root / name) as file:
            size = os.fstat(file.fileno()).st_size
            start, stop = span or (0, size)
            file.seek(start)
            yield Answer(size, "", span is not None, pieces(file, stop - start))


def check_name(name: str) -> str:
    """Return `name` if it stays below its root.

    Raises
    ------
    CorruptStoreError
        If it has steps that lead elsewhere, or characters that no store writes.
    """
    if not _NAME.fullmatch(name) or not {".", ".."}.isdisjoint(name.split("/")):
        raise CorruptStoreError(
            f"{name[:200]!r} is not the name of a file of a store. It was not asked for."
        )
    return name


def one_line(text: str) -> str:
    """Return what an error says in one short line, without queries, which may be signed."""
    return QUERY.sub("?…", " ".join(text.split()))[:300]


def backoff(attempt: int) -> float:
    """Return the seconds to sleep before the next attempt, the longer the more were made."""
    # Not every reader at once: nothing that is computed depends on it.
    return PAUSE * float(2 ** (attempt - 1)) * random.uniform(0.5, 1.0)  # noqa: S311


def open_objects(address: Address | Path) -> Objects:
    """Return the files behind an address; see `featstore.address.open_address`."""
    found: Objects = open_address(address)
    return found


def writable_objects(address: Address | Path) -> Objects:
    """Return the files behind an address; RemoteStoreError if it cannot be written."""
    objects = open_objects(address)
    if not objects.can_write:
        raise RemoteStoreError(
            f"{objects.address} takes whole pushes only, or cannot be written by featstore. Work "
            "on a folder, and push that (docs/ref/addresses.md)."
        )
    return objects
