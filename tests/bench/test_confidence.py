"""Calibration, risk by coverage and rejection, against independent code and planted truths."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from bench.comparisons import compare
from bench.corpus import in_class_split
from bench.errors import MetricError, ProtocolError
from bench.fits import Identity
from bench.metrics.confidence import calibration, of_rejection, of_risk_coverage, risk_coverage
from bench.options import FewShot, ZeroShot
from bench.results import read_results
from bench.statistics import DrawSums, two_term
from bench.tables import confidence_table
from bench.tasks.outcome import HALVINGS, Confidence
from bench.tasks.ranked import prepare_zero_shot, score_few_shot, score_zero_shot
from tests.accuracy.near import Nouns
from tests.bench.test_few_shot_task import problem as few_shot_problem
from tests.bench.test_zero_shot import problem
from tests.oracles import unit
from tests.typed import headstock

ANSWERS = st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=2, max_size=60)


def drawn(answers):
    confidence, right = np.array(answers).T
    return confidence / 8, right.astype(bool)


@given(ANSWERS)
def test_the_raw_error_is_the_formula_of_torchmetrics(answers):
    """BinaryCalibrationError, norm l1: Σ over bins of equal width of |acc − conf| · share."""
    p, right = drawn(answers)
    by_hand, places = 0.0, np.minimum((p * 15).astype(int), 14)
    for b in np.unique(places):
        own = places == b
        by_hand += own.mean() * abs(right[own].mean() - p[own].mean())
    assert calibration(p, right).raw == pytest.approx(by_hand, abs=1e-12)


def test_the_debiased_error_is_that_of_kumar_where_confidences_are_binned(rng):
    """Σ p_b [(p_b − ȳ_b)² − ȳ_b (1 − ȳ_b) / (n_b − 1)]: their definition 4.1."""
    p = rng.choice([0.2, 0.5, 0.9], 300)
    right = rng.random(300) < p - 0.1
    by_hand = 0.0
    for level in np.unique(p):
        y = right[p == level]
        by_hand += len(y) / 300 * (
            (level - y.mean()) ** 2 - y.mean() * (1 - y.mean()) / (len(y) - 1)
        )  # fmt: skip
    found = calibration(p, right)
    assert found.square == pytest.approx(by_hand)
    assert found.error == pytest.approx(np.sqrt(by_hand))
    assert found.low < found.error < found.high


def test_the_bias_is_gone_that_the_raw_error_has(rng):
    squares, raws = [], []
    for _ in range(300):
        p = rng.random(200)
        found = calibration(p, rng.random(200) < p)
        squares.append(found.square)
        raws.append(found.raw)
    assert abs(np.mean(squares)) < 4 * np.std(squares) / np.sqrt(300)
    assert np.mean(raws) > 0.07


def test_equal_confidences_share_a_bin_and_the_order_of_answers_changes_nothing(rng):
    p, right = np.full(40, 0.5), np.arange(40) < 20
    assert calibration(p, right).error == 0.0
    p, order = rng.integers(0, 30, 90) / 30, rng.permutation(90)
    right, clusters = rng.random(90) < p, rng.integers(0, 9, 90)
    a, b = calibration(p, right, clusters), calibration(p[order], right[order], clusters[order])
    assert a.error == pytest.approx(b.error, abs=1e-9)
    assert a.high == pytest.approx(b.high)


def test_clusters_that_answer_alike_widen_the_interval(rng):
    p = np.repeat(rng.random(40), 5)
    right = np.repeat(rng.random(40) < p[::5] ** 2, 5)
    alone, together = calibration(p, right), calibration(p, right, np.repeat(np.arange(40), 5))
    assert together.high - together.low > 1.3 * (alone.high - alone.low)
    with pytest.raises(MetricError, match="two answers and clusters"):
        calibration(p, right, np.zeros(200))
    with pytest.raises(MetricError, match="probabilities"):
        calibration(2 * p, right)


@pytest.mark.parametrize(("n", "n_wrong"), [(30, 0), (100, 0), (100, 1), (300, 9)])
def test_certain_answers_have_the_upper_end_of_the_binomial(n, n_wrong):
    """Of one bin at confidence 1 the error is the share that is wrong: Clopper and Pearson's."""
    right = np.arange(n) >= n_wrong
    found = calibration(np.ones(n), right)
    theirs = binomtest(n_wrong, n).proportion_ci(0.95, method="exact")
    assert theirs.high <= found.high <= 1.15 * theirs.high
    assert found.low <= n_wrong / n
    # Wrong answers of no confidence are as good, and answers of one class say less.
    assert calibration(np.zeros(n), ~right).high == pytest.approx(found.high)
    assert calibration(np.ones(n), right, np.arange(n) // 5).high > 1.5 * found.high


@settings(max_examples=20)
@given(ANSWERS)
def test_aurc_is_the_mean_risk_over_coverages_whatever_the_order_of_ties(answers):
    confidence, right = drawn(answers)
    curves = []
    for seed in range(400):
        order = np.random.default_rng(seed).permutation(len(right))
        order = order[np.argsort(-confidence[order], kind="stable")]
        curves.append(np.cumsum(~right[order]) / np.arange(1, len(right) + 1))
        if len(np.unique(confidence)) == len(confidence):
            break
    risk = risk_coverage(confidence, right)
    np.testing.assert_allclose(risk, np.mean(curves, axis=0), atol=0.12)
    assert of_risk_coverage(confidence, right).mean() == pytest.approx(risk.mean())
    assert risk[-1] == pytest.approx(1 - right.mean())


def test_a_table_of_four_answers_by_hand():
    """Risks of 1, 2, 3, 4 answers: 0, 1/2, 1/3, 1/2."""
    risk = risk_coverage([0.9, 0.8, 0.7, 0.1], [True, False, True, False])
    np.testing.assert_allclose(risk, [0, 1 / 2, 1 / 3, 1 / 2])
    assert of_risk_coverage([0.9, 0.8, 0.7, 0.1], [True, False, True, False]).mean() == (
        pytest.approx(1 / 3)
    )


def test_the_values_of_aurc_have_the_spread_of_the_jackknife(rng):
    confidence = rng.random(400)
    right = rng.random(400) < confidence
    left_out = [
        risk_coverage(np.delete(confidence, i), np.delete(right, i)).mean() for i in range(400)
    ]
    jackknife = 399 * (np.mean(left_out) - np.array(left_out))
    values = of_risk_coverage(confidence, right)
    assert np.corrcoef(jackknife, values)[0, 1] > 0.99
    assert values.std() == pytest.approx(jackknife.std(), rel=0.05)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.booleans()), min_size=4))
