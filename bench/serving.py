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
from dataclasses import dataclass, field
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from bench.report.search import served_answer, served_page
from bench.search import Searcher

#: Characters of a text that is asked for.
LONGEST = 200

#: Seconds for a request to arrive.
PATIENCE = 10.0

_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(eq=False)
class Served:
    """What is served, and to whom.

    Attributes
    ----------
    searcher : Searcher
    folder : str
        What it is called on the page.
    named : bool
        Show the paths of files.
    key : str
        Opens the page once.
    cookie : str
        What that is changed into.
    asked : int
        Texts that were answered.
    """

    searcher: Searcher
    folder: str
    named: bool = True
    key: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    cookie: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    asked: int = 0

    def __post_init__(self) -> None:
        self.page, self.policy = served_page(self.searcher, self.folder, named=self.named)
        self.pictures = self.page.rows
        self._one = threading.Lock()

    def take(self, key: str) -> bool:
        """Return whether this is the key; it is none from then on."""
        with self._one:
            fits = bool(self.key) and hmac.compare_digest(key.encode(), self.key.encode())
            self.key = "" if fits else self.key
        return fits

    def knows(self, header: str) -> bool:
        """Return whether a Cookie header holds the cookie."""
        try:
            given = SimpleCookie(header).get("headstock")
        except CookieError:
            return False
        return given is not None and hmac.compare_digest(
            given.value.encode(errors="replace"), self.cookie.encode()
        )

    def answer(self, text: str) -> dict[str, Any]:
        """Answer a text; one at a time, as the encoder has the machine."""
        with self._one:
            self.asked += 1
            return served_answer(self.searcher, self.pictures, text)

    def thumbnail(self, number: int) -> bytes:
        """Return the thumbnail of a picture of the page, or nothing."""
        rows = self.pictures
        return self.searcher.thumbnails[rows[number]] if number < len(rows) else b""


def server(served: Served) -> ThreadingHTTPServer:
    """Return a server on a free port of 127.0.0.1 that is not running yet."""
    handler = type("_Handler", (_Handler,), {"served": served})
    made = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    made.daemon_threads = True
    return made


class _Handler(BaseHTTPRequestHandler):
    """Answers GET alone; other methods are refused by the base class."""

    served: Served
    timeout = PATIENCE
    server_version, sys_version = "headstock", ""

    def do_GET(self) -> None:
        """Answer a request."""
        assert isinstance(self.server, ThreadingHTTPServer)
        port = self.server.server_port
        if self.headers.get_all("Host") not in ([f"127.0.0.1:{port}"], [f"localhost:{port}"]):
            self._send(HTTPStatus.MISDIRECTED_REQUEST, b"This is not that host.")
            return
        try:
            address = urlsplit(self.path)
            asked = parse_qs(address.query, max_num_fields=4, errors="strict")
        except ValueError:
            self._send(HTTPStatus.BAD_REQUEST, b"")
            return
        if address.path == "/" and "key" in asked and self.served.take(asked["key"][0]):
            cookie = f"headstock={self.served.cookie}; Path=/; HttpOnly; SameSite=Strict"
            self._send(HTTPStatus.SEE_OTHER, b"", {"Location": "/", "Set-Cookie": cookie})
        elif not self.served.knows(self.headers.get("Cookie", "")):
            self._send(HTTPStatus.FORBIDDEN, b"Open the address in the terminal. It works once.")
        else:
            self._answer(address.path, asked)

    def _answer(self, path: str, asked: Mapping[str, list[str]]) -> None:
        text = asked.get("q", [""])[0].strip()
        number = re.fullmatch(r"/thumbnail/([0-9]{1,6})", path)
        if path == "/":
            policy = {"Content-Security-Policy": f"{self.served.policy}; frame-ancestors 'none'"}
            self._send(HTTPStatus.OK, self.served.page.html.encode(), policy, "text/html")
        elif number and (data := self.served.thumbnail(int(number[1]))):
            self._send(HTTPStatus.OK, data, {"Cache-Control": "private"}, "image/webp")
        elif path == "/ask" and 0 < len(text) <= LONGEST:
            data = json.dumps(self.served.answer(text)).encode()
            self._send(HTTPStatus.OK, data, kind="application/json")
        elif path == "/ask":
            self._send(HTTPStatus.BAD_REQUEST, f"A text has 1 to {LONGEST} characters.".encode())
        else:
            self._send(HTTPStatus.NOT_FOUND, b"")

    def _send(
        self,
        status: HTTPStatus,
        body: bytes,
        more: Mapping[str, str] | None = None,
        kind: str = "text/plain",
    ) -> None:
        self.send_response(status)
        sent = {**_HEADERS, **(more or {}), "Content-Length": str(len(body))}
        kind = kind if kind.startswith("image") else f"{kind}; charset=utf-8"
        for name, value in {**sent, "Content-Type": kind}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Log nothing: what is looked for is nobody's business."""
