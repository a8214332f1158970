"""A search served to this machine: the page, its thumbnails, and answers to any text.

Who may ask is whoever was given the address: it holds a key that works once, and is changed into a
cookie. Other pages in the browser have neither, and a name that an attacker points at 127.0.0.1 is
refused by the Host that the browser sends. Nothing is read but the request line and the headers,
no path of the disk is made of a request, and nothing of it is kept.
"""

from __future__ import annotations

import hmac
import json
import secrets
import threading
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from bench.report.search import DEEP, search_page
from bench.search import SOURCES, Searcher

#: Characters of a text that is asked for.
LONGEST = 200

_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Server(ThreadingHTTPServer):
    """Serves a search on a free port of 127.0.0.1, once it runs.

    Parameters
    ----------
    searcher : Searcher
    named : bool
        Show the paths of files.

    Attributes
    ----------
    key : str
        Opens the page once.
    cookie : str
        What that is changed into.
    files : dict
        All that can be asked for by its path: content, type, and headers beside the usual ones.
    """

    def __init__(self, searcher: Searcher, *, named: bool = True) -> None:
        called = searcher.root.name or "pictures"
        html, _ = search_page(searcher, called, named=named, serve=True)
        self.searcher, self._one = searcher, threading.Lock()
        self.files: dict[str, tuple[bytes, str, dict[str, str]]] = {
            f"/thumbnail/{number}": (data, "image/webp", {"Cache-Control": "private"})
            for number, data in enumerate(searcher.thumbnails)
        }
        # Its own policy, which says what it may load, stands in it.
        policy = {"Content-Security-Policy": "frame-ancestors 'none'"}
        self.files["/"] = html.encode(), "text/html", policy
        self.key, self.cookie = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        super().__init__(("127.0.0.1", 0), _Handler)

    def take(self, key: str) -> bool:
        """Return whether this is the key; it is none from then on."""
        with self._one:
            fits = bool(self.key) and hmac.compare_digest(key.encode(), self.key.encode())
            self.key = "" if fits else self.key
        return fits

    def knows(self, header: str) -> bool:
        """Return whether a Cookie header holds the cookie."""
        own = f"headstock={self.cookie}".encode()
        given = header.encode(errors="replace").split(b";")
        return any(hmac.compare_digest(one.strip(), own) for one in given)

    def answer(self, text: str) -> dict[str, Any]:
        """Answer a text; one at a time, as the encoder has the machine."""
        with self._one:
            near, found = self.searcher.ask(text, map(self.searcher.source, SOURCES), DEEP)
        return near | {"pictures": [[picture for picture, _ in own] for own in found]}


class _Handler(BaseHTTPRequestHandler):
    """Answers GET alone; other methods are refused by the base class."""

    server: Server
    timeout = 10.0  # seconds, for a request to arrive
    server_version, sys_version = "headstock", ""

    def do_GET(self) -> None:
        """Answer a request."""
        server, port = self.server, self.server.server_port
        if self.headers.get_all("Host") not in ([f"127.0.0.1:{port}"], [f"localhost:{port}"]):
            return self._send(HTTPStatus.MISDIRECTED_REQUEST, b"This is not that host.")
        try:
            address = urlsplit(self.path)
            asked = parse_qs(address.query, max_num_fields=4, errors="strict")
        except ValueError:
            return self._send(HTTPStatus.BAD_REQUEST)
        if address.path == "/" and "key" in asked and server.take(asked["key"][0]):
            cookie = f"headstock={server.cookie}; Path=/; HttpOnly; SameSite=Strict"
            return self._send(HTTPStatus.SEE_OTHER, more={"Location": "/", "Set-Cookie": cookie})
        if not server.knows(self.headers.get("Cookie", "")):
            return self._send(HTTPStatus.FORBIDDEN, b"Open the printed address. It works once.")
        text = asked.get("q", [""])[0].strip()
        if address.path in server.files:
            return self._send(HTTPStatus.OK, *server.files[address.path])
        if address.path != "/ask":
            return self._send(HTTPStatus.NOT_FOUND)
        if not 0 < len(text) <= LONGEST:
            said = f"A text has 1 to {LONGEST} characters."
            return self._send(HTTPStatus.BAD_REQUEST, said.encode())
        return self._send(
            HTTPStatus.OK, json.dumps(server.answer(text)).encode(), "application/json"
        )

    def _send(
        self,
        status: HTTPStatus,
        body: bytes = b"",
        kind: str = "text/plain",
        more: Mapping[str, str] | None = None,
    ) -> None:
        kind = kind if kind.startswith("image") else f"{kind}; charset=utf-8"
        own = {"Content-Type": kind, "Content-Length": str(len(body))} | {**(more or {})}
        self.send_response(status)
        for name, value in (_HEADERS | own).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Log nothing: what is looked for is nobody's business."""
