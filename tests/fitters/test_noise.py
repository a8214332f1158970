"""Left-out criteria on noise: what refits find that prepare and fit the other rows from scratch."""

import numpy as np
import pytest

from fitters import Pairs
from fitters.kernels import gaussian
from fitters.select import Axis
from fitters.select.left_out import choose_on_prototypes, leave_one_group_out
from fitters.select.ranking import reciprocal_ranks
from fitters.sources import prepare
from tests.oracles import unit

PENALTIES = {"ridge": 1e-3, "kernel-ridge": 0.01}
GAMMA = 4.0


def refitted(method, head, texts, unit_of_penalty):
    """Cosine and reciprocal rank of rows predicted by fits that were prepared without them."""
    predicted, targets = np.empty_like(head), np.empty_like(head)
    for row in range(len(head)):
        others = np.arange(len(head)) != row
        data = prepare(Pairs(head[others], texts[others]), None, None)
        a, b = data.prototypes.y, data.prototypes.x
        asked = data.text.apply(texts[~others])
        targets[row] = unit(head[~others])[0] - unit(head[others]).mean(axis=0)
        if method == "ridge":
            gram = a.T @ a + PENALTIES[method] * unit_of_penalty * np.eye(a.shape[1])
            predicted[row] = asked @ np.linalg.solve(gram, a.T @ b)
        else:
            system = gaussian(a, a, GAMMA) + PENALTIES[method] * np.eye(len(a))
            predicted[row] = gaussian(asked, a, GAMMA) @ np.linalg.solve(system, b)
    scores = unit(targets) @ unit(predicted).T
    ranks = reciprocal_ranks(scores, np.arange(len(head))[:, None])
    return scores.diagonal().mean(), ranks.mean()


def left_out(method, prototypes, criterion):
    how = {"penalties": Axis.fixed(PENALTIES[method]), "criterion": criterion}
    if method == "ridge":
        return leave_one_group_out(prototypes, **how).scores.item()
    rng = np.random.default_rng(0)
    return choose_on_prototypes(prototypes, gammas=Axis.fixed(GAMMA), **how, rng=rng).scores.item()


@pytest.mark.parametrize("method", ["ridge", "kernel-ridge"])
@pytest.mark.parametrize(("rows", "columns"), [(12, 48), (40, 40), (40, 39), (40, 30), (64, 8)])
def test_on_noise_a_criterion_is_that_of_honest_refits(method, rows, columns, monkeypatch):
    n_worlds, found = 12, []
    for seed in range(n_worlds):
        rng = np.random.default_rng([seed, rows, columns])
        texts, head = rng.standard_normal((rows, columns)), rng.standard_normal((rows, 40))
        prototypes = prepare(Pairs(head, texts), None, None).prototypes
        honest = refitted(method, head, texts, rows / columns)
        exact = [left_out(method, prototypes, criterion) for criterion in ("cosine", "rank")]
        with monkeypatch.context() as patch:
            patch.setattr("fitters.select.left_out.EXACT_ROWS", rows - 1)
            by_landmarks = left_out(method, prototypes, "cosine")
        found.append([*honest, *exact, by_landmarks])
    found = np.array(found)
    errors = found[:, :2].std(axis=0, ddof=1) / np.sqrt(n_worlds)
    gap = np.abs(found[:, 2:4] - found[:, :2]).mean(axis=0)
    assert (gap <= 3 * errors).all()
    assert found[:, 4].mean() == pytest.approx(found[:, 2].mean(), abs=3 * errors[0])
