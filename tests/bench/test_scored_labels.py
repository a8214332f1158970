"""Labels of what is scored enter no number but the score: no mean, no fold and no prediction."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import issparse

from bench.corpus import Corpus, Head, Items, Split, held_out_split, read_corpus
from bench.execution import Scoring
from bench.fits import FEWEST, SCORED, TOO_FEW, fit_run
from bench.options import TASKS, FewShot
from bench.runs import Run
from bench.tasks.ranked import score_few_shot, score_zero_shot
from featstore import open_store
from fitters import Pairs, fit
from fitters.aligners.rotations import MiniVec2VecAligner
from fitters.methods import METHODS
from fitters.scorers import SCORERS
from fitters.sources import SideTransform
from tests.bench.results_by_hand import has

RUN = Run.of(
    suite="planted", task="zero_shot", eval="all-names", source="head", method="ridge", penalty=0.1,
    mix=1.0, image_set="a/image/x", image_revision="1" * 64, name_set="a/class_name/y",
    name_revision="2" * 64, head_set="b/head_weight/x", head_revision="3" * 64,
    head_name_set="b/class_name/y", head_name_revision="4" * 64,
)  # fmt: skip
HEAD, WIDTH, TEXT_WIDTH = 60, 48, 24


def falling(n_classes, n_images):
    """Sizes of classes that fall as 1 / rank, as those of found pictures do."""
    share = 1 / np.arange(1, n_classes + 1)
    return np.maximum(1, np.round(n_images * share / share.sum()).astype(int))


def planted(sizes, noise, seed=0):
    """Return a corpus whose images are a map of their name's text, with noise, and a second draw.

    The images have a common offset, which centring takes away.
    """
    rng = np.random.default_rng(seed)
    n = len(sizes)
    texts = rng.normal(size=(HEAD + n, TEXT_WIDTH)).astype(np.float32)
    prototypes = texts @ rng.normal(size=(TEXT_WIDTH, WIDTH)) / np.sqrt(TEXT_WIDTH)
    offset = 0.5 * rng.normal(size=WIDTH)
    weight = prototypes[:HEAD] + 0.5 * rng.normal(size=(HEAD, WIDTH))
    codes = np.repeat(np.arange(n), sizes)

    def draw():
        rows = prototypes[HEAD + codes] + offset + noise * rng.normal(size=(len(codes), WIDTH))
        return rows.astype(np.float32)

    names, called = (
        np.array([f"{of}{i:03d}" for i in range(k)]) for of, k in (("c", n), ("h", HEAD))
    )
    head = Head(
        weight.astype(np.float32), np.zeros(HEAD, np.float32), texts[:HEAD], np.arange(HEAD),
        called, in_gallery=np.zeros(HEAD, bool),
    )  # fmt: skip
    images = Items(np.array([f"i{i:04d}" for i in range(len(codes))]), names[codes], draw())
    return Corpus(images, Items(names, names, texts[HEAD:]), head=head), draw()


def top1(alignment, corpus):
    (outcome,) = score_zero_shot(alignment, corpus.images, corpus.names)
    return outcome.values["top-1"]


@pytest.mark.parametrize(
    ("sizes", "noise"),
    [
        ([200, 200], 4.0),
        ([100, 60, 40, 30, 20, 10, 5], 2.0),
        ([40] * 10, 3.0),
        (falling(47, 600), 4.0),
        (falling(500, 1500), 2.0),
    ],
    ids=["2", "7", "10", "47", "500"],
)
def test_the_mean_of_the_scored_images_scores_as_that_of_others_does(sizes, noise):
    """Others of the same classes. Means that leave classes out say which an image is not of: of
    the other four fifths of the classes they add 0.02 (500 classes) to 0.10 (7) here."""
    gaps, true = [], []
    for seed in range(8):
        corpus, others = planted(sizes, noise, seed)
        head = Pairs(corpus.head.weight, corpus.head.texts, corpus.head.groups)
        apart = fit(
            "ridge", prototypes=head, image_mean=SideTransform.fit([others]).mean, penalty=0.1,
            rng=np.random.default_rng(0),
        )  # fmt: skip
        true.append(top1(apart, corpus))
        gaps.append(top1(fit_run(RUN, corpus, None).alignment, corpus) - true[-1])
    assert 1.3 / len(sizes) < np.mean(true) < 0.95
    assert abs(np.mean(gaps)) <= 0.01


@pytest.mark.parametrize(("n", "source"), [(FEWEST - 1, TOO_FEW), (FEWEST, SCORED)])
def test_fewer_images_than_make_a_mean_are_not_centred_and_the_row_says_so(n, source):
    corpus, _ = planted([n - 9, 9], 1.0)
    for split in (None, Split(np.empty(0, np.int64), np.arange(n))):
        fitted = fit_run(RUN, corpus, split)
        assert fitted.facts["image_mean"] == source
        assert (fitted.alignment.fitted.x.mean is None) == (source == TOO_FEW)
        (ours,), (theirs,) = (
            Scoring(corpus, split).score(RUN, own)
            for own in (fitted.alignment, fitted.alignment.fitted)
        )
        assert ours.values == theirs.values
    method = RUN.changed(method="conse", penalty="auto", mix="auto")
    assert fit_run(method, corpus, None).facts["image_mean"] == "none"
    # Those for training are no scored images, however few they are.
    few = Split(np.arange(3), np.arange(3, n))
    assert fit_run(RUN, corpus, few).facts["image_mean"] == "training images"


def test_the_mean_is_the_plain_mean_of_the_scored_images():
    """By hand, beside the images in any order and block; and of one encoder's columns each."""
    corpus, _ = planted([15, 15], 1.0)
    rows = corpus.images.rows.astype(np.float64)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    centred = unit - unit.mean(axis=0)
    expected = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    fitted = fit_run(RUN, corpus, None).alignment.fitted
    np.testing.assert_allclose(fitted.x.apply(corpus.images.rows), expected, atol=1e-6)
    some = fitted.x.apply(corpus.images.rows[[9, 3]])
    np.testing.assert_allclose(some, expected[[9, 3]], atol=1e-6)
    # A sweep scores as the map does.
    cell = fit_run(RUN, corpus, None).alignment
    (ours,), (theirs,) = (Scoring(corpus, None).score(RUN, own) for own in (cell, cell.fitted))
    assert ours.values == theirs.values


