import numpy as np
import pytest

from fitters.few_shot.descent import LPPlusPlus
from fitters.few_shot.learner import reciprocal_rank
from tests.assertions import assert_close
from tests.fitters.few_shot.digits import made, noisy_prototypes


def by_hand(given, epochs):
    """Weights of every epoch, in float64, classes one by one."""
    x, labels, texts = (a.astype(np.float64) for a in (given.x, given.labels, given.prototypes))
    labels = labels.astype(int)
    n, c = len(x), given.n_classes
    weight = np.stack([x[labels == k].sum(axis=0) for k in range(c)])
    bias = np.zeros(c)
    alpha = np.full(c, np.mean([250 * (x[labels == k] @ texts[k]).mean() for k in range(c)]))
    rate = 4 * n / np.linalg.eigvalsh(x.T @ x).max()
    alpha_rate = n / (4 * max(((x @ t) ** 2).sum() for t in texts))
    speed_w, speed_b = np.zeros_like(weight), np.zeros(c)
    found = []
    for epoch in range(1, epochs + 1):
        logits = np.stack([x @ weight[k] + bias[k] + alpha[k] * (x @ texts[k]) for k in range(c)]).T
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        slopes = [(p[:, k] - (labels == k)) / n for k in range(c)]
        pull = np.array([slope @ (x @ text) for slope, text in zip(slopes, texts, strict=True)])
        for k, slope in enumerate(slopes):
            speed_w[k] = 0.9 * speed_w[k] + slope @ x
            speed_b[k] = 0.9 * speed_b[k] + slope.sum()
        weight, bias = weight - rate * speed_w, bias - rate * speed_b
        if epoch % 10 == 0:
            alpha = alpha - alpha_rate * pull
        found.append((weight + alpha[:, None] * texts, bias, alpha.copy()))
    return found


@pytest.mark.parametrize("validation", [False, True])
def test_the_descent_is_that_of_a_loop_and_the_best_epoch_is_kept(validation):
    given, test = made(4, prototypes=noisy_prototypes(noise=0.4), validation=validation)
    ours, path = LPPlusPlus(epochs=45).fit(given), by_hand(given, 45)
    epoch = int(ours.facts["epoch"])
    weight, bias, alpha = path[epoch - 1]
    assert_close(ours.scores(test[0]), test[0] @ weight.T + bias, "float32", times=30)
    assert ours.facts["alpha"] == pytest.approx(alpha.mean(), rel=1e-4)
    if not validation:
        assert epoch == 45
        return
    values = [
        reciprocal_rank(given.validation_x @ weight.T + bias, given.validation_labels)
        for weight, bias, _ in path
    ]
    assert values[epoch - 1] == pytest.approx(max(values), abs=1e-9)
