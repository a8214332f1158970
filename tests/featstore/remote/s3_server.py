"""A small S3: puts with conditions, ranges and listings, each request one step under one lock.

It keeps its objects in memory and listens on 127.0.0.1 only. What may happen to a request it can be
told to do: it can come late, its client can die before or after it takes effect, its answer can be
late or lost. Requests of one client take effect in the order in which they were sent, those of
several in any.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from tests.featstore.remote.proxy import Quiet, _serving

#: The headers that make a put conditional.
CONDITIONS = frozenset({"If-Match", "If-None-Match"})


@dataclass(frozen=True)
class Request:
    """A request: its number, from 1, its method, its path, and its client's access key."""

    number: int
    method: str
    path: str
    client: str


def tag_of(data: bytes) -> str:
    """Return the ETag of an object, which says the same of the same bytes, as S3's does."""
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'


@dataclass
class Bucket:
    """The objects of a server, and what happens around each request."""

    url: str = ""
    #: Path, bucket included -> bytes.
    objects: dict[str, bytes] = field(default_factory=dict)
    #: Method, path and query of each request, in the order in which they arrived.
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    #: Called with each request before and after it takes effect; the answer is sent then. May
    #: kill the client, or sleep; no answer is sent after a ConnectionError.
    before: Callable[[Request], object] = lambda _: None
    after: Callable[[Request], object] = lambda _: None
    #: Path and bytes of every put that took effect, in order, if `keep_puts` says so of its path.
    puts: list[tuple[str, bytes]] = field(default_factory=list)
    keep_puts: Callable[[str], bool] = lambda _: False
    #: Headers that have no effect, such as conditions.
    ignores: frozenset[str] = frozenset()
    tag: Callable[[bytes], str] = tag_of
    #: Seconds after a put, at `put_at`, in which an object takes no other: 429 or 503 is said.
    period: float = 0.0
    put_at: dict[str, float] = field(default_factory=dict)
    #: Number of an upload that has not ended -> its parts.
    parts: dict[str, dict[int, bytes]] = field(default_factory=dict)


@contextmanager
def s3_server() -> Iterator[Bucket]:
    """Run the server in threads of this process until the block ends."""
    lock, turns = threading.Lock(), dict[str, threading.Lock]()
    bucket = Bucket()

    class Handler(Quiet):
        def _handle(self) -> None:
            parts = urlsplit(self.path)
            path = unquote(parts.path).strip("/")
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            client = re.search(r"Credential=([^/]+)/", self.headers.get("Authorization", ""))
            with lock:
                bucket.requests.append((self.command, path, parts.query))
                number = len(bucket.requests)
                turn = turns.setdefault(client[1] if client else "", threading.Lock())
            request = Request(number, self.command, path, client[1] if client else "")
            with turn:
                bucket.before(request)
                with lock:
                    query = parse_qs(parts.query, keep_blank_values=True)
                    status, headers, data = self._apply(path, query, body)
            bucket.after(request)
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            if "Content-Length" not in headers:
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_GET = do_HEAD = do_PUT = do_POST = _handle

        def _apply(
            self, path: str, query: dict[str, list[str]], body: bytes
        ) -> tuple[int, dict[str, str], bytes]:
            found = bucket.objects.get(path)
            if "uploads" in query or "uploadId" in query:
                return self._upload(path, query, body)
            if self.command == "PUT":
                if time.monotonic() < bucket.put_at.get(path, 0.0) + bucket.period:
                    return _error((429, 503)[len(bucket.requests) % 2], "SlowDown")
                given = {name: self.headers.get(name) for name in CONDITIONS - bucket.ignores}
                wanted = given.get("If-Match")
                if given.get("If-None-Match") == "*" and found is not None:
                    return _error(412, "PreconditionFailed")
                if wanted is not None and (found is None or bucket.tag(found) != wanted):
                    return _error(412, "PreconditionFailed")
                bucket.objects[path], bucket.put_at[path] = body, time.monotonic()
                if bucket.keep_puts(path):
                    bucket.puts.append((path, body))
                return 200, {"ETag": bucket.tag(body)}, b""
            if self.command == "POST" and "delete" in query:
                names = re.findall(r"<Key>([^<]+)</Key>", body.decode())
                for name in names:
                    bucket.objects.pop(f"{path}/{name}", None)
                rows = "".join(f"<Deleted><Key>{name}</Key></Deleted>" for name in names)
                return 200, {}, f"<DeleteResult>{rows}</DeleteResult>".encode()
            if "list-type" in query:
                return 200, {}, _listing(bucket.objects, path, query.get("prefix", [""])[0])
            if found is None:
                return _error(404, "NoSuchKey")
            headers = {"ETag": bucket.tag(found), "Last-Modified": "Mon, 02 Jan 2006 15:04:05 GMT"}
            asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            if asked:
                first, last = int(asked[1]), min(int(asked[2]), len(found) - 1)
                headers["Content-Range"] = f"bytes {first}-{last}/{len(found)}"
                return 206, headers, found[first : last + 1]
            if self.command == "HEAD":
                headers["Content-Length"] = str(len(found))
            return 200, headers, found

        def _upload(
            self, path: str, query: dict[str, list[str]], body: bytes
        ) -> tuple[int, dict[str, str], bytes]:
            """Take a large object in parts; it is there once all are."""
            if "uploads" in query:
                said = f"<UploadId>{len(bucket.requests)}</UploadId>"
                return 200, {}, f"<Uploaded>{said}</Uploaded>".encode()
            number = query["uploadId"][0]
            if self.command == "PUT":
                bucket.parts.setdefault(number, {})[int(query["partNumber"][0])] = body
                return 200, {"ETag": tag_of(body)}, b""
            bucket.objects[path] = b"".join(
                data for _, data in sorted(bucket.parts[number].items())
            )
            tag = escape(bucket.tag(bucket.objects[path]))
            return 200, {}, f"<Uploaded><ETag>{tag}</ETag></Uploaded>".encode()

    with _serving(Handler) as port:
        bucket.url = f"http://127.0.0.1:{port}"
        yield bucket


def _error(status: int, code: str) -> tuple[int, dict[str, str], bytes]:
    return status, {}, f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()


def _listing(objects: dict[str, bytes], name: str, prefix: str) -> bytes:
    rows = [
        f"<Contents><Key>{escape(path.removeprefix(f'{name}/'))}</Key><Size>{len(data)}</Size>"
        f"<ETag>{escape(tag_of(data))}</ETag>"
        "<LastModified>2006-01-02T15:04:05.000Z</LastModified></Contents>"
        for path, data in sorted(objects.items())
        if path.startswith(f"{name}/{prefix}")
    ]
    start, end = "<ListBucketResult><IsTruncated>false</IsTruncated>", "</ListBucketResult>"
    return (start + "".join(rows) + end).encode()
