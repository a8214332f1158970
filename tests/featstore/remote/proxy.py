"""A server between reader and store that does harm: cuts, swaps, changes, lies, redirects.

It listens on 127.0.0.1 only, answers at most `LIMIT` requests, and ends with its `with` block.
"""

from __future__ import annotations

import http.client
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LIMIT = 20_000

_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}


@dataclass
class Answer:
    """What upstream said, to be changed."""

    status: int
    headers: dict[str, str]
    body: bytes
    #: Send so many bytes of the body, then drop the connection.
    cut: int | None = None


class Quiet(BaseHTTPRequestHandler):
    """Keeps connections, and says nothing."""

    protocol_version = "HTTP/1.1"
    #: Head and body are two writes: the second would wait 40 ms for the receipt of the first.
    disable_nagle_algorithm = True

    def log_message(self, *_: Any) -> None:
        pass


#: Changes the answer to the `number`-th request for `path`; None leaves it.
Harm = Callable[[str, int, Answer], Answer | None]


@dataclass
class Proxy:
    """A running proxy; `harm` may be changed at any time."""

    url: str
    harm: Harm | None = None
    #: Method, path and Range header of each request.
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    down: bool = False
    #: Of the store, where that is not `url`.
    address: str = ""
    #: Requests that came with credentials.
    signed: int = 0

    def count(self, part: str = "") -> int:
        return sum(part in path for _, path, _ in self.requests)


@contextmanager
def proxy(upstream: tuple[str, int]) -> Iterator[Proxy]:
    """Run a proxy in front of a server of this machine."""
    lock = threading.Lock()
    seen: dict[str, int] = {}

    class Handler(Quiet):
        def _forward(self) -> None:
            with lock:
                state.requests.append((self.command, self.path, self.headers.get("Range", "")))
                seen[self.path] = number = seen.get(self.path, 0) + 1
                state.signed += "Authorization" in self.headers
                if len(state.requests) > LIMIT:
                    raise AssertionError("too many requests")
            size = int(self.headers.get("Content-Length", 0))
            body = self.rfile.read(size) if size else None
            if state.down:
                self.close_connection = True
                return
            link = http.client.HTTPConnection(*upstream, timeout=30)
            try:
                headers = {k: v for k, v in self.headers.items() if k.lower() != "connection"}
                link.request(self.command, self.path, body, headers)
                said = link.getresponse()
                kept = {k: v for k, v in said.getheaders() if k.lower() not in _HOP}
                answer = Answer(said.status, kept, said.read())
                if self.command == "HEAD":
                    kept["Content-Length"] = said.getheader("Content-Length", "0")
            finally:
                link.close()
            if state.harm is not None:
                answer = state.harm(self.path, number, answer) or answer
            self.send_response(answer.status)
            for key, value in answer.headers.items():
                self.send_header(key, value)
            if "Content-Length" not in answer.headers:
                self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body[: answer.cut])
            if answer.cut is not None:
                self.close_connection = True

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _forward

    with _serving(Handler) as port:
        state = Proxy(f"http://127.0.0.1:{port}")
        yield state


@contextmanager
def _serving(
    handler: type[BaseHTTPRequestHandler], tls: ssl.SSLContext | None = None
) -> Iterator[int]:
    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: Any) -> None:
            pass  # a reader that gave up

    server = Server(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
