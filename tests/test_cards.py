"""What objects show of themselves: a few whole lines, and nothing of a foreign store that acts."""

from __future__ import annotations

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from featstore import open_store
from featstore.manifest import Manifest
from featstore.terminal import LINES, LONGEST, WIDTH, card
from featstore.testing import item_table, toy_store, write_set
from fitters import METHODS, Alignment, Moments, Pairs, SideTransform
from fitters.sources import prepare

HOSTILE = "<script>alert(1)</script>\x1b[31m\n\u202e'\"&"
WORDS = st.text() | st.sampled_from([HOSTILE, "a" * (LONGEST + 1)])


@settings(max_examples=50, deadline=None)
@given(WORDS, st.dictionaries(WORDS, WORDS))
def test_a_card_has_few_short_lines_and_moves_no_cursor(title, facts):
    lines = card(title, facts).split("\n")
    assert len(lines) == min(LINES, 1 + sum(bool(value) for value in facts.values()))
    assert all(line.isprintable() for line in lines)
    assert max(map(len, lines[1:]), default=0) <= WIDTH
    assert len(lines[0]) <= LONGEST


def test_objects_show_themselves_in_few_lines(tmp_path):
    toy_store(tmp_path / "store")
    items = item_table(["a/0", "a/1"], text=[HOSTILE, "b"], class_id=["</div>", None])
    write_set(tmp_path / "store", np.eye(2), items, dataset="evil", encoder=f"timm:{HOSTILE}")
    store = open_store(tmp_path / "store")
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((12, 4)), rng.standard_normal((12, 3)).astype(np.float32)
    pairs = Pairs(x, y, np.arange(12) // 2, np.full(12, 0.5))
    image, caption = (store.view(f"toy/{kind}/{of}") for kind, of in
                      (("image", "timm:toy"), ("caption", "st:toy")))  # fmt: skip
    evil = next(view for info in store.sets() if (view := store.view(str(info.key))).dim == 2)
    tables = {"image": pl.DataFrame({"item_id": ["a", "b"]})}
    label = pl.DataFrame({"class_id": ["c"]})
    for thing, expected in (
        (pairs, ["4 columns, float64", "3 columns, float32", "groups  6", "6 in all"]),
        (Moments.from_rows(x, y), ["Moments of 12 pairs", "4 columns", "12 in all"]),
        (SideTransform.fit([x], label="images"), [
            "SideTransform of images", "unit length, less a mean of 4 values, unit length again"]),
        (SideTransform(homogeneous=True), ["a column of 1, unit length"]),
        (prepare(pairs, pairs, None), ["prototypes", "real pairs", "12"]),
        (Alignment(penalty=0.3).fit(x, y), [
            "Alignment('ridge'), fitted", "12 real pairs", "penalty 0.3"]),
        (Alignment("cca"), ["Alignment(method='cca')"]),
        (store, ["5 sets"]),
        (image, [image.key, "40 × 12"]),
        (evil, ["2 × 2"]),
        (image.pair_by("parent_id", caption), [image.key, "40 pairs"]),
        (METHODS, [f"Registry of {len(METHODS)} aligners", "procrustes"]),
        (Manifest(HOSTILE, "root", {"licence": "MIT"}, tables, label), ["2 image", "1", "MIT"]),
    ):  # fmt: skip
        lines = repr(thing).split("\n")
        assert len(lines) <= LINES
        assert all(line.isprintable() for line in lines), thing
        assert [text for text in expected if text not in repr(thing)] == []
