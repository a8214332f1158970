"""From a store to an alignment: the right rows, the right spaces, and honest facts."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from featstore import open_store
from featstore.errors import EmptySelectionError, MisalignedItemsError, UnknownSetError
from featstore.store.gc import remove_set
from featstore.testing import item_table, write_set
from fitters import Pairs, fit
from fitters.errors import SettingError, ZeroRowError
from fitters.from_store import project_view
from fitters.jobs import HeadTexts, fit_from_store, pair_images
from fitters.select.left_out import choose_on_prototypes
from fitters.settings import FitRequest
from fitters.sources import SideTransform, prepare
from tests.assertions import assert_close, assert_same
from tests.damage import tree
from tests.fitters.toy_store import CLASSES, HEAD, NAMES, P, X, Y, write_toy_store
from tests.goldens.world import SETS, write_world
from tests.shorthand import save_alignment

ASKED = (("name",), ("none", "photo"))


@pytest.fixture
def store(store_path):
    return open_store(store_path)


def _request(**changes):
    return FitRequest(**{"method": "ridge", "x": X, "head": HEAD, "names": NAMES, **changes})


def texts_by_class(store, key):
    names = store.view(key).class_texts(*ASKED)
    return dict(zip(names.items["class_id"], names.numpy(), strict=True))


def test_it_is_the_recipe_on_the_rows_joined_by_hand(store):
    """The store path equals the array path, with the join done by a dict."""
    found = fit_from_store(store, _request(y=Y, n_pairs=None, penalty=0.1, mix=0.5))
    head, text_of = store.view(HEAD), texts_by_class(store, NAMES)
    heads = Pairs(head.numpy(), np.array([text_of[c] for c in head.items["class_id"]]))
    images, captions = store.view(X).where(split="train"), store.view(Y)
    said = dict(zip(captions.items["parent_id"], captions.numpy(), strict=True))
    real = Pairs(images.numpy(), np.array([said[i] for i in images.items["item_id"]]))
    mean = SideTransform.fit([images.numpy()], label="images").mean
    direct = fit(
        "ridge", prototypes=heads, real=real, image_mean=mean, penalty=0.1, mix=0.5,
        rng=np.random.default_rng(0),
    )  # fmt: skip
    test = store.view(X).where(split="test")
    assert_close(project_view(found, test), direct.project_x(test.numpy()), "float32")
    assert_close(project_view(found, captions), direct.project_y(captions.numpy()), "float32")


def test_same_seed_same_bytes(store, tmp_path):
    one, same, other = (
        fit_from_store(store, _request(y=Y, n_pairs=20, seed=seed)) for seed in (3, 3, 4)
    )
    assert tree(save_alignment(tmp_path / "a", one)) == tree(save_alignment(tmp_path / "b", same))
    used = (made.facts["fitted_on"]["captions"]["fingerprint"] for made in (one, other))
    assert len({*used}) == 2


@pytest.fixture
def with_images(store_path, tmp_path):
    """Return what makes a copy of the store with other images."""

    def make(rows, items):
        copy = Path(shutil.copytree(store_path, tmp_path / "store", dirs_exist_ok=True))
        remove_set(copy, str(open_store(copy).info(X).key))
        write_set(copy, rows, items, dataset="toy", space={"name": "vision"})
        return open_store(copy)

    return make


def test_test_images_never_matter(store, with_images):
    view = store.view(X)
    rows = view.numpy()
    test = np.flatnonzero(view.items["split"].to_numpy() == "test")
    rows[test] = np.random.default_rng(9).standard_normal((len(test), P))
    a, b = (
        fit_from_store(one, _request(y=Y, n_pairs=15))
        for one in (store, with_images(rows, view.items))
    )
    assert_same(a.aligner.coef_, b.aligner.coef_)
    assert a.facts["choice"] == b.facts["choice"]


def test_a_head_alone_takes_the_mean_of_all_images_where_none_is_for_training(store, with_images):
    view = store.view(X)
    rows, items = view.numpy(), view.items.with_columns(split=pl.lit("test"))
    store = with_images(rows, items)
    found = fit_from_store(store, _request())
    mean = SideTransform.fit([rows], label="images").mean
    np.testing.assert_allclose(found.x.mean, mean, rtol=1e-6)
    assert found.facts["image_centre"] == "all unlabelled images, as none is in the split train"
    assert found.facts["fitted_on"]["images"]["rows"] == len(rows)
    for wrong in ({"y": Y}, {"split": "val"}):
        with pytest.raises(EmptySelectionError, match="test"):
            fit_from_store(store, _request(**wrong))
    some = np.arange(len(rows)) % 3 > 0
    parted = items.with_columns(split=np.where(some, "val", "test"))
    found = fit_from_store(with_images(rows, parted), _request())
    mean = SideTransform.fit([rows[some]], label="images").mean
    np.testing.assert_allclose(found.x.mean, mean, rtol=1e-6)
    assert found.facts["image_centre"].startswith("unlabelled images that are not in test")


@pytest.mark.parametrize(("changes", "error", "match"), [
    ({"names": None}, SettingError, "give `head=` and `head_names=`, or neither"),
    ({"head": None, "names": None}, SettingError, "nothing to fit on"),
    ({"n_pairs": 31, "y": Y}, SettingError, r"n_pairs is 31; 30 images of .* can be paired"),
    ({"source": "rnadom"}, SettingError, "Did you mean 'random'"),
    ({"split": "vla"}, EmptySelectionError, "split='vla'.*'test', 'train'"),
    ({"variants": ("lemma",)}, EmptySelectionError, "It has: 'lemmas', 'name'"),
    ({"head": "labels/head_weight/timm:other"}, MisalignedItemsError, "different embedding"),
    ({"y": "toy/caption/st:other"}, MisalignedItemsError, "Captions and class names"),
    ({"x": "toy/image/timm:none"}, UnknownSetError, "holds no set"),
    ({"method": "conse", "head": None, "names": None, "y": Y}, SettingError, "head"),
])  # fmt: skip
def test_bad_requests(store, changes, error, match):
    with pytest.raises(error, match=match):
        fit_from_store(store, _request(**changes))


def test_moments_of_fewer_pairs_than_columns_are_float64(store):
    few, many = (
        fit_from_store(store, _request(y=Y, n_pairs=n, penalty=0.3, mix=1.0)) for n in (P, P + 1)
    )
    assert [one.facts["moments"]["precision"] for one in (few, many)] == ["float64", "float32"]


@pytest.mark.parametrize("changes", [{}, {"penalty": 0.3, "mix": 1.0}], ids=["rows", "moments"])
def test_a_row_of_zeros_is_named_by_its_item(store, with_images, changes):
    view = store.view(X)
    rows = view.numpy()
    rows[[5, 17]] = 0
    store = with_images(rows, view.items)
    # Text-to-Concept sees the rows raw, and its moments would not show them.
    other = {"encoder": "clip:toy", "space": {"name": "clip"}}
    write_set(store.root, view.numpy() + 1, view.items, dataset="toy", **other)
    for request in (
        _request(y=Y, **changes),
        FitRequest("text-to-concept", x=X, y="toy/image/clip:toy"),
    ):
        with pytest.raises(ZeroRowError, match=r"2 items of toy/image/timm.*'toy/05', 'toy/17'"):
            fit_from_store(open_store(store.root), request)
    # A head reads images raw, and here no image at all.
    assert fit_from_store(store, _request(method="conse")).facts["method"] == "conse"


def test_text_to_concept_maps_images_into_the_space_of_other_images(tmp_path):
    """Images seen by two encoders; the texts of the second need no map."""
    rng = np.random.default_rng(2)
    write_toy_store(tmp_path)
    images = open_store(tmp_path).view(X)
    rows = (images.numpy() @ rng.standard_normal((P, 6)) + 2).astype(np.float32)
    # In another order: the same item_id is the same image.
    order = rng.permutation(len(rows))
    other = write_set(tmp_path, rows[order], images.items[order.tolist()], dataset="toy",
                      kind="image", encoder="clip:toy", space={"name": "clip"})  # fmt: skip
    store = open_store(tmp_path)
    alignment = fit_from_store(store, FitRequest("text-to-concept", x=X, y=other))
    assert alignment.facts["n_real"] == 30
    new = images.where(split="test")
    found = project_view(alignment, new)
    ids = store.view(other).items["item_id"].to_list()
    seen = store.view(other).take([ids.index(item) for item in new.items["item_id"]])
    np.testing.assert_allclose(np.sum(found * project_view(alignment, seen), axis=1), 1, atol=1e-5)
    fewer = seen.take([0, 1])
    with pytest.raises(SettingError, match="n_pairs is 99"):
        fit_from_store(store, FitRequest("text-to-concept", x=X, y=other, n_pairs=99))
    assert pair_images(new, fewer).missing_x == tuple(new.items["item_id"].to_list()[2:])


@pytest.mark.parametrize("changes", [{"penalty": 0.1}, {"criterion": "error"}])
def test_images_without_captions_are_paired_with_the_texts_of_their_classes(tmp_path, changes):
    """As class folders are: `y` is the set of class names."""
    write_world(tmp_path)
    store = open_store(tmp_path)
    request = FitRequest("ridge", x=SETS["images"], y=SETS["names"], **changes)
    found = fit_from_store(store, request)
    text_of = texts_by_class(store, SETS["names"])
    images = store.view(SETS["images"]).where(split="train")
    classes = images.items["class_id"].to_numpy().astype(str)
    real = Pairs(images.numpy(), np.array([text_of[name] for name in classes]), classes)
    mean = SideTransform.fit([images.numpy()], label="images").mean
    direct = fit("ridge", real=real, image_mean=mean, rng=np.random.default_rng(0), **changes)
    assert found.facts["n_real"] == len(images)
    test = store.view(SETS["images"]).where(split="test")
    assert_close(project_view(found, test), direct.project_x(test.numpy()), "float32", times=10)


@pytest.fixture
def described(store_path, tmp_path):
    """A head whose rows follow from its classes' definitions and hardly from names; texts of it."""
    root = shutil.copytree(store_path, tmp_path / "described")
    head, rng = open_store(root).view(HEAD), np.random.default_rng(5)
    meanings = head.numpy() @ rng.standard_normal((P, 7))
    noise = {"name": 2.0, "lemmas": 4.0, "definition": 0.2}
    made = [(c, v, t) for v in noise for t in ("none", "photo") for c in range(CLASSES)
            if (v, t) != ("definition", "photo")]  # fmt: skip
    rows = [meanings[c] + noise[v] * rng.standard_normal(7) for c, v, _ in made]
    items = [
        {"item_id": f"{c}#{v}#{t}", "class_id": head.items["class_id"][c], "variant": v,
         "template_id": t, "text": f"{v} {c // 2}"}
        for c, v, t in made
    ]  # fmt: skip
    names = write_set(root, np.array(rows), item_table(items, "class_name"), dataset="l",
                      kind="class_name", encoder="st:t", space={"t": 1})  # fmt: skip
    return head, open_store(root).view(names)


