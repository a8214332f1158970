"""The server of a search, attacked."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest

from bench import serving
from bench.serving import LONGEST, Server

PAGE = SimpleNamespace(
    html="<!doctype html><title>page</title>", policy="default-src 'none'", rows=[2, 0]
)
THUMBNAILS = [b"zero", b"one", b"two"]


class Searched:
    """A stand-in for a search: three pictures, and what they answer."""

    listing = SimpleNamespace(root=Path("/photos"))
    thumbnails = THUMBNAILS

    def source(self, name: str) -> Any:
        return SimpleNamespace(of=lambda rows: (name, rows))

    def ask(self, text: str, sources: Any, top: int) -> Any:
        assert sources == [(name, PAGE.rows) for name in ("head", "random", "shuffled")]
        return text, 0.7, [[(1, 0.9), (0, 0.1)]] * 3


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(serving, "search_page", lambda *_, **__: PAGE)
    with Server(Searched()) as made:  # type: ignore[arg-type]
        yield made


@pytest.fixture
def port(served: Server) -> Iterator[int]:
    thread = threading.Thread(target=served.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield served.server_port
    finally:
        served.shutdown()
        thread.join()


class Reply:
    """What came back."""

    def __init__(self, reply: http.client.HTTPResponse) -> None:
        self.status, self.body, self.headers = reply.status, reply.read(), reply.headers


def ask(port: int, path: str, method: str = "GET", **headers: str) -> Reply:
    """Ask as a client that may send any headers, Host among them."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.putrequest(method, path, skip_host="Host" in headers)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        return Reply(connection.getresponse())
    finally:
        connection.close()


def own(served: Server) -> dict[str, str]:
    return {"Cookie": f"other=1; headstock={served.cookie}"}


def test_the_key_is_changed_into_a_cookie_once(served: Server, port: int) -> None:
    key = served.key
    assert len(key) >= 40
    assert served.server_address[0] == "127.0.0.1"
    reply = ask(port, f"/?key={key}")
    assert (reply.status, reply.headers["Location"]) == (303, "/")
    cookie = reply.headers["Set-Cookie"]
    assert cookie == f"headstock={served.cookie}; Path=/; HttpOnly; SameSite=Strict"
    assert key not in cookie
    assert ask(port, "/", Cookie=cookie.partition(";")[0]).body == PAGE.html.encode()
    assert ask(port, f"/?key={key}").status == 403  # from the history of a browser
    assert ask(port, "/?key=").status == 403


@pytest.mark.parametrize("path", ["/", "/thumbnail/0", "/ask?q=cat", "/?key=guess", "/?key=é"])
@pytest.mark.parametrize("cookie", ["", "headstock=", "headstock=guess", "=;;\\", "headstock=é"])
def test_without_the_cookie_nothing_is_served(
    served: Server, port: int, path: str, cookie: str
) -> None:
    reply = ask(port, path.encode().decode("latin-1").replace("\xc3\xa9", "%C3%A9"),
                Cookie=cookie)  # fmt: skip
    assert reply.status == 403
    assert served.key
    assert served.asked == 0
    assert "Set-Cookie" not in reply.headers


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "evil.example:{port}", "[::1]:{port}",
             "127.0.0.1:{port}.evil.example", "0.0.0.0:{port}", ""],
)  # fmt: skip
def test_a_name_that_was_pointed_here_is_refused(served: Server, port: int, host: str) -> None:
    host = host.replace("{port}", str(port))
    for path in ("/", f"/?key={served.key}", "/ask?q=cat", "/thumbnail/0"):
        assert ask(port, path, Host=host, **own(served)).status == 421
    assert served.key  # it was not used up
    with socket.create_connection(("127.0.0.1", port), timeout=20) as line:
        line.sendall(f"GET / HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\nHost: evil\r\n"
                     f"Cookie: headstock={served.cookie}\r\n\r\n".encode())  # fmt: skip
        assert b" 421 " in line.recv(4096)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE"])
def test_other_methods_are_refused(served: Server, port: int, method: str) -> None:
    reply = ask(port, "/ask?q=cat", method, Origin="https://evil.example", **own(served))
    assert reply.status == 501
    assert served.asked == 0


@pytest.mark.parametrize(
    "path",
    ["/thumbnail/2", "/thumbnail/-1", "/thumbnail/../0", "/thumbnail/%2e%2e%2f0", "/thumbnail/0/",
     "/thumbnail/1e0", "/thumbnail/\u0661", "/thumbnail/9999999", "/thumbnail/", "/etc/passwd",
     "/../../etc/passwd", "//etc/passwd", "/%2fetc/passwd", "/search.html",
     "/ask/", "/thumbnail/0 "],
)  # fmt: skip
def test_thumbnails_go_by_number_and_a_path_leads_nowhere(
    served: Server, port: int, path: str
) -> None:
    reply = ask(port, quote(path, safe="/%.:"), **own(served))
    assert (reply.status, reply.body) == (404, b"")
    for number, data in ((0, b"two"), (1, b"zero")):
        reply = ask(port, f"/thumbnail/{number}", **own(served))
        assert (reply.body, reply.headers["Content-Type"]) == (data, "image/webp")


def test_a_text_has_a_length(served: Server, port: int) -> None:
    for text in ("", "%20%20", "a" * (LONGEST + 1), "a" * 60_000):
        assert ask(port, f"/ask?q={text}", **own(served)).status == 400
    assert ask(port, "/ask?q=" + "a" * 70_000, **own(served)).status == 414
    assert served.asked == 0
    for query in ("q=%FF", "q=cat&" + "a=1&" * 20):
        assert ask(port, f"/ask?{query}", **own(served)).status == 400
    reply = ask(port, "/ask?q=" + "%C3%A9" * LONGEST, **own(served))
    assert reply.headers["Content-Type"].startswith("application/json")
    assert json.loads(reply.body) == {"pictures": [[1, 0]] * 3, "near": "é" * LONGEST, "far": False}
    assert served.asked == 1


def test_no_reply_opens_a_door(served: Server, port: int) -> None:
    replies = [ask(port, path, Origin="https://evil.example", **headers)
               for path in ("/", "/ask?q=cat", "/ask?q=", "/thumbnail/0", "/none")
               for headers in ({}, own(served))]  # fmt: skip
    for reply in replies:
        assert not [name for name in reply.headers if name.lower().startswith("access-control")]
        assert reply.headers["Referrer-Policy"] == "no-referrer"
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        assert reply.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "default-src 'none'" in reply.headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in reply.headers["Content-Security-Policy"]
        assert "Python" not in reply.headers["Server"]


def test_a_slow_client_stops_nobody(served: Server, port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as slow:
        slow.sendall(b"GET / HT")
        assert ask(port, "/", **own(served)).status == 200


def test_it_says_nothing_of_what_is_asked(
    served: Server, port: int, capfd: pytest.CaptureFixture[str]
) -> None:
    ask(port, "/ask?q=secret", **own(served))
    ask(port, "/secret", **own(served))
    assert "secret" not in "".join(capfd.readouterr())
