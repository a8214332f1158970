from dataclasses import replace

import numpy as np
import pytest
from sklearn.preprocessing import normalize

from fitters import Pairs, preset
from fitters.errors import PairsError
from fitters.few_shot.descent import PaperFewShot
from fitters.few_shot.learner import Shots
from tests.assertions import assert_close, assert_same


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
    own = np.repeat(np.arange(c), 30)
    test = normalize(rows(new[own], to_image, 1.0)), own
    given = Shots(
        (raw / lengths[:, None]).astype(np.float32), labels, c, lengths=lengths,
        texts=2 * rows(new, to_text, 0.1), head=head,
    )  # fmt: skip
    return given, raw, test


def test_it_is_the_preset_in_two_stages_on_means_of_raw_rows():
    given, raw, test = problem()
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
    assert ours.scores(test[0]).shape == (240, 8)


def test_classes_are_told_by_other_texts_than_the_shots_are_paired_with():
    given, *_ = problem()
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
    given, *_ = problem()
    empty = Shots(
        np.empty((0, 10), np.float32), np.empty(0, np.int64), 8, normalize(np.ones((8, 10))),
        texts=given.texts, head=given.head,
    )  # fmt: skip
    ours = PaperFewShot(epochs=6, seed=3).fit(empty)
    theirs = preset("paper-mlp", epochs=6, seed=3).fit(given.head.x, normalize(given.head.y))
    assert_close(ours.weight, theirs.project_y(normalize(given.texts)), "float32", times=10)
