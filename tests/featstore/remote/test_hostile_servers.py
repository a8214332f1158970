"""A truncated, reordered, flaky, lying or redirecting server never yields a wrong row."""

from __future__ import annotations

import gzip
import itertools
import json
import shutil
import ssl
import subprocess
import time
import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from featstore import FeatstoreError, copy_sets, open_store
from featstore.durable import json_bytes
from featstore.errors import AddressError, CorruptStoreError, RemoteStoreError, UnreachableError
from featstore.identity import sealed
from featstore.remote import Objects
from tests.featstore.remote.conftest import IMAGES, assert_same_rows
from tests.featstore.remote.proxy import Answer, Harm, proxy
from tests.featstore.remote.static import static_server


def _flip(body: bytes, at: int) -> bytes:
    changed = bytearray(body)
    changed[at % len(changed)] ^= 1
    return bytes(changed)


def on(part: str, change: Callable[[Answer], Answer | None], *, first: int = 10**9) -> Harm:
    """Harm the first answers for each path that holds `part`."""

    def harm(path: str, number: int, answer: Answer) -> Answer | None:
        return change(answer) if part in path and number <= first else None

    return harm


def body(change: Callable[[bytes], bytes]) -> Callable[[Answer], Answer]:
    return lambda answer: replace(answer, body=change(answer.body))


def headers(cut: bool = False, **values: str) -> Callable[[Answer], Answer]:
    """State these, of a range only if there is one, and perhaps end at the stated length."""
    named = {name.replace("_", "-"): value for name, value in values.items()}
    return lambda answer: replace(
        answer, headers=answer.headers | {
            name: value for name, value in named.items()
            if name != "Content-Range" or name in answer.headers
        }, cut=len(answer.body) if cut else None,
    )  # fmt: skip


def unranged(status: int) -> Callable[[Answer], Answer]:
    """Send a part without saying which."""
    return lambda answer: Answer(
        status, {k: v for k, v in answer.headers.items() if k != "Content-Range"}, answer.body
    )


def says(status: int, **values: str) -> Callable[[Answer], Answer]:
    return lambda _: Answer(status, values, b"later" if status == 503 else b"")