def test_a_head_is_fitted_on_name_and_definition_and_asked_for_by_name(described):
    head, names = described
    made = HeadTexts.of(head, names, asked=ASKED)
    assert made.variants == ("name", "definition")
    both = names.class_texts(["name", "definition"], ["none", "photo"])
    assert made.pairs.y.tobytes() == both.numpy().tobytes()
    assert made.pairs.asked.tobytes() == names.class_texts(*ASKED).numpy().tobytes()
    # Names decide what is left out together, whatever is fitted on.
    assert len(np.unique(made.pairs.row_groups)) == CLASSES // 2
    alone = HeadTexts.of(head, names, asked=ASKED, variants=("definition",))
    assert np.array_equal(alone.pairs.row_groups, made.pairs.row_groups)
    assert HeadTexts.of(head, names, asked=ASKED, variants=("name",)).pairs.asked is None


def test_texts_of_a_head_are_chosen_by_left_out_classes_asked_for_by_name(described):
    head, names = described
    chosen = HeadTexts.of(head, names, asked=ASKED, variants=("auto",))
    assert set(chosen.scores) == {
        "name", "lemmas", "definition", "name,definition", "lemmas,definition"
    }  # fmt: skip
    for variants, score in chosen.scores.items():
        own = HeadTexts.of(head, names, asked=ASKED, variants=variants.split(","))
        prepared = prepare(own.pairs, None, None).prototypes
        found = choose_on_prototypes(prepared, rng=np.random.default_rng(0))
        assert found.score == pytest.approx(score)
        assert score <= chosen.scores[",".join(chosen.variants)]
