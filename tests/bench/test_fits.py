from dataclasses import replace

import numpy as np
import pytest

from bench.corpus import Corpus, Items, first_pairs, held_out_split, read_corpus
from bench.errors import ProtocolError
from bench.execution import Scoring
from bench.fits import fit_run, prototype_pairs, real_pairs
from featstore import open_store
from fitters import Pairs, fit
from fitters.prototypes import adapted_prototypes
from fitters.sources import SideTransform
from tests.bench.results_by_hand import has


@pytest.fixture(scope="module")
def corpus(smoke_store, runs):
    return read_corpus(open_store(smoke_store), runs[0])


@pytest.fixture
def split(corpus):
    return held_out_split(corpus.images.classes, seed=1)


@pytest.fixture
def run(runs):
    wanted = {"eval": "held-out", "method": "ridge", "source": "head", "n_pairs": 8, "seed": 1}
    return next(run for run in runs if has(run, **wanted))


def test_captions_of_an_image_share_its_mass(rng):
    images = Items(np.array(["i0", "i1", "i2"]), np.array(["a", "b", "a"]), rng.normal(size=(3, 4)))
    parents = np.array(["i2", "i0", "i2", "i1", "i2"])
    captions = Items(np.arange(5).astype(str), parents, rng.normal(size=(5, 3)), parents)
    pairs = real_pairs(Corpus(images, images, captions), np.array([2, 0]))
    # Image 2 first, with its three captions in their order, then image 0 with one.
    np.testing.assert_array_equal(pairs.x, images.rows[[2, 2, 2, 0]])
    np.testing.assert_array_equal(pairs.y, captions.rows[[0, 2, 4, 1]])
    np.testing.assert_allclose(pairs.weight, [1 / 3, 1 / 3, 1 / 3, 1])
    assert pairs.groups.tolist() == ["a", "a", "a", "a"]


def test_an_image_without_a_caption_is_an_error(rng):
    images = Items(np.array(["i0", "i1"]), np.array(["a", "b"]), rng.normal(size=(2, 4)))
    captions = Items(np.array(["c"]), np.array(["a"]), rng.normal(size=(1, 3)), np.array(["i0"]))
    with pytest.raises(ProtocolError, match=r"1 images have no caption .first: 'i1'"):
        real_pairs(Corpus(images, images, captions), np.array([0, 1]))
    nameless = Items(*(column[:0] for column in (images.ids, images.classes, images.rows)))
    with pytest.raises(ProtocolError, match="and the run names no set of either"):
        real_pairs(Corpus(images, nameless), np.array([0]))


def test_images_without_captions_are_paired_with_the_texts_of_their_classes(run, corpus, split):
    """As class folders are: one text a class, the same for all its images."""
    bare = replace(corpus, captions=None)
    pairs = real_pairs(bare, split.train)
    place = {name: row for row, name in enumerate(corpus.names.classes.tolist())}
    own = corpus.images.classes[split.train]
    np.testing.assert_array_equal(pairs.x, corpus.images.rows[split.train])
    np.testing.assert_array_equal(pairs.y, corpus.names.rows[[place[name] for name in own]])
    np.testing.assert_array_equal(pairs.groups, own)
    fitted = fit_run(run.changed(caption_set="", caption_revision="", source="none"), bare, split)
    assert fitted.facts["n_images_fitted"] == 8
    described = replace(bare, pair_names=replace(corpus.names, rows=corpus.names.rows[::-1]))
    assert not np.array_equal(real_pairs(described, split.train).y, pairs.y)


def test_what_is_scored_is_the_corpus_of_the_test_images(run, corpus, split):
    """And whatever is not of images stays as it is."""
    whole = replace(corpus, pair_names=corpus.names, one_model=True)
    held = Scoring(whole, split).held_out(run)
    assert set(held.images.ids) == set(corpus.images.ids[split.test])
    assert set(held.captions.parents) == set(held.images.ids)
    assert set(held.names.classes) == set(held.images.classes)
    assert len(held.seen) == len(held.names)
    assert (held.head, held.pair_names, held.one_model) == (whole.head, whole.names, True)


