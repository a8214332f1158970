"""A search: which pictures, who answers, and the page."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import multiprocessing
import os
import re
import shlex
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bench import search
from bench.cli.search import _again, _strip, search_command
from bench.errors import BenchError
from bench.report import search as pages
from bench.report.search import fit_thumbnails, search_page
from bench.search import (
    SOURCES,
    Listing,
    Searcher,
    Source,
    default_dataset,
    hubs,
    list_pictures,
)
from bench.words import MODIFIERS
from featstore.durable import seal
from featstore.errors import ManifestError
from fitters.prototypes import CONTROLS
from tests.assertions import assert_close, assert_same
from tests.bench.test_report_browser import Seen, axe, chromium

__all__ = ["chromium"]

WORDS = [
    "cat", "dog", "horse", "cow", "sheep", "goat", "lion", "tiger", "bear", "wolf", "fox", "whale",
    "car", "truck", "train", "ship", "boat", "tree", "flower", "house", "bridge", "chair", "table",
]  # fmt: skip


def picture(path: Path, seed: int, side: int = 40) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((side, side)).save(path)
    return path


# ---- which pictures ------------------------------------------------------------------------------


def test_a_file_is_read_again_where_size_or_time_changed(tmp_path: Path) -> None:
    file = picture(tmp_path / "a.png", 1)
    known: dict[str, list[Any]] = {}
    first = list_pictures(tmp_path, known).files["a.png"]
    known["a.png"][2] = "remembered"
    known["gone.png"] = [1, 1, "x"]
    assert list_pictures(tmp_path, known).files == {"a.png": "remembered"}
    assert list(known) == ["a.png"]
    picture(file, 2)
    os.utime(file, ns=(0, 0))
    assert list_pictures(tmp_path, known).files["a.png"] not in (first, "remembered")


def fewer_words(patch: pytest.MonkeyPatch) -> None:
    """Let the words of a search, and the texts of each class of the head, be few."""
    patch.setattr(search, "vocabulary", lambda _: dict.fromkeys(WORDS, True))
    choice = search.PromptChoice(variants=("name",), templates=("none", "photo"))
    patch.setattr(search, "PromptChoice", lambda **_: choice)


def command(*typed: Any, **more: Any) -> Any:
    """Run the command with few words; leave the mask of new files as it was."""
    mask = os.umask(0o077)
    try:
        with pytest.MonkeyPatch.context() as patch:
            fewer_words(patch)
            words = list(map(str, typed))
            return CliRunner().invoke(search_command, words, standalone_mode=False, **more)
    finally:
        os.umask(mask)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as people have them: of pictures, and of all that is none."""
    root = tmp_path_factory.mktemp("mixed") / "photos"
    for number, word in enumerate(WORDS[:12]):
        picture(root / "animals" / f"{word}.png", number)
    picture(root / "copy of 0.png", 0)
    whole = picture(root / "whole.jpg", 20, side=400).read_bytes()
    (root / "cut.jpg").write_bytes(whole[: len(whole) // 3])
    (root / "broken.jpg").write_bytes(b"no picture")
    (root / "empty.gif").touch()
    (root / "notes.txt").write_text("no picture")
    picture(root / ".hidden.png", 4)
    picture(root / ".git" / "x.png", 5)
    picture(root.parent / "outside" / "secret.png", 3)
    (root / "link.png").symlink_to(root / "whole.jpg")
    (root / "out.png").symlink_to(root.parent / "outside" / "secret.png")
    (root / "elsewhere").symlink_to(root.parent / "outside")
    (root / "loop").symlink_to(root)
    (root / "folder.png").mkdir()
    (root / os.fsdecode(b"\xff.png")).write_bytes(b"x")
    (root / "locked.png").write_bytes(whole)
    Image.new("1", (18_000, 18_000)).save(root / "huge.png")
    for name in ("new\nline", "back\\slash", "a.tar::b", "esc\x1b[2Jape", "<b>bold&amp;",
                 "été 写真", "'; rm -rf $HOME", "-rf", "a" * 240):  # fmt: skip
        picture(root / f"{name}.png", len(name))
    return root


@pytest.fixture(scope="module")
def clean(mixed: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Any]:
    """The store and the page of the mixed folder, and what the command said."""
    place = tmp_path_factory.mktemp("clean")
    before = {path: path.read_bytes() for path in mixed.rglob("*") if path.is_file()}
    os.mkfifo(mixed / "pipe.png")
    with pytest.MonkeyPatch.context() as patch:
        # Root may read everything.
        refuse(patch, "locked.png")
        said = command(mixed, "--store", place / "store", "-o", place / "page.html", "--no-open")
    assert {path: path.read_bytes() for path in before} == before
    return place / "store", place / "page.html", said


def refuse(patch: pytest.MonkeyPatch, name: str) -> None:
    """Let no file of a name be read."""
    whole = search.file_sha256

    def refused(path: Path) -> str:
        if path.name == name:
            raise ManifestError(f"Cannot read {path}: Permission denied.")
        return whole(path)

    patch.setattr(search, "file_sha256", refused)


def test_a_mixed_folder_is_searched_and_the_rest_is_said(
    mixed: Path, clean: tuple[Path, Path, Any]
) -> None:
    store, page, said = clean
    assert (said.return_value, said.exception) == (3, None), said.output
    meta, _ = parts(page.read_text("utf-8"))
    names = {Path(path).name for path in meta["files"]}
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


def test_a_query_is_answered_by_what_was_fitted(
    mixed: Path, clean: tuple[Path, Path, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = clean[0]
    with monkeypatch.context() as patch:
        refuse(patch, "locked.png")
        patch.setattr(search, "fit_from_store", lambda *_: pytest.fail("fitted again"))
        patch.setattr(search, "run_logged", lambda *_: pytest.fail("encoded again"))
        queries = [command(mixed, "a cat", "--store", store, "--source", by) for by in SOURCES]
        asked = command(mixed, "-i", "--store", store, input="a cat\na cat:random\n\n")
    lines = [query.stdout.splitlines() for query in queries]
    assert [len(one) for one in lines] == [10] * 3
    assert lines[0] != lines[1] != lines[2]
    assert asked.stdout.splitlines() == lines[0] + lines[1]
    # Another fit, in this process: what is on disk is what follows from the store.
    for by in SOURCES:
        file = store / "search" / f"{default_dataset(mixed)}-{by}" / "arrays.safetensors"
        file.chmod(0o600)
        file.write_bytes(b"damaged")
    fewer_words(monkeypatch)
    refuse(monkeypatch, "locked.png")
    mask = os.umask(0o077)  # as of the command: what lies in the store is for its user
    page = search_page(search.prepare(mixed, store, print, print), "photos").html
    os.umask(mask)
    assert page == clean[1].read_text("utf-8")
    # The controls are those of every study.
    assert set(SOURCES) - {"head"} <= CONTROLS.keys()


def test_a_second_run_encodes_what_is_new(
    mixed: Path, clean: tuple[Path, Path, Any], tmp_path: Path
) -> None:
    """In a store that has another folder, and the words."""
    root, store = tmp_path / "photos", clean[0]
    shutil.copytree(mixed / "animals", root)
    first = command(root, "--store", store, "-o", tmp_path / "1.html", "--no-open", "--json")
    assert json.loads(first.stdout)["pictures"] == 12
    (root / "cat.png").unlink()
    picture(root / "dog.png", 30)
    picture(root / "new" / "whale.png", 31)
    then = command(root, "cat", "--top", 20, "--store", store)
    assert "12 pictures, 2 of them new" in then.stderr
    paths = {line.split("\t")[2] for line in then.stdout.splitlines()}
    assert paths == {*(path.relative_to(root).as_posix() for path in root.rglob("*.png"))}
    assert "cat.png" not in paths


#: What dies, and when: after the pictures, after the words, between two fits, while the page is
#: written.
MOMENTS = {
    "pictures": "bench.search.draw_thumbnails", "words": "bench.search.extract_head",
    "fits": "bench.search.Source", "page": "featstore.durable.seal",
}  # fmt: skip


def search_until(moment: str, root: Path, store: Path, page: Path) -> None:
    """Search in this process, and be killed at a moment."""
    patch = pytest.MonkeyPatch()

    def die(*given: Any, **_: Any) -> Any:
        if moment == "page" and not given[0].name.startswith(f".{page.name}"):
            return seal(*given, **_)
        os.kill(os.getpid(), signal.SIGKILL)
        return None

    refuse(patch, "locked.png")
    if moment:
        patch.setattr(MOMENTS[moment], die)
    command(root, "--store", store, "-o", page, "--no-open")


def test_a_run_that_was_killed_at_any_moment_goes_on(
    mixed: Path, clean: tuple[Path, Path, Any], tmp_path: Path
) -> None:
    """In a store that has the words, and the same pictures of another folder."""
    root, page = tmp_path / mixed.name, tmp_path / "out" / "page.html"
    shutil.copytree(mixed, root, symlinks=True, ignore=shutil.ignore_patterns("pipe.png"))
    start = multiprocessing.get_context("spawn").Process
    for moment in (*MOMENTS, ""):
        process = start(target=search_until, args=(moment, root, clean[0], page))
        process.start()
        process.join()
        assert process.exitcode == (-signal.SIGKILL if moment else 0), moment
        assert page.exists() == (not moment)
    assert page.read_bytes() == clean[1].read_bytes()
    assert [path.name for path in page.parent.iterdir()] == [page.name]


def test_a_folder_without_a_picture_says_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(BenchError, match="needs two different pictures"):
        search.prepare(tmp_path, tmp_path / "store", print, print)


# ---- who answers ---------------------------------------------------------------------------------


def unit(rng: np.random.Generator, n: int, d: int) -> Any:
    rows = rng.standard_normal((n, d))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_hubs_are_means_over_the_nearest_words() -> None:
    rng = np.random.default_rng(0)
    images, words = unit(rng, 30, 6), unit(rng, 50, 6)
    expected = [np.mean(sorted((word @ image for word in words), reverse=True)[:10])
                for image in images]  # fmt: skip
    assert_close(hubs(images, words), np.array(expected), np.float32)
    assert_close(hubs(images, words[:3]), (images @ words[:3].T).mean(axis=1), np.float32)


class Fitted:
    """A stand-in for an alignment: texts are images already."""

    def __init__(self, width: int) -> None:
        rng = np.random.default_rng(1)
        self.y = SimpleNamespace(apply=lambda rows: rows)
        support = unit(rng, 20, width)
        dual = rng.standard_normal((20, width)).astype(np.float32)
        self.aligner = SimpleNamespace(support_=support, dual_=dual, gamma_=4.0)

    def project_y(self, rows: Any) -> Any:
        return rows


def toy(n: int = 40, width: int = 12) -> Searcher:
    """Return a search whose picture i answers to word i best, and to random vectors at random."""
    rng = np.random.default_rng(5)
    letters = "abcdefghijklmnopqrstuvwxyz"
    terms = {f"thing{letters[i // 26]}{letters[i % 26]}": i % 7 != 3 for i in range(n + 20)}
    words = [*terms, *MODIFIERS]
    vectors = unit(rng, len(words), width)
    paths = [f"box/{word}.png" for word in list(terms)[:n]]
    listing = Listing(Path("/photos"), dict.fromkeys(paths, "x"), {})
    made = Searcher(listing, Path("/store"), "photos")
    data = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(data, "WEBP")
    made.__dict__ |= {
        "paths": paths, "terms": terms, "words": list(terms), "thumbnails": [data.getvalue()] * n,
        "_word_rows": dict(zip(words, vectors, strict=True)),
        "classes": (["cat", "dog"], unit(rng, 2, width)),
    }  # fmt: skip
    for name in search.SOURCES:
        images = vectors[:n] if name == "head" else unit(rng, n, width)
        near = hubs(images, vectors[: len(terms)])
        made._sources[name] = Source(Fitted(width), images, near)  # type: ignore[arg-type]
    return made


def test_answers_are_corrected_for_hubs() -> None:
    made = toy()
    source = made.source("head")
    made.encode = lambda _: made.vectors_of(["thingac"])  # type: ignore[method-assign]
    near, _, [answers] = made.ask("anything", [source], 5)
    expected = source.images @ made.vectors_of(["thingac"])[0] - source.hubs / 2
    order = np.argsort(-expected)[:5]
    assert [row for row, _ in answers] == order.tolist()
    assert_close(np.array([score for _, score in answers]), expected[order], np.float32)
    assert near in ("cat", "dog")


# ---- the page ------------------------------------------------------------------------------------


def parts(html: str) -> tuple[dict[str, Any], dict[str, str]]:
    found = dict(re.findall(r'<script type="text/plain" id="([\w-]+)">([^<]*)</script>', html))
    return json.loads(found.pop("meta")), found


def test_the_lists_of_a_page_are_exact_and_its_shares_counted() -> None:
    made = toy()
    page = search_page(made, "photos")
    meta, blocks = parts(page.html)
    assert meta["words"][: meta["n_words"]] == made.words
    for name in search.SOURCES:
        source = made.source(name)
        scores = source.scores(source.predict(made.vectors_of(made.words)))
        deep = min(pages.DEEP, len(made.paths))
        lists = np.frombuffer(base64.b64decode(blocks[f"lists-{name}"]), "<u2").reshape(-1, deep)
        assert_same(lists.astype(int), np.argsort(-scores, axis=1, kind="stable")[:, :deep])
        hits = sum(i in lists[i, :8] for i in range(40))
        assert (page.shares[name]["found"], page.shares[name]["of"]) == (hits, 40)
    assert page.shares["head"]["found"] == 40
    assert page.shares["random"]["found"] < 20
    assert page.chance == pytest.approx(0.2)


def test_nothing_is_printed_on_a_picture_that_may_not_be() -> None:
    made = toy()
    meta, blocks = parts(search_page(made, "photos").html)
    best = {
        i for name in search.SOURCES
        for i in np.frombuffer(base64.b64decode(blocks[f"best-{name}"]), "<u2").tolist()
    }  # fmt: skip
    quiet = {i for i, shown in enumerate(made.terms.values()) if not shown}
    assert quiet
    assert set(meta["quiet"]) == quiet
    assert not best & quiet
    assert not {meta["words"][i] for i in quiet} & set(meta["tries"])


def test_few_names_give_no_number() -> None:
    page = search_page(toy(n=29), "photos")
    assert page.shares == {}
    assert "there is no number" in page.html
    assert search_page(toy(n=30), "photos").shares


@pytest.mark.parametrize("n", [2, 9])
def test_a_folder_may_be_small(n: int) -> None:
    meta, blocks = parts(search_page(toy(n=n), "photos").html)
    assert len(meta["files"]) == n
    assert len(base64.b64decode(blocks["lists-head"])) == 2 * n * meta["n_words"]


def test_a_page_without_names_has_none() -> None:
    made = toy()
    page = search_page(made, "photos", named=False)
    meta, _ = parts(page.html)
    assert "box/" not in page.html
    assert ".png" not in page.html
    assert meta["files"][:2] == ["Picture 1", "Picture 2"]
    assert "and their names" not in page.html


def test_a_page_contains_what_it_says_and_nothing_of_the_machine() -> None:
    html = search_page(toy(), "photos").html
    assert "contains 40 pictures and their names" in html
    assert "/photos" not in html.replace("search photos", "")
    assert "/store" not in html
    assert not re.findall(r"(?:src|href|url\()=?[\"']?https?:", html)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy
    script, style = (
        re.search(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL) for tag in ("script", "style")
    )
    for tag, found in (("script", script), ("style", style)):
        assert found
        digest = base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy[1].replace("&#39;", "'")
    assert "unsafe" not in policy[1]


def test_markup_in_a_name_is_text() -> None:
    made = toy()
    made.paths[0] = "</script><script>alert(1)</script>.png"
    html = search_page(made, "<img src=x>").html
    assert "<script>alert" not in html
    assert "<img src=x>" not in html


def test_a_served_page_asks_for_pictures_by_number() -> None:
    made = toy()
    page = search_page(made, "photos", serve=True)
    assert "thumbs" not in parts(page.html)[1]
    assert "connect-src &#39;self&#39;" in page.html


def test_phrases_are_scored_as_by_the_whole_vectors() -> None:
    """With as many dimensions as there are, the factors keep every score."""
    rng = np.random.default_rng(3)
    dual, images, texts = (unit(rng, n, 10) for n in (15, 40, 60))
    left, right = pages._directions(dual, images, texts)
    assert_close(left @ right.T, dual @ images.T, np.float32)


@given(st.integers(1, 30), st.integers(1, 12), st.integers(0, 99))
def test_bytes_are_near_to_what_they_stand_for(n: int, width: int, seed: int) -> None:
    rows = np.random.default_rng(seed).standard_normal((n, width))
    small, scale = pages._squeezed(rows)
    worst = np.abs(rows - small * scale[:, None]).max(axis=1)
    assert (worst <= np.abs(rows).max(axis=1) / 127 * 0.501).all()


def test_thumbnails_fit_their_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    thumbs = []
    for _ in range(12):
        data = io.BytesIO()
        noise = rng.integers(0, 255, (160, 160, 3), dtype=np.uint8)
        Image.fromarray(noise).save(data, "WEBP", quality=80)
        thumbs.append(data.getvalue())
    whole = sum(map(len, thumbs))
    assert fit_thumbnails(thumbs) == thumbs
    for part in (0.9, 0.5):
        monkeypatch.setattr(pages, "BUDGET", {600: whole * part, 5_000: whole})
        fitted = fit_thumbnails([*thumbs, b""])
        assert sum(map(len, fitted)) <= whole * part
        assert fitted[-1] == b""


# ---- the command ---------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_can_be_used_by_everybody(
    chromium: Any, clean: tuple[Path, Path, Any], scheme: str
) -> None:
    """From a phone to a wide screen, by the keyboard; axe-core finds nothing."""
    for width in (320, 1440) if scheme == "light" else (768, 1920):
        context = chromium.new_context(
            color_scheme=scheme, viewport={"width": width, "height": 900}, bypass_csp=True
        )
        page = context.new_page()
        seen = Seen(page)
        page.goto(clean[1].as_uri())
        page.evaluate(axe())

        def check(page: Any = page) -> None:
            found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
            assert [(one["id"], one["nodes"][0]["html"]) for one in found] == []
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")

        check()
        page.keyboard.press("Control+k")
        page.keyboard.type("hors")
        page.locator("#list [role=option]").first.wait_for()
        check()
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        assert page.locator("h2").first.inner_text().startswith("“horse”")
        page.locator("#by-all").focus()
        page.keyboard.press("ArrowRight")
        assert page.locator(".said h2 span").inner_text() == "by the head"
        page.locator(".grid button").first.focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        assert page.locator("#one").evaluate("dialog => dialog.open")
        check()
        page.keyboard.press("Escape")
        assert page.evaluate("document.activeElement.closest('.grid') !== null")
        page.locator("#q").fill("qzxqzx")
        page.keyboard.press("Enter")
        check()
        assert (seen.messages, seen.dialogs) == ([], [])
        assert {url for url in seen.requests if url[:5] != "data:"} == {clean[1].as_uri()}
        context.close()


def run(*words: str, **more: Any) -> Any:
    return CliRunner().invoke(search_command, list(words), **more)


@pytest.mark.parametrize(
    ("words", "said"),
    [(["a cat", "-i"], "different ways to ask"), (["-i", "--serve"], "different ways to ask"),
     (["cat", "-o", "x.html"], "-o is of the page"),
     (["-i", "--no-names"], "--no-names is of"), (["cat", "--top", "0"], "from 1 to 10,000")],
)  # fmt: skip
def test_options_that_contradict_each_other(tmp_path: Path, words: list[str], said: str) -> None:
    result = run(str(tmp_path), *words)
    assert result.exit_code == 2
    assert said in result.output


def test_a_folder_that_is_none_is_guessed(tmp_path: Path) -> None:
    (tmp_path / "Pictures").mkdir()
    result = run(str(tmp_path / "Picturs"))
    assert result.exit_code == 2
    assert "Did you mean" in result.output
    assert "'Pictures'?" in result.output


@pytest.mark.parametrize("flag", ["-o", "--store"])
def test_nothing_is_written_into_the_folder(tmp_path: Path, flag: str) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    picture(tmp_path / "photos" / "a.png", 1)
    for place in (tmp_path / "photos" / "x", tmp_path / "link" / "x"):
        result = run(str(tmp_path / "photos"), flag, str(place))
        assert result.exit_code == 2
        assert "never written to" in result.output
    assert len(list((tmp_path / "photos").iterdir())) == 1


@pytest.mark.parametrize("folder", ["home", "home/..", "/"])
def test_home_and_the_disk_ask_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", "/nowhere")
    monkeypatch.setattr("bench.cli.search._keep_out", lambda *_: None)
    monkeypatch.setattr("bench.cli.search._prepared", lambda *_: pytest.fail("went on"))
    for answer in ("n\n", ""):
        result = run(str(tmp_path / folder), "cat", input=answer)
        assert result.exit_code == 1
        assert "Go on?" in result.output


def test_the_line_to_paste_searches_the_folder_from_anywhere() -> None:
    searcher = toy()
    typed = shlex.split(_again(searcher, "a dog's bowl"))
    assert typed == ["headstock", "search", str(searcher.listing.root), "a dog's bowl"]
    assert searcher.listing.root.is_absolute()


@pytest.mark.parametrize(
    ("environment", "begins"),
    [({"TERM": "xterm-kitty"}, "\033_Ga=T,f=100,"), ({"TERM_PROGRAM": "iTerm.app"}, "\033]1337;"),
     ({"TERM": "xterm"}, "")],
)  # fmt: skip
def test_a_terminal_shows_what_it_can(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], begins: str
) -> None:
    for name in ("KITTY_WINDOW_ID", "TERM", "TERM_PROGRAM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    drawn = _strip([toy().thumbnails[0], b""])
    assert drawn.startswith(begins)
    assert bool(drawn) == bool(begins)
    if "kitty" in begins or begins.startswith("\033_G"):
        data = "".join(re.findall(r"\033_G[^;]*;([^\033]*)\033\\", drawn))
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            assert image.size == (192, 96)
            assert image.getpixel((4, 4)) != (255, 255, 255)
