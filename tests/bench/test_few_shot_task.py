"""The few-shot task by scikit-learn and by hand, and its suite with the table."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from bench import read_results, run_all
from bench.corpus import Head, first_per_class, in_class_split, manifest_split
from bench.errors import ProtocolError
from bench.fits import Identity
from bench.options import FewShot
from bench.results import read_ranks
from bench.statistics import DrawSums, proportion_interval
from bench.suites.few_shot import few_shot_runs, few_shot_table
from bench.tasks.ranked import score_few_shot
from featstore import open_store
from fitters.few_shot.learner import ClassMeans
from tests.bench.paper_store import BEIT1, CLIP, ROBERTA, Builder
from tests.bench.test_zero_shot import items
from tests.oracles import unit


def problem(rng, per_class=14, c=6, d=8):
    centres = rng.normal(size=(c, d))
    labels = np.repeat(np.arange(c), per_class)
    rows = centres[labels] + 0.8 * rng.normal(size=(len(labels), d))
    names = np.array([f"class-{i}" for i in range(c)])
    images = items([f"i{i:03d}" for i in range(len(labels))], names[labels], rows)
    texts = items(names, names, unit(centres + 0.3 * rng.normal(size=centres.shape)))
    return images, texts


@pytest.mark.parametrize("fraction", [0.05, 0.6, 0.95])
@given(labels=st.lists(st.integers(0, 6), min_size=2, max_size=60), seed=st.integers(0, 99))
def test_both_sides_of_an_in_class_split_know_every_class_of_two_images(fraction, labels, seed):
    classes = np.array(labels)
    split = in_class_split(classes, seed=seed, train_fraction=fraction)
    assert sorted([*split.train, *split.test]) == list(range(len(classes)))
    for c in set(labels):
        n = (classes == c).sum()
        n_train = (classes[split.train] == c).sum()
        assert n_train == 1 if n == 1 else 1 <= n_train < n
        if 1 <= round(fraction * n) < n:
            assert n_train == round(fraction * n)
    again = in_class_split(classes, seed=seed, train_fraction=fraction)
    np.testing.assert_array_equal(split.train, again.train)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=50), st.integers(0, 9))
def test_shots_are_nested_and_validation_is_none_of_them(labels, seed):
    classes = np.array(labels)
    order = np.random.default_rng(seed).permutation(len(classes))
    few, many = (first_per_class(order, classes, n) for n in (2, 5))
    assert set(few) <= set(many)
    assert not set(many) & set(first_per_class(order, classes, 3, after=5))
    for c in set(labels):
        own = [place for place in order if classes[place] == c]
        assert [place for place in few if classes[place] == c] == own[:2]


def test_the_manifests_split_is_taken_as_it_is():
    parts = np.array(["test", "train", "", "val", "train", "test"])
    split = manifest_split(parts, seed=3, train=("train",))
    assert split.test.tolist() == [0, 5]
    assert sorted(split.train) == [1, 4]
    assert sorted(manifest_split(parts, seed=3, train=("train", "val")).train) == [1, 3, 4]
    orders = {tuple(manifest_split(np.repeat(parts, 5), seed=s, train=("train",)).train)
              for s in range(3)}  # fmt: skip
    assert len(orders) == 3
    with pytest.raises(ProtocolError, match=r"of split 'test' \(splits: 'train', 'val'\)"):
        manifest_split(parts[1:5], seed=0, train=("train",))
    with pytest.raises(ProtocolError, match="'test' is scored: name others"):
        manifest_split(parts, seed=0, train=("train", "test"))


def test_a_probe_through_the_task_is_sklearns_on_the_same_shots(rng):
    images, _ = problem(rng)
    split = in_class_split(images.classes, seed=1)
    options = FewShot(shots=3, learner="ridge-probe", prototypes="none")
    (outcome,) = score_few_shot(Identity(), images, split, options=options)
    assert outcome.queries.question.clusters.tolist() == images.ids[split.test].tolist()
    assert (outcome.facts["n_shots"], outcome.facts["n_validation"]) == (18, 18)
    chosen = first_per_class(split.train, images.classes, 3)
    x, labels = unit(images.rows[chosen]).astype(np.float64), images.classes[chosen]
    known = np.unique(images.classes)
    alpha = outcome.facts["learner_penalty"] * np.sum((x - x.mean(axis=0)) ** 2) / x.shape[1]
    model = Ridge(alpha=alpha).fit(x, (labels[:, None] == known).astype(float))
    said = known[model.predict(unit(images.rows[split.test])).argmax(axis=1)]
    right = said == images.classes[split.test]
    assert outcome.values["top-1"] == pytest.approx(right.mean())
    assert right.mean() > 0.5


def test_no_shots_are_zero_shot(rng):
    images, texts = problem(rng)
    split = in_class_split(images.classes, seed=0)
    (outcome,) = score_few_shot(Identity(), images, split, names=texts, options=FewShot(shots=0))
    said = texts.classes[(unit(images.rows[split.test]) @ texts.rows.T).argmax(axis=1)]
    assert outcome.values["top-1"] == pytest.approx((said == images.classes[split.test]).mean())


def test_classes_that_nobody_taught_are_refused(rng):
    images, texts = problem(rng)
    split = in_class_split(images.classes, seed=0)
    cut = type(split)(split.train[images.classes[split.train] != "class-2"], split.test)
    with pytest.raises(ProtocolError, match=r"1 classes .* have no training image"):
        score_few_shot(Identity(), images, cut, options=FewShot(prototypes="none"))
    score_few_shot(Identity(), images, cut, names=texts, options=FewShot())
    with pytest.raises(ProtocolError, match="need the names of the classes"):
        score_few_shot(Identity(), images, split, options=FewShot())


def test_one_class_is_refused_as_zero_shot_refuses_it(rng):
    images, texts = problem(rng)
    images, texts = (side.take(side.classes == "class-0") for side in (images, texts))
    split = in_class_split(images.classes, seed=0)
    for prototypes in ("names", "none"):
        options = FewShot(shots=2, prototypes=prototypes)
        with pytest.raises(ProtocolError, match=r"two classes or more; here is 1 class, .*100 %"):
            score_few_shot(Identity(), images, split, names=texts, options=options)


@pytest.mark.parametrize(("asked", "real"), [(0, 0), (3, 3), (8, 8), (100, 8)])
def test_shots_that_no_class_has_are_counted_as_what_there_is(rng, asked, real):
    images, texts = problem(rng)
    split = in_class_split(images.classes, seed=0)
    options = FewShot(shots=asked)
    (outcome,) = score_few_shot(Identity(), images, split, names=texts, options=options)
    assert (outcome.facts["shots"], outcome.facts["n_shots"]) == (real, 6 * real)


def head_of(texts, extra=3):
    """A head whose rows are those of the texts and some more, in another order."""
    rows = np.concatenate([texts.rows, np.ones((extra, texts.rows.shape[1]))]).astype(np.float32)
    classes = np.append(texts.classes, [f"other-{i}" for i in range(extra)])
    order = np.random.default_rng(2).permutation(len(rows))
    return Head(5 * rows[order], np.zeros(len(rows), np.float32), rows[order], classes[order],
                classes[order])  # fmt: skip


def test_prototypes_may_be_rows_of_a_head(rng):
    images, texts = problem(rng)
    split = in_class_split(images.classes, seed=0)
    head = head_of(texts)
    for shots in (0, 2):
        values = []
        for source in ("names", "head"):
            options = FewShot(shots=shots, prototypes=source)
            (outcome,) = score_few_shot(
                Identity(), images, split, names=texts, head=head, options=options
            )
            values.append(outcome.values)
        # Head rows are the names' own here, five times as long.
        assert values[0] == pytest.approx(values[1])
    options = FewShot(prototypes="head")
    with pytest.raises(ProtocolError, match="from a head need one"):
        score_few_shot(Identity(), images, split, names=texts, options=options)
    strange = replace(head, classes=np.char.add("not-", head.classes))
    with pytest.raises(ProtocolError, match=r"6 of 6 classes have no row in the head \(first: 'c"):
        score_few_shot(Identity(), images, split, names=texts, head=strange, options=options)


class Recorder:
    """A learner that keeps what it was given."""

    needs = ("texts", "head")

    def fit(self, shots):
        self.seen = shots
        return ClassMeans().fit(shots)


class Views:
    """Two views of an image: itself, and itself a little longer and turned."""

    def __init__(self, images):
        self.rows = dict(zip(images.ids.tolist(), images.rows, strict=True))

    def of(self, ids):
        raw = np.stack([self.rows[name] for name in ids])
        return np.stack([raw, 2 * np.roll(raw, 1, axis=1)], axis=1)


def test_what_the_task_hands_a_learner_holds_no_image_twice(rng):
    images, texts = problem(rng)
    split, learner = in_class_split(images.classes, seed=0), Recorder()
    score_few_shot(
        Identity(), images, split, names=texts, head=head_of(texts), views=Views(images),
        options=FewShot(shots=2, prototypes="none"), make_learner=lambda _: learner,
    )  # fmt: skip
    seen = learner.seen
    rows, held = ({row.tobytes() for row in side} for side in (seen.x, seen.validation_x))
    assert (len(rows), len(held)) == (2 * 6, 2 * 6)
    assert not rows & held
    unit_test = unit(images.rows[split.test]).astype(np.float32)
    assert not (rows | held) & {row.tobytes() for row in unit_test}
    raw = images.rows[first_per_class(split.train, images.classes, 2)]
    assert seen.prototypes is None
    np.testing.assert_allclose(seen.lengths, np.linalg.norm(raw, axis=1), rtol=1e-6)
    turned = np.stack([raw, 2 * np.roll(raw, 1, axis=1)], axis=1)
    np.testing.assert_allclose(seen.views, turned, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(seen.texts, texts.rows)
    assert seen.head.x.shape == (9, 8)
    np.testing.assert_allclose(np.linalg.norm(seen.head.x, axis=1), 1, rtol=1e-5)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Three datasets: pets with a split and one model's names, own with a head of its classes, and
    lone, whose classes have one image each."""
    root = tmp_path_factory.mktemp("few") / "store"
    make = Builder(root)
    make.images("pets", CLIP, 4, 10, ["train", "test"] * 5)
    make.images("own", BEIT1, 4, 8, ["train"] * 8)
    make.images("lone", CLIP, 4, 1, ["train"])
    make.head("own", BEIT1, 4)
    for dataset, encoder in (("pets", CLIP), ("own", ROBERTA), ("lone", CLIP)):
        make.names(dataset, encoder, 4)
    return root