def test_smaller_heads_are_parts_of_larger_ones(run, corpus):
    base = run.changed(n_pairs=0)
    whole, bias = prototype_pairs(base, corpus)
    of = {tuple(row): place for place, row in enumerate(whole.x.tolist())}
    for by in ("random", "nearest", "farthest"):
        places = []
        for size in (5, 20, 60):
            part, own = prototype_pairs(base.changed(head_size=size, head_by=by), corpus)
            places.append([of[tuple(row)] for row in part.x.tolist()])
            assert len(set(places[-1])) == size
            np.testing.assert_array_equal(part.y, whole.y[places[-1]])
            np.testing.assert_array_equal(own, bias[places[-1]])
        assert set(places[0]) < set(places[1]) < set(places[2])
        if by != "random":
            # An explicit loop over classes and names.
            near = [max(float(t @ name) for name in corpus.names.rows) for t in whole.y]
            order = sorted(
                range(whole.n), key=lambda c: (-near[c] if by == "nearest" else near[c], c)
            )
            assert set(places[1]) == set(order[:20])
    drawn = [prototype_pairs(base.changed(head_size=20, seed=s), corpus)[0].x for s in (1, 2)]
    assert not np.array_equal(*drawn)
    control, _ = prototype_pairs(base.changed(head_size=20, source="shuffled"), corpus)
    part, _ = prototype_pairs(base.changed(head_size=20), corpus)
    np.testing.assert_array_equal(np.unique(control.x, axis=0), np.unique(part.x, axis=0))
    with pytest.raises(ProtocolError, match="asks for 121 classes of the head; 120 are left"):
        prototype_pairs(base.changed(head_size=121), corpus)


def test_classes_that_the_images_have_are_left_out_by_name_and_by_text(run, corpus):
    head = corpus.head
    assert not head.in_gallery.any()  # the planted names are of two label sets
    named = np.arange(120) < 3
    texts = head.texts.copy()
    texts[10] = corpus.names.rows[4]
    taught = replace(corpus, head=replace(head, in_gallery=named, texts=texts))
    close = np.array([max(float(t @ name) for name in corpus.names.rows) > 0.9 for t in texts])
    assert close[10]
    left, _ = prototype_pairs(run.changed(leave_seen=True), taught)
    np.testing.assert_array_equal(left.x, head.weight[~(named | close)])
    few, _ = prototype_pairs(run.changed(leave_seen=True, head_size=4), taught)
    assert few.n == 4


def test_class_means_stand_in_for_the_head(run, corpus, split):
    """Of the very images of the real pairs, with the names of their classes."""
    found = fit_run(run.changed(source="class-means", penalty=0.3, mix=2.0), corpus, split)
    images = first_pairs(split, 8)
    classes = np.unique(corpus.images.classes[images])
    rows = [corpus.images.rows[images[corpus.images.classes[images] == c]] for c in classes]
    means = np.array([own.mean(axis=0) for own in rows])
    texts = corpus.names.rows[corpus.names.places_of(classes)]
    mean = SideTransform.fit([corpus.images.rows[split.train]]).mean
    expected = fit(
        "ridge", prototypes=Pairs(means, texts, classes), real=real_pairs(corpus, images),
        image_mean=mean, penalty=0.3, mix=2.0, rng=np.random.default_rng(0),
    )  # fmt: skip
    np.testing.assert_allclose(
        found.alignment.project_y(corpus.names.rows),
        expected.project_y(corpus.names.rows),
        atol=1e-5,
    )
    assert found.facts["n_prototypes"] == len(classes)


@pytest.mark.parametrize("source", ["class-means", "repeated", "mixup"])
@pytest.mark.parametrize("method", ["kernel-ridge", "ridge", "ridge-x2y", "cca", "procrustes"])
def test_a_control_made_of_the_pairs_chooses_as_the_pairs_alone(run, corpus, split, method, source):
    run = run.changed(method=method)
    alone = fit_run(run.changed(source="none"), corpus, split).alignment.facts["choice"]
    control = fit_run(run.changed(source=source), corpus, split).alignment.facts
    mix = {"mix": 1.0} if source == "class-means" else {}
    assert control["choice"] == alone | mix
    assert "grid" not in control
    if source == "class-means":
        # A weight that is given stays, and the choice of all else is the same.
        weighed = run.changed(source=source, mix=3.0)
        given = fit_run(weighed, corpus, split).alignment.facts["choice"]
        assert given == alone | {"mix": 3.0}