def test_auroc_is_the_mean_of_scikit_learns_over_both_halves(rows):
    known, unknown, half = np.array(rows).T
    half = half.astype(bool)
    if half.all() or not half.any():
        with pytest.raises(MetricError, match="either half"):
            of_rejection(known, unknown, half)
        return
    theirs = [
        roc_auc_score(
            np.repeat([1, 0], [own.sum(), (~own).sum()]), np.append(known[own], unknown[~own])
        )
        for own in (half, ~half)
    ]
    assert of_rejection(known, unknown, half).mean() == pytest.approx(np.mean(theirs))


def outcome_of(images, names, **how):
    made = prepare_zero_shot(images, names, options=ZeroShot(confidence=True))
    return made(Identity(), Confidence(rng=np.random.default_rng(5), **how))[0]


def test_a_run_has_the_confidence_of_a_softmax_and_rejects_by_halves_of_the_names(rng):
    images, names, labels = problem(rng)
    found = outcome_of(images, names, scale=7.0)
    scores = unit(images.rows) @ names.rows.T
    p = softmax(7 * scores, axis=1)
    own = found.queries.own
    np.testing.assert_allclose(own[:, 3], p.max(axis=1), rtol=1e-5)
    assert found.values["confidence"] == pytest.approx(p.max(axis=1).mean())
    right = scores.argmax(axis=1) == labels
    assert found.values["ECE"] == pytest.approx(calibration(own[:, 3], right).raw, abs=1e-6)
    assert found.values["AURC"] == pytest.approx(risk_coverage(own[:, 3], right).mean())
    assert found.facts["temperature"] == pytest.approx(1 / 7)
    with pytest.raises(ProtocolError, match="scorer 'csls'"):
        score_zero_shot(Identity(), images, names, options=ZeroShot(scorer="csls", confidence=True))
    (plain,) = score_zero_shot(Identity(), images, names)
    assert {name: found.values[name] for name in plain.values} == plain.values
    # By hand: every image by the names of its half, and by those of the other.
    draws, asked, areas = np.random.default_rng(5), np.unique(labels), []
    for _ in range(HALVINGS):
        half = np.zeros(12, bool)
        for some in (asked, np.setdiff1d(np.arange(12), asked)):
            half[draws.permutation(some)[: len(some) // 2]] = True
        for side in (True, False):
            top = scores[:, half == side].max(axis=1)
            areas.append(roc_auc_score(half[labels] == side, top))
    assert found.values["AUROC-score"] == pytest.approx(np.mean(areas))


def test_pictures_without_a_name_are_told_apart_as_far_as_planted(rng):
    """Noise far below the distance of names: all are; noise alone: none, and chance is said."""
    images, names, _ = problem(rng, n=300)
    sharp = replace(images, rows=names.rows[[int(c) for c in images.classes]] + 0.05)
    assert outcome_of(sharp, names, scale=30.0).values["AUROC-score"] > 0.95
    noise = replace(images, rows=rng.normal(size=images.rows.shape))
    found = outcome_of(noise, names, scale=30.0)
    values = found.queries.own[:, 1]
    estimate = two_term(DrawSums.of(values, np.zeros(300), images.classes))
    low, high = estimate.interval()
    assert low < 0.5 < high
    assert (found.chance["AUROC"], found.chance["AURC"]) == (0.5, pytest.approx(11 / 12))


def test_a_learner_takes_its_temperature_from_validation_images(rng):
    images, texts = few_shot_problem(rng, per_class=30)
    split = in_class_split(images.classes, seed=0)
    given_ = {"names": texts, "options": FewShot(shots=4, confidence=True)}
    (found,) = score_few_shot(Identity(), images, split, **given_)
    (plain,) = score_few_shot(Identity(), images, split, names=texts, options=FewShot(shots=4))
    assert {name: found.values[name] for name in plain.values} == plain.values
    assert abs(found.values["confidence"] - found.values["top-1"]) < 0.12
    assert found.values["AUROC"] > 0.6
    small = in_class_split(images.classes, seed=0, train_fraction=4 / 30)
    with pytest.raises(ProtocolError, match="temperature from validation images"):
        score_few_shot(Identity(), images, small, **given_)


def test_a_run_finds_its_temperature_on_what_it_is_fitted_on_and_has_a_table(smoke_store, tmp_path):
    """Left out by groups; with real pairs on them, without any on the head; of nothing scored."""
    args = ("eval", "task", "zero_shot", "--store", smoke_store, "-o", tmp_path / "r")
    more = ("--method", "ridge", "--eval", "held-out", "-s", "confidence=yes", "--seeds", "0-2")
    sources = ("--source", "none,head", "--n-pairs", "0,16")
    assert headstock(*args, *more, *sources) == 0
    rows = read_results(tmp_path / "r")
    assert set(rows["n_pairs"]) == {"0", "16"}
    temperatures = rows.unique("run_id")["temperature"]
    assert temperatures.null_count() == 0
    assert temperatures.is_between(1e-4, 100).all()
    table = confidence_table(tmp_path / "r", rows)
    for row in table.to_dicts():
        assert row["low"] <= row["calibration-error"] <= row["high"]
        assert row["AUROC_low"] <= row["AUROC"] <= row["AUROC_high"]
        assert row["n_draws"] == 3
    alone = rows.filter(metric="AUROC", n_pairs="16", source="head")
    weights, values = alone["n_queries"].to_numpy(), alone["value"].to_numpy()
    mean = table.filter(n_pairs="16", source="head")["AUROC"][0]
    assert mean == pytest.approx(np.average(values, weights=weights))
    found = compare(tmp_path / "r", rows, metrics=["AUROC"])
    assert {"over-parts"} <= set(found["comparison"])
    shown = ["eval", "table", str(tmp_path / "r"), "--part", "confidence"]
    assert headstock(*shown) == 0


INDEX = """  1 a line of its licence
entity n 1 1 ~ 1 0 00000001
fowl n 1 1 @ 1 0 00000002
chicken n 2 1 @ 2 0 00000003 00000005
cock n 1 1 @ 1 0 00000004
rooster n 1 1 @ 1 0 00000004
meat n 1 1 @ 1 0 00000006
"""
NOUNS = """  1 a line of its licence
00000001 03 n 01 entity 0 000 | what is
00000002 05 n 01 fowl 0 001 @ 00000001 n 0000 | a bird
00000003 05 n 01 chicken 0 002 @ 00000002 n 0000 ~ 00000004 n 0000 | a bird
00000004 05 n 02 cock 0 rooster 0 001 @ 00000003 n 0000 | a male
00000005 13 n 01 chicken 0 001 @ 00000006 n 0000 | its flesh
00000006 13 n 01 meat 0 001 @ 00000001 n 0000 | flesh
"""


def test_near_misses_are_graded_by_a_wordnet_of_six_nouns(tmp_path):
    """Synonym, one step, two steps, 2 · depth of the common hypernym / sum of depths."""
    (tmp_path / "index.noun").write_text(INDEX)
    (tmp_path / "data.noun").write_text(NOUNS)
    nouns = Nouns(tmp_path)
    names = {"a colorful rooster": ("00000004",), "a bird (two chickens)": ("00000003", "00000005"),
             "a car": ()}  # fmt: skip
    assert {name: nouns.of(name) for name in names} == names
    for answer, truth, expected in (
        ("rooster", "cock", [1, 1, 1, 1]),
        ("chicken", "rooster", [0, 1, 1, 2 * 3 / (3 + 4)]),
        ("fowl", "rooster", [0, 0, 1, 2 * 2 / (2 + 4)]),
        ("meat", "rooster", [0, 0, 0, 2 * 1 / (2 + 4)]),
        ("meat", "a car", [0, 0, 0, 0]),
    ):
        assert nouns.grades(nouns.of(answer), nouns.of(truth)) == pytest.approx(expected)
