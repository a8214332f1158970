"""Real pairs of one data set, scored on the names of another: beside a fit made by hand."""

import numpy as np
import pytest
from sklearn.preprocessing import normalize

from bench import read_ranks, read_results
from featstore import open_store
from fitters import Pairs, fit
from tests.assertions import assert_close
from tests.bench.paper_store import BEIT21, ROBERTA, Builder
from tests.typed import headstock

B, R = "beit_base_patch16_224.in22k_ft_in22k", "all-roberta-large-v1"
SPLITS = ["train", "train", "train", "val", "test", "test"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Pets to be scored, captioned pictures and labelled things to train on, and a head."""
    root = tmp_path_factory.mktemp("pairs") / "store"
    make = Builder(root)
    make.head("things", BEIT21, 30)
    make.images("things", BEIT21, 30, 6, SPLITS)
    make.images("pets", BEIT21, 8, 6, SPLITS)
    for dataset, n in (("things", 30), ("pets", 8)):
        make.names(dataset, ROBERTA, n)
    make.captioned("flickr30k", BEIT21, ROBERTA, 60, 20, 3)
    return root


def rows_of(store, key, **where):
    view = open_store(store).view(key)
    return view.where(**where) if where else view


def by_hand(store, source, k):
    """The fit on pairs of the other data set, and the rank of every image's own name."""
    if k == "captions":
        images = rows_of(store, f"flickr30k/image/{B}", split="train")
        texts = rows_of(store, f"flickr30k/caption/{R}")
        owner = {name: row for row, name in enumerate(images.items["item_id"])}
        own = [owner.get(name, -1) for name in texts.items["parent_id"]]
        kept = np.array(own) >= 0
        x, y = images.numpy()[np.array(own)[kept]], texts.numpy()[kept]
        real = Pairs(x, y, np.array(own)[kept], np.full(len(x), 1 / 3))
    else:
        images = rows_of(store, f"things/image/{B}", split="train")
        names = rows_of(store, f"things/class_name/{R}", variant="name", template_id="photo")
        classes, code = np.unique(images.items["class_id"].to_numpy(), return_inverse=True)
        means = np.stack([images.numpy()[code == c].mean(axis=0) for c in range(len(classes))])
        place = {name: row for row, name in enumerate(names.items["class_id"])}
        real = Pairs(means, normalize(names.numpy()[[place[c] for c in classes]]), classes)
    head = None
    if source == "head":
        weight = rows_of(store, f"things/head_weight/{B}")
        texts = rows_of(store, f"things/class_name/{R}", variant="name", template_id="none")
        assert weight.items["class_id"].to_list() == texts.items["class_id"].to_list()
        head = Pairs(weight.numpy(), normalize(texts.numpy()), weight.items["class_id"].to_numpy())
    fitted = fit(
        "ridge", prototypes=head, real=real, image_mean=normalize(images.numpy()).mean(axis=0),
        penalty=0.3, mix=2.0, rng=np.random.default_rng(0),
    )  # fmt: skip
    scored = rows_of(store, f"pets/image/{B}")
    names = rows_of(store, f"pets/class_name/{R}", variant="name", template_id="photo")
    scores = fitted.project_x(scored.numpy()) @ fitted.project_y(normalize(names.numpy())).T
    column = {name: row for row, name in enumerate(names.items["class_id"])}
    own = np.array([column[name] for name in scored.items["class_id"]])
    better = (scores > scores[np.arange(len(own)), own][:, None]).sum(axis=1)
    return dict(zip(scored.items["item_id"], better + 1, strict=True))


@pytest.mark.parametrize("source", ["none", "head"])
@pytest.mark.parametrize("k", ["captions", "class means"])
def test_a_fit_on_pairs_of_another_data_set_is_the_one_made_by_hand(store, tmp_path, source, k):
    of_pairs = {
        "captions": ["--captions", f"flickr30k/caption/{R}", "--n-pairs", "all"],
        "class means": ["--captions", f"things/class_name/{R}", "-s", "pairs_per_class=3"],
    }[k]
    mix = ["-s", "mix=2"] if source == "head" else []
    command = [
        "eval", "task", "zero_shot", "--images", f"pets/image/{B}", "--names",
        f"pets/class_name/{R}", "--store", str(store), "-o", str(tmp_path), "--prompts", ":photo",
        *of_pairs, "--head", f"things/head_weight/{B}", "--head-names", f"things/class_name/{R}",
        "--head-prompts", ":none", "--source", source, "--method", "ridge", "-s", "penalty=0.3",
    ]  # fmt: skip
    assert headstock(*command, *mix) == 0
    rows = read_results(tmp_path)
    ranks = read_ranks(tmp_path, rows["run_id"].unique())
    hand = by_hand(store, source, k)
    # Every image is scored, by its own name among all: none of them was trained on.
    assert dict(ranks.select("query_id", "rank").iter_rows()) == hand
    top = rows.filter(metric="top-1")
    assert_close(top["value"].to_numpy(), [np.mean([rank == 1 for rank in hand.values()])])
    assert set(rows["n_images_fitted"]) == {32 if k == "captions" else 90}
    assert len(set(rows["pairs_from"])) == 1
