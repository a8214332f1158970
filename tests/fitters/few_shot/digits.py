"""Few-shot problems of scikit-learn's digits, real rows that need no download."""

from dataclasses import replace

import numpy as np
from sklearn.datasets import load_digits
from sklearn.preprocessing import normalize

from fitters.few_shot.learner import Shots


def digits(shots, *, seed=0, n_validation=4):
    """Shots, validation and test rows of scikit-learn's digits, centred, unit rows."""
    x, labels = load_digits(return_X_y=True)
    rows = normalize(x - x.mean(axis=0)).astype(np.float32)
    order = np.random.default_rng(seed).permutation(len(rows))
    place = np.zeros(len(rows), dtype=int)
    for c in range(10):
        own = order[labels[order] == c]
        place[own] = np.arange(len(own))
    parts = (place < shots, (place >= shots) & (place < shots + n_validation), place >= 20)
    return [(rows[part], labels[part].astype(np.int64)) for part in parts]


def made(shots, *, prototypes=None, seed=0, validation=True):
    (x, labels), (vx, vl), test = digits(shots, seed=seed)
    return Shots(x, labels, 10, prototypes, *((vx, vl) if validation else (None, None))), test


def noisy_prototypes(seed=1, noise=0.1):
    x, labels = load_digits(return_X_y=True)
    rows = normalize(x - x.mean(axis=0))
    means = np.stack([rows[labels == c].mean(axis=0) for c in range(10)])
    drawn = np.random.default_rng(seed).normal(size=means.shape)
    return normalize(normalize(means) + noise * drawn).astype(np.float32)


def accuracy(classifier, test):
    return float((classifier.scores(test[0]).argmax(axis=1) == test[1]).mean())


def with_views(given, v=3, seed=2):
    """The same shots with v noisy views of each, as long as raw rows may be."""
    rng = np.random.default_rng(seed)
    n, r = given.x.shape
    views = given.x[:, None] + 0.05 * rng.normal(size=(n, v, r))
    views *= rng.uniform(2, 9, size=(n, v, 1))
    return replace(given, views=views.astype(np.float32))
