"""Read-only objects: the files of a web server, with ranges where it knows them."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

from featstore.address import Address
from featstore.errors import RemoteStoreError, needs_extra
from featstore.remote.objects import Answer, Objects, Pace, TransientError

_PIECE = 2**20

#: Redirects that are followed, all within the same server; bytes that one may say and be read.
_REDIRECTS, _SHORT = 3, 2**14

#: Seconds to wait for a connection.
_CONNECT = 10.0

#: Statuses after which another attempt may be better.
AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})


class WebObjects(Objects):
    """Files below an https address. The server need not list, nor know ranges.

    obstore's own reader of web servers follows redirects anywhere; this one must not.

    Attributes
    ----------
    targets : dict
        Name -> URL that a file was redirected to, which is asked at once until the time of
        ``time.monotonic``. Empty unless `_moved` fills it.
    """

    what = "a web server"

    def __init__(self, address: Address) -> None:
        super().__init__(address.url)
        with needs_extra(address.url):
            import urllib3
        self._errors = urllib3.exceptions
        self.targets: dict[str, tuple[str, float]] = {}
        # What a server sends is read as it is: nothing is unpacked, so nothing can swell.
        self._pool: Any = urllib3.PoolManager(
            maxsize=16, retries=False,
            timeout=urllib3.Timeout(connect=_CONNECT, read=self.limits.patience),
        )  # fmt: skip

    @contextmanager
    def _get(self, name: str, span: tuple[int, int] | None, pace: Pace) -> Iterator[Answer]:
        asked = "" if span is None else f"bytes {span[0]}-{span[1] - 1}/"
        headers = {"Range": asked[:-1].replace(" ", "=")} if asked else {}
        with self._asked(name, headers, pace) as answer:
            ranged = answer.status == 206
            if asked and not ranged:
                self.has_ranges = False
            message = str(answer.headers.get("Content-Range", ""))
            if ranged and not message.startswith(asked):
                raise TransientError(f"the server answered with the range {message[:80]!r}")
            size = number_in(answer, "Content-Range" if ranged else "Content-Length")
            yield Answer(size, self._tag(answer), ranged, _pieces(answer, pace))

    def _url(self, name: str) -> str:
        return f"{self.address}/{quote(name)}"

    def _moved(self, name: str, url: str, target: str) -> None:
        """Look at what the URL of a file was redirected to."""

    def _credentials(self, url: str) -> dict[str, str]:  # noqa: ARG002
        """Return the headers that a request to this URL, perhaps of a redirect, may carry."""
        return {}

    def _note(self, answer: Any) -> None:
        """Look at each answer, those that redirect included."""

    def _tag(self, answer: Any) -> str:
        """Return what tells this content of a file from an earlier one, or nothing."""
        return str(answer.headers.get("ETag") or answer.headers.get("Last-Modified") or "")

    def _send(self, url: str, headers: dict[str, str], pace: Pace) -> Any:
        ask = functools.partial(
            self._pool.request, "GET", url,
            headers={"Accept-Encoding": "identity", **self._credentials(url), **headers},
            preload_content=False, redirect=False,
        )  # fmt: skip
        answer = pace.wait(ask)
        self._note(answer)
        return answer

    def _redirect(self, url: str, answer: Any, pace: Pace) -> str:
        """Return where an answer redirects to, having closed it; empty if it does not."""
        if answer.status not in (301, 302, 303, 307, 308):
            return ""
        target = self._followed(url, str(answer.headers.get("Location", "")))
        if 0 <= number_in(answer, "Content-Length") <= _SHORT:
            for _ in pace.over(_pieces(answer, pace)):
                pass  # so that its connection can be used again
        answer.close()
        return target

    @contextmanager
    def _asked(self, name: str, headers: dict[str, str], pace: Pace) -> Iterator[Any]:
        """Give an answer of status 200 or 206, and close its connection unless all was read."""
        target, until = self.targets.get(name, ("", 0.0))
        known = target if time.monotonic() < until else ""
        first = url = known or self._url(name)
        answer: Any = None
        try:
            for _ in range(_REDIRECTS + 1):
                answer = self._send(url, headers, pace)
                target = self._redirect(url, answer, pace)
                if not target:
                    break
                url = target
            if known and answer.status not in (200, 206):
                raise TransientError(f"the address that it was redirected to says {answer.status}")
            self._check(name, answer, asked_range="Range" in headers)
            if url != first:
                self._moved(name, first, url)
            yield answer
        except (self._errors.HTTPError, OSError, TransientError) as err:
            if self.targets.get(name, ("",))[0] == known:
                self.targets.pop(name, None)  # the next attempt asks for the file anew
            if isinstance(err, TransientError | RemoteStoreError | FileNotFoundError):
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
        if status in AGAIN:
            again = TransientError(f"the server said {status}")
            again.after = max(0.0, number_in(answer, "Retry-After"))
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


def number_in(answer: Any, header: str) -> float:
    """Return the number that a header ends with, behind a slash if it has one; -1 if with none.

    A float takes any number of digits; an integer of thousands is a ValueError of Python's.
    """
    text = str(answer.headers.get(header, "")).rpartition("/")[2]
    return float(text) if text.isdecimal() else -1.0


def _pieces(answer: Any, pace: Pace) -> Iterator[bytes]:
    """Yield the bytes of an answer as they come, so that a slow one is noticed."""
    read = functools.partial(answer.read1, _PIECE, decode_content=False)
    # What follows the last chunk may never end, however fast it comes.
    while piece := pace.wait(read) if answer.chunked else read():
        yield piece
