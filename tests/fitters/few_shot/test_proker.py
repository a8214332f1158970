from dataclasses import replace

import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.kernel_ridge import KernelRidge
from sklearn.preprocessing import normalize

from fitters.few_shot import Shots
from fitters.few_shot.proker import ProKeR, ReHARK, Setting, _Problem, left_out_scores
from tests.accuracy.few_shot_claim import AGAINST, MARGIN, Population, claims
from tests.assertions import assert_close, assert_same
from tests.fitters.few_shot.digits import accuracy, made, noisy_prototypes
from tests.shorthand import not_worse_than


def kernel(a, b, rates):
    """Means of Gaussians of squared distances."""
    squared = ((a[:, None] - b[None]) ** 2).sum(axis=2)
    return np.mean([np.exp(-rate / 2 * squared) for rate in rates], axis=0) if rates else a @ b.T


def factor(x, texts, labels):
    """The least-squares factor of centred cosines towards centred labels."""
    cosines, targets = x @ texts.T, np.eye(len(texts))[labels]
    centred = cosines - cosines.mean(axis=1, keepdims=True)
    wanted = targets - targets.mean(axis=1, keepdims=True)
    return np.linalg.lstsq(centred.reshape(-1, 1), wanted.ravel(), rcond=None)[0].item()


def refitted(x, labels, texts, n_classes, setting, scale, query, to="texts"):
    """Scores of rows by a fit with a loop over nothing but sklearn's kernel ridge.

    Bridges lead to the texts, as in the choice, or to the prior.
    """
    means = np.stack([x[labels == c].sum(axis=0) for c in range(n_classes)])
    having = np.linalg.norm(means, axis=1) > 0
    prior = texts.copy()
    if setting.share:
        mixed = (1 - setting.share) * texts[having] + setting.share * normalize(means[having])
        prior[having] = normalize(mixed)
    support, own = x, labels
    if setting.bridge:
        ends = {"texts": texts, "prior": prior}[to]
        support = np.concatenate([x, normalize(x + setting.bridge * ends[labels])])
        own = np.tile(labels, 2)
    left = np.eye(n_classes)[own] - scale * support @ prior.T
    ridge = KernelRidge(kernel="precomputed", alpha=setting.penalty)
    ridge.fit(kernel(support, support, setting.rates), left)
    more = ridge.predict(kernel(query, support, setting.rates))
    return scale * query @ prior.T + more


@pytest.mark.parametrize(
    ("learner", "setting"),
    [
        (ProKeR(rates=[(2.0,)], penalties=[0.3]), Setting((2.0,), 0.3)),
        # Of more rows than that, the linear kernel follows from moments.
        (ProKeR(most=50, penalties=[0.5]), Setting((), 0.5)),
        (
            ReHARK(rates=[(1.0, 8.0)], penalties=[0.3], shares=[0.25], bridges=[0.5]),
            Setting((1.0, 8.0), 0.3, 0.25, 0.5),
        ),
    ],
)
def test_scores_are_sklearns_kernel_ridge_on_what_the_names_leave(learner, setting):
    shots, test = made(6, prototypes=noisy_prototypes(noise=0.3))
    found = learner.fit(shots)
    x, texts, labels = shots.x.astype(np.float64), shots.prototypes.astype(float), shots.labels
    scale = factor(x, texts, labels)
    if setting.share:
        scale = _Problem(x, labels, texts, 10, setting.share).scale
    assert found.facts["scale"] == pytest.approx(scale)
    query = test[0].astype(np.float64)
    expected = refitted(x, labels, texts, 10, setting, scale, query, to="prior")
    assert_close(found.scores(test[0]), expected, "float32", times=20)
    assert ("beta" in found.facts) == bool(setting.rates)


@pytest.mark.parametrize("setting", [
    Setting((3.0,), 0.1), Setting((), 2.0), Setting((0.5, 4.0), 0.1),
    Setting((1.0,), 0.3, bridge=0.5), Setting((1.0, 8.0), 0.03, share=0.4, bridge=0.7),
])  # fmt: skip
def test_a_shot_left_out_in_closed_form_is_a_fit_without_it(setting):
    shots, _ = made(3, prototypes=noisy_prototypes(noise=0.3))
    x, texts, labels = shots.x.astype(np.float64), shots.prototypes.astype(float), shots.labels
    problem = _Problem(x, labels, texts, 10, setting.share)
    (found,) = left_out_scores(problem, [setting]).values()
    scale = problem.scale
    assert [len(fold) for fold in problem.folds] == [10, 10, 10]
    for number, fold in enumerate(problem.folds):
        assert sorted(labels[fold]) == list(range(10))
        rest = np.setdiff1d(np.arange(30), fold)
        own = x[rest], labels[rest], texts, 10, setting, scale, x[fold]
        expected = refitted(*own)
        np.testing.assert_allclose(found[10 * number : 10 * (number + 1)], expected, atol=1e-8)


