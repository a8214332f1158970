"""Servers that are slow without end are given up; a counted bound on work, and no time asserted.

Each read runs in a child process: one that hung would be killed after a minute, which fails.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from typing import Any

import pytest

from featstore import FeatstoreError, copy_sets, open_store
from featstore.remote import Objects
from tests.featstore.remote.buckets import environment
from tests.featstore.remote.conftest import IMAGES
from tests.featstore.remote.proxy import Answer

pytestmark = pytest.mark.usefixtures("forked")

#: Patience and deadline: a second instead of thirty, and less for servers from whom nothing whole
#: comes, however long one waits.
Limits = tuple[float, float]
QUICK, AT_ONCE = (1, 8), (0.1, 0.7)

HEADERS = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"

CHUNKED = HEADERS + b"Transfer-Encoding: chunked\r\n\r\n"
STATUS = b"HTTP/1.1 200 OK\r\n"

#: How servers never end: who is asked, what is sent at once, and what again and again, as fast as
#: they can or, where it says so, with pauses.
SLOW, FAST = 0.05, 0.0
ENDLESS = [
    ("http", STATUS, b"x", SLOW),
    ("http", HEADERS + b"Content-Length: 3000000\r\n\r\n", b" ", SLOW),
    ("http", b"", b"", SLOW),
    ("s3", STATUS, b"x", SLOW),
    ("hf", HEADERS + b"Content-Length: 3000000\r\n\r\n", b" ", SLOW),
    ("http", b"", b"HTTP/1.1 100 Continue\r\n\r\n", FAST),
    ("http", STATUS, b"X-Header: more\r\n", FAST),
    ("http", CHUNKED + b"1\r\n{\r\n0\r\n", b"X-Trailer: more\r\n", FAST),
    ("http", CHUNKED, b"1\r\n \r\n" * 100, FAST),
    ("http", HEADERS + b"\r\n", b" " * 1000, FAST),
    ("s3", STATUS, b"X-Header: more\r\n", FAST),
    ("s3", HEADERS + b"\r\n", b" " * 1000, FAST),
]


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


def _read(said: Connection, limits: Limits, jobs: list[tuple[str, dict[str, str]]]) -> None:
    """Read sets as a user does, each with variables of its own, and say the error of each."""
    Objects.patience, Objects.deadline = limits
    for address, variables in jobs:
        os.environ.update(variables)
        try:
            open_store(address).view(IMAGES).numpy()
            said.send("")
        except FeatstoreError as err:
            said.send(f"{type(err).__name__} {err}")


def in_child(job: Callable[..., None], *args: Any, n: int = 0) -> Any:
    """Return what a job says in a process of its own, `n` times; it is killed if it hangs."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("spawn").Process(target=job, args=(theirs, *args))
    child.start()
    try:
        said = []
        for _ in range(max(1, n)):
            assert ours.poll(60), f"it hangs, having said {said}"
            said.append(ours.recv())
        return said if n else said[0]
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


def test_servers_that_trickle_or_flood_are_given_up():
    """None sends a file, and none is waited for."""
    with ExitStack() as servers:
        urls = [servers.enter_context(trickling(*sent, pause=p)) for _, *sent, p in ENDLESS]
        jobs = [addressed(case[0], url) for case, url in zip(ENDLESS, urls, strict=True)]
        said = in_child(_read, AT_ONCE, jobs, n=len(jobs))
    for case, error in zip(ENDLESS, said, strict=True):
        others = ("CorruptStoreError", "RemoteStoreError") if case[-1] is FAST else ()
        assert error.startswith(("UnreachableError", *others)), (case, error)


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
    said = in_child(_read, QUICK, [(state.address or state.url, {})])
    assert said.startswith("UnreachableError"), said
    assert "could not be read in 4 attempts" in said
