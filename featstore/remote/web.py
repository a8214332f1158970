"""Read-only objects: a web server with ranges, and a dataset repository of the Hugging Face hub."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import quote, unquote, urljoin, urlsplit

from featstore.errors import RemoteStoreError, UnreachableError, needs_extra
from featstore.remote.objects import Address, Objects, Pace, TransientError

T = TypeVar("T")

_PIECE = 2**20

#: Redirects that are followed, all within the same server.
_REDIRECTS = 3

#: Seconds to wait for a connection.
_CONNECT = 10.0

_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})


class WebObjects(Objects):
    """Files below an https address. The server need not list, nor know ranges.

    obstore's own reader of web servers follows redirects anywhere; this one must not.
    """

    def __init__(self, address: Address) -> None:
        super().__init__(address.url)
        with needs_extra(address.url):
            import urllib3
        self._errors = urllib3.exceptions
        # What a server sends is read as it is: nothing is unpacked, so nothing can swell.
        self._pool: Any = urllib3.PoolManager(
            maxsize=16, retries=False,
            timeout=urllib3.Timeout(connect=_CONNECT, read=self.limits.patience),
        )  # fmt: skip

    def _read(self, name: str, limit: int, pace: Pace) -> tuple[bytes, str]:
        with self._asked(name, {}, pace) as answer:
            stated = answer.headers.get("Content-Length", "")
            if stated.isdecimal() and int(stated) > limit:
                raise self._too_large(name, limit)
            data = bytearray()
            for piece in pace.over(_pieces(answer, pace)):
                data += piece
                if len(data) > limit:
                    raise self._too_large(name, limit)
            if stated.isdecimal() and len(data) != int(stated):
                raise TransientError(f"{len(data):,} of {stated} bytes came")
            return bytes(data), str(answer.headers.get("ETag", ""))

    def _stream(
        self, name: str, span: tuple[int, int], size: int | None, pace: Pace
    ) -> Iterator[bytes | memoryview]:
        del size
        start, stop = span
        with self._asked(name, {"Range": f"bytes={start}-{stop - 1}"}, pace) as answer:
            left, skip = stop - start, 0
            self._compare(name, _tag(answer))
            if answer.status == 200:
                self.has_ranges, skip = False, start
            else:
                message = str(answer.headers.get("Content-Range", ""))
                if not message.startswith(f"bytes {start}-{stop - 1}/"):
                    raise TransientError(f"the server answered with the range {message[:80]!r}")
            for piece in pace.over(_pieces(answer, pace)):
                view = memoryview(piece)[skip:]
                skip = max(0, skip - len(piece))
                # A whole file may go on behind the range; a range may not.
                view = view[:left] if answer.status == 200 else view
                left -= len(view)
                if view:
                    yield view
                if left <= 0 and answer.status == 200:
                    return  # a range is read to its end, so that its connection can be used again

    def _stat(self, name: str, pace: Pace) -> tuple[int, str]:
        # Of one byte, since not every server that knows ranges answers HEAD as it does GET.
        with self._asked(name, {"Range": "bytes=0-0"}, pace) as answer:
            if answer.status == 200:
                self.has_ranges = False
                size = str(answer.headers.get("Content-Length", ""))
            else:
                size = str(answer.headers.get("Content-Range", "")).rpartition("/")[2]
            if not size.isdecimal():
                raise RemoteStoreError(f"{self.address}/{name}: the server does not say its size.")
            return int(size), _tag(answer)

    def _url(self, name: str) -> str:
        return f"{self.address}/{quote(name)}"

    @contextmanager
    def _asked(self, name: str, headers: dict[str, str], pace: Pace) -> Iterator[Any]:
        """Give an answer of status 200 or 206, and close its connection unless all was read."""
        url = self._url(name)
        answer: Any = None
        try:
            for _ in range(_REDIRECTS + 1):
                ask = functools.partial(
                    self._pool.request, "GET", url,
                    headers={"Accept-Encoding": "identity", **headers},
                    preload_content=False, redirect=False,
                )  # fmt: skip
                answer = pace.wait(ask)
                if answer.status not in (301, 302, 303, 307, 308):
                    break
                url = self._followed(url, str(answer.headers.get("Location", "")))
                answer.close()
            self._check(name, answer, asked_range="Range" in headers)
            yield answer
        except (self._errors.HTTPError, OSError) as err:
            if isinstance(err, RemoteStoreError | FileNotFoundError):
                raise
            if isinstance(err, self._errors.SSLError) or "CERTIFICATE" in str(err):
                raise RemoteStoreError(
                    f"{self.address} has no certificate that can be trusted: {str(err)[:200]}."
                ) from err
            raise TransientError(str(err)[:200]) from err
        finally:
            if answer is not None:
                answer.close()

    def _check(self, name: str, answer: Any, *, asked_range: bool) -> None:
        status = answer.status
        if status in (404, 410):
            raise FileNotFoundError(f"{self.address}/{name}")
        if status in _AGAIN:
            again = TransientError(f"the server said {status}")
            asked = str(answer.headers.get("Retry-After", ""))
            again.after = float(asked) if asked.isdecimal() else 0.0
            raise again
        if status != 200 and not (status == 206 and asked_range):
            raise RemoteStoreError(
                f"{self.address}/{name}: the server said {status}. Check the address."
            )
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            raise RemoteStoreError(
                f"{self.address}/{name} came compressed, which was not asked for. Not read."
            )

    def _followed(self, url: str, location: str) -> str:
        target = urljoin(url, location)
        if urlsplit(target)[:2] != urlsplit(url)[:2]:
            where = "://".join(urlsplit(target)[:2])[:100]
            raise RemoteStoreError(
                f"{self.address} redirects to {where}. Redirects to other servers or schemes are "
                "not followed; open that address yourself if you trust it."
            )
        return target


def _tag(answer: Any) -> str:
    """Return what tells this content of a file from an earlier one, or nothing."""
    return str(answer.headers.get("ETag") or answer.headers.get("Last-Modified") or "")


def _pieces(answer: Any, pace: Pace) -> Iterator[bytes]:
    """Yield the bytes of an answer as they come, so that a slow one is noticed."""
    read = functools.partial(answer.read1, _PIECE, decode_content=False)
    # What follows the last chunk may never end, however fast it comes.
    while piece := pace.wait(read) if answer.chunked else read():
        yield piece


_HUB_PIECE = 8 * 2**20

#: Bytes of a listing, whose size nobody knows before: it may take until the deadline.
_ANY_SIZE = 2**50


class HubObjects(Objects):
    """Files below ``hf://datasets/OWNER/NAME[@REVISION][/FOLDER]``; a token as the hub's own."""

    def __init__(self, address: Address) -> None:
        super().__init__(address.url)
        if address.host != "datasets" or address.path.count("/") < 1:
            raise RemoteStoreError(
                f"{address.url} is no dataset of the hub: hf://datasets/OWNER/NAME."
            )
        with needs_extra(address.url):
            from huggingface_hub import HfFileSystem
        # A hub of one's own is named as for all of huggingface_hub.
        self._fs: Any = HfFileSystem(endpoint=os.environ.get("HF_ENDPOINT") or None)
        self._root = f"datasets/{address.path}"

    def names(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """Yield name and size of the files below `prefix`; too many are a CorruptStoreError."""
        root = f"{self._root}/{prefix}".rstrip("/")
        ask, pace = functools.partial(self._fs.find, root, detail=True), self._pace(prefix)
        found = self._repeat(prefix, pace, lambda: self._asked(ask, pace, _ANY_SIZE))
        if len(found) > self.limits.most_names:
            raise self._too_many()
        for path, facts in found.items():
            yield path.removeprefix(f"{self._root}/"), int(facts["size"] or 0)

    def _read(self, name: str, limit: int, pace: Pace) -> tuple[bytes, str]:
        path = f"{self._root}/{name}"
        size = int(self._asked(lambda: self._fs.info(path), pace, 0)["size"] or 0)
        if size > limit:
            raise self._too_large(name, limit)
        data = bytes(self._asked(lambda: self._fs.cat_file(path), pace, size))
        if len(data) != size:
            raise TransientError(f"{len(data):,} of {size:,} bytes came")
        return data, ""

    def _stream(
        self, name: str, span: tuple[int, int], size: int | None, pace: Pace
    ) -> Iterator[bytes | memoryview]:
        del size
        path = f"{self._root}/{name}"
        for first in range(*span, _HUB_PIECE):
            last = min(first + _HUB_PIECE, span[1])
            ask = functools.partial(self._fs.cat_file, path, start=first, end=last)
            yield bytes(self._asked(ask, pace, last - first))

    def _stat(self, name: str, pace: Pace) -> tuple[int, str]:
        facts = self._asked(lambda: self._fs.info(f"{self._root}/{name}"), pace, 0)
        return int(facts["size"] or 0), ""  # `pinned` is the tag of every file

    def pinned(self) -> str:
        """Return the address of the commit that the revision, or without one ``main``, is now."""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

        owner, rest = self._root.removeprefix("datasets/").split("/", 1)
        place, _, folder = rest.partition("/")
        name, _, revision = place.partition("@")
        ask = functools.partial(
            HfApi(endpoint=self._fs.endpoint).dataset_info,
            f"{owner}/{name}", revision=unquote(revision) or None,
        )  # fmt: skip
        pace = self._pace("the revision")
        try:
            sha = self._repeat("the revision", pace, lambda: self._asked(ask, pace, 0)).sha
        except UnreachableError as err:
            cause = err.__cause__ and err.__cause__.__cause__
            if not isinstance(cause, RepositoryNotFoundError | RevisionNotFoundError):
                raise
            raise RemoteStoreError(
                f"{self.address} is no dataset of the hub, or none that your token may read."
            ) from err
        return f"hf://datasets/{owner}/{name}@{sha}/{folder}".rstrip("/")

    def _asked(self, ask: Callable[[], T], pace: Pace, n_bytes: int) -> T:
        try:
            return pace.wait(ask, n_bytes)
        except (FileNotFoundError, RemoteStoreError):
            raise
        except OSError as err:
            raise TransientError(str(err)[:200]) from err
