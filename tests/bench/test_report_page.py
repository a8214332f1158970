import re
from html.parser import HTMLParser

from bench import read_results
from bench.report.page import digest, write_report
from tests.bench.results_by_hand import hand_run, write_ranks


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


def test_the_same_results_give_the_same_page(smoke_page, smoke_results, smoke_store, tmp_path):
    again = write_report(smoke_results, store=smoke_store, out=tmp_path / "r.html")
    assert again.files == ()
    assert list(tmp_path.iterdir()) == [again.page]
    assert smoke_page.read_bytes() == again.page.read_bytes()


def test_results_without_the_question_still_make_a_page(smoke_results, smoke_store, tmp_path):
    sets = read_results(smoke_results).row(0, named=True)
    names = ("image_set", "image_revision", "name_set", "name_revision")
    run = hand_run("none", 16, **{name: sets[name] for name in names})
    write_ranks(tmp_path / "r", run, [1, 2, 3])
    written = write_report(tmp_path / "r", store=smoke_store, out=tmp_path / "r.html")
    html = written.page.read_text()
    # No command is known that would give the question, so none is proposed.
    assert re.findall(r"<code>headstock [^<]*", html) == []
    assert "No run of these results was fitted" not in html
    assert Page(html).unbalanced == []
