"""A search: which pictures, who answers, the page, the command, and its server under attack."""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import re
import shutil
import socket
import struct
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from bench import search
from bench.cli.search import search_command
from bench.options import SearchConfig
from bench.report import search as pages
from bench.report import search as serving
from bench.report.page import digest
from bench.report.search import Server, search_page
from bench.search import MODIFIERS, SOURCES, Searcher, Source, default_dataset, hubs, list_pictures
from featstore.errors import ManifestError
from fitters.prototypes import CONTROLS
from tests.assertions import assert_close, assert_same
from tests.bench.test_report_browser import chromium

__all__ = ["chromium"]

WORDS = "cat dog horse cow sheep goat lion tiger bear wolf fox whale car truck train".split()  # noqa: SIM905


def picture(path, seed, side=40):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((side, side)).save(path)
    return path


def test_a_file_is_read_again_where_size_or_time_changed(tmp_path):
    file = picture(tmp_path / "a.png", 1)
    known: dict[str, list[Any]] = {}
    first = list_pictures(tmp_path, known)[0]["a.png"]
    known["a.png"][2] = "remembered"
    known["gone.png"] = [1, 1, "x"]
    assert list_pictures(tmp_path, known)[0] == {"a.png": "remembered"}
    assert list(known) == ["a.png"]
    picture(file, 2)
    os.utime(file, ns=(0, 0))
    assert list_pictures(tmp_path, known)[0]["a.png"] not in (first, "remembered")


def fewer_words(patch):
    """Let the words of a search, and the texts of each class of the head, be few."""
    patch.setattr(search, "vocabulary", lambda _: dict.fromkeys(WORDS, True))
    choice = search.PromptChoice(variants=("name",), templates=("none", "photo"))
    patch.setattr(search, "PromptChoice", lambda **_: choice)


def command(*typed, **more):
    """Run the command with few words; leave the mask of new files as it was."""
    mask = os.umask(0o077)
    try:
        with pytest.MonkeyPatch.context() as patch:
            fewer_words(patch)
            words = list(map(str, typed))
            return CliRunner().invoke(search_command, words, standalone_mode=False, **more)
    finally:
        os.umask(mask)


