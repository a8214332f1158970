"""What a run reads of a store, and which classes a head has seen."""

import shutil

import numpy as np
import polars as pl
import pytest

from bench.corpus import class_name_forms, read_corpus, seen_classes
from bench.errors import ProtocolError
from featstore import open_store
from featstore.errors import EmptySelectionError, MisalignedItemsError, UnknownSetError
from featstore.testing import item_table, write_set


@pytest.fixture(scope="module")
def run(runs):
    return runs[0]


@pytest.fixture
def planned(run, smoke_store, tmp_path):
    """Return what plans the run on a set that is written beside the others."""
    root = shutil.copytree(smoke_store, tmp_path / "store")

    def plan(role, kind, rows, items, *, like=None, **changes):
        own = {"encoder": "other:model"}
        if like:
            store = open_store(root)
            space = store.info(like).attributes["space"]
            own = {"encoder": store.view(like).encoder, "space": space}
        info = open_store(root).info(write_set(root, rows, items, dataset="d", kind=kind, **own))
        sets = {f"{role}_set": str(info.key), f"{role}_revision": info.commit.revision_id}
        return open_store(root), run.changed(**sets, **changes)

    return plan


IDS = [f"smokehead/class-{c:03d}" for c in range(120)]


def test_classes_that_share_a_text_share_a_group(planned, rng):
    items = item_table(
        [f"{c}#name#none" for c in IDS], "class_name", class_id=IDS, variant=["name"] * 120,
        template_id=["none"] * 120, text=[f"name {c // 2}" for c in range(120)],
    )  # fmt: skip
    corpus = read_corpus(*planned(
        "head_name", "class_name", rng.normal(size=(120, 16)).astype(np.float32), items,
        like="smoke/class_name/synthetic", templates=("none",),
    ))  # fmt: skip
    assert len(set(corpus.head.groups)) == 60


def test_a_run_planned_for_another_revision_is_refused(store, run):
    with pytest.raises(ProtocolError, match="Plan the suite again"):
        read_corpus(store, run.changed(image_revision="0" * 64))
    with pytest.raises(UnknownSetError, match="holds no set"):
        read_corpus(store, run.changed(head_set="smokehead/head_weight/other"))


def test_a_head_of_another_model_is_refused(planned):
    items = item_table(IDS, "head_weight", class_id=IDS)
    with pytest.raises(MisalignedItemsError, match="must come from the same model"):
        read_corpus(*planned("head", "head_weight", np.ones((120, 24)), items))


@pytest.mark.parametrize(
    ("kind", "column", "message"),
    [("image", "class_id", "no class_id, which splits"), ("caption", "parent_id", "no parent_id")],
)
def test_items_without_the_ids_that_the_protocol_needs_are_refused(
    planned, store, kind, column, message
):
    view = store.view(key := f"smoke/{kind}/synthetic")
    items = view.items.with_columns(pl.lit(None, dtype=pl.String).alias(column))
    with pytest.raises(ProtocolError, match=message):
        read_corpus(*planned(kind, kind, view.numpy(), items, like=key))


@pytest.mark.parametrize(("role", "key", "error", "said"), [
    ("name", "smokehead/class_name/synthetic", ProtocolError, "40 classes of .* have no text"),
    ("head_name", "smoke/class_name/synthetic", EmptySelectionError, "share no class_id"),
])  # fmt: skip
def test_classes_and_head_rows_without_a_name_are_refused(store, run, role, key, error, said):
    info = store.info(key)
    named = {f"{role}_set": str(info.key), f"{role}_revision": info.commit.revision_id}
    with pytest.raises(error, match=said):
        read_corpus(store, run.changed(**named))


def names(*rows):
    """Items of kind class_name from (class_id, variant, template_id, text)."""
    return pl.DataFrame(rows, schema=["class_id", "variant", "template_id", "text"], orient="row")


HEAD = names(
    ("h/1", "name", "none", "kite"),
    ("h/1", "name", "photo", "a photo of a kite."),
    ("h/2", "lemmas", "none", "plant, flora, plant_life"),
    ("h/2", "definition", "none", "a living organism"),
)


@pytest.mark.parametrize(("text", "seen"), [
    ("kite", True),
    ("The kite.", True),
    ("Plant-Life", True),
    ("flora, fauna", True),
    ("red kite", False),
    ("kites", False),
    ("a living organism", False),  # a definition is no name
    ("a photo of a kite.", False),  # nor is a prompt
])  # fmt: skip
def test_names_are_compared_without_case_article_and_hyphen(text, seen):
    assert seen_classes(names(("d/1", "name", "none", text)), HEAD, ["d/1"]).tolist() == [seen]


def test_equal_ids_are_seen_whatever_the_name():
    own = names(("h/2", "name", "none", "something else"), ("h/9", "name", "none", "nothing"))
    assert seen_classes(own, HEAD, ["h/9", "h/2", "h/unknown"]).tolist() == [False, True, False]


def test_sets_without_bare_names_are_compared_by_what_they_have():
    prompts = names(("d/1", "text", "photo", "a photo of a kite."))
    assert class_name_forms(prompts) == {"d/1": {"photo of a kite"}}
