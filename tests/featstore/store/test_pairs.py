"""Pairs joined by id, and texts of classes."""

from __future__ import annotations

import pickle

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featstore import open_store
from featstore.errors import EmptySelectionError, MisalignedItemsError
from featstore.testing import item_table, write_set


@settings(deadline=None, max_examples=25)
@given(
    parents=st.lists(st.one_of(st.none(), st.integers(0, 14)), min_size=1, max_size=30),
    seed=st.integers(0, 1000),
)
def test_captions_pair_as_a_double_loop_says(tmp_path_factory, parents, seed):
    root = tmp_path_factory.mktemp("store")
    rng = np.random.default_rng(seed)
    order = rng.permutation(12)
    images = item_table([f"birds/{i:02d}" for i in order])
    names = [None if parent is None else f"birds/{parent:02d}" for parent in parents]
    x_rows = rng.standard_normal((12, 4)).astype(np.float32)
    y_rows = rng.standard_normal((len(names), 3)).astype(np.float32)
    x_key = write_set(root, x_rows, images)
    captions = item_table([f"birds/cap{j}" for j in range(len(names))], "caption", parent_id=names)
    y_key = write_set(root, y_rows, captions, kind="caption", encoder="st:toy")
    x, y = open_store(root).view(x_key), open_store(root).view(y_key)
    ids = images["item_id"].to_list()
    expected = [
        (i, j) for i, item in enumerate(ids) for j, name in enumerate(names) if name == item
    ]
    if not expected:
        with pytest.raises((EmptySelectionError, MisalignedItemsError)):
            x.pair_by("parent_id", y)
        return
    pairs = x.pair_by("parent_id", y)
    found_x, found_y = pairs.numpy()
    assert found_x.tobytes() == x_rows[[i for i, _ in expected]].tobytes()
    assert found_y.tobytes() == y_rows[[j for _, j in expected]].tobytes()
    # Each image that has captions weighs 1, however many it has.
    mass = np.bincount([i for i, _ in expected], pairs.weight)
    np.testing.assert_allclose(mass[sorted({i for i, _ in expected})], 1, rtol=1e-12)
    assert set(pairs.missing_x) == {item for item in ids if item not in names}
    lost = {f"birds/cap{j}" for j, name in enumerate(names) if name not in ids}
    assert set(pairs.missing_y) == lost
    # The other way round gives the same pairs.
    back = y.pair_by("parent_id", x)
    assert sorted(zip(back.y.items["item_id"], back.x.items["item_id"], strict=True)) == sorted(
        zip(pairs.x.items["item_id"], pairs.y.items["item_id"], strict=True)
    )


def test_class_pairs_and_missing_partners(store_path):
    classes = [f"birds/{c}" for c in "cbx"]
    names = item_table([f"{one}#n" for one in classes], "class_name", class_id=classes)
    key = write_set(store_path, np.eye(3, 5), names, kind="class_name", encoder="st:toy")
    store = open_store(store_path)
    pairs = store.view("birds/image/toy").pair_by("class_id", store.view(key))
    assert pairs.x.items["class_id"].to_list() == pairs.y.items["class_id"].to_list()
    assert len(pairs) == 8
    assert set(pairs.missing_x) == {f"birds/{i:02d}" for i in (0, 3, 6, 9)}
    assert pairs.missing_y == ("birds/x#n",)
    assert "missing partners: 4 x, 1 y" in repr(pairs)
    batches = list(pairs.batches(3))
    assert [len(x) for x, _, _ in batches] == [3, 3, 2]
    assert np.concatenate([weight for _, _, weight in batches]).tolist() == [1.0] * 8


def test_imported_items_need_no_column_to_pair_by(tmp_path):
    rows = np.eye(2, dtype=np.float32)
    ids = pl.DataFrame({"item_id": ["birds/0", "birds/1"]})
    own = ids.with_columns(item_id=pl.lit("c") + pl.col("item_id"), parent_id=pl.col("item_id"))
    images = write_set(tmp_path, rows, ids)
    x = open_store(tmp_path).view(images)
    bare = write_set(tmp_path, rows, ids, kind="caption", encoder="st:bare")
    full = write_set(tmp_path, rows, own, kind="caption", encoder="st:full")
    assert len(x.pair_by("parent_id", open_store(tmp_path).view(full))) == 2
    with pytest.raises(MisalignedItemsError, match=r"Neither .* has a parent_id"):
        x.pair_by("parent_id", open_store(tmp_path).view(bare))
    with pytest.raises(EmptySelectionError, match="share no class_id"):
        x.pair_by("class_id", open_store(tmp_path).view(bare))
    with pytest.raises(MisalignedItemsError, match=r"with a view by .*got ndarray"):
        x.pair_by("item_id", rows)


# ---- Class texts: encode → L2 → mean → L2, one row a class ----------------------------------


PROMPTS = [
    # class, variant, template, vector
    ("b", "name", "none", [3.0, 0.0]),
    ("a", "name", "none", [1.0, 0.0]),
    ("b", "name", "photo", [0.0, 10.0]),
    ("a", "name", "photo", [1.0, 1.0]),
    ("a", "definition", "none", [0.0, 2.0]),
]


@pytest.fixture
def texts(tmp_path):
    items = item_table(
        [
            {"item_id": f"birds/{c}#{variant}#{template}", "kind": "class_name",
             "text": f"{variant} of {c}", "class_id": f"birds/{c}", "variant": variant,
             "template_id": template}
            for c, variant, template, _ in PROMPTS
        ]
    )  # fmt: skip
    rows = np.array([vector for *_, vector in PROMPTS], dtype=np.float32)
    key = write_set(tmp_path, rows, items, kind="class_name", encoder="st:toy")
    return open_store(tmp_path).view(key)


#: Variants and templates -> degrees of the rows of b, whose texts lie at 0 and 90, and of a, whose
#: names lie at 0 (none) and 45 (photo), whose definition, which has no photo, at 90.
@pytest.mark.parametrize(("variants", "templates", "degrees"), [
    (["name"], ["none", "photo"], (45, 22.5)),
    (["name", "definition"], ["none"], (0, 45)),  # b has no definition
    (["name", "definition"], ["photo"], (90, 67.5)),  # a definition stands bare
    (["name", "definition"], ["none", "photo"], (45, 56.25)),  # variants count alike
    (None, None, (45, 56.25)),
])  # fmt: skip
def test_by_hand(texts, variants, templates, degrees):
    reduced = texts.class_texts(variants, templates)
    assert reduced.items["class_id"].to_list() == ["birds/b", "birds/a"]
    angles = np.radians(degrees)
    expected = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    np.testing.assert_allclose(reduced.numpy(), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("variants", "said"), [
    (["definition"], r"1 classes .* \(first: 'birds/b'\)"),
    (["name", "nmae"], "It has: 'definition', 'name'"),
    ([], "It has: 'definition', 'name'"),
])  # fmt: skip
def test_variants_that_are_not_there_are_not_ignored(texts, variants, said):
    with pytest.raises(EmptySelectionError, match=said):
        texts.class_texts(variants=variants)


def test_rows_in_memory_do_not_travel(texts):
    with pytest.raises(TypeError, match="rows in memory"):
        pickle.dumps(texts.class_texts("name"))