@pytest.fixture(scope="module")
def results(store, tmp_path_factory):
    root = tmp_path_factory.mktemp("results")
    runs = few_shot_runs(open_store(store), shots=[1, 4], learners=["class-means", "gda", "proker"])
    run_all([r for r in runs if r.seed < 2 or "pets" in r.data.image_set], store, root)
    return root


def test_the_table_names_the_shots_that_the_largest_class_had(store, tmp_path):
    (run,) = few_shot_runs(open_store(store), dataset="pets", shots=[4], learners=["gda"])[:1]
    run_all(
        [run.changed(options=FewShot(shots=n, learner="gda")) for n in (4, 50)], store, tmp_path
    )
    table = few_shot_table(tmp_path, read_results(tmp_path))
    # Five of the ten images of each of four classes are for training.
    assert table.select("shots", "n_shots").rows() == [(4, 16.0), (5, 20.0)]


def test_the_table_has_means_with_intervals_over_draws_and_clusters(results):
    rows = read_results(results)
    table = few_shot_table(results, rows)
    assert table.height == 3 * 2 * 3
    assert table["learner"].to_list() == ["class-means", "gda", "proker"] * 6
    assert table["shots"].to_list() == [1, 1, 1, 4, 4, 4] * 3
    row = table.row(
        by_predicate=(pl.col("dataset") == "pets") & (pl.col("learner") == "gda")
        & (pl.col("shots") == 4),
        named=True,
    )  # fmt: skip
    own = rows.filter(
        pl.col("image_set").str.starts_with("pets/"), learner="gda", shots=4, metric="top-1"
    )
    ranks = read_ranks(results, own["run_id"].to_list())
    hits = (ranks["rank"] == 1).cast(pl.Float64).to_numpy()
    sums = DrawSums.of(hits, ranks["run_id"].to_numpy(), ranks["cluster_id"].to_numpy())
    # 16 shots of a pool of 20 training images.
    low, high = proportion_interval(sums, overlap=16 / 20)
    assert row["top-1"] == pytest.approx(hits.mean())
    assert (row["low"], row["high"]) == (pytest.approx(low), pytest.approx(high))
    assert (row["n_seeds"], row["n_clusters"], row["clusters_of"]) == (10, 20, "images")
    assert (row["n_shots"], row["overlap"], row["gallery"]) == (16, 0.8, 4)
    assert row["seconds"] == pytest.approx(own["learner_seconds"].mean())
    assert row["top-1"] > 0.5
    assert set(own["n_views"]) == {1}
    assert set(own["learner_folds"]) == {5.0}
