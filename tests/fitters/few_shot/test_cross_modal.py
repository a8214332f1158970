import numpy as np

from fitters.few_shot.descent import CrossModal
from fitters.few_shot.learner import reciprocal_rank
from tests.assertions import assert_close
from tests.fitters.few_shot.digits import accuracy, made, noisy_prototypes


def by_hand(given, scale, rate, steps, size, seed, decay=0.01):
    """Weights after every hundredth step, AdamW and its gradient written out."""
    x, texts = given.x.astype(np.float64), given.prototypes.astype(np.float64)
    rows, labels = np.concatenate([x, texts]), np.append(given.labels, np.arange(10))
    half = size // 2
    rng = np.random.default_rng(seed)

    def batches(n):
        k = min(half, n)
        out = []
        for _ in range(-(-steps // (n // k))):
            order = rng.permutation(n)
            out += [order[i * k : (i + 1) * k] for i in range(n // k)]
        return out[:steps]

    images, names = batches(len(x)), batches(10)
    weight, first, second, found = texts.copy(), 0, 0, {}
    for step in range(steps):
        if step < 50:
            lr = 1e-5 + (rate - 1e-5) * step / 50
        else:
            lr = rate * 0.5 * (1 + np.cos(np.pi * (step - 50) / steps))
        batch = np.append(images[step], len(x) + names[step])
        logits = scale * rows[batch] @ weight.T
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        slope = scale * (p - np.eye(10)[labels[batch]]).T @ rows[batch] / len(batch)
        weight = weight * (1 - lr * decay)
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        grown = first / (1 - 0.9 ** (step + 1)), second / (1 - 0.999 ** (step + 1))
        weight = weight - lr * grown[0] / (np.sqrt(grown[1]) + 1e-8)
        if (step + 1) % 100 == 0:
            found[step + 1] = weight.copy()
    return found


def test_the_last_step_is_that_of_a_loop():
    given, test = made(4, prototypes=noisy_prototypes(noise=0.4), validation=False)
    ours = CrossModal(scale=20.0, steps=200, batch_size=16, seed=5).fit(given)
    theirs = by_hand(given, 20.0, 1e-3, 200, 16, 5)[200]
    assert_close(ours.scores(test[0]), 20.0 * test[0] @ theirs.T, "float32", times=30)
    assert ours.facts == {"scale": 20.0, "epoch": 200.0}


def test_rate_and_step_are_the_best_on_validation_rows():
    given, test = made(4, prototypes=noisy_prototypes(noise=0.4))
    rates = (1e-2, 1e-3)
    ours = CrossModal(scale=20.0, steps=300, batch_size=16, learning_rates=rates).fit(given)
    tried = [(0, given.prototypes)]
    for rate in reversed(rates):
        tried += by_hand(given, 20.0, rate, 300, 16, 0).items()
    values = [
        reciprocal_rank(given.validation_x @ weight.T, given.validation_labels)
        for _, weight in tried
    ]
    step, weight = tried[int(np.flatnonzero(np.round(values, 9) == max(np.round(values, 9)))[-1])]
    assert ours.facts["epoch"] == step
    assert_close(ours.scores(test[0]), 20.0 * test[0] @ weight.T, "float32", times=30)
    assert accuracy(ours, test) > 0.6
