from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from fitters import METHODS, Alignment, Pairs, SideTransform, fit
from fitters.aligners.ridge import RidgeAligner
from fitters.alignment import BLOCK_ROWS
from fitters.errors import SelectionError
from fitters.moments import merge_pooled, moments_of
from fitters.saved import fitted_arrays
from fitters.settings import FitConfig
from fitters.sources import prepare
from tests.assertions import assert_close, assert_same
from tests.oracles import centred, unit


def rng_of(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("given_mean", [True, False])
def test_final_fit_and_centring_by_hand(given_mean, make_world):
    head, real = make_world()
    other_images = real.x + 1
    mean = SideTransform.fit([other_images]).mean if given_mean else None
    alignment = fit(
        "ridge", prototypes=head, real=real, image_mean=mean, penalty=0.2, mix=2.5, rng=rng_of()
    )
    of = other_images if given_mean else real.x
    x = np.vstack([centred(head.x, head.x), centred(real.x, of)])
    y = np.vstack([centred(head.y, head.y), centred(real.y, head.y)])
    weight = np.repeat([2.5, 1.0], [head.n, real.n])
    expected = RidgeAligner(alpha=0.2, center=False).fit(x, y, weight)
    assert_close(alignment.aligner.coef_, expected.coef_)
    assert_close(alignment.project_x(real.x), centred(real.x, of), "float32")
    assert_close(
        alignment.project_y(real.y), unit(centred(real.y, head.y) @ expected.coef_), "float32"
    )
    assert alignment.facts["choice"] == {"penalty": 0.2, "mix": 2.5}
    assert alignment.facts["image_centre"] == ("given mean" if given_mean else "real images")


@pytest.mark.parametrize("method", ["ridge", "ridge-x2y", "procrustes"])
@pytest.mark.parametrize("n_classes", [4, 6, 40])
def test_few_rows_are_fitted_like_their_moments(method, n_classes, make_world):
    """Up to as many rows as columns of both sides, 13, no moments are made."""
    head, real = make_world(n_classes=n_classes, n_images=6, p=9, q=4)
    settings = {"mix": 0.7} if method == "procrustes" else {"mix": 0.7, "penalty": 0.3}
    made = fit(method, prototypes=head, real=real, **settings, rng=np.random.default_rng(0))
    sources = prepare(head, real, None)
    moments = merge_pooled(moments_of(sources.prototypes).scaled(0.7), moments_of(sources.real))
    by_moments = METHODS[method].make(FitConfig(method, penalty=0.3)).fit_moments(moments)
    for name in fitted_arrays(by_moments):
        assert_close(getattr(made.aligner, name), getattr(by_moments, name))


def test_without_prototypes_the_real_texts_centre_the_texts(make_world):
    _, real = make_world()
    weight = np.linspace(0.1, 1, real.n)
    weighted = Pairs(real.x, real.y, real.groups, weight)
    alignment = fit("ridge", real=weighted, penalty=1.0, rng=rng_of())
    assert_close(alignment.y.mean, np.average(unit(real.y), axis=0, weights=weight))
    assert_close(alignment.x.mean, np.average(unit(real.x), axis=0, weights=weight))
    assert alignment.facts["text_centre"] == "real texts"


def test_few_groups_make_few_folds_and_one_is_refused(make_world):
    head, real = make_world()
    alignment = fit("ridge", prototypes=head, real=real.take(np.arange(3)), rng=rng_of())
    assert alignment.facts["choice"]["n_folds"] == 3
    alike = Pairs(real.x[:3], real.y[:3], np.zeros(3))
    with pytest.raises(SelectionError, match="at least 2 groups, or a number for penalty"):
        fit("ridge", real=alike, rng=rng_of())
    with pytest.raises(SelectionError, match="or a number for mix"):
        fit("procrustes", prototypes=head, real=alike, rng=rng_of())
    fit("ridge", real=alike, penalty=1.0, rng=rng_of())


def test_the_texts_of_conse_are_centred_unless_asked_for_as_published(make_world):
    head, real = make_world(n_classes=20)
    head = Pairs(head.x, head.y + 2.0, head.groups)  # as texts are: all to one side
    ours, published, none = (
        fit("conse", prototypes=head, centre=centre, rng=rng_of()) for centre in (True, False, None)
    )
    assert_same(ours.project_x(real.x), none.project_x(real.x))
    assert none.facts["text_centre"] == "class texts"
    assert published.x.mean is published.y.mean is None
    assert not published.x.normalize
    shares = np.sort(softmax(real.x @ head.x.T, axis=1), axis=1)[:, -10:]
    order = np.argsort(-(real.x @ head.x.T), axis=1, kind="stable")[:, :10][:, ::-1]
    by_hand = np.einsum("nk,nkq->nq", shares, unit(head.y)[order])
    assert_close(published.project_x(real.x), unit(by_hand), "float32")


def test_projections_are_float32_units_and_do_not_depend_on_blocks(make_world):
    head, _ = make_world()
    alignment = fit("ridge", prototypes=head, penalty=0.1, rng=rng_of())
    rows = rng_of(5).standard_normal((BLOCK_ROWS + 5, 12)).astype(np.float32)
    projected = alignment.project_y(rows)
    assert projected.dtype == np.float32
    assert_close(np.linalg.norm(projected, axis=1), np.ones(len(rows)), "float32")
    # Products of other shapes add in another order: the last bit of float32.
    assert_close(projected[-5:], alignment.project_y(rows[-5:]), "float32")
    assert isinstance(alignment, Alignment)
