from dataclasses import replace

import numpy as np
import pytest

from bench.corpus import Corpus, Items, read_corpus
from bench.errors import ProtocolError
from bench.fits import fit_run, prototype_pairs, real_pairs
from bench.protocol import first_pairs, held_out_split
from bench.scoring import Scoring
from bench.tasks.zero_shot import score_zero_shot
from featstore import open_store
from fitters import PRESETS, fit_alignment
from fitters.methods import METHODS
from fitters.prototypes import adapted_prototypes
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


def test_controls_keep_what_they_promise_and_follow_the_seed(run, corpus):
    head, bias = prototype_pairs(run, corpus)
    np.testing.assert_array_equal(head.x, corpus.head.weight)
    np.testing.assert_array_equal(bias, corpus.head.bias)
    random, _ = prototype_pairs(run.changed(source="random"), corpus)
    norms = [np.linalg.norm(rows, axis=1) for rows in (random.x, head.x)]
    np.testing.assert_allclose(norms[0], norms[1], rtol=1e-5)
    shuffled, _ = prototype_pairs(run.changed(source="shuffled"), corpus)
    np.testing.assert_array_equal(shuffled.y, head.y)
    assert not (shuffled.x == head.x).all(axis=1).any()
    np.testing.assert_array_equal(np.unique(shuffled.x, axis=0), np.unique(head.x, axis=0))
    again, _ = prototype_pairs(run.changed(source="random"), corpus)
    other, _ = prototype_pairs(run.changed(source="random", seed=2), corpus)
    np.testing.assert_array_equal(random.x, again.x)
    assert not np.allclose(random.x, other.x)


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
    # Of kernel ridge also the width; with real pairs also the mixing weight.
    assert compared == 1 + (method == "kernel-ridge") + (n_pairs > 0)
    assert control["choice"]["scores"] != head["choice"]["scores"]
    assert control["grid"] == "given"
    assert "grid" not in head


def test_a_control_does_not_follow_its_noise_off_the_grid(run, corpus, split):
    # Alone, the grid of this control widens past that of the head.
    run = run.changed(method="kernel-ridge", source="random", n_pairs=0)
    shared = fit_run(run, corpus, split).alignment.facts["choice"]
    prototypes, _ = prototype_pairs(run, corpus)
    alone = fit_alignment("kernel-ridge", prototypes=prototypes, rng=np.random.default_rng(0))
    assert min(alone.facts["choice"]["penalties"]) < min(shared["penalties"])


def test_a_head_is_needed_for_prototypes(run, corpus):
    with pytest.raises(
        ProtocolError, match=r"takes prototypes from a classification head, .*--head"
    ):
        fit_run(run, replace(corpus, head=None), None)


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


def test_the_fit_is_the_recipes_on_the_pairs_of_the_split(run, corpus, split, rng):
    run = run.changed(penalty=0.3, mix=2.0)
    fitted = fit_run(run, corpus, split)
    images = first_pairs(split, 8)
    unlabelled = corpus.images.rows[split.train].astype(np.float64)
    mean = (unlabelled / np.linalg.norm(unlabelled, axis=1, keepdims=True)).mean(axis=0)
    prototypes, _ = prototype_pairs(run, corpus)
    expected = fit_alignment(
        "ridge", prototypes=prototypes, real=real_pairs(corpus, images), image_mean=mean,
        penalty=0.3, mix=2.0, rng=rng,
    )  # fmt: skip
    np.testing.assert_allclose(
        fitted.alignment.project_x(corpus.images.rows),
        expected.project_x(corpus.images.rows),
        atol=1e-6,
    )


def test_facts_say_what_was_used_and_chosen(run, corpus, split):
    facts = fit_run(run, corpus, split).facts
    assert (facts["n_images_fitted"], facts["n_prototypes"]) == (8, 120)
    assert facts["image_mean"] == "training images"
    assert facts["penalty_chosen"] > 0
    assert facts["mix_chosen"] > 0
    assert facts["penalty_at_edge"] in (True, False)
    assert facts["flat_choice"] in (True, False)
    assert "flat_choice" not in fit_run(run.changed(penalty=0.3, mix=2.0), corpus, split).facts
    alone = fit_run(run.changed(source="none"), corpus, split).facts
    assert alone["n_prototypes"] == 0
    assert alone["mix_chosen"] is None
    every = fit_run(run.changed(n_pairs="all"), corpus, split).facts
    assert every["n_images_fitted"] == len(split.train)


def test_all_names_is_centred_by_the_images_themselves_and_says_so(runs, corpus):
    ridge = next(
        r
        for r in runs
        if (r.protocol.eval, r.fit.method, r.protocol.source) == ("all-names", "ridge", "head")
    )
    fitted = fit_run(ridge, corpus, None)
    assert fitted.facts["image_mean"] == "evaluated images"
    assert fit_run(runs[0], corpus, None).facts["image_mean"] == "none"


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
        ({"eval": "all-names", "n_pairs": 0}, "no others to adapt"),
        ({"source": "none"}, "has none"),
        ({"method": "conse", "n_pairs": 0}, "own rows with their bias"),
    ):
        with pytest.raises(ProtocolError, match=match):
            adapted.changed(**change)


def test_too_many_pairs_are_refused(run, corpus, split):
    with pytest.raises(ProtocolError, match="Ask for fewer"):
        fit_run(run.changed(n_pairs=1000), corpus, split)


@pytest.mark.parametrize("method", [m for m in METHODS if METHODS[m].rows.texts != "raw"])
def test_every_method_runs_and_scores(run, corpus, split, method, monkeypatch):
    if method in PRESETS:
        small = {"width": 16} if method == "icis" else {}
        settings = PRESETS[method].settings | small
        few = replace(PRESETS[method], settings=settings, epochs=lambda _: 2)
        monkeypatch.setitem(PRESETS, method, few)
    real = run.protocol.n_pairs if method != "conse" else 0
    fitted = fit_run(run.changed(method=method, n_pairs=real), corpus, split)
    # What is not fitted to pairs of columns cannot beat chance; it still has to be scored.
    outcome = score_zero_shot(fitted.alignment, corpus.images, corpus.names)
    hits = outcome[0] if isinstance(outcome, list) else outcome
    assert 0 < hits.values["MRR"] <= 1
    assert fitted.facts["n_prototypes"] == len(corpus.head.weight)
