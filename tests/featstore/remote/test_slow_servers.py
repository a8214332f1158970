"""Servers that are slow without end are given up; a counted bound on work, and no time asserted.

Each read runs in a child process: one that hung would be killed after a minute, which fails.
"""

from __future__ import annotations

import multiprocessing
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import pytest

from featstore import FeatstoreError, copy_sets, open_store
from featstore.address import parse_address
from featstore.remote.objects import open_objects
from tests.featstore.remote.buckets import environment
from tests.featstore.remote.proxy import Answer
from tests.featstore.remote.s3_server import s3_server

pytestmark = pytest.mark.usefixtures("forked")

IMAGES = "birds/image/toy"

#: A second of patience instead of thirty: what is limited is the same.
QUICK = {"HEADSTOCK_NET": "least_rate=100000,patience=1,deadline=8"}

#: For servers from whom nothing whole comes, however long one waits.
AT_ONCE = {"HEADSTOCK_NET": "least_rate=100000,patience=0.2,deadline=1.5"}

HEADERS = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"

#: How a server trickles: what it sends at once, and what it repeats with pauses for ever.
TRICKLES = {
    "headers": (b"HTTP/1.1 200 OK\r\n", b"x"),
    "body": (HEADERS + b"Content-Length: 3000000\r\n\r\n", b" "),
    "chunks": (HEADERS + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "silence": (b"", b""),
}


#: What a server sends for ever as fast as it can, after what it sends at once.
FLOODS = {
    "continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"X-Header: more\r\n"),
    "a header": (b"HTTP/1.1 200 OK\r\nX-Header: ", b"more "),
    "status": (b"HTTP/1.1 200 ", b"OK "),
    "trailers": (
        HEADERS + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n", b"X-Trailer: more\r\n"
    ),
    "a chunk's size": (HEADERS + b"Transfer-Encoding: chunked\r\n\r\n1", b"0"),
    "chunks": (HEADERS + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n" * 100),
    "body": (HEADERS + b"\r\n", b" " * 1000),
}  # fmt: skip


@contextmanager
def trickling(start: bytes, drop: bytes, *, pause: float = 0.05) -> Iterator[str]:
    """Answer every connection with `start`, then with `drop` again and again; 127.0.0.1 only."""
    over = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))

    def answer(link: socket.socket) -> None:
        with link:
            try:
                link.recv(65_536)
                link.sendall(start)
                while not over.wait(pause):
                    link.sendall(drop)
            except OSError:
                pass  # the reader gave up

    def serve() -> None:
        while True:
            try:
                link, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(link,), daemon=True).start()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        over.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def _read(said: Connection, address: str) -> None:
    """Read a set as a user does, and say the error."""
    try:
        open_store(address).view(IMAGES).numpy()
        said.send("")
    except FeatstoreError as err:
        said.send(f"{type(err).__name__} {err}")


def _list(said: Connection) -> None:
    """List a bucket, and say how many files there are, or the error, and the seconds until then."""
    began = time.monotonic()
    try:
        found = str(len(list(open_objects(parse_address("s3://team/store")).names())))
    except FeatstoreError as err:
        found = f"{type(err).__name__} {err}"
    said.send((found, time.monotonic() - began))


def in_child(job: Callable[..., None], *args: str, **variables: str) -> Any:
    """Return what a job says in a process of its own, which is killed if it hangs."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**QUICK, **variables}.items():
            patch.setenv(name, value)
        child = multiprocessing.get_context("spawn").Process(target=job, args=(theirs, *args))
        child.start()
    try:
        assert ours.poll(60), "it hangs"
        return ours.recv()
    finally:
        child.kill()
        child.join()


def addressed(scheme: str, url: str) -> tuple[str, dict[str, str]]:
    """Return the address of a store behind a server, and the variables that lead there."""
    return {
        "http": (url, {}),
        "s3": ("s3://team/store", environment(url)),
        "hf": ("hf://datasets/team/store", {"HF_ENDPOINT": url, "HF_HUB_OFFLINE": "0"}),
    }[scheme]


@pytest.mark.parametrize(
    ("scheme", "how"), [*(("http", how) for how in TRICKLES), ("s3", "headers"), ("hf", "body")]
)
def test_a_server_that_trickles_is_given_up(scheme, how):
    with trickling(*TRICKLES[how]) as url:
        address, more = addressed(scheme, url)
        said = in_child(_read, address, **more, **AT_ONCE)
    assert said.startswith("UnreachableError"), said


def test_a_page_of_a_list_without_end_is_given_up_after_the_patience():
    begin = HEADERS + b"\r\n<ListBucketResult>"
    drop = b"<Contents><Key>store/a</Key></Contents>" * 100
    with trickling(begin, drop, pause=0.001) as url:
        said, seconds = in_child(_list, **environment(url), HEADSTOCK_NET="patience=1,deadline=50")
    assert said.startswith("RemoteStoreError"), said
    assert seconds < 20  # not the 50 of the deadline


def test_a_list_of_too_many_files_is_given_up():
    with s3_server() as bucket:
        bucket.objects.update({f"team/store/{number}": b"" for number in range(30)})
        assert (
            in_child(_list, **environment(bucket.url), HEADSTOCK_NET="deadline=8,most_names=30")[0]
            == "30"
        )
        said, _ = in_child(
            _list, **environment(bucket.url), HEADSTOCK_NET="deadline=8,most_names=29"
        )
    assert said.startswith("CorruptStoreError"), said
    assert "lists more than 29 files" in said


@pytest.mark.parametrize(
    ("scheme", "how"), [*(("http", how) for how in FLOODS), ("s3", "headers"), ("s3", "body")]
)
def test_a_server_without_end_is_given_up(scheme, how):
    with trickling(*FLOODS[how], pause=0) as url:
        address, more = addressed(scheme, url)
        said = in_child(_read, address, **more, **AT_ONCE)
    assert said.startswith(("UnreachableError", "CorruptStoreError", "RemoteStoreError")), said


@pytest.mark.parametrize("scheme", ["http", "s3"])
def test_a_byte_an_answer_is_given_up(scheme, served, bucket, store_folder):
    copy_sets(store_folder, bucket.address)
    state = served if scheme == "http" else bucket

    def drop_by_drop(path: str, number: int, answer: Answer) -> Answer | None:
        del number
        if "embedding/c/" not in path:
            return None
        answer.headers["Content-Length"] = str(len(answer.body))
        answer.cut = 1
        return answer

    state.harm = drop_by_drop
    said = in_child(_read, state.address or state.url)
    assert said.startswith("UnreachableError"), said
    assert "bytes a second, less than 100,000" in said


def test_what_came_before_is_kept_and_the_rest_read_later(served):
    size = 64 * 256 * 4

    def stops(path: str, number: int, answer: Answer) -> Answer | None:
        """Send two blocks of a file, and then nothing but single bytes."""
        if "embedding/c/0/0" not in path:
            return None
        answer.headers["Content-Length"] = str(len(answer.body))
        answer.cut = 2 * size if number == 1 else 1
        return answer

    served.harm = stops
    assert in_child(_read, served.url).startswith("UnreachableError")
    served.harm = None
    served.requests.clear()
    assert in_child(_read, served.url) == ""
    asked = [part for _, path, part in served.requests if "embedding/c/0/0" in path]
    assert [int(part.split("=")[1].split("-")[0]) >= 2 * size for part in asked] == [True]
