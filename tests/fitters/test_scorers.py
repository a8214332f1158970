"""CSLS, inverted softmax and Sinkhorn, as projections, against their formulas."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array, issparse
from scipy.special import softmax

from fitters.errors import PairsError, SettingError, UnequalNamesWarning
from fitters.scorers import (
    SCORERS,
    csls,
    hub_corrected,
    inverted_softmax,
    labelled,
    scorer_named,
    sinkhorn,
)
from tests.assertions import assert_close, assert_same
from tests.oracles import unit


def scores_of(pair):
    product = pair[0] @ pair[1].T
    return product.toarray() if issparse(product) else product


def csls_by_hand(s, k):
    found = np.empty_like(s)
    for i, j in np.ndindex(*s.shape):
        of_x, of_y = sorted(s[i])[::-1][:k], sorted(s[:, j])[::-1][:k]
        found[i, j] = 2 * s[i, j] - np.mean(of_x) - np.mean(of_y)
    return found


def inverted_softmax_by_hand(s, temperature):
    return temperature * np.log(softmax(s / temperature, axis=0))


def sinkhorn_by_hand(s, rounds):
    """Rows and columns are normalised in turn."""
    mass = np.exp(20 * s)
    for _ in range(rounds):
        mass = mass / mass.sum(axis=1, keepdims=True) / len(s)
        mass = mass / mass.sum(axis=0) / len(s.T)
    return np.log(mass) / 20


FORMULAS = [
    (csls, csls_by_hand, {"k": st.integers(1, 12)}),
    (inverted_softmax, inverted_softmax_by_hand, {"temperature": st.sampled_from([0.02, 0.1, 1])}),
    (sinkhorn, sinkhorn_by_hand, {"rounds": st.integers(1, 5)}),
]


@pytest.mark.parametrize(("scorer", "by_hand", "options"), FORMULAS)
@given(data=st.data(), seed=st.integers(0, 2**16), sparse=st.booleans())
def test_a_scorer_is_its_formula(scorer, by_hand, options, data, seed, sparse):
    rng = np.random.default_rng(seed)
    x, y = unit(rng.standard_normal((7, 4))), unit(rng.standard_normal((9, 4)))
    settings = data.draw(st.fixed_dictionaries(options))
    made = csr_array if sparse else np.asarray
    found = scorer(made(x), made(y), **settings)
    assert issparse(found[0]) == sparse
    assert_close(scores_of(found), by_hand(x @ y.T, **settings))


def test_blocks_change_nothing(rng):
    x, y = unit(rng.standard_normal((20, 4))), unit(rng.standard_normal((15, 4)))
    for scorer in (csls, inverted_softmax, sinkhorn, hub_corrected):
        assert_close(scores_of(scorer(x, y, block_scores=40)), scores_of(scorer(x, y)))


def test_scorers_are_found_by_name(rng):
    x = unit(rng.standard_normal((3, 2)))
    assert_same(SCORERS["cosine"](x, x)[0], x)
    assert scorer_named("csls") is csls
    # Only what answers all queries together is called transductive.
    said = {name for name in SCORERS if labelled("image→name", name) != "image→name"}
    assert said == {"sinkhorn"}
    with pytest.raises(SettingError, match=r"Known scorers: cosine, csls, .*Did you mean 'csls'"):
        scorer_named("clss")
    with pytest.raises(PairsError, match="same alignment"):
        csls(x, x[:, :1])


def standardised(s, mean, sd):
    return (s - mean) / ((sd + sd.mean()) / 2)


@given(seed=st.integers(0, 2**16), sparse=st.booleans())
def test_the_hub_correction_is_its_formula(seed, sparse):
    """By other images, and by halves of the pictures: each half by the statistics of the other."""
    rng = np.random.default_rng(seed)
    x, y, others = (unit(rng.standard_normal((n, 4))) for n in (31, 9, 17))
    made = csr_array if sparse else np.asarray
    s, of_others = x @ y.T, others @ y.T
    found = hub_corrected(made(x), made(y), unlabelled=made(others))
    assert issparse(found[0]) == sparse
    assert_close(scores_of(found), standardised(s, of_others.mean(axis=0), of_others.std(axis=0)))
    by_halves = np.empty_like(s)
    first = np.zeros(31, bool)
    first[np.random.default_rng(seed).permutation(31)[:15]] = True
    for own in (first, ~first):
        by_halves[own] = standardised(s[own], s[~own].mean(axis=0), s[~own].std(axis=0))
    rng = np.random.default_rng(seed)
    assert_close(scores_of(hub_corrected(made(x), made(y), rng=rng)), by_halves)


def planted(rng, names, shares=None, *, n=1_200, noise=2.5, width=64):
    """Images of names, all near one direction that some names lean to: those are hubs."""
    y = unit(rng.standard_normal((names, width)))
    common = unit(rng.standard_normal((1, width)))
    labels = rng.choice(names, n, p=shares)
    x = y[labels] + noise / 8 * rng.standard_normal((n, width)) + 1.6 * common
    return unit(x), unit(y + 0.15 * rng.standard_normal((names, 1)) * common), labels


#: Sizes of the classes of HAM10000.
UNEQUAL = np.array([6705, 1113, 1099, 514, 327, 142, 115]) / 10_015


def right(pair, labels):
    return float(np.mean(scores_of(pair).argmax(axis=1) == labels))


@pytest.mark.parametrize("names", [2, 47, 500])
def test_halves_of_pictures_are_as_good_as_other_pictures(names):
    """Within a point, on average over draws; better than plain, and nothing is warned of."""
    gaps, gains = [], []
    for seed in range(6):
        x, y, labels = planted(np.random.default_rng([names, seed]), names)
        by_halves = right(hub_corrected(x[:600], y), labels[:600])
        by_others = right(hub_corrected(x[:600], y, unlabelled=x[600:]), labels[:600])
        gaps.append(by_halves - by_others)
        gains.append(by_halves - right((x[:600], y), labels[:600]))
    assert abs(np.mean(gaps)) < 0.01
    assert np.mean(gains) > 0


def test_unequal_names_are_warned_of_where_the_correction_does_harm():
    found = []
    for seed in range(4):
        x, y, labels = planted(np.random.default_rng(seed), 7, UNEQUAL, n=6_000)
        own, others, labels = x[:3_000], x[3_000:], labels[:3_000]
        with pytest.warns(UnequalNamesWarning, match="7 names are not equally often"):
            corrected = hub_corrected(own, y), hub_corrected(own, y, unlabelled=others)
        found.append([right(pair, labels) for pair in ((own, y), *corrected)])
    plainly, by_halves, by_others = np.mean(found, axis=0)
    assert plainly - by_halves > 0.1
    assert abs(by_halves - by_others) < 0.01


def test_too_few_pictures_correct_nothing(rng):
    x, y = unit(rng.standard_normal((19, 4))), unit(rng.standard_normal((5, 4)))
    with pytest.raises(PairsError, match=r"halves of twice as many; got 19\."):
        hub_corrected(x, y)
    with pytest.raises(PairsError, match=r"got 9\."):
        hub_corrected(x, y, unlabelled=x[:9])
    assert np.isfinite(scores_of(hub_corrected(np.ones((20, 4)), y))).all()