@pytest.fixture(scope="module")
def smoke(smoke_store, runs):
    return read_corpus(open_store(smoke_store), next(run for run in runs if run.data.head_set))


def relabelled(corpus, scored):
    """Return the corpus with the labels of the scored images dealt anew; every class stays."""
    classes = corpus.images.classes.copy()
    classes[scored] = np.random.default_rng(5).permutation(classes[scored])
    assert (classes != corpus.images.classes).any()
    return replace(corpus, images=replace(corpus.images, classes=classes))


#: Of a few shots, choices by what is left out of them; the other learners fold nothing.
FOLDING_LEARNERS = ("ridge-probe", "tip-adapter", "ape", "gda", "proker", "rehark", "ranpac")


def evaluations(corpus, runs):
    """Yield a run of every evaluation with its split, and which images it scores."""
    every = np.arange(len(corpus.images))
    wanted = {"method": "ridge", "source": "head"}
    yield next(run for run in runs if has(run, eval="all-names", **wanted)), None, every
    split = held_out_split(corpus.images.classes, seed=1)
    run = next(run for run in runs if has(run, eval="held-out", n_pairs=8, **wanted))
    yield run, split, split.test
    yield run.changed(n_pairs=0), Split(split.train[:0], split.test), split.test


#: Trained methods take their rows and means as these do.
CLOSED_FORMS = [
    name
    for name, method in METHODS.items()
    if method.rows.texts != "raw" and method.fitted_on != "training"
]


@pytest.mark.parametrize("method", CLOSED_FORMS)
def test_no_projection_follows_a_label_of_what_is_scored(smoke, runs, method, monkeypatch):
    made = MiniVec2VecAligner.__init__  # of its rounds each reads what every one reads
    few = {**made.__kwdefaults__, "rounds": 2, "refinements": 3}
    monkeypatch.setattr(made, "__kwdefaults__", few)
    for run, split, scored in evaluations(smoke, runs):
        if run.protocol.n_pairs and method == "conse":
            continue
        run = run.changed(method=method)
        before, after = (
            fit_run(run, corpus, split).alignment for corpus in (smoke, relabelled(smoke, scored))
        )
        for own, others in (
            (before.project_x(smoke.images.rows), after.project_x(smoke.images.rows)),
            (before.project_y(smoke.names.rows), after.project_y(smoke.names.rows)),
        ):
            sides = (side.toarray() if issparse(side) else side for side in (own, others))
            np.testing.assert_array_equal(*sides)


@pytest.mark.parametrize("scorer", SCORERS)
@pytest.mark.parametrize("task", ["zero_shot", "retrieval"])
def test_nothing_that_is_found_follows_a_label_of_what_is_scored(smoke, runs, task, scorer):
    for run, split, scored in evaluations(smoke, runs):
        run = run.changed(task=task, options=TASKS[task].options(scorer=scorer), penalty=0.1)
        answers = [
            {
                one.direction: one.queries.top_ids
                for one in Scoring(corpus, split).score(run, fit_run(run, corpus, split).alignment)
                if one.queries is not None
            }
            for corpus in (smoke, relabelled(smoke, scored))
        ]
        assert answers[0]
        assert answers[0] == answers[1]


@pytest.mark.parametrize("learner", FOLDING_LEARNERS)
def test_no_answer_of_a_few_shot_learner_follows_a_label_of_what_is_scored(learner):
    corpus, _ = planted([6] * 4, 1.0)
    split = Split(np.arange(1, 24, 2), np.arange(0, 24, 2))
    alignment = fit_run(RUN, corpus, None).alignment
    answers = [
        score_few_shot(
            alignment, own.images, split, names=own.names, head=own.head,
            options=FewShot(shots=2, learner=learner),
        )[0].queries.top_ids
        for own in (corpus, relabelled(corpus, split.test))
    ]  # fmt: skip
    assert answers[0] == answers[1]
