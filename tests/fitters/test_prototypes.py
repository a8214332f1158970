"""What a head's row is taken to say of its class: duplicates, patterns, the bias."""

from itertools import product

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import LinearRegression

from fitters import Pairs, RidgeAligner, fit
from fitters import prototypes as module
from fitters.errors import PairsError
from fitters.prototypes import HEAD_ROWS, adapted_prototypes, projected_prototypes
from fitters.sources import prepare
from tests.assertions import assert_close, assert_same
from tests.oracles import centred, unit

NAMES = np.array(["queen", "king", "queen", "pawn"])


@pytest.fixture
def head(rng):
    return Pairs(rng.standard_normal((4, 3)), rng.standard_normal((4, 2)), NAMES)


def test_the_bias_is_a_column_of_the_head_and_1_of_the_images(make_world, rng):
    head, real = make_world()
    bias = rng.standard_normal(head.n).astype(np.float32)
    wide = np.hstack([head.x, bias[:, None]]).astype(np.float64)
    images = np.hstack([real.x, np.ones((real.n, 1))]).astype(np.float64)
    mean = unit(images).mean(axis=0)
    alignment = fit("ridge", prepare(head, None, mean, bias_column=bias), penalty=0.5, rng=rng)
    expected = RidgeAligner(alpha=0.5, center=False)
    expected.fit(centred(wide, wide), centred(head.y, head.y))
    assert_close(alignment.aligner.coef_, expected.coef_)
    assert_close(alignment.project_x(real.x), unit(unit(images) - mean), "float32")


def test_a_mean_of_another_width_is_refused_before_anything_is_fitted(rng):
    pairs = Pairs(rng.standard_normal((9, 4)), rng.standard_normal((9, 3)))
    with pytest.raises(
        PairsError, match=r"shape \(4,\); it needs 5 values.* and then 1 for the bias"
    ):
        prepare(pairs, None, np.zeros(4), bias_column=np.zeros(9))
    with pytest.raises(PairsError, match=r"shape \(5,\); it needs 4 values\. Take"):
        prepare(pairs, None, np.zeros(5))
    assert prepare(pairs, None, np.zeros(5), bias_column=np.zeros(9)).prototypes is not None


def adapted_by_hand(rows, images, bias, kappa):
    """Each class by a loop over the images."""
    head = centred(rows, rows)
    moved = np.empty(rows.shape)
    for c in range(len(rows)):
        total, count = kappa * head[c], kappa
        for image, moved_image in zip(images, centred(images, images), strict=True):
            logits = np.array(
                [w @ image + b for w, b in zip(rows.astype(float), bias, strict=True)]
            )
            share = np.exp(logits[c]) / np.exp(logits).sum()
            total, count = total + share * moved_image, count + share
        moved[c] = total / count
    return unit(moved)


@pytest.mark.parametrize("kappa", [0.0, 1.0, 10.0])
def test_adapted_rows_are_those_of_a_loop(kappa, head, rng, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_IMAGES", 7)
    images, bias = rng.standard_normal((20, head.x.shape[1])), rng.standard_normal(head.n)
    found = adapted_prototypes(head, images, bias, kappa=kappa)
    assert_close(found.x, adapted_by_hand(head.x, images, bias, kappa))
    assert found.y is head.y
    assert found.groups is head.groups
    assert found.x.dtype == head.x.dtype
    # Images come in no order.
    assert_close(adapted_prototypes(head, images[::-1], bias, kappa=kappa).x, found.x)


#: Of ten images two are of no class of the head, and no image is of its third class.
OF_CLASS = np.array([0, 1, 3, 3, -1, 0, 1, 3, 0, -1])


def class_means(images):
    return unit(np.stack([images[c == OF_CLASS].mean(axis=0) for c in (0, 1, 3)]))


def test_rows_are_moved_by_the_mean_and_by_attention_as_the_authors_code_does(head, rng):
    images = rng.standard_normal((10, 3)) + 1
    moved = {name: HEAD_ROWS[name](head, images, OF_CLASS, np.zeros(4)) for name in HEAD_ROWS}
    assert_close(moved["mean"].x, unit(head.x - head.x.mean(axis=0) + unit(images).mean(axis=0)))
    means = class_means(images)
    assert_close(moved["attention"].x, unit(softmax(head.x @ means.T, axis=1) @ means))
    assert_close(moved["linear"].x, projected_prototypes(head, images, OF_CLASS).x)
    for pairs in moved.values():
        assert_same(pairs.y, head.y)


@pytest.mark.parametrize("dropout", [0.2, 0.6])
def test_the_linear_map_is_the_one_of_all_ways_to_drop_columns(head, rng, dropout):
    """Least squares over every mask of the columns, each weighted by its probability."""
    images = rng.standard_normal((10, 3))
    known = head.x[[0, 1, 3]]
    masks = np.array(list(product((0, 1), repeat=3)))
    shares = (dropout ** (1 - masks) * (1 - dropout) ** masks).prod(axis=1)
    rows = np.concatenate([known * mask / (1 - dropout) for mask in masks])
    goals = np.tile(class_means(images), (len(masks), 1))
    by_hand = LinearRegression().fit(rows, goals, np.repeat(shares, 3))
    found = projected_prototypes(head, images, OF_CLASS, dropout=dropout)
    assert_close(found.x, unit(by_hand.predict(head.x)))


def test_without_an_image_of_a_class_there_is_no_mean(head):
    for name in ("attention", "linear"):
        with pytest.raises(PairsError, match="labelled images of the head's own classes"):
            HEAD_ROWS[name](head, np.ones((2, 3)), np.array([-1, -1]), np.zeros(4))
