"""A search served to this machine: the page, its thumbnails, and answers to any text.

Who may ask is whoever was given the address: it holds a key that works once, and is changed into a
cookie. Other pages in the browser have neither, and a name that an attacker points at 127.0.0.1 is
refused by the Host that the browser sends. Nothing is read but the request line and the headers,
no path of the disk is made of a request, and nothing of it is kept.
"""

from __future__ import annotations

import hmac
import json
import re
import secrets
import threading
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from bench.report.search import DEEP, search_page
from bench.search import FAR, SOURCES, Searcher

#: Characters of a text that is asked for.
LONGEST = 200

#: Seconds for a request to arrive.
PATIENCE = 10.0

_FRAMES = "frame-ancestors 'none'"

_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": f"default-src 'none'; {_FRAMES}",
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
    asked : int
        Texts that were answered.
    """

    daemon_threads = True

    def __init__(self, searcher: Searcher, *, named: bool = True) -> None:
        called = searcher.listing.root.name or "pictures"
        self.searcher, self.page = searcher, search_page(searcher, called, named=named, serve=True)
        self.sources = [searcher.source(name).of(self.page.rows) for name in SOURCES]
        self.thumbnails = [searcher.thumbnails[row] for row in self.page.rows]
        self.key, self.cookie = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        self.asked, self._one = 0, threading.Lock()
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
        given = (one.strip().encode(errors="replace") for one in header.split(";"))
        return any(hmac.compare_digest(one, own) for one in given)

    def answer(self, text: str) -> dict[str, Any]:
        """Answer a text; one at a time, as the encoder has the machine."""
        with self._one:
            self.asked += 1
            near, cosine, found = self.searcher.ask(text, self.sources, DEEP)
        lists = [[picture for picture, _ in own] for own in found]
        return {"pictures": lists, "near": near, "far": cosine < FAR}


class _Handler(BaseHTTPRequestHandler):
    """Answers GET alone; other methods are refused by the base class."""

    server: Server
    timeout = PATIENCE
    server_version, sys_version = "headstock", ""

    def do_GET(self) -> None:
        """Answer a request."""
        port = self.server.server_port
        if self.headers.get_all("Host") not in ([f"127.0.0.1:{port}"], [f"localhost:{port}"]):
            self._send(HTTPStatus.MISDIRECTED_REQUEST, b"This is not that host.")
            return
        try:
            address = urlsplit(self.path)
            asked = parse_qs(address.query, max_num_fields=4, errors="strict")
        except ValueError:
            self._send(HTTPStatus.BAD_REQUEST)
            return
        if address.path == "/" and "key" in asked and self.server.take(asked["key"][0]):
            cookie = f"headstock={self.server.cookie}; Path=/; HttpOnly; SameSite=Strict"
            self._send(HTTPStatus.SEE_OTHER, more={"Location": "/", "Set-Cookie": cookie})
        elif not self.server.knows(self.headers.get("Cookie", "")):
            self._send(HTTPStatus.FORBIDDEN, b"Open the address in the terminal. It works once.")
        else:
            self._answer(address.path, asked)

    def _answer(self, path: str, asked: Mapping[str, list[str]]) -> None:
        text = asked.get("q", [""])[0].strip()
        number = re.fullmatch(r"/thumbnail/([0-9]{1,6})", path)
        if path == "/":
            policy = {"Content-Security-Policy": f"{self.server.page.policy}; {_FRAMES}"}
            self._send(HTTPStatus.OK, self.server.page.html.encode(), "text/html", policy)
        elif number and int(number[1]) < len(self.server.thumbnails):
            data = self.server.thumbnails[int(number[1])]
            self._send(HTTPStatus.OK, data, "image/webp", {"Cache-Control": "private"})
        elif path == "/ask" and 0 < len(text) <= LONGEST:
            data = json.dumps(self.server.answer(text)).encode()
            self._send(HTTPStatus.OK, data, "application/json")
        elif path == "/ask":
            self._send(HTTPStatus.BAD_REQUEST, f"A text has 1 to {LONGEST} characters.".encode())
        else:
            self._send(HTTPStatus.NOT_FOUND)

    def _send(
        self,
        status: HTTPStatus,
        body: bytes = b"",
        kind: str = "text/plain",
        more: Mapping[str, str] | None = None,
    ) -> None:
        self.send_response(status)
        kind = kind if kind.startswith("image") else f"{kind}; charset=utf-8"
        sent = (
            _HEADERS | {"Content-Type": kind, "Content-Length": str(len(body))} | {**(more or {})}
        )
        for name, value in sent.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Log nothing: what is looked for is nobody's business."""