def refuse(patch, name):
    """Let no file of a name be read, which root may."""
    whole = search.file_sha256

    def refused(path):
        if path.name == name:
            raise ManifestError(f"Cannot read {path}: Permission denied.")
        return whole(path)

    patch.setattr(search, "file_sha256", refused)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A folder as people have them: of pictures, and of all that is none."""
    root = tmp_path_factory.mktemp("mixed") / "photos"
    names = [f"animals/{word}" for word in WORDS[:12]]
    names += ["copy of 0", ".hidden", ".git/x", "../outside/secret"]
    for number, name in enumerate(names):
        picture(root / f"{name}.png", number % 12)
    whole = picture(root / "whole.jpg", 20, side=400).read_bytes()
    for name, data in {
        "cut.jpg": whole[: len(whole) // 3], "broken.jpg": b"no picture", "empty.gif": b"",
        "notes.txt": b"no picture", "locked.png": whole, os.fsdecode(b"\xff.png"): b"x",
    }.items():  # fmt: skip
        (root / name).write_bytes(data)
    for name, to in {"link.png": "whole.jpg", "out.png": "../outside/secret.png", "loop": ".",
                     "elsewhere": "../outside"}.items():  # fmt: skip
        (root / name).symlink_to(root / to)
    (root / "folder.png").mkdir()
    Image.new("1", (18_000, 18_000)).save(root / "huge.png")
    for name in ("new\nline", "back\\slash", "a.tar::b", "esc\x1b[2Jape", "<b>bold&amp;",
                 "été 写真", "'; rm -rf $HOME", "-rf", "a" * 240):  # fmt: skip
        picture(root / f"{name}.png", len(name))
    return root


@pytest.fixture(scope="module")
def clean(mixed, tmp_path_factory):
    """The store and the page of the mixed folder, and what the command said."""
    place = tmp_path_factory.mktemp("clean")
    before = {path: path.read_bytes() for path in mixed.rglob("*") if path.is_file()}
    os.mkfifo(mixed / "pipe.png")
    with pytest.MonkeyPatch.context() as patch:
        refuse(patch, "locked.png")
        said = command(mixed, "--store", place / "store", "-o", place / "page.html", "--no-open")
    assert {path: path.read_bytes() for path in before} == before
    return place / "store", place / "page.html", said


def test_a_mixed_folder_is_searched_and_the_rest_is_said(clean):
    store, page, said = clean
    assert (said.return_value, said.exception) == (3, None), said.output
    names = {Path(path).name for path in parts(page.read_text("utf-8"))[0]["files"]}
    assert {"cat.png", "whole.jpg", "été 写真.png", "-rf.png", "<b>bold&amp;.png"} <= names
    assert not names & {"cut.jpg", "broken.jpg", "huge.png", "link.png", "locked.png", "notes.txt",
                        ".hidden.png", "x.png", "secret.png", "out.png", "pipe.png"}  # fmt: skip
    assert "\x1b" not in said.output
    left_out = [line for line in said.output.splitlines() if line.startswith("skipped")]
    assert sum(int(line.split()[1].rstrip(":")) for line in left_out) == 13, left_out
    for word in ("a link (link.png, …)", "no plain file (pipe.png)", "not UTF-8 (\\udcff.png)",
                 "backslash", "a part", "Permission denied (locked.png)", "control character",
                 "empty.gif", "cut.jpg", "broken.jpg", "pixels"):  # fmt: skip
        assert any(word in line for line in left_out), (word, left_out)
    files = [path for path in store.rglob("*") if path.is_file()]
    assert not [path for path in files if path.stat().st_mode & 0o077]


def test_a_query_is_answered_by_what_was_fitted(mixed, clean, monkeypatch):
    """And writes nothing: whoever may only read the store is answered, too."""
    store = clean[0]
    files = {path: path.lstat().st_mtime_ns for path in store.rglob("*")}
    with monkeypatch.context() as patch:
        refuse(patch, "locked.png")
        patch.setattr(search, "fit_from_store", lambda *_: pytest.fail("fitted again"))
        patch.setattr(search, "run_job", lambda *_: pytest.fail("encoded again"))
        queries = [command(mixed, "a cat", "--store", store, "--source", by) for by in SOURCES]
        asked = command(mixed, "-i", "--store", store, input="a cat\na cat\n\n")
    assert {path: path.lstat().st_mtime_ns for path in store.rglob("*")} == files
    lines = [query.stdout.splitlines() for query in queries]
    assert [len(one) for one in lines] == [10] * 3
    assert lines[0] != lines[1] != lines[2]
    assert asked.stdout.splitlines() == lines[0] * 2
    # Another fit, in this process: what is on disk is what follows from the store.
    for by in SOURCES:
        file = store / "search" / f"{default_dataset(mixed)}-{by}" / "arrays.safetensors"
        file.chmod(0o600)
        file.write_bytes(b"damaged")
    fewer_words(monkeypatch)
    refuse(monkeypatch, "locked.png")
    mask = os.umask(0o077)  # as of the command: what lies in the store is for its user
    page, _ = search_page(search.prepare(mixed, store, SearchConfig(), print, print), "photos")
    os.umask(mask)
    assert page == clean[1].read_text("utf-8")
    # The controls are those of every study.
    assert set(SOURCES) - {"head"} <= CONTROLS.keys()


def test_a_second_run_encodes_what_is_new(mixed, clean, tmp_path, monkeypatch):
    """In a store that has another folder, and the words; a page has those changed last alone."""
    root, store = tmp_path / "photos", clean[0]
    shutil.copytree(mixed / "animals", root)
    monkeypatch.setattr(search, "MOST_PICTURES", 9)
    (first := root / "fox.png").touch()
    page = command(root, "--store", store, "-o", tmp_path / "1.html", "--no-open")
    assert "photos: 9 pictures. Nothing" in page.stderr  # their rows are there, of another folder
    assert "the last changed of 12;" in page.stdout
    assert first.name in parts((tmp_path / "1.html").read_text("utf-8"))[0]["files"]
    (root / "cat.png").unlink()
    picture(root / "dog.png", 30)
    picture(root / "new" / "whale.png", 31)
    then = command(root, "cat", "--top", 20, "--store", store)
    paths = {line.split("\t")[2] for line in then.stdout.splitlines()}
    assert paths == {*(path.relative_to(root).as_posix() for path in root.rglob("*.png"))}
    assert (len(paths), "cat.png" in paths) == (12, False)
    assert "12 pictures, 2 of them new" in then.stderr


def test_in_the_folder_itself_the_page_goes_into_the_store(mixed, clean, tmp_path, monkeypatch):
    """And has the name of the folder, which was typed as a dot; elsewhere it goes where one is."""
    store, before = clean[0], set(mixed.rglob("*"))
    refuse(monkeypatch, "locked.png")
    page = store / "search" / "photos.html"
    for at, more, expected in (
        (mixed, [], page), (mixed / "animals", [], page), (tmp_path, [], Path("search.html")),
        (mixed, ["-o", tmp_path / "own.html"], tmp_path / "own.html"),
    ):  # fmt: skip
        monkeypatch.chdir(at)
        page.unlink(missing_ok=True)
        folder = os.path.relpath(mixed)
        said = command(folder, "--store", store, "--no-open", *more)
        assert said.exception is None, said.output
        assert said.stdout.startswith(f"{expected}: ")
        assert parts(expected.read_text("utf-8"))[0]["folder"] == "photos"
        assert page.exists() == (expected == page)
        assert f"headstock search {mixed} 'a red car'" in said.stdout
    assert set(mixed.rglob("*")) == before


def test_settings_that_were_chosen_for_the_default_encoders_are_not_taken_for_others(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(search, "fit_from_store", lambda _, asked: pytest.fail(f"{asked.gamma}"))
    config = SearchConfig(encoder="timm:resnet18")
    made = Searcher(tmp_path, tmp_path, config, {"a.png": "0" * 64}, {}, 1,
                    dict.fromkeys(("pictures", "head", "classes"), "x/y/z"))  # fmt: skip
    made.__dict__ |= {"opened": None}
    with pytest.raises(pytest.fail.Exception, match="auto"):
        made._fitted("head", np.zeros((1, 2), np.float32))
    assert made.far < -0.9


def unit(rng, n, d):
    rows = rng.standard_normal((n, d))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_hubs_are_means_over_the_nearest_words():
    rng = np.random.default_rng(0)
    images, words = unit(rng, 30, 6), unit(rng, 50, 6)
    expected = [np.mean(sorted((word @ image for word in words), reverse=True)[:10])
                for image in images]  # fmt: skip
    assert_close(hubs(images, words), np.array(expected), np.float32)
    assert_close(hubs(images, words[:3]), (images @ words[:3].T).mean(axis=1), np.float32)


def toy(n=40, width=12):
    """Return a search whose picture i answers to word i best, and to random vectors at random.

    Of its stand-ins for alignments texts are images already.
    """
    rng = np.random.default_rng(5)
    letters = "abcdefghijklmnopqrstuvwxyz"
    terms = {f"thing{letters[i // 26]}{letters[i % 26]}": i % 7 != 3 for i in range(n + 20)}
    words = [*terms, *MODIFIERS]
    vectors = unit(rng, len(words), width)
    files = {f"box/{word}.png": "x" for word in list(terms)[:n]}
    made = Searcher(Path("/photos"), Path("/store"), SearchConfig(), files, {}, n,
                    {"classes": "imagenet1k/class_name/x"})  # fmt: skip
    data = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(data, "WEBP")
    made.__dict__ |= {
        "pictures": files, "terms": terms, "words": [*terms], "thumbnails": [data.getvalue()] * n,
        "_word_rows": dict(zip(words, vectors, strict=True)),
        "classes": (["cat", "dog"], unit(rng, 2, width)),
    }  # fmt: skip
    ridge = SimpleNamespace(support_=unit(rng, 20, width), dual_=unit(rng, 20, width), gamma_=4.0)
    same = SimpleNamespace(apply=lambda rows: rows.astype(float))
    fitted: Any = SimpleNamespace(y=same, aligner=ridge, project_y=same.apply)
    for name in SOURCES:
        images = vectors[:n] if name == "head" else unit(rng, n, width)
        made._sources[name] = Source(fitted, images, hubs(images, vectors[: len(terms)]))
    return made


def test_answers_are_corrected_for_hubs():
    made = toy()
    source = made.source("head")
    made.encode = lambda _: made.vectors_of(["thingac"])  # type: ignore[method-assign]
    _, [answers] = made.ask("anything", [source], 5)
    expected = source.images @ made.vectors_of(["thingac"])[0] - source.hubs / 2
    order = np.argsort(-expected)[:5]
    assert [row for row, _ in answers] == order.tolist()
    assert_close(np.array([score for _, score in answers]), expected[order], np.float32)


def test_a_text_that_is_like_no_class_is_far():
    """The cosines with "cat" and "dog" are planted; above 0.4 a text is near its class."""
    made = toy()
    made.__dict__["classes"] = (["cat", "dog"], np.eye(2, 12))
    for cat, dog, near, far in ((0.3, 0.41, "dog", False), (0.39, 0.3, "cat", True)):
        rest = np.sqrt(1 - cat**2 - dog**2)
        text = np.array([[cat, dog, rest, *[0] * 9]])
        made.encode = lambda _, text=text: text  # type: ignore[method-assign]
        found, _ = made.ask("anything", [made.source("head")], 5)
        assert (found["near"], found["far"]) == (near, far)


def parts(html):
    found = dict(re.findall(r'<script type="text/plain" id="([\w-]+)">([^<]*)</script>', html))
    return json.loads(found.pop("meta")), found


def test_the_lists_of_a_page_are_exact_and_its_shares_counted():
    made = toy()
    html, facts = search_page(made, "photos")
    meta, blocks = parts(html)
    assert meta["words"][: meta["n_words"]] == made.words
    shares, best = facts["shares"], set[int]()
    for name in SOURCES:
        source = made.source(name)
        scores = made.vectors_of(made.words) @ source.images.T - source.hubs / 2
        deep = min(pages.DEEP, len(made.pictures))
        lists = np.frombuffer(base64.b64decode(blocks[f"lists-{name}"]), "<u2").reshape(-1, deep)
        assert_same(lists.astype(int), np.argsort(-scores, axis=1, kind="stable")[:, :deep])
        hits = sum(i in lists[i, :8] for i in range(40))
        assert (shares[name]["found"], shares[name]["of"]) == (hits, 40)
        best |= {*np.frombuffer(base64.b64decode(blocks[f"best-{name}"]), "<u2").tolist()}
    assert shares["head"]["found"] == 40
    assert shares["random"]["found"] < 20
    assert facts["chance"] == pytest.approx(0.2)
    # Nothing is printed on a picture, or proposed, that may not be.
    quiet = {i for i, shown in enumerate(made.terms.values()) if not shown}
    assert quiet
    assert set(meta["quiet"]) == quiet
    assert not best & quiet
    assert not {meta["words"][i] for i in quiet} & set(meta["tries"])


def test_a_page_without_names_has_none_and_a_served_one_no_picture():
    html, _ = search_page(toy(), "photos", named=False)
    assert not re.search(r"box/|\.png|and their names", html)
    assert parts(html)[0]["files"][:2] == ["Picture 1", "Picture 2"]
    served, _ = search_page(toy(), "photos", serve=True)
    assert "thumbs" not in parts(served)[1]
    assert "connect-src &#39;self&#39;" in served


def test_a_page_contains_what_it_says_and_nothing_of_the_machine():
    made = toy()
    first, *rest = made.pictures
    made.__dict__["pictures"] = dict.fromkeys(["</script><script>alert(1)</script>.png", *rest], "")
    html, _ = search_page(made, "<img src=x>")
    assert "contains 40 pictures and their names" in html
    assert not re.search(r"<script>alert|<img src=x>|/photos|/store", html)
    assert not re.findall(r"(?:src|href|url\()=?[\"']?https?:", html)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy
    for tag in ("script", "style"):
        (own,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        assert f"{tag}-src {digest(own)};" in policy[1].replace("&#39;", "'")
    assert "unsafe" not in policy[1]
    assert first not in html


def test_phrases_are_scored_as_by_the_whole_vectors():
    """With as many dimensions as there are, the factors keep every score."""
    dual, images, texts = (unit(np.random.default_rng(3), n, 10) for n in (15, 40, 60))
    left, right = pages._directions(dual, images, texts)
    assert_close(left @ right.T, dual @ images.T, np.float32)


@pytest.mark.parametrize("flag", ["-o", "--store"])
def test_nothing_is_written_into_the_folder(tmp_path, flag):
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    picture(tmp_path / "photos" / "a.png", 1)
    for place in (tmp_path / "photos" / "x", tmp_path / "link" / "x"):
        result = CliRunner().invoke(search_command, [str(tmp_path / "photos"), flag, str(place)])
        assert (result.exit_code, "never written to" in result.output) == (2, True)
    result = CliRunner().invoke(search_command, [str(tmp_path), "  "])
    assert (result.exit_code, "QUERY is empty" in result.output) == (2, True)
    lone = command(tmp_path / "photos", "--store", tmp_path / "store", "--no-open")
    assert "needs two different pictures" in str(lone.exception)
    assert len(list((tmp_path / "photos").iterdir())) == 1


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
def seconds():
    return 20.0


@pytest.fixture
def served(monkeypatch, seconds):
    monkeypatch.setattr(serving, "search_page", lambda *_, **__: (PAGE, {}))
    with Server(Searched(), seconds=seconds) as made:  # type: ignore[arg-type]
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


def typed(served, path):
    return (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{served.server_port}\r\n"
        f"Cookie: headstock={served.cookie}\r\n\r\n"
    ).encode()


def wait_for_answers():
    deadline = time.monotonic() + 20
    while any("process_request" in thread.name for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def go_away(line):
    """Close a connection as a browser does that wants no more of it: by a reset."""
    line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    line.close()


def test_a_browser_that_goes_away_prints_nothing_and_a_defect_its_traceback(
    served, port, capfd, monkeypatch
):
    served.files["/large"] = (bytes(1 << 25), "image/webp", {})
    leaving = socket.create_connection(("127.0.0.1", port), timeout=20)
    leaving.sendall(typed(served, "/large"))
    assert leaving.recv(1) == b"H"  # in the middle of the reply
    go_away(leaving)
    wait_for_answers()
    is_asked, is_gone = threading.Event(), threading.Event()

    def answer_late(*_):
        is_asked.set()
        assert is_gone.wait(20)
        return {}, [[]]

    monkeypatch.setattr(Searched, "ask", answer_late)
    leaving = socket.create_connection(("127.0.0.1", port), timeout=20)
    leaving.sendall(typed(served, "/ask?q=cat"))
    assert is_asked.wait(20)  # before the reply
    go_away(leaving)
    is_gone.set()
    wait_for_answers()
    with socket.create_connection(("127.0.0.1", port), timeout=20) as leaving:
        leaving.sendall(b"GET / HT")  # in the middle of the request
        go_away(leaving)
    wait_for_answers()
    assert capfd.readouterr() == ("", "")
    monkeypatch.setattr(Searched, "ask", lambda *_: {}["defect"])
    with pytest.raises(http.client.RemoteDisconnected):
        ask(port, "/ask?q=cat", **own(served))
    wait_for_answers()
    assert "KeyError: 'defect'" in capfd.readouterr().err


@pytest.mark.parametrize("seconds", [0.5])
def test_a_request_and_its_reply_have_a_time_in_all(served, port):
    """Each byte comes well within the time; taken together they do not, and nobody reads on."""
    dripping = socket.create_connection(("127.0.0.1", port), timeout=20)
    with dripping, pytest.raises(ConnectionError):  # noqa: PT012
        for byte in typed(served, f"/{'x' * 100}"):
            dripping.sendall(bytes([byte]))
            time.sleep(0.1)
    served.files["/large"] = (bytes(1 << 25), "image/webp", {})
    with socket.create_connection(("127.0.0.1", port), timeout=20) as taking_nothing:
        taking_nothing.sendall(typed(served, "/large"))
        assert taking_nothing.recv(1) == b"H"
        wait_for_answers()


def test_a_request_may_come_in_pieces(served, port):
    with socket.create_connection(("127.0.0.1", port), timeout=20) as line:
        for piece in typed(served, "/thumbnail/1").partition(b"Host"):
            line.sendall(piece)
            time.sleep(0.05)
        assert line.makefile("rb").read().endswith(b"\r\n\r\none")


def test_a_burst_is_served_or_refused(served, request):
    """Two hundred connections at once, half of them before the server looks at one."""
    address = ("127.0.0.1", served.server_port)
    lines = [socket.create_connection(address, timeout=20) for _ in range(100)]
    request.getfixturevalue("port")
    lines += [socket.create_connection(address, timeout=20) for _ in range(100)]
    replies = Counter[str]()
    for line in lines:
        try:
            line.sendall(typed(served, "/thumbnail/0"))
            replies[line.makefile("rb").read()[9:12].decode()] += 1
        except ConnectionError:
            replies["closed"] += 1
        line.close()
    assert sum(replies.values()) == 200
    assert replies.keys() <= {"200", "503", "closed"}
    assert replies["200"] >= serving.MOST_AT_ONCE
    wait_for_answers()
    assert ask(served.server_port, "/thumbnail/0", **own(served)).body == b"zero"
