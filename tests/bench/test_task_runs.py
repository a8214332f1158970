"""Every task from its run to its rows: on the smoke store, and on a pair of one model."""

import shutil

import numpy as np
import polars as pl
import pytest

from bench.corpus import ImageViews, read_corpus
from bench.errors import ProtocolError
from bench.options import FewShot, Neighbours, ZeroShot
from featstore import open_store
from featstore.images import view_items
from featstore.testing import write_set
from tests.bench import paper_store
from tests.bench.paper_store import CLIP, Builder
from tests.bench.test_evaluation import SETS
from tests.oracles import unit
from tests.shorthand import execute, task_runs

FITTED = {"method": "procrustes", "source": "head"}


def scored(store, task, **request):
    (run,) = task_runs(store, task, **request)
    ((_, rows, ranks),) = execute([run], read_corpus(store, run))
    return rows, ranks


def outcome_rows(store, task, **changes):
    return scored(store, task, **(SETS | FITTED | changes))


@pytest.fixture(scope="module")
def store_with_views(smoke_store, tmp_path_factory):
    """The smoke store and three views of every image."""
    root = tmp_path_factory.mktemp("views") / "store"
    shutil.copytree(smoke_store, root)
    copy = open_store(root)
    images = copy.view(SETS["images"])
    views = view_items(images.items.with_columns(content_sha256=pl.col("item_id")), views=3, seed=0)
    rows = np.repeat(images.numpy(), 3, axis=0)
    rows += 0.5 * np.random.default_rng(0).normal(size=rows.shape).astype(np.float32)
    space = copy.info(SETS["images"]).attributes["space"]
    own = {"dataset": "smoke.views3-seed0", "encoder": "synthetic", "space": space}
    write_set(root, rows, views, **own)
    return open_store(root)


@pytest.fixture(scope="module")
def store_with_layers(smoke_store, tmp_path_factory):
    """The smoke store and more sets of its images: another space and noise.

    Their items stand in another order than the images; those of "sorted-…" do not.
    """
    root = tmp_path_factory.mktemp("layers") / "store"
    shutil.copytree(smoke_store, root)
    images = open_store(root).view(SETS["images"])
    rng = np.random.default_rng(0)
    rows = images.numpy()
    order = rng.permutation(len(rows))
    near = rows @ rng.normal(size=(rows.shape[1], 20)) + rng.normal(size=(len(rows), 20))
    for name, given in (("near", near), ("noise", rng.normal(size=(len(rows), 500)))):
        for prefix, kept in (("", order), ("sorted-", np.arange(len(rows)))):
            write_set(
                root, given[kept].astype(np.float32), images.items[kept], dataset="smoke",
                encoder=prefix + name,
            )  # fmt: skip
    return open_store(root)


LAYERS = "smoke/image/near, smoke/image/noise"
CLASS_MEANS = {
    "method": "identity", "source": "none", "head": "", "head_names": "",
    "options": Neighbours("class-means", k=(3,)),
}  # fmt: skip


def by_direction(rows, column="value"):
    found = {}
    for direction, metric, value in rows.select("direction", "metric", column).iter_rows():
        found.setdefault(direction, {})[metric] = value
    return found


@pytest.mark.parametrize("changes", [{}, {"eval": "in-class"}, {"limit": 60}])
@pytest.mark.parametrize("of", ["class-means", "pairs"])
def test_layers_are_compared_each_and_their_best_against_the_search(store_with_layers, of, changes):
    changes = CLASS_MEANS | {"options": Neighbours(of, k=(3,))} | changes
    direction = {"class-means": "class-mean~name", "pairs": "image~caption"}[of]
    rows, _ = outcome_rows(store_with_layers, "neighbours", layers=LAYERS, **changes)
    found = by_direction(rows)
    keys = rows["layer_sets"][0].split(",")
    assert list(found) == [
        direction, *(f"{direction} ({key})" for key in keys), f"{direction} (best of 3)",
    ]  # fmt: skip
    # One by one they give the same: layers take nothing from the generator before, and their
    # images are found by id.
    alone = [SETS["images"], "smoke/image/sorted-near", "smoke/image/sorted-noise"]
    each = list(found.values())[:3]
    for key, own in zip(alone, each, strict=True):
        same, _ = outcome_rows(store_with_layers, "neighbours", images=key, **changes)
        assert by_direction(same)[direction] == pytest.approx(own, abs=1e-6)
    best = found[f"{direction} (best of 3)"]
    for metric in ("mutual-knn@3", "CKA", "CKA-unbiased", "CCA"):
        assert best[metric] == pytest.approx(max(one[metric] for one in each), abs=1e-5)
        assert best[f"{metric}-p"] >= min(one[f"{metric}-p"] for one in each)
    # 500 columns of noise look alike to biased CKA, whose chance says so.
    noise, chance = each[2], list(by_direction(rows, "chance").values())[2]
    assert noise["CKA"] > 0.2
    assert noise["CKA"] == pytest.approx(chance["CKA"], abs=0.08)
    assert min(noise["CKA-p"], noise["mutual-knn@3-p"]) > 0.01
    assert each[0]["CKA-p"] == each[1]["CKA-p"] == 1 / 200