#: What a server may do, by name.
HARMS: dict[str, Callable[[Answer], Answer]] = {
    "cut": lambda answer: replace(
        answer, headers=answer.headers | {"Content-Length": str(len(answer.body))},
        cut=len(answer.body) // 2,
    ),
    "shortened": body(lambda data: data[:-1]),
    "flipped": body(lambda data: _flip(data, len(data) // 3)),
    "reordered": body(lambda data: data[len(data) // 2 :] + data[: len(data) // 2]),
    "longer": body(lambda data: data + bytes(1000)),
    "zeros": body(lambda data: bytes(len(data))),
    "moved": headers(Content_Range="bytes 5-9/100"),
    "failing": says(503),
    "absent": says(404),
    "squeezed": headers(Content_Encoding="gzip"),
    "elsewhere": says(302, Location="http://localhost:1/other"),
    "to a file": says(301, Location="file:///etc/passwd"),
    "other total": headers(Content_Range="bytes 0-9/7"),
    "a part as the whole": unranged(200),
    "a part of nothing": unranged(206),
    "in pieces": lambda answer: Answer(
        206, answer.headers | {"Content-Type": "multipart/byteranges; boundary=x"},
        b"--x\r\nContent-Range: bytes 0-9/10\r\n\r\n" + answer.body + b"\r\n--x--",
    ),
    "torn gzip": lambda answer: Answer(
        answer.status, answer.headers | {"Content-Encoding": "gzip"},
        gzip.compress(answer.body)[:-9],
    ),
    "twice as long": lambda answer: headers(True, Content_Length=str(2 * len(answer.body)))(answer),
    "round and round": says(302, Location="?again"),
    "not modified": says(304),
    "empty": body(lambda _: b""),
    "another row failed": body(lambda data: data.replace(b'"failed": "AQ', b'"failed": "Ag')),
    # Sizes of more digits than Python makes an integer of.
    "endless digits": headers(
        True, Content_Length="9" * 5000, Content_Range=f"bytes 0-0/{'9' * 5000}"
    ),
}  # fmt: skip

#: Where, at which requests, and how; of a bucket, what its library may take otherwise.
CASES = [
    *itertools.product(["served"], ["embedding/c/", "revisions/", "items-", "log.json"], HARMS),
    *itertools.product(
        ["bucket"], ["embedding/c/", "revisions/"], ["cut", "zeros", *[*HARMS][12:]]
    ),
]


@pytest.fixture
def place(request, store_folder):
    """The server or the bucket that a test asks for, with the store."""
    state = request.getfixturevalue(request.param)
    if request.param == "bucket":
        copy_sets(store_folder, state.address)
    return state


@pytest.mark.parametrize(("place", "part", "change"), CASES, indirect=["place"])
def test_harm_at_every_request_is_an_error_or_the_right_rows(place, store_folder, change, part):
    place.harm = on(part, HARMS[change])
    address = place.address or place.url
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a server that fails is taken for one that is away
            assert_same_rows(address, store_folder)
    except FeatstoreError:
        pass
    else:
        assert (change, part) not in {("flipped", "embedding/c/"), ("cut", "embedding/c/")}
    place.harm = None  # and nothing wrong was kept
    assert_same_rows(address, store_folder)


@pytest.mark.parametrize("place", ["served", "bucket"], indirect=True)
@pytest.mark.parametrize("change", ["cut", "failing", "moved"])
def test_a_flaky_server_is_asked_again(place, store_folder, change):
    place.harm = on("embedding/c/", HARMS[change], first=2 if place.address else 1)
    assert_same_rows(place.address or place.url, store_folder)


def test_what_arrived_before_a_break_is_not_fetched_again(served):
    served.harm = on("embedding/c/0/0", HARMS["cut"], first=1)
    open_store(served.url).view(IMAGES).source.read(np.arange(4 * 64))
    asked = [bytes_ for _, path, bytes_ in served.requests if "embedding/c/0/0" in path]
    size = 4 * 64 * 256 * 4
    assert asked[0] == f"bytes=0-{size - 1}"
    assert int(asked[1].removeprefix("bytes=").split("-")[0]) == size // 2


def test_a_lying_server_is_named_with_its_block(served):
    served.harm = on("embedding/c/1/0", HARMS["flipped"])
    with pytest.raises(CorruptStoreError, match=r"embedding/c/1/0: block 5 .* the server lies"):
        open_store(served.url).view(IMAGES).numpy()


def test_a_damaged_set_is_listed_as_such(served):
    served.harm = on("birds/image/timm.toy-3ad3c869/revisions", HARMS["flipped"])
    found = dict(open_store(served.url).listing())
    damaged = [key for key, info in found.items() if isinstance(info, CorruptStoreError)]
    assert ([key.kind for key in damaged], len(found)) == (["image"], 2)


@pytest.mark.parametrize("size", [None, 2**40])
def test_an_endless_answer_is_not_read(served, size):
    def endless(answer: Answer) -> Answer:
        answer.body = b"{" + b" " * (65 * 2**20)
        if size is not None:
            answer.headers["Content-Length"] = str(size)
        return answer

    served.harm = on("log.json", endless)
    with pytest.raises(CorruptStoreError, match="more than the"):
        open_store(served.url)


def test_a_server_that_asks_for_more_time_than_is_left_is_not_waited_for(served, monkeypatch):
    monkeypatch.setattr(Objects, "deadline", 20)
    served.harm = lambda *_: Answer(503, {"Retry-After": "59"}, b"")
    began = time.monotonic()
    with pytest.raises(UnreachableError, match="takes more than 20 seconds"):
        open_store(served.url)
    assert time.monotonic() - began < 15
    assert len({path for _, path, _ in served.requests}) == served.count()  # none was asked twice


@pytest.mark.parametrize(
    "key", ["../../etc/passwd", "a/b", "a//b", "/etc/x/y", "a/../b", "a/b/c/d", "a/b/.c", ""]
)
def test_names_of_a_listing_stay_inside(served, key):
    def trick(answer: Answer) -> Answer:
        document = json.loads(answer.body)
        if key:
            document["sets"][key] = "0" * 64
        else:
            document["thumbnails"] = ["../birds/image/thumbnails-00000000.parquet"]
        answer.body = json_bytes(sealed(document))  # as a writer would, but for the names
        return answer

    served.harm = on("log.json", trick)
    with pytest.raises(CorruptStoreError, match=r"log\.json"):
        open_store(served.url)
    assert not [path for _, path, _ in served.requests if ".." in path or "etc" in path]


def test_redirects_inside_the_server_are_followed(served):
    def inside(path: str, number: int, answer: Answer) -> Answer | None:
        if number == 1 and "revisions/" in path:
            return Answer(302, {"Location": path}, b"")
        return None

    served.harm = inside
    assert len(open_store(served.url).sets()) == 2


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ("elsewhere", RemoteStoreError, "Redirects to other servers or schemes"),
        ("to a file", RemoteStoreError, "Redirects to other servers or schemes"),
        ("absent", AddressError, "no store"),
    ],
)
def test_redirects_to_elsewhere_and_servers_of_no_store_are_refused(served, change, error, match):
    served.harm = on("", HARMS[change])
    with pytest.raises(error, match=match):
        open_store(served.url)


def test_tls_is_verified(store_folder, tmp_path, monkeypatch):
    """A server is refused until its certificate is vouched for."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the command openssl")
    pem, key = tmp_path / "server.pem", tmp_path / "key.pem"
    made = (
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=localhost"
    )
    words = ["openssl", *made.split(), "-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*words, "-keyout", key, "-out", pem], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, key)
    with static_server(store_folder, tls=context) as (_, port):
        with pytest.raises(RemoteStoreError, match="certificate"):
            open_store(f"https://localhost:{port}")
        monkeypatch.setenv("SSL_CERT_FILE", str(pem))
        assert len(open_store(f"https://localhost:{port}").sets()) == 2


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("ftp://host/x", "No store can be opened at ftp://"),
        ("s3://key:secret@bucket/x", "holds credentials"),
        ("https://host/x?token=secret", "query"),
        ("https://host/a/../b", "'..' step"),
        ("https://host/a/%2e%2e/b", "'..' step"),
        ("http://example.com/x", "in the clear"),
        ("s3:///x", "names no bucket"),
        ("file://other/x", "folder of this machine"),
    ],
)
def test_addresses_that_are_refused(text, what):
    with pytest.raises(AddressError, match=what) as caught:
        open_store(text)
    assert "secret" not in str(caught.value)


# ---- obstore follows a bucket's redirects, and cannot be told not to: what then holds -------


def _redirecting(part: str, to: str) -> object:
    """Send whoever asks for a path with `part` to another server, which has the store's files."""

    def harm(path: str, number: int, answer: Answer) -> Answer | None:
        if part not in path:
            return None
        return Answer(307, {"Location": f"{to}/{path.split('/store/')[1]}"}, b"")

    return harm


def test_a_redirected_bucket_yields_no_wrong_row(bucket, store_folder, tmp_path, monkeypatch):
    copy_sets(store_folder, bucket.address)
    refused = 0
    with static_server(store_folder) as upstream, proxy(upstream) as other:
        for number, (part, change) in enumerate(
            itertools.product(("embedding/c/", "revisions/", "items-"), ("", "flipped", "zeros"))
        ):
            monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / str(number)))
            other.harm = (lambda *a, harm=HARMS[change]: harm(a[2])) if change else None
            bucket.harm = _redirecting(part, other.url)  # type: ignore[assignment]
            other.requests.clear()
            try:
                assert_same_rows(bucket.address, store_folder)
            except FeatstoreError:
                refused += 1
                assert change, part
            assert other.requests, "obstore no longer follows redirects: say so in the documents"
            bucket.harm = other.harm = None  # and nothing wrong was kept
            assert_same_rows(bucket.address, store_folder)
        assert refused == 2 * 3
        assert other.signed == 0