def test_the_factor_of_a_mixed_prior_is_that_of_rows_it_was_made_without():
    shots, _ = made(3, prototypes=noisy_prototypes(noise=0.3))
    x, texts, labels = shots.x.astype(np.float64), shots.prototypes.astype(float), shots.labels
    cosines = np.zeros((30, 10))
    place = np.array([np.sum(labels[:i] == labels[i]) for i in range(30)])
    for fold in range(3):
        kept, out = place != fold, place == fold
        means = normalize(np.stack([x[kept & (labels == c)].sum(axis=0) for c in range(10)]))
        cosines[out] = x[out] @ normalize(0.6 * texts + 0.4 * means).T
    expected = factor(np.eye(30), cosines.T, labels)
    assert _Problem(x, labels, texts, 10, 0.4).scale == pytest.approx(expected)


def test_the_setting_has_the_least_loss_within_one_standard_error():
    shots, _ = made(4, prototypes=noisy_prototypes(noise=0.3))
    x, texts, labels = shots.x.astype(np.float64), shots.prototypes.astype(float), shots.labels
    scale = factor(x, texts, labels)
    penalties, rates = (10.0, 1.0, 0.1, 0.01), ((1.0,), (4.0,))
    losses, place = {}, np.array([np.sum(labels[:i] == labels[i]) for i in range(40)])
    for rate in rates:
        for penalty in penalties:
            setting, scores = Setting(rate, penalty), np.zeros((40, 10))
            for fold in range(4):
                out = place == fold
                own = x[~out], labels[~out], texts, 10, setting, scale, x[out]
                scores[out] = refitted(*own)
            losses[setting] = min(
                (
                    -log_softmax(s * scores, axis=1)[np.arange(40), labels]
                    for s in np.geomspace(0.5, 100, 800)
                ),
                key=np.mean,
            )
    best = min(losses, key=lambda setting: losses[setting].mean())
    within = []
    for setting, loss in losses.items():
        gap = loss - losses[best]
        if setting.rates == best.rates and gap.mean() <= gap.std() / np.sqrt(40):
            within.append(setting.penalty)
    found = ProKeR(rates=rates, penalties=penalties).fit(shots)
    assert found.facts["beta"] == best.rates[0]
    assert found.facts["penalty"] == max(within)
    assert found.facts["folds"] == 40


def test_classes_of_one_shot_beyond_what_is_chosen_on_have_the_fixed_setting(rng):
    """Of 700 classes one has two shots, and is not among the 512 rows that are looked at."""
    labels = np.r_[np.arange(700), 699]
    found = ProKeR().fit(Shots(normalize(rng.standard_normal((701, 8))), labels, 700))
    assert (found.setting.rates, found.setting.penalty) == ((3.0,), 0.05)


def test_rehark_with_nothing_added_is_proker():
    shots, test = made(4, prototypes=noisy_prototypes(noise=0.3))
    plain = ReHARK(rates=[(2.0,)], shares=[0.0], bridges=[0.0]).fit(shots)
    assert_same(plain.scores(test[0]), ProKeR(rates=[(2.0,)]).fit(shots).scores(test[0]))


def test_blocks_of_many_rows_are_the_whole(monkeypatch):
    shots, test = made(4)
    found = ProKeR().fit(shots)
    whole = found.scores(test[0])
    monkeypatch.setattr("fitters.few_shot.proker._BLOCK", 40 * 7)
    assert_close(found.scores(test[0]), whole, "float32")
    uneven = replace(shots, x=shots.x[5:], labels=shots.labels[5:], lengths=None)
    assert accuracy(ProKeR().fit(uneven), test) > 0.75


def test_proker_is_not_worse_than_tip_adapter_f_and_lp_plus_plus_by_a_point():
    """The short form of `python -m tests.accuracy.few_shot_claim`."""
    population = Population(n_classes=25, seed=1)
    found = {other: estimate for other, *_, estimate in claims(population, 4)}
    assert set(found) == set(AGAINST)
    for estimate in found.values():
        assert (estimate.n_draws, estimate.n_clusters) == (10, 25)
        assert not_worse_than(estimate, MARGIN)