def test_views_are_read_for_shots_and_never_scored(store_with_views):
    few = {"eval": "in-class", "options": FewShot(4, "tip-adapter", prototypes="none")}
    plain, _ = outcome_rows(store_with_views, "few_shot", **few)
    seen, ranks = outcome_rows(
        store_with_views, "few_shot", views="smoke.views3-seed0/image/synthetic", **few
    )
    assert seen["n_queries"].to_list() == plain["n_queries"].to_list()
    assert not ranks["query_id"].str.contains("@v").any()
    assert seen["value"].to_list() != plain["value"].to_list()
    views = ImageViews(store_with_views.view("smoke.views3-seed0/image/synthetic"))
    images = store_with_views.view(SETS["images"])
    found = views.of(images.items["item_id"].to_numpy()[[7, 3]])
    assert found.shape == (2, 3, images.numpy().shape[1])
    np.testing.assert_allclose(found.mean(axis=1), images.numpy()[[7, 3]], atol=1.5)


def test_two_spaces_as_they_are_are_not_compared(store):
    for task in ("zero_shot", "retrieval"):
        with pytest.raises(ProtocolError, match="of one model's two towers"):
            outcome_rows(store, task, method="identity", source="none")
    # What looks at one side, or at each by itself, needs no aligner.
    outcome_rows(store, "neighbours", method="identity", source="none")
    options = FewShot(prototypes="none")
    outcome_rows(
        store, "few_shot", method="identity", source="none", eval="in-class", options=options
    )


PAIR = {"images": "d/image", "names": "d/class_name", "templates": ("none",)}
HEAD = {"images": "d/image", "head": "d/head_weight", "head_names": "d/class_name",
        "templates": ("none",)}  # fmt: skip


def write_pair(root):
    """Images, names and a head as the two towers of one checkpoint leave them; return the rows."""
    make = Builder(root)
    make.images("d", CLIP, 9, 5, ["train", "train", "train", "test", "test"])
    make.names("d", CLIP, 9)
    make.head("d", CLIP, 9)
    store = open_store(root)
    images, head = store.view("d/image"), store.view("d/head_weight").numpy()
    names = store.view("d/class_name").where(template_id="none").numpy()
    return store, images.numpy(), names, head, np.repeat(np.arange(9), 5), images.items["split"]


def test_a_pair_scores_its_own_embeddings_with_no_aligner(tmp_path, monkeypatch):
    store, images, names, _, owner, split = write_pair(tmp_path / "one")
    right = (unit(images) @ unit(names).T).argmax(axis=1) == owner
    for more, asked in (({}, right), ({"eval": "split"}, right[split.to_numpy() == "test"])):
        rows, _ = scored(store, "zero_shot", **PAIR, **more)
        assert by_direction(rows)["image→name"]["top-1"] == pytest.approx(asked.mean())
        assert {*rows["n_queries"]} == {len(asked)}
    # Towers of two checkpoints are no pair.
    own = iter(("checkpoint-1", "checkpoint-2", "checkpoint-1"))
    monkeypatch.setattr(paper_store, "space_of", lambda *_: {"pair": next(own)})
    store, *_ = write_pair(tmp_path / "two")
    with pytest.raises(ProtocolError, match="of one model's two towers"):
        scored(store, "zero_shot", **PAIR)


def test_a_head_is_read_as_it_is_and_by_the_cosine(tmp_path):
    store, images, _, head, owner, _ = write_pair(tmp_path)
    found = by_direction(scored(store, "cosine_head", **HEAD)[0])
    for name, weight in (("linear", head), ("cosine", unit(head))):
        right = (images @ weight.T).argmax(axis=1) == owner
        assert found[f"image→class ({name})"]["top-1"] == pytest.approx(right.mean())
    # The dataset is the head's own label set, so that no class of it is unseen.
    with pytest.raises(ProtocolError, match="No image is of a class that is unseen"):
        scored(store, "zero_shot", **(PAIR | HEAD), options=ZeroShot(classes="unseen"))
