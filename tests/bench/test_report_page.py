import base64
import hashlib
import re
from html import escape
from html.parser import HTMLParser

import numpy as np
import polars as pl
import pytest

from bench import read_results
from bench.cells import method_title
from bench.errors import BenchError, NoResultsError
from bench.report.page import filter_to_one_choice, write_report
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


def test_captions_stay_text(nasty):
    assert nasty.html.count("&lt;script&gt;alert(&#34;1&#34;)&lt;/script&gt;") > 20
    assert "<script>alert" not in nasty.html
    assert "onerror=alert(2)>" not in nasty.html
    page = Page(nasty.html)
    assert page.tags.count("script") == 1
    assert not [name for name, _ in page.attributes if name.startswith("on")]


def test_the_page_asks_for_nothing_outside_itself(nasty):
    page = Page(nasty.html)
    for name, value in page.attributes:
        if name in {"src", "href", "xlink:href", "action", "poster", "srcset"}:
            # A figure's files lie beside the page; a reader fetches them, the page does not.
            own = name == "href" and re.fullmatch(r"report_files/[\w%-]+\.(png|svg|csv)", value)
            assert own or value.startswith(("data:", "#")), (name, value)
    assert "@import" not in nasty.html
    urls = set(re.findall(r"url\(([^)]*)\)", nasty.html))
    assert all(url.startswith("#") for url in urls)
    assert {"link", "iframe", "object", "embed", "base"}.isdisjoint(page.tags)


def test_the_policy_allows_only_the_one_script(nasty):
    page = Page(nasty.html)
    (script,) = page.scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page.policy
    for rule in ("default-src 'none'", "img-src data:", "style-src 'unsafe-inline'"):
        assert rule in page.policy


def test_html_is_balanced_and_ids_are_unique(nasty):
    page = Page(nasty.html)
    assert page.unbalanced == []
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    used = set(re.findall(r'(?:url\(#|href="#|labelledby=")([^")]+)', nasty.html))
    assert used <= set(page.ids)


def test_the_five_parts_come_in_a_readers_order(nasty):
    parts = ["verdict", "pairs", "doubts", "gallery", "reproduce"]
    assert re.findall(r'<section id="([^"]+)"', nasty.html) == parts
    assert re.findall(r"<nav.*?</nav>", nasty.html, re.DOTALL)[0].count("<a ") == len(parts)
    # The first screen: the numbers that a reader quotes, and the head beside its controls.
    first = nasty.html[: nasty.html.index('id="pairs"')]
    for text in ("random vectors", "shuffled", "chance"):
        assert text in first


def test_one_switch_shows_the_figure_tables_and_gains_of_a_method(nasty):
    """Radio buttons and a style sheet: it works without scripts. The verdict's method is first."""
    titles = re.findall(r'id="method-(\d+)"( checked)?> ([^<]+)</label>', nasty.html)
    assert titles[0] == ("0", " checked", method_title(nasty.verdict.method))
    assert [checked for _, checked, _ in titles[1:]] == [""] * (len(titles) - 1)
    for place, _, title in titles:
        assert f"#method-{place}:checked) .own:not(.own-{place})" in nasty.html
        (drawn,) = [figure for figure in nasty.figures if method_title(figure.method) == title
                    and figure.kind == "accuracy_by_pairs"]  # fmt: skip
        assert f'<div class="own own-{place}">\n<figure class="figure" id="{drawn.name}">' in (
            nasty.html.replace('"><figure', '">\n<figure')
        )
        assert f'class="own own-{place} task task-0"' in nasty.html


def test_every_figure_has_its_words_and_its_files(nasty):
    labels = []
    for figure in nasty.figures:
        block = nasty.html[nasty.html.index(f'id="{figure.name}"') :].split("</figure>")[0]
        for text in (figure.title, figure.subtitle, figure.caption):
            assert escape(text, quote=False) in unescape_quotes(block).replace("\u00a0%", " %")
        for ending in ("png", "svg", "csv"):
            assert f'href="report_files/{figure.name}.{ending}"' in block
        assert f'hidden data-copy="{figure.name}-caption"' in block
        labels.append(figure.label)
    assert labels[0] == "Figure 1"
    assert labels == sorted(labels)


def unescape_quotes(html):
    return html.replace("&#34;", '"').replace("&#39;", "'")


def test_tables_show_at_most_nine_columns_before_more_are_asked_for(nasty):
    html = nasty.html[: nasty.html.index('id="every"')]
    tables = re.findall(r"<table.*?</table>", html, re.DOTALL)
    assert len(tables) > 5
    for table in tables:
        heads = re.findall(r"<th scope=\"col\"([^>]*)>", table)
        shown = [one for one in heads if "more" not in one]
        assert 2 <= len(shown) <= 9
    assert html.count('id="more-') == sum("more" in table for table in tables)


def test_the_same_results_give_the_same_page(smoke_page, smoke_results, smoke_store, tmp_path):
    again = write_report(smoke_results, store=smoke_store, out=tmp_path / "r.html")
    files = sorted(smoke_page.with_name("r_files").iterdir())
    for one, two in zip([smoke_page, *files], [again.page, *sorted(again.files)], strict=True):
        assert one.name == two.name
        assert one.read_bytes() == two.read_bytes()


def test_figures_lie_beside_the_page(smoke_page, smoke_results):
    folder = smoke_page.with_name("r_files")
    names = sorted(path.name for path in folder.iterdir())
    kinds = [
        "accuracy_by_pairs_kernel-ridge", "accuracy_by_pairs_procrustes", "accuracy_by_pairs_ridge",
        "controls", "headline",
    ]  # fmt: skip
    files = [f"{kind}{end}" for kind in kinds for end in (".csv", ".png", ".svg")]
    assert names == files
    curve = pl.read_csv(folder / "accuracy_by_pairs_ridge.csv")
    table = read_results(smoke_results).filter(
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
    assert smoke_page.stat().st_size < 2 * 2**20


@pytest.fixture
def little(smoke_results, tmp_path):
    """Results of one run without a head, whose page is soon made."""
    sets = read_results(smoke_results).row(0, named=True)
    fields = {
        name: sets[name] for name in ("image_set", "image_revision", "name_set", "name_revision")
    }
    write_ranks(tmp_path / "r", hand_run("none", 16, **fields), [1, 2, 3])
    return tmp_path / "r"


def two_heads(root, rng, **fields):
    """Runs on two heads of one set of images, the second with fewer."""
    heads = [f"{name}/head_weight/timm.m-00000000" for name in ("a", "b")]
    for place, (head, hits) in enumerate(zip(heads, (0.2, 0.9), strict=True)):
        for seed in range(2 - place):
            for mix in fields.get("mix", ["auto"]):
                run = hand_run(
                    "head", 16, seed, head_set=head, head_revision=str(place) * 64,
                    **fields | {"mix": mix},
                )  # fmt: skip
                write_ranks(root, run, ranks_with(rng, 40, hits))
    return heads


def test_a_head_that_is_left_out_is_named(tmp_path, rng):
    first, second = two_heads(tmp_path, rng)
    rows, others = filter_to_one_choice(read_results(tmp_path))
    assert set(rows["head_set"]) == {first}
    assert others == [second]


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
