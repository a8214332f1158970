"""Lists of URLs: what comes is bound by its hash, and what does not is listed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from featstore import extract, read_manifest
from featstore.errors import ItemReadError, ManifestError
from featstore.manifest_files import uri_fault
from featstore.sources.making import make_manifest
from featstore.sources.reader import check_bytes, open_reader
from tests.featstore.extraction.conftest import SPACE, MeanColour
from tests.featstore.remote.proxy import Answer, Proxy, proxy
from tests.featstore.remote.static import static_server
from tests.featstore.sources.conftest import rows_of
from tests.small_files import picture, write

pytest.importorskip("urllib3")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Proxy]:
    """Four pictures and a page of a web server."""
    files = {f"{n}.png": picture(n) for n in range(4)} | {"page.html": "<html>gone</html>"}
    write(tmp_path / "site", files)
    with static_server(tmp_path / "site") as upstream, proxy(upstream) as state:
        yield state


@pytest.fixture
def listing(tmp_path: Path, site: Proxy) -> Path:
    """A CSV with captions: two of one image, and three rows that give none."""
    rows = [("0.png?size=8", "Zero."), ("1.png", "One."), ("gone.png", "x"), ("0.png?size=8", "O."),
            ("page.html", "y"), ("3.png", "Three.")]  # fmt: skip
    lines = ["url,caption", *(f"{site.url}/{name},{text}" for name, text in rows)]
    lines.append("http://example.org/a.png,in the clear")
    return write(tmp_path, {"list.csv": "\n".join(lines)}) / "list.csv"


FOUND = [picture(0), picture(1), picture(3)]


def test_what_is_there_is_listed_with_its_hash_and_the_rest_with_its_reason(
    make, listing, site, tmp_path
):
    made = make("urls", listing)
    urls = [f"{site.url}/{name}" for name in ("0.png?size=8", "1.png", "3.png")]
    hashes = [hashlib.sha256(data).hexdigest() for data in FOUND]
    images = made.items("image")
    assert images["uri"].to_list() == urls
    assert images["item_id"].to_list() == [f"zoo/image/{url}" for url in urls]
    assert images["content_sha256"].to_list() == hashes
    assert made.items("caption")["text"].to_list() == ["Zero.", "One.", "O.", "Three."]
    lost = pl.read_csv(tmp_path / "made0" / "left_out.csv")
    assert lost["what"].to_list() == [
        f"{site.url}/gone.png", f"{site.url}/page.html", "http://example.org/a.png",
    ]  # fmt: skip
    for why, part in zip(lost["why"], ("not there", "begins b'<html>", "clear"), strict=True):
        assert part in why
    assert (made.facts["complete"], made.facts["left_out"]) == (False, 3)
    assert site.count("0.png") == 1
    again = read_manifest(tmp_path / "made0")
    check_bytes(again)
    assert rows_of(again) == FOUND


@pytest.mark.parametrize("form", ["txt", "tsv", "parquet"])
def test_forms_of_lists(make, site, tmp_path, form):
    urls = [f"{site.url}/{n}.png" for n in (3, 1)]
    path = tmp_path / f"list.{form}"
    table = pl.DataFrame({"URL": urls, "key": ["a", "b"], "text": ["A.", "B."]})
    if form == "txt":
        path.write_text("\n\n".join(urls) + "\n")
    elif form == "tsv":
        table.write_csv(path, separator="\t")
    else:
        pytest.importorskip("pyarrow")
        table.write_parquet(path)
    made = make("urls", path)
    assert rows_of(made) == [picture(3), picture(1)]
    if form != "txt":
        assert made.items("image")["item_id"].to_list() == ["zoo/image/a", "zoo/image/b"]
        assert made.items("caption")["text"].to_list() == ["A.", "B."]


def test_kept_images_are_fetched_once_and_read_without_the_server(listing, site, tmp_path):
    keep = tmp_path / "kept"

    def build(out: str):
        return make_manifest("urls", listing, tmp_path / out, options={"keep": str(keep)})

    first = build("a")
    assert first.root == keep
    assert first.items("image")["url"][1] == f"{site.url}/1.png"
    site.requests.clear()
    second = build("b")
    assert {path.rpartition("/")[2] for _, path, _ in site.requests} == {"gone.png", "page.html"}
    assert second.items("image").equals(first.items("image"))
    site.down = True
    assert rows_of(second) == FOUND


def test_the_order_and_the_bytes_do_not_depend_on_who_answers_first(site, tmp_path, monkeypatch):
    write(tmp_path / "site", {f"{n}.png": picture(n) for n in range(40)})
    listing = write(tmp_path, {"list.txt": "\n".join(f"{site.url}/{n}.png" for n in range(40))})
    tables = []
    for at_once in (1, 4):
        monkeypatch.setattr("featstore.sources.pictures.AT_ONCE", at_once)
        made = make_manifest("urls", listing / "list.txt", tmp_path / f"at{at_once}")
        tables.append((tmp_path / f"at{at_once}" / "image.parquet").read_bytes())
    assert tables[0] == tables[1]
    assert rows_of(made) == [picture(n) for n in range(40)]


def test_an_image_that_changed_or_went_since_is_a_failure(make, listing, site, tmp_path):
    made = make("urls", listing)
    write(tmp_path / "site", {"1.png": picture(9)})
    (tmp_path / "site" / "3.png").unlink()
    with open_reader(made) as reader, pytest.raises(ItemReadError, match="hash changed"):
        reader.read(made.items("image").row(1, named=True))
    done = extract(
        made, kind="image", encoder=MeanColour(), space=SPACE, store=tmp_path / "store",
        dtype="float32",
    )  # fmt: skip
    assert (done.new, done.failed) == (1, 2)
    assert "is not there" in done.failures[made.items("image")["item_id"][2]]


def test_redirects_lead_on_within_a_server_and_else_to_https_alone(make, site, tmp_path):
    targets = {
        "/in.png": "/1.png",
        "/out.png": "http://127.0.0.2:9/1.png",
        "/file.png": "file:///etc/passwd",
        "/loop.png": "/loop.png",
    }

    def harm(path: str, number: int, answer: Answer) -> Answer | None:
        return Answer(302, {"Location": targets[path]}, b"") if path in targets else None

    site.harm = harm
    listing = write(tmp_path, {"l.txt": "\n".join(site.url + name for name in targets)}) / "l.txt"
    made = make("urls", listing)
    assert rows_of(made) == [picture(1)]
    why = pl.read_csv(tmp_path / "made0" / "left_out.csv")["why"].to_list()
    assert ["not followed" in text for text in why] == [True, True, False]
    assert "the server said 302" in why[2]


def test_a_list_that_gives_no_image_makes_no_manifest(make, site, tmp_path):
    site.down = True
    listing = write(tmp_path, {"l.txt": f"{site.url}/0.png\n"}) / "l.txt"
    with pytest.raises(ManifestError, match=r"None of the 1 URLs .* gave an image \(first"):
        make("urls", listing)
    assert not (tmp_path / "made0").exists()
    with pytest.raises(ManifestError, match="is no list of URLs"):
        make("urls", write(tmp_path, {"l.json": "[]"}) / "l.json")
    with pytest.raises(ManifestError, match="has no column of images"):
        make("urls", write(tmp_path, {"l.csv": "a,b\n1,2\n"}) / "l.csv")


@pytest.mark.parametrize(
    ("uri", "fault"),
    [
        ("https://example.org/a.png?x=1&y=%20#z", None),
        ("https://example.org/é.png", None),
        ("http://127.0.0.1:80/a.png", None),
        ("http://example.org/a.png", "in the clear"),
        ("https://me:secret@example.org/a.png", "credentials"),
        ("https:///a.png", "no host"),
        ("https://example.org/a b.png", "blank"),
        ("https://example.org/a\nb.png", "control"),
        ("https://[::1/a.png", "no URL"),
        ("https://example.org:99999/a.png", "no URL"),
        ("https://example.org/x.tar::a.png", "URL"),
        ("file:///etc/passwd", "URL"),
        ("a.png", None),
    ],
)
def test_which_urls_an_item_may_have(uri, fault):
    assert (uri_fault(uri) is None) if fault is None else (fault in uri_fault(uri))
