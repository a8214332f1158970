"""The page of a search: one offline file, or served to this machine.

The file answers from lists made beforehand.

The lists of words are exact. Phrases are put together in the page from vectors of few dimensions:
of texts their principal components, of pictures the directions that matter for scores of words.

What is served is the page, its thumbnails, and answers to any text. Who may ask is whoever was
given the address: it holds a key that works once, and is changed into a cookie. Other pages in the
browser have neither, and a name that an attacker points at 127.0.0.1 is refused by the Host that
the browser sends. Nothing is read but the request line and the headers, no path of the disk is made
of a request, and nothing of it is kept. No client holds the server up: a request has a deadline, as
has taking the reply; beside `MOST_AT_ONCE` further ones are refused; who goes away leaves without a
word.
"""

from __future__ import annotations

import base64
import hmac
import io
import json
import secrets
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import numpy.typing as npt

from bench.cells import label_set_title
from bench.metrics.geometry import nearest_rows
from bench.metrics.ranks import first_places
from bench.report.figures import css_variables
from bench.report.page import digest, policy, render, resource
from bench.search import MODIFIERS, MOST_PICTURES, SOURCES, Searcher, Source, name_words
from bench.statistics import DrawSums, proportion_interval
from featstore.images import thumbnail_webp
from fitters.solvers import eigen_gram

#: Pictures that a word lists, of each source.
DEEP = 24

#: Pictures in which an answer is looked for, names of a picture, and pictures like it.
FIRST, NAMES, LIKE = 8, 5, 8

#: Dimensions of the vectors of texts and of pictures.
WIDTH = 96

#: Fewer names of files that are words say nothing.
FEWEST_NAMES = 30

#: Bytes of all thumbnails, before base64: 25 MB at 5,000 pictures, 10 MB at 600.
BUDGET = {600: 2_400_000, MOST_PICTURES: 11_000_000}

#: Quality and longer side of thumbnails, the first that fits.
_SIZES = ((70, 160), (60, 160), (50, 160), (50, 128), (40, 112), (30, 96))

#: Rows that are scored at a time.
_ROWS = 1_024

Rows = npt.NDArray[Any]


def share(hits: Rows) -> dict[str, Any]:
    """Return how many of hits there are, the interval of their share, and both in words.

    The interval is that of all shares (`bench.statistics.proportion_interval`), each name a draw.

    Examples
    --------
    >>> share(np.arange(263) < 81)["interval"]
    '25–37 %'
    """
    found, of = int(sum(hits)), len(hits)
    low, high = proportion_interval(DrawSums(np.array([hits], float), np.ones((1, of))))
    return {
        "found": found, "of": of, "low": low, "high": high, "percent": f"{100 * found / of:.0f} %",
        "interval": f"{100 * low:.0f}–{100 * high:.0f} %",
    }  # fmt: skip


def search_page(
    searcher: Searcher, folder: str, *, named: bool = True, serve: bool = False
) -> tuple[str, dict[str, Any]]:
    """Lay out the page of a search.

    Parameters
    ----------
    searcher : Searcher
    folder : str
        What the folder is called, for commands to type.
    named : bool
        Show paths of files, and take their names for words.
    serve : bool
        Ask the program that serves the page for thumbnails and for texts that it has no list of.

    Returns
    -------
    html : str
    facts : dict
        How many ``pictures`` and ``words`` it has; of each source the `share` of names that it
        finds (``shares``), which is empty where too few are words; and what one that guesses would
        find of them (``chance``).
    """
    paths = [*searcher.pictures]
    sources = {name: searcher.source(name) for name in SOURCES}
    words = searcher.words if named else list(searcher.terms)
    vectors = searcher.vectors_of(words)
    printed = np.array([searcher.terms.get(word, False) for word in words])
    near, cosines = searcher.near(vectors)
    blocks = _text_blocks(searcher, vectors) | {
        "like": nearest_rows(sources["head"].images, min(LIKE, len(paths) - 1)).astype("<u2"),
        "near": near.astype("<u2"), "nearness": _shades(cosines),
    }  # fmt: skip
    for by, source in sources.items():
        own = _answers(source, vectors, printed)
        blocks |= {f"{name}-{by}": array for name, array in own.items()}
    typed, hits = _hits([*searcher.terms], paths, [blocks[f"lists-{name}"] for name in SOURCES])
    shares = {} if len(typed) < FEWEST_NAMES else dict(zip(SOURCES, map(share, hits), strict=True))
    tries = [words[i] for i in np.flatnonzero(printed) if " " not in words[i]][:10]
    meta: dict[str, Any] = {
        "files": paths if named else [f"Picture {i + 1:,}" for i in range(len(paths))],
        "named": named, "serve": serve, "folder": folder, "words": [*words, *MODIFIERS],
        "n_words": len(words), "quiet": np.flatnonzero(~printed).tolist(), "far": searcher.far,
        "classes": searcher.classes[0], "support": len(sources["head"].fitted.aligner.support_),
        "gamma": float(sources["head"].fitted.aligner.gamma_), "dt": blocks["texts"].shape[1],
        "d": blocks["dual-head"].shape[1], "example": tries[0], "tries": tries,
        "best": blocks["best-head"].shape[1], "like": blocks["like"].shape[1],
    }  # fmt: skip
    data = {name: base64.b64encode(array.tobytes()).decode() for name, array in blocks.items()}
    if not serve:
        fitted = [base64.b64encode(one).decode() for one in fit_thumbnails(searcher.thumbnails)]
        data["thumbs"] = "".join(fitted)
        meta["thumbs"] = [0, *np.cumsum([len(one) for one in fitted]).tolist()]
    style, script = f"{css_variables()}\n{resource('search.css')}", resource("search.js")
    # Nothing is loaded from anywhere but, served, from the server.
    csp = policy(
        script, f"style-src {digest(style)}",
        "img-src 'self'; connect-src 'self'" if serve else "img-src data:",
    )  # fmt: skip
    facts = {"pictures": len(paths), "words": len(words), "shares": shares}
    facts |= {"chance": min(FIRST, len(paths)) / len(paths)}
    context = facts | {
        "csp": csp, "css": style, "js": script, "classes": len(meta["classes"]),
        "head": label_set_title(searcher.keys["classes"].partition("/")[0]),
        "meta": json.dumps(meta, ensure_ascii=False).replace("<", "\\u003c"), "data": data,
        "folder": folder, "named": named, "serve": serve,
        "of": searcher.found * (len(searcher.files) < searcher.found),
    }  # fmt: skip
    return render("search.html", context), facts


