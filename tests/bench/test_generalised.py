"""Generalised zero-shot: by hand, and ICIS on a real classifier of scikit-learn's digits."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from bench.corpus import Items
from bench.errors import ProtocolError
from bench.tasks import Generalised, score_generalised
from fitters import Pairs, fit_alignment
from fitters.trained.presets import PRESETS
from fitters.training_fits import TrainingOptions


class Identity:
    def project_x(self, rows):
        return rows

    project_y = project_x


def items(classes, rows):
    classes = np.array(classes)
    return Items(classes, classes, np.asarray(rows, dtype=np.float32))


NAMES = items(["a", "b", "c"], np.eye(3))


def test_by_hand():
    # Seen: a 2 of 3, b 1 of 1; unseen: c 1 of 4.
    found = [0, 0, 1, 1, 2, 0, 0, 1]
    images = items(list("aaabcccc"), np.eye(3)[found])
    scored = score_generalised(Identity(), images, NAMES, np.array(["a", "b"]))
    assert scored.seen == pytest.approx((2 / 3 + 1) / 2)
    assert scored.unseen == 0.25
    assert scored.harmonic == pytest.approx(2 * (5 / 6) * 0.25 / (5 / 6 + 0.25))
    assert Generalised(0.0, 0.0).harmonic == 0.0
    for seen, kind in ((["a", "b", "c"], "seen"), ([], "unseen")):
        with pytest.raises(ProtocolError, match=f"are {kind}"):
            score_generalised(Identity(), images, NAMES, np.array(seen))


def test_icis_injects_classes_into_a_real_classifier(monkeypatch):
    """Texts are class means of half the pixels: what describes a class without being its row."""
    digits = load_digits()
    pixels = digits.data / 16
    pixels = pixels - pixels.mean(axis=0)
    numbers = np.arange(10)
    texts = np.array([pixels[digits.target == n][:40].mean(axis=0)[::2] for n in numbers])
    seen = np.setdiff1d(numbers, [3, 8])
    known = np.isin(digits.target, seen)
    head = LogisticRegression(C=0.1, max_iter=500).fit(pixels[known], digits.target[known])
    monkeypatch.setitem(PRESETS["icis"].settings, "width", 64)
    alignment = fit_alignment(
        "icis",
        prototypes=Pairs(head.coef_, texts[seen]),
        bias=head.intercept_,
        training=TrainingOptions(epochs=60, learning_rate=1e-3, batch_size=4),
        rng=np.random.default_rng(0),
    )
    assert alignment.x.homogeneous
    images = items([str(n) for n in digits.target], pixels)
    names = items([str(n) for n in numbers], texts)
    scored = score_generalised(alignment, images, names, np.array([str(n) for n in seen]))
    assert scored.seen > 0.6
    assert scored.unseen > 0.1  # chance among ten names
    assert 0 < scored.harmonic < max(scored.seen, scored.unseen)
