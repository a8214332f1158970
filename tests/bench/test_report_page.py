import base64
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import polars as pl
import pytest

from bench import compare, read_results
from bench.comparisons import compare_choices
from bench.errors import BenchError, NoResultsError
from bench.report.page import digest, filter_to_one_choice, write_changes, write_report
from bench.statistics import holm
from bench.tables import gain_lines, result_lines, result_table
from tests.bench.results_by_hand import hand_run, ranks_with, write_ranks


class Page(HTMLParser):
    """Collects tags, ids, links and the text of scripts."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.ids, self.attributes, self.scripts = [], [], [], []
        self.policy, self._inside = "", ""
        self.open, self.unbalanced = [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append(tag)
        self.attributes += attrs
        self._inside = tag
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if attributes.get("http-equiv") == "Content-Security-Policy":
            self.policy = attributes["content"]
        if tag not in {"meta", "img", "br", "input", "link"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data):
        if self._inside == "script":
            self.scripts.append(data)
            self._inside = ""


def test_the_html_is_whole_asks_for_nothing_and_keeps_captions_text(nasty):
    page = Page(nasty.html)
    assert (page.unbalanced, page.open) == ([], [])
    assert len(page.ids) == len(set(page.ids))
    assert set(re.findall(r'(?:url\(#|href="#|labelledby=")([^")]+)', nasty.html)) <= set(page.ids)
    assert nasty.html.count("&lt;script&gt;alert(&#34;1&#34;)&lt;/script&gt;") > 20
    assert not re.search(r"<script>alert|onerror=alert\(2\)>|@import", nasty.html)
    for name, value in page.attributes:
        assert not name.startswith("on")
        if name in {"src", "href", "xlink:href", "action", "poster", "srcset"}:
            assert value.startswith(("data:", "#")), (name, value)
    assert all(url.startswith("#") for url in re.findall(r"url\(([^)]*)\)", nasty.html))
    assert {"link", "iframe", "object", "embed", "base"}.isdisjoint(page.tags)
    (script,) = page.scripts
    rules = ("default-src 'none'", "img-src data:", "style-src 'unsafe-inline'",
             f"script-src {digest(script)}")  # fmt: skip
    assert all(f"{rule};" in page.policy for rule in rules)


def saved(html, name):
    """What a link of a page saves as a file of this name; the page holds it."""
    return base64.b64decode(re.search(rf'base64,([^"]*)" download="{re.escape(name)}"', html)[1])


def test_the_same_results_give_the_same_page(smoke_page, smoke_results, smoke_store, tmp_path):
    again = write_report(smoke_results, store=smoke_store, out=tmp_path / "r.html")
    assert again.files == ()
    assert list(tmp_path.iterdir()) == [again.page]
    assert smoke_page.read_bytes() == again.page.read_bytes()


def test_a_page_holds_the_numbers_of_its_figures_and_tables(smoke_page, smoke_results):
    html = smoke_page.read_text()
    curve = pl.read_csv(saved(html, "accuracy_by_pairs_ridge.csv"))
    rows = read_results(smoke_results)
    table = rows.filter(
        (pl.col("method") == "ridge") & (pl.col("source") == "head") & (pl.col("n_pairs") == "8")
        & (pl.col("metric") == "top-1")
    )  # fmt: skip
    point = curve.filter(
        (pl.col("line") == "real + head weights") & (pl.col("n_pairs") == "8")
        & (pl.col("metric") == "top-1")
    )  # fmt: skip
    # A draw counts by its queries.
    expected = np.average(table["value"], weights=table["n_queries"])
    assert point["mean"].item() == pytest.approx(expected)
    for name, made in (
        ("cells", result_lines(result_table(rows))),
        ("comparisons", gain_lines(compare(smoke_results, rows))),
    ):
        assert saved(html, f"{name}.csv").decode() == made.csv()
    assert smoke_page.stat().st_size < 2 * 2**20


def test_a_published_page_names_its_picture_by_its_address(smoke_results, smoke_store, tmp_path):
    how = {"store": smoke_store, "out": tmp_path / "r.html"}
    written = write_report(smoke_results, url="https://me.example/a/report.html", **how)
    assert written.files == (tmp_path / "r.png",)
    assert 'property="og:image" content="https://me.example/a/r.png"' in written.page.read_text()
    assert (tmp_path / "r.png").read_bytes()[:4] == b"\x89PNG"


def test_two_folders_are_compared_on_one_page(smoke_results, tmp_path):
    """A folder with its copy differs in nothing; with hits taken away, by them."""
    shutil.copytree(smoke_results, tmp_path / "copy")
    written = write_changes(smoke_results, tmp_path / "copy", out=tmp_path / "same.html")
    found = compare_choices(str(smoke_results), str(tmp_path / "copy"))
    assert written.answer == f"A and B agree in all {found.height} paired comparisons."
    page = Page(written.page.read_text())
    assert page.unbalanced == []
    assert page.tags.count("svg") == page.tags.count("table") == 1
    assert page.tags.count("tr") == found.height + 1
    assert "differs by at most 0.0 points" in written.page.read_text()


def test_two_folders_differ_where_the_corrected_p_says_so(tmp_path, rng):
    for side, hits in (("a", 0.8), ("b", 0.2)):
        for seed in range(10):
            for method, share in (("ridge", hits), ("procrustes", 0.5)):
                run = hand_run("head", seed=seed, method=method)
                write_ranks(tmp_path / side, run, ranks_with(rng, 40, share))
    written = write_changes(tmp_path / "a", tmp_path / "b", out=tmp_path / "page.html")
    found = compare_choices(str(tmp_path / "a"), str(tmp_path / "b"))
    n = int((holm(found["p"].to_numpy()) < 0.05).sum())
    assert 0 < n < found.height
    assert written.answer == (
        f"A and B differ in {n} of {found.height} paired comparisons, after correction."
    )
    html = written.page.read_text()
    assert "A is a, B is b." in html
    assert str(tmp_path) not in html
    drawn = pl.read_csv(saved(html, "changes.csv"))
    top = found.filter(metric="top-1").sort(pl.col("difference").abs(), descending=True)
    assert drawn["value"].to_list() == pytest.approx(top["difference"].to_list())
    assert drawn["strong"].to_list() == [True, False]


@pytest.fixture
def little(smoke_results, tmp_path):
    """Results of one run without a head, whose page is soon made."""
    sets = read_results(smoke_results).row(0, named=True)
    fields = {
        name: sets[name] for name in ("image_set", "image_revision", "name_set", "name_revision")
    }
    write_ranks(tmp_path / "r", hand_run("none", 16, **fields), [1, 2, 3])
    return tmp_path / "r"


def test_a_head_that_is_left_out_is_named(tmp_path, rng):
    """Of two heads of one set of images the one with more runs is shown."""
    for head, seeds in (("a", 2), ("b", 1)):
        for seed in range(seeds):
            run = hand_run("head", 16, seed, head_set=head, head_revision=head * 64)
            write_ranks(tmp_path, run, ranks_with(rng, 40, 0.5))
    rows, others = filter_to_one_choice(read_results(tmp_path))
    assert (set(rows["head_set"]), others) == ({"a"}, ["b"])


def test_results_without_the_question_still_make_a_page(little, smoke_store, tmp_path):
    written = write_report(little, store=smoke_store, out=tmp_path / "r.html")
    html = written.page.read_text()
    # No command is known that would give the question, so none is proposed.
    assert "<code>bench" not in html
    assert "No run of these results was fitted" not in html
    assert Page(html).unbalanced == []


def test_nothing_is_written_when_there_is_nothing_to_show(smoke_store, tmp_path):
    with pytest.raises(NoResultsError, match="headstock eval run"):
        write_report(tmp_path / "no", store=smoke_store, out=tmp_path / "r.html")
    assert not list(tmp_path.iterdir())


def test_a_page_that_is_too_large_is_refused(monkeypatch, little, smoke_store, tmp_path):
    monkeypatch.setattr("bench.report.page.MAX_PAGE_BYTES", 1000)
    with pytest.raises(BenchError, match="Extract smaller thumbnails"):
        write_report(little, store=smoke_store, out=tmp_path / "r.html")
    assert list(tmp_path.iterdir()) == [little]
