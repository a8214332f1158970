"""The server of a search, attacked."""

from __future__ import annotations

import http.client
import socket
import threading
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import pytest

from bench.report import search as serving
from bench.report.search import Server

PAGE = "<!doctype html><title>page</title>"


class Searched:
    """A stand-in for a search: two pictures, and what they answer; it counts what it is asked."""

    root, thumbnails, asked = Path("/photos"), [b"zero", b"one"], 0

    def source(self, name):
        return name

    def ask(self, text, sources, top):
        assert [*sources] == ["head", "random", "shuffled"]
        self.asked += 1
        return {"near": text, "far": False}, [[(1, 0.9), (0, 0.1)]] * 3


@pytest.fixture
def served(monkeypatch):
    monkeypatch.setattr(serving, "search_page", lambda *_, **__: (PAGE, {}))
    with Server(Searched()) as made:  # type: ignore[arg-type]
        yield made


@pytest.fixture
def port(served):
    thread = threading.Thread(target=served.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield served.server_port
    finally:
        served.shutdown()
        thread.join()


def ask(port, path, method="GET", **headers):
    """Ask as a client that may send any headers, Host among them."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.putrequest(method, path, skip_host="Host" in headers)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        reply = connection.getresponse()
        return SimpleNamespace(status=reply.status, body=reply.read(), headers=reply.headers)
    finally:
        connection.close()


def own(served):
    return {"Cookie": f"other=1; headstock={served.cookie}"}


def test_the_key_is_changed_into_a_cookie_once(served, port):
    key = served.key
    assert len(key) >= 40
    assert served.server_address[0] == "127.0.0.1"
    reply = ask(port, f"/?key={key}")
    assert (reply.status, reply.headers["Location"]) == (303, "/")
    cookie = reply.headers["Set-Cookie"]
    assert cookie == f"headstock={served.cookie}; Path=/; HttpOnly; SameSite=Strict"
    assert key not in cookie
    assert ask(port, "/", Cookie=cookie.partition(";")[0]).body == PAGE.encode()
    assert ask(port, f"/?key={key}").status == 403  # from the history of a browser
    assert ask(port, "/?key=").status == 403


@pytest.mark.parametrize("path", ["/", "/thumbnail/0", "/ask?q=cat", "/?key=guess", "/?key=%C3%A9"])
@pytest.mark.parametrize("cookie", ["", "headstock=", "headstock=guess", "=;;\\", "headstock=é"])
def test_without_the_cookie_nothing_is_served(served, port, path, cookie):
    reply = ask(port, path, Cookie=cookie)
    assert (reply.status, served.searcher.asked) == (403, 0)
    assert served.key
    assert "Set-Cookie" not in reply.headers


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "evil.example:{port}", "[::1]:{port}",
             "127.0.0.1:{port}.evil.example", "0.0.0.0:{port}", ""],
)  # fmt: skip
def test_a_name_that_was_pointed_here_is_refused(served, port, host):
    host = host.replace("{port}", str(port))
    for path in ("/", f"/?key={served.key}", "/ask?q=cat", "/thumbnail/0"):
        assert ask(port, path, Host=host, **own(served)).status == 421
    assert served.key  # it was not used up
    with socket.create_connection(("127.0.0.1", port), timeout=20) as line:
        line.sendall(f"GET / HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\nHost: evil\r\n"
                     f"Cookie: headstock={served.cookie}\r\n\r\n".encode())  # fmt: skip
        assert b" 421 " in line.recv(4096)


@pytest.mark.parametrize(
    "path",
    ["/thumbnail/2", "/thumbnail/-1", "/thumbnail/../0", "/thumbnail/%2e%2e%2f0", "/thumbnail/0/",
     "/thumbnail/1e0", "/thumbnail/\u0661", "/thumbnail/00", "/thumbnail/", "/etc/passwd", "*",
     "/../../etc/passwd", "//etc/passwd", "/%2fetc/passwd", "/search.html", "/ask/",
     "/thumbnail/0 "],
)  # fmt: skip
def test_thumbnails_go_by_number_and_a_path_leads_nowhere(served, port, path):
    reply = ask(port, quote(path, safe="/%.:*"), **own(served))
    assert (reply.status, reply.body) == (404, b"")
    for number, data in ((0, b"zero"), (1, b"one")):
        reply = ask(port, f"/thumbnail/{number}", **own(served))
        assert (reply.body, reply.headers["Content-Type"]) == (data, "image/webp")


def test_no_reply_opens_a_door_and_a_slow_client_stops_nobody(served, port):
    with socket.create_connection(("127.0.0.1", port), timeout=20) as slow:
        slow.sendall(b"GET / HT")
        replies = [ask(port, path, Origin="https://evil.example", **headers)
                   for path in ("/", "/ask?q=cat", "/ask?q=", "/thumbnail/0", "/none")
                   for headers in ({}, own(served))]  # fmt: skip
    assert [one.status for one in replies] == [403, 200, 403, 200, 403, 400, 403, 200, 403, 404]
    for reply in replies:
        assert not [name for name in reply.headers if name.lower().startswith("access-control")]
        assert reply.headers["Referrer-Policy"] == "no-referrer"
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        assert reply.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        own_page = reply.body == PAGE.encode()  # what it may load is said in it
        assert ("default-src 'none'" in reply.headers["Content-Security-Policy"]) != own_page
        assert "frame-ancestors 'none'" in reply.headers["Content-Security-Policy"]
        assert "Python" not in reply.headers["Server"]