def _answers(source: Source, vectors: Rows, printed: npt.NDArray[np.bool_]) -> dict[str, Rows]:
    """Return what a page has of a source: its lists, names of pictures, and factors for phrases."""
    words, shown = source.predict(vectors), np.flatnonzero(printed)
    lists = _first(words, source.images, min(DEEP, len(source.images)), source.hubs / 2)
    best = shown[_first(source.images, words[shown], min(NAMES, len(shown)))]
    cosines = np.einsum("nd,nkd->nk", source.images, words[best])
    dual, images = _directions(
        source.fitted.aligner.dual_, source.images, words[:: max(1, len(words) // 2_000)]
    )
    (dual, by_dual), (images, by_image) = _squeezed(dual), _squeezed(images)
    return {
        "lists": lists.astype("<u2"), "best": best.astype("<u2"), "best-score": _shades(cosines),
        "dual": dual, "dual-scale": by_dual, "pictures": images, "pictures-scale": by_image,
        "hubs": source.hubs.astype("<f4"),
        # How near the first picture of a word is: the length of what a phrase predicts is lost.
        "top": np.array([np.einsum("wd,wd->w", words, source.images[lists[:, 0]]).mean()], "<f4"),
    }  # fmt: skip


def _first(rows: Rows, others: Rows, k: int, less: Rows | float = 0.0) -> npt.NDArray[np.int64]:
    """Return the k others that each row scores highest, the highest first; some a part at a time.

    A score is a product, less what the other has.
    """
    places = np.zeros(len(others), np.int64)
    return np.concatenate([
        first_places(part @ others.T - less, np.full(len(part), -1), places, k)
        for part in np.array_split(rows, 1 + len(rows) // _ROWS)
    ])  # fmt: skip


def _shades(cosines: Rows) -> npt.NDArray[np.uint8]:
    return np.clip(np.round(cosines * 255), 0, 255).astype(np.uint8)


def _squeezed(rows: Rows) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Return rows as bytes, and what each row of them is to be multiplied by."""
    scale = np.maximum(np.abs(rows).max(axis=1), 1e-12) / 127
    return np.round(rows / scale[:, None]).astype(np.int8), scale.astype("<f4")


def _directions(dual: Rows, images: Rows, texts: Rows) -> tuple[Rows, Rows]:
    """Return factors of few columns for duals and images, whose products keep the scores of texts.

    The best of that rank for the scores of `texts` (predicted rows) with `images`.
    """
    from sklearn.utils.extmath import randomized_svd

    scores = texts.astype(np.float64) @ images.T
    _, _, pictures = randomized_svd(scores, min(WIDTH, *scores.shape), random_state=0)
    return dual @ (images.T @ pictures.T), pictures.T


def _text_blocks(searcher: Searcher, vectors: Rows) -> dict[str, Rows]:
    """Return the words of a page, and names of the head's classes, in few dimensions."""
    fitted = searcher.source("head").fitted
    texts = fitted.y.apply(np.concatenate([vectors, searcher.vectors_of(MODIFIERS)]))
    # The longest directions of all texts that there are, about 0: kernels look at products.
    basis = eigen_gram(texts.T @ texts)[1][:, ::-1][:, :WIDTH]
    small = texts @ basis
    small /= np.linalg.norm(small, axis=1, keepdims=True)
    support, _ = _squeezed(fitted.aligner.support_ @ basis)
    return {
        "texts": np.round(small * 127 / np.abs(small).max()).astype(np.int8), "support": support,
        "support-scale": (1 / np.linalg.norm(support.astype(float), axis=1)).astype("<f4"),
    }  # fmt: skip


def _hits(
    terms: list[str], paths: list[str], lists: Sequence[Rows]
) -> tuple[list[int], list[npt.NDArray[np.bool_]]]:
    """Return which words are names of files, and of each source whether they find their picture."""
    rows = {term.lower(): row for row, term in reversed(list(enumerate(terms)))}
    own: dict[int, set[int]] = {}
    for picture, name in enumerate(map(name_words, paths)):
        own.setdefault(rows.get(name, -1), set()).add(picture)
    own.pop(-1, None)
    return list(own), [
        np.array([bool(mine & {*list_[word, :FIRST].tolist()}) for word, mine in own.items()], bool)
        for list_ in lists
    ]


def fit_thumbnails(thumbs: list[bytes]) -> list[bytes]:
    """Return thumbnails that fit their budget: as they are, or of less quality, then smaller.

    What fits is seen on a thin sample. A picture without a thumbnail gets none.
    """
    from PIL import Image

    def drawn(some: list[bytes], quality: int, side: int) -> list[bytes]:
        return [
            one and thumbnail_webp(Image.open(io.BytesIO(one)), side=side, quality=quality)
            for one in some
        ]

    budget = np.interp(len(thumbs), [*BUDGET], [*BUDGET.values()])
    if sum(map(len, thumbs)) <= budget:
        return thumbs
    sample = thumbs[:: max(1, len(thumbs) // 64)]
    share = budget * len(sample) / len(thumbs)
    fits = (size for size in _SIZES if sum(map(len, drawn(sample, *size))) <= share)
    return drawn(thumbs, *next(fits, _SIZES[-1]))


#: Characters of a text that is asked for.
LONGEST = 200

#: Requests that are answered at once, a thread each. Browsers open six connections.
MOST_AT_ONCE = 64

_BUSY = b"HTTP/1.0 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"

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
    seconds : float
        In which a request arrives as a whole, and in which its reply is taken.

    Attributes
    ----------
    key : str
        Opens the page once.
    cookie : str
        What that is changed into.
    files : dict
        All that can be asked for by its path: content, type, and headers beside the usual ones.
    """

    # Connections that wait to be accepted. The 5 that Python has are full at once; the system then
    # drops what comes, and tells nobody.
    request_queue_size = 1_024

    def __init__(self, searcher: Searcher, *, named: bool = True, seconds: float = 10.0) -> None:
        html, _ = search_page(searcher, searcher.root.name or "pictures", named=named, serve=True)
        self.searcher, self._one = searcher, threading.Lock()
        self.seconds = seconds
        self._free_threads = threading.BoundedSemaphore(MOST_AT_ONCE)
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

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer a request in a thread, or refuse it if all threads are busy."""
        if self._free_threads.acquire(blocking=False):
            super().process_request(request, client_address)
            return
        request.settimeout(0)
        with suppress(OSError):
            request.send(_BUSY)
            # The system resets a connection that is closed with something unread.
            request.recv(65_536)
        self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer a request, whatever becomes of it."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free_threads.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print the traceback of a defect; a browser that has gone away is none."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Arriving(io.RawIOBase):
    """What a client sends, until its time is up: TimeoutError from then on."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self._connection, self._deadline = connection, time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        seconds_left = self._deadline - time.monotonic()
        if seconds_left <= 0:
            raise TimeoutError
        self._connection.settimeout(seconds_left)
        return self._connection.recv_into(buffer)


class _Handler(BaseHTTPRequestHandler):
    """Answers GET alone; other methods are refused by the base class."""

    server: Server
    server_version, sys_version = "headstock", ""

    def setup(self) -> None:
        """Read with a deadline: a timeout of the socket holds for each read anew."""
        super().setup()
        self.rfile.close()
        self.rfile = io.BufferedReader(_Arriving(self.connection, self.server.seconds))

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
        # Of a write the timeout is for all its bytes.
        self.connection.settimeout(self.server.seconds)
        self.send_response(status)
        for name, value in (_HEADERS | own).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Log nothing: what is looked for is nobody's business."""
