import itertools

import numpy as np
import pytest
from scipy.special import softmax

from fitters.few_shot.learner import Shots, reciprocal_rank
from fitters.few_shot.tip_adapter import APE, Cache, TipAdapter, TipAdapterF, column_values
from tests.assertions import assert_close
from tests.fitters.few_shot.digits import accuracy, made, noisy_prototypes, with_views


def dense_cache(x, keys, labels, n_classes, beta):
    """One number at a time."""
    out = np.zeros((len(x), n_classes))
    for i, row in enumerate(x.astype(np.float64)):
        for key, label in zip(keys.astype(np.float64), labels, strict=True):
            out[i, label] += np.exp(-beta * (1 - row @ key))
    return out


def test_scores_are_those_of_a_loop():
    given, test = made(3, prototypes=noisy_prototypes())
    given = with_views(given)
    ours = TipAdapter(scale=40.0).fit(given)
    keys = np.stack([views.astype(np.float64).mean(axis=0) for views in given.views])
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    x = test[0][:20]
    cached = dense_cache(x, keys, given.labels, 10, ours.facts["beta"])
    expected = 40.0 * x @ given.prototypes.T + ours.facts["alpha"] * cached
    assert_close(ours.scores(x), expected, "float32")


def test_alpha_and_beta_are_the_best_on_validation_rows():
    given, _ = made(4, prototypes=noisy_prototypes(noise=0.4))
    alphas, betas = (0.0, 0.5, 2.0, 8.0), (1.0, 4.0, 16.0)
    ours = TipAdapter(scale=20.0, alphas=alphas, betas=betas).fit(given)
    x, labels = given.validation_x, given.validation_labels
    values = {}
    for alpha, beta in itertools.product(alphas, betas):
        cached = dense_cache(x, given.x, given.labels, 10, beta)
        scores = 20.0 * x @ given.prototypes.T + alpha * cached
        values[alpha, beta] = round(reciprocal_rank(scores, labels), 12)

    def far(value, published):
        return abs(np.log(value / published)) if value else np.inf

    best = max(values, key=lambda pair: (values[pair], -far(pair[0], 1.17), -far(pair[1], 1.0)))
    assert (ours.facts["alpha"], ours.facts["beta"]) == best
    assert values[best] > values[0.0, 1.0]


def test_classes_of_unequally_many_shots_weigh_alike():
    given, test = made(16)
    kept = (given.labels >= 5) | (np.arange(160) < 60)
    labels, keys = given.labels[kept], given.x[kept]
    counts = np.bincount(labels)
    assert counts.min() < counts.max() / 2
    found = Cache(keys, labels, 10).logits(test[0][:9], 4.0)
    expected = dense_cache(test[0][:9], keys, labels, 10, 4.0) * (counts.mean() / counts)
    assert_close(found, expected, "float32")
    uneven = type(given)(keys, labels, 10, None, given.validation_x, given.validation_labels)
    assert accuracy(TipAdapter().fit(uneven), test) > 0.8


@pytest.mark.parametrize("v", [1, 3])
def test_trained_keys_are_those_of_adamw_by_hand(v):
    given, _ = made(3, prototypes=noisy_prototypes(noise=0.3), validation=False)
    given = with_views(given, v)
    epochs, size, rate = 4, 12, 1e-3
    ours = TipAdapterF(scale=15.0, epochs=epochs, batch_size=size, seed=7).fit(given)
    alpha, beta = 1.17, 1.0
    views = given.views / np.linalg.norm(given.views, axis=2, keepdims=True)
    keys = given.views.mean(axis=1)
    keys = (keys / np.linalg.norm(keys, axis=1, keepdims=True)).astype(np.float64)
    texts, one_hot = given.prototypes.astype(np.float64), np.eye(10)[given.labels]
    first, second, step = np.zeros_like(keys), np.zeros_like(keys), 0
    steps = epochs * 3
    rng = np.random.default_rng(7)
    for epoch in range(epochs):
        order = rng.permutation(30)
        for start in range(0, 30, size):
            batch = order[start : start + size]
            x = views[batch, epoch % v].astype(np.float64)
            near = np.exp(-beta * (1 - x @ keys.T))
            error = softmax(15.0 * x @ texts.T + alpha * near @ one_hot, axis=1) - one_hot[batch]
            slope = ((error @ one_hot.T) * near * alpha * beta).T @ x / len(batch)
            lr = rate * 0.5 * (1 + np.cos(np.pi * step / steps))
            step += 1
            keys = keys * (1 - lr * 0.01)
            first = 0.9 * first + 0.1 * slope
            second = 0.999 * second + 0.001 * slope**2
            grown = first / (1 - 0.9**step), second / (1 - 0.999**step)
            keys = keys - lr * grown[0] / (np.sqrt(grown[1]) + 1e-4)
    assert_close(ours.cache.keys, keys, "float32", times=10)
    assert ours.facts["epoch"] == epochs


