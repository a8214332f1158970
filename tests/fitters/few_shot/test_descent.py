"""Learners by descent: CLAP, cross-modal, LP++ and the paper's, against steps written out."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.preprocessing import normalize

from fitters import Pairs, preset
from fitters.errors import PairsError
from fitters.few_shot.descent import CLAP, CrossModal, LPPlusPlus, PaperFewShot, held_by
from fitters.few_shot.learner import Shots, reciprocal_rank
from tests.assertions import assert_close, assert_same
from tests.fitters.few_shot.digits import accuracy, made, noisy_prototypes, with_views


def clap_by_autograd(given, x, labels, penalty, *, scale, epochs, size, seed, length=10.0):
    texts = length * torch.from_numpy(given.prototypes).double()
    rows = texts.clone().requires_grad_()
    x, labels = torch.from_numpy(x).double(), torch.from_numpy(labels)
    likely = torch.softmax(scale * x @ (texts / texts.norm(dim=1, keepdim=True)).T, dim=1)
    held = torch.stack([likely[labels == c, c].mean() for c in range(10)])
    optimiser = torch.optim.SGD([rows], lr=0.1, momentum=0.9)
    rng = np.random.default_rng(seed)
    for epoch in range(epochs):
        cosine = 0.5 * (1 + np.cos(np.pi * (epoch - 1) / epochs))
        optimiser.param_groups[0]["lr"] = 1e-5 if epoch == 0 else 0.1 * cosine
        order = rng.permutation(len(x))
        for step in range(max(1, len(given.labels) // size)):
            batch = order[step * size : (step + 1) * size]
            logits = scale * x[batch] @ (rows / rows.norm(dim=1, keepdim=True)).T
            loss = torch.nn.functional.cross_entropy(logits, labels[batch])
            if penalty:
                loss = loss + (held * (rows - texts).pow(2).sum(dim=1)).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    rows = rows.detach()
    return (scale * rows / rows.norm(dim=1, keepdim=True)).numpy()


@pytest.mark.parametrize("penalty", [False, True])
@pytest.mark.parametrize("v", [0, 3])
def test_claps_prototypes_are_those_of_autograd(penalty, v):
    given, test = made(6, prototypes=noisy_prototypes(noise=0.4))
    given = with_views(given, v) if v else given
    settings = {"scale": 20.0, "epochs": 30, "seed": 4}
    ours = CLAP(penalty=penalty, batch_size=25, **settings).fit(given)
    theirs = clap_by_autograd(given, *given.unit_views, penalty, size=25, **settings)
    assert_close(ours.weight, theirs, "float32", times=100)
    assert_close(ours.scores(test[0]), test[0] @ theirs.T, "float32", times=100)


def test_clap_holds_a_class_without_a_shot():
    given, _ = made(2, prototypes=noisy_prototypes())
    kept = given.labels != 4
    shots = type(given)(given.x[kept], given.labels[kept], 10, given.prototypes)
    assert held_by(shots, given.prototypes, 20.0)[4] == 1.0


def cross_modal_by_hand(given, scale, rate, steps, size, seed, decay=0.01):
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
        error = softmax(scale * rows[batch] @ weight.T, axis=1) - np.eye(10)[labels[batch]]
        slope = scale * error.T @ rows[batch] / len(batch)
        weight = weight * (1 - lr * decay)
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        grown = first / (1 - 0.9 ** (step + 1)), second / (1 - 0.999 ** (step + 1))
        weight = weight - lr * grown[0] / (np.sqrt(grown[1]) + 1e-8)
        if (step + 1) % 100 == 0:
            found[step + 1] = weight.copy()
    return found


def test_cross_modals_last_step_is_that_of_a_loop():
    given, test = made(4, prototypes=noisy_prototypes(noise=0.4), validation=False)
    ours = CrossModal(scale=20.0, steps=200, batch_size=16, seed=5).fit(given)
    theirs = cross_modal_by_hand(given, 20.0, 1e-3, 200, 16, 5)[200]
    assert_close(ours.scores(test[0]), 20.0 * test[0] @ theirs.T, "float32", times=30)
    assert ours.facts == {"scale": 20.0, "epoch": 200.0}


def test_cross_modals_rate_and_step_are_the_best_on_validation_rows():
    given, test = made(4, prototypes=noisy_prototypes(noise=0.4))
    rates = (1e-2, 1e-3)
    ours = CrossModal(scale=20.0, steps=300, batch_size=16, learning_rates=rates).fit(given)
    tried = [(0, given.prototypes)]
    for rate in reversed(rates):
        tried += cross_modal_by_hand(given, 20.0, rate, 300, 16, 0).items()
    values = [
        reciprocal_rank(given.validation_x @ weight.T, given.validation_labels)
        for _, weight in tried
    ]
    step, weight = tried[int(np.flatnonzero(np.round(values, 9) == max(np.round(values, 9)))[-1])]
    assert ours.facts["epoch"] == step
    assert_close(ours.scores(test[0]), 20.0 * test[0] @ weight.T, "float32", times=30)
    assert accuracy(ours, test) > 0.6


def lp_plus_plus_by_hand(given, epochs):
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
        p = softmax(logits, axis=1)
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
def test_the_descent_of_lp_plus_plus_is_that_of_a_loop_and_the_best_epoch_is_kept(validation):
    given, test = made(4, prototypes=noisy_prototypes(noise=0.4), validation=validation)
    ours, path = LPPlusPlus(epochs=45).fit(given), lp_plus_plus_by_hand(given, 45)
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


def problem(shots=2, c=8, seed=0):
    """Classes are points; their texts, head rows and images are linear views of them."""
    rng = np.random.default_rng(seed)
    to_text, to_image = rng.normal(size=(5, 12)), rng.normal(size=(5, 10))
    known, new = rng.normal(size=(60, 5)), rng.normal(size=(c, 5))

    def rows(points, view, noise):
        made = points @ view + noise * rng.normal(size=(len(points), view.shape[1]))
        return made.astype(np.float32)

    head = Pairs(normalize(rows(known, to_image, 0.3)), 3 * rows(known, to_text, 0.1))
    labels = np.repeat(np.arange(c), shots)
    raw = rows(new[labels], to_image, 1.0) * rng.uniform(0.5, 4, size=(len(labels), 1))
    raw = raw.astype(np.float32)
    lengths = np.linalg.norm(raw, axis=1)
    given = Shots(
        (raw / lengths[:, None]).astype(np.float32), labels, c, lengths=lengths,
        texts=2 * rows(new, to_text, 0.1), head=head,
    )  # fmt: skip
    return given, raw


def test_the_papers_is_the_preset_in_two_stages_on_means_of_raw_rows():
    given, raw = problem()
    ours = PaperFewShot(epochs=6, seed=3).fit(given)
    means = np.stack([raw[given.labels == c].mean(axis=0) for c in range(8)])
    x = np.concatenate([given.head.x, normalize(means)])
    texts = normalize(given.texts)
    y = np.concatenate([normalize(given.head.y), texts])
    theirs = preset("paper-mlp", epochs=6, seed=3, sequential=True)
    rows = Pairs(x, y)
    theirs.fit_rows(rows.take(np.arange(60)), rows.take(np.arange(60, 68)))
    assert_close(ours.weight, theirs.project_y(texts), "float32", times=10)
    assert ours.facts == {"epoch": 12.0}
    assert_same(PaperFewShot(epochs=6, seed=3).fit(given).weight, ours.weight)
    assert_close(ours.scores(given.x), given.x @ ours.weight.T, "float32")


def test_classes_are_told_by_other_texts_than_the_shots_are_paired_with():
    given, _ = problem()
    prompts = given.texts + np.random.default_rng(5).normal(size=given.texts.shape) * 0.1
    plain = PaperFewShot(epochs=6, seed=3).fit(given)
    ours = PaperFewShot(epochs=6, seed=3).fit(replace(given, scored_texts=prompts))
    # The same training; only what goes through it at the end is another text.
    same = PaperFewShot(epochs=6, seed=3).fit(replace(given, scored_texts=given.texts))
    assert_same(same.weight, plain.weight)
    assert np.abs(ours.weight - plain.weight).max() > 1e-3
    with pytest.raises(PairsError, match=r"Texts are one row a class, 8; got shape \(3"):
        replace(given, scored_texts=prompts[:3])


def test_no_shots_are_the_first_stage_alone():
    given, _ = problem()
    empty = Shots(
        np.empty((0, 10), np.float32), np.empty(0, np.int64), 8, normalize(np.ones((8, 10))),
        texts=given.texts, head=given.head,
    )  # fmt: skip
    ours = PaperFewShot(epochs=6, seed=3).fit(empty)
    theirs = preset("paper-mlp", epochs=6, seed=3).fit(given.head.x, normalize(given.head.y))
    assert_close(ours.weight, theirs.project_y(normalize(given.texts)), "float32", times=10)
