"""CSLS, inverted softmax and Sinkhorn, as projections, against their formulas."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array, issparse
from scipy.special import softmax

from fitters.errors import PairsError, SettingError
from fitters.scorers import SCORERS, csls, inverted_softmax, labelled, scorer_named, sinkhorn
from tests.assertions import assert_close, assert_same
from tests.oracles import unit


def scores_of(pair):
    product = pair[0] @ pair[1].T
    return product.toarray() if issparse(product) else product


@given(seed=st.integers(0, 2**16), k=st.integers(1, 12), sparse=st.booleans())
def test_csls_is_its_formula(seed, k, sparse):
    rng = np.random.default_rng(seed)
    x, y = unit(rng.standard_normal((7, 4))), unit(rng.standard_normal((9, 4)))
    s = x @ y.T
    by_hand = np.empty_like(s)
    for i, j in np.ndindex(*s.shape):
        of_x, of_y = sorted(s[i])[::-1][:k], sorted(s[:, j])[::-1][:k]
        by_hand[i, j] = 2 * s[i, j] - np.mean(of_x) - np.mean(of_y)
    given_ = (csr_array(x), csr_array(y)) if sparse else (x, y)
    corrected = csls(*given_, k=k)
    assert issparse(corrected[0]) == sparse
    assert_close(scores_of(corrected), by_hand)


@given(seed=st.integers(0, 2**16), temperature=st.sampled_from([0.02, 0.1, 1.0]))
def test_inverted_softmax_is_the_log_softmax_over_queries(seed, temperature):
    rng = np.random.default_rng(seed)
    x, y = unit(rng.standard_normal((7, 4))), unit(rng.standard_normal((5, 4)))
    expected = temperature * np.log(softmax(x @ y.T / temperature, axis=0))
    assert_close(scores_of(inverted_softmax(x, y, temperature=temperature)), expected)
    sparse = inverted_softmax(csr_array(x), csr_array(y), temperature=temperature)
    assert_close(scores_of(sparse), expected)


@given(seed=st.integers(0, 2**16), rounds=st.integers(1, 5), sparse=st.booleans())
def test_sinkhorn_is_normalising_rows_and_columns_in_turn(seed, rounds, sparse):
    rng = np.random.default_rng(seed)
    x, y = unit(rng.standard_normal((6, 4))), unit(rng.standard_normal((4, 4)))
    mass = np.exp(20 * (x @ y.T))
    for _ in range(rounds):
        for i in range(6):
            mass[i] = mass[i] / mass[i].sum() / 6
        for j in range(4):
            mass[:, j] = mass[:, j] / mass[:, j].sum() / 4
    given_ = (csr_array(x), csr_array(y)) if sparse else (x, y)
    found = sinkhorn(*given_, rounds=rounds)
    assert issparse(found[0]) == sparse
    assert_close(scores_of(found), np.log(mass) / 20)


def test_sinkhorn_spreads_the_queries_evenly(rng):
    x, y = unit(rng.standard_normal((30, 5))), unit(rng.standard_normal((12, 5)))
    mass = np.exp(20 * scores_of(sinkhorn(x, y, rounds=3000)))
    assert_close(mass.sum(axis=0), np.full(12, 1 / 12))
    np.testing.assert_allclose(mass.sum(axis=1), 1 / 30, rtol=1e-3)
    # The order of the gallery for one query is no longer that of its cosines alone.
    assert (mass.argmax(axis=1) != (x @ y.T).argmax(axis=1)).any()


def test_only_what_answers_all_queries_together_is_called_transductive():
    assert labelled("image→name", "sinkhorn") == "image→name (transductive)"
    for name in ("cosine", "csls", "inverted-softmax"):
        assert labelled("image→name", name) == "image→name"


def test_blocks_change_nothing(rng):
    x, y = unit(rng.standard_normal((20, 4))), unit(rng.standard_normal((15, 4)))
    for scorer in (csls, inverted_softmax, sinkhorn):
        assert_close(scores_of(scorer(x, y, block_scores=40)), scores_of(scorer(x, y)))


def test_scorers_are_found_by_name(rng):
    x = unit(rng.standard_normal((3, 2)))
    assert_same(SCORERS["cosine"](x, x)[0], x)
    assert scorer_named("csls") is csls
    with pytest.raises(SettingError, match=r"Known scorers: cosine, csls, .*Did you mean 'csls'"):
        scorer_named("clss")
    with pytest.raises(SettingError, match="its neighbours, must be an integer of at least 1"):
        csls(x, x, k=0)
    with pytest.raises(SettingError, match="from 1e-6 to 1e6"):
        inverted_softmax(x, x, temperature=0.0)
    with pytest.raises(PairsError, match="same alignment"):
        csls(x, x[:, :1])
