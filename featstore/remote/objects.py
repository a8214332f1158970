"""Objects at an address: get, range, put on a condition, list, with retries.

Nothing here believes a server: an answer that is longer or shorter than what was asked for is an
error, and what the bytes are is for others to check against a hash.
"""

from __future__ import annotations

import random
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlsplit

from featstore.errors import AddressError, CorruptStoreError, RemoteStoreError, UnreachableError

#: Times that an answer is asked for before it is given up; a read that got on begins anew.
ATTEMPTS = 4

#: Seconds before the second attempt; they double with each.
PAUSE = 0.2

_NAME = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")

T = TypeVar("T")


class TransientError(Exception):
    """An answer that may be better if it is asked for again."""


class Objects(ABC):
    """Named files of one remote place.

    Attributes
    ----------
    address : str
        For messages, and what the cache calls the place.
    has_ranges : bool
        False once the place has answered a range with the whole.
    can_write : bool
        Whether `put`, `create` and `replace` work.
    """

    has_ranges = True
    can_write = False

    def __init__(self, address: str) -> None:
        self.address = address

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
        check_name(name)
        return self._repeat(name, lambda: self._read(name, limit))

    def stream(
        self, name: str, start: int, stop: int, *, size: int | None = None
    ) -> Iterator[memoryview]:
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
        """
        check_name(name)
        attempt = 0
        while start < stop:
            got = 0
            try:
                for piece in self._stream(name, start, stop, size):
                    view = memoryview(piece).cast("B")
                    if len(view) > stop - start - got:
                        raise CorruptStoreError(
                            f"{self.address}/{name} answered with more bytes than were asked for."
                        )
                    got += len(view)
                    yield view
                if start + got < stop:
                    raise TransientError(f"only {got:,} of {stop - start:,} bytes came")
            except TransientError as err:
                attempt = 1 if got else attempt + 1
                if attempt >= ATTEMPTS:
                    raise self._gave_up(name, err) from err
                _pause(attempt)
            start += got

    def names(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """Yield name and size of the files below `prefix`.

        Raises
        ------
        RemoteStoreError
            If this place cannot list.
        """
        del prefix
        raise RemoteStoreError(f"{self.address} cannot list its files.")

    def put(self, name: str, data: bytes | Path) -> None:
        """Write a file, whether or not there is one."""
        del data
        raise self._read_only(name)

    def create(self, name: str, data: bytes) -> bool:
        """Write a file only if there is none; False if there is one."""
        del data
        raise self._read_only(name)

    def replace(self, name: str, data: bytes, tag: str) -> bool:
        """Write a file only if it is still the one that `tag` came with; False if not."""
        del data, tag
        raise self._read_only(name)

    def delete(self, name: str) -> None:
        """Remove a file; none is fine."""
        raise self._read_only(name)

    @abstractmethod
    def _read(self, name: str, limit: int) -> tuple[bytes, str]:
        """Return a whole file and its tag; TransientError if asking again may help."""

    @abstractmethod
    def _stream(
        self, name: str, start: int, stop: int, size: int | None
    ) -> Iterator[bytes | memoryview]:
        """Yield bytes of a range, which may break off; TransientError if asking may help."""

    def _repeat(self, name: str, once: Callable[[], T]) -> T:
        for attempt in range(1, ATTEMPTS):
            try:
                return once()
            except TransientError:
                _pause(attempt)
        try:
            return once()
        except TransientError as err:
            raise self._gave_up(name, err) from err

    def _gave_up(self, name: str, err: Exception) -> UnreachableError:
        return UnreachableError(
            f"{self.address}/{name} could not be read in {ATTEMPTS} attempts: {err}. Try again; "
            "what was fetched is kept."
        )

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


def _pause(attempt: int) -> None:
    # Not every reader at once: nothing that is computed depends on it.
    time.sleep(PAUSE * 2 ** (attempt - 1) * random.uniform(0.5, 1.0))  # noqa: S311


#: Schemes of remote stores, and what each is.
SCHEMES = {
    "s3": "an S3 bucket",
    "gs": "a Google Cloud Storage bucket",
    "az": "an Azure Blob container",
    "https": "a web server",
    "http": "a web server on this machine",
    "hf": "a dataset of the Hugging Face hub",
}

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(frozen=True)
class Address:
    """Where a remote store lies.

    Attributes
    ----------
    scheme, host, path : str
        Of the URL; `host` is the bucket of a bucket's address. `path` has no slash at its ends.
    url : str
        The whole address without credentials, which it may not have, and without a final slash.
    """

    scheme: str
    host: str
    path: str
    url: str


def parse_address(text: str | Path) -> Address | Path:
    """Return what `text` addresses: a folder of this machine, or a remote store.

    Raises
    ------
    AddressError
        If the scheme is unknown, the address holds credentials or a query, or leaves its root.
        Credentials come from the environment, never from an address: addresses are logged.
    """
    found = _SCHEME.match(text) if isinstance(text, str) else None
    if found is None:
        return Path(text)
    assert isinstance(text, str)
    scheme = found[1].lower()
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError as err:
        raise AddressError(f"The {scheme} address of the store is malformed: {err}.") from err
    if scheme == "file":
        if host not in ("", "localhost"):
            raise AddressError(
                f"file://{host}/… names another machine. Take its path where it is mounted."
            )
        return Path(unquote(parts.path))
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise AddressError(
            f"No store can be opened at {scheme}://. Known are {known}, file:// and paths."
        )
    if "@" in parts.netloc:
        msg = f"The {scheme} address holds credentials. Leave them out: they are read from the "
        msg += "environment (see docs/sharing.md), and addresses are logged."
        raise AddressError(msg)
    if parts.query or parts.fragment:
        raise AddressError(
            f"The address {scheme}://{host}{parts.path} has a query or fragment. Leave it out."
        )
    if not host:
        raise AddressError(
            f"The address {text} names no {'bucket' if scheme in ('s3', 'gs', 'az') else 'host'}."
        )
    if scheme == "http" and host not in _LOOPBACK:
        raise AddressError(
            f"http://{host} is read in the clear by everyone between. Use https://; http:// is for "
            "servers on this machine."
        )
    path = parts.path.strip("/")
    if any(step in ("", ".", "..") for step in unquote(path).split("/")) and path:
        raise AddressError(f"The address {text} has an empty, '.' or '..' step in its path.")
    bracketed = f"[{host}]" if ":" in host else host
    place = bracketed if port is None else f"{bracketed}:{port}"
    return Address(scheme, place, path, f"{scheme}://{place}/{path}".rstrip("/"))


def open_objects(address: Address) -> Objects:
    """Return the files behind an address. Nothing is asked of the server yet.

    Raises
    ------
    RemoteStoreError
        If the library for this scheme is not installed, or refuses the address.
    """
    if address.scheme == "hf":
        from featstore.remote.web import HubObjects

        return HubObjects(address)
    if address.scheme in ("http", "https"):
        from featstore.remote.web import WebObjects

        return WebObjects(address)
    from featstore.remote.bucket import BucketObjects

    return BucketObjects(address)