def test_class_means_of_noise_score_no_more_than_chance(run, corpus, split, rng):
    """Beside the mean of its own class no pair is held out, and every setting scores 1."""
    noise = rng.standard_normal(corpus.images.rows.shape).astype(np.float32)
    unrelated = replace(corpus, images=replace(corpus.images, rows=noise))
    for method in ("kernel-ridge", "ridge", "ridge-x2y"):
        means = run.changed(method=method, source="class-means", n_pairs=24)
        # Six texts a fold: a random order has a mean reciprocal rank of 0.41.
        assert fit_run(means, unrelated, split).alignment.facts["choice"]["score"] < 0.65


@pytest.mark.parametrize("n_pairs", [0, 8])
@pytest.mark.parametrize("source", ["random", "random-cov", "shuffled"])
@pytest.mark.parametrize("method", ["kernel-ridge", "ridge", "cca"])
def test_a_control_chooses_on_the_grid_of_the_head(run, corpus, split, method, source, n_pairs):
    run = run.changed(method=method, n_pairs=n_pairs)
    head = fit_run(run, corpus, split).alignment.facts
    control = fit_run(run.changed(source=source), corpus, split).alignment.facts
    compared = 0
    for choices in (
        (head["choice"], control["choice"]),
        (head["choice"].get("of_prototypes", {}), control["choice"].get("of_prototypes", {})),
    ):
        for name in ("penalties", "weights", "gammas"):
            assert choices[0].get(name) == choices[1].get(name)
            compared += name in choices[0]
    # Of kernel ridge also the width; of CCA, with real pairs, also the mixing weight.
    assert compared == ({"kernel-ridge": 2, "ridge": 1, "cca": 1 + (n_pairs > 0)})[method]
    assert control["choice"]["scores"] != head["choice"]["scores"]
    assert control["grid"] == "given"
    assert "grid" not in head


def test_a_control_does_not_follow_its_noise_off_the_grid(run, corpus, split):
    # Alone, the grid of this control widens past that of the head.
    run = run.changed(method="ridge", source="random", n_pairs=0)
    shared = fit_run(run, corpus, split).alignment.facts["choice"]
    prototypes, _ = prototype_pairs(run, corpus)
    alone = fit("ridge", prototypes=prototypes, rng=np.random.default_rng(0))
    assert set(alone.facts["choice"]["penalties"]) - set(shared["penalties"])


def test_nothing_that_is_scored_enters_the_fit(run, corpus, split, rng):
    probe = rng.normal(size=(5, corpus.images.rows.shape[1])).astype(np.float32)
    before = fit_run(run, corpus, split)
    rows = corpus.images.rows.copy()
    rows[split.test] = rng.normal(size=rows[split.test].shape)
    texts = corpus.captions.rows.copy()
    texts[split.test] = rng.normal(size=texts[split.test].shape)
    poisoned = replace(
        corpus,
        images=replace(corpus.images, rows=rows),
        captions=replace(corpus.captions, rows=texts),
        names=replace(corpus.names, rows=rng.normal(size=corpus.names.rows.shape)),
    )
    after = fit_run(run, poisoned, split)
    np.testing.assert_array_equal(
        before.alignment.project_x(probe), after.alignment.project_x(probe)
    )
    assert before.facts == after.facts


def test_rows_are_adapted_to_the_training_images_and_to_no_other(run, corpus, split):
    adapted = run.changed(head_rows="adapted")
    pairs, _ = prototype_pairs(adapted, corpus, split)
    head, _ = prototype_pairs(run, corpus, split)
    training = corpus.images.rows[split.train]
    np.testing.assert_array_equal(pairs.x, adapted_prototypes(head, training, corpus.head.bias).x)
    other = fit_run(adapted, corpus, split).alignment.project_y(corpus.names.rows)
    assert (
        np.abs(other - fit_run(run, corpus, split).alignment.project_y(corpus.names.rows)).max() > 0
    )
    # A control keeps the lengths of the adapted rows, or their names shuffled.
    shuffled, _ = prototype_pairs(adapted.changed(source="shuffled"), corpus, split)
    np.testing.assert_array_equal(np.sort(shuffled.x, axis=0), np.sort(pairs.x, axis=0))
    with pytest.raises(ProtocolError, match="no training image to adapt"):
        fit_run(adapted.changed(n_pairs=0), corpus, replace(split, train=split.train[:0]))
    for change, match in (
        ({"eval": "all-names", "n_pairs": 0}, "none is left to train on"),
        ({"source": "none"}, "has none"),
        ({"method": "conse", "n_pairs": 0}, "own rows with their bias"),
    ):
        with pytest.raises(ProtocolError, match=match):
            adapted.changed(**change)
