import numpy as np
import polars as pl
import pytest

from bench.corpus import read_corpus
from bench.errors import ProtocolError
from bench.suites.demo import create_smoke_store
from featstore import open_store
from featstore.errors import EmptySelectionError, MisalignedItemsError, UnknownSetError
from featstore.testing import item_table, write_set


@pytest.fixture(scope="module")
def run(runs):
    return runs[0]


def test_images_and_captions_are_the_stores_rows(store, run):
    corpus = read_corpus(store, run)
    view = store.view("smoke/image/synthetic")
    np.testing.assert_array_equal(corpus.images.rows, view.numpy())
    assert corpus.images.ids.tolist() == view.items["item_id"].to_list()
    captions = store.view("smoke/caption/synthetic")
    np.testing.assert_array_equal(corpus.captions.rows, captions.numpy())
    assert corpus.captions.parents.tolist() == corpus.images.ids.tolist()
    assert corpus.captions.classes.tolist() == corpus.images.classes.tolist()


def test_one_unit_text_per_class_from_its_prompts(store, run):
    corpus = read_corpus(store, run)
    view = store.view("smoke/class_name/synthetic")
    first = view.where(class_id=corpus.names.classes[0]).numpy().astype(np.float64)
    unit = first / np.linalg.norm(first, axis=1, keepdims=True)
    mean = unit.mean(axis=0) / np.linalg.norm(unit.mean(axis=0))
    np.testing.assert_allclose(corpus.names.rows[0], mean, rtol=1e-6)
    assert len(corpus.names) == 40
    single = read_corpus(store, run.changed(templates=("none",)))
    assert not np.allclose(single.names.rows[0], mean)


def test_head_rows_are_paired_with_their_own_names(store, run):
    head = read_corpus(store, run).head
    rows = store.view("smokehead/head_weight/synthetic")
    texts = store.view("smokehead/class_name/synthetic").class_texts(("name",), ("none", "photo"))
    np.testing.assert_array_equal(head.weight, rows.numpy())
    assert rows.items["class_id"].to_list() == texts.items["class_id"].to_list()
    np.testing.assert_array_equal(head.texts, texts.numpy())
    assert len(set(head.groups)) == len(head.weight) == len(head.bias) == 120


def space_of(root, kind):
    """The space of a set of the smoke store."""
    return open_store(root).info(f"smoke/{kind}/synthetic").attributes["space"]


def test_classes_that_share_a_text_share_a_group(run, tmp_path):
    create_smoke_store(tmp_path)
    rng = np.random.default_rng(0)
    ids = [f"smokehead/class-{c:03d}" for c in range(120)]
    items = item_table(
        [f"{c}#name#none" for c in ids], "class_name", class_id=ids, variant=["name"] * 120,
        template_id=["none"] * 120, text=[f"name {c // 2}" for c in range(120)],
    )  # fmt: skip
    write_set(
        tmp_path, rng.normal(size=(120, 16)).astype(np.float32), items, dataset="twins",
        kind="class_name", encoder="synthetic:text", space=space_of(tmp_path, "class_name"),
    )  # fmt: skip
    store = open_store(tmp_path)
    info = store.info("twins/class_name/synthetic")
    changed = run.changed(
        head_name_set=str(info.key), head_name_revision=info.commit.revision_id,
        templates=("none",),
    )  # fmt: skip
    assert len(set(read_corpus(store, changed).head.groups)) == 60


def test_a_run_planned_for_another_revision_is_refused(store, run):
    with pytest.raises(ProtocolError, match="Plan the suite again"):
        read_corpus(store, run.changed(image_revision="0" * 64))


def test_a_missing_set_is_named(store, run):
    with pytest.raises(UnknownSetError, match="holds no set"):
        read_corpus(store, run.changed(head_set="smokehead/head_weight/other"))


def test_a_head_of_another_model_is_refused(run, tmp_path):
    create_smoke_store(tmp_path)
    ids = [f"smokehead/class-{c:03d}" for c in range(120)]
    write_set(
        tmp_path, np.ones((120, 24)), item_table(ids, "head_weight", class_id=ids),
        dataset="smokehead", kind="head_weight", encoder="other:model",
    )  # fmt: skip
    store = open_store(tmp_path)
    info = store.info("smokehead/head_weight/other")
    changed = run.changed(head_set=str(info.key), head_revision=info.commit.revision_id)
    with pytest.raises(MisalignedItemsError, match="must come from the same model"):
        read_corpus(store, changed)


@pytest.mark.parametrize(
    ("kind", "column", "message"),
    [("image", "class_id", "no class_id, which splits"), ("caption", "parent_id", "no parent_id")],
)
def test_items_without_the_ids_that_the_protocol_needs_are_refused(
    run, tmp_path, kind, column, message
):
    create_smoke_store(tmp_path)
    view = open_store(tmp_path).view(f"smoke/{kind}/synthetic")
    encoder = view.encoder
    items = view.items.with_columns(pl.lit(None, dtype=pl.String).alias(column))
    write_set(
        tmp_path, view.numpy(), items, dataset="bare", kind=kind, encoder=encoder,
        space=space_of(tmp_path, kind),
    )  # fmt: skip
    store = open_store(tmp_path)
    info = store.info(f"bare/{kind}/synthetic")
    changed = run.changed(
        **{f"{kind}_set": str(info.key), f"{kind}_revision": info.commit.revision_id}
    )
    with pytest.raises(ProtocolError, match=message):
        read_corpus(store, changed)


def test_images_of_classes_without_a_name_are_refused(store, run):
    info = store.info("smokehead/class_name/synthetic")
    changed = run.changed(name_set=str(info.key), name_revision=info.commit.revision_id)
    with pytest.raises(ProtocolError, match=r"40 classes of .* have no text"):
        read_corpus(store, changed)


def test_head_rows_without_a_name_are_refused(store, run):
    info = store.info("smoke/class_name/synthetic")
    changed = run.changed(head_name_set=str(info.key), head_name_revision=info.commit.revision_id)
    with pytest.raises(EmptySelectionError, match="share no class_id"):
        read_corpus(store, changed)
