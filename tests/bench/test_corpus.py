"""What a run reads of a store, and which classes a head has seen."""

import shutil

import numpy as np
import polars as pl
import pytest

from bench.corpus import (
    Split,
    class_name_forms,
    held_out_split,
    nearly_equal,
    read_corpus,
    seen_classes,
)
from bench.errors import ProtocolError
from bench.evaluation import evaluate
from featstore import open_store
from featstore.errors import EmptySelectionError, MisalignedItemsError, UnknownSetError
from featstore.testing import item_table, write_set
from fitters import Pairs


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


def twice(rng, n=100, noise=0.002):
    """n pictures of noise, each under two ids, with texts that say nothing of them."""
    of = np.repeat(np.arange(n), 2)
    x = rng.standard_normal((n, 64))[of] + noise * rng.standard_normal((2 * n, 64))
    return of, x, rng.standard_normal((n, 48))[of] + 0.1 * rng.standard_normal((2 * n, 48))


def of_runs(results, metric):
    """The mean over the runs, with what chance gives and the images that were left out."""
    rows = results.rows.filter(metric=metric)
    return rows["value"].mean(), rows["chance"].mean(), rows["n_left_out"].to_list()


@pytest.mark.parametrize("noise", [0, 0.002])
def test_pictures_under_two_ids_turn_no_noise_into_results(rng, noise):
    """Without the cure R@1 is 53 % (chance 1.2), held-out names 53 % (1.2), few-shot far above."""
    of, x, y = twice(rng, noise=noise)
    how = {"n_pairs": "all", "eval": "held-out", "seeds": 3, "progress": False}
    ids = np.array([f"id {k:03d}" for k in range(len(x))])
    pairs = evaluate("ridge", Pairs(x, y, ids), **how)
    named = evaluate("ridge", Pairs(x, y, ids), tasks="zero_shot", **how)
    for found, metric in ((pairs, "R@1"), (named, "top-1")):
        value, chance, left_out = of_runs(found, metric)
        assert value < chance + 0.03
        assert min(left_out) > 20
        assert set(found.rows["n_twins"]) == {100}
        assert "100 pictures stand under two ids or more" in found.verdict
    labels = rng.integers(0, 10, size=100)[of]
    few_shot = {"few_shot": {"shots": 16, "learner": "tip-adapter", "prototypes": "none"}}
    data = Pairs(x, rng.standard_normal((10, 48))[labels], np.char.add("c", labels.astype(str)))
    value, chance, left_out = of_runs(
        evaluate("ridge", data, tasks=few_shot, seeds=3, progress=False), "top-1"
    )
    assert value < chance + 0.08
    assert min(left_out) > 20


def test_pictures_that_differ_leave_a_split_as_it_is(rng):
    split = held_out_split(np.repeat(np.arange(30), 3), seed=4)
    assert split.apart(nearly_equal(rng.standard_normal((90, 40)))) is split
    pictures = np.arange(90)
    pictures[split.train[5]] = pictures[split.test[0]]
    cut = split.apart(pictures)
    np.testing.assert_array_equal(cut.train, np.delete(split.train, 5))
    assert (cut.test is split.test, cut.n_left_out) == (True, 1)
    # Twins on one side stay.
    pictures = np.arange(90)
    pictures[split.train[1]] = pictures[split.train[0]]
    assert split.apart(pictures) is split
    assert Split(split.train, split.test).n_left_out == 0


@pytest.mark.parametrize("common", [0.0, 30.0])
def test_nearly_equal_rows_are_those_of_all_pairs_and_scale_with_the_spread(rng, common):
    """By a loop over all pairs; rows may lie in a narrow cone, as those of random weights do."""
    x = rng.standard_normal((400, 24)) @ rng.standard_normal((24, 24)) + common
    for step, place in zip((0, 0.003, 0.01, 0.03, 0.1, 0.3), range(6), strict=True):
        x[50 + 10 * place : 60 + 10 * place] = x[:10] + step * rng.standard_normal((10, 24))
    x = x.astype(np.float32)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    squared = np.sum((unit[:, None] - unit[None]) ** 2, axis=2)
    bound = (1 - 0.999) * squared.mean()
    clear = np.abs(squared / bound - 1) > 1e-3
    assert (clear | np.eye(400, dtype=bool)).all()
    found = nearly_equal(x)
    # Joined through others, too.
    reached = squared <= bound
    for _ in range(6):
        reached = reached @ reached
    np.testing.assert_array_equal(found[:, None] == found[None], reached)
    assert 20 < 400 - len(np.unique(found)) < 55


def test_rows_of_zero_and_single_rows_have_a_picture_each():
    assert nearly_equal(np.zeros((1, 3))).tolist() == [0]
    rows = np.array([[1.0, 0, 0], [0, 0, 0], [0, 1, 0], [1, 0, 0]])
    assert nearly_equal(rows).tolist() == [0, 1, 2, 0]
