"""What objects show of themselves: short, whole lines, and nothing of a foreign store as markup."""

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.pipeline import make_pipeline

from featstore import open_store
from featstore.manifest import Manifest
from featstore.terminal import LINES, LONGEST, WIDTH, Card, printable
from featstore.testing import item_table, toy_store, write_set
from fitters import METHODS, Alignment, Moments, Pairs, SideTransform
from fitters.sources import prepare

HOSTILE = "<script>alert(1)</script>\x1b[31m\n\u202e'\"&"
FITS = ("style", "max-width:1000px;overflow-x:auto;overflow-wrap:anywhere")
TAGS = {"div", "strong", "table", "tbody", "thead", "tr", "th", "td"}


class Reader(HTMLParser):
    """Reads a card as a browser does."""

    def __init__(self, html):
        super().__init__()
        self.texts, self.open = [], []
        self.feed(html)
        self.close()
        assert not self.open, "a tag is not closed"

    def handle_starttag(self, tag, attrs):
        assert tag in TAGS
        assert set(attrs) <= {("style", "text-align:left"), ("scope", "row"), FITS}
        assert self.open or FITS in attrs
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


WORDS = st.text() | st.sampled_from([HOSTILE, "a" * (LONGEST + 1), "</td>", "&lt;"])


@settings(max_examples=50, deadline=None)
@given(WORDS, st.dictionaries(WORDS, WORDS), st.lists(st.tuples(WORDS, WORDS)), st.integers(0, 5))
def test_nothing_that_is_shown_is_markup_or_moves_the_cursor(title, facts, table, left_out):
    card = Card(title, facts, ("a", "b"), table, left_out)
    values = [title, *(part for fact in facts.items() if fact[1] for part in fact)]
    values += ["a", "b", *(value for row in table for value in row)] if table else []
    expected = [printable(value) for value in values] + [f"… and {left_out:,} more"] * bool(
        left_out
    )
    # The reader joins what no tag parts, and leaves out what is empty.
    assert Reader(card.html).texts == [text for text in expected if text]
    lines = str(card).split("\n")
    assert all(line.isprintable() for line in lines)
    assert max(map(len, lines[1:]), default=0) <= WIDTH
    assert len(lines[0]) <= LONGEST


def test_a_card_is_a_title_and_at_most_five_facts_that_are_known():
    facts = {"a": 1, "unknown": None, "bb": "", "c": 0, "d": "x", "e": 2.5, "f": 2, "g": 3}
    lines = ["Title", "  a  1", "  c  0", "  d  x", "  e  2.5", "  f  2"]
    assert str(Card("Title", facts)).split("\n") == lines
    assert str(Card("Title", {"a": None})) == "Title"
    card = Card("Title", {"name": "x" * 200, "n": 5})
    assert str(card) == "Title\n  name  " + "x" * 91 + "…\n  n     5"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    root = tmp_path_factory.mktemp("shown") / "store"
    toy_store(root)
    items = item_table(["a/0", "a/1"], text=[HOSTILE, "b"], class_id=["</div>", None])
    write_set(root, np.eye(2), items, dataset="evil", encoder=f"timm:{HOSTILE}")
    return open_store(root)


def shown(store):
    """Every object that shows itself, and texts that its notebook form holds."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((12, 4)), rng.standard_normal((12, 3)).astype(np.float32)
    pairs = Pairs(x, y, np.arange(12) // 2, np.full(12, 0.5))
    made = Alignment(penalty=0.3).fit(x, y)
    image, caption = (store.view(f"toy/{kind}/{of}") for kind, of in
                      (("image", "timm:toy"), ("caption", "st:toy")))  # fmt: skip
    pair = image.pair_by("parent_id", caption)
    evil = next(view for info in store.sets() if (view := store.view(str(info.key))).dim == 2)
    label = pl.DataFrame({"class_id": ["c"]})
    tables = {"image": pl.DataFrame({"item_id": ["a", "b"]})}
    return {
        "pairs": (pairs, ["4 columns, float64", "3 columns, float32", "6", "6 in all"]),
        "moments": (Moments.from_rows(x, y), ["Moments of 12 pairs", "4 columns", "12 in all"]),
        "transform": (SideTransform.fit([x], label="images"), [
            "SideTransform of images", "unit length, less a mean of 4 values, unit length again"]),
        "wide": (SideTransform(homogeneous=True), ["a column of 1, unit length"]),
        "sources": (prepare(pairs, pairs, None), ["prototypes", "real pairs", "12"]),
        "alignment": (made, ["Alignment('ridge'), fitted", "12 real pairs", "penalty 0.3"]),
        "not fitted": (Alignment("cca"), ["Alignment(method='cca')"]),
        "store": (store, ["5", image.key, "40 × 12", "st:toy"]),
        "view": (image, [repr(image), "toy/19", "… and 20 more"]),
        "foreign view": (evil, [printable(HOSTILE), "</div>"]),
        "pair": (pair, [repr(pair), repr(pair.x), repr(pair.y)]),
        "registry": (METHODS, [f"Registry of {len(METHODS)} aligners", "procrustes", "fitters"]),
        "manifest": (Manifest(HOSTILE, "root", {"licence": "MIT"}, tables, label), [
            "2 image", "1", "MIT"]),
    }  # fmt: skip


def test_objects_show_themselves_in_few_lines_and_as_a_table(store):
    for name, (thing, expected) in shown(store).items():
        lines = repr(thing).split("\n")
        assert len(lines) <= LINES, name
        assert all(line.isprintable() for line in lines), name
        texts = Reader(thing._repr_html_()).texts
        assert [text for text in expected if text not in texts] == [], name


def test_scikit_learn_does_not_show_its_diagram_instead():
    rng = np.random.default_rng(0)
    made = Alignment(penalty=0.3).fit(rng.standard_normal((9, 4)), rng.standard_normal((9, 3)))
    assert made._repr_mimebundle_(include=None) == {
        "text/plain": repr(made), "text/html": made._repr_html_()
    }  # fmt: skip
    assert "Alignment" in make_pipeline(made)._repr_html_()