def test_the_best_epoch_is_kept_by_validation_rows():
    given, test = made(4, prototypes=noisy_prototypes(noise=0.4))
    # So large a rate spoils the keys at once: the untrained ones are the best.
    spoiled = TipAdapterF(learning_rate=1.0, epochs=3).fit(given)
    assert spoiled.facts["epoch"] == 0
    assert_close(spoiled.cache.keys, given.x, "float32")
    trained = TipAdapterF(learning_rate=1e-2).fit(given)
    assert trained.facts["epoch"] > 0
    assert accuracy(trained, test) > accuracy(spoiled, test) - 0.02


def test_a_column_is_worth_what_a_loop_over_all_pairs_says():
    given, _ = made(2, prototypes=noisy_prototypes())
    kept = given.labels < 3
    few = Shots(given.x[kept], given.labels[kept], 3, given.prototypes[:3])
    rows = np.concatenate([few.prototypes, few.x]).astype(np.float64)
    labels = np.concatenate([np.arange(3), few.labels])
    shared, pairs = np.zeros(64), 0
    for a, b in itertools.product(range(len(rows)), repeat=2):
        if labels[a] != labels[b]:
            shared += rows[a] * rows[b]
            pairs += 1
    expected = 0.3 * rows[:3].var(axis=0, ddof=1) - 0.7 * shared / pairs
    np.testing.assert_allclose(column_values(few), expected, atol=1e-12)


def test_ape_is_a_loop_over_its_columns_and_keys():
    given, test = made(3, prototypes=noisy_prototypes(noise=0.3))
    ours = APE(shares=[0.5], alphas=[2.0], betas=[4.0], scale=30.0, temperature=9.0).fit(given)
    columns = np.argsort(-column_values(given), kind="stable")[:32]
    x, keys, texts = (
        rows[:, columns] / np.linalg.norm(rows[:, columns], axis=1, keepdims=True)
        for rows in (test[0][:9].astype(float), given.x.astype(float), given.prototypes)
    )
    expected = 30.0 * test[0][:9] @ given.prototypes.T
    for key, label in zip(keys, given.labels, strict=True):
        gain = np.exp(0.1 * np.log2((1 + 1e-6) / (softmax(9.0 * texts @ key)[label] + 1e-6)))
        expected[:, label] += 2.0 * gain * np.exp(-4.0 * (1 - x @ key))
    assert_close(ours.scores(test[0][:9]), expected, "float32", times=10)
    assert ours.facts["columns"] == 32


@pytest.mark.parametrize("weighed", [False, True])
def test_a_key_left_out_is_a_cache_without_it(weighed):
    given, _ = made(4)
    kept = np.arange(40) % 7 > 0  # classes of three and of four
    x, labels = given.x[kept], given.labels[kept]
    weights = np.linspace(0.5, 2.0, len(x), dtype=np.float32) if weighed else None
    held = np.array([1, 5, 20])
    found = Cache(x, labels, 10, weights).left_out(held, x[held], (1.0, 8.0))
    for place, i in enumerate(held):
        rest = np.arange(len(x)) != i
        cache = Cache(x[rest], labels[rest], 10, weights[rest] if weighed else None)
        for logits, beta in zip(found, (1.0, 8.0), strict=True):
            assert_close(logits[place], cache.logits(x[i : i + 1], beta)[0], "float32", times=20)
